"""The main job: the real pip installs a private package through the real keyring."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import identities as by
from identities import Identity
from simulated_azure import INDEX_URL, TENANT, Azure

IN_PROCESS = ["--no-input", "--keyring-provider", "import"]
# A pip before 26.2 asks the keyring command only if the URL has a username.
WITH_USER = INDEX_URL.replace("https://", "https://VssSessionToken@")
SUBPROCESS = ["--keyring-provider", "subprocess", "--index-url", WITH_USER]


def pip_install(
    azure: Azure, target: Path, options: list[str], **variables: str
) -> str:
    """Install the private package into a folder; return all that pip said."""
    command = [sys.executable, "-m", "pip", "install", "--no-cache-dir"]
    command += ["--target", str(target), "--index-url", INDEX_URL, *options]
    done = azure.run(*command, "contoso-secrets", **variables)
    return done.stdout + done.stderr


@pytest.mark.parametrize("identity", by.IDENTITIES)
def test_pip_installs_a_private_package(
    azure: Azure, tmp_path: Path, identity: Identity
) -> None:
    said = pip_install(azure, tmp_path, IN_PROCESS, **identity(azure))
    assert (tmp_path / "contoso_secrets.py").exists(), said
    assert "Successfully installed contoso" in said


@pytest.mark.parametrize("identity", [by.user, by.managed_identity])
def test_pip_installs_it_through_the_keyring_command(
    azure: Azure, tmp_path: Path, identity: Identity
) -> None:
    said = pip_install(azure, tmp_path, SUBPROCESS, **identity(azure))
    assert (tmp_path / "contoso_secrets.py").exists(), said


@pytest.mark.parametrize("how", [IN_PROCESS, SUBPROCESS], ids=["import", "subprocess"])
def test_pip_fails_politely_when_nothing_worked(
    azure: Azure, tmp_path: Path, how: list[str]
) -> None:
    azure.az_not_signed_in()
    said = pip_install(azure, tmp_path, how)
    assert "No matching distribution found" in said
    assert "Traceback" not in said
    assert [*tmp_path.iterdir()] == []
    if how is IN_PROCESS:  # pip hides what a keyring command writes to stderr
        assert said.count("no credentials for") == 1
        assert f"az login --tenant {TENANT}" in said
