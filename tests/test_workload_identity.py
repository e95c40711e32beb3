"""Provider workload_identity: an application signs in to Entra with what proves it."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl

import pytest

from conftest import Ask
from identities import Identity, Variables, managed_identity
from simulated_azure import (
    AUTHORITY,
    CLIENT_ID,
    ENTRA,
    FEED,
    GITHUB,
    IMDS,
    TENANT,
    Azure,
)
from simulated_faults import echo

CLIENT, SECRET = "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"
FILE = "AZURE_FEDERATED_TOKEN_FILE"
URL, REQUEST = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
FLOWS = [Azure.pod, Azure.github_job, Azure.client_secret]


def form(azure: Azure) -> Variables:
    """Return what Entra was sent last."""
    *_, body = (request.body for request in azure.requests if request.host == ENTRA)
    return dict(parse_qsl(body.decode()))


def assert_told(ask: Ask, reason: str, variables: Variables) -> str:
    """Assert that the next one is asked after this reason; return the log."""
    asked = ask(**variables)
    assert f"workload_identity: {reason}" in asked.failure
    assert "azure_cli: az is not on PATH" in asked.failure
    assert "s3cr" not in asked.log
    return asked.log


# --- The flows


@pytest.mark.parametrize("flow", FLOWS)
def test_the_applications_token_is_the_password_whatever_it_claims(
    azure: Azure, ask: Ask, flow: Identity
) -> None:
    """The tenant is the feed's, and there is one Entra."""
    elsewhere = {"AZURE_TENANT_ID": "x", "AZURE_AUTHORITY_HOST": "https://evil.example"}
    variables = flow(azure) | elsewhere
    azure.claims = {"scp": "user_impersonation"}
    for azure.encrypted in (False, True):
        assert ask(**variables).password in azure.bearers
    assert azure.asked(AUTHORITY) == []


def test_each_sign_in_has_a_fresh_assertion(azure: Azure, ask: Ask) -> None:
    assertions = set()
    for flow in [*FLOWS[:2], *FLOWS[:2]]:
        assert ask(**flow(azure)).value
        assertions.add(form(azure)["client_assertion"])
    assert len(assertions) == 4


def test_a_secret_and_a_url_are_sent_as_they_are(azure: Azure, ask: Ask) -> None:
    variables = azure.client_secret() | {SECRET: "a&b=c+d%41 \u00e9\n"}
    azure.secret = "a&b=c+d%41 \u00e9"
    assert ask(**variables).value
    ask(**azure.github_job() | {URL: f"https://{GITHUB}/x"})
    assert azure.asked(GITHUB) == ["GET /x?audience=api%3A%2F%2FAzureADTokenExchange"]


def test_the_secret_counts_before_the_file_and_that_before_github(
    azure: Azure, ask: Ask
) -> None:
    variables = azure.github_job() | azure.pod()
    assert ask(**variables).value
    assert_told(ask, "Entra answered 401", variables | {SECRET: "s3cret"})
    assert GITHUB not in azure.connects


# --- Where it applies


@pytest.mark.parametrize(
    ("flow", "missing"),
    [*zip(FLOWS, [FILE, URL, SECRET]), *((flow, CLIENT) for flow in FLOWS)],
)
def test_half_of_the_variables_are_none(
    azure: Azure, ask: Ask, flow: Identity, missing: str
) -> None:
    asked = ask(**managed_identity(azure), **flow(azure) | {missing: " "})
    assert asked.password == azure.identity
    assert "workload_identity: not configured" in asked.log
    chosen = {missing: "", "ARTIFACTS_KEYRING_NOFUSS_PROVIDER": "workload_identity"}
    warning = ask(**flow(azure) | chosen).failure
    assert "workload_identity: not configured; " in warning


def test_a_github_job_that_may_not_ask_for_an_id_token_is_told(
    azure: Azure, ask: Ask
) -> None:
    variables = {CLIENT: CLIENT_ID, "GITHUB_ACTIONS": "true"}
    assert_told(ask, "this job may not ask GitHub for an id token", variables)
    assert ask(**variables, **managed_identity(azure)).value
    assert ask(**variables | azure.pod()).value


# --- What is wrong


@pytest.mark.parametrize(
    ("flow", "name", "value", "code"),
    [
        (Azure.pod, CLIENT, TENANT, 700016),
        (Azure.github_job, "iss", "https://token.actions.x.ghe.com", 700211),
        (Azure.github_job, "sub", "repo:x\n\x1b[31mforged", 700213),
        (Azure.client_secret, SECRET, "s3cret/+ \u00e9", 7000215),
    ],
)
def test_a_refusal_is_told_in_entras_words(
    azure: Azure, ask: Ask, flow: Identity, name: str, value: str, code: int
) -> None:
    """The machine's identity is not asked: a pod must not become its node."""
    azure.github_claims = {name: value}
    variables = managed_identity(azure) | flow(azure) | azure.github_claims
    log = assert_told(ask, "Entra answered 40", variables)
    assert f": AADSTS{code}: " in log
    assert not re.search("Trace ID|\nforged|\x1b", log)
    azure.faults[ENTRA] = [echo]
    assert_told(ask, "Entra answered 400: ", variables)
    assert azure.asked(IMDS) == []


@pytest.mark.parametrize(
    "text", ["", "s3cret s3cret", "s3cret\r\nX: y", "s3cr\u00e9t", "s3cret" * 11_000]
)
def test_what_proves_nothing_is_told_and_not_sent(
    azure: Azure, ask: Ask, text: str
) -> None:
    path = azure.folder / "assertion"
    path.write_text(text, "utf-8")
    pod = azure.pod() | {FILE: str(path)}
    assert_told(ask, f"{FILE} holds no usable token", pod)
    job = azure.github_job() | {REQUEST: text}
    assert_told(ask, f"{REQUEST} holds no usable token", job)
    path.unlink()
    assert_told(ask, f"{FILE} holds no usable token", pod)
    path.mkdir()
    assert_told(ask, f"{FILE} cannot be read: ", pod)
    assert {*azure.connects} == {FEED}


@pytest.mark.skipif(os.name == "nt", reason="variables are text on Windows")
def test_a_variable_that_is_no_text_stops_nobody(azure: Azure, ask: Ask) -> None:
    assert_told(ask, "", azure.client_secret() | {SECRET: "\udcff"})
