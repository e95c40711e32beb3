"""Step 4: whose token it is, and whether it is exchanged or tried as it is."""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from typing import Any

import pytest

from conftest import Ask
from identities import TOKEN, managed_identity
from simulated_azure import (
    AUTHORITY,
    INDEX_URL,
    READ,
    TENANT,
    UPLOAD_URL,
    WRITE,
    Answer,
    Azure,
    jwt,
)
from simulated_faults import NOT_MATERIALIZED, TF401444, VS403463, nonsense, status
from simulated_identity import iso

SCOPE = "ARTIFACTS_KEYRING_NOFUSS_SCOPE"
ENTRA = f"https://sts.windows.net/{TENANT}/"


def wishes(azure: Azure) -> list[dict[str, Any]]:
    """Return what was asked of the token service so far."""
    bodies = [request.body for request in azure.requests if request.host == AUTHORITY]
    return [*map(json.loads, bodies)]


# --- The session token


@pytest.mark.parametrize(
    ("url", "variable", "scope"),
    [
        (INDEX_URL, "", READ),
        (INDEX_URL, f" {WRITE}", WRITE),
        (UPLOAD_URL, "", WRITE),
        (UPLOAD_URL, READ, WRITE),
    ],
)
def test_a_persons_token_becomes_one_for_one_organization_and_one_use(
    azure: Azure, ask: Ask, url: str, variable: str, scope: str
) -> None:
    azure.az_signed_in()
    later = iso(time.time() + 4 * 3600)
    asked = ask(url, **{SCOPE: variable})
    assert asked.password
    assert azure.session_tokens[asked.password][:2] == ("contoso", [scope])
    (wish,) = wishes(azure)
    assert wish["displayName"] == "artifacts-keyring-nofuss"
    assert later <= wish["validTo"] <= iso(time.time() + 4 * 3600)


def test_a_scope_that_is_none_is_told_before_a_token_is_sent(
    azure: Azure, ask: Ask
) -> None:
    azure.az_signed_in()
    variables = {SCOPE: "vso.code"}
    assert f"azure_cli: {SCOPE} is vso.code, " in ask(**variables).failure
    assert ask(**variables, **managed_identity(azure)).password == azure.identity
    assert azure.scopes() == []


def test_a_service_that_refuses_the_wish_is_asked_without_it(
    azure: Azure, ask: Ask
) -> None:
    azure.az_signed_in()
    azure.refuses_valid_to = True
    assert ask().value
    azure.faults[AUTHORITY] = [status(400)] * 3
    assert "azure_cli: Azure DevOps answered 400: Bad Request\n" in ask().failure
    assert ["validTo" in wish for wish in wishes(azure)] == [True, False] * 2


# --- Whose token it is


DEEP = b64encode(b"[" * 20_000).decode()
PERSONAL: list[Any] = [
    {"iss": ENTRA, "scp": "user_impersonation"},
    {"iss": ENTRA, "scp": READ, "roles": ["x"]},
]
APPLICATIONS: list[Any] = [
    {"iss": ENTRA, "upn": "dev@contoso.com", "exp": "soon"},
    {"iss": f"https://login.microsoftonline.com/{TENANT}/v2.0"},
]
UNCERTAIN: list[Any] = [
    {"iss": "app.vstoken.visualstudio.com", "scp": READ},  # a pipeline's
    {"iss": f"https://sts.windows.net.evil.example/{TENANT}/"},
    {"iss": [ENTRA], "scp": READ},
    {"idtyp": "user", "scp": READ},
    *["opaque", "a.b", "a.!!!!.c", "a.bm9uc2Vuc2U.c", "a.W10.c", "a.e30.c.d.e"],
    f"a.{DEEP}.c",
]


@pytest.mark.parametrize(
    ("tokens", "exchanges"), [(PERSONAL, 2), (APPLICATIONS, 0), (UNCERTAIN, 1)]
)
def test_what_a_token_says_of_itself_tells_its_use(
    azure: Azure, ask: Ask, tokens: list[Any], exchanges: int
) -> None:
    """The token service refuses all of these, and the feed takes them.

    One of az that may be a person's is exchanged; one that is given, if it is surely.
    """
    for claims in tokens:
        token = claims if isinstance(claims, str) else jwt(claims)
        azure.az_signed_in(token)
        azure.takes(token)
        azure.requests.clear()
        for variables in ({}, {TOKEN: token, "PATH": ""}):
            assert ask(**variables).password == (token if exchanges < 2 else None)
        assert len(azure.scopes()) == exchanges, claims


@pytest.mark.parametrize("code", [400, 403, 404])
def test_what_cannot_be_read_is_exchanged_and_if_that_is_refused_tried(
    azure: Azure, ask: Ask, code: int
) -> None:
    azure.encrypted = True
    azure.az_signed_in()
    assert ask().password in azure.session_tokens
    token = azure.az_signed_in(azure.application_token())
    azure.faults[AUTHORITY] = [status(code)] * 2
    assert ask().password == token
    azure.is_member = False
    assert ": the feed answered 401: " in ask().failure


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (NOT_MATERIALIZED, "answered 403: Identity 7"),
        (TF401444, "answered 401: TF401444: "),
        (VS403463, "answered 403: VS403463: "),
        (status(302), "answered 302: "),
        (status(429), "answered 429: "),
        (status(503), "answered 503: "),
        (nonsense, "answer holds no usable token"),
    ],
)
def test_no_other_failure_of_an_exchange_makes_a_password_of_a_token(
    azure: Azure, ask: Ask, answer: Answer, words: str
) -> None:
    """Though the feed would take it, and whether it can be read or not."""
    for azure.encrypted in (False, True):
        azure.az_signed_in()
        azure.faults[AUTHORITY] = [answer] * 3
        assert words in ask().failure


BAD_CLAIMS = ["e30=; id", "$(id)", "--help", "e30`id`", "e30=\\nid", "A" * 2001]


@pytest.mark.parametrize("claims", ["e30=", *BAD_CLAIMS])
def test_a_revoked_sign_in_is_made_anew_with_what_azure_claims(
    azure: Azure, ask: Ask, claims: str
) -> None:
    azure.revoked_claims = claims
    for azure.encrypted in (False, True):
        azure.az_signed_in()
        warning = ask().failure
        assert "azure_cli: Azure DevOps has revoked the sign-in\n" in warning
        options = re.findall(" --claims-challenge .*", warning)
        assert options == [f" --claims-challenge {claims}"][: claims == "e30="]
