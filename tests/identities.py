"""Every way in which a process can sign in, for tests that hold for each of them."""

from __future__ import annotations

from typing import Callable, NamedTuple

from simulated_azure import AUTHORITY, ENTRA, GITHUB, IMDS, Azure

TOKEN = "ARTIFACTS_KEYRING_NOFUSS_TOKEN"
TOKEN_FILE = f"{TOKEN}_FILE"
PAT = "7hj3k5m8p2qr4tvw6xyz" * 4 + "7hj3"

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
    return {**managed_identity(azure), **azure.app_service()}


def azure_ml(azure: Azure) -> Variables:
    return {**managed_identity(azure), **azure.azure_ml()}


def token(azure: Azure) -> Variables:
    azure.takes(PAT)
    return {TOKEN: PAT}


def token_of_user(azure: Azure) -> Variables:
    return {TOKEN: azure.entra_token()}


def token_file(azure: Azure) -> Variables:
    path = azure.folder / "token"
    path.write_text(f"{azure.application_token()}\n", encoding="utf-8")
    return {TOKEN_FILE: str(path)}


def build_secret(azure: Azure) -> Variables:
    """Put a secret where a Docker build has it; a folder stands for /run/secrets."""
    azure.takes(PAT)
    secrets = azure.folder / "secrets"
    secrets.mkdir()
    (secrets / TOKEN).write_text(PAT, encoding="utf-8")
    dial = f"m.SECRET_FILE = {str(secrets / TOKEN)!r}\n"
    dial = f"import artifacts_keyring_nofuss as m\n{dial}"
    (azure.folder / "sitecustomize.py").write_text(dial, encoding="utf-8")
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
    managed_identity: Way("managed_identity", [IMDS]),
    app_service: Way("managed_identity", [IMDS]),
    azure_ml: Way("managed_identity", [IMDS]),
}
IDENTITIES = [*WAYS, build_secret]
