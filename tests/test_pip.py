"""The main job: the real pip installs a private package through the real keyring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from identities import (
    Identity,
    azure_ml,
    build_secret,
    managed_identity,
    token,
    token_file,
    user,
)
from simulated_azure import INDEX_URL, TENANT, Azure


def pip_install(azure: Azure, target: Path, *options: str, **variables: str) -> str:
    """Install the private package into a folder; return all that pip said."""
    command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--target", str(target)]
    command += ["--index-url", INDEX_URL, *options, "contoso-secrets"]
    done = subprocess.run(
        command,
        env=azure.environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=120,
    )
    return done.stdout


IN_PROCESS = ["--no-input", "--keyring-provider", "import"]
# A pip before 26.2 asks the keyring command only if the URL has a username.
WITH_USER = INDEX_URL.replace("https://", "https://VssSessionToken@")
SUBPROCESS = ["--keyring-provider", "subprocess", "--index-url", WITH_USER]


@pytest.mark.parametrize(
    "identity",
    [
        user,
        managed_identity,
        azure_ml,
        token,
        token_file,
        build_secret,
        Azure.pod,
        Azure.github_job,
        Azure.client_secret,
    ],
)
def test_pip_installs_a_private_package(azure: Azure, tmp_path: Path, identity: Identity) -> None:
    said = pip_install(azure, tmp_path, *IN_PROCESS, **identity(azure))
    assert (tmp_path / "contoso_secrets.py").exists(), said
    assert "Successfully installed contoso" in said


@pytest.mark.parametrize("identity", [user, managed_identity])
def test_pip_installs_it_through_the_keyring_command(
    azure: Azure, tmp_path: Path, identity: Identity
) -> None:
    said = pip_install(azure, tmp_path, *SUBPROCESS, **identity(azure))
    assert (tmp_path / "contoso_secrets.py").exists(), said


@pytest.mark.parametrize("how", [IN_PROCESS, SUBPROCESS], ids=["in-process", "subprocess"])
def test_pip_fails_politely_when_nothing_worked(
    azure: Azure, tmp_path: Path, how: list[str]
) -> None:
    azure.az_not_signed_in()
    said = pip_install(azure, tmp_path, *how)
    assert "No matching distribution found" in said
    assert "Traceback" not in said
    assert [*tmp_path.iterdir()] == []
    if how is IN_PROCESS:  # pip hides what a keyring command writes to stderr
        assert said.count("no credentials for") == 1
        assert f"az login --tenant {TENANT}" in said
