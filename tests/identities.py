"""Every way in which a process can sign in, for tests that hold for each of them."""

from __future__ import annotations

from typing import Callable, NamedTuple

from simulated_azure import (
    AUTHORITY,
    CLIENT_ID,
    ENTRA,
    GITHUB,
    IMDS,
    SECRET_HEADER,
    Azure,
)

TOKEN = "ARTIFACTS_KEYRING_NOFUSS_TOKEN"
TOKEN_FILE = f"{TOKEN}_FILE"
PAT = "7hj3k5m8p2qr4tvw6xyz9" * 4

Variables = dict[str, str]
Identity = Callable[[Azure], Variables]  # prepares it; returns what a process needs


def user(azure: Azure) -> Variables:
    azure.az_signed_in()
    return {}


def service_principal(azure: Azure) -> Variables:
    azure.az_signed_in(azure.application_token())
    return {}


def opaque_user(azure: Azure) -> Variables:
    azure.encrypted = True
    return user(azure)


def managed_identity(azure: Azure) -> Variables:
    azure.identity = azure.application_token()
    return {}


def app_service(azure: Azure) -> Variables:
    managed_identity(azure)
    return {
        "IDENTITY_ENDPOINT": f"{azure.metadata.url}/msi/token",
        "IDENTITY_HEADER": SECRET_HEADER,
    }


def azure_ml(azure: Azure) -> Variables:
    managed_identity(azure)
    return {
        "MSI_ENDPOINT": f"{azure.metadata.url}/MSI/auth",
        "MSI_SECRET": SECRET_HEADER,
        "DEFAULT_IDENTITY_CLIENT_ID": CLIENT_ID,
    }


def token(azure: Azure) -> Variables:
    azure.takes(PAT)
    return {TOKEN: PAT}


def token_of_user(azure: Azure) -> Variables:
    return {TOKEN: azure.entra_token()}


def token_file(azure: Azure) -> Variables:
    path = azure.folder / "token"
    path.write_text(f"{azure.application_token()}\n")
    return {TOKEN_FILE: str(path)}


def build_secret(azure: Azure) -> Variables:
    """Put a secret where a Docker build has it; the folder stands for /run/secrets."""
    azure.takes(PAT)
    secret = azure.folder / TOKEN
    secret.write_text(PAT)
    dial = f"import artifacts_keyring_nofuss as m; m.SECRET_FILE = {str(secret)!a}"
    (azure.folder / "sitecustomize.py").write_text(dial)
    return {"PYTHONPATH": str(azure.folder)}


class Way(NamedTuple):
    """Whose way to sign in it is, and whose answers it needs beside the feed's."""

    provider: str
    services: list[str]


# The one list of providers, in the order in which they are asked
WAYS: dict[Identity, Way] = {
    token: Way("token", []),
    token_file: Way("token", []),
    token_of_user: Way("token", [AUTHORITY]),
    Azure.pod: Way("workload_identity", [ENTRA]),
    Azure.github_job: Way("workload_identity", [GITHUB, ENTRA]),
    Azure.client_secret: Way("workload_identity", [ENTRA]),
    user: Way("azure_cli", [AUTHORITY]),
    service_principal: Way("azure_cli", []),
    **dict.fromkeys(
        [managed_identity, app_service, azure_ml], Way("managed_identity", [IMDS])
    ),
}
IDENTITIES = [*WAYS, build_secret]
