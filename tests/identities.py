"""Every way in which a process can sign in, for tests that hold for each of them."""

from __future__ import annotations

from typing import Callable

from simulated_azure import Azure, Issued

TOKEN = "ARTIFACTS_KEYRING_NOFUSS_TOKEN"
TOKEN_FILE = f"{TOKEN}_FILE"
PAT = "7hj3k5m8p2qr4tvw6xyz" * 4 + "7hj3"

Variables = dict[str, str]
Identity = Callable[
    [Azure], Variables
]  # prepares the Azure; returns what the process needs


def user(azure: Azure) -> Variables:
    azure.az_signed_in()
    return {}


def service_principal(azure: Azure) -> Variables:
    azure.az_signed_in(azure.application_token())
    return {}


def managed_identity(azure: Azure) -> Variables:
    azure.identity = azure.application_token()
    return {}


def app_service(azure: Azure) -> Variables:
    return {**managed_identity(azure), **azure.app_service()}


def azure_ml(azure: Azure) -> Variables:
    return {**managed_identity(azure), **azure.azure_ml()}


def token(azure: Azure) -> Variables:
    azure.passwords[PAT] = Issued("contoso", ["vso.packaging"])
    return {TOKEN: PAT}


def token_of_user(azure: Azure) -> Variables:
    return {TOKEN: azure.entra_token()}


def token_file(azure: Azure) -> Variables:
    path = azure.folder / "token"
    path.write_text(f"{azure.application_token()}\n", encoding="utf-8")
    return {TOKEN_FILE: str(path)}


def build_secret(azure: Azure) -> Variables:
    """Put a secret where a Docker build has it; a folder stands for /run/secrets."""
    azure.passwords[PAT] = Issued("contoso", ["vso.packaging"])
    secrets = azure.folder / "secrets"
    secrets.mkdir()
    (secrets / TOKEN).write_text(PAT, encoding="utf-8")
    dial = f"import artifacts_keyring_nofuss as m; m.SECRET_FILE = {str(secrets / TOKEN)!r}\n"
    (azure.folder / "sitecustomize.py").write_text(dial, encoding="utf-8")
    return {"PYTHONPATH": str(azure.folder)}


IDENTITIES: list[Identity] = [
    user,
    service_principal,
    managed_identity,
    app_service,
    azure_ml,
    token,
    token_of_user,
    token_file,
    build_secret,
    Azure.pod,
    Azure.github_job,
    Azure.client_secret,
]
