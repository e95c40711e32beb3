"""Show a person the main job, with no Azure account: `nox -s demo`.

The real pip, keyring and backend install a private package from a simulated Azure.
Exits with an error if the package does not arrive.
"""

from __future__ import annotations

import subprocess
import sys

from simulated_azure import INDEX_URL, Azure


def run(azure: Azure, title: str, *arguments: str, **variables: str) -> None:
    print(f"\n== {title}\n$ python", *arguments, flush=True)
    environment = azure.environment(PYTHONPATH=str(azure.home), **variables)
    subprocess.run([sys.executable, *arguments], env=environment, check=True)


def main() -> None:
    with Azure() as azure:
        azure.az_signed_in()
        options = ["--quiet", "--no-cache-dir", "--no-input"]
        options += ["--keyring-provider", "import", "--target", str(azure.home)]
        options += ["--index-url", INDEX_URL]
        run(
            azure,
            "pip installs from a private feed, and the backend tells what it does",
            *["-m", "pip", "install", *options, "contoso-secrets"],
            ARTIFACTS_KEYRING_NOFUSS_DEBUG="1",
        )
        read = "import contoso_secrets; print('The answer is', contoso_secrets.answer)"
        run(azure, "The package is there", "-c", read)
        assert len(azure.az_runs) == 1
        (scope,) = azure.scopes()
        diagnose = ["-m", "artifacts_keyring_nofuss", INDEX_URL]
        run(azure, "If it had failed, this would tell why", *diagnose)
    print(f"\nProven: one run of az and one {scope} token gave pip its package.")


if __name__ == "__main__":
    main()
