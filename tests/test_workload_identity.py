"""Provider workload_identity: an application signs in to Entra with what proves it."""

from __future__ import annotations

from conftest import Ask
from identities import managed_identity
from simulated_azure import CLIENT_ID, ENTRA, GITHUB, Azure

SECRET = "AZURE_CLIENT_SECRET"


def test_each_sign_in_has_a_fresh_assertion(azure: Azure, ask: Ask) -> None:
    for flow in [Azure.pod, Azure.github_job] * 2:
        assert ask(**flow(azure)).value
    forms = {request.body for request in azure.requests if request.host == ENTRA}
    assert len(forms) == 4


def test_the_secret_counts_before_the_file_and_that_before_github(
    azure: Azure, ask: Ask
) -> None:
    """The tenant is the feed's, and there is one Entra."""
    elsewhere = {"AZURE_TENANT_ID": "x", "AZURE_AUTHORITY_HOST": "https://evil.example"}
    variables = azure.github_job() | azure.pod() | elsewhere
    assert ask(**variables).value
    azure.secret = "a&b=c+d%41 \u00e9"
    refused = ask(**variables | {SECRET: "another"}).failure
    assert "workload_identity: Entra answered 401: AADSTS7000215: " in refused
    assert ask(**variables | {SECRET: f"{azure.secret}\n"}).value
    assert GITHUB not in azure.connects


def test_a_file_that_is_missing_is_told(azure: Azure, ask: Ask) -> None:
    name = "AZURE_FEDERATED_TOKEN_FILE"
    told = ask(**azure.pod() | {name: "/nowhere"}).failure
    assert f"workload_identity: {name} holds no usable token" in told


def test_github_is_asked_at_the_url_that_it_gives(azure: Azure, ask: Ask) -> None:
    ask(**azure.github_job() | {"ACTIONS_ID_TOKEN_REQUEST_URL": f"https://{GITHUB}/x"})
    assert azure.asked(GITHUB) == ["GET /x?audience=api%3A%2F%2FAzureADTokenExchange"]


def test_a_github_job_that_may_not_ask_for_an_id_token_is_told(
    azure: Azure, ask: Ask
) -> None:
    variables = {"AZURE_CLIENT_ID": CLIENT_ID, "GITHUB_ACTIONS": "true"}
    told = ask(**variables).failure
    assert "workload_identity: this job may not ask GitHub for an id token" in told
    assert ask(**variables, **managed_identity(azure)).value
    assert ask(**variables | azure.pod()).value
