"""What a job costs: requests, TLS handshakes, runs of az and imports, counted."""

from __future__ import annotations

import sys
from collections import Counter
from importlib.metadata import version

import pytest

import identities as by
from conftest import PROGRAMS, Ask, Python
from identities import Identity
from simulated_azure import AUTHORITY, ENTRA, FEED, GITHUB, IMDS, INDEX_URL, Azure

FEEDS = [INDEX_URL.replace("private", f"feed-{number}") for number in range(5)]
USER = {FEED: 1, AUTHORITY: 1, "az": 1}


def costs(azure: Azure) -> dict[str, int]:
    """Count the requests to each host, of a handshake each, and the runs of az."""
    assert azure.handshakes == len(azure.requests) - len(azure.asked(IMDS))
    hosts = Counter(request.host for request in azure.requests)
    return {**hosts, "az": len(azure.az_runs)} if azure.az_runs else {**hosts}


@pytest.mark.parametrize(
    ("identity", "price"),
    [
        (by.user, USER),
        (by.service_principal, {FEED: 2, "az": 1}),
        (by.managed_identity, {FEED: 2, IMDS: 1}),
        (by.app_service, {FEED: 2, IMDS: 1}),
        (by.azure_ml, {FEED: 2, IMDS: 1}),
        (by.token, {FEED: 2}),
        (by.token_file, {FEED: 2}),
        (by.token_of_user, {FEED: 1, AUTHORITY: 1}),
        (Azure.pod, {FEED: 2, ENTRA: 1}),
        (Azure.github_job, {FEED: 2, GITHUB: 1, ENTRA: 1}),
        (Azure.client_secret, {FEED: 2, ENTRA: 1}),
    ],
)
def test_each_identity_has_its_price(
    azure: Azure, ask: Ask, identity: Identity, price: dict[str, int]
) -> None:
    assert ask(**identity(azure)).value
    assert costs(azure) == price


def test_a_user_pays_for_one_sign_in(azure: Azure, python: Python) -> None:
    """Whatever is asked: several feeds, or a credential and then its password."""
    azure.az_signed_in()
    program = "for url in sys.argv[1:]: show(keyring.get_password(url, ask(url)[0]))"
    assert python(program, *FEEDS).values == [*azure.session_tokens] * 5
    assert costs(azure) == USER


def test_az_that_is_not_signed_in_runs_once(azure: Azure, python: Python) -> None:
    azure.az_not_signed_in()
    azure.identity = azure.application_token()
    values = python("one_by_one.py", *FEEDS).value
    assert [password for _, password in values] == [azure.identity] * 5
    assert costs(azure) == {FEED: 2, IMDS: 1, "az": 1}


def test_certificates_are_read_once(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    program = f"ask({INDEX_URL!r}); show(module.tls_context.cache_info().misses)"
    assert python(program).value == 1


def test_what_is_not_configured_is_not_looked_for(python: Python) -> None:
    """But for the file of a Docker build's secret, which needs no setting."""
    program = """
events = []
sys.addaudithook(lambda event, given: events.append([event, *given[:1]]))
found = [module.PROVIDERS[name](None) for name in ("token", "workload_identity")]
show([found, [event for event in events if event[0][:7] != "object." and event[-1]]])
"""
    secret = ["open", "/run/secrets/ARTIFACTS_KEYRING_NOFUSS_TOKEN"]
    assert python(program).value == [[None, None], [secret]]


def test_other_services_cost_nothing(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    lookalike = INDEX_URL.replace(FEED, f"{FEED}.example")
    in_clear_text = INDEX_URL.replace("https://", "http://")
    for url in ("https://pypi.org/simple/", "pypi.org", FEED, lookalike, in_clear_text):
        asked = ask(url, "me", **by.token(azure))
        assert (asked.value, asked.log) == (None, "")
    assert (costs(azure), azure.connects) == ({}, [])


@pytest.mark.skipif(version("keyring") < "25.2", reason="keyring itself imports less")
def test_other_services_import_nothing(azure: Azure) -> None:
    command = [sys.executable, str(PROGRAMS / "imports.py")]
    ours = {*azure.run(*command).stdout.split()}
    others = {*azure.run(*command, "without us").stdout.split()}
    assert "artifacts_keyring_nofuss" in ours
    assert ours - others <= {"signal"}  # on Windows
