# SPDX-License-Identifier: MIT
# Copyright (c) 2026 The artifacts-keyring-nofuss developers
"""Keyring backend that signs pip, uv, twine and their kin in to Azure DevOps feeds.

This is all of https://pypi.org/project/artifacts-keyring-nofuss/ from 2.0.0 on, and can
be vendored. It reads in the order in which a request for a password travels:

1. parse_feed() tells whether keyring's service is a feed.
2. discover() asks the feed, without credentials, for its tenant and authority.
3. A provider gets a token: you gave one, or an application, az or the machine has one.
4. exchange() makes a session token of a person's token; tried() tries any other one.
5. sign_in() is the story of 3 and 4; its error has the reason of each provider.
6. ArtifactsKeyringBackend remembers, logs and returns; main() is the diagnosis.

Where can a token go? Read "Where a secret may go" and http(), which refuses all else.
A function that cannot do its job raises SignInError. Times are in seconds.
"""

from __future__ import annotations

import base64
import configparser
import functools
import json
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from email.message import Message
from http.client import HTTPException, IncompleteRead
from importlib import import_module
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from types import SimpleNamespace
from typing import Any, Callable, NamedTuple
from urllib.parse import quote, quote_plus, urlencode, urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    getproxies,
    proxy_bypass,
)

try:  # which imports all above, too
    from keyring.backend import KeyringBackend
    from keyring.credentials import SimpleCredential
    from keyring.errors import NoKeyringError, PasswordDeleteError, PasswordSetError
    from keyring.util.platform_ import config_root

    STORE_ERRORS = (PasswordSetError, PasswordDeleteError, NoKeyringError)
except ImportError:  # a vendored copy needs no keyring
    KeyringBackend = object  # type: ignore[assignment, misc]
    STORE_ERRORS = ()  # type: ignore[assignment]
    config_root = str

    class SimpleCredential(SimpleNamespace):  # type: ignore[no-redef]
        """A username and a password, without a repr."""

        __repr__ = object.__repr__


__version__ = "2.0.0"

log = logging.getLogger(__name__)
MODULE = __spec__.name if __spec__ else "artifacts_keyring_nofuss"


class SignInError(Exception):
    """Why something failed, and what to do ("" if nobody knows), for a person to read.

    transient: another attempt may succeed.
    """

    transient = False

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__("\n    ".join([reason, *remedy.splitlines()]))
        self.reason = reason
        self.remedy = remedy


def tell(text: str, level: int = logging.DEBUG) -> None:
    """Log a step: + is done, - has failed, ~ may take long."""
    with suppress(Exception):  # a handler that fails is no reason to fail
        log.log(level, "artifacts-keyring-nofuss: %s", text, extra={"step": text})


def setting(name: str) -> str:
    """Return an environment variable without space around it."""
    return os.environ.get(name, "").strip()


# --- Where a secret may go ---

# Patterns of whole URLs or hosts: no room for userinfo

LABEL = r"[a-z0-9-]{1,63}"
SUBDOMAINS = rf"(?:{LABEL}\.)*"
ORGANIZATION = r"[a-z0-9][a-z0-9._-]*"
GUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ANY_CASE = re.ASCII | re.IGNORECASE  # without ASCII, U+212A would match a k

# The domains of feeds, and the hosts of the token service that they may name
# https://learn.microsoft.com/azure/devops/organizations/security/allow-list-ip-url
AUTHORITY = rf"(?:{SUBDOMAINS}vssps|vsspsext)\.(?:dev\.azure|visualstudio)\.com"
CLOUDS = {
    "pkgs.dev.azure.com": AUTHORITY,
    "pkgs.visualstudio.com": AUTHORITY,
    "pkgs.codedev.ms": rf"{SUBDOMAINS}vssps\.codedev\.ms",
    "pkgs.vsts.me": rf"{SUBDOMAINS}vssps\.vsts\.me",
}
LEGACY = ("pkgs.visualstudio.com", "pkgs.vsts.me")
FEED_HOST = rf"(?:({LABEL})\.)?({'|'.join(map(re.escape, CLOUDS))})"

# Azure DevOps' one Entra, and its pages that a challenge may name
ENTRA = "https://login.microsoftonline.com"
TENANT = rf"(?:{GUID}|[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)+)"
LOGIN_PAGE = (
    r"https://login\.(?:microsoftonline\.com|microsoft\.com|windows\.net)(?::443)?"
    rf"/({TENANT})/?"
)

# https://docs.github.com/actions/reference/security/oidc
GITHUB_URL = rf"https://{SUBDOMAINS}actions\.githubusercontent\.com(?::443)?/[!-~]*"

# In clear text, so to an address or a name without dots alone
IMDS_ADDRESS = "http://169.254.169.254"
METADATA_URL = (
    r"http://(?:[a-z0-9-]+|[0-9.]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?(?:/[!\"$->@-~]*)?"
)

DESTINATIONS = (
    rf"https://{FEED_HOST}/[!-~]*",
    *(rf"https://{hosts}(?::443)?/[!-~]*" for hosts in CLOUDS.values()),
    rf"{re.escape(ENTRA)}/{TENANT}/oauth2/v2\.0/token",
    GITHUB_URL,
    rf"{METADATA_URL}\?[!-~]*",
)


def trusted(name: str, pattern: str, url: str, remedy: str = "") -> re.Match[str]:
    """Match a URL that somebody named, or raise SignInError."""
    match = re.fullmatch(pattern, url, ANY_CASE)
    if match:
        return match
    raise SignInError(
        f"{name} is not trusted: {clean(url) or 'it is missing'}",
        remedy or "find out who set it, and what stands between you and Azure",
    )


# --- The feed's URL ---

READ = "vso.packaging"
WRITE = "vso.packaging_write"  # uploads, and saves packages from upstream

# Stricter than RFC 3986: no two parsers may see different hosts.
FEED_URL = (
    r"https://(?:[\w.~%!$&'()*+,;=:-]*@)?"
    rf"({FEED_HOST})(?::443)?(/[^?#]*)?(?:[?#].*)?"
)
UPLOAD_PATH = r"(?:/[^/]+){0,2}/_packaging/[^/]+/pypi/upload/*"
AMBIGUOUS_PATH = r"/(?:\.|%2e){1,2}(?:/|$)|%2f|%5c"


class Feed(NamedTuple):
    """A feed, as its URL tells it."""

    url: str  # without userinfo, query and fragment
    organization: str
    scope: str  # that its use needs
    authority: str  # hosts of its token service
    key: tuple[str, ...]  # of a credential that feeds share

    def endpoint(self, name: str) -> str:
        """Return the URL of the feed's endpoint "simple" or "upload"."""
        return re.sub("(?i)(/_packaging/[^/]+/pypi/).*", rf"\1{name}/", self.url)


def parse_feed(service: str | None) -> Feed | None:
    """Return the feed whose URL a service is, None for another one."""
    if not isinstance(service, str):
        return None
    if not any(domain in service.lower() for domain in CLOUDS):
        return None  # as for most services, which spares them FEED_URL
    match = re.fullmatch(FEED_URL, service, ANY_CASE)
    if not match or not service.isprintable() or "\\" in service:
        return None

    host, label, domain, path = match.groups("")
    domain = domain.lower()
    organization = label if label and domain in LEGACY else f"{path}/".split("/")[1]
    if re.search(AMBIGUOUS_PATH, path, ANY_CASE):
        return None
    if not re.fullmatch(ORGANIZATION, organization, ANY_CASE):
        return None

    scope = WRITE if re.fullmatch(UPLOAD_PATH, path, ANY_CASE) else READ
    if "." not in path.rpartition("/")[2]:  # not a file, but a folder
        path = path.rstrip("/") + "/"
    key = host.lower(), organization.lower(), scope
    url = f"https://{key[0]}" + quote(path, "/%:@+,=")
    return Feed(url, key[1], scope, CLOUDS[domain], key)


# --- Waiting ---

ATTEMPT_LIMIT = 10.0  # for an attempt, whatever hangs
SHORT_WAIT = 0.1  # longer ones hear no interrupt on Windows, nor a thread's


def short_waits(limit: float) -> Iterator[float]:
    """Yield how long to wait, until the limit is over."""
    end = time.monotonic() + limit
    while (left := end - time.monotonic()) > 0:
        yield min(left, SHORT_WAIT)


def in_thread(name: str, work: Callable[..., object], *arguments: object) -> Any:
    """Return what the work returns; raise what it raises, SignInError if it is late.

    Why a thread? The look-up of a name has no limit, and an interrupt amid the start of
    a program would lose it. A late one is left alone: it has what nobody needs.
    """
    outcomes: list[Any] = []
    task = (outcomes, work, arguments)
    thread = threading.Thread(target=deliver, args=task)
    try:
        thread.daemon = True
        thread.start()
        for seconds in short_waits(ATTEMPT_LIMIT):
            thread.join(seconds)
            if outcomes:
                break
    except RuntimeError:  # no thread can start here
        deliver(*task)
    finally:
        for _ in short_waits(0.3):  # for what an interrupt left
            if thread not in threading.enumerate():
                break
            time.sleep(0.01)

    if not outcomes:
        raise SignInError(
            f"{name}: no complete answer within {ATTEMPT_LIMIT:.0f} s", CHECK_NETWORK
        )
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]
    return outcomes[0]


def deliver(outcomes: list[Any], work: Callable[..., object], arguments: Any) -> None:
    try:
        outcomes.append(work(*arguments))
    except Exception as error:
        outcomes.append(error)


# --- HTTP ---

ANSWER_LIMIT = 64 * 1024
NO_LOGIN_PAGE = {"X-TFS-FedAuthRedirect": "Suppress"}  # but a 401
CHECK_CLOCK = "check this machine's clock, then the server's"
WHO_ANSWERS = "find out who answers here, a proxy perhaps"
CHECK_NETWORK = "check the network and HTTPS_PROXY"
SET_CERTIFICATES = "set SSL_CERT_FILE to a PEM file of the certificates to trust"
if sys.platform == "darwin":  # whose Keychain OpenSSL does not ask
    SET_CERTIFICATES = (
        "give Python the certificates of the Keychain:\n"
        "security find-certificate -a -p /Library/Keychains/System.keychain"
        " /System/Library/Keychains/SystemRootCertificates.keychain >~/ca.pem"
        " && export SSL_CERT_FILE=~/ca.pem"
    )
SET_PROXY = "set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT, percent-encoded"
PROXY = (
    r"(?:http://)?((?:[^/?#@]*@)?(?:[\w.-]+|\[[\da-f:.]+\]))(:[0-9]{1,5})?(?:/[^?#@]*)?"
)

OVERLOADED = {429, *range(500, 600)}  # statuses that may pass
PAUSES = [0.25, 0.5]
# While IMDS wakes up or an identity is assigned
# https://learn.microsoft.com/entra/identity/managed-identities-azure-resources
IMDS_PATH = "/metadata/identity/oauth2/token"
IMDS_PAUSES = [1.0, 2.0, 4.0, 8.0]


class Response(NamedTuple):
    """An answer; its body is cut off at ANSWER_LIMIT."""

    status: int
    reason: str  # Azure DevOps puts its words there
    headers: Message
    body: bytes


def http(url: str, headers: Mapping[str, str], body: str = "") -> Response:
    """Send a GET, or a POST of a body; return the answer of any status.

    Raises SignInError for no answer, and for what is not in DESTINATIONS.
    """
    host = urlsplit(url).netloc
    if not any(re.fullmatch(pattern, url, ANY_CASE) for pattern in DESTINATIONS):
        raise SignInError(f"{clean(host)} is not to be asked")

    passing = OVERLOADED
    pauses = PAUSES
    if IMDS_PATH in url:
        passing = OVERLOADED | {404, 410}
        pauses = IMDS_PAUSES
    for pause in (*pauses, None):
        tell(f"~ asking {host}, up to {ATTEMPT_LIMIT:.0f} s")
        try:
            response: Response = in_thread(host, send, url, headers, body)
            if pause is None or response.status not in passing:
                break
        except SignInError as error:
            if pause is None or not error.transient:
                raise
        for seconds in short_waits(pause):
            time.sleep(seconds)
    return response


def send(url: str, headers: Mapping[str, str], body: str) -> Response:
    """Send a request, follow no redirect, and return the answer."""
    end = time.monotonic() + ATTEMPT_LIMIT
    request = Request(url, body.encode() or None, {**headers})
    request.add_header("User-Agent", f"artifacts-keyring-nofuss/{__version__}")
    host = request.host  # before a proxy takes its place
    director = OpenerDirector()  # without a handler of redirects
    # Level 0, for the caller may have set one that prints headers.
    try:
        if request.type == "https":
            with turn("certificates"):
                context = tls_context(ca_paths())
            director.add_handler(ProxyHandler(proxy_for(host)))
            director.add_handler(HTTPSHandler(0, context=context))
        else:  # a metadata service, which no proxy may see
            director.add_handler(HTTPHandler(0))
        # A limit for each silence; in_thread()'s is for all.
        with director.open(request, timeout=ATTEMPT_LIMIT + 1) as answer:
            content = b""
            while piece := answer.read(64):  # little: a late thread ends soon
                content += piece
                if len(content) >= ANSWER_LIMIT or time.monotonic() > end:
                    break
            if answer.length and len(content) < ANSWER_LIMIT:
                raise IncompleteRead(b"")
            return Response(answer.status, answer.reason, answer.headers, content)
    except (OSError, HTTPException, ValueError, OverflowError, LookupError) as error:
        failure = network_error(error, host)
    raise failure  # here, for a context may hold a secret


def proxy_for(host: str) -> dict[str, str]:
    """Return a host's proxy, under "https"; {} for none."""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all") or setting("PIP_PROXY")
    if not proxy or proxy_bypass(host):
        return {}
    match = re.fullmatch(PROXY, proxy.strip(), ANY_CASE)
    if not match:  # its password may be anywhere
        raise SignInError("the proxy is not an http URL", SET_PROXY)
    return {"https": f"http://{match[1]}{match[2] or ':80'}"}


# By words of OpenSSL or urllib; the first counts
NETWORK = {
    "mismatch": WHO_ANSWERS,
    "expired": CHECK_CLOCK,
    "not yet valid": CHECK_CLOCK,
    "CERTIFICATE_VERIFY_FAILED": SET_CERTIFICATES,
    "failed: 407": SET_PROXY,
    "": CHECK_NETWORK,
}


def network_error(error: Exception, host: str) -> SignInError:
    """Translate an exception of urllib for a person."""
    words = clean(str(getattr(error, "reason", error))) or type(error).__name__
    if isinstance(error, HTTPException) and not isinstance(error, ConnectionError):
        words = "the answer is not HTTP or breaks off"  # its words may hold a secret
    remedy = next(NETWORK[part] for part in NETWORK if part in words)
    failure = SignInError(f"{host}: no connection: {words}", remedy)
    failure.transient = not re.search("CERTIFICATE_VERIFY|failed: 4(?!29)", words)
    return failure


# JWTs, refresh tokens, client secrets, what is that long
TOKEN_LIKE = r"eyJ[\w.~=-]+|[01]\.A[\w.~-]{20,}|\S{3}\dQ~[\w.~-]{20,}|[\w~+=-]{40,}"
TRACKING = r" \(DevOps Activity ID: [^)]*\)| Trace ID: .*? Timestamp: [\d-]+ [\d:]+Z"


def clean(text: str, *secrets: str) -> str:
    """Make of outside words a short line in ASCII, without secrets."""
    for secret in filter(None, secrets):
        for form in (secret, quote_plus(secret)):
            text = text.replace(form, "[removed]")
    text = re.sub(r"//[^/\s]*@", "//", text)
    text = re.sub(TOKEN_LIKE, "[removed]", text)
    text = re.sub("[^ -~]", "?", " ".join(text.split()))
    return re.sub(TRACKING, "", text)[:400]


def parse_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object in a text, {} for none."""
    with suppress(ValueError, RecursionError):
        document = json.loads(text)
        if isinstance(document, dict):
            return document
    return {}


# --- Certificates ---

# All that they name is trusted
CA_VARIABLES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
)
# Where systems have any
CA_BUNDLES = (
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
)


def ca_paths() -> tuple[str, ...]:
    """Return the files and folders of the certificates to trust."""
    named = tuple(filter(None, map(setting, CA_VARIABLES)))
    if named or sys.platform == "win32":
        return named

    # Not load_default_certs(): to it an empty SSL_CERT_FILE is a name.
    system = ssl.get_default_verify_paths()
    paths = filter(None, (system.openssl_capath, system.openssl_cafile, *CA_BUNDLES))
    path = next(filter(has_certificates, paths), "")
    for name in ("certifi", "pip._vendor.certifi"):
        with suppress(ImportError):
            path = path or import_module(name).where()
    return (path,)


def has_certificates(path: str) -> bool:
    """Tell whether OpenSSL finds any; in a folder, by name."""
    if not os.path.isdir(path):
        return os.path.isfile(path)
    return any(re.fullmatch(r"[0-9a-f]{8}\.[0-9]", name) for name in os.listdir(path))


@functools.cache  # it takes longer than a TLS handshake
def tls_context(paths: tuple[str, ...]) -> ssl.SSLContext:
    """Return a TLS context that trusts what is there, or else Windows'."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # a default one may log keys
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not paths:
        context.load_default_certs()
    for path in paths:
        is_folder = os.path.isdir(path) or os.pathsep in path  # or several
        kind = "capath" if is_folder else "cafile"
        try:
            context.load_verify_locations(**{kind: path})
        except OSError as error:
            reason = f"{clean(path) or 'this system'} has no certificates"
            raise SignInError(
                f"{reason}: {error.strerror}", SET_CERTIFICATES
            ) from error
    return context


# --- What to do about a refusal ---

RESOURCE = "499b84ac-1321-427f-aa17-267ca6975798"  # Azure DevOps, in every tenant
AZ_COMMAND = f"account get-access-token --resource {RESOURCE} --tenant {{tenant}}"
# --scope asks for a second factor; the last option stores who has no subscription.
LOGIN = (
    f"az login --tenant {{tenant}} --scope {RESOURCE}/.default --allow-no-subscriptions"
)
SWITCH = f"az account set --subscription {{tenant}} || {LOGIN}"  # if az has it
PAT = "a personal access token of {organization}, scope Packaging (Read)"
MEMBER = (
    "let an administrator add it (https://dev.azure.com/{organization}/_settings/users)"
    " and give it a role in the feed"
)
FIRST_VISIT = "sign in once at https://dev.azure.com/{organization}, then try again"
FEDERATION = "give the application a federated credential for what Entra was shown"
SECRET = "sign in with a valid secret of the application: its value, not its ID"
POLICY = "ask your administrator: a policy forbids this sign-in"
# By the code in a service's words:
# https://learn.microsoft.com/entra/identity-platform/reference-error-codes
REMEDIES = {
    "AADSTS50020": SWITCH,
    "AADSTS53003": POLICY,
    "AADSTS700016": "take the client id of an application in tenant {tenant}",
    "AADSTS700024": "sign in again: a CI job's proof lives for 5 to 10 minutes; this,"
    f" right after it, keeps the sign-in:\naz {AZ_COMMAND}",
    "AADSTS700211": FEDERATION,
    "AADSTS700213": FEDERATION,
    "AADSTS7000215": SECRET,
    "AADSTS7000222": SECRET,
    "TF400813": f"this account is no member of {{organization}}: {MEMBER}",
    "TF401444": f"{FIRST_VISIT}; for an application, {MEMBER}",
    "VS403463": POLICY,
    "VS800075": "check the project in the URL; a pipeline's token may be for its own",
}


class Challenge(NamedTuple):
    """Where a feed says that its organization signs in."""

    organization: str
    tenant: str  # of Entra, in lower case; "" for none
    authority: str  # the URL of the token service, not trusted yet
    is_public: bool  # what it has already is for everybody


def remedy_for(words: str, remedy: str, challenge: Challenge) -> str:
    """Return the remedy for a code in these words, else this one."""
    codes = re.findall(r"\b(?:AADSTS|TF|VS)\d+", words)
    template = next((REMEDIES[code] for code in codes if code in REMEDIES), remedy)
    return template.format(**challenge._asdict())


def refused(
    service: str, response: Response, remedy: str, challenge: Challenge, *secrets: str
) -> SignInError:
    """Tell that a service refused, without the secrets sent."""
    if response.status in OVERLOADED:
        remedy = "try again later"
    said = parse_object(response.body)
    words = said.get("message") or said.get("error_description") or said.get("error")
    words = clean(str(words or response.reason), *secrets)
    reason = f"{service} answered {response.status}: {words}".rstrip(": ")
    return SignInError(reason, remedy_for(words, remedy, challenge))


# --- The feed's challenge ---

CHECK_URL = "check the organization, the project and the feed in the URL"
NO_TENANT = "00000000-0000-0000-0000-000000000000"  # of Microsoft accounts


def discover(feed: Feed) -> Challenge:
    """Ask the feed, without credentials, where to sign in.

    Raises SignInError where it does not tell. Source: Azure Artifacts Credential
    Provider, https://github.com/microsoft/artifacts-credprovider
    """
    response = http(feed.url, NO_LOGIN_PAGE)
    is_public = response.status < 400 and feed.scope == READ
    if is_public:  # but it refused something; uploads are always refused
        response = http(feed.endpoint("upload"), NO_LOGIN_PAGE)

    tenant = challenged_tenant(response.headers)
    authority = response.headers.get("X-VSS-AuthorizationEndpoint", "")
    challenge = Challenge(feed.organization, tenant, authority, is_public)
    if not tenant and response.status != 401:
        remedy = WHO_ANSWERS
        if response.status == 404:
            remedy = CHECK_URL
        raise refused("the feed", response, remedy, challenge)
    tell(f"+ discovery: tenant {tenant or 'none'}, authority {clean(authority)}")
    return challenge


def challenged_tenant(headers: Message) -> str:
    """Return the tenant that a challenge names, "" for none."""
    challenges = " ".join(headers.get_all("WWW-Authenticate", []))
    uris = re.findall(r'\bauthorization_uri\s*=\s*"?([^\s,"]+)', challenges, ANY_CASE)
    pages = [trusted("the feed's authorization_uri", LOGIN_PAGE, uri) for uri in uris]
    others = " ".join(headers.get_all("X-VSS-ResourceTenant", []))
    tenants = [page[1] for page in pages] + re.findall(GUID, others, ANY_CASE)
    return next((tenant.lower() for tenant in tenants if tenant != NO_TENANT), "")


# --- Tokens ---

# A person's token can do all that the person can: it is exchanged. An application's is
# refused there: like a personal access token, it is tried.
EXCHANGE = "exchange"
TRY = "try"
EITHER = "exchange, or else try"  # it cannot be read
# https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
ISSUER = rf"https://(?:sts\.windows\.net|login\.microsoftonline\.com)/{GUID}/(?:v2\.0)?"


class Token(NamedTuple):
    """A token; only its label is shown."""

    value: str
    use: str  # EXCHANGE, TRY or EITHER
    label: str

    def __repr__(self) -> str:
        return self.label


def usable(value: object, source: str) -> str:
    """Return the value if it is a token that fits a header."""
    if isinstance(value, str) and re.fullmatch(r"[!-~]{1,32768}", value):
        return value
    raise SignInError(f"{source} holds no usable token", "put one there, in ASCII")


def read_claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT, unverified; none of another token."""
    with suppress(ValueError):
        _, payload, _ = token.split(".")
        return parse_object(base64.urlsafe_b64decode(f"{payload}==="))
    return {}


def use_of(claims: Mapping[str, Any]) -> str:
    """Tell how to use a token; of Entra's, only a person's has scopes."""
    if not re.fullmatch(ISSUER, str(claims.get("iss")), ANY_CASE):
        return EITHER
    return EXCHANGE if "scp" in claims else TRY


# --- Provider: a token made elsewhere ---

TOKEN = "ARTIFACTS_KEYRING_NOFUSS_TOKEN"
TOKEN_FILE = f"{TOKEN}_FILE"
SECRET_FILE = f"/run/secrets/{TOKEN}"


def given_token(_: Challenge) -> Token | None:
    """Return the token that somebody gave this process, of any kind."""
    source = TOKEN_FILE
    value = read_file(source, setting(source))
    if not value:
        if setting(source):
            tell(f"  token: the file that {source} names is missing or empty")
        source = TOKEN
        value = setting(source)
    if not value:
        source = SECRET_FILE
        value = read_file(source, source)
    if not value:
        return None

    claims = read_claims(usable(value, source))
    if isinstance(claims.get("exp"), (int, float)) and claims["exp"] <= time.time():
        raise SignInError(f"the token in {source} has expired", "give a new one")
    use = EXCHANGE if use_of(claims) == EXCHANGE else TRY
    return Token(value, use, f"the token in {source}")


def read_file(source: str, path: str) -> str:
    """Return the token in the file of a source, "" for none."""
    try:
        with open(path, "rb") as file:
            return file.read(ANSWER_LIMIT).decode("utf-8-sig", "replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        remedy = "let this user read it (in Docker: --mount=type=secret,uid=1000)"
        raise SignInError(
            f"{source} cannot be read: {error.strerror}", remedy
        ) from None


# --- Provider: workload identity ---

# https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
CLIENT_SECRET = "AZURE_CLIENT_SECRET"
ASSERTION_FILE = "AZURE_FEDERATED_TOKEN_FILE"
GITHUB_REQUEST = "ACTIONS_ID_TOKEN_REQUEST_URL"
GITHUB_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"


def proof_variable() -> str:
    """Return the variable that proves AZURE_CLIENT_ID."""
    proofs = filter(setting, (CLIENT_SECRET, ASSERTION_FILE, GITHUB_REQUEST))
    return next(proofs, "") if setting("AZURE_CLIENT_ID") else ""


def workload_identity(challenge: Challenge) -> Token | None:
    """Return a bearer of the application AZURE_CLIENT_ID."""
    variable = proof_variable()
    client = setting("AZURE_CLIENT_ID")
    if not variable:
        if not client or not setting("GITHUB_ACTIONS"):
            return None
        remedy = "give it a permission, beside `contents: read`:\nid-token: write"
        raise SignInError("this job may not ask GitHub for an id token", remedy)

    scope = f"{RESOURCE}/.default"
    form = {"grant_type": "client_credentials", "scope": scope, "client_id": client}
    if variable == CLIENT_SECRET:
        proof = form["client_secret"] = setting(variable)
    else:
        proof = form["client_assertion"] = client_assertion(variable, challenge)
        form["client_assertion_type"] = (  # RFC 7523, 2.2
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        )
    url = f"{ENTRA}/{challenge.tenant}/oauth2/v2.0/token"
    response = http(url, {}, urlencode(form))

    if response.status != 200:
        remedy = "look the code up at https://login.microsoftonline.com/error"
        raise refused("Entra", response, remedy, challenge, proof)
    value = usable(parse_object(response.body).get("access_token"), "Entra's answer")
    return Token(value, TRY, f"a token of {clean(client)}")


def client_assertion(variable: str, challenge: Challenge) -> str:
    """Return a fresh assertion, of AKS or of GitHub Actions."""
    if variable == ASSERTION_FILE:
        return usable(read_file(variable, setting(variable)), variable)

    remedy = f"put an id token of your server into the file of {ASSERTION_FILE}"
    url = trusted(variable, GITHUB_URL, setting(variable), remedy)[0]
    bearer = usable(setting(GITHUB_TOKEN), GITHUB_TOKEN)
    url += ("&" if "?" in url else "?") + urlencode(
        {"audience": "api://AzureADTokenExchange"}
    )
    response = http(url, {"Authorization": f"Bearer {bearer}"})
    if response.status != 200:
        raise refused("GitHub", response, "run the job again", challenge, bearer)
    return usable(parse_object(response.body).get("value"), "GitHub's answer")


# --- Provider: the Azure CLI ---

AZ_LIMIT = 60.0  # a first run on a cold CI machine takes that long
AZ_SETTINGS = {  # https://learn.microsoft.com/cli/azure/azure-cli-configuration
    "AZURE_AUTO-UPGRADE_ENABLE": "no",  # which would go on for minutes
    "AZURE_CLOUD_NAME": "AzureCloud",  # another would hide the accounts of this one
    "AZURE_CORE_COLLECT_TELEMETRY": "no",  # which takes a sixth of each run
    "AZURE_CORE_NO_COLOR": "true",
    "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
    "AZURE_LOGGING_ENABLE_LOG_FILE": "no",  # which fails where home is read-only
}
# Lines neither of nor around a traceback
AZ_LINES = (
    r"^(?:ERROR: *)?(?!ERROR|WARNING|Traceback|The command failed with|During handling"
    r"|Run the command below|To check existing)(\S.*)"
)
WRITABLE = (
    "give az a folder that it can write to:\n"
    "export AZURE_CONFIG_DIR=$(mktemp -d) && cp -R ~/.azure/. $AZURE_CONFIG_DIR"
)
NEW_CACHE = f"rm ~/.azure/msal_token_cache.*; {LOGIN}"
AZ_REMEDIES = {  # by words without a code; the first counts
    "managed identity account": "sign in to az as an identity of tenant {tenant}",
    "service principal": "az login --service-principal --tenant {tenant}"
    " --allow-no-subscriptions --username CLIENT_ID --password SECRET",
    "certificate": "set REQUESTS_CA_BUNDLE to a PEM file of those to trust",
    " 407 ": SET_PROXY,
    "HTTPSConnectionPool": CHECK_NETWORK,
    "Permission denied": WRITABLE,
    "Read-only file system": WRITABLE,
    "az account set": SWITCH,
    "az login": LOGIN,
    "ecrypt": NEW_CACHE,
    "Expecting property name": NEW_CACHE,
    "": f"run it yourself:\naz {AZ_COMMAND}",
}


def azure_cli(challenge: Challenge) -> Token | None:
    """Return a bearer of the account that az is signed in as.

    https://learn.microsoft.com/cli/azure/account#az-account-get-access-token
    """
    az = find_program("az")
    if not az:
        raise SignInError("az is not on PATH")

    arguments = AZ_COMMAND.format(tenant=challenge.tenant).split()
    output, errors = run([az, *arguments, "--output", "json"], AZ_LIMIT, AZ_SETTINGS)
    document = parse_object(output)
    if not document:
        said = errors.decode("utf-8", "replace")
        said = said[max(said.find("ERROR:"), 0) :]  # warnings may stand before it
        words = " ".join(re.findall(AZ_LINES, said, re.M)) or "silently"
        remedy = next(AZ_REMEDIES[part] for part in AZ_REMEDIES if part in words)
        remedy = remedy_for(words, remedy, challenge)
        raise SignInError(f"az failed: {clean(words)}", remedy)

    value = usable(document.get("accessToken"), "az's answer")
    claims = read_claims(value)
    account = claims.get("unique_name") or claims.get("appid") or "an unknown account"
    return Token(value, use_of(claims), clean(f"a token of {account}"))


# --- Programs ---

SYSTEM_ROOT = os.environ.get("SYSTEMROOT", r"C:\Windows")
Process = Popen[bytes]


def find_program(name: str) -> str:
    """Return a program's path, "" if no absolute folder of PATH has it."""
    endings = (".exe", ".bat", ".cmd") if sys.platform == "win32" else ("",)
    for folder in filter(os.path.isabs, os.get_exec_path()):
        for ending in endings:
            path = os.path.join(folder, name + ending)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
    return ""


def run(
    command: list[str], limit: float, settings: Mapping[str, str]
) -> tuple[bytes, bytes]:
    """Run a program with settings; return its output and errors.

    Raises SignInError if it does not start or answer within the limit. It is stopped
    then, and at an interrupt, but not if it answers and goes on.
    """
    name = os.path.basename(command[0])
    tell(f"~ running {name}, up to {limit:.0f} s")
    started: list[Process] = []
    said = None
    try:
        in_thread(name, start_program, command, settings, started)
        said = listen(name, started[0], limit)
        return said
    except (OSError, RuntimeError) as error:
        raise SignInError(
            f"{name} does not start: {clean(str(error))}", f"run {name} yourself"
        ) from error
    finally:
        for process in started:
            if said is None:
                stop(process)
            with suppress(TimeoutExpired):  # or it goes on to upgrade itself
                process.wait(1.0)
            if sys.platform != "win32":  # where that may wait for a reader
                for pipe in filter(None, (process.stdout, process.stderr)):
                    pipe.close()


def start_program(
    command: list[str], settings: Mapping[str, str], started: list[Process]
) -> None:
    """Start a program, and add it to those that are started."""
    # Not dict(os.environ), which another thread may change meanwhile
    environment = {name: os.environ.get(name, "") for name in os.environ}
    for name in filter(setting, ("AZURE_CONFIG_DIR", "REQUESTS_CA_BUNDLE")):
        environment[name] = os.path.abspath(setting(name))  # for it runs elsewhere
    started.append(
        Popen(
            command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env={**environment, **settings},
            # python -m azure.cli imports what lies here, where only root may write.
            cwd=SYSTEM_ROOT if sys.platform == "win32" else "/",
            start_new_session=True,  # to stop it with its children
        )
    )


def listen(name: str, process: Process, limit: float) -> tuple[bytes, bytes]:
    """Return what a program says until its end, or a whole JSON object."""
    for seconds in short_waits(limit):
        has_ended = process.poll() is not None  # before it is read, which may last
        try:
            return process.communicate(timeout=1.0 if has_ended else seconds)
        except TimeoutExpired as silence:
            said = silence.output or b"", silence.stderr or b""
        # A child may hold its pipes.
        if has_ended or parse_object(said[0]):
            return said
    reason = f"{name} gave no answer within {limit:.0f} s and was stopped"
    raise SignInError(reason, f"run {name} yourself, and see what it waits for")


def stop(process: Process) -> None:
    """Kill a program that still runs, and what it started."""
    if process.poll() is not None:
        return
    with suppress(OSError, TimeoutExpired):
        if sys.platform == "win32":
            taskkill = rf"{SYSTEM_ROOT}\System32\taskkill.exe"
            command = [taskkill, "/F", "/T", "/PID", str(process.pid)]
            subprocess.run(command, capture_output=True, timeout=5)
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


# --- Provider: managed identity ---


class MetadataService(NamedTuple):
    """How a metadata service is asked for a token."""

    variables: tuple[str, ...]  # of its address and its secret, all set where it is
    header: str  # for its secret
    version: str
    client: str  # parameter for a user-assigned identity


# https://learn.microsoft.com/azure/app-service/overview-managed-identity
APP_SERVICE = ("IDENTITY_ENDPOINT", "IDENTITY_HEADER")
AZURE_ML = ("MSI_ENDPOINT", "MSI_SECRET")
METADATA_SERVICES = (
    MetadataService(APP_SERVICE, "X-IDENTITY-HEADER", "2019-08-01", "client_id"),
    MetadataService(AZURE_ML, "secret", "2017-09-01", "clientid"),
    MetadataService((), "", "2018-02-01", "client_id"),
)
IMDS_LIMIT = 0.6  # to connect; off Azure it swallows every packet


def managed_identity(challenge: Challenge) -> Token | None:
    """Return a bearer of the machine's managed identity."""
    service = next(row for row in METADATA_SERVICES if all(map(setting, row.variables)))
    imds = "AZURE_POD_IDENTITY_AUTHORITY_HOST"
    variable, secret_variable = service.variables or (imds, "")
    url = setting(variable)
    if not service.variables:
        if challenge.is_public:  # nobody should wait for it
            return None
        url = (url or IMDS_ADDRESS).rstrip("/") + IMDS_PATH
    trusted(variable, METADATA_URL, url)
    try:
        parts = urlsplit(url)
        address = (parts.hostname, parts.port or 80)
        in_thread("IMDS", socket.create_connection, address, IMDS_LIMIT).close()
    except (OSError, ValueError):
        raise SignInError(f"no metadata service is at {clean(url)}") from None

    headers = {"Metadata": "true"}
    query = {"api-version": service.version, "resource": RESOURCE}
    secret = setting(secret_variable)
    if secret:
        headers[service.header] = usable(secret, secret_variable)
    client = setting("AZURE_CLIENT_ID") or setting("DEFAULT_IDENTITY_CLIENT_ID")
    if client:
        query[service.client] = client
    response = http(f"{url}?{urlencode(query)}", headers)
    if response.status != 200:
        remedy = "set AZURE_CLIENT_ID to the client id of one of its identities"
        raise refused("the metadata service", response, remedy, challenge, secret)

    answer = parse_object(response.body)
    value = usable(answer.get("access_token"), "the metadata service's answer")
    return Token(value, TRY, f"a token of {clean(client) or 'this machine'}")


# --- The table of providers ---

# In order; each returns None where it does not apply.
PROVIDERS: dict[str, Callable[[Challenge], Token | None]] = {
    "token": given_token,
    "workload_identity": workload_identity,
    "azure_cli": azure_cli,
    "managed_identity": managed_identity,
}
NAMES_IN_1_3_3 = {
    "env_var": "token",
    "ado_auth_helper": "azure_cli",
    "azure_identity": "managed_identity",
}


def chosen_providers() -> list[str]:
    """Return the provider that somebody chose, else all."""
    source = "ARTIFACTS_KEYRING_NOFUSS_PROVIDER"
    name = setting(source)
    if not name:
        source = "keyringrc.cfg"
        name = configured_provider()
    if name in PROVIDERS:
        return [name]
    if name:
        remedy = f"name {NAMES_IN_1_3_3.get(name, ' or '.join(PROVIDERS))}"
        raise SignInError(f"{source} names {clean(name)}, which is no provider", remedy)
    # A pod must not be its node.
    unasked = "managed_identity" if proof_variable() else ""
    return [name for name in PROVIDERS if name != unasked]


def configured_provider() -> str:
    """Return the provider that keyringrc.cfg names, "" for none."""
    config = configparser.RawConfigParser()
    with suppress(RuntimeError, KeyError):  # there may be no home
        path = os.path.join(config_root(), "keyringrc.cfg")
        config.read(path if os.path.isabs(path) else [], "utf-8")
    return config.get("artifacts_keyring_nofuss", "provider", fallback="").strip()


# --- The password: exchanged, or tried ---

USERNAME = "VssSessionToken"
SCOPE = "ARTIFACTS_KEYRING_NOFUSS_SCOPE"


def exchange(feed: Feed, challenge: Challenge, bearer: Token) -> Token:
    """Exchange a bearer for a session token of one organization and scope.

    Source: as of discover(), VstsSessionTokenClient.
    """
    scope = setting(SCOPE) or READ
    if feed.scope == WRITE:
        scope = WRITE
    if scope not in (READ, WRITE):
        reason = f"{SCOPE} is {clean(scope)}, no scope of a session token"
        raise SignInError(reason, f"set it to {WRITE}, or unset it")

    url = trusted(
        "the feed's X-VSS-AuthorizationEndpoint",
        rf"https://{feed.authority}(?::443)?(?:/{ORGANIZATION})?/?",
        challenge.authority,
    )[0].rstrip("/")
    url += "/_apis/Token/SessionTokens"
    url += "?tokenType=SelfDescribing&api-version=5.0-preview.1"
    headers = {
        "Authorization": f"Bearer {bearer.value}",
        "Accept": "application/json",
        "Content-Type": "application/json",
        **NO_LOGIN_PAGE,
    }
    end = time.gmtime(time.time() + 4 * 3600.0)
    form = {"scope": scope, "displayName": "artifacts-keyring-nofuss"}
    form["validTo"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", end)
    response = http(url, headers, json.dumps(form))
    if response.status == 400:  # Microsoft's own client does without it then
        del form["validTo"]
        response = http(url, headers, json.dumps(form))
    if response.status != 200:
        return refused_bearer(feed, challenge, bearer, response)

    answer = parse_object(response.body)
    value = usable(answer.get("token"), "the token service's answer")
    limits = ", which saves no new package from upstream" if scope == READ else ""
    tell(f"+ exchange: a session token of scope {scope}{limits}")
    return Token(value, TRY, f"a session token of scope {scope}")


def refused_bearer(
    feed: Feed, challenge: Challenge, bearer: Token, response: Response
) -> Token:
    """Raise why; but try at the feed what may be an application's bearer."""
    # https://learn.microsoft.com/entra/identity-platform/claims-challenge
    said = " ".join(response.headers.get_all("WWW-Authenticate", []))
    if "insufficient_claims" in said:
        claims = re.search(r'\bclaims="([A-Za-z0-9+/]{1,2000}=*)"', said)
        option = f" --claims-challenge {claims[1]}" if claims else ""
        remedy = f"az logout; {LOGIN.format(tenant=challenge.tenant)}{option}"
        raise SignInError("Azure DevOps has revoked the sign-in", remedy)

    is_refusal = 400 <= response.status < 500 and response.status not in OVERLOADED
    remedy = FIRST_VISIT if is_refusal else POLICY
    failure = refused("Azure DevOps", response, remedy, challenge, bearer.value)
    is_personal = re.search(
        "TF401444|has not been materialized|VS403463", failure.reason
    )
    if bearer.use != EITHER or is_personal or not is_refusal:
        raise failure
    return tried(feed, challenge, bearer)


def tried(
    feed: Feed,
    challenge: Challenge,
    token: Token,
    refusals: Container[int] = (401, 403),
) -> Token:
    """Return a token if the feed takes it as a password: its index is asked once."""
    basic = base64.b64encode(f"{USERNAME}:{token.value}".encode()).decode()
    headers = {**NO_LOGIN_PAGE, "Authorization": f"Basic {basic}"}
    response = http(feed.endpoint("simple"), headers)
    if response.status not in refusals:  # all else is the client's business
        tell(f"+ the feed takes {token}")
        return token
    remedies = {
        401: f"replace it, by {PAT} for instance; for an application, {MEMBER}",
        403: "ask the feed's owner for a role: Reader installs, Contributor uploads",
    }
    remedy = remedies.get(response.status, CHECK_URL)
    raise refused(f"{token}: the feed", response, remedy, challenge, token.value, basic)


# --- The whole sign-in ---


NO_PROVIDER = (
    f"run az login with the Azure CLI (if there is an Entra tenant), or set {TOKEN} to"
    f" {PAT}, made at https://dev.azure.com/{{organization}}/_usersSettings/tokens"
)


def sign_in(feed: Feed, challenge: Challenge) -> Token:
    """Return a password for the feed, from the first provider that has one.

    Raises SignInError with the reason of each provider.
    """
    names = chosen_providers()
    if not challenge.tenant:
        names = [name for name in names if name == "token"]
    failures: dict[str, SignInError] = {}
    for name in names:
        try:
            token = PROVIDERS[name](challenge)
            if not token:
                tell(f"  {name}: not configured")
                continue
            tell(f"+ {name}: {token}")
            if token.use == TRY:
                return tried(feed, challenge, token)
            return exchange(feed, challenge, token)
        except Exception as error:
            failures[name] = explained(error)
            tell(f"- {name}: {failures[name]}")

    reasons = [f"{name}: {error.reason}" for name, error in failures.items()]
    remedies = [error.remedy for error in failures.values() if error.remedy]
    remedies.append(NO_PROVIDER.format(organization=feed.organization))
    reason = f"{', '.join(names)}: not configured; Entra tenant: {challenge.tenant}"
    raise SignInError("\n".join(reasons) or reason, remedies[0])


def explained(error: Exception) -> SignInError:
    """Return the error, or where a defect of ours is."""
    if isinstance(error, SignInError):
        return error
    place = traceback.extract_tb(error.__traceback__)[-1]  # its words may hold a secret
    return SignInError(
        f"please report this: {type(error).__name__} at {place.name}:{place.lineno}"
    )


# --- The keyring class ---

# az hands out no token with less than five minutes left, others grant an hour: nobody
# needs to read when a token ends.
PASSWORD_LIFE = 300.0
FAILURE_LIFE = 60.0


class Outcome(NamedTuple):
    """What came of a sign-in, and until when that counts."""

    token: Token | None
    until: float  # of time.monotonic()


# By a feed's key, or by its URL where the outcome is of that alone
memory: dict[object, Outcome] = {}
locks: dict[object, threading.RLock] = {}
if hasattr(os, "register_at_fork"):  # its threads are the parent's
    os.register_at_fork(after_in_child=locks.clear)


@contextmanager
def turn(key: object) -> Iterator[None]:
    """Let one thread at a time work for a key."""
    lock = locks.setdefault(key, threading.RLock())
    try:
        while not lock.acquire(timeout=SHORT_WAIT):
            pass
        yield
    finally:
        try:  # noqa: SIM105 - an interrupt within suppress() would leave it held
            lock.release()
        except RuntimeError:  # an interrupt came before it was acquired
            pass


def recall(feed: Feed) -> Outcome | None:
    """Return the outcome that counts for a feed."""
    for key in (feed.key, feed.url):
        outcome = memory.get(key)
        if outcome and time.monotonic() < outcome.until:
            return outcome
    return None


def remember(key: object, token: Token | None) -> Outcome:
    """Remember an outcome, and forget what counts no more."""
    now = time.monotonic()
    for other, outcome in list(memory.items()):
        if outcome.until < now:
            memory.pop(other, None)
    memory[key] = Outcome(token, now + (PASSWORD_LIFE if token else FAILURE_LIFE))
    return memory[key]


class ReadOnlyError(*STORE_ERRORS, NotImplementedError):  # type: ignore[misc]
    """Tells the chainer to ask the next one, and others that this is no store."""


class ArtifactsKeyringBackend(KeyringBackend):
    """Keyring backend for Azure DevOps feeds: it logs what fails, and raises nothing.

    A tool that vendors this file can do without keyring:

    >>> ArtifactsKeyringBackend().get_credential(feed_url, None).password
    """

    priority = 9.95  # before other plugins, which have 9.9; the chainer has 10

    def get_password(self, service: str, username: str | None) -> str | None:
        """Return the password for a feed, whatever the username; None for none."""
        credential = self.get_credential(service, username)
        return credential.password if credential else None

    def get_credential(
        self, service: str, username: str | None
    ) -> SimpleCredential | None:
        """Return the credential for a feed, None for none."""
        feed = parse_feed(service)
        token = self._outcome(feed).token if feed else None
        if not token:
            return None
        return SimpleCredential(username=username or USERNAME, password=token.value)

    def set_password(self, service: str, username: str, password: str = "") -> None:
        """Raise ReadOnlyError, like delete_password."""
        raise ReadOnlyError("artifacts-keyring-nofuss stores no passwords")

    delete_password = set_password

    def _outcome(self, feed: Feed) -> Outcome:
        """Return the outcome for a feed, from memory or of a sign-in.

        Threads take turns for a URL, after discovery for an organization: nobody waits
        for another feed that is public, mistyped or slow.
        """
        outcome = recall(feed)
        if outcome:
            return outcome
        with ExitStack() as turns:
            turns.enter_context(turn(feed.url))
            outcome = recall(feed)
            if outcome:
                return outcome
            key: object = feed.url
            level = logging.WARNING
            try:
                challenge = discover(feed)
                if challenge.is_public:
                    level = logging.DEBUG  # it may do without a password
                else:
                    key = feed.key
                    turns.enter_context(turn(key))
                outcome = recall(feed)
                if outcome:
                    return outcome
                return remember(feed.key, sign_in(feed, challenge))
            except Exception as error:
                failure = explained(error)
                text = f"no credentials for {feed.url}\n{failure}\nevery step: "
                text += f"python -m {MODULE} {feed.url}"
                tell(text.replace("\n", "\n  "), level)
                if "the feed answered 403" in failure.reason:
                    key = feed.url  # for another feed may let it in
                return remember(key, None)


if setting("ARTIFACTS_KEYRING_NOFUSS_DEBUG") not in ("", "0") and not log.handlers:
    log.addHandler(logging.StreamHandler())  # on stderr
    log.setLevel(logging.DEBUG)
    log.propagate = False


# --- The diagnosis: python -m artifacts_keyring_nofuss URL ---

COMMAND_LIMIT = 10.0


def keyring_order(_: Feed) -> str:
    """Tell whom keyring asks. Raises SignInError if not this backend."""
    try:
        active = import_module("keyring").get_keyring()
    except Exception as error:
        reason = f"keyring does not start: {type(error).__name__}: {clean(str(error))}"
        remedy = "install keyring, or correct PYTHON_KEYRING_BACKEND or keyringrc.cfg"
        raise SignInError(reason, remedy) from error

    names = [clean(str(backend)) for backend in getattr(active, "backends", [active])]
    names = [name for name in names if "__main__" not in name]
    for name in names:
        if name.startswith(("artifacts_keyring.", "keyrings.artifacts.")):
            tell(f"- keyring: {name} serves feeds, too: uninstall its package")
    if not any(name.startswith(f"{MODULE}.Artifacts") for name in names):
        reason = f"keyring does not ask this backend but {', '.join(names) or 'none'}"
        remedy = "install this package beside keyring, and unset PYTHON_KEYRING_BACKEND"
        raise SignInError(reason, remedy)
    return f"it asks {', '.join(names)}"


def try_sign_in(feed: Feed) -> str:
    """Sign in, and try the password."""
    challenge = discover(feed)
    return str(tried(feed, challenge, sign_in(feed, challenge), range(300, 600)))


def keyring_command() -> str:
    """Tell whether the keyring command has it, too."""
    command = find_program("keyring") or "keyring"
    with suppress(SignInError):
        output, _ = run([command, "--list-backends"], COMMAND_LIMIT, {})
        if f"{MODULE}.Artifacts".encode() in output:
            return f"{clean(command)} lists this backend"
    tool = 'uv tool install keyring --with "artifacts-keyring-nofuss>=2"'
    return f"{clean(command)} does not list this backend; for uv, one must:\n{tool}"


def main() -> int:
    """Tell step by step whether clients get in, and what to do if not."""
    url = sys.argv[1] if len(sys.argv) == 2 else ""
    feed = parse_feed(url)
    if not feed:
        print(
            f"usage: python -m {MODULE} https://pkgs.dev.azure.com/...", file=sys.stderr
        )
        return 2
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(relativeCreated)6.0f ms  %(step)s"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    logging.raiseExceptions = False

    tell(f"  version {__version__}, Python {sys.version.split()[0]}")
    if re.match("https://[^/@]*:[^/@]+@", url, ANY_CASE):
        tell("- clients: they use the password in this URL, which may be old or wrong")
    for name in ("PIP_NO_INPUT", "PIP_KEYRING_PROVIDER", "UV_KEYRING_PROVIDER"):
        if setting(name).lower() in ("1", "true", "yes", "on", "disabled"):
            tell(f"- clients: {name}={setting(name)} keeps them from asking keyring")
    failures: list[SignInError] = []
    for name, check in (("keyring", keyring_order), ("sign-in", try_sign_in)):
        try:
            tell(f"+ {name}: {check(feed)}")
        except Exception as error:
            failures.append(explained(error))
            tell(f"- {name}: {failures[-1]}")
    tell(f"  keyring command: {keyring_command()}")

    if not failures:
        print("\nkeyring's clients get in.", flush=True)
        return 0
    print(f"\n{failures[0].reason}\n\nTo do:\n{failures[0].remedy}", flush=True)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
