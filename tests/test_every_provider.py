"""What all providers share; each way to sign in has an entry in identities.WAYS."""

from __future__ import annotations

import os
import re
from functools import partial
from http import HTTPStatus
from pathlib import Path
from unittest.mock import patch

import pytest
from keyring.util.platform_ import config_root

from conftest import Ask, Asked
from identities import (
    PAT,
    TOKEN,
    TOKEN_FILE,
    WAYS,
    Identity,
    Variables,
    app_service,
    azure_ml,
    managed_identity,
    token,
    token_file,
)
from simulated_azure import AUTHORITY, FEED, Answer, Azure, Handler
from simulated_faults import status

CHOICE = "ARTIFACTS_KEYRING_NOFUSS_PROVIDER"
NAMES = [*dict.fromkeys(way.provider for way in WAYS.values())]
each_way = pytest.mark.parametrize("identity", WAYS)
each_place = pytest.mark.parametrize("place", [CHOICE, "keyringrc.cfg"])


def everything(azure: Azure) -> Variables:
    """Let every provider sign in."""
    variables = {}
    for identity in WAYS:
        variables.update(identity(azure))
    return variables


def asked_providers(asked: Asked) -> list[str]:
    """Return the providers that were asked, in order."""
    steps = re.findall(r": [+-] (\w+): ", asked.log)
    return [*dict.fromkeys(name for name in steps if name in NAMES)]


def reason(asked: Asked, identity: Identity) -> str:
    """Return why a way to sign in has failed; assert that there is no password."""
    match = re.search(f" {WAYS[identity].provider}: (.*)", asked.failure)
    assert match
    return match[1]


def refuse(handler: Handler, code: int = 403) -> None:
    """Refuse whoever is signed in."""
    if "Authorization" in handler.headers:
        handler.answer(code, {"message": "No."})
    else:
        handler.answer_feed()


# --- Who is asked


@each_way
def test_who_signs_in_is_the_last_one_asked(
    azure: Azure, ask: Ask, identity: Identity
) -> None:
    """An application's token is the password, even if nobody can read it."""
    provider = WAYS[identity].provider
    for azure.encrypted in (False, True):
        asked = ask(**managed_identity(azure), **identity(azure))
        assert asked.value
        assert asked.value[0] == "VssSessionToken"
        assert asked.password in [*azure.bearers, *azure.passwords]
        assert asked.warnings == ""
        assert asked_providers(asked)[-1] == provider
    if provider in ("workload_identity", "managed_identity"):
        assert AUTHORITY not in azure.connects


def test_whoever_is_refused_the_next_one_is_asked(azure: Azure, ask: Ask) -> None:
    """But not the machine's identity where an application has one: a pod is no node."""
    azure.faults[FEED] = azure.faults[AUTHORITY] = [refuse] * 99
    variables = everything(azure)
    for unasked in ("managed_identity", "workload_identity"):
        asked = ask(**variables)
        assert asked.failure
        assert asked_providers(asked) == [name for name in NAMES if name != unasked]
        variables["AZURE_CLIENT_ID"] = ""


# --- What may go wrong with each


@each_way
def test_a_refusal_by_azure_devops_is_the_reason(
    azure: Azure, ask: Ask, identity: Identity
) -> None:
    variables = identity(azure)
    for code in (404, 500):
        azure.faults[FEED] = [Handler.answer_feed, *[status(code)] * 3]
        assert ask(**variables).value  # which says nothing of a password
    for code in (401, 403):
        refusals: list[Answer] = [partial(refuse, code=code)] * 9
        azure.faults[FEED] = azure.faults[AUTHORITY] = refusals
        told = reason(ask(**variables), identity)
        assert told.endswith(f" answered {code}: No.")


NONSENSE: list[object] = [b"", "<html>", b"[]", b"5", b"\xff\xfe", b"[" * 50_000, {}]
NO_TOKENS: list[object] = [None, 5, ["x"], "", "a b", "a\r\nb", "\u00fc", "x" * 33_000]
NONSENSE += [dict.fromkeys(["token", "access_token", "value"], no) for no in NO_TOKENS]
WRONG: list[tuple[Answer, str]] = [
    (partial(Handler.answer, status=200, content=content), "holds no usable token")
    for content in NONSENSE
]
WRONG += [
    (
        status(code, Location="/elsewhere"),
        f" answered {code}: {HTTPStatus(code).phrase}",
    )
    for code in (301, 302, 307, 308, 403, 503)
]


@pytest.mark.parametrize(
    ("identity", "service"),
    [(identity, service) for identity in WAYS for service in WAYS[identity].services],
)
def test_what_is_wrong_with_an_answer_is_the_reason(
    azure: Azure, ask: Ask, identity: Identity, service: str
) -> None:
    """No redirect is followed; who is overloaded is asked again."""
    variables = identity(azure)
    for answer, words in WRONG:
        azure.faults[service] = [answer] * 9
        assert reason(ask(**variables), identity).endswith(words)
    assert "elsewhere" not in f"{azure.requests}"
    azure.faults[service] = [status(503), status(429)]
    assert ask(**variables).value


# --- Variables

NEEDED = {
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "MSI_ENDPOINT",
    "MSI_SECRET",
}


@each_way
def test_half_of_the_variables_are_none(
    azure: Azure, ask: Ask, identity: Identity
) -> None:
    variables = identity(azure)
    for name in variables.keys() & NEEDED:
        assert ask(**managed_identity(azure), **variables | {name: " "}).value, name


SECRETS: dict[str, Identity] = {
    TOKEN: token,
    TOKEN_FILE: token_file,
    "AZURE_FEDERATED_TOKEN_FILE": Azure.pod,
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": Azure.github_job,
    "IDENTITY_HEADER": app_service,
    "MSI_SECRET": azure_ml,
}
UNFIT = ["s3cr t", "s3cr\r\nX: t", "s3cr\x7ft", "s3cr\u00e9t", "s3cr" * 11_000]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_fits_into_no_header_is_told_and_not_sent(
    azure: Azure, ask: Ask, name: str
) -> None:
    identity = SECRETS[name]
    path = azure.folder / "secret"
    for secret in UNFIT:
        path.write_text(secret, "utf-8")
        value = str(path) if "FILE" in name else secret
        asked = ask(**identity(azure) | {name: value})
        assert reason(asked, identity) == f"{name} holds no usable token"
        assert "s3cr" not in asked.log
    assert {*azure.connects} == {FEED}


@pytest.mark.skipif(os.name == "nt", reason="Windows has other files")
@pytest.mark.parametrize("name", [name for name in SECRETS if "FILE" in name])
@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("/dev/zero", "holds no usable token"),
        ("/", "cannot be read: Is a directory"),
    ],
)
def test_a_file_that_is_no_good_is_told_by_its_variable(
    azure: Azure, ask: Ask, name: str, target: str, problem: str
) -> None:
    """Not by its path: somebody may put a token there. What comes next is not asked."""
    path = azure.folder / "s3cret"
    path.symlink_to(target)
    identity = SECRETS[name]
    asked = ask(**identity(azure) | {name: str(path), TOKEN: PAT})
    assert reason(asked, identity) == f"{name} {problem}"
    assert "s3cr" not in asked.log


# --- The choice


def configure(azure: Azure, text: str) -> Path:
    """Write keyring's own configuration file."""
    with patch.dict(os.environ, azure.environment(), clear=True):
        path = Path(config_root(), "keyringrc.cfg")
    path.parent.mkdir(parents=True)
    path.write_text(text, "latin-1")
    return path


def choose(azure: Azure, place: str, name: str) -> Variables:
    """Name a provider; return the variables for it. The environment counts more."""
    configured = "nonsense" if place == CHOICE else name
    configure(azure, f"[artifacts_keyring_nofuss]\nprovider = {configured}\n")
    return {CHOICE: name} if place == CHOICE else {}


@each_place
@pytest.mark.parametrize("name", NAMES)
def test_a_provider_can_be_chosen(
    azure: Azure, ask: Ask, name: str, place: str
) -> None:
    variables = everything(azure) | choose(azure, place, name)
    assert ask(**variables).value
    azure.faults[FEED] = azure.faults[AUTHORITY] = [refuse] * 9
    asked = ask(**variables)
    assert asked.failure
    assert asked_providers(asked) == [name]


@each_place
@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("azure%cli", " or ".join(NAMES)),
        ("env_var", "token"),  # as 1.3.3 called it
        ("ado_auth_helper", "azure_cli"),
        ("azure_identity", "managed_identity"),
    ],
)
def test_a_name_that_is_no_providers_is_told_and_nobody_is_asked(
    azure: Azure, ask: Ask, place: str, name: str, ours: str
) -> None:
    warning = ask(**everything(azure), **choose(azure, place, name)).failure
    assert re.search(f"{place} names {name}, .*\n.*name {ours}\n", warning)
    assert (azure.connects, azure.az_runs) == ([FEED], [])


def test_a_configuration_in_the_working_directory_is_not_read(
    azure: Azure, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configure(azure, "[artifacts_keyring_nofuss]\nprovider = nonsense\n")
    path.parent.rename(azure.folder / "python_keyring")
    monkeypatch.chdir(azure.folder)
    assert ask(**everything(azure), XDG_CONFIG_HOME=".").value
