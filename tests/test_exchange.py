"""Step 4: the exchange of the bearer for a session token."""

from __future__ import annotations

import json
import time
from calendar import timegm
from typing import Any

import pytest

from conftest import Ask, AskHere
from simulated_azure import AUTHORITY, INDEX_URL, TENANT, UPLOAD_URL, Azure, jwt

TOKEN_PATH = "/_apis/Token/SessionTokens?tokenType=SelfDescribing&api-version=5.0-preview.1"
LOGIN = f"az login --tenant {TENANT} --scope 499b84ac-1321-427f-aa17-267ca6975798/.default"
LOGIN += " --allow-no-subscriptions"


def wishes(azure: Azure) -> list[dict[str, Any]]:
    """Return what was asked of the token service so far."""
    return [json.loads(request.body) for request in azure.requests if request.host == AUTHORITY]


@pytest.mark.parametrize(
    ("url", "scope"), [(INDEX_URL, "vso.packaging"), (UPLOAD_URL, "vso.packaging_write")]
)
def test_a_bearer_becomes_a_token_for_one_organization_and_one_use(
    azure: Azure, ask: Ask, url: str, scope: str
) -> None:
    bearer = azure.az_signed_in()
    _, password = ask(url).value
    assert azure.session_tokens[password][:2] == ("contoso", [scope])
    assert azure.asked(AUTHORITY) == [f"POST /contoso{TOKEN_PATH}"]
    (request,) = [request for request in azure.requests if request.host == AUTHORITY]
    assert request.headers["authorization"] == f"Bearer {bearer}"
    assert request.headers["accept"] == "application/json"
    (wish,) = wishes(azure)
    assert (wish["scope"], wish["displayName"]) == (scope, "artifacts-keyring-nofuss")


# --- How long it lives


@pytest.mark.parametrize("hours", [-5, 0, 5])
def test_four_hours_are_asked_for_by_the_clock_of_the_service(
    azure: Azure, ask_here: AskHere, hours: int
) -> None:
    azure.skew = hours * 3600
    azure.az_signed_in()
    before = azure.now()
    assert ask_here(INDEX_URL).value
    (wish,) = wishes(azure)
    valid_to = timegm(time.strptime(wish["validTo"], "%Y-%m-%dT%H:%M:%SZ"))
    assert before - 2 <= valid_to - 4 * 3600 <= azure.now()


def test_a_service_that_refuses_the_wish_is_asked_without_it(
    azure: Azure, ask_here: AskHere
) -> None:
    azure.az_signed_in()
    azure.refuses_valid_to = True
    outcome = ask_here(INDEX_URL)
    assert outcome.value
    assert outcome.value[1] in azure.session_tokens
    assert ["validTo" in wish for wish in wishes(azure)] == [True, False]


def test_a_service_that_refuses_everything_is_asked_twice(azure: Azure, ask_here: AskHere) -> None:
    azure.az_signed_in()
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(400, {"message": "no"})] * 3
    outcome = ask_here(INDEX_URL)
    assert "azure_cli, session token: Azure DevOps answered 400: no" in outcome.warnings
    assert len(azure.asked(AUTHORITY)) == 2


@pytest.mark.parametrize(
    ("lifetime", "refuses", "minutes"),
    [(1800, False, 30), (86400, False, 240), (1800, True, 30), (86400, True, 1440)],
)
def test_the_lifetime_that_was_granted_counts(
    azure: Azure, ask_here: AskHere, lifetime: float, refuses: bool, minutes: int
) -> None:
    azure.az_signed_in()
    azure.lifetime, azure.refuses_valid_to = lifetime, refuses
    granted = f"session token: scope vso.packaging, expires in {minutes} min"
    assert granted in ask_here(INDEX_URL).log


@pytest.mark.parametrize(
    "valid_to",
    [
        None,
        "soon",
        5,
        "2026-01-01T01:00:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.9999999Z",
    ],
)
def test_without_a_usable_time_the_token_tells_its_expiry(
    azure: Azure, ask_here: AskHere, valid_to: object
) -> None:
    azure.az_signed_in()
    token = jwt({"exp": int(azure.now() + 1800)})
    azure.faults[AUTHORITY] = [
        lambda handler: handler.answer(200, {"token": token, "validTo": valid_to})
    ]
    outcome = ask_here(INDEX_URL)
    assert outcome.value == ["VssSessionToken", token]
    assert "expires in 30 min" in outcome.log


# --- Refusals


def refused(azure: Azure, ask_here: AskHere, status: int, message: str = "no") -> str:
    """Return the warning after a refusal of the token that az has; assert that it is not used."""
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(status, {"message": message})] * 3
    outcome = ask_here(INDEX_URL)
    assert outcome.value is None
    return outcome.warnings


@pytest.mark.parametrize(
    ("status", "requests", "remedy"),
    [
        (302, 1, "ask your administrator: a policy forbids this sign-in"),
        (307, 1, "ask your administrator: a policy forbids this sign-in"),
        (401, 1, "check that this account is a member of contoso"),
        (403, 1, "sign in at https://dev.azure.com/contoso first"),
        (404, 1, ""),
        (429, 3, "try again later"),
        (500, 3, "try again later"),
        (503, 3, "try again later"),
    ],
)
def test_a_person_who_is_refused_is_told_what_to_do(
    azure: Azure, ask_here: AskHere, status: int, requests: int, remedy: str
) -> None:
    azure.az_signed_in()
    told = refused(azure, ask_here, status).splitlines()
    assert told[1] == f"  azure_cli, session token: Azure DevOps answered {status}: no"
    assert told[2].startswith(f"    {remedy}" if remedy else "  managed_identity: ")
    assert len(azure.asked(AUTHORITY)) == requests


def test_a_policy_of_the_organization_is_told(azure: Azure, ask_here: AskHere) -> None:
    azure.az_signed_in()
    told = refused(azure, ask_here, 401, "VS403463: The conditional access policy has failed.")
    assert told.splitlines()[2] == "    ask your administrator: a policy forbids this sign-in"


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_cannot_be_read_may_be_an_applications(
    azure: Azure, ask_here: AskHere, status: int
) -> None:
    azure.application_refusal = status
    azure.encrypted = True
    token = azure.az_signed_in(azure.application_token())
    outcome = ask_here(INDEX_URL)
    assert outcome.value == ["VssSessionToken", token]
    assert len(azure.asked(AUTHORITY)) == 1


@pytest.mark.parametrize("status", [302, 400, 404, 503])
def test_only_an_exchange_that_is_not_allowed_tells_of_an_application(
    azure: Azure, ask_here: AskHere, status: int
) -> None:
    azure.encrypted = True
    azure.az_signed_in()
    assert f"Azure DevOps answered {status}: no" in refused(azure, ask_here, status)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("start", ["", "Not authorized. "])
def test_an_account_that_is_new_to_the_organization_is_told_where_to_go(
    azure: Azure, ask_here: AskHere, start: str, encrypted: bool
) -> None:
    azure.encrypted = encrypted
    azure.az_signed_in()
    told = refused(azure, ask_here, 401, start + "TF401444: Please sign-in once as a\\b\\c.")
    remedy = told.splitlines()[2]
    assert "TF401444" in told
    assert "sign in once at https://dev.azure.com/contoso, " in remedy
    assert "administrator" in remedy or not encrypted  # it may be an application's


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize(
    ("claims", "advice"),
    [
        ("eyJhY2Nlc3NfdG9rZW4iOnt9fQ==", " --claims-challenge eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="),
        ("e30=; id", ""),
        ("$(id)", ""),
        ("--help", ""),
        ("e30`id`", ""),
        ("e30=\\nid", ""),
    ],
)
def test_a_revoked_sign_in_is_made_anew_with_what_azure_claims(
    azure: Azure, ask_here: AskHere, claims: str, advice: str, encrypted: bool
) -> None:
    azure.encrypted = encrypted
    azure.az_signed_in()
    azure.revoked_claims = claims
    outcome = ask_here(INDEX_URL)
    assert outcome.value is None
    _, reason, remedy, *_ = outcome.warnings.splitlines()
    assert "revoked" in reason
    assert "az logout" in remedy
    assert remedy.endswith(f" {LOGIN}{advice}")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(azure: Azure, ask_here: AskHere, status: int) -> None:
    azure.az_signed_in()
    away = {"Location": f"https://{AUTHORITY}/elsewhere"}
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(status, "<html>", {**away})]
    assert ask_here(INDEX_URL).value is None
    assert len(azure.asked(AUTHORITY)) == 1


# --- What may not be shown, and answers that are none


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_told_in_the_words_of_azure_but_without_the_token(
    azure: Azure, ask_here: AskHere, status: int
) -> None:
    azure.bearers["short-secret"] = {"scp": "user_impersonation"}
    azure.az_signed_in("short-secret")
    azure.faults[AUTHORITY] = [
        lambda handler: handler.answer(
            status, {"message": handler.headers["Authorization"] + "\n!"}
        )
    ] * 2
    outcome = ask_here(INDEX_URL)
    assert f"Azure DevOps answered {status}: Bearer [removed] !" in outcome.log
    assert "short-secret" not in outcome.log


def test_a_scope_that_echoes_the_tokens_is_not_shown(azure: Azure, ask_here: AskHere) -> None:
    azure.bearers["short-secret"] = {"scp": "user_impersonation"}
    azure.az_signed_in("short-secret")
    granted = {"token": "short-token", "scope": "read short-secret short-token"}
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(200, granted)]
    outcome = ask_here(INDEX_URL)
    assert outcome.value == ["VssSessionToken", "short-token"]
    assert "session token: scope read [removed] [removed], expires" in outcome.log


BAD_ANSWERS: list[object] = [
    b"",
    "<html>sign in</html>",
    b"\xff\xfe",
    b"[]",
    b"5",
    b"[" * 50_000,
    {},
    {"token": None},
    {"token": ""},
    {"token": 5},
    {"token": "a\r\nb"},
    {"token": "a b"},
    {"token": "\u00fc"},
]


@pytest.mark.parametrize("answer", BAD_ANSWERS, ids=range(len(BAD_ANSWERS)))
def test_an_answer_of_another_shape_is_a_clear_failure(
    azure: Azure, ask_here: AskHere, answer: object
) -> None:
    azure.az_signed_in()
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(200, answer)]
    outcome = ask_here(INDEX_URL)
    assert outcome.value is None
    assert "azure_cli, session token: the answer " in outcome.warnings
