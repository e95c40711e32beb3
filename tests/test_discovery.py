"""Step 2: the feed's challenge, without which nobody is asked for a token."""

from __future__ import annotations

import pytest

from conftest import Ask, Python
from identities import PAT, TOKEN, app_service, managed_identity
from simulated_azure import (
    AUTHORITY,
    FEED,
    IMDS,
    INDEX_URL,
    STORAGE,
    TENANT,
    UPLOAD_URL,
    Azure,
    Handler,
    wheel,
)
from simulated_faults import status
from simulated_identity import RESOURCE

BASIC = 'Basic realm="https://pkgsprodcus1.pkgs.visualstudio.com/", TFS-Federated'
LOGIN = f"https://login.windows.net/{TENANT}"
PAGE = f"Bearer authorization_uri={LOGIN}"
OTHER = TENANT.replace("1", "9")
ZERO = "00000000-0000-0000-0000-000000000000"
LEGACY = "https://contoso.pkgs.visualstudio.com/_packaging/private/pypi/simple/"
FILE_URL = INDEX_URL.replace("simple", f"download/contoso-secrets/1.0/{wheel()[0]}")[
    :-1
]


@pytest.mark.parametrize("url", [INDEX_URL, LEGACY, FILE_URL])
def test_the_feed_is_asked_once_and_without_credentials(
    azure: Azure, ask: Ask, url: str
) -> None:
    azure.az_signed_in()
    assert ask(url.replace("//", "//me:secret@") + "?q#f", "me").value
    first, _ = azure.requests
    assert url == f"https://{first.host}{first.path}"
    assert "authorization" not in first.headers
    assert first.headers["x-tfs-fedauthredirect"] == "Suppress"  # else no challenge


# --- The tenant


@pytest.mark.parametrize(
    ("challenges", "tenant"),
    [
        ([BASIC, PAGE], TENANT),
        (f"{PAGE}, {BASIC}", TENANT),
        (f'{BASIC}, bearer realm="", authorization_uri="{LOGIN}/"', TENANT),
        (f"{BASIC},Bearer  Authorization_URI = {LOGIN}", TENANT),
        (PAGE.replace(TENANT, "Contoso.com"), "contoso.com"),
        (["Bearer", BASIC], OTHER),  # as the resource's
    ],
)
def test_the_tenant_is_found_in_any_form_of_challenge(
    azure: Azure, ask: Ask, challenges: str | list[str], tenant: str
) -> None:
    """In lower case, which az wants of it for the account of a managed identity."""
    others = f"{ZERO}, {OTHER}"
    azure.challenge = {"WWW-Authenticate": challenges, "X-VSS-ResourceTenant": others}
    azure.az_not_signed_in()
    ask()
    options = f"--resource {RESOURCE} --tenant {tenant} --output json"
    assert azure.az_runs == [f"account get-access-token {options}"]


@pytest.mark.parametrize("tenants", ["", ZERO, f"{ZERO},{ZERO}", "--help"])
def test_without_a_tenant_only_a_given_token_signs_in(
    azure: Azure, ask: Ask, tenants: str
) -> None:
    azure.az_signed_in()
    azure.takes(PAT)
    azure.challenge = {"WWW-Authenticate": ["Bearer"], "X-VSS-ResourceTenant": tenants}
    assert "token: not configured; " in ask(**managed_identity(azure)).failure
    assert (azure.az_runs, azure.asked(IMDS)) == ([], [])
    assert ask(**{TOKEN: PAT}).password == PAT


# --- The token service


CLOUDS = {
    INDEX_URL: "https://vssps.dev.azure.com/contoso/",
    "https://pkgs.codedev.ms/contoso/": "https://vssps.codedev.ms/contoso",
    "https://contoso.pkgs.vsts.me/": "https://contoso.vssps.vsts.me",
}


@pytest.mark.parametrize("url", CLOUDS)
@pytest.mark.parametrize("authority", CLOUDS.values())
def test_each_cloud_has_a_token_service_of_its_own(
    azure: Azure, ask: Ask, url: str, authority: str
) -> None:
    azure.az_signed_in()
    azure.challenge = {"X-VSS-AuthorizationEndpoint": authority}
    is_trusted = authority == CLOUDS[url]
    assert bool(ask(url).value) is is_trusted
    assert len(azure.connects) == 1 + is_trusted


# --- Public feeds


@pytest.mark.parametrize("url", [INDEX_URL, f"{INDEX_URL}contoso-secrets/", FILE_URL])
def test_a_public_feed_serves_who_is_signed_in_and_tells_others_at_debug_alone(
    azure: Azure, ask: Ask, url: str
) -> None:
    """It may have refused a package that nobody has saved from upstream yet."""
    azure.public_feeds = {"private"}
    asked = ask(url, **managed_identity(azure))
    assert (asked.value, asked.warnings, azure.asked(IMDS)) == (None, "", [])
    assert "azure_cli: az is not on PATH" in asked.log
    assert ask(url, **app_service(azure)).value
    azure.az_signed_in()
    assert ask(url).value
    assert azure.asked(STORAGE) == []


def test_a_feed_that_is_public_or_refuses_a_role_says_nothing_of_the_others(
    azure: Azure, python: Python
) -> None:
    azure.public_feeds = {"public"}
    azure.faults[FEED] = [*[Handler.answer_feed] * 3, status(403)]
    first, second = (INDEX_URL.replace("private", name) for name in ("public", "other"))
    variables = managed_identity(azure)
    done = python("one_by_one.py", first, second, INDEX_URL, **variables)
    assert done.value == [None, None, ["VssSessionToken", azure.identity]]
    assert done.stderr.count("no credentials for") == 1


# --- Where there is no challenge


def test_an_upload_signs_in_even_without_a_challenge(azure: Azure, ask: Ask) -> None:
    azure.public_feeds = {"private"}
    variables = managed_identity(azure)
    challenge = {"X-VSS-AuthorizationEndpoint": f"https://{AUTHORITY}/contoso/"}
    challenge["X-VSS-ResourceTenant"] = TENANT
    for code in (200, 405):
        azure.faults[FEED] = [status(code, **challenge)]
        assert ask(UPLOAD_URL, **variables).password == azure.identity
    azure.az_signed_in()
    assert ask(UPLOAD_URL).value
    assert azure.scopes() == ["vso.packaging_write"]
