"""Provider token: a token that was made elsewhere."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from conftest import Ask, AskHere, Python
from identities import PAT, TOKEN, TOKEN_FILE
from simulated_azure import AUTHORITY, FEED, IMDS, INDEX_URL, UPLOAD_URL, Azure, jwt

SECRET = "the secret of a Docker build"
SOURCES = [TOKEN, TOKEN_FILE, SECRET]
TOO_LONG = b"s3cret" * 11_000


def give(azure: Azure, source: str, value: str) -> dict[str, Any]:
    """Give a process a token; return the arguments of ask() for it."""
    if source == TOKEN:
        return {TOKEN: value}
    path = path_of(azure, source)
    path.write_bytes(value.encode())
    return named(source, path)


def path_of(azure: Azure, source: str) -> Path:
    """Return a path for a token; one of its folders stands for /run/secrets."""
    folder = azure.folder / ("secrets" if source == SECRET else "tokens")
    folder.mkdir(exist_ok=True)
    return folder / TOKEN


def named(source: str, path: Path) -> dict[str, Any]:
    return {"dials": {"SECRET_FILE": str(path)}} if source == SECRET else {TOKEN_FILE: str(path)}


# --- Where it comes from


@pytest.mark.parametrize("source", SOURCES)
def test_a_token_is_the_password_and_costs_no_request(azure: Azure, ask: Ask, source: str) -> None:
    azure.az_signed_in()
    azure.identity = azure.application_token()
    outcome = ask(INDEX_URL, **give(azure, source, f" \t{PAT}\r\n"))
    assert outcome.value == ["VssSessionToken", PAT]
    assert outcome.stderr == ""
    assert (azure.connects, azure.requests, azure.az_runs) == ([], [], [])


def test_the_file_counts_before_the_variable_and_that_before_the_secret(
    azure: Azure, ask_here: AskHere
) -> None:
    secret = give(azure, SECRET, "third")
    file = give(azure, TOKEN_FILE, "first")
    values = [
        ask_here(INDEX_URL, **secret, **{TOKEN: "second"}, **file).value,
        ask_here(INDEX_URL, **secret, **{TOKEN: "second"}).value,
        ask_here(INDEX_URL, **secret, **{TOKEN: " ", TOKEN_FILE: ""}).value,
    ]
    assert [value and value[1] for value in values] == ["first", "second", "third"]


def test_a_file_may_begin_with_a_byte_order_mark(azure: Azure, ask_here: AskHere) -> None:
    assert ask_here(INDEX_URL, **give(azure, TOKEN_FILE, f"\ufeff{PAT}\r\n")).value


@pytest.mark.parametrize(
    ("life", "short_memory", "passwords"),
    [(None, 0, ["old", "new"]), (None, 60, ["old", "old"]), (3600, 0, ["old", "old"])],
)
def test_the_file_is_read_again_when_its_token_counts_no_longer(
    azure: Azure, python: Python, life: int | None, short_memory: float, passwords: list[str]
) -> None:
    exp = int(time.time()) + life if life else None
    tokens = {azure.application_token(exp=exp): "old", azure.application_token(exp=exp): "new"}
    old, new = tokens
    path = give(azure, TOKEN_FILE, old)[TOKEN_FILE]
    ask_it = f"show(ask({INDEX_URL!r})[1])"
    script = f"{ask_it}; open({path!r}, 'w').write({new!r}); {ask_it}"
    asked = python(script, dials={"SHORT_MEMORY": short_memory}, **{TOKEN_FILE: path})
    assert [tokens[value] for value in asked.values] == passwords


@pytest.mark.parametrize("name", [TOKEN, TOKEN_FILE])
def test_a_blank_variable_is_not_configured(azure: Azure, ask_here: AskHere, name: str) -> None:
    azure.az_signed_in()
    asked = ask_here(INDEX_URL, **{name: " \n"})
    assert asked.value
    assert "token: not configured" in asked.log


def test_what_is_not_configured_is_not_told(ask: Ask) -> None:
    steps = re.findall(r"^  (\w+): ", ask(INDEX_URL).stderr, re.MULTILINE)
    assert steps == ["azure_cli", "managed_identity"]


@pytest.mark.parametrize(
    "service",
    [
        "https://pypi.org/simple/",
        INDEX_URL.replace(FEED, f"{FEED}.example"),
        INDEX_URL.replace("https:", "http:"),
        "python-poetry-check",
    ],
)
def test_only_a_feed_is_offered_the_token(azure: Azure, ask_here: AskHere, service: str) -> None:
    assert ask_here(service, **{TOKEN: PAT}).value is None
    assert azure.connects == []


# --- What kind of token it is


PASSWORDS: dict[str, Callable[[Azure], str]] = {
    "an application's": Azure.application_token,
    "an application's of the second version": lambda azure: azure.application_token(
        iss="https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0", ver="2.0"
    ),
    "an application's of another tenant": lambda azure: azure.application_token(
        tid="aaaaaaaa-2222-3333-4444-555555555555"
    ),
    "an application's without a time": lambda azure: azure.application_token(exp="soon"),
    "a pipeline's": lambda _: jwt({"iss": "app.vstoken.visualstudio.com", "scp": "app_token"}),
    "a session token": lambda _: jwt(
        {"iss": "app.vstoken.visualstudio.com", "scp": "vso.packaging", "nameid": "x"}
    ),
    "somebody's who is not Entra": lambda azure: azure.entra_token(iss="https://evil.example/"),
    "unreadable": lambda _: "a.b.c",
}


@pytest.mark.parametrize("kind", PASSWORDS)
def test_what_is_not_a_persons_is_posted_nowhere(
    azure: Azure, ask_here: AskHere, kind: str
) -> None:
    token = PASSWORDS[kind](azure)
    asked = ask_here(INDEX_URL, **{TOKEN: token})
    assert asked.value == ["VssSessionToken", token]
    assert azure.connects == []
    assert token not in asked.log


def test_an_encrypted_token_is_posted_nowhere(azure: Azure, ask_here: AskHere) -> None:
    azure.encrypted = True
    token = azure.entra_token()
    assert ask_here(INDEX_URL, **{TOKEN: token}).value == ["VssSessionToken", token]
    assert azure.connects == []


@pytest.mark.parametrize(
    ("url", "scope"), [(INDEX_URL, "vso.packaging"), (UPLOAD_URL, "vso.packaging_write")]
)
def test_a_persons_token_is_exchanged_for_the_narrowest_scope(
    azure: Azure, ask_here: AskHere, url: str, scope: str
) -> None:
    bearer = azure.entra_token()
    asked = ask_here(url, **{TOKEN: bearer})
    assert asked.value
    assert azure.session_tokens[asked.value[1]].scopes == [scope]
    discovery, exchange = azure.requests
    assert (discovery.host, exchange.host) == (FEED, AUTHORITY)
    assert "authorization" not in discovery.headers
    assert exchange.headers["authorization"] == f"Bearer {bearer}"
    assert bearer not in asked.log


# --- What is wrong with it


def assert_next(azure: Azure, ask_here: AskHere, reason: str, secret: str, **given: Any) -> None:
    """Assert that the reason is told without the secret, and that the next provider is tried."""
    azure.identity = azure.application_token()
    asked = ask_here(INDEX_URL, **given)
    assert asked.value == ["VssSessionToken", azure.identity]
    assert f" token: {reason}" in asked.log
    assert secret not in asked.log
    assert secret not in "".join(map(str, azure.requests))
    assert ([r.host for r in azure.requests], asked.warnings) == ([FEED, IMDS], "")


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, "cannot be read: "),
    "empty": (Path.touch, "holds no usable token"),
    "blank": (lambda path: path.write_bytes(b" \r\n"), "holds no usable token"),
    "long": (lambda path: path.write_bytes(TOO_LONG), "holds no usable token"),
    "two lines": (lambda path: path.write_bytes(b"s3cret\ns3cret"), "holds no usable token"),
    "UTF-16": (lambda path: path.write_bytes("s3cret".encode("utf-16")), "holds no usable token"),
    "not ASCII": (lambda path: path.write_bytes(b"s3cret\xff"), "holds no usable token"),
}


@pytest.mark.parametrize("source", [TOKEN_FILE, SECRET])
@pytest.mark.parametrize("file", BAD_FILES)
def test_a_bad_file_is_told_and_the_next_provider_is_tried(
    azure: Azure, ask_here: AskHere, source: str, file: str
) -> None:
    make, reason = BAD_FILES[file]
    path = path_of(azure, source)
    make(path)
    told = str(path) if source == SECRET else TOKEN_FILE
    assert_next(azure, ask_here, f"{told} {reason}", "s3cret", **named(source, path))


@pytest.mark.parametrize(
    "token", ["s3cret s3cret", "s3cret\r\ns3cret", "s3cr\u00e9t", "s3cret\x7f"]
)
def test_a_bad_variable_is_told_and_the_next_provider_is_tried(
    azure: Azure, ask_here: AskHere, token: str
) -> None:
    assert_next(azure, ask_here, f"{TOKEN} holds no usable token", "s3cr", **{TOKEN: token})


def unreadable(folder: Path) -> Path:
    path = folder / "unreadable"
    path.touch(0o000)
    return path


as_root = sys.platform != "win32" and os.geteuid() == 0
on_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such file")
as_user = pytest.mark.skipif(os.name == "nt" or as_root, reason="the owner or root may read it")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        pytest.param(lambda folder: folder / "s3cret", "cannot be read: No such file", id="none"),
        pytest.param(
            lambda _: Path("/dev/zero"),
            "holds no usable token",
            id="endless",
            marks=on_posix,
        ),
        pytest.param(
            unreadable, "cannot be read: Permission denied", id="unreadable", marks=as_user
        ),
    ],
)
def test_a_bad_path_is_told_and_its_variable_is_named(
    azure: Azure, ask_here: AskHere, tmp_path: Path, path: Callable[[Path], Path], reason: str
) -> None:
    """The path itself is not told: somebody may put a token there."""
    given = {TOKEN_FILE: str(path(tmp_path)), TOKEN: PAT}
    assert_next(azure, ask_here, f"{TOKEN_FILE} {reason}", "s3cret", **given)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("issue", [Azure.entra_token, Azure.application_token])
def test_an_expired_token_is_told_and_the_next_provider_is_tried(
    azure: Azure, ask_here: AskHere, source: str, issue: Callable[..., str]
) -> None:
    token = issue(azure, exp=int(time.time()) - 1)
    told = {SECRET: str(path_of(azure, SECRET))}.get(source, source)
    reason = f"the token in {told} has expired"
    assert_next(azure, ask_here, reason, token, **give(azure, source, token))


def test_a_pipelines_token_expires_too(azure: Azure, ask_here: AskHere) -> None:
    token = jwt({"iss": "app.vstoken.visualstudio.com", "exp": int(time.time()) - 1})
    assert_next(azure, ask_here, f"the token in {TOKEN} has expired", token, **{TOKEN: token})


def test_a_persons_token_that_is_refused_is_told_and_the_next_provider_is_tried(
    azure: Azure, ask_here: AskHere
) -> None:
    azure.identity = azure.application_token()
    bearer = azure.entra_token(aud="https://graph.microsoft.com")
    asked = ask_here(INDEX_URL, **{TOKEN: bearer})
    assert asked.value == ["VssSessionToken", azure.identity]
    assert " token, session token: Azure DevOps answered 401: TF400813" in asked.log
    assert bearer not in asked.log


# --- Where it is the only way


def test_an_organization_without_a_tenant_takes_a_personal_access_token(
    azure: Azure, ask_here: AskHere
) -> None:
    azure.challenge = {
        "WWW-Authenticate": "Bearer",
        "X-VSS-ResourceTenant": "00000000-0000-0000-0000-000000000000",
    }
    page = "https://dev.azure.com/contoso/_usersSettings/tokens"
    asked = ask_here(INDEX_URL)
    assert asked.value is None
    assert f"    set {TOKEN} to a personal access token, made at {page}" in asked.warnings
    assert ask_here(INDEX_URL, **{TOKEN: PAT}).value == ["VssSessionToken", PAT]
