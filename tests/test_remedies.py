"""What to do about each refusal: for each row of a table the words that get it.

What people see whole is in tests/golden; nowhere else are these words of ours asserted.
"""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone

import pytest
import trustme

import artifacts_keyring_nofuss as module
from conftest import Ask, Python
from identities import user
from simulated_azure import AUTHORITY, ENTRA, FEED, TENANT, Azure, authority
from simulated_faults import status
from simulated_identity import RESOURCE

LOGIN = (
    f"az login --tenant {TENANT} --scope {RESOURCE}/.default --allow-no-subscriptions"
)
SWITCH = f"az account set --subscription {TENANT} || {LOGIN}"
GET = f"az account get-access-token --resource {RESOURCE} --tenant {TENANT}"


def assert_told(remedy: str, warning: str) -> None:
    """Assert that a line below the reasons begins with a remedy."""
    assert f"\n      {remedy}" in warning


# --- By code

BY_CODE = {
    SWITCH: "AADSTS50020",
    "ask your administrator: a policy forbids this sign-in": "AADSTS53003 VS403463",
    "give the application a federated credential": "AADSTS700211 AADSTS700213",
    f"the client id of an application in tenant {TENANT}": "AADSTS700016",
    GET: "AADSTS700024",
    "its value, not its ID": "AADSTS7000215 AADSTS7000222",
    "this account is no member of contoso: ": "TF400813",
    "then try again; for an application": "TF401444",
    "check the project in the URL": "VS800075",
}
CODES = {code: advice for advice, codes in BY_CODE.items() for code in codes.split()}


def refuse(azure: Azure, words: str) -> dict[str, str]:
    """Let Entra refuse an application, or Azure DevOps a person."""
    if "AADSTS" in words:
        azure.faults[ENTRA] = [status(401, {"error_description": words})]
        return azure.pod()
    azure.faults[AUTHORITY] = [status(403, {"message": words})]
    return user(azure)


@pytest.mark.parametrize("code", module.REMEDIES)
def test_a_code_gets_its_remedy(azure: Azure, ask: Ask, code: str) -> None:
    remedy = CODES[code]
    told = ask(**refuse(azure, f"VS1, {code}: Words of others.")).warnings
    assert [other for other in BY_CODE if other in told] == [remedy]
    assert remedy not in ask(**refuse(azure, f"{code}9: Words.")).warnings


# --- By what az says, in its own words

POOL = "HTTPSConnectionPool(host='login.microsoftonline.com', port=443): "
WRITABLE = "export AZURE_CONFIG_DIR=$(mktemp -d) && cp -R ~/.azure/. $AZURE_CONFIG_DIR"
NEW_CACHE = f"rm ~/.azure/msal_token_cache.*; {LOGIN}"
BY_AZ = {
    "managed identity account": (
        "For managed identity account, getting access token for non-current tenants is",
        f"sign in to az as an identity of tenant {TENANT}",
    ),
    "service principal": (
        "Could not retrieve credential for service principal 9. Run `az login` for it.",
        f"az login --service-principal --tenant {TENANT} --allow-no-subscriptions",
    ),
    "certificate": (
        f"{POOL}(Caused by SSLError(1, '[SSL] certificate verify failed: unable",
        "set REQUESTS_CA_BUNDLE to a PEM file of ",
    ),
    " 407 ": (
        f"{POOL}(Caused by OSError('Tunnel connection failed: 407 Proxy Authentication",
        "set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT, percent-encoded",
    ),
    "HTTPSConnectionPool": (
        f"{POOL}(Caused by NewConnectionError([Errno 111] Connection refused",
        "check the network and HTTPS_PROXY",
    ),
    "Permission denied": (
        "[Errno 13] Permission denied: '/root/.azure/msal_token_cache.json.lockfile'",
        WRITABLE,
    ),
    "Read-only file system": (
        "[Errno 30] Read-only file system: '/root/.azure/az.json'",
        WRITABLE,
    ),
    "az account set": (
        "No subscription found. Run 'az account set' to select a subscription.",
        SWITCH,
    ),
    "az login": (
        "AADSTS50076: You must use multi-factor authentication.\naz logout\naz login",
        LOGIN,
    ),
    "ecrypt": (
        "Decryption failed: [WinError -2146893813] Key not valid for use in specified",
        NEW_CACHE,
    ),
    "Expecting property name": (
        "Expecting property name enclosed in double quotes: line 1 column 3 (char 2)",
        NEW_CACHE,
    ),
    "": ("Expecting value: line 1 column 1 (char 0)", GET),
}


@pytest.mark.parametrize("row", module.AZ_REMEDIES)
def test_what_az_says_gets_its_remedy(azure: Azure, ask: Ask, row: str) -> None:
    words, remedy = BY_AZ[row]
    assert row == next(part for part in module.AZ_REMEDIES if part in words)
    azure.az_fails(f"ERROR: {words}")
    assert_told(remedy, ask().warnings)


# --- By what the network says, and by a feed's status

NOW = datetime.now(timezone.utc)
DAY = timedelta(days=1)
BY_NETWORK = {
    "mismatch": "find out who answers here",
    "expired": "check this machine's clock",
    "not yet valid": "check this machine's clock",
    "CERTIFICATE_VERIFY_FAILED": "set SSL_CERT_FILE to a PEM file of the certificates",
    "failed: 407": "set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT",
    "": "check the network and HTTPS_PROXY",
}
DAYS = {"expired": -2, "not yet valid": 1}


@pytest.mark.parametrize("row", module.NETWORK)
def test_what_the_network_says_gets_its_remedy(
    azure: Azure, ask: Ask, row: str
) -> None:
    """Another attempt at a bad certificate would not help."""
    if row in ("", "failed: 407"):
        azure.proxy_refuses = (407 if row else 403), "No"
    start = NOW + DAYS.get(row, -0.5) * DAY
    azure.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer = trustme.CA() if row.startswith("CERT") else authority()
    host = AUTHORITY if row == "mismatch" else FEED
    certificate = issuer.issue_cert(host, not_before=start, not_after=start + DAY)
    certificate.configure_cert(azure.tls)
    told = ask().warnings
    assert row in told
    assert_told(BY_NETWORK[row], told)
    assert (len(azure.connects), azure.requests) == (1, [])


def test_on_macos_the_keychain_has_the_certificates(python: Python) -> None:
    reload = 'import sys, importlib; sys.platform = "darwin"; importlib.reload(module)'
    words = python(f"{reload}; show([*module.NETWORK.values()])").value
    assert "\nsecurity find-certificate -a -p /Library" in "".join(words)


@pytest.mark.parametrize(
    ("code", "words", "remedy"),
    [
        (302, "Found", "find out who answers here"),
        (403, "Forbidden", "find out who answers here"),
        (404, "Not Found", "check the organization, the project and the feed in"),
        (503, "Service Unavailable", "try again later"),
    ],
)
def test_what_a_feed_says_that_does_not_challenge_gets_its_remedy(
    azure: Azure, ask: Ask, code: int, words: str, remedy: str
) -> None:
    """Nobody is asked for a token, and no redirect is followed."""
    azure.az_signed_in()
    azure.faults[FEED] = [status(code, Location="https://evil.example/")] * 3
    told = ask().failure
    assert f" the feed answered {code}: {words}\n" in told
    assert_told(remedy, told)
    assert (azure.az_runs, {*azure.connects}) == ([], {FEED})
