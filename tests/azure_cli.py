"""The real az signs in to the simulated Azure; the real pip and twine use its sign-in.

`nox -s az` runs this file; plain pytest leaves it out, for az comes from the package
registry.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest
import trustme

from simulated_azure import (
    CLIENT_ID,
    INDEX_URL,
    STORAGE,
    TENANT,
    UPLOAD_URL,
    Azure,
    Handler,
    wheel,
)
from simulated_identity import OTHER_TENANT, RESOURCE

REAL_AZ = os.environ["REAL_AZ"]
REMEDY = (
    f"az login --tenant {TENANT} --scope {RESOURCE}/.default --allow-no-subscriptions"
)
KEYRING = f"{sys.executable} -m keyring get {INDEX_URL} VssSessionToken"
DIAGNOSIS = f"{sys.executable} -m artifacts_keyring_nofuss {INDEX_URL}"
INSTALL = f"{sys.executable} -m pip install --no-cache-dir --index-url {INDEX_URL}"
UPLOAD = f"{sys.executable} -m twine upload --repository-url {UPLOAD_URL}"
READ, WRITE = "vso.packaging", "vso.packaging_write"
Run = Callable[..., str]


@pytest.fixture
def run(azure: Azure, tmp_path: Path) -> Run:
    """Run a command line, with the real az on PATH; return what it said."""
    # Microsoft's packages have a bash script, too; sh drops AZURE_AUTO-UPGRADE_ENABLE.
    lines = [
        f"#!{shutil.which('bash')}",
        f'echo "$*" >> "{azure.folder}/az.log"',
        '[ "$1" = upgrade ] && exit 1',  # it would start itself again, without end
        f'exec "{REAL_AZ}" "$@"',
    ]
    (azure.bin / "az").write_text("\n".join(lines))
    (azure.bin / "az").chmod(0o755)
    settings = azure.environment(
        REQUESTS_CA_BUNDLE=str(azure.ca_file),
        AZURE_CONFIG_DIR=str(azure.folder / "azure"),
        AZURE_CORE_COLLECT_TELEMETRY="no",
    )

    def run(line: str, status: int = 0, **variables: str) -> str:
        done = subprocess.run(
            line.split(),
            cwd=tmp_path,
            env={**settings, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    return run


def assert_told(run: Run, *words: str, **variables: str) -> None:
    """Assert that a client's warning has these words for a user, and the diagnosis."""
    for line in (KEYRING, DIAGNOSIS):
        said = run(line, 1, **variables)
        assert [word for word in words if word not in said] == [], said


# --- Who signs in, and how


def person(azure: Azure, tenant: str = TENANT) -> str:
    return f"{REMEDY.replace(TENANT, tenant)} --use-device-code"


def person_without_scope(azure: Azure) -> str:
    return f"az login --tenant {TENANT} --allow-no-subscriptions --use-device-code"


def application(azure: Azure) -> str:
    secret = azure.client_secret()["AZURE_CLIENT_SECRET"]
    who = f"--service-principal --username {CLIENT_ID} --tenant {TENANT}"
    return f"az login --allow-no-subscriptions {who} --password={secret}"


def federated_application(azure: Azure) -> str:
    token = Path(azure.pod()["AZURE_FEDERATED_TOKEN_FILE"]).read_text()
    return application(azure).partition("--password")[0] + f"--federated-token={token}"


@pytest.mark.parametrize(
    ("sign_in", "scopes"),
    [
        (person, [READ, WRITE]),
        (person_without_scope, [READ, WRITE]),
        (application, []),
        (federated_application, []),
    ],
)
def test_pip_installs_and_twine_uploads(
    azure: Azure,
    run: Run,
    tmp_path: Path,
    sign_in: Callable[[Azure], str],
    scopes: list[str],
) -> None:
    run(sign_in(azure))
    run(f"{INSTALL} --target site contoso-secrets")
    assert (tmp_path / "site" / "contoso_secrets.py").exists()
    name, content = wheel("app")
    (tmp_path / name).write_bytes(content)
    run(f"{UPLOAD} {name}")
    assert [content in body for body in azure.uploads] == [True]
    assert azure.scopes() == scopes


# --- What a user reads, and whether it helps


def test_the_remedy_signs_in_who_has_no_subscription(azure: Azure, run: Run) -> None:
    said = run("az login --use-device-code", 1)  # which keeps nothing
    assert "No subscriptions found" in said
    assert_told(run, "Please run 'az login' to setup account.", REMEDY)
    run(person(azure))
    run(KEYRING)


@pytest.mark.parametrize(
    "refusal",
    [
        (700082, "The refresh token has expired due to inactivity."),
        (50076, f"You must use multi-factor authentication to access '{RESOURCE}'."),
    ],
)
def test_a_person_has_to_sign_in_again(
    azure: Azure, run: Run, refusal: tuple[int, str]
) -> None:
    run(person_without_scope(azure))
    azure.refusal = refusal
    assert_told(run, "AADSTS{}: {}".format(*refusal), REMEDY)
    azure.refusal = 0, ""
    run(person(azure))
    run(KEYRING)


def test_az_asks_for_who_signed_in_last_alone(azure: Azure, run: Run) -> None:
    run(person(azure))
    run(person(azure, OTHER_TENANT))
    assert_told(run, "AADSTS50020: User account", f"tenant {TENANT}")
    run(f"az account set --subscription {TENANT}")
    run(KEYRING)


def test_an_application_is_unknown_in_another_tenant(azure: Azure, run: Run) -> None:
    run(application(azure))
    page = f"Bearer authorization_uri=https://login.windows.net/{OTHER_TENANT}"
    azure.challenge = {"WWW-Authenticate": page, "X-VSS-ResourceTenant": OTHER_TENANT}
    assert_told(run, f"AADSTS700016: Application with identifier '{CLIENT_ID}'")


def test_the_variable_that_az_obeys_is_named(azure: Azure, run: Run) -> None:
    run(person_without_scope(azure))
    other = str(azure.folder / "other.pem")
    trustme.CA().cert_pem.write_to_path(other)
    words = "certificate verify failed", "REQUESTS_CA_BUNDLE"
    assert_told(run, *words, REQUESTS_CA_BUNDLE=other)


def test_a_folder_that_nobody_can_make_is_named(run: Run) -> None:
    assert_told(run, "Error: [Errno", "'/sys", AZURE_CONFIG_DIR="/sys/azure")


def test_the_reason_is_told_before_the_traceback(azure: Azure, run: Run) -> None:
    run(person(azure))
    (azure.folder / "azure" / "msal_token_cache.json").write_text("{ broken")
    assert_told(run, "Expecting property name enclosed in double quotes")


# --- What az does besides


def test_az_needs_no_log(azure: Azure, run: Run) -> None:
    run(person(azure))
    folder = azure.folder / "azure" / "commands"
    shutil.rmtree(folder)
    folder.touch()  # as nobody can write there, root neither
    assert f"{folder}/" in run("az account get-access-token", 1)
    run(KEYRING)


def test_az_is_not_upgraded(azure: Azure, run: Run) -> None:
    def newest(handler: Handler) -> None:
        handler.answer(200, b'VERSION = "99.0.0"\n')

    azure.faults[STORAGE] = [newest] * 3  # where az looks before its first command
    run(person(azure))
    run("az config set auto-upgrade.enable=yes auto-upgrade.prompt=no")
    assert azure.az_runs[-1] == "upgrade --all True -y"
    run(KEYRING)
    assert azure.az_runs[-1].startswith("account get-access-token")
