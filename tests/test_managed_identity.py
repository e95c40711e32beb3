"""Provider managed_identity: the identity of a machine, from its metadata service."""

from __future__ import annotations

import re

import pytest

from conftest import Ask
from identities import Identity, app_service, azure_ml, managed_identity
from simulated_azure import AUTHORITY, CLIENT_ID, IMDS, SECRET_HEADER, Azure
from simulated_faults import status

ADDRESS = "AZURE_POD_IDENTITY_AUTHORITY_HOST"
each_place = pytest.mark.parametrize("place", [managed_identity, app_service, azure_ml])


@each_place
def test_a_machines_token_is_the_password_whatever_it_claims(
    azure: Azure, ask: Ask, place: Identity
) -> None:
    azure.claims = {"scp": "user_impersonation"}
    names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "PIP_PROXY"]
    proxies = dict.fromkeys(names, azure.proxy.url)  # which may not see it
    asked = ask(**place(azure), **proxies)
    assert asked.value == ["VssSessionToken", azure.identity]
    assert asked.warnings == ""
    assert azure.asked(AUTHORITY) == []
    (request,) = [request for request in azure.requests if request.host == IMDS]
    secrets = [
        name for name, value in request.headers.items() if value == SECRET_HEADER
    ]
    assert len(secrets) == (place is not managed_identity)


@each_place
def test_one_of_several_identities_is_named_by_its_client_id(
    azure: Azure, ask: Ask, place: Identity
) -> None:
    azure.assigned = [CLIENT_ID, "a-b&c"]
    variables = place(azure)
    assert ask(**variables, AZURE_CLIENT_ID=" a-b&c ").password == azure.identity
    unnamed = ask(**variables | {"DEFAULT_IDENTITY_CLIENT_ID": ""}).failure
    words = "managed_identity: the metadata service answered 400: (Multiple|No) .ser "
    assert re.search(words, unnamed)


@pytest.mark.parametrize("name", ["IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_SECRET"])
def test_half_of_the_variables_are_none(azure: Azure, ask: Ask, name: str) -> None:
    half = {name: f"{azure.metadata.url}/msi/token"}
    assert ask(**managed_identity(azure), **half).value


def test_imds_has_a_usual_address(azure: Azure, ask: Ask) -> None:
    """Which a test cannot ask."""
    dials = {"IMDS_ADDRESS": azure.metadata.url}
    assert ask(**managed_identity(azure), **{ADDRESS: " "}, dials=dials).value


def test_a_secret_that_fits_into_no_header_is_told(azure: Azure, ask: Ask) -> None:
    for secret in ("s3cret\r\nX: y", "s3cr\u00e9t"):
        asked = ask(**app_service(azure) | {"IDENTITY_HEADER": secret})
        reason = "managed_identity: IDENTITY_HEADER holds no usable token"
        assert reason in asked.failure
        assert "s3cr" not in asked.log
    assert azure.asked(IMDS) == []


@each_place
@pytest.mark.parametrize("code", [404, 410, 429, 503])
def test_only_imds_may_take_long_to_wake_up(
    azure: Azure, ask: Ask, place: Identity, code: int
) -> None:
    azure.faults[IMDS] = [status(code)] * 4
    asked = ask(**place(azure))
    tries = 3 if code > 420 else 1
    if place is managed_identity:
        tries = 5
    assert len(azure.asked(IMDS)) == tries
    assert bool(asked.value) is (tries == 5)


def test_imds_is_given_pauses_of_its_own(azure: Azure, ask: Ask) -> None:
    azure.faults[IMDS] = [status(404)] * 2
    assert ask(**managed_identity(azure), dials={"IMDS_PAUSES": [0.1, 0.2]}).value
    first, *_, last = (
        request.time for request in azure.requests if request.host == IMDS
    )
    assert last - first > 0.3
