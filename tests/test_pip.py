"""The main job: the real pip installs a private package through the real keyring."""

from __future__ import annotations

import sys

import pytest

import identities as by
from identities import Identity
from simulated_azure import INDEX_URL, TENANT, Azure

BY_IMPORT = f"--no-input --keyring-provider import --index-url {INDEX_URL}"
# A pip before 26.2 asks the keyring command only if the URL has a username.
WITH_USER = INDEX_URL.replace("https://", "https://VssSessionToken@")
BY_SUBPROCESS = f"--keyring-provider subprocess --index-url {WITH_USER}"


def pip_install(azure: Azure, options: str, **variables: str) -> str:
    """Install the private package into the folder site; return all that pip said."""
    line = f"-m pip install --no-cache-dir --target site {options} contoso-secrets"
    done = azure.run(sys.executable, *line.split(), **variables)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "identity"),
    [
        *((BY_IMPORT, identity) for identity in by.IDENTITIES),
        (BY_SUBPROCESS, by.user),
        (BY_SUBPROCESS, by.managed_identity),
    ],
)
def test_pip_installs_a_private_package(
    azure: Azure, options: str, identity: Identity
) -> None:
    said = pip_install(azure, options, **identity(azure))
    assert "Successfully installed contoso" in said
    assert (azure.home / "site" / "contoso_secrets.py").exists()


@pytest.mark.parametrize("options", [BY_IMPORT, BY_SUBPROCESS])
def test_pip_fails_politely_when_nothing_worked(azure: Azure, options: str) -> None:
    azure.az_not_signed_in()
    said = pip_install(azure, options)
    assert "No matching distribution found" in said
    assert "Traceback" not in said
    if options == BY_IMPORT:  # pip hides what a keyring command writes to stderr
        assert said.count("no credentials for") == 1
        assert f"az login --tenant {TENANT}" in said
