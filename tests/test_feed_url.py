"""Step 1: which service names are feeds, and what is known of a feed from its URL."""

from __future__ import annotations

import re
from string import ascii_lowercase, ascii_uppercase
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from artifacts_keyring_nofuss import parse_feed
from conftest import Python
from simulated_azure import INDEX_URL, Azure

NEW = "https://pkgs.dev.azure.com/contoso/"
LEGACY = "https://contoso.pkgs.visualstudio.com/"
READ, WRITE = "vso.packaging", "vso.packaging_write"
KELVIN = "\u212a"  # str.lower() makes it a k, and re.IGNORECASE without re.ASCII takes it for one


@pytest.mark.parametrize(
    ("service", "url"),
    [
        (INDEX_URL, INDEX_URL),
        (NEW, NEW),
        ("https://pkgs.dev.azure.com/contoso", NEW),
        ("pkgs.dev.azure.com/contoso", NEW),
        ("https://pkgs.dev.azure.com:443/contoso/", NEW),
        ("https://me:secret@pkgs.dev.azure.com/contoso/", NEW),
        ("https://contoso@pkgs.dev.azure.com/contoso/", NEW),
        ("me@pkgs.dev.azure.com/contoso/", NEW),
        ("HTTPS://PKGS.Dev.Azure.COM/contoso/", NEW),
        ("https://pkgs.dev.azure.com/contoso/?a=b/c@d#e", NEW),
        ("https://pkgs.dev.azure.com/contoso#sha256=0", NEW),
        ("https://pkgs.dev.azure.com/contoso/a%20b", NEW + "a%20b/"),
        ("https://pkgs.dev.azure.com/contoso/a b/ü", NEW + "a%20b/%C3%BC/"),
        ("https://pkgs.dev.azure.com/contoso/f/x-1.0.whl", NEW + "f/x-1.0.whl"),
        ("https://contoso.pkgs.visualstudio.com", LEGACY),
        ("contoso.pkgs.visualstudio.com", LEGACY),
        ("https://pkgs.codedev.ms/contoso/", "https://pkgs.codedev.ms/contoso/"),
        ("https://contoso.pkgs.vsts.me/", "https://contoso.pkgs.vsts.me/"),
        ("https://pkgs.visualstudio.com/contoso/", "https://pkgs.visualstudio.com/contoso/"),
        ("https://eu.pkgs.dev.azure.com/contoso/", "https://eu.pkgs.dev.azure.com/contoso/"),
    ],
)
def test_a_feed_is_known_by_its_normal_url(service: str, url: str) -> None:
    feed = parse_feed(service)
    assert feed
    assert (feed.url, feed.organization) == (url, "contoso")


@pytest.mark.parametrize(
    "service",
    [
        None,
        "",
        " ",
        "/",
        "@",
        "a" * 10_000,
        "pypi.org",
        "https://pypi.org/simple/",
        "http://pkgs.dev.azure.com/contoso/",
        "ftp://pkgs.dev.azure.com/contoso/",
        "file:///pkgs.dev.azure.com/contoso/",
        "https:pkgs.dev.azure.com/contoso/",
        "https:/pkgs.dev.azure.com/contoso/",
        "https:///pkgs.dev.azure.com/contoso/",
        "//pkgs.dev.azure.com/contoso/",
        "https://pkgs.dev.azure.com:8443/contoso/",
        "https://pkgs.dev.azure.com:/contoso/",
        "https://pkgs.dev.azure.com:x/contoso/",
        "https://pkgs.dev.azure.com:443:443/contoso/",
        "https://pkgs.dev.azure.com",
        "https://pkgs.dev.azure.com/",
        "https://pkgs.dev.azure.com//contoso/",
        "https://pkgs.dev.azure.com/_packaging/feed/pypi/simple/",
        "https://pkgs.visualstudio.com/",
        "https://evilpkgs.dev.azure.com/contoso/",
        "https://pkgs.dev.azure.com.evil.example/contoso/",
        "https://pkgs.dev.azure.com./contoso/",
        "https://.pkgs.dev.azure.com/contoso/",
        "https://a..pkgs.visualstudio.com/",
        f"https://{'a' * 64}.pkgs.visualstudio.com/",
        "https://evil.example/pkgs.dev.azure.com/contoso/",
        "https://evil.example?@pkgs.dev.azure.com/contoso/",
        "https://evil.example#@pkgs.dev.azure.com/contoso/",
        "https://evil.example\\@pkgs.dev.azure.com/contoso/",
        "https://pkgs.dev.azure.com\\@evil.example/contoso/",
        "https://pkgs.dev.azure.com@evil.example/contoso/",
        "https://me@evil.example@pkgs.dev.azure.com/contoso/",
        "https:evil.example@pkgs.dev.azure.com/contoso/",
        "evil.example:x@pkgs.dev.azure.com/contoso/",
        "https://[pkgs.dev.azure.com]/contoso/",
        "https://[::1]/contoso/",
        "https://[pkgs.dev.azure.com/contoso/",
        "https://pkgs.dev.azure.com]/contoso/",
        "https://pkgs.dev.azure.com%2f@evil.example/",
        "https://pkgs.dev.azure.com%00.evil.example/",
        "https://pkgs.dev.azure.com /contoso/",
        " https://pkgs.dev.azure.com/contoso/",
        "https://pkgs.dev.azure.com/contoso/\n",
        "https://pkgs.dev.azure.com/con\ttoso/",
        "https://pkgs.dev.azure.com/contoso/\x00",
        "https://pkgs.dev.azure.com/contoso/\x7f\x85\u2028",
        "https://pkgs.dev.azure.com/contoso/\ud800",
        "https://pkgs.dev.azure.com/../contoso/",
        "https://pkgs.dev.azure.com/contoso/../fabrikam/",
        "https://pkgs.dev.azure.com/contoso/%2E%2e/fabrikam/",
        "https://pkgs.dev.azure.com/contoso/%2e%2e%2ffabrikam/",
        "https://pkgs.dev.azure.com/contoso/..%5cfabrikam/",
        "https://pkgs.dev.azure.com/contoso/x\\..\\..\\fabrikam/",
        "https://pkgs.dev.azure.com/%63ontoso/",
        "https://pkgs\u3002dev\u3002azure\u3002com/contoso/",
        f"https://p{KELVIN}gs.dev.azure.com/contoso/",
        f"https://pkgs.dev.azure.com/{KELVIN}contoso/",
        f"https://{KELVIN}contoso.pkgs.visualstudio.com/",
        "https://pkgs.dev.azure.com\uff0f.evil.example/contoso/",
        "python-poetry-check",
        "pdm-pypi-private",
    ],
)
def test_other_services_are_not_feeds(service: str | None) -> None:
    assert parse_feed(service) is None


def test_other_services_are_refused_without_network(azure: Azure, python: Python) -> None:
    """By this backend alone: keyring's own for Windows fails for some of them."""
    services = [None, "", "https://pypi.org/simple/", "http://pkgs.dev.azure.com/contoso/", "\x00"]
    backend = "artifacts_keyring_nofuss.ArtifactsKeyringBackend"
    azure.az_signed_in()
    script = f"for service in {services!r}: show(ask(service))"
    outcome = python(script, PYTHON_KEYRING_BACKEND=backend)
    assert outcome.values == [None] * len(services)
    assert (outcome.stderr, azure.connects, azure.requests, azure.az_runs) == ("", [], [], [])


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("_packaging/feed/pypi/upload", WRITE),
        ("_packaging/feed/pypi/upload/", WRITE),
        ("project/_packaging/feed/PyPI/Upload/", WRITE),
        ("_packaging/feed/pypi/upload/?x=y", WRITE),
        ("_packaging/feed/pypi/simple/", READ),
        ("_packaging/feed/pypi/simple/upload/", READ),
        ("_packaging/feed/pypi/upload/more/", READ),
        ("_packaging/feed/pypi/simple/?to=/pypi/upload/", READ),
        ("pypi/upload/", READ),
        ("_packaging/a/pypi/simple/_packaging/b/pypi/upload/", READ),
        ("_packaging/feed/npm/upload/", READ),
        (f"_pac{KELVIN}aging/feed/pypi/upload/", READ),
        ("_packaging/feed/pyp\u0131/upload/", READ),
    ],
)
def test_only_the_upload_endpoint_may_write(path: str, scope: str) -> None:
    feed = parse_feed(NEW + path)
    assert feed
    assert feed.scope == scope


def test_each_organization_scope_and_host_has_a_credential_of_its_own() -> None:
    services = [
        NEW,
        "https://pkgs.dev.azure.com/fabrikam/",
        LEGACY,
        "https://fabrikam.pkgs.visualstudio.com/",
        "https://pkgs.visualstudio.com/contoso/",
        "https://contoso.pkgs.vsts.me/contoso/",
        NEW + "_packaging/feed/pypi/upload/",
    ]
    assert len({feed.credential_key for feed in map(parse_feed, services) if feed}) == len(services)


def test_feeds_of_an_organization_share_a_credential() -> None:
    services = [NEW, "https://pkgs.dev.azure.com/CONTOSO/_packaging/b/pypi/simple/", INDEX_URL]
    assert len({feed.credential_key for feed in map(parse_feed, services) if feed}) == 1


DOMAINS = ("pkgs.dev.azure.com", "pkgs.visualstudio.com", "pkgs.codedev.ms", "pkgs.vsts.me")
FEEDS = [NEW, LEGACY, "https://me@pkgs.dev.azure.com:443/contoso/?a#b"]
FEEDS += ["https://pkgs.dev.azure.com/kiosk/_packaging/feed/pypi/upload/"]
FEEDS += ["https://kiosk.pkgs.visualstudio.com/_packaging/feed/pypi/upload/"]
LOOKALIKES = {"k": KELVIN, "s": "\u017f", "i": "\u0131"}
PIECES = [*DOMAINS, "https://", "http://", "evil.example", "contoso", ":443", ":", "user"]
PIECES += [*"@/\\?#.[]%& \t\n\x00", "..", "%2f", "%40", "\u3002", "\uff0f", "_packaging"]
PIECES += ["/pypi/upload/", "HTTPS://", "//", *LOOKALIKES.values(), "\ud800"]
pieces = st.sampled_from(PIECES) | st.text(max_size=3)
mutated_feeds = st.builds(
    lambda url, piece, at: url[:at] + piece + url[at:],
    st.sampled_from(FEEDS),
    pieces,
    st.integers(0, 50),
)
disguised_feeds = st.builds(
    lambda url, letter, count: url[::-1].replace(letter, LOOKALIKES[letter], count)[::-1],
    st.sampled_from(FEEDS),
    st.sampled_from([*LOOKALIKES]),
    st.integers(1, 5),
)
urls = mutated_feeds | disguised_feeds | st.lists(pieces, max_size=10).map("".join) | st.text()
ASCII_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def hosts_by_other_parsers(url: str) -> set[str]:
    """Read the host as urllib does, as browsers do, and as people who split at the first @ do."""
    url = url if url.lower().startswith("https://") else f"https://{url}"
    authority = re.split(r"[/\\?#]", url[len("https://") :])[0]
    readings = [urlsplit(url).hostname or "", authority.rpartition("@")[2]]
    readings.append(authority.partition("@")[2] or authority)
    return {reading.lower().partition(":")[0] for reading in readings}


@given(urls)
@example(f"https://p{KELVIN}gs.dev.azure.com/kiosk/_packaging/feed/pypi/upload/")
@example(f"https://pkgs.dev.azure.com/{KELVIN}iosk/_packaging/feed/pypi/upload/")
@example(f"https://{KELVIN}iosk.pkgs.visualstudio.com/_packaging/feed/pypi/upload/")
@example(f"https://pkgs.dev.azure.com/kiosk/_pac{KELVIN}aging/feed/pypi/upload/")
def test_no_url_raises_or_gets_past_the_allowlist(url: str) -> None:
    feed = parse_feed(url)
    if feed:
        assert hosts_by_other_parsers(url) == {feed.host}
        assert feed.host in DOMAINS or feed.host.partition(".")[2] in DOMAINS
        said = url.translate(ASCII_LOWER)
        assert feed.host in said
        assert feed.organization in said
        assert feed.scope == READ or "/_packaging/" in said
        assert feed.url.startswith(f"https://{feed.host}/")
        assert urlsplit(feed.url).hostname == feed.host
        assert feed.url.isascii()
        assert parse_feed(feed.url) == feed
