"""Show a person the main job: pip installs a private package, with no Azure account.

Starts the simulated Azure, runs the real pip through the real keyring, and tells what each of
them was asked. Exits with an error if the package does not arrive.
"""

from __future__ import annotations

import subprocess
import sys

from simulated_azure import INDEX_URL, Azure, Recorded

MEANINGS = {
    ("GET", 401, False): "asked without credentials: here is where to sign in",
    ("POST", 200, True): "a bearer token of the user for a session token that only reads packages",
    ("GET", 200, True): "asked with the session token",
}


def title(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(azure: Azure, *arguments: str, **variables: str) -> None:
    print("$ python", *arguments, flush=True)
    environment = azure.environment(PYTHONPATH=str(azure.home), **variables)
    subprocess.run([sys.executable, *arguments], env=environment, check=True)


def describe(request: Recorded) -> str:
    meaning = MEANINGS.get((request.method, request.status, "authorization" in request.headers))
    return (
        f"  {request.status} {request.method} https://{request.host}{request.path}\n      {meaning}"
    )


def main() -> None:
    with Azure() as azure:
        title("A private feed in a simulated Azure, an az that is signed in, and a real pip")
        azure.az_signed_in()
        install = ["-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-input"]
        install += ["--keyring-provider", "import", "--target", str(azure.home)]
        install += ["--index-url", INDEX_URL, "contoso-secrets"]
        run(azure, *install, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
        title("The package is there")
        run(azure, "-c", "import contoso_secrets; print('The answer is', contoso_secrets.answer)")
        title("What az was asked")
        for arguments in azure.az_runs:
            print("  az", arguments)
        title("What Azure was asked (pip's requests and the backend's)")
        for request in azure.requests:
            print(describe(request))


if __name__ == "__main__":
    main()
