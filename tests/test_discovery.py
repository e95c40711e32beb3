"""Step 2: the feed's challenge, without which nobody is asked for a token."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

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
    Answer,
    Azure,
    Handler,
    wheel,
)
from simulated_faults import refuses, status

BASIC = 'Basic realm="https://pkgsprodcus1.pkgs.visualstudio.com/", TFS-Federated'
LOGIN = f"https://login.windows.net/{TENANT}"
PAGE = f"Bearer authorization_uri={LOGIN}"
OTHER = TENANT.replace("1", "9")
ZERO = "00000000-0000-0000-0000-000000000000"
LEGACY = "https://contoso.pkgs.visualstudio.com/_packaging/private/pypi/simple/"
CODEDEV = "https://pkgs.codedev.ms/contoso/_packaging/private/pypi/simple/"
VSTS_ME = "https://contoso.pkgs.vsts.me/_packaging/private/pypi/simple/"
FOLDER = "/contoso/_packaging/private/pypi/download/contoso-secrets/1.0/"
FILE_URL = f"https://{FEED}{FOLDER}{wheel()[0]}"


def test_the_feed_is_asked_once_and_without_credentials(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    assert ask(INDEX_URL.replace("//", "//me:secret@") + "?q#f", "me").value
    (request,) = [request for request in azure.requests if request.host == FEED]
    assert (request.method, request.path) == ("GET", INDEX_URL.partition(FEED)[2])
    assert "authorization" not in request.headers


# --- The tenant


@pytest.mark.parametrize(
    ("challenges", "others", "tenant"),
    [
        ([PAGE, BASIC], "", TENANT),
        ([BASIC, PAGE], OTHER, TENANT),
        ([f"{PAGE}, {BASIC}"], "", TENANT),
        ([f'{BASIC}, bearer realm="", authorization_uri="{LOGIN}/"'], "", TENANT),
        ([f"{BASIC},Bearer  Authorization_URI = {LOGIN}"], "", TENANT),
        ([PAGE.replace(TENANT, "Contoso.com")], OTHER, "contoso.com"),
        (["Bearer", BASIC], TENANT, TENANT),
        (["Bearer", BASIC], f"{ZERO}, {TENANT}", TENANT),
    ],
    ids=range(8),
)
def test_the_tenant_is_found_in_any_form_of_challenge(
    azure: Azure, ask: Ask, challenges: list[str], others: str, tenant: str
) -> None:
    azure.challenge = {"WWW-Authenticate": challenges, "X-VSS-ResourceTenant": others}
    azure.az_not_signed_in()
    ask()
    assert f" --tenant {tenant} " in azure.az_runs[0]


@pytest.mark.parametrize("tenants", ["", ZERO, f"{ZERO},{ZERO}", "--help"])
def test_without_a_tenant_only_a_given_token_signs_in(
    azure: Azure, ask: Ask, tenants: str
) -> None:
    azure.az_signed_in()
    azure.takes(PAT)
    azure.challenge = {"WWW-Authenticate": ["Bearer"], "X-VSS-ResourceTenant": tenants}
    asked = ask(**managed_identity(azure))
    assert asked.value is None
    assert "the Entra tenant is none" in asked.warnings
    assert (azure.az_runs, azure.asked(IMDS)) == ([], [])
    assert ask(**{TOKEN: PAT}).password == PAT


# --- The token service


@pytest.mark.parametrize(
    ("url", "authority", "is_trusted"),
    [
        (INDEX_URL, "https://vssps.dev.azure.com/contoso/", True),
        (LEGACY, "https://contoso.vssps.visualstudio.com/", True),
        (LEGACY, "https://contoso.vssps.vsts.me/", False),
        (CODEDEV, "https://vssps.codedev.ms/contoso", True),
        (CODEDEV, "https://vssps.dev.azure.com/contoso", False),
        (CODEDEV, "https://vsspsext.codedev.ms/contoso", False),
        (VSTS_ME, "https://a.vssps.vsts.me", True),
        (VSTS_ME, "https://contoso.vssps.codedev.ms/", False),
    ],
)
def test_each_cloud_has_a_token_service_of_its_own(
    azure: Azure, ask: Ask, url: str, authority: str, is_trusted: bool
) -> None:
    azure.az_signed_in()
    azure.challenge = {"X-VSS-AuthorizationEndpoint": authority}
    assert bool(ask(url).value) is is_trusted
    assert azure.connects[1:] == [urlsplit(authority).hostname][: int(is_trusted)]


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


def test_a_public_feed_says_nothing_of_the_others(azure: Azure, python: Python) -> None:
    azure.public_feeds = {"public"}
    public = INDEX_URL.replace("private", "public")
    done = python("one_by_one.py", public, INDEX_URL, **managed_identity(azure))
    assert done.value == [None, ["VssSessionToken", azure.identity]]
    assert done.stderr == ""


# --- Where there is no challenge


@pytest.mark.parametrize("code", [200, 405])
def test_an_upload_signs_in_even_without_a_challenge(
    azure: Azure, ask: Ask, code: int
) -> None:
    azure.az_signed_in()
    azure.public_feeds = {"private"}
    place = {"X-VSS-AuthorizationEndpoint": f"https://{AUTHORITY}/contoso/"}
    azure.faults[FEED] = [status(code, **{"X-VSS-ResourceTenant": TENANT, **place})]
    for _ in range(2):  # the second time there is one
        assert ask(UPLOAD_URL).value
    assert azure.scopes() == ["vso.packaging_write"] * 2


NO_FEED = "The feed with ID 'private' doesn't exist."


@pytest.mark.parametrize(
    ("answer", "words", "requests"),
    [
        (status(302, Location="https://evil.example/"), "302: Found", 2),
        (
            partial(Handler.refuse_at_feed, status=404, message=NO_FEED),
            f"404: Not Found - {NO_FEED}",
            1,
        ),
        (refuses(404, "VS800075: No project."), "404: VS800075: No project.", 1),
        (status(403), "403: Forbidden", 1),
        (status(503), "503: Service Unavailable", 3),
    ],
)
def test_a_feed_that_does_not_challenge_is_told_in_its_own_words(
    azure: Azure, ask: Ask, answer: Answer, words: str, requests: int
) -> None:
    azure.az_signed_in()
    azure.faults[FEED] = [answer] * 3
    asked = ask()
    assert asked.value is None
    assert f" the feed answered {words}\n" in asked.warnings
    assert (azure.az_runs, azure.connects) == ([], [FEED] * requests)
