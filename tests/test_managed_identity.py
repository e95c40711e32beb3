"""Provider managed_identity: the identity of a machine, from its metadata service."""

from __future__ import annotations

import re

import pytest

from conftest import Ask
from identities import Identity, app_service, azure_ml, managed_identity
from simulated_azure import CLIENT_ID, IMDS, Azure
from simulated_faults import status

each_place = pytest.mark.parametrize("place", [managed_identity, app_service, azure_ml])


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


def test_imds_has_a_usual_address_and_no_proxy_sees_it(azure: Azure, ask: Ask) -> None:
    """Which a test cannot ask."""
    names = ["HTTP_PROXY", "ALL_PROXY", "PIP_PROXY"]
    variables = dict.fromkeys(names, azure.proxy.url)
    variables["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = " "
    dials = {"IMDS_ADDRESS": azure.metadata.url}
    assert ask(**managed_identity(azure), **variables, dials=dials).value


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
