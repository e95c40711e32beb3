"""The main job: the real pip installs a private package through the real keyring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simulated_azure import AUTHORITY, FEED, INDEX_URL, NOT_SIGNED_IN, TENANT, Azure


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
        text=True,
        timeout=120,
    )
    return done.stdout


IN_PROCESS = ["--no-input", "--keyring-provider", "import"]
# A pip before 26.2 asks the keyring command only if the URL has a username.
WITH_USER = INDEX_URL.replace("https://", "https://VssSessionToken@")
SUBPROCESS = ["--keyring-provider", "subprocess", "--index-url", WITH_USER]
HOW = pytest.mark.parametrize("how", [IN_PROCESS, SUBPROCESS], ids=["in-process", "subprocess"])


@HOW
@pytest.mark.parametrize("who", ["user", "managed identity"])
def test_pip_installs_a_private_package(
    azure: Azure, tmp_path: Path, how: list[str], who: str
) -> None:
    if who == "user":
        azure.az_signed_in()
    else:
        azure.az(NOT_SIGNED_IN)
        azure.identity = azure.application_token()
    said = pip_install(azure, tmp_path, *how)
    assert (tmp_path / "contoso_secrets.py").exists(), said
    assert "Successfully installed contoso" in said
    assert len(azure.az_runs) == 1
    assert azure.scopes() == (["vso.packaging"] if who == "user" else [])
    assert {*azure.connects} == ({FEED, AUTHORITY} if who == "user" else {FEED})


@HOW
def test_pip_fails_politely_when_nothing_worked(
    azure: Azure, tmp_path: Path, how: list[str]
) -> None:
    azure.az(NOT_SIGNED_IN)
    said = pip_install(azure, tmp_path, *how)
    assert "No matching distribution found" in said
    assert "Traceback" not in said
    assert [*tmp_path.iterdir()] == []
    if how is IN_PROCESS:  # pip hides what a keyring command writes to stderr
        assert said.count("no credentials for") == 1
        assert f"az login --tenant {TENANT}" in said
