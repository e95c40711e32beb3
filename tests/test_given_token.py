"""Provider token: a token that was made elsewhere."""

from __future__ import annotations

import os
from typing import Any

import pytest

from conftest import Ask
from identities import PAT, TOKEN, TOKEN_FILE
from simulated_azure import FEED, Azure, jwt

ENTRA = "https://sts.windows.net/11111111-2222-3333-4444-555555555555/"
SECRET = "a Docker build's secret"
each_source = pytest.mark.parametrize("source", [TOKEN, TOKEN_FILE, SECRET])


def give(azure: Azure, source: str, token: str) -> dict[str, Any]:
    """Put a token somewhere; return the arguments of ask() for it."""
    path = azure.folder / source
    path.write_bytes(token.encode("latin-1"))
    if source == SECRET:
        return {"dials": {"SECRET_FILE": str(path)}}
    return {source: token if source == TOKEN else str(path)}


def assert_told(ask: Ask, reason: str, **given: Any) -> None:
    """Assert that a token is refused for the reason, and the next provider asked."""
    asked = ask(**given)
    assert reason in asked.failure
    assert "azure_cli: az is not on PATH" in asked.failure
    assert "s3cr" not in asked.log


@each_source
def test_a_token_that_the_feed_takes_is_the_password(
    azure: Azure, ask: Ask, source: str
) -> None:
    azure.takes(PAT)
    azure.az_signed_in()
    asked = ask(**give(azure, source, f" \t{PAT}\r\n"))
    assert asked.value == ["VssSessionToken", PAT]
    assert (asked.warnings, azure.az_runs) == ("", [])


def test_what_is_missing_or_empty_gives_way_to_what_comes_next(
    azure: Azure, ask: Ask
) -> None:
    azure.takes("first", "second", "third")
    secret = give(azure, SECRET, "third")
    with_byte_order_mark = give(azure, TOKEN_FILE, "\xef\xbb\xbffirst")
    variables = {TOKEN: "second", **with_byte_order_mark}
    assert ask(**secret, **variables).password == "first"
    for path in ("/nowhere", *give(azure, TOKEN_FILE, " \r\n").values()):
        asked = ask(**secret, **{**variables, TOKEN_FILE: path})
        assert asked.password == "second"
        assert f"file that {TOKEN_FILE} names is missing or empty" in asked.log
    assert ask(**secret, **{TOKEN: " \n", TOKEN_FILE: ""}).password == "third"


NOT_A_PERSONS = [
    jwt({"iss": ENTRA}),  # an application's
    jwt({"iss": ENTRA, "exp": "soon"}),
    jwt({"iss": "https://evil.example/", "scp": "x"}),
    jwt({"iss": "app.vstoken.visualstudio.com", "scp": "x"}),  # a pipeline's
    "a.b.c",
    "encrypted.for.Azure.to.read",
]


def test_what_is_not_a_persons_is_shown_to_the_feed_alone(
    azure: Azure, ask: Ask
) -> None:
    azure.takes(*NOT_A_PERSONS)
    for token in NOT_A_PERSONS:
        asked = ask(**{TOKEN: token})
        assert asked.password == token
        assert token not in asked.log
    assert {*azure.connects} == {FEED}


# --- What is wrong with it


NO_TOKENS = ["s3cr t", "s3cr\r\nt", "s3cr\x7ft", "s3cr\xe9t", "\xff\xfes3cr"]
EXPIRED = [jwt({"exp": 1}), jwt({"exp": 1, "iss": ENTRA, "scp": "x"})]


@each_source
def test_what_can_be_no_password_is_told(azure: Azure, ask: Ask, source: str) -> None:
    for token in NO_TOKENS:
        assert_told(ask, " holds no usable token", **give(azure, source, token))
    for token in EXPIRED:
        assert_told(ask, " has expired", **give(azure, source, token))
    assert {*azure.connects} == {FEED}


@pytest.mark.skipif(os.name == "nt", reason="Windows has other files")
def test_a_file_that_is_no_good_is_told_by_its_variable(azure: Azure, ask: Ask) -> None:
    """Not by its path: somebody may put a token there. What comes next is not asked."""
    path = azure.folder / "s3cret"
    given = {TOKEN_FILE: str(path), TOKEN: PAT}
    path.symlink_to("/dev/zero")
    assert_told(ask, f"token: {TOKEN_FILE} holds no usable token", **given)
    path.unlink()
    path.touch(0)
    if not os.access(path, os.R_OK):  # root may
        assert_told(ask, f"token: {TOKEN_FILE} cannot be read: Permission", **given)
    path.unlink()
    path.mkdir()
    assert_told(ask, f"token: {TOKEN_FILE} cannot be read: Is a directory", **given)
