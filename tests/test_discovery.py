"""Step 2: the feed's challenge, and what is believed of it."""

from __future__ import annotations

import re
from email.message import Message
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

import artifacts_keyring_nofuss as module
from conftest import Ask
from simulated_azure import AUTHORITY, FEED, INDEX_URL, TENANT, UPLOAD_URL, Azure

LOGIN = f"https://login.microsoftonline.com/{TENANT}"
BASIC = 'Basic realm="https://pkgsprodcus1.pkgs.visualstudio.com/"'
ZERO = "00000000-0000-0000-0000-000000000000"


def challenge(*values: str) -> Message:
    headers = Message()
    for value in values:
        headers["WWW-Authenticate"] = value
    return headers


@pytest.mark.parametrize(
    "challenges",
    [
        [f"Bearer authorization_uri={LOGIN}", BASIC, "TFS-Federated"],
        [BASIC, "TFS-Federated", f"Bearer authorization_uri={LOGIN}"],
        [f"Bearer authorization_uri={LOGIN}, {BASIC}, TFS-Federated"],
        [f'{BASIC}, TFS-Federated, bearer realm="", authorization_uri="{LOGIN}"'],
        [f"TFS-Federated,Bearer  Authorization_URI = {LOGIN}/"],
        [f"Basic authorization_uri=https://evil.example/, Bearer authorization_uri={LOGIN}"],
        [f"Bearer authorization_uri=https://login.windows.net/{TENANT}"],
        [f"Bearer authorization_uri=https://login.microsoft.com:443/{TENANT}"],
    ],
)
def test_the_tenant_is_found_in_any_form_of_challenge(challenges: list[str]) -> None:
    assert module.challenge_tenant(challenge(*challenges)) == TENANT


def test_a_tenant_may_be_a_domain_name() -> None:
    bearer = "Bearer authorization_uri=https://login.windows.net/contoso.onmicrosoft.com"
    assert module.challenge_tenant(challenge(bearer)) == "contoso.onmicrosoft.com"


UNTRUSTED_LOGINS = [
    f"https://evil.example/{TENANT}",
    f"http://login.windows.net/{TENANT}",
    f"https://login.windows.net.evil.example/{TENANT}",
    f"https://sub.login.windows.net/{TENANT}",
    f"https://me:secret@login.windows.net/{TENANT}",
    f"https://login.windows.net:8443/{TENANT}",
    f"https://login.windows.net/{TENANT}/more",
    f"https://login.windows.net/{TENANT}?a=b",
    "https://login.windows.net/--help",
    "https://login.windows.net/-a.b",
    "https://login.windows.net/common",
    "https://login.windows.net/$(id)",
    "https://login.windows.net/",
    "https://login.windows.net",
    f"login.windows.net/{TENANT}",
    "nonsense",
]


def assert_untrusted(azure: Azure, ask: Ask, name: str, value: str) -> None:
    """Assert that the value is named, without userinfo, and that no token is asked for."""
    azure.az_signed_in()
    outcome = ask(INDEX_URL)
    assert outcome.value is None
    assert f"the feed's {name} is not trusted" in outcome.stderr
    assert re.sub("//.*@", "//", value) in outcome.stderr
    assert "secret" not in outcome.stderr
    assert (azure.az_runs, azure.connects, azure.asked("imds")) == ([], [FEED], [])


@pytest.mark.parametrize("uri", UNTRUSTED_LOGINS)
def test_an_untrusted_login_is_named_and_no_token_is_asked_for(
    azure: Azure, ask: Ask, uri: str
) -> None:
    azure.challenge = {"WWW-Authenticate": f'Bearer authorization_uri="{uri}"'}
    assert_untrusted(azure, ask, "authorization_uri", uri)


UNTRUSTED_AUTHORITIES = [
    "https://evil.example/contoso/",
    "http://vssps.dev.azure.com/contoso/",
    "https://vssps.dev.azure.com.evil.example/contoso/",
    "https://evilvssps.dev.azure.com/contoso/",
    "https://me@vssps.dev.azure.com/contoso/",
    "https://vssps.dev.azure.com:8443/contoso/",
    "https://vssps.dev.azure.com/contoso/more/",
    "https://vssps.dev.azure.com/contoso/?a=b",
    "https://vssps.dev.azure.com/contoso/#a",
    "https://vssps.dev.azure.com/../",
    "https://vssps.dev.azure.com\\@evil.example/",
    "vssps.dev.azure.com/contoso/",
    "nonsense",
]


@pytest.mark.parametrize("authority", UNTRUSTED_AUTHORITIES)
def test_an_untrusted_authority_is_named_and_no_token_is_asked_for(
    azure: Azure, ask: Ask, authority: str
) -> None:
    azure.challenge = {"X-VSS-AuthorizationEndpoint": authority}
    assert_untrusted(azure, ask, "X-VSS-AuthorizationEndpoint", authority)


@pytest.mark.parametrize(
    ("value", "authority"),
    [
        ("https://vssps.dev.azure.com/contoso/", "https://vssps.dev.azure.com/contoso"),
        ("https://VSSPS.dev.azure.com:443/Contoso", "https://vssps.dev.azure.com/Contoso"),
        ("https://contoso.vssps.visualstudio.com/", "https://contoso.vssps.visualstudio.com"),
        ("https://app.vssps.visualstudio.com", "https://app.vssps.visualstudio.com"),
        ("https://vssps.codedev.ms/contoso", "https://vssps.codedev.ms/contoso"),
        ("https://a.vssps.vsts.me/", "https://a.vssps.vsts.me"),
    ],
)
def test_the_authority_keeps_its_organization_and_drops_the_slash(
    value: str, authority: str
) -> None:
    assert module.trusted_authority(value) == authority


@pytest.mark.parametrize("tenants", [[TENANT], [f"{ZERO}, {TENANT}"], [ZERO, TENANT]])
def test_without_an_authorization_uri_the_resource_tenant_counts(
    azure: Azure, ask: Ask, tenants: list[str]
) -> None:
    azure.az_signed_in()
    azure.challenge = {"WWW-Authenticate": ["Bearer", BASIC], "X-VSS-ResourceTenant": tenants}
    assert ask(INDEX_URL).value
    assert TENANT in azure.az_runs[0]


def test_an_authorization_uri_counts_more_than_the_resource_tenant(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    azure.challenge = {"X-VSS-ResourceTenant": TENANT.replace("1", "9")}
    assert ask(INDEX_URL).value
    assert TENANT in azure.az_runs[0]


@pytest.mark.parametrize("tenants", ["", ZERO, f"{ZERO},{ZERO}", "--help"])
def test_an_organization_without_entra_tenant_is_told_so(
    azure: Azure, ask: Ask, tenants: str
) -> None:
    azure.az_signed_in()
    azure.challenge = {"WWW-Authenticate": ["Bearer", BASIC], "X-VSS-ResourceTenant": tenants}
    outcome = ask(INDEX_URL)
    assert outcome.value is None
    assert "contoso has no Entra tenant" in outcome.stderr
    assert "personal access token" in outcome.stderr
    assert azure.az_runs == []


def test_a_missing_authority_is_told(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    azure.challenge = {"X-VSS-AuthorizationEndpoint": ""}
    outcome = ask(INDEX_URL)
    assert "names no token service" in outcome.stderr
    assert azure.az_runs == []


def test_a_public_feed_needs_nothing_and_says_nothing(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    azure.public_feeds = {"private"}
    outcome = ask(INDEX_URL)
    assert (outcome.value, outcome.stderr, azure.az_runs) == (None, "", [])


def test_a_public_feed_in_an_organization_says_nothing_of_the_others(
    azure: Azure, python: Ask
) -> None:
    azure.az_signed_in()
    azure.public_feeds = {"public"}
    public = INDEX_URL.replace("private", "public")
    outcome = python(f"show([ask({public!r}), bool(ask({INDEX_URL!r}))])")
    assert outcome.value == [None, True]


def test_an_upload_to_a_public_feed_signs_in(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    azure.public_feeds = {"private"}
    assert ask(UPLOAD_URL).value
    assert azure.scopes() == ["vso.packaging_write"]


@pytest.mark.parametrize("status", [200, 405])
def test_an_upload_signs_in_even_without_a_challenge(azure: Azure, ask: Ask, status: int) -> None:
    azure.az_signed_in()
    tenant_and_authority = {
        "X-VSS-ResourceTenant": TENANT,
        "X-VSS-AuthorizationEndpoint": f"https://{AUTHORITY}/contoso/",
    }
    azure.faults[FEED] = [lambda handler: handler.answer(status, b"", {**tenant_and_authority})]
    assert ask(UPLOAD_URL).value


@pytest.mark.parametrize("status", [302, 403, 404])
def test_a_feed_that_does_not_challenge_is_told(azure: Azure, ask: Ask, status: int) -> None:
    azure.az_signed_in()
    away = {"Location": "https://evil.example/"}
    azure.faults[FEED] = [lambda handler: handler.answer(status, "<html>", {**away})]
    outcome = ask(INDEX_URL)
    assert outcome.value is None
    assert f"the feed answered {status}, without a challenge to sign in" in outcome.stderr
    assert "check the organization and the feed" in outcome.stderr
    assert (azure.az_runs, azure.connects) == ([], [FEED])


def test_the_feed_is_asked_once_and_without_credentials(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    assert ask(INDEX_URL.replace("https://", "https://me:secret@") + "?q#f", "me").value
    (request,) = [request for request in azure.requests if request.host == FEED]
    assert (request.method, request.path) == ("GET", INDEX_URL.partition(FEED)[2])
    assert "authorization" not in request.headers
    assert request.headers["x-tfs-fedauthredirect"] == "Suppress"


def test_legacy_feeds_are_served(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    assert ask("contoso.pkgs.visualstudio.com").value
    assert azure.connects == ["contoso.pkgs.visualstudio.com", "contoso.vssps.visualstudio.com"]


words = ["Bearer", "Basic", "authorization_uri", "=", ",", " ", '"', "realm", LOGIN, "\\", TENANT]
words += ["https://", "login.windows.net", "@", "/", "evil.example", "vssps.dev.azure.com", ":443"]
values = st.lists(st.sampled_from([*words, *UNTRUSTED_LOGINS]) | st.text(max_size=3)).map("".join)


@given(st.lists(values, max_size=3))
def test_no_challenge_raises_or_gets_past_the_allowlist(challenges: list[str]) -> None:
    uri = module.bearer_parameter(challenges, "authorization_uri")
    try:
        tenant = module.trusted_tenant(uri or LOGIN)
    except module.SignInError:
        return
    assert urlsplit(uri or LOGIN).hostname in module.LOGIN_HOSTS
    assert urlsplit(uri or LOGIN).path.strip("/") == tenant
    assert tenant.replace("-", "").replace(".", "").isalnum()
    assert not tenant.startswith("-")


@given(values | st.sampled_from(UNTRUSTED_AUTHORITIES) | values.map("https://".__add__))
def test_no_authority_raises_or_gets_past_the_allowlist(value: str) -> None:
    try:
        authority = module.trusted_authority(value)
    except module.SignInError:
        return
    url = urlsplit(authority)
    host = url.hostname or ""
    assert urlsplit(value).hostname == host
    assert any(host == name or host.endswith(f".{name}") for name in module.AUTHORITY_DOMAINS)
    assert authority.startswith(f"https://{host}")
    assert url.path.count("/") <= 1
    assert not url.path.endswith("/")
