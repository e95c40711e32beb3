"""What a job costs: requests, TLS handshakes, runs of az and imports, counted exactly."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import NamedTuple

import pytest

import identities as by
from conftest import AskHere, Python
from identities import Identity
from simulated_azure import AUTHORITY, ENTRA, FEED, GITHUB, IMDS, INDEX_URL, UPLOAD_URL, Azure

FEEDS = [INDEX_URL.replace("private", f"feed-{number}") for number in range(16)]

CREDENTIAL_THEN_PASSWORD = f"""
username, password = ask({UPLOAD_URL!r})
show([password, keyring.get_password({UPLOAD_URL!r}, username)])
"""
FIVE_FEEDS = f"show([ask(feed)[1] for feed in {FEEDS[:5]}])"
THREADS = f"""
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
keyring.get_keyring()  # which is not safe to call from several threads
barrier = Barrier(16)
def ask_at_once(feed):
    barrier.wait()
    return ask(feed)[1]
with ThreadPoolExecutor(16) as pool:
    show(list(pool.map(ask_at_once, {FEEDS})))
"""


class Costs(NamedTuple):
    """What reached the simulated Azure: requests to its hosts, handshakes, and runs of az."""

    discoveries: int = 0
    exchanges: int = 0
    entra: int = 0
    github: int = 0
    metadata: int = 0
    handshakes: int = 0
    az_runs: int = 0


def costs(azure: Azure) -> Costs:
    requests = [len(azure.asked(host)) for host in (FEED, AUTHORITY, ENTRA, GITHUB, IMDS)]
    assert sum(requests) == len(azure.requests)
    return Costs._make([*requests, azure.handshakes, len(azure.az_runs)])


USER = Costs(discoveries=1, exchanges=1, handshakes=2, az_runs=1)


@pytest.mark.parametrize(
    ("script", "passwords"),
    [
        pytest.param(f"show([ask({INDEX_URL!r})[1]])", 1, id="one feed"),
        pytest.param(CREDENTIAL_THEN_PASSWORD, 2, id="credential, then password"),
        pytest.param(FIVE_FEEDS, 5, id="five feeds"),
        pytest.param(THREADS, 16, id="16 threads"),
    ],
)
def test_user_pays_for_one_sign_in(
    azure: Azure, python: Python, script: str, passwords: int
) -> None:
    azure.az_signed_in()
    assert python(script).value == [*azure.session_tokens] * passwords
    assert costs(azure) == USER


@pytest.mark.parametrize(
    ("identity", "price"),
    [
        (by.user, USER),
        (by.service_principal, Costs(discoveries=1, handshakes=1, az_runs=1)),
        (by.managed_identity, Costs(discoveries=1, metadata=1, handshakes=1)),
        (by.app_service, Costs(discoveries=1, metadata=1, handshakes=1)),
        (by.azure_ml, Costs(discoveries=1, metadata=1, handshakes=1)),
        (by.token, Costs()),
        (by.token_file, Costs()),
        (by.token_of_user, Costs(discoveries=1, exchanges=1, handshakes=2)),
        (Azure.pod, Costs(discoveries=1, entra=1, handshakes=2)),
        (Azure.github_job, Costs(discoveries=1, github=1, entra=1, handshakes=3)),
        (Azure.client_secret, Costs(discoveries=1, entra=1, handshakes=2)),
    ],
)
def test_each_identity_has_its_price(
    azure: Azure, ask_here: AskHere, identity: Identity, price: Costs
) -> None:
    assert ask_here(INDEX_URL, **identity(azure)).value
    assert costs(azure) == price


def test_certificates_are_read_once(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    script = f"ask({INDEX_URL!r}); show(module.tls_context.cache_info().misses)"
    assert python(script).value == 1


def test_az_that_is_not_signed_in_runs_once(azure: Azure, python: Python) -> None:
    azure.az_not_signed_in()
    azure.identity = azure.application_token()
    assert python(FIVE_FEEDS).value == [azure.identity] * 5
    assert costs(azure) == Costs(discoveries=1, metadata=1, handshakes=1, az_runs=1)


def test_what_is_not_configured_is_not_looked_for(python: Python) -> None:
    """No file is opened and nothing is asked or run to find that a provider does not apply."""
    script = """
import sys
providers = [module.PROVIDERS[name] for name in ("token", "workload_identity")]
events = []
sys.addaudithook(lambda event, _: events.append(event))
configured = [bool(is_configured()) for _, is_configured, _ in providers]
show([configured, [event for event in events if not event.startswith("object.")]])
"""
    assert python(script).value == [[False, False], []]


def test_other_services_cost_nothing(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    lookalike = INDEX_URL.replace(FEED, f"{FEED}.example")
    services = ["https://pypi.org/simple/", "pypi.org", "python-poetry-check", lookalike]
    script = f"show([ask(service, 'me') for service in {services}])"
    assert python(script, **by.token(azure)).value == [None] * 4
    assert (costs(azure), azure.connects) == (Costs(), [])


@pytest.mark.skipif(version("keyring") < "25.2", reason="keyring itself imports less")
def test_other_services_import_nothing(azure: Azure) -> None:
    script = """
import argparse, json, sys  # as in the keyring command
if sys.argv[1:]:
    sys.modules["artifacts_keyring_nofuss"] = None
import keyring
keyring.get_credential("https://pypi.org/simple/", None)
print(*sys.modules)
"""
    with_it, without_it = (
        subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=azure.environment(),
            capture_output=True,
            check=True,
        ).stdout.split()
        for arguments in ([], ["without"])
    )
    assert {*with_it} - {*without_it} <= {b"signal"}  # on Windows
