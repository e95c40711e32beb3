"""Provider workload_identity: an application signs in to Entra with what proves it."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import pytest

from conftest import Ask, Asked
from identities import Identity, managed_identity
from simulated_azure import (
    AUTHORITY,
    CLIENT_ID,
    ENTRA,
    FEED,
    GITHUB,
    GITHUB_SUBJECT,
    IMDS,
    TENANT,
    Azure,
    Federated,
    Handler,
)
from simulated_faults import echo

CLIENT, SECRET = "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"
FILE, AUDIENCE = "AZURE_FEDERATED_TOKEN_FILE", "AZURE_FEDERATED_TOKEN_AUDIENCE"
URL, REQUEST = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
OTHER = TENANT.replace("1", "9")
FLOWS = [Azure.pod, Azure.github_job, Azure.client_secret]
each_flow = pytest.mark.parametrize("flow", FLOWS)


def form(azure: Azure) -> dict[str, str]:
    """Return what Entra was sent last."""
    *_, body = (request.body for request in azure.requests if request.host == ENTRA)
    return dict(parse_qsl(body.decode()))


def assert_told(asked: Asked, reason: str) -> None:
    """Assert that a sign-in has failed for the reason, and the next one was asked."""
    assert asked.value is None
    assert f"workload_identity: {reason}" in asked.warnings
    assert "azure_cli: az is not on PATH" in asked.warnings
    assert "s3cr" not in asked.log


# --- The flows


@each_flow
def test_the_applications_token_is_the_password_whatever_it_claims(
    azure: Azure, ask: Ask, flow: Identity
) -> None:
    """The tenant is the feed's, and there is one Entra."""
    elsewhere = {
        "AZURE_TENANT_ID": OTHER,
        "AZURE_AUTHORITY_HOST": "https://evil.example",
    }
    variables = {**flow(azure), **elsewhere}
    asked = ask(**variables)
    assert asked.password
    assert azure.bearers[asked.password]["appid"] == CLIENT_ID
    for azure.encrypted in (False, True):
        token = azure.application_token(scp="user_impersonation")
        answer = partial(Handler.answer, status=200, content={"access_token": token})
        azure.faults[ENTRA] = [answer]
        assert ask(**variables).password == token
    assert azure.asked(AUTHORITY) == []


@pytest.mark.parametrize("flow", FLOWS[:2])
def test_each_sign_in_has_a_fresh_assertion(
    azure: Azure, ask: Ask, flow: Identity
) -> None:
    assertions = set()
    for _ in range(3):
        assert ask(**flow(azure)).value
        assertions.add(form(azure)["client_assertion"])
    assert len(assertions) == 3


def test_the_audience_can_be_another(azure: Azure, ask: Ask) -> None:
    variables = azure.github_job()
    issuer, *_ = azure.clients[CLIENT_ID].federated.pop()
    federated = Federated(issuer, GITHUB_SUBJECT, "api://a&b")
    azure.clients[CLIENT_ID].federated.append(federated)
    assert ask(**variables, **{AUDIENCE: "api://a&b"}).value


def test_a_request_url_without_a_query_gets_one(azure: Azure, ask: Ask) -> None:
    ask(**{**azure.github_job(), URL: f"https://{GITHUB}/x"})
    assert azure.asked(GITHUB) == ["GET /x?audience=api%3A%2F%2FAzureADTokenExchange"]


def test_a_secret_is_sent_as_it_is(azure: Azure, ask: Ask) -> None:
    variables = azure.client_secret()
    azure.clients[CLIENT_ID].secret = secret = "a&b=c+d%41 \u00e9"
    assert ask(**{**variables, SECRET: f"{secret}\n"}).value


def test_the_secret_counts_before_the_file_and_that_before_github(
    azure: Azure, ask: Ask
) -> None:
    variables = {**azure.github_job(), **azure.pod()}
    assert ask(**variables).value
    assert "client_assertion" in form(azure)
    assert ask(**variables, **{SECRET: "s3cret"}).value is None
    assert form(azure)["client_secret"] == "s3cret"
    assert GITHUB not in azure.connects


# --- Where it applies


@pytest.mark.parametrize(
    ("flow", "missing"),
    [
        (Azure.pod, FILE),
        (Azure.github_job, URL),
        (Azure.client_secret, SECRET),
        *((flow, CLIENT) for flow in FLOWS),
    ],
)
def test_half_of_the_variables_are_none(
    azure: Azure, ask: Ask, flow: Identity, missing: str
) -> None:
    asked = ask(**managed_identity(azure), **{**flow(azure), missing: " "})
    assert asked.password == azure.identity
    assert "workload_identity: not configured" in asked.log


@each_flow
def test_where_it_fails_the_machines_identity_is_not_asked(
    azure: Azure, ask: Ask, flow: Identity
) -> None:
    """A pod must not become its node. az is asked: a person chose its account."""
    variables = {**managed_identity(azure), **flow(azure)}
    azure.clients.clear()
    assert_told(ask(**variables), "Entra answered 400: AADSTS700016: ")
    azure.az_signed_in()
    assert ask(**variables).value
    assert azure.asked(IMDS) == []


def test_a_github_job_that_may_not_ask_for_an_id_token_is_told(
    azure: Azure, ask: Ask
) -> None:
    variables = {CLIENT: CLIENT_ID, "GITHUB_ACTIONS": "true"}
    assert_told(ask(**variables), "this job may not ask GitHub for an id token")
    assert ask(**variables, **managed_identity(azure)).value
    assert ask(**{**variables, **azure.pod()}).value


# --- What is wrong


@pytest.mark.parametrize(
    ("flow", "variables", "claims", "code"),
    [
        (Azure.pod, {CLIENT: OTHER}, {}, 700016),
        (Azure.github_job, {}, {"iss": "https://token.actions.x.ghe.com"}, 700211),
        (Azure.github_job, {AUDIENCE: "api://other"}, {}, 700212),
        (Azure.github_job, {}, {"sub": "repo:x\n\x1b[31mforged"}, 700213),
        (Azure.github_job, {}, {"exp": 1}, 700024),
        (Azure.client_secret, {SECRET: "s3cret/+ \u00e9"}, {}, 7000215),
        (Azure.client_secret, {}, {}, 7000222),
    ],
)
def test_a_refusal_is_told_in_entras_words(
    azure: Azure,
    ask: Ask,
    flow: Identity,
    variables: dict[str, str],
    claims: dict[str, Any],
    code: int,
) -> None:
    azure.clients[CLIENT_ID].secret_expires = 0
    azure.github_claims = claims
    variables = {**flow(azure), **variables}
    asked = ask(**variables)
    assert_told(asked, "Entra answered 40")
    assert f": AADSTS{code}: " in asked.warnings
    assert "Trace ID" not in asked.warnings
    assert "\nforged" not in asked.log
    assert "\x1b" not in asked.log
    assert len(azure.asked(ENTRA)) == 1
    azure.faults[ENTRA] = [echo]
    assert_told(ask(**variables), "Entra answered 400: ")


@pytest.mark.parametrize(
    "text", ["", "s3cret s3cret", "s3cret\r\nX: y", "s3cr\u00e9t", "s3cret" * 11_000]
)
def test_what_proves_nothing_is_told_and_not_sent(
    azure: Azure, ask: Ask, text: str
) -> None:
    path = azure.folder / "assertion"
    path.write_text(text, "utf-8")
    pod = {**azure.pod(), FILE: str(path)}
    assert_told(ask(**pod), f"{FILE} holds no usable token")
    job = {**azure.github_job(), REQUEST: text}
    assert_told(ask(**job), f"{REQUEST} holds no usable token")
    path.unlink()
    assert_told(ask(**pod), f"{FILE} holds no usable token")
    path.mkdir()
    assert_told(ask(**pod), f"{FILE} cannot be read: ")
    assert {*azure.connects} == {FEED}
