"""Provider managed_identity: the identity of a machine, from its metadata service."""

from __future__ import annotations

import time

import pytest

from conftest import Ask
from identities import Identity, app_service, azure_ml, managed_identity
from simulated_azure import AUTHORITY, CLIENT_ID, IMDS, SECRET_HEADER, Azure
from simulated_faults import status

ADDRESS = "AZURE_POD_IDENTITY_AUTHORITY_HOST"
PLACES = [managed_identity, app_service, azure_ml]
each_place = pytest.mark.parametrize("place", PLACES)


@each_place
@pytest.mark.parametrize("claims", [{}, {"scp": "user_impersonation"}])
def test_a_machines_token_is_the_password_whatever_it_claims(
    azure: Azure, ask: Ask, place: Identity, claims: dict[str, str]
) -> None:
    variables = place(azure)
    azure.identity = azure.application_token(**claims)
    azure.assigned = [CLIENT_ID]
    asked = ask(**variables, HTTP_PROXY=azure.proxy.url)  # which may not see it
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
    asked = ask(**{**variables, "DEFAULT_IDENTITY_CLIENT_ID": ""})
    assert asked.value is None
    assert "managed_identity: the metadata service answered 400: " in asked.warnings


@pytest.mark.parametrize("name", ["IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_SECRET"])
def test_half_of_the_variables_are_none(azure: Azure, ask: Ask, name: str) -> None:
    half = {name: f"{azure.metadata.url}/msi/token"}
    assert ask(**managed_identity(azure), **half).value


def test_imds_has_a_usual_address(azure: Azure, ask: Ask) -> None:
    """Which a test cannot ask."""
    dials = {"IMDS_ADDRESS": azure.metadata.url}
    assert ask(**managed_identity(azure), **{ADDRESS: " "}, dials=dials).value


@pytest.mark.parametrize("secret", ["s3cret\r\nX: y", "s3cr\u00e9t"])
def test_a_secret_that_fits_into_no_header_is_told(
    azure: Azure, ask: Ask, secret: str
) -> None:
    asked = ask(**{**app_service(azure), "IDENTITY_HEADER": secret})
    assert asked.value is None
    assert "managed_identity: IDENTITY_HEADER holds no usable token" in asked.warnings
    assert "s3cr" not in asked.log
    assert azure.asked(IMDS) == []


@each_place
@pytest.mark.parametrize("code", [404, 410, 429, 503])
def test_only_imds_may_take_long_to_wake_up(
    azure: Azure, ask: Ask, place: Identity, code: int
) -> None:
    azure.faults[IMDS] = [status(code)] * 4
    asked = ask(**place(azure), dials={"PAUSES": [0, 0]})
    assert bool(asked.value) is (place is managed_identity)
    tries = {managed_identity: 5, app_service: 1 if code < 420 else 3}
    assert len(azure.asked(IMDS)) == tries.get(place, tries[app_service])


def test_imds_is_given_longer_and_longer_pauses(azure: Azure, ask: Ask) -> None:
    azure.faults[IMDS] = [status(404)] * 4
    pauses = [0.02, 0.04, 0.08, 0.16]
    assert ask(**managed_identity(azure), dials={"IMDS_PAUSES": pauses}).value
    times = [request.time for request in azure.requests if request.host == IMDS]
    assert [b - a > p for a, b, p in zip(times, times[1:], pauses)] == [True] * 4


def test_where_nobody_listens_nobody_waits(azure: Azure, ask: Ask) -> None:
    started = time.monotonic()
    asked = ask(**{ADDRESS: "http://192.0.2.1"}, dials={"IMDS_LIMIT": 0.1})
    assert asked.value is None
    told = "managed_identity: no metadata service is at 192.0.2.1\n"
    assert told in asked.warnings
    assert time.monotonic() - started < 2
