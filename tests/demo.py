"""Show a person the main job, with no Azure account: `nox -s demo`.

The real pip, keyring and backend install a private package from a simulated Azure.
Exits with an error if the package does not arrive.
"""

from __future__ import annotations

import shlex
import subprocess
import sys

from simulated_azure import INDEX_URL, Azure

INSTALL = (
    "-m pip install --quiet --no-cache-dir --no-input --keyring-provider import "
    f"--target . --index-url {INDEX_URL} contoso-secrets"
)
READ = '-c "import contoso_secrets; print(contoso_secrets.answer)"'
DIAGNOSE = f"-m artifacts_keyring_nofuss {INDEX_URL}"


def run(azure: Azure, title: str, line: str, **variables: str) -> None:
    print(f"\n== {title}\n$ python {line}", flush=True)
    command = [sys.executable, *shlex.split(line)]
    environment = azure.environment(**variables)
    subprocess.run(command, cwd=azure.home, env=environment, check=True)


def main() -> None:
    with Azure() as azure:
        azure.az_signed_in()
        run(
            azure,
            "pip installs from a private feed, and the backend tells what it does",
            INSTALL,
            ARTIFACTS_KEYRING_NOFUSS_DEBUG="1",
        )
        run(azure, "The package is there, and has the answer", READ)
        assert len(azure.az_runs) == 1
        (scope,) = azure.scopes()
        run(azure, "If it had failed, this would tell why", DIAGNOSE)
    print(f"\nProven: one run of az and one {scope} token gave pip its package.")


if __name__ == "__main__":
    main()
