"""The real az signs in to the simulated Azure; the real pip and twine use its sign-in.

`nox -s az` runs this file; plain pytest leaves it out, for az comes from the package
registry.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Callable

import pytest
import trustme

from simulated_azure import (
    CLIENT_ID,
    CLIENT_SECRET,
    INDEX_URL,
    READ,
    STORAGE,
    TENANT,
    UPLOAD_URL,
    WRITE,
    Azure,
    wheel,
)
from simulated_identity import OTHER_TENANT, RESOURCE

REAL_AZ = os.environ["REAL_AZ"]
KEYRING = f"{sys.executable} -m keyring get {INDEX_URL} VssSessionToken"
DIAGNOSIS = f"{sys.executable} -m artifacts_keyring_nofuss {INDEX_URL}"
INSTALL = f"{sys.executable} -m pip install --no-cache-dir --index-url {INDEX_URL}"
UPLOAD = f"{sys.executable} -m twine upload --repository-url {UPLOAD_URL}"
Run = Callable[..., str]

# --- Who signs in, and how

REMEDY = (
    f"az login --tenant {TENANT} --scope {RESOURCE}/.default --allow-no-subscriptions"
)
PERSON = f"{REMEDY} --use-device-code"
PERSON_WITHOUT_SCOPE = (
    f"az login --tenant {TENANT} --allow-no-subscriptions --use-device-code"
)
SERVICE_PRINCIPAL = (
    "az login --allow-no-subscriptions --service-principal "
    f"--tenant {TENANT} --username {CLIENT_ID}"
)
APPLICATION = f"{SERVICE_PRINCIPAL} --password={CLIENT_SECRET}"
FEDERATED = f"{SERVICE_PRINCIPAL} --federated-token @../azure-identity-token"


@pytest.fixture
def run(azure: Azure) -> Run:
    """Run a command line, with the real az on PATH; return what it said."""
    # Microsoft's packages have a bash script, too; sh drops AZURE_AUTO-UPGRADE_ENABLE.
    az = azure.bin / "az"
    az.write_text(
        f"""#!{shutil.which("bash")}
echo "$*" >> "{azure.az_log}"
[ "$1" = upgrade ] && exit 1  # it would start itself again, without end
exec "{REAL_AZ}" "$@"
"""
    )
    az.chmod(0o755)

    def run(line: str, status: int = 0, **variables: str) -> str:
        settings = {
            "REQUESTS_CA_BUNDLE": str(azure.ca_file),
            "AZURE_CONFIG_DIR": str(azure.folder / "azure"),
            "AZURE_CORE_COLLECT_TELEMETRY": "no",
        }
        done = azure.run(*line.split(), **{**settings, **variables})
        said = done.stdout + done.stderr
        assert done.returncode == status, said
        return said

    return run


def assert_told(run: Run, *words: str, **variables: str) -> None:
    """Assert that a client's warning has these words for a user, and the diagnosis."""
    for line in (KEYRING, DIAGNOSIS):
        said = run(line, 1, **variables)
        for word in words:
            assert word in said


@pytest.mark.parametrize(
    ("sign_in", "scopes"),
    [
        (PERSON_WITHOUT_SCOPE, [READ, WRITE]),
        (APPLICATION, []),
        (FEDERATED, []),
    ],
)
def test_pip_installs_and_twine_uploads(
    azure: Azure, run: Run, sign_in: str, scopes: list[str]
) -> None:
    azure.pod()  # whose file the federated one reads
    run(sign_in)
    run(f"{INSTALL} --target site contoso-secrets")
    assert (azure.home / "site" / "contoso_secrets.py").exists()
    name, content = wheel("app")
    (azure.home / name).write_bytes(content)
    run(f"{UPLOAD} {name}")
    assert [content in body for body in azure.uploads] == [True]
    assert azure.scopes() == scopes


# --- What a user reads, and whether it helps


def test_the_remedy_signs_in_who_has_no_subscription(azure: Azure, run: Run) -> None:
    run("az login --use-device-code", 1)  # which keeps nothing
    assert_told(run, "Please run 'az login' to setup account.", REMEDY)
    run(PERSON)
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
    run(PERSON_WITHOUT_SCOPE)
    azure.refusal = refusal
    assert_told(run, "AADSTS{}: {}".format(*refusal), REMEDY)
    azure.refusal = 0, ""
    run(PERSON)
    run(KEYRING)


def test_az_asks_for_who_signed_in_last_alone(azure: Azure, run: Run) -> None:
    run(PERSON)
    run(PERSON.replace(TENANT, OTHER_TENANT))
    assert_told(run, "AADSTS50020: User account", f"tenant {TENANT}")
    run(f"az account set --subscription {TENANT}")
    run(KEYRING)


def test_an_application_is_unknown_in_another_tenant(azure: Azure, run: Run) -> None:
    run(APPLICATION)
    page = f"Bearer authorization_uri=https://login.windows.net/{OTHER_TENANT}"
    azure.challenge = {"WWW-Authenticate": page, "X-VSS-ResourceTenant": OTHER_TENANT}
    assert_told(run, f"AADSTS700016: Application with identifier '{CLIENT_ID}'")


def test_the_variable_that_az_obeys_is_named(azure: Azure, run: Run) -> None:
    run(PERSON_WITHOUT_SCOPE)
    other = str(azure.folder / "other.pem")
    trustme.CA().cert_pem.write_to_path(other)
    words = "certificate verify failed", "REQUESTS_CA_BUNDLE"
    assert_told(run, *words, REQUESTS_CA_BUNDLE=other)


def test_a_folder_that_nobody_can_make_is_named(run: Run) -> None:
    assert_told(run, "Error: [Errno", "'/sys", AZURE_CONFIG_DIR="/sys/azure")


def test_the_reason_is_told_before_the_traceback(azure: Azure, run: Run) -> None:
    run(PERSON)
    (azure.folder / "azure" / "msal_token_cache.json").write_text("{ broken")
    assert_told(run, "Expecting property name enclosed in double quotes")


# --- What az does besides


def test_az_needs_no_log(azure: Azure, run: Run) -> None:
    run(PERSON)
    folder = azure.folder / "azure" / "commands"
    shutil.rmtree(folder)
    folder.touch()  # as nobody can write there, root neither
    assert f"{folder}/" in run("az account get-access-token", 1)
    run(KEYRING)


def test_az_is_not_upgraded(azure: Azure, run: Run) -> None:
    newest = b'VERSION = "99.0.0"\n'  # which az reads before its first command
    azure.faults[STORAGE] = [lambda handler: handler.answer(200, newest)] * 3
    run(PERSON)
    run("az config set auto-upgrade.enable=yes auto-upgrade.prompt=no")
    assert azure.az_runs[-1] == "upgrade --all True -y"
    run(KEYRING)
    assert azure.az_runs[-1].startswith("account get-access-token")
