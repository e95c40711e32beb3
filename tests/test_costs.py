"""What a job costs: requests, TLS handshakes, runs of az and imports, counted exactly."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

import pytest

from conftest import Python
from simulated_azure import FEED, IMDS, INDEX_URL, NOT_SIGNED_IN, UPLOAD_URL, Azure

FEEDS = [INDEX_URL.replace("private", f"feed-{number}") for number in range(16)]
HEAVY = {"email", "http.client", "json", "socket", "ssl", "subprocess", "urllib.request"}

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
    metadata: int = 0
    handshakes: int = 0
    az_runs: int = 0


def costs(azure: Azure) -> Costs:
    discoveries, metadata = len(azure.asked(FEED)), len(azure.asked(IMDS))
    exchanges = len(azure.requests) - discoveries - metadata
    return Costs(discoveries, exchanges, metadata, azure.handshakes, len(azure.az_runs))


SIGN_IN = Costs(discoveries=1, exchanges=1, handshakes=2, az_runs=1)


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
    assert costs(azure) == SIGN_IN


def test_certificates_are_read_once(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    script = f"ask({INDEX_URL!r}); show(module.tls_context.cache_info().misses)"
    assert python(script).value == 1


def test_managed_identity_needs_no_exchange(azure: Azure, python: Python) -> None:
    azure.identity = azure.application_token()
    assert python(FIVE_FEEDS).value == [azure.identity] * 5
    assert costs(azure) == Costs(discoveries=1, metadata=1, handshakes=1)


def test_az_that_is_not_signed_in_runs_once(azure: Azure, python: Python) -> None:
    azure.az(NOT_SIGNED_IN)
    azure.identity = azure.application_token()
    assert python(FIVE_FEEDS).value == [azure.identity] * 5
    assert costs(azure) == Costs(discoveries=1, metadata=1, handshakes=1, az_runs=1)


def test_other_services_cost_nothing(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    lookalike = INDEX_URL.replace(FEED, f"{FEED}.example")
    services = ["https://pypi.org/simple/", "pypi.org", "python-poetry-check", lookalike]
    assert python(f"show([ask(service, 'me') for service in {services}])").value == [None] * 4
    assert (costs(azure), azure.connects) == (Costs(), [])


def test_other_services_import_nothing(azure: Azure) -> None:
    """keyring imports most of what a sign-in needs by itself, so it is kept out here."""
    script = f"""
import sys
sys.modules["keyring"] = None
import artifacts_keyring_nofuss
backend = artifacts_keyring_nofuss.ArtifactsKeyringBackend()
assert backend.get_credential("https://pypi.org/simple/", None) is None
print({HEAVY} & sys.modules.keys())
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=azure.environment(), capture_output=True, check=True)
    assert done.stdout.split() == [b"set()"]
