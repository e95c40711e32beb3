"""Which addresses are trusted: with a sign-in, and with what is secret in it."""

from __future__ import annotations

import re
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest
from hypothesis import given, strategies as st

import artifacts_keyring_nofuss as module
import identities as by
from artifacts_keyring_nofuss import parse_feed
from conftest import Ask
from simulated_azure import FEED, READ, TENANT, WRITE, Azure

KELVIN = "\u212a"  # str.lower() makes it a k, as re.IGNORECASE does without re.ASCII

# --- The table

URI = "the feed's authorization_uri"
AUTHORITY = "the feed's X-VSS-AuthorizationEndpoint"
GITHUB = "ACTIONS_ID_TOKEN_REQUEST_URL"
ENDPOINT = "IDENTITY_ENDPOINT"
IMDS = "AZURE_POD_IDENTITY_AUTHORITY_HOST"
EVIL = "https://evil.example/"
SECRETS = dict.fromkeys(
    ["AZURE_CLIENT_ID", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "IDENTITY_HEADER"], "x"
)

NEW = "https://pkgs.dev.azure.com/contoso/"
TRUSTED = {  # by what they are
    "feed": [
        NEW,
        "https://pkgs.dev.azure.com/contoso",
        "https://pkgs.dev.azure.com:443/contoso/",
        "https://me:secret@pkgs.dev.azure.com/contoso/",
        "HTTPS://PKGS.Dev.Azure.COM/contoso/?a=b/c@d#e",
        "https://pkgs.dev.azure.com/contoso/a b/ü",
        "https://contoso.pkgs.visualstudio.com",
        "https://pkgs.codedev.ms/contoso/",
        "https://contoso.pkgs.vsts.me/",
        "https://pkgs.visualstudio.com/contoso/",
        "https://eu.pkgs.dev.azure.com/contoso/",
    ],
    URI: [
        f"https://login.windows.net/{TENANT}",
        f"https://LOGIN.microsoftonline.com:443/{TENANT}/",
        "https://login.microsoft.com/contoso.com",
    ],
    AUTHORITY: [
        "https://vssps.dev.azure.com/contoso/",
        "https://contoso.VSSPS.visualstudio.com:443",
        "https://vsspsext.dev.azure.com/contoso",
        "https://app.vssps.visualstudio.com/",
    ],
    GITHUB: [
        "https://run-1.actions.githubusercontent.com/1//idtoken/a?api-version=2.0",
        "https://actions.githubusercontent.com:443/",
        "https://vstoken.eu.actions.githubusercontent.com/x",
    ],
    ENDPOINT: [
        "http://localhost:42/msi/token",
        "http://169.254.169.254",
        "http://[fd00::1]:80/x",
        "HTTP://imds/a-b",
    ],
}
HOSTILE = {  # forms of the first of each kind, by its scheme, its host and its path
    "",
    "ftp://{1}{2}",
    "{0}s://{1}{2}",
    "{0}:{1}{2}",
    "{0}:/{1}{2}",
    "{0}:///{1}{2}",
    "//{1}{2}",
    "{1}{2}",
    "{0}://{1}.{2}",
    "{0}://{1}:{2}",
    "{0}://{1}:x{2}",
    "{0}://{1}:443:443{2}",
    "{0}://.{1}{2}",
    "{0}://{1}.evil.example{2}",
    "{0}://evil.example/{1}{2}",
    "{0}://evil.example?@{1}{2}",
    "{0}://evil.example#@{1}{2}",
    "{0}://evil.example\\@{1}{2}",
    "{0}://{1}\\@evil.example{2}",
    "{0}://{1}@evil.example{2}",
    "{0}://me@evil.example@{1}{2}",
    "{0}:evil.example@{1}{2}",
    "{0}://[{1}]{2}",
    "{0}://[{1}{2}",
    "{0}://{1}]{2}",
    "{0}://{1}%2f@evil.example{2}",
    "{0}://{1}%00.evil.example{2}",
    "{0}://{1} {2}",
    "{0}://{1}\t{2}",
    "{0}://{1}\uff0f.evil.example{2}",
    "{0}://evil.example\u3002{1}{2}",
    " {0}://{1}{2}",
    "{0}://{1}{2}\n",
    "{0}://{1}{2}\x00",
    "{0}://{1}{2}\x7f\x85\u2028",
    "{0}://{1}{2}\ud800",
}
PORTS = {"http://{1}{2}", "{0}://{1}:8443{2}"}  # a metadata service has any
USERS = {"{0}://me@{1}{2}", "{0}://me:secret@{1}{2}"}  # a feed may have one
HOSTILE_TO = {
    "feed": {
        *PORTS,
        "pypi.org",
        "https://pypi.org/simple/",
        "a" * 10_000,
        "contoso.pkgs.visualstudio.com",
        "python-poetry-check",
        "https://{1}",
        "https://{1}/",
        "https://{1}//contoso/",
        "https://{1}/_packaging/feed/pypi/simple/",
        "https://pkgs.visualstudio.com/",
        "https://evil{1}{2}",
        "https://a..pkgs.visualstudio.com/",
        f"https://{'a' * 64}.pkgs.visualstudio.com/",
        "https://{1}/../contoso/",
        "https://{1}{2}../fabrikam/",
        "https://{1}{2}%2E%2e/fabrikam/",
        "https://{1}{2}%2e%2e%2ffabrikam/",
        "https://{1}{2}..%5cfabrikam/",
        "https://{1}{2}x\\..\\..\\fabrikam/",
        "https://{1}/%63ontoso/",
        f"https://p{KELVIN}gs.dev.azure.com/contoso/",
        f"https://{{1}}/{KELVIN}contoso/",
        f"https://{KELVIN}contoso.pkgs.visualstudio.com/",
    },
    URI: {*PORTS, *USERS, "https://{1}/", "https://{1}{2}/../x", "https://{1}{2}?x"},
    AUTHORITY: {
        *PORTS,
        *USERS,
        "https://evil{1}{2}",
        "https://{1}{2}?x",
        "https://{1}{2}#x",
        "https://{1}/../",
        "https://vssps.codedev.ms/",  # is of another feed's cloud
        "https://dev.azure.com/contoso/",
    },
    GITHUB: {
        *PORTS,
        *USERS,
        "https://{1}",
        "https://evilactions.githubusercontent.com/",
        "https://github.contoso.example/_services/token",
    },
    ENDPOINT: {*USERS, "http://{1}{2}?x", "http://{1}{2}#x", "http://evil.example/"},
}


@pytest.mark.parametrize("kind", TRUSTED)
def test_these_addresses_are_trusted_and_no_others(
    azure: Azure, ask: Ask, kind: str
) -> None:
    """By the patterns that a sign-in has for them."""
    with patch.object(module, "trusted", wraps=module.trusted) as spy:
        for identity in (by.app_service, Azure.github_job, by.user):
            ask(**identity(azure))
    patterns = {call[0][0]: call[0][1] for call in spy.call_args_list}

    def is_trusted(url: str) -> bool:
        if kind == "feed":
            return parse_feed(url) is not None
        try:
            return bool(module.trusted("it", patterns[kind], url))
        except module.SignInError:
            return False

    parts = re.findall("^(.*?)://([^/]*)(.*)", TRUSTED[kind][0])[0]
    hostile = {form.format(*parts) for form in HOSTILE | HOSTILE_TO[kind]}
    assert [*filter(is_trusted, TRUSTED[kind])] == TRUSTED[kind]
    assert [*filter(is_trusted, hostile)] == []


@pytest.mark.parametrize(
    ("name", "address", "told"),
    [
        ("WWW-Authenticate", f"Bearer authorization_uri={EVIL}{TENANT}", "not trusted"),
        ("X-VSS-AuthorizationEndpoint", EVIL, "not trusted"),
        ("X-VSS-AuthorizationEndpoint", EVIL, "evil.example is not to be asked"),
        (GITHUB, EVIL, "not trusted"),
        (GITHUB, EVIL, "evil.example is not to be asked"),
        (ENDPOINT, "{}/msi/token?x", "not trusted"),
        (IMDS, "{}/?x", "not trusted"),
    ],
)
def test_nothing_is_sent_to_another_address(
    azure: Azure, ask: Ask, name: str, address: str, told: str
) -> None:
    """Not even if it were trusted."""
    address = address.format(azure.metadata.url)
    is_header = "-" in name
    if is_header:
        azure.challenge = {name: address}
        azure.az_signed_in()
    trusted = re.compile("(.*)()") if "asked" in told else None
    wraps = (lambda *given: trusted.fullmatch(given[2])) if trusted else module.trusted
    with patch.object(module, "trusted", wraps=wraps):
        assert told in ask(**SECRETS, **{name: address}).failure
    assert azure.connects == [FEED]
    assert not azure.asked("imds") or is_header  # it comes after az


# --- A feed's URL

UPLOAD = "kiosk/_packaging/feed/pypi/upload/"
FEEDS = [*TRUSTED["feed"], f"https://me@pkgs.dev.azure.com:443/{UPLOAD}?a#b"]
FEEDS += [url.replace("k", KELVIN) for url in FEEDS]
PIECES = [
    *"@:/\\?#.[]%& \t\n\0\ud800\u3002\uff0f",
    "//",
    "..",
    "%2f",
    ":443",
    "x.example",
]


@given(
    st.sampled_from(FEEDS),
    st.integers(0, 50),
    st.sampled_from(PIECES) | st.text(max_size=9),
)
def test_a_feed_is_one_for_all_parsers(url: str, at: int, piece: str) -> None:
    """urllib, browsers, and people who split at the first @ see the host we ask."""
    url = url[:at] + piece + url[at:]
    feed = parse_feed(url)
    if feed:
        host = urlsplit(feed.url).netloc
        authority = re.split(r"[/\\?#]", url.partition("://")[2])[0].lower()
        others = authority.rpartition("@")[2], authority.partition("@")[2] or authority
        readings = {
            urlsplit(url).hostname,
            *(text.partition(":")[0] for text in others),
        }
        assert readings == {host}
        assert re.fullmatch(r"([\w-]+\.)?pkgs\.[\w.]+", host, re.ASCII)
        assert feed.organization.encode() in url.encode().lower()  # of ASCII alone
        assert feed.scope == READ or "/_packaging/" in url
        assert feed.url.isascii()
        assert parse_feed(feed.url) == feed


def test_a_feed_is_asked_by_its_normal_url() -> None:
    # A person may paste it into a shell.
    service = "HTTPS://me:secret@PKGS.Dev.Azure.COM:443/Contoso/a b/$(ü){}?a=b/c@d#e"
    normal = "https://pkgs.dev.azure.com/Contoso/a%20b/%24%28%C3%BC%29"
    for path, usual in [("", "/"), ("/x-1.0.whl", "/x-1.0.whl")]:
        assert getattr(parse_feed(service.format(path)), "url", "") == normal + usual


def test_only_the_upload_endpoint_may_write() -> None:
    writes = {
        "_packaging/feed/pypi/upload",
        "_packaging/feed/pypi/upload//",
        "project/_packaging/feed/PyPI/Upload/?x=y",
    }
    reads = {
        "_packaging/feed/pypi/simple/",
        "_packaging/feed/pypi/simple/upload/",
        "_packaging/feed/pypi/upload/more/",
        "_packaging/feed/pypi/simple/?to=/pypi/upload/",
        "pypi/upload/",
        "_packaging/a/pypi/simple/_packaging/b/pypi/upload/",
        "_packaging/feed/npm/upload/",
        f"_pac{KELVIN}aging/feed/pypi/upload/",
        "_packaging/feed/pyp\u0131/upload/",
    }
    scopes = {
        path: getattr(parse_feed(NEW + path), "scope", "") for path in writes | reads
    }
    assert scopes == {**dict.fromkeys(writes, WRITE), **dict.fromkeys(reads, READ)}
