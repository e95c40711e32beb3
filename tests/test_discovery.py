"""Step 2: the feed's challenge, and what is believed of it."""

from __future__ import annotations

import re
from email.message import Message
from unittest import mock
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

import artifacts_keyring_nofuss as module
from conftest import AskHere, Python
from simulated_azure import AUTHORITY, FEED, INDEX_URL, STORAGE, TENANT, UPLOAD_URL, Azure, wheel

LOGIN = f"https://login.microsoftonline.com/{TENANT}"
BASIC = 'Basic realm="https://pkgsprodcus1.pkgs.visualstudio.com/"'
OTHER_TENANT = TENANT.replace("1", "9")
ZERO = "00000000-0000-0000-0000-000000000000"
LEGACY = "https://contoso.pkgs.visualstudio.com/_packaging/private/pypi/simple/"
CODEDEV = "https://pkgs.codedev.ms/contoso/_packaging/private/pypi/simple/"
VSTS_ME = "https://contoso.pkgs.vsts.me/_packaging/private/pypi/simple/"
CHALLENGE = {
    "WWW-Authenticate": [BASIC, f"Bearer authorization_uri={LOGIN}", "TFS-Federated"],
    "X-VSS-ResourceTenant": [TENANT],
    "X-VSS-AuthorizationEndpoint": [f"https://{AUTHORITY}/contoso/"],
}


def discover(overrides: dict[str, list[str]], url: str = INDEX_URL) -> module.Challenge:
    """Discover in this process, where the feed answers 401 with its headers or others instead."""
    headers = Message()
    for name, values in {**CHALLENGE, **overrides}.items():
        for value in values:
            headers[name] = value
    feed = module.parse_feed(url)
    assert feed
    with mock.patch.object(module, "http", return_value=module.Response(401, headers, b"")):
        challenge = module.discover(feed, 0.0)
    assert challenge
    return challenge


@pytest.mark.parametrize(
    "challenges",
    [
        [f"Bearer authorization_uri={LOGIN}", BASIC, "TFS-Federated"],
        [BASIC, "TFS-Federated", f"Bearer authorization_uri={LOGIN}"],
        [f"Bearer authorization_uri={LOGIN}, {BASIC}, TFS-Federated"],
        [f'{BASIC}, TFS-Federated, bearer realm="", authorization_uri="{LOGIN}"'],
        [f"TFS-Federated,Bearer  Authorization_URI = {LOGIN}/"],
        [f"Bearer authorization_uri=https://login.windows.net/{TENANT}"],
        [f"Bearer authorization_uri=https://login.microsoft.com:443/{TENANT}"],
    ],
)
def test_the_tenant_is_found_in_any_form_of_challenge(challenges: list[str]) -> None:
    found = discover({"WWW-Authenticate": challenges, "X-VSS-ResourceTenant": []})
    assert found.tenant == TENANT


@pytest.mark.parametrize("tenant", ["contoso.onmicrosoft.com", "ABCDEF" + TENANT[6:]])
def test_a_tenant_may_be_a_domain_name_and_is_told_in_lower_case(tenant: str) -> None:
    page = f"Bearer authorization_uri=https://login.windows.net/{tenant}"
    assert discover({"WWW-Authenticate": [page]}).tenant == tenant.lower()


@pytest.mark.parametrize("tenants", [[TENANT], [f"{ZERO}, {TENANT}"], [ZERO, TENANT]])
def test_without_an_authorization_uri_the_resource_tenant_counts(tenants: list[str]) -> None:
    found = discover({"WWW-Authenticate": ["Bearer", BASIC], "X-VSS-ResourceTenant": tenants})
    assert found.tenant == TENANT


def test_an_authorization_uri_counts_more_than_the_resource_tenant() -> None:
    assert discover({"X-VSS-ResourceTenant": [OTHER_TENANT]}).tenant == TENANT


UNTRUSTED_LOGINS = [
    f"https://evil.example/{TENANT}",
    f"http://login.windows.net/{TENANT}",
    f"https://login.windows.net.evil.example/{TENANT}",
    f"https://sub.login.windows.net/{TENANT}",
    f"https://evillogin.microsoftonline.com/{TENANT}",
    f"https://login.windows-ppe.net/{TENANT}",
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


@pytest.mark.parametrize("uri", UNTRUSTED_LOGINS)
@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer authorization_uri="{}"',
        f"Basic authorization_uri={{}}, Bearer authorization_uri={LOGIN}",
    ],
)
def test_an_untrusted_login_is_named_without_its_userinfo(uri: str, challenge: str) -> None:
    with pytest.raises(module.SignInError) as refused:
        discover({"WWW-Authenticate": [challenge.format(uri)]})
    shown = re.sub("//.*@", "//", uri)
    assert str(refused.value) == f"the feed's authorization_uri is not trusted: {shown}"


VSSPS = "https://vssps.dev.azure.com"
TRUSTED_AUTHORITIES = [
    (INDEX_URL, f"{VSSPS}/contoso/", f"{VSSPS}/contoso"),
    (INDEX_URL, "https://VSSPS.dev.azure.com:443/Contoso", f"{VSSPS}/Contoso"),
    (INDEX_URL, "https://app.vssps.visualstudio.com", "https://app.vssps.visualstudio.com"),
    (INDEX_URL, "https://vsspsext.dev.azure.com/contoso", "https://vsspsext.dev.azure.com/contoso"),
    (LEGACY, f"{VSSPS}/contoso/", f"{VSSPS}/contoso"),
    (LEGACY, "https://contoso.vssps.visualstudio.com/", "https://contoso.vssps.visualstudio.com"),
    (LEGACY, "https://vsspsext.visualstudio.com/", "https://vsspsext.visualstudio.com"),
    (CODEDEV, "https://vssps.codedev.ms/contoso", "https://vssps.codedev.ms/contoso"),
    (CODEDEV, "https://a.vssps.codedev.ms/", "https://a.vssps.codedev.ms"),
    (VSTS_ME, "https://a.vssps.vsts.me/", "https://a.vssps.vsts.me"),
]


@pytest.mark.parametrize(("url", "value", "authority"), TRUSTED_AUTHORITIES)
def test_the_authority_keeps_its_organization_and_drops_the_slash(
    url: str, value: str, authority: str
) -> None:
    assert discover({"X-VSS-AuthorizationEndpoint": [value]}, url).authority == authority


UNTRUSTED_AUTHORITIES = [
    "https://evil.example/contoso/",
    "http://vssps.dev.azure.com/contoso/",
    "https://vssps.dev.azure.com.evil.example/contoso/",
    "https://evilvssps.dev.azure.com/contoso/",
    "https://sub.vsspsext.dev.azure.com/contoso/",
    "https://vsspsext.dev.azure.com.evil.example/",
    "https://me@vssps.dev.azure.com/contoso/",
    "https://vssps.dev.azure.com:8443/contoso/",
    "https://vssps.dev.azure.com/contoso/more/",
    "https://vssps.dev.azure.com/contoso/?a=b",
    "https://vssps.dev.azure.com/contoso/#a",
    "https://vssps.dev.azure.com/../",
    "https://vssps.dev.azure.com\\@evil.example/",
    "https://v\u017fsps.dev.azure.com/",
    "vssps.dev.azure.com/contoso/",
    "https://dev.azure.com/contoso/",
    "https://pkgs.dev.azure.com/contoso/",
    "nonsense",
]
OF_ANOTHER_CLOUD = [
    (INDEX_URL, "https://vssps.codedev.ms/contoso"),
    (INDEX_URL, "https://app.vssps.vsts.me/"),
    (LEGACY, "https://vssps.codedev.ms/contoso"),
    (LEGACY, "https://contoso.vssps.vsts.me/"),
    (CODEDEV, "https://vssps.vsts.me/contoso"),
    (CODEDEV, "https://vssps.dev.azure.com/contoso"),
    (CODEDEV, "https://vsspsext.codedev.ms/contoso"),
    (VSTS_ME, "https://contoso.vssps.codedev.ms/"),
    (VSTS_ME, "https://contoso.vssps.visualstudio.com/"),
    (VSTS_ME, "https://vsspsext.vsts.me/"),
]


@pytest.mark.parametrize(
    ("url", "authority"),
    [*((INDEX_URL, authority) for authority in UNTRUSTED_AUTHORITIES), *OF_ANOTHER_CLOUD],
)
def test_an_untrusted_authority_is_named_without_its_userinfo(url: str, authority: str) -> None:
    with pytest.raises(module.SignInError) as refused:
        discover({"X-VSS-AuthorizationEndpoint": [authority]}, url)
    shown = re.sub("//.*@", "//", authority)
    assert str(refused.value) == f"the feed's X-VSS-AuthorizationEndpoint is not trusted: {shown}"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("WWW-Authenticate", f"Bearer authorization_uri={UNTRUSTED_LOGINS[0]}"),
        ("X-VSS-AuthorizationEndpoint", UNTRUSTED_AUTHORITIES[0]),
        ("X-VSS-AuthorizationEndpoint", "https://vssps.codedev.ms/contoso"),
    ],
)
def test_no_token_is_asked_for_on_behalf_of_an_untrusted_challenge(
    azure: Azure, ask_here: AskHere, header: str, value: str
) -> None:
    azure.az_signed_in()
    azure.identity = azure.application_token()
    azure.challenge = {header: value}
    outcome = ask_here(INDEX_URL)
    assert outcome.value is None
    assert "is not trusted" in outcome.warnings
    assert "find out who set it, and what stands between you and Azure" in outcome.warnings
    assert (azure.az_runs, azure.connects, azure.asked("imds")) == ([], [FEED], [])


@pytest.mark.parametrize("tenants", ["", ZERO, f"{ZERO},{ZERO}", "--help"])
def test_an_organization_without_entra_tenant_is_told_so(
    azure: Azure, ask_here: AskHere, tenants: str
) -> None:
    azure.az_signed_in()
    azure.challenge = {"WWW-Authenticate": ["Bearer", BASIC], "X-VSS-ResourceTenant": tenants}
    outcome = ask_here(INDEX_URL)
    assert outcome.value is None
    assert "contoso has no Entra tenant" in outcome.warnings
    page = "https://dev.azure.com/contoso/_usersSettings/tokens"
    remedy = f"set ARTIFACTS_KEYRING_NOFUSS_TOKEN to a personal access token, made at {page}"
    assert remedy in outcome.warnings
    assert azure.az_runs == []


def test_a_missing_authority_is_told() -> None:
    with pytest.raises(module.SignInError, match="Endpoint is not trusted: it is missing"):
        discover({"X-VSS-AuthorizationEndpoint": []})


FILE_URL = (
    f"https://{FEED}/contoso/_packaging/private/pypi/download/contoso-secrets/1.0/{wheel()[0]}"
)


@pytest.mark.parametrize("url", [INDEX_URL, f"{INDEX_URL}contoso-secrets/", FILE_URL])
def test_a_public_feed_needs_nothing_and_says_nothing(
    azure: Azure, ask_here: AskHere, url: str
) -> None:
    azure.az_signed_in()
    azure.public_feeds = {"private"}
    outcome = ask_here(url)
    assert (outcome.value, outcome.warnings) == (None, "")
    assert (azure.az_runs, azure.connects) == ([], [FEED])


def test_a_file_of_a_private_feed_needs_a_sign_in(azure: Azure, ask_here: AskHere) -> None:
    azure.az_signed_in()
    assert ask_here(FILE_URL).value
    assert azure.asked(STORAGE) == []


@pytest.mark.parametrize(
    "variables",
    [{}, {"ARTIFACTS_KEYRING_NOFUSS_TOKEN": "not a token"}],
    ids=["", "after a provider that fails"],
)
def test_a_public_feed_in_an_organization_says_nothing_of_the_others(
    azure: Azure, python: Python, variables: dict[str, str]
) -> None:
    azure.az_signed_in()
    azure.public_feeds = {"public"}
    public = INDEX_URL.replace("private", "public")
    outcome = python(f"show([ask({public!r}), bool(ask({INDEX_URL!r}))])", **variables)
    assert outcome.value == [None, True]


def test_an_upload_to_a_public_feed_signs_in(azure: Azure, ask_here: AskHere) -> None:
    azure.az_signed_in()
    azure.public_feeds = {"private"}
    assert ask_here(UPLOAD_URL).value
    assert azure.scopes() == ["vso.packaging_write"]


@pytest.mark.parametrize("status", [200, 405])
def test_an_upload_signs_in_even_without_a_challenge(
    azure: Azure, ask_here: AskHere, status: int
) -> None:
    azure.az_signed_in()
    tenant_and_authority = {
        "X-VSS-ResourceTenant": TENANT,
        "X-VSS-AuthorizationEndpoint": f"https://{AUTHORITY}/contoso/",
    }
    azure.faults[FEED] = [lambda handler: handler.answer(status, b"", {**tenant_and_authority})]
    assert ask_here(UPLOAD_URL).value


@pytest.mark.parametrize(
    ("status", "requests", "remedy"),
    [
        (302, 1, "check the organization and the feed in the URL"),
        (403, 1, "check the organization and the feed in the URL"),
        (404, 1, "check the organization and the feed in the URL"),
        (503, 3, "try again later"),
    ],
)
def test_a_feed_that_does_not_challenge_is_told(
    azure: Azure, ask_here: AskHere, status: int, requests: int, remedy: str
) -> None:
    azure.az_signed_in()
    away = {"Location": "https://evil.example/"}
    azure.faults[FEED] = [lambda handler: handler.answer(status, "<html>", {**away})] * 3
    outcome = ask_here(INDEX_URL)
    assert outcome.value is None
    assert f"the feed answered {status}, without a challenge to sign in" in outcome.warnings
    assert remedy in outcome.warnings
    assert (azure.az_runs, azure.connects) == ([], [FEED] * requests)


def test_the_feed_is_asked_once_and_without_credentials(azure: Azure, ask_here: AskHere) -> None:
    azure.az_signed_in()
    assert ask_here(INDEX_URL.replace("https://", "https://me:secret@") + "?q#f", "me").value
    (request,) = [request for request in azure.requests if request.host == FEED]
    assert (request.method, request.path) == ("GET", INDEX_URL.partition(FEED)[2])
    assert "authorization" not in request.headers
    assert request.headers["x-tfs-fedauthredirect"] == "Suppress"


def test_legacy_feeds_are_served(azure: Azure, ask_here: AskHere) -> None:
    azure.az_signed_in()
    assert ask_here("contoso.pkgs.visualstudio.com").value
    assert azure.connects == ["contoso.pkgs.visualstudio.com", "contoso.vssps.visualstudio.com"]


LOGIN_HOSTS = ["login.microsoftonline.com", "login.windows.net", "login.microsoft.com"]
AUTHORITIES = {  # of each feed: domains, and hosts that have no subdomains
    INDEX_URL: (
        {"vssps.dev.azure.com", "vssps.visualstudio.com"},
        {"vsspsext.dev.azure.com", "vsspsext.visualstudio.com"},
    ),
    CODEDEV: ({"vssps.codedev.ms"}, set[str]()),
    VSTS_ME: ({"vssps.vsts.me"}, set[str]()),
}
WORDS = ["Bearer", "Basic", "authorization_uri", "=", ",", " ", '"', "realm", LOGIN, "\\", TENANT]
WORDS += ["https://", "@", "/", ":443", "evil.example", "\u017f", "vssps.", "vsspsext.", "sub."]
WORDS += [*LOGIN_HOSTS, "dev.azure.com", "visualstudio.com", "codedev.ms", "vsts.me", "contoso"]
values = st.lists(st.sampled_from([*WORDS, *UNTRUSTED_LOGINS]) | st.text(max_size=3)).map("".join)
logins = st.builds(
    "Bearer authorization_uri=https://{}{}{}{}".format,
    st.sampled_from(["", "", "sub.", "evil", "me@", "login.windows.net@"]),
    st.sampled_from([*LOGIN_HOSTS, "login.windows-ppe.net", "evil.example"]),
    st.sampled_from(["/", "/", ":443/", ":1/", ".evil.example/", "/..//", "\\@evil.example/"]),
    st.sampled_from([TENANT, TENANT.upper(), "contoso.com", "common", "--help", f"{TENANT}/more"]),
)
NEAR_HOSTS = [
    f"{start}{service}.{domain}"
    for start in ("", "sub.", "evil")
    for service in ("vssps", "vsspsext", "v\u017fsps")
    for domain in ("dev.azure.com", "visualstudio.com", "codedev.ms", "vsts.me")
]
authorities = st.builds(
    "https://{}{}{}".format,
    st.sampled_from(["", "", "", "me@"]),
    st.sampled_from(NEAR_HOSTS),
    st.sampled_from(["", "/", ":443/", "/contoso", "/contoso/more", ".evil.example/", "/?a", ":1"]),
)


@given(st.lists(logins | values, max_size=3))
def test_no_challenge_raises_or_gets_past_the_allowlist(challenges: list[str]) -> None:
    headers = {"WWW-Authenticate": challenges, "X-VSS-ResourceTenant": [OTHER_TENANT]}
    try:
        tenant = discover(headers).tenant
    except module.SignInError:
        return
    pages = [f"https://{host}{port}/{tenant}" for host in LOGIN_HOSTS for port in ("", ":443")]
    said = " ".join(challenges).lower()
    assert tenant == OTHER_TENANT or any(page in said for page in pages)
    assert tenant.replace("-", "").replace(".", "").isalnum()
    assert not tenant.startswith("-")


@given(st.sampled_from([*AUTHORITIES]), authorities | values.map("https://".__add__))
def test_no_authority_raises_or_gets_past_the_allowlist(url: str, value: str) -> None:
    try:
        authority = urlsplit(discover({"X-VSS-AuthorizationEndpoint": [value]}, url).authority)
    except module.SignInError:
        return
    domains, hosts = AUTHORITIES[url]
    host = urlsplit(value).hostname or ""
    assert host in domains | hosts or any(host.endswith(f".{domain}") for domain in domains)
    assert (authority.scheme, authority.netloc) == ("https", host)
    assert authority.path.count("/") <= 1
    assert not authority.path.endswith("/")
