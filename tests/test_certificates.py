"""Whose certificates are trusted, and what is told of others."""

from __future__ import annotations

import os
import ssl
import sys
from types import SimpleNamespace
from typing import Callable

import pytest
import trustme
from OpenSSL import crypto

import artifacts_keyring_nofuss as module
from conftest import Ask
from identities import token
from simulated_azure import FEED, Azure, authority

VARIABLES = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
]
UNSET = dict.fromkeys(VARIABLES, "")
Trust = Callable[..., str]
not_on_windows = pytest.mark.skipif(
    os.name == "nt", reason="Windows keeps its certificates in a store, not in files"
)


def bundle(azure: Azure) -> str:
    return str(azure.ca_file)


def stranger(azure: Azure) -> str:
    """Return the file of an authority that this Azure does not use."""
    path = azure.folder / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


def nothing(azure: Azure) -> str:
    return str(azure.folder / "missing")


def folder(azure: Azure) -> str:
    """Return a folder in which OpenSSL finds Azure's authority."""
    pem = azure.ca_file.read_bytes()
    subject = crypto.load_certificate(crypto.FILETYPE_PEM, pem).subject_name_hash()
    path = azure.folder / "hashed"
    path.mkdir()
    (path / f"{subject:08x}.0").write_bytes(pem)
    return str(path)


def folders(azure: Azure) -> str:
    return os.pathsep.join([nothing(azure), folder(azure)])


def unhashed(azure: Azure) -> str:
    """Return a folder like RHEL's, which holds a bundle that OpenSSL does not find."""
    path = azure.folder / "unhashed"
    path.mkdir()
    (path / "ca-bundle.crt").write_bytes(azure.ca_file.read_bytes())
    return str(path)


def built_for(
    monkeypatch: pytest.MonkeyPatch, folder: str | None, file: str | None
) -> None:
    """Let OpenSSL be one that was built to look there."""
    paths = SimpleNamespace(openssl_capath=folder, openssl_cafile=file)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)


# --- What is trusted


@pytest.mark.parametrize(
    ("variable", "trust"),
    [
        ("SSL_CERT_DIR", folder),
        ("SSL_CERT_DIR", folders),
        ("REQUESTS_CA_BUNDLE", folder),
        *((variable, bundle) for variable in VARIABLES if variable != "SSL_CERT_DIR"),
    ],
)
def test_all_that_any_variable_names_is_trusted(
    azure: Azure, ask: Ask, variable: str, trust: Trust
) -> None:
    others = dict.fromkeys(VARIABLES, stranger(azure))
    del others["SSL_CERT_DIR"]
    assert "certificate verify failed" in ask(**token(azure), **others).warnings
    assert ask(**token(azure), **{**others, variable: trust(azure)}).value


@not_on_windows
@pytest.mark.parametrize(
    ("capath", "cafile", "others", "certifi", "pips"),
    [
        (folder, None, [], None, None),
        (unhashed, bundle, [], None, None),
        (nothing, bundle, [stranger], stranger, None),
        (None, None, [nothing, bundle], stranger, None),
        (None, None, [nothing], bundle, stranger),
        (None, None, [], None, bundle),
    ],
)
def test_without_a_variable_the_first_certificates_of_the_system_are_trusted(
    azure: Azure,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    capath: Trust | None,
    cafile: Trust | None,
    others: list[Trust],
    certifi: Trust | None,
    pips: Trust | None,
) -> None:
    """OpenSSL's folder, its file, usual bundles, then those of Python's packages."""
    built_for(monkeypatch, capath and capath(azure), cafile and cafile(azure))
    for name, trust in (("certifi", certifi), ("pip._vendor.certifi", pips)):
        where = SimpleNamespace(where=lambda trust=trust: trust(azure))
        monkeypatch.setitem(sys.modules, name, where if trust else None)
    dials = {"CA_BUNDLES": [other(azure) for other in others]}
    assert ask(**token(azure), **UNSET, dials=dials).value


@not_on_windows
def test_a_system_without_certificates_is_told(
    azure: Azure, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_for(monkeypatch, None, None)
    for name in ("certifi", "pip._vendor.certifi"):
        monkeypatch.setitem(sys.modules, name, None)
    told = ask(**UNSET, dials={"CA_BUNDLES": []}).warnings
    assert "this system has no certificates: " in told
    assert azure.connects == []


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_unusable_certificates_are_told(
    azure: Azure, ask: Ask, content: bytes | None
) -> None:
    path = azure.folder / "bundle.pem"
    if content is not None:
        path.write_bytes(content)
    told = ask(REQUESTS_CA_BUNDLE=str(path)).warnings
    assert f"{path} has no certificates: " in told


# --- What is not trusted


def old_tls(protocol: int) -> ssl.SSLContext:
    """Return the context of a Python that follows the settings of a lax system."""
    context = ssl.SSLContext(protocol)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_not_spoken(
    azure: Azure, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.tls = old_tls(ssl.PROTOCOL_TLS_SERVER)
    azure.tls.maximum_version = ssl.TLSVersion.TLSv1_1
    authority().issue_cert(FEED).configure_cert(azure.tls)
    lax = SimpleNamespace(**{**vars(ssl), "SSLContext": old_tls})
    monkeypatch.setattr(module, "ssl", lax)
    assert "pkgs.dev.azure.com: no connection: " in ask().warnings
    assert azure.handshakes == 0


def test_the_keys_of_tls_are_not_logged(azure: Azure, ask: Ask) -> None:
    log = azure.folder / "keys"
    assert ask(**token(azure), SSLKEYLOGFILE=str(log)).value
    assert not log.exists()
