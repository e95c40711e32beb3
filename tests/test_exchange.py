"""Step 4: the exchange of the bearer for a session token."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

import artifacts_keyring_nofuss as module
from conftest import Ask, Python
from simulated_azure import AUTHORITY, INDEX_URL, UPLOAD_URL, Azure, jwt

TOKEN_PATH = "/contoso/_apis/Token/SessionTokens?api-version=5.0-preview.1"


def test_a_bearer_becomes_a_token_that_only_reads(azure: Azure, ask: Ask) -> None:
    bearer = azure.az_signed_in()
    _, password = ask(INDEX_URL).value
    assert azure.session_tokens[password] == ("contoso", ["vso.packaging"])
    assert azure.asked(AUTHORITY) == [f"POST {TOKEN_PATH}"]
    (request,) = [request for request in azure.requests if request.host == AUTHORITY]
    assert request.headers["authorization"] == f"Bearer {bearer}"
    assert request.headers["accept"] == "application/json"
    assert "tokenType" not in request.path + request.body.decode()


def test_an_upload_gets_a_token_that_also_writes(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    _, password = ask(UPLOAD_URL).value
    assert azure.session_tokens[password] == ("contoso", ["vso.packaging_write"])


@pytest.mark.parametrize(
    ("claims", "application"),
    [
        ({"idtyp": "app"}, True),
        ({"idtyp": "app", "scp": "x"}, True),
        ({"idtyp": "user", "roles": []}, False),
        ({"roles": ["x"]}, True),
        ({"roles": ["x"], "upn": "x"}, True),
        ({"roles": ["x"], "scp": "x"}, False),
        ({"scp": "x"}, False),
        ({"upn": "x"}, False),
        ({}, False),
        ({"idtyp": ["app"]}, False),
        ({"idtyp": {}}, False),
    ],
)
def test_claims_tell_applications_from_people(claims: dict[str, Any], application: bool) -> None:
    assert module.is_application(module.read_claims(jwt(claims))) is application


@pytest.mark.parametrize(
    "token",
    [
        "opaque",
        "",
        ".",
        "a.b",
        "a.b.c",
        "..",
        "a.!!!!.c",
        "a.bm9uc2Vuc2U.c",
        "a.W10.c",
        "a." + "W1" * 9,
    ],
)
def test_an_opaque_token_has_no_claims(token: str) -> None:
    assert module.read_claims(token) == {}


def test_deep_claims_are_no_claims() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    assert module.read_claims(f"a.{deep}.c") == {}


def test_the_token_of_a_service_principal_is_itself_the_password(azure: Azure, ask: Ask) -> None:
    token = azure.az_signed_in(azure.application_token())
    assert ask(INDEX_URL).value == ["VssSessionToken", token]
    assert azure.asked(AUTHORITY) == []


def test_an_opaque_token_is_exchanged(azure: Azure, ask: Ask) -> None:
    azure.bearers["opaque"] = {}
    azure.az_signed_in("opaque")
    _, password = ask(INDEX_URL).value
    assert password in azure.session_tokens


def test_an_account_that_is_new_to_the_organization_is_told_where_to_go(
    azure: Azure, ask: Ask
) -> None:
    azure.az_signed_in()
    refusal = {"message": "TF401444: Please sign-in at least once as a\\b\\c in a web browser."}
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(401, refusal)]
    stderr = ask(INDEX_URL).stderr
    assert "TF401444" in stderr
    assert "sign in once at https://dev.azure.com/contoso with a browser" in stderr


def test_a_legacy_organization_has_a_legacy_home(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(401, "TF401444")]
    stderr = ask("contoso.pkgs.visualstudio.com").stderr
    assert "sign in once at https://contoso.visualstudio.com with a browser" in stderr


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(azure: Azure, ask: Ask, status: int) -> None:
    azure.az_signed_in()
    away = {"Location": f"https://{AUTHORITY}/elsewhere"}
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(status, "<html>", {**away})]
    stderr = ask(INDEX_URL).stderr
    assert f"Azure DevOps answered {status}, to a sign-in page" in stderr
    assert len(azure.asked(AUTHORITY)) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_told_in_the_words_of_azure_but_without_the_token(
    azure: Azure, ask: Ask, status: int
) -> None:
    azure.bearers["short-secret"] = {}
    azure.az_signed_in("short-secret")
    azure.faults[AUTHORITY] = [
        lambda handler: handler.answer(
            status, {"message": handler.headers["Authorization"] + "\n!"}
        )
    ]
    outcome = ask(INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert (
        f"Azure DevOps refused the token: answered {status}: Bearer [removed] !" in outcome.stderr
    )
    assert "short-secret" not in outcome.stderr
    assert len(azure.asked(AUTHORITY)) == 1


def test_a_scope_that_echoes_the_tokens_is_not_shown(azure: Azure, ask: Ask) -> None:
    azure.bearers["short-secret"] = {}
    azure.az_signed_in("short-secret")
    granted = {"token": "short-token", "scope": "read short-secret short-token"}
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(200, granted)]
    outcome = ask(INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert outcome.value == ["VssSessionToken", "short-token"]
    assert "session token: scope read [removed] [removed], expires" in outcome.stderr


def test_trouble_of_azure_devops_is_not_blamed_on_the_account(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(503, {"message": "busy"})] * 3
    outcome = python(f"module.RETRY_PAUSE = 0.01; show(ask({INDEX_URL!r}))")
    assert "Azure DevOps has trouble: answered 503: busy; try again later" in outcome.stderr


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
    azure: Azure, ask: Ask, answer: object
) -> None:
    azure.az_signed_in()
    azure.faults[AUTHORITY] = [lambda handler: handler.answer(200, answer)]
    outcome = ask(INDEX_URL)
    assert outcome.value is None
    assert "azure_cli, session token: the answer " in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-01T01:00:00Z", 1767229200.0),
        ("2026-01-01T01:00:00.1234567Z", 1767229200.0),
        ("2026-01-01T01:00:00+00:00", 1767229200.0),
        ("2026-01-01T01:00:00", 0.0),
        ("2026-01-01T01:00:00+02:00", 0.0),
        ("2026-13-01T01:00:00Z", 0.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("9999-12-31T23:59:59.9999999Z", 9999999999.0),
        ("----------------:::Z", 0.0),
        ("", 0.0),
        (None, 0.0),
        (5, 0.0),
    ],
)
def test_times_of_azure_devops(text: object, seconds: float) -> None:
    assert module.iso_time(text) == seconds


@pytest.mark.parametrize("valid_to", [None, "soon", "2026-01-01T01:00:00"])
def test_without_a_usable_time_the_token_tells_its_expiry(
    azure: Azure, python: Python, valid_to: str | None
) -> None:
    azure.az_signed_in()
    token = jwt({"exp": int(time.time() + 3600)})
    azure.faults[AUTHORITY] = [
        lambda handler: handler.answer(200, {"token": token, "validTo": valid_to})
    ]
    assert python(f"show([ask({INDEX_URL!r}) == ask({INDEX_URL!r})])").value == [True]
    assert json.loads(azure.requests[-1].body)["scope"] == "vso.packaging"
    assert len(azure.asked(AUTHORITY)) == 1
