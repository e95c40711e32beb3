"""Whose certificates are trusted, what is told of others, and which proxies are obeyed."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
import trustme
from OpenSSL import crypto

import artifacts_keyring_nofuss as module
from conftest import Ask, Fetch
from simulated_azure import AUTHORITY, FEED, IMDS, INDEX_URL, Azure
from simulated_services import authority

NOW = datetime.now(timezone.utc)
DAY = timedelta(days=1)


# --- What is trusted


def certificates(azure: Azure, kind: str) -> str:
    """Return the file with Azure's authority, or a folder as OpenSSL wants it, or several."""
    if kind == "file":
        return str(azure.ca_file)
    pem = azure.ca_file.read_bytes()
    subject = crypto.load_certificate(crypto.FILETYPE_PEM, pem).subject_name_hash()
    folder = azure.folder / "certificates"
    folder.mkdir()
    (folder / f"{subject:08x}.0").write_bytes(pem)
    folders = [azure.folder / "missing", folder] if kind == "folders" else [folder]
    return os.pathsep.join(map(str, folders))


def strangers(azure: Azure) -> str:
    """Return the file of an authority that this Azure does not use."""
    path = azure.folder / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("variable", "kind"),
    [
        ("SSL_CERT_FILE", "file"),
        ("SSL_CERT_DIR", "folder"),
        ("SSL_CERT_DIR", "folders"),
        ("REQUESTS_CA_BUNDLE", "file"),
        ("REQUESTS_CA_BUNDLE", "folder"),
        ("CURL_CA_BUNDLE", "file"),
        ("CURL_CA_BUNDLE", "folder"),
    ],
)
def test_the_trusted_certificates_can_be_set(
    azure: Azure, fetch: Fetch, variable: str, kind: str
) -> None:
    variables = {"SSL_CERT_FILE": "", variable: certificates(azure, kind)}
    assert fetch(INDEX_URL, **variables).status == 401


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "file"),
        ("SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "folder"),
        ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "file"),
    ],
)
def test_the_certificates_of_the_first_variable_count(
    azure: Azure, fetch: Fetch, first: str, second: str, kind: str
) -> None:
    ours, others = certificates(azure, kind), strangers(azure)
    assert fetch(INDEX_URL, **{"SSL_CERT_FILE": "", first: ours, second: others}).status == 401
    with pytest.raises(module.SignInError, match="certificate not trusted"):
        fetch(INDEX_URL, **{"SSL_CERT_FILE": "", first: others, second: ours})


def system(monkeypatch: pytest.MonkeyPatch, file: str = "", folder: str = "") -> None:
    """Give the system these certificates and no others; what has been read of it is forgotten."""
    paths = ssl.DefaultVerifyPaths("", "", "SSL_CERT_FILE", file, "SSL_CERT_DIR", folder)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    module.tls_context.cache_clear()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    module.tls_context.cache_clear()


not_on_windows = pytest.mark.skipif(
    os.name == "nt", reason="Windows keeps its certificates in a store, not in files"
)


@not_on_windows
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_empty_variable_leaves_the_certificates_of_the_system(
    azure: Azure, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    system(monkeypatch, **{kind: certificates(azure, kind)})
    empty = dict.fromkeys(module.CA_VARIABLES, "")
    assert fetch(INDEX_URL, **empty).status == 401


@not_on_windows
@pytest.mark.parametrize("folder", ["missing", "home"])  # which is empty
def test_a_system_without_certificates_is_told(
    azure: Azure, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    system(monkeypatch, str(azure.folder / "missing.pem"), str(azure.folder / folder))
    monkeypatch.setitem(sys.modules, "certifi", None)
    monkeypatch.setitem(sys.modules, "pip._vendor.certifi", None)
    with pytest.raises(module.SignInError, match="has no certificates") as caught:
        fetch(INDEX_URL, SSL_CERT_FILE="")
    assert caught.value.remedy == "install ca-certificates, or set SSL_CERT_FILE"
    assert azure.connects == []


@not_on_windows
@pytest.mark.parametrize("name", ["certifi", "pip._vendor.certifi"])
def test_a_system_without_certificates_trusts_those_that_come_with_python_packages(
    azure: Azure, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    system(monkeypatch)
    monkeypatch.setitem(sys.modules, "certifi", None)
    bundle = SimpleNamespace(where=lambda: str(azure.ca_file))
    monkeypatch.setitem(sys.modules, name, bundle)
    assert fetch(INDEX_URL, SSL_CERT_FILE="").status == 401


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_unusable_certificates_are_told(azure: Azure, fetch: Fetch, content: bytes | None) -> None:
    path = azure.folder / "bundle.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(module.SignInError, match="REQUESTS_CA_BUNDLE cannot be used: "):
        fetch(INDEX_URL, SSL_CERT_FILE="", REQUESTS_CA_BUNDLE=str(path))


# --- What is not trusted


@pytest.mark.parametrize(
    ("host", "start", "end", "words", "remedy"),
    [
        (FEED, NOW - 2 * DAY, NOW - DAY, "certificate has expired", "clock"),
        (FEED, NOW + DAY, NOW + 2 * DAY, "certificate is not yet valid", "clock"),
        (AUTHORITY, NOW - DAY, NOW + DAY, "Hostname mismatch", "who answers in place of this host"),
    ],
    ids=["expired", "not yet valid", "of another host"],
)
def test_a_bad_certificate_is_told_with_what_may_be_wrong(
    azure: Azure,
    fetch: Fetch,
    host: str,
    start: datetime,
    end: datetime,
    words: str,
    remedy: str,
) -> None:
    azure.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(host, not_before=start, not_after=end).configure_cert(azure.tls)
    match = rf"^pkgs\.dev\.azure\.com: certificate not trusted: {words}"
    with pytest.raises(module.SignInError, match=match) as caught:
        fetch(INDEX_URL)
    assert remedy in caught.value.remedy
    assert "SSL_CERT_FILE" not in caught.value.remedy
    assert (len(azure.connects), azure.requests) == (1, [])


def test_an_unknown_issuer_is_told_with_the_variables_and_ends_the_sign_in(
    azure: Azure, ask: Ask
) -> None:
    azure.az_signed_in()
    outcome = ask(INDEX_URL, SSL_CERT_FILE=strangers(azure))
    assert outcome.value is None
    assert "pkgs.dev.azure.com: certificate not trusted: " in outcome.stderr
    variables = "SSL_CERT_FILE or SSL_CERT_DIR or REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE"
    assert f"set {variables} to the certificates to trust" in outcome.stderr
    assert (len(azure.connects), azure.requests, azure.az_runs) == (1, [], [])


def old_tls(protocol: int) -> ssl.SSLContext:
    """Return the context of a Python that is built to follow the settings of a lax system."""
    context = ssl.SSLContext(protocol)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_not_spoken(azure: Azure, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.tls = old_tls(ssl.PROTOCOL_TLS_SERVER)
    azure.tls.maximum_version = ssl.TLSVersion.TLSv1_1
    authority().issue_cert(FEED).configure_cert(azure.tls)
    lax = SimpleNamespace(**{**vars(ssl), "SSLContext": old_tls})
    monkeypatch.setitem(sys.modules, "ssl", lax)
    with pytest.raises(module.SignInError, match=r"pkgs\.dev\.azure\.com: no connection: "):
        fetch(INDEX_URL)
    assert azure.handshakes == 0


def test_the_keys_of_tls_are_not_logged(azure: Azure, fetch: Fetch) -> None:
    log = azure.folder / "keys"
    assert fetch(INDEX_URL, SSLKEYLOGFILE=str(log)).status == 401
    assert not log.exists()


# --- Proxies


@pytest.mark.parametrize(
    ("variable", "form"),
    [
        ("https_proxy", "http://{}"),
        ("HTTPS_PROXY", "{}"),
        ("HTTPS_PROXY", "HTTP://{}"),
        ("HTTPS_PROXY", " http://{}\n"),
        ("HTTPS_PROXY", "http://{}/"),
        ("HTTPS_PROXY", "http://{}/proxy.pac"),
        ("ALL_PROXY", "http://{}"),
        ("all_proxy", "http://{}"),
    ],
)
def test_a_proxy_may_be_written_in_many_ways(
    azure: Azure, fetch: Fetch, variable: str, form: str
) -> None:
    proxy = form.format(azure.proxy.url.partition("//")[2])
    assert fetch(INDEX_URL, **{"HTTPS_PROXY": "", variable: proxy}).status == 401
    assert azure.connects == [FEED]


def test_the_proxy_for_https_goes_before_the_one_for_all(azure: Azure, fetch: Fetch) -> None:
    assert fetch(INDEX_URL, ALL_PROXY="http://127.0.0.1:9").status == 401


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://me:secret@x:1",
        "socks5h://x:1",
        "https://me:secret@x:1",
        "http://me:secret",
        "http://me:se/cr@x:1",
        "http://me:12/secret@x:1",
        "http://me:12?secret@x:1",
        "http://me:12#secret@x:1",
        "http://x:y",
        "//",
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_another_proxy_is_refused_and_not_shown(
    azure: Azure, fetch: Fetch, variable: str, proxy: str
) -> None:
    with pytest.raises(module.SignInError) as caught:
        fetch(INDEX_URL, **{"HTTPS_PROXY": "", variable: proxy})
    assert str(caught.value) == "the proxy is not an http URL"
    assert caught.value.remedy.startswith("set HTTPS_PROXY to ")
    assert azure.connects == []


def test_no_proxy_is_obeyed(azure: Azure, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up of the name is replaced, so that no test ever leaves for the real Azure."""
    looked_up = []

    def look_up(host: str, *_: object) -> None:
        looked_up.append(host)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(module.SignInError, match="no connection"):
        fetch(INDEX_URL, NO_PROXY=FEED, HTTPS_PROXY="socks5://127.0.0.1:9")
    assert {*looked_up} == {FEED}
    assert azure.connects == []


def test_no_proxy_ever_sees_the_metadata_service(azure: Azure, ask: Ask) -> None:
    azure.identity = azure.application_token()
    names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
    assert ask(INDEX_URL, **dict.fromkeys(names, azure.proxy.url)).value
    assert azure.asked("") == []
    (request,) = [request for request in azure.requests if request.host == IMDS]
    assert request.path.startswith("/metadata/")


SIGN_IN = "put the user and password of the proxy into HTTPS_PROXY"
CHECK = "check the network and HTTPS_PROXY"


@pytest.mark.parametrize(
    ("answer", "words", "attempts", "remedy"),
    [
        ("407 No", "Tunnel connection failed: 407", 1, SIGN_IN),
        ("403 No", "Tunnel connection failed: 403", 1, CHECK),
        ("403 \x1b[1mNo", r"Tunnel connection failed: 403 \[1mNo", 1, CHECK),
        ("429 No", "Tunnel connection failed: 429", 3, CHECK),
        ("502 No", "Tunnel connection failed: 502", 3, CHECK),
        ("200 OK", "", 3, CHECK),  # and then hangs up, in the middle of the TLS handshake
    ],
)
def test_a_proxy_that_refuses_is_told_without_its_password(
    fetch: Fetch, answer: str, words: str, attempts: int, remedy: str
) -> None:
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def refuse() -> None:
            for _ in range(attempts):
                connection, _address = proxy.accept()
                asked.append(connection.recv(4096))
                connection.sendall(f"HTTP/1.1 {answer}\r\n\r\n".encode())
                connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        url = f"http://me:secret@127.0.0.1:{proxy.getsockname()[1]}"
        match = rf"^pkgs\.dev\.azure\.com: no connection: {words}"
        with pytest.raises(module.SignInError, match=match) as caught:
            fetch(INDEX_URL, HTTPS_PROXY=url)
    assert len(asked) == attempts
    assert b64encode(b"me:secret") in asked[0]
    assert caught.value.remedy == remedy
    assert "secret" not in str(caught.value)
