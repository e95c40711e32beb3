# SPDX-License-Identifier: MIT
# Copyright (c) 2026 The artifacts-keyring-nofuss developers
"""Keyring backend that signs pip, uv, twine and their kin in to Azure DevOps Artifacts feeds.

This file is all of artifacts-keyring-nofuss, from version 2.0.0 on, and may be vendored.
Project page: https://pypi.org/project/artifacts-keyring-nofuss/

It reads in the order of a sign-in; at its end are those who start one, the keyring class and the
diagnosis. A function that cannot do its job raises SignInError; only the keyring class decides what
to log, to remember and to return. Times are in seconds; a deadline is a value of now().
"""

from __future__ import annotations

import argparse
import atexit
import base64
import configparser
import contextlib
import functools
import json
import logging
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
import weakref
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, IncompleteRead
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, NamedTuple, TypeVar
from urllib.parse import quote, quote_plus, urlencode, urlsplit

try:  # keyring 25.2 and newer has imported all of the above by itself, so it costs no time here
    from keyring.backend import KeyringBackend
    from keyring.credentials import SimpleCredential
    from keyring.errors import PasswordDeleteError, PasswordSetError
    from keyring.util.platform_ import config_root
except ImportError:  # a vendored copy serves credentials without keyring, too
    KeyringBackend = object  # type: ignore[assignment, misc]
    SimpleCredential = namedtuple("SimpleCredential", "username password")  # type: ignore
    PasswordSetError = type("PasswordSetError", (Exception,), {})  # type: ignore
    PasswordDeleteError = type("PasswordDeleteError", (Exception,), {})  # type: ignore
    config_root = str  # that is, ""

__version__ = "2.0.0"

log = logging.getLogger(__name__)
T = TypeVar("T")
Report = Callable[["Step"], None]


class SignInError(Exception):
    """Why a step failed, in words for a person; what to do is in REMEDIES and names what is known.

    transient: another attempt may work. feed_only: other feeds of the organization may work.
    """

    def __init__(
        self, reason: str, *, transient: bool = False, feed_only: bool = False, **known: Any
    ) -> None:
        super().__init__(reason)
        rows = (remedy for pattern, remedy in REMEDIES.items() if re.match(pattern, reason))
        self.remedy = next(rows, "").format(**known)
        self.transient, self.feed_only = transient, feed_only


# --- The feed's URL ------------------------------------------------------------------------------

READ, WRITE = "vso.packaging", "vso.packaging_write"  # the scopes of a session token
SUBDOMAINS = r"(?:[a-z0-9-]{1,63}\.)*"
AUTHORITY = rf"(?:{SUBDOMAINS}vssps|vsspsext)\.(?:dev\.azure|visualstudio)\.com"
# For each domain of feeds: the hosts of its token service, to which a bearer may be sent; whether
# the host names the organization, as otherwise the path does.
# https://learn.microsoft.com/azure/devops/organizations/security/allow-list-ip-url and
# https://github.com/microsoft/artifacts-credprovider; the last two are Microsoft's test fabrics.
CLOUDS = {
    "pkgs.dev.azure.com": (AUTHORITY, False),
    "pkgs.visualstudio.com": (AUTHORITY, True),
    "pkgs.codedev.ms": (rf"{SUBDOMAINS}vssps\.codedev\.ms", False),
    "pkgs.vsts.me": (rf"{SUBDOMAINS}vssps\.vsts\.me", True),
}
ORGANIZATION = r"[a-z0-9][a-z0-9._-]*"
# Stricter than RFC 3986: a URL in which two parsers might see two hosts does not match. Without a
# scheme, the userinfo has no colon: "https:me@host" is not a feed.
FEED_URL = (
    r"(?:https://(?:[\w.~%!$&'()*+,;=:-]*@)?|(?:[\w.~%!$&'()*+,;=-]*@)?)"
    r"(?P<host>(?:(?P<label>[a-z0-9-]{1,63})\.)?"
    rf"(?P<domain>{'|'.join(map(re.escape, CLOUDS))}))(?::443)?"
    r"(?P<path>/[^?#]*)?(?:[?#].*)?"
)
UPLOAD_PATH = r"(?:/[^/]+){0,2}/_packaging/[^/]+/pypi/upload/?"
AMBIGUOUS_PATH = r"/(?:\.|%2e){1,2}(?:/|$)|%2f|%5c"  # a server may see another organization in it
ANY_CASE = re.ASCII | re.IGNORECASE  # without ASCII, U+212A would match a k


class Feed(NamedTuple):
    """A feed: its URL without userinfo, query and fragment, and the scope that its use needs."""

    url: str
    host: str
    authority: str  # as in CLOUDS
    organization: str
    scope: str

    @property
    def credential_key(self) -> tuple[str, ...]:
        """What a credential is good for: all feeds with the same key share it."""
        return self.host, self.organization, self.scope


def parse_feed(service: str | None) -> Feed | None:
    """Return the feed that a service's name means, with or without https://; None if it is none."""
    if not isinstance(service, str) or not any(domain in service.lower() for domain in CLOUDS):
        return None  # like most services, which are spared the compilation of FEED_URL
    match = re.fullmatch(FEED_URL, service, ANY_CASE)
    if not match or not service.isprintable() or "\\" in service:
        return None
    host, path = match["host"].lower(), match["path"] or "/"
    authority, in_host = CLOUDS[match["domain"].lower()]
    organization = match["label"] if in_host and match["label"] else path.split("/")[1]
    ambiguous = re.search(AMBIGUOUS_PATH, path, ANY_CASE)
    if ambiguous or not re.fullmatch(ORGANIZATION, organization, ANY_CASE):
        return None
    organization = organization.lower()  # not before the match: U+212A becomes a k
    scope = WRITE if re.fullmatch(UPLOAD_PATH, path, ANY_CASE) else READ
    if "." not in path.rpartition("/")[2]:  # not a file, but a folder
        path = path.rstrip("/") + "/"
    url = f"https://{host}" + quote(path, "/%:@!$&'()*+,;=~")
    return Feed(url, host, authority, organization, scope)


# --- Time ----------------------------------------------------------------------------------------

SIGN_IN_LIMIT = 85.0  # for everything, whatever happens; each other limit is of a part


def now() -> float:
    """Return seconds on a clock that is never set, and that goes on while the machine sleeps."""
    if sys.platform == "win32":
        return time.monotonic()
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


# Threads that nobody waits for; a late one ends when it looks here: a name's look-up has no limit.
abandoned: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def end_if_abandoned() -> None:
    """End this thread if nobody waits for it any more."""
    if threading.current_thread() in abandoned:
        sys.exit()


def poll(wait: Callable[[float], object], deadline: float) -> bool:
    """Repeat a wait of some seconds until it returns something true; False if the time is up."""
    # The waits are short, because on Windows no interrupt gets through a long one.
    while not (done := wait(min(0.1, max(deadline - now(), 0.0)))) and now() < deadline:
        end_if_abandoned()
    return bool(done)


def in_time(work: Callable[[], T], deadline: float) -> T | None:
    """Return what the work returns, None if it is late; what it runs is stopped then."""
    outcome: list[T] = []
    worker = threading.Thread()

    def has_ended(seconds: float) -> bool:
        worker.join(seconds)
        return not worker.is_alive()

    try:
        try:
            worker = threading.Thread(target=lambda: outcome.append(work()), daemon=True)
            worker.start()
        except RuntimeError:  # a limit on processes, a closing interpreter, or an isolated one
            return work()
        poll(has_ended, deadline)
    finally:  # also when an interrupt, or a signal handler of the caller, ends the wait
        abandoned.add(worker)  # up to Python 3.12, an interrupted join() takes it for dead
        pause = threading.Event().wait  # while it stops what it runs
        poll(lambda _: worker not in threading.enumerate() or pause(0.01), now() + 0.3)
    return outcome[0] if outcome else None


# --- HTTP ----------------------------------------------------------------------------------------

HTTP_LIMIT = 20.0  # when no request is repeated any more
ATTEMPT_LIMIT = 10.0  # for a connection, and for each silence of the server
METADATA_CONNECT_LIMIT = 0.6  # off Azure, the metadata address swallows every packet
RETRY_PAUSES = (0.25, 0.5)  # before the second attempt and the third
RETRIED = {429, 500, 502, 503, 504}
ANSWER_LIMIT = 64 * 1024  # bytes; a token has a few thousand
form_encoded = functools.partial(urlencode, errors="surrogateescape")  # as os.environ decodes
JSON = {"Accept": "application/json", "Content-Type": "application/json"}
# A JWT, Entra's refresh tokens and client secrets, and whatever else is that long:
TOKEN_LIKE = r"eyJ[\w.~=-]+|[01]\.A[\w.~-]{20,}|[\w.~-]{3}\dQ~[\w.~-]{20,}|[\w~+=-]{40,}"


class Response(NamedTuple):
    """An answer: its body is cut off at ANSWER_LIMIT."""

    status: int
    headers: Message
    body: bytes


def http(
    url: str, headers: dict[str, str], deadline: float, body: str = "", retried: set[int] = RETRIED
) -> Response:
    """Send a GET, or a POST of the body, up to three times; return the answer of any status."""
    headers = {"User-Agent": f"artifacts-keyring-nofuss/{__version__}", **headers}
    deadline = min(deadline, now() + HTTP_LIMIT)
    pauses = iter(RETRY_PAUSES)
    while True:
        pause = next(pauses, float("inf")) * random.uniform(0.75, 1.25)  # infinite: never
        try:
            limit = max(min(ATTEMPT_LIMIT, deadline - now()), 0.1)
            response = send(urllib.request.Request(url, body.encode() or None, headers), limit)
            pause = max(pause, number(response.headers.get("Retry-After")) or 0.0)
            if response.status not in retried or now() + pause >= deadline:
                return response
        except SignInError as error:
            if not error.transient or now() + pause >= deadline:
                raise
        time.sleep(pause)


def send(request: urllib.request.Request, limit: float) -> Response:
    """Send a request once; the limit is on the connection and on each silence of the server."""
    host, https = request.host, request.type == "https"  # before a proxy takes the host's place
    director = urllib.request.OpenerDirector()  # without a handler of redirects
    try:
        # Level 0 overrides one that the caller set for http.client, which would print headers.
        if https:
            director.add_handler(urllib.request.ProxyHandler(proxy_setting(host)))
            director.add_handler(urllib.request.HTTPSHandler(0, context=tls_context(*ca_setting())))
        else:  # a metadata service, which no proxy may see
            director.add_handler(urllib.request.HTTPHandler(0))
            with contextlib.closing(HTTPConnection(host, timeout=METADATA_CONNECT_LIMIT)) as probe:
                probe.connect()  # is anybody there?
        with director.open(request, timeout=limit) as response:
            body = response.read(ANSWER_LIMIT)
            if response.length and len(body) < ANSWER_LIMIT:
                raise IncompleteRead(body)
            return Response(response.status, response.headers, body)
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        failure = explain(error, host if https else f"http://{host}")
    raise failure  # outside of "except" it has no context, whose words may hold what was sent


def proxy_setting(host: str) -> dict[str, str]:
    """Return the proxy's URL for https requests to a host, under "https"; {} if there is none."""
    proxies = urllib.request.getproxies()
    proxy = (proxies.get("https") or proxies.get("all") or "").strip()
    if not proxy or urllib.request.proxy_bypass(host):
        return {}
    with contextlib.suppress(ValueError):
        url = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        if url.scheme == "http" and url.hostname and "@" not in url.path + url.query + url.fragment:
            return {"https": f"http://{url.netloc}" + ("" if url.port else ":80")}
    raise SignInError("the proxy is not an http URL")  # its password may be anywhere in it


def explain(error: Exception, host: str) -> SignInError:
    """Translate an exception of urllib for a person."""
    reason = getattr(error, "reason", error)  # URLError's is an exception, SSLError's a string
    error = reason if isinstance(reason, Exception) else error
    if isinstance(error, ssl.SSLCertVerificationError):
        return SignInError(f"{host}: certificate not trusted: {clean(error.verify_message)}")
    words = clean(getattr(error, "strerror", None) or str(error) or type(error).__name__)
    refused = re.match(r"Tunnel connection failed: 4(?!29)", words)  # by the proxy
    words = f"no connection: {words}"
    if isinstance(error, (TimeoutError, socket.timeout)):
        words = "no complete answer in time"
    elif isinstance(error, HTTPException) and not isinstance(error, ConnectionError):
        words = "the answer is not HTTP or breaks off"  # its own words may hold what was sent
    return SignInError(f"{host}: {words}", transient=not refused)


def parse_object(body: bytes | str) -> dict[str, Any]:
    """Return the JSON object in an answer, an empty one if there is none."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(document := json.loads(body), dict):
            return document
    return {}


def complaint(response: Response, *secrets: str) -> str:
    """Return what an answer says of its refusal, in a line and without the secrets sent to it."""
    said = map(parse_object(response.body).get, ("message", "error_description", "error"))
    words = next((clean(text, *secrets) for text in said if text and isinstance(text, str)), "")
    words = words.partition(" Trace ID: ")[0]  # of Entra
    return f"answered {response.status}" + (f": {words}" if words else "")


def granted(response: Response, service: str, secret: str, **known: Any) -> dict[str, Any]:
    """Return the JSON object of an answer that grants what was asked for."""
    if response.status != 200:
        raise SignInError(f"{service} {complaint(response, secret)}", **known)
    return parse_object(response.body)


def clean(text: str, *secrets: str) -> str:
    """Make text from outside fit for a log: a printable line, not long, without secrets."""
    for secret in filter(None, secrets):
        for form in (secret, quote_plus(secret, errors="surrogateescape")):
            text = text.replace(form, "[removed]")
    text = re.sub(TOKEN_LIKE, "[removed]", re.sub(r"//[^/\s]*@", "//", text))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:400]


def number(value: object) -> float | None:
    """Return a number, which may come as a string; None if it is not one."""
    return float(str(value)) if re.fullmatch(r"\d{1,10}(?:\.\d+)?", str(value)) else None


# --- Certificates --------------------------------------------------------------------------------

# The first that is set counts. OpenSSL has the first two, az obeys the others:
# https://learn.microsoft.com/cli/azure/use-azure-cli-successfully-troubleshooting
CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def ca_setting() -> tuple[str, str]:
    """Return the variable that names the trusted certificates, and its value; "" for none."""
    name = next(filter(os.environ.get, CA_VARIABLES), "")
    return name, os.environ.get(name, "")


@functools.cache  # it takes longer to make than a TLS handshake
def tls_context(variable: str, path: str) -> ssl.SSLContext:
    """Return the TLS context for the outcome of ca_setting()."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not the default: that writes a key log
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if variable:
            is_folder = any(map(os.path.isdir, path.split(os.pathsep)))  # or several
            context.load_verify_locations(**{"capath" if is_folder else "cafile": path})
        else:
            load_system_certificates(context)
    except OSError as error:
        name, words = variable or "the system's certificate file", error.strerror or str(error)
        raise SignInError(f"{name} cannot be used: {clean(words)}") from error
    return context


def load_system_certificates(context: ssl.SSLContext) -> None:
    """Trust what the system trusts; if that is nothing, what certifi or pip bundle."""
    if sys.platform == "win32":
        context.load_default_certs()
    # Elsewhere its paths are looked up here: OpenSSL takes an empty SSL_CERT_FILE at its word.
    paths = ssl.get_default_verify_paths()
    if os.path.isfile(paths.openssl_cafile):
        context.load_verify_locations(cafile=paths.openssl_cafile)
    if os.path.isdir(paths.openssl_capath) and os.listdir(paths.openssl_capath):
        context.load_verify_locations(capath=paths.openssl_capath)
    elif not context.cert_store_stats()["x509"]:
        for name in ("certifi", "pip._vendor.certifi"):
            with contextlib.suppress(ImportError):
                return context.load_verify_locations(cafile=import_module(name).where())
        raise SignInError("this system has no certificates to trust")


# --- The feed's challenge ------------------------------------------------------------------------

LOGIN_HOST = r"(?:login\.(?:microsoftonline|microsoft)\.com|login\.windows\.net)"
GUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TENANT = rf"{GUID}|[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)+"  # or a plain domain name
LOGIN_PAGE = rf"https://{LOGIN_HOST}(?::443)?/(?P<tenant>{TENANT})/?"
NO_TENANT = "00000000-0000-0000-0000-000000000000"  # an organization of Microsoft accounts
NO_LOGIN_PAGE = {"X-TFS-FedAuthRedirect": "Suppress"}  # that is, 401 instead of a redirect to it


class Challenge(NamedTuple):
    """What the feed's refusal tells: where its organization signs in, and what time it is."""

    tenant: str  # of Entra, in lower case
    authority: str  # the URL of the token service, without its last slash
    clock: float  # what to add to now() for the feed's Unix time

    def __str__(self) -> str:
        return f"tenant {self.tenant}, authority {self.authority}"


def discover(feed: Feed, deadline: float) -> Challenge | None:
    """Ask the feed, unauthenticated, where to sign in; None if it is public, and asks for none."""
    response = http(feed.url, NO_LOGIN_PAGE, deadline)
    is_stored_file = "/pypi/download/" in feed.url and 300 <= response.status < 400
    if feed.scope == READ and (response.status == 200 or is_stored_file):
        return None
    tenant = challenged_tenant(response.headers)
    if not tenant and response.status == 401:
        raise SignInError(f"organization {feed.organization} has no Entra tenant", feed=feed)
    if not tenant:
        reason = f"the feed {complaint(response)}, without a challenge to sign in"
        raise SignInError(reason, feed_only=response.status not in RETRIED)
    endpoint = response.headers.get("X-VSS-AuthorizationEndpoint", "")
    pattern = rf"(https://(?:{feed.authority}))(?::443)?(/{ORGANIZATION})?/?"
    origin, path = trusted("the feed's X-VSS-AuthorizationEndpoint", pattern, endpoint).groups("")
    return Challenge(tenant, origin.lower() + path, unix_date(response.headers) - now())


def challenged_tenant(headers: Message) -> str | None:
    """Return the tenant that a challenge names, None if it names none."""
    challenges = " ".join(headers.get_all("WWW-Authenticate", []))
    uris = re.findall(r'\bauthorization_uri\s*=\s*"?([^\s,"]+)', challenges, ANY_CASE)
    pages = [trusted("the feed's authorization_uri", LOGIN_PAGE, uri) for uri in uris]
    others = " ".join(headers.get_all("X-VSS-ResourceTenant", []))
    tenants = [page["tenant"] for page in pages] + re.findall(GUID, others, ANY_CASE)
    return next((tenant.lower() for tenant in tenants if tenant != NO_TENANT), None)


def trusted(name: str, pattern: str, url: str) -> re.Match[str]:
    """Match a URL that secrets may be sent to. Raises SignInError, with its name, for another."""
    match = re.fullmatch(pattern, url, ANY_CASE)
    if not match:
        raise SignInError(f"{name} is not trusted: {clean(url) or 'it is missing'}")
    return match


def unix_date(headers: Message) -> float:
    """Return the Unix time of an answer, by this machine's clock if it has no Date."""
    with contextlib.suppress(TypeError, ValueError, IndexError, OverflowError, OSError):
        return parsedate_to_datetime(headers["Date"]).timestamp()
    return time.time()


# --- Tokens --------------------------------------------------------------------------------------

# What a token is for: a person's is exchanged; an application's, a personal access token or a
# session token is itself the password; if its claims do not tell, the exchange will.
PERSON, PASSWORD, UNREADABLE = "person", "password", "unreadable"
# https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
ENTRA_ISSUER = rf"https://(?:sts\.windows\.net|login\.microsoftonline\.com)/{GUID}/(?:v2\.0)?"
ANSWER = "the answer"  # where a token is, for a person to read
LONGEST_LIFE = 25 * 3600.0  # Entra and Azure DevOps grant a day at the most


class Token(NamedTuple):
    """A token, and what is known of it without proof; it is never shown."""

    value: str
    kind: str
    label: str  # for a person to read
    expires: float | None = None  # a value of now()

    def __repr__(self) -> str:
        life = f"in {(self.expires - now()) / 60:.0f} min" if self.expires else "at an unknown time"
        return f"{self.label}, expires {life}"


def bearer_of(
    answer: Mapping[str, object], kind: str, challenge: Challenge, source: str = ANSWER
) -> Token:
    """Return the token in an answer, as its claims describe it; they decide an UNREADABLE kind."""
    value = parse_token(answer.get("access_token"), source)
    claims = read_claims(value)
    if kind == UNREADABLE and re.fullmatch(ENTRA_ISSUER, str(claims.get("iss")), ANY_CASE):
        kind = PERSON if "scp" in claims else PASSWORD  # an application's token has no scopes
    home, tenant = str(claims.get("tid")).lower(), challenge.tenant
    if home != tenant and re.fullmatch(GUID, home) and re.fullmatch(GUID, tenant):
        raise SignInError(f"the token is of tenant {home}, the feed of {tenant}", tenant=tenant)
    end, lifetime = number(claims.get("exp")), number(answer.get("expires_in"))
    if end and end - challenge.clock <= now():
        raise SignInError(f"the token in {source} has expired")
    names = ("upn", "unique_name", "preferred_username", "appid", "oid")
    account = next((str(claims[name]) for name in names if claims.get(name)), "an unknown account")
    label = f"signed in as {clean(account)}" + (", an application" if kind == PASSWORD else "")
    times = end, number(answer.get("expires_on")), lifetime and lifetime + now() + challenge.clock
    return Token(value, kind, label, expiry(challenge, *times))


def parse_token(value: object, source: str = ANSWER) -> str:
    """Return the value if it is a token that fits into a header."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,32768}", value):  # not a cut one
        raise SignInError(f"{source} holds no usable token")
    return value


def read_claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT, unverified; none of an opaque or encrypted token."""
    with contextlib.suppress(ValueError):
        _, payload, _ = token.split(".")
        return parse_object(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return {}


def expiry(challenge: Challenge, *times: float | None) -> float | None:
    """Return the first of some Unix times as a value of now(), None without a plausible one."""
    ends = [when - challenge.clock for when in times if when]
    return min((end for end in ends if now() < end < now() + LONGEST_LIFE), default=None)


# --- Provider: a token made elsewhere ------------------------------------------------------------

TOKEN_VARIABLE = "ARTIFACTS_KEYRING_NOFUSS_TOKEN"
TOKEN_FILE_VARIABLE = "ARTIFACTS_KEYRING_NOFUSS_TOKEN_FILE"
# Where BuildKit mounts the secret of this name: https://docs.docker.com/build/building/secrets/
SECRET_FILE = f"/run/secrets/{TOKEN_VARIABLE}"


def setting(name: str) -> str:
    """Return an environment variable without the white space around it, "" if it is not set."""
    return os.environ.get(name, "").strip()


def given_source() -> str:
    """Return the variable or the file where somebody put a token for this process, "" if none."""
    given = next(filter(setting, (TOKEN_FILE_VARIABLE, TOKEN_VARIABLE)), "")
    return given or (SECRET_FILE if os.path.exists(SECRET_FILE) else "")


def given_token(_: object, deadline: float) -> Token:
    """Return the token that somebody made for this process, of any kind that a feed takes."""
    source = given_source()
    value = setting(source)
    if source != TOKEN_VARIABLE:
        value = read_token(source, value or SECRET_FILE)
    here = Challenge("", "", time.time() - now())  # no service tells the time
    token = bearer_of({"access_token": value}, UNREADABLE, here, source)
    if token.kind == PERSON:
        return token
    return token._replace(kind=PASSWORD, label=f"the token in {source}")


def read_token(source: str, path: str) -> str:
    """Return the token in a file, whose path comes from the source."""
    try:
        with open(path, "rb") as file:
            return file.read(ANSWER_LIMIT).decode("utf-8-sig", "replace").strip()
    except OSError as error:
        raise SignInError(f"{source} cannot be read: {error.strerror}") from None


# --- Provider: workload identity -----------------------------------------------------------------

# https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
# https://azure.github.io/azure-workload-identity/docs/
# https://docs.github.com/actions/reference/security/oidc
# Azure DevOps in every tenant: https://learn.microsoft.com/rest/api/azure/devops/tokens/
RESOURCE = "499b84ac-1321-427f-aa17-267ca6975798"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523, 2.2
GITHUB_VARIABLES = ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN")
GITHUB_URL = rf"https://{SUBDOMAINS}actions\.githubusercontent\.com(?::443)?/[!-~]*"


def has_workload_identity() -> bool:
    """Tell whether this process was given an application, and what proves it."""
    proofs = map(setting, ("AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"))
    proven = any(proofs) or all(map(setting, GITHUB_VARIABLES))
    return bool(setting("AZURE_CLIENT_ID")) and proven


def workload_identity(challenge: Challenge, deadline: float) -> Token:
    """Return a bearer of the application AZURE_CLIENT_ID, for the feed's tenant."""
    host = setting("AZURE_AUTHORITY_HOST") or "login.microsoftonline.com"
    host = trusted("AZURE_AUTHORITY_HOST", rf"(?:https://)?({LOGIN_HOST})(?::443)?/?", host)[1]
    form = {"grant_type": "client_credentials", "scope": f"{RESOURCE}/.default"}
    form["client_id"] = setting("AZURE_CLIENT_ID")
    proof = setting("AZURE_CLIENT_SECRET")
    if proof:
        form["client_secret"] = proof
    else:
        proof = form["client_assertion"] = client_assertion(deadline)
        form["client_assertion_type"] = JWT_BEARER
    url = f"https://{host}/{challenge.tenant}/oauth2/v2.0/token"
    response = http(url, {}, deadline, form_encoded(form))
    claims = read_claims(proof)  # of an assertion; nothing of them is secret
    terms = ", ".join(f"{name} {claims.get(name)!r}" for name in ("iss", "sub", "aud"))
    answer = granted(response, "Entra", proof, tenant=challenge.tenant, terms=terms)
    return bearer_of(answer, PASSWORD, challenge)


def client_assertion(deadline: float) -> str:
    """Return a fresh assertion: the projected token of AKS, else one of GitHub Actions."""
    variable = "AZURE_FEDERATED_TOKEN_FILE"
    if setting(variable):
        return parse_token(read_token(variable, setting(variable)), variable)
    url, bearer = map(setting, GITHUB_VARIABLES)
    trusted(GITHUB_VARIABLES[0], GITHUB_URL, url)
    audience = setting("AZURE_FEDERATED_TOKEN_AUDIENCE") or "api://AzureADTokenExchange"
    url += ("&" if "?" in url else "?") + form_encoded({"audience": audience})
    headers = {"Authorization": f"Bearer {parse_token(bearer, GITHUB_VARIABLES[1])}"}
    answer = granted(http(url, headers, deadline), "GitHub", bearer)
    return parse_token(answer.get("value"))


# --- Provider: the Azure CLI ---------------------------------------------------------------------

# https://learn.microsoft.com/cli/azure/account#az-account-get-access-token
AZ_LIMIT = 60.0  # a first run on a cold CI machine takes that long
TALK_LIMIT = 16 * 1024 * 1024  # bytes that a program may say
SYSTEM_ROOT = os.environ.get("SYSTEMROOT", "C:\\Windows")
SAFE_FOLDER = SYSTEM_ROOT if sys.platform == "win32" else "/"  # where only administrators can write
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)
AZ_SETTINGS = {  # https://learn.microsoft.com/cli/azure/azure-cli-configuration
    "AZURE_CLOUD_NAME": "AzureCloud",  # another would hide the accounts of this one
    "AZURE_CORE_COLLECT_TELEMETRY": "no",  # which takes a sixth of each run
    "AZURE_CORE_NO_COLOR": "true",
    "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
    "AZURE_LOGGING_ENABLE_LOG_FILE": "no",  # which fails where home is read-only
}
AZ_PATHS = ("AZURE_CONFIG_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # relative to the caller
AZ_REASON = r"^[ \t]*ERROR:(?! The command failed with an unexpected error)(.*\S)"
processes: set[subprocess.Popen[bytes]] = set()  # those that run


def azure_cli(challenge: Challenge, deadline: float) -> Token:
    """Return a bearer of the account that az is signed in as, for the feed's tenant."""
    az = next(on_path("az"), None)
    if not az:
        raise SignInError("az is not on PATH")
    words = f"account get-access-token --resource {RESOURCE} --tenant {challenge.tenant}"
    paths = {name: os.path.abspath(setting(name)) for name in AZ_PATHS if setting(name)}
    command = [az, *words.split(), "--output", "json"]
    status, output, errors = run(command, min(deadline, now() + AZ_LIMIT), {**AZ_SETTINGS, **paths})
    if status or not output:
        lines = re.findall(AZ_REASON, errors, re.M) or errors.strip().split("\n")[-1:]
        raise SignInError(f"az failed: {clean(lines[0]) or 'silently'}", tenant=challenge.tenant)
    document = parse_object(output)
    expires = number(document.get("expires_on"))  # by this machine's clock
    lifetime = expires and expires - time.time()
    answer = {"access_token": document.get("accessToken"), "expires_in": lifetime}
    return bearer_of(answer, UNREADABLE, challenge)


def on_path(name: str) -> Iterator[str]:
    """Yield the paths of a program on PATH, in order; relative entries of PATH do not count."""
    endings = (".exe", ".bat", ".cmd") if sys.platform == "win32" else ("",)
    for folder in filter(os.path.isabs, os.get_exec_path()):
        for path in (os.path.join(folder, name + ending) for ending in endings):
            if os.path.isfile(path) and os.access(path, os.X_OK):
                yield path


def run(command: list[str], deadline: float, settings: Mapping[str, str]) -> tuple[int, str, str]:
    """Run a program, with settings in its environment; return its status, output and errors."""
    name, said, is_complete = os.path.basename(command[0]), (b"", b""), False
    try:
        process = subprocess.Popen(
            command_line(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **settings},
            cwd=SAFE_FOLDER,  # python -m azure.cli imports what lies in the working directory
            start_new_session=True,
            creationflags=NO_WINDOW,
        )
    except OSError as error:
        raise SignInError(f"{name} cannot be started: {error.strerror}") from error

    def is_over(seconds: float) -> bool:
        nonlocal said, is_complete
        has_ended = process.poll() is not None  # but what it left behind may hold its pipes
        try:
            said, is_complete = process.communicate(timeout=seconds), True
        except subprocess.TimeoutExpired as silence:
            said = silence.output or b"", silence.stderr or b""
        return is_complete or has_ended or sum(map(len, said)) > TALK_LIMIT

    processes.add(process)
    try:
        if not poll(is_over, deadline):
            raise SignInError(f"{name} gave no answer in time and was stopped")
    finally:
        if not is_complete:
            stop(process)
        processes.discard(process)
    output, errors = (text[-ANSWER_LIMIT:].decode("utf-8", "replace") for text in said)
    return process.returncode, output, errors


def command_line(command: list[str]) -> list[str] | str:
    """Return what starts a command; on Windows a batch file needs cmd.exe."""
    if not command[0].endswith((".cmd", ".bat")):
        return command
    shell = os.path.join(SYSTEM_ROOT, "System32", "cmd.exe")
    # The outer quotes are for cmd.exe; /d keeps it from running what the registry names, too.
    return f'"{shell}" /d /s /c ""{command[0]}" {" ".join(command[1:])}"'


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started: az is a script in front of the real one."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if sys.platform == "win32":
            taskkill = os.path.join(SYSTEM_ROOT, "System32", "taskkill.exe")
            command = [taskkill, "/F", "/T", "/PID", str(process.pid)]
            quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            subprocess.run(command, timeout=5, creationflags=NO_WINDOW, **quiet)
        else:
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        process.kill()
        process.wait(1.0)


@atexit.register
def stop_programs() -> None:
    """Stop the programs that still run at the end of the caller."""
    for process in [*processes]:
        stop(process)


# --- Provider: managed identity ------------------------------------------------------------------

# For each place, the first that fits: the variables that are all set there (address, then secret);
# the API's version, "" if it is not supported; the secret's header; the client's parameter.
# https://learn.microsoft.com/azure/app-service/overview-managed-identity
# https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
APP_SERVICE = ("IDENTITY_ENDPOINT", "IDENTITY_HEADER")
METADATA_SERVICES: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    "Service Fabric": ((*APP_SERVICE, "IDENTITY_SERVER_THUMBPRINT"), "", "", ""),
    "App Service": (APP_SERVICE, "2019-08-01", "X-IDENTITY-HEADER", "client_id"),
    "Azure Arc": (("IDENTITY_ENDPOINT", "IMDS_ENDPOINT"), "", "", ""),
    "Azure ML": (("MSI_ENDPOINT", "MSI_SECRET"), "2017-09-01", "secret", "clientid"),
    "this machine": ((), "2018-02-01", "", "client_id"),
}
IMDS_VARIABLE, IMDS = "AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://169.254.169.254"
METADATA_URL = r"http://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?(?:/[!\"$->@-~]*)?"


def managed_identity(challenge: Challenge, deadline: float) -> Token:
    """Return a bearer of the machine's managed identity."""
    place = next(name for name, row in METADATA_SERVICES.items() if all(map(setting, row[0])))
    variables, version, secret_header, client_parameter = METADATA_SERVICES[place]
    if not version:
        raise SignInError(f"the identity of {place} is not supported")
    variable, secret_variable = variables or (IMDS_VARIABLE, "")
    url, secret, retried = setting(variable), setting(secret_variable), RETRIED
    if not variables:
        url = (url or IMDS).rstrip("/") + "/metadata/identity/oauth2/token"
        retried = RETRIED | {404, 410}  # while an identity is still being assigned
    trusted(variable, METADATA_URL, url)
    headers = {"Metadata": "true"}
    if secret_header:
        headers[secret_header] = parse_token(secret, secret_variable)
    query = {"api-version": version, "resource": RESOURCE}
    client = setting("AZURE_CLIENT_ID") or setting("DEFAULT_IDENTITY_CLIENT_ID")  # of Azure ML
    if client:
        query[client_parameter] = client
    url += "?" + form_encoded(query)
    response = http(url, headers, deadline, retried=retried)
    answer = granted(response, f"the metadata service of {place}", secret)
    return bearer_of(answer, PASSWORD, challenge)


# --- The table of providers ----------------------------------------------------------------------

# In the order in which they are asked: what gets a token from the feed's challenge and a deadline;
# whether it is configured for this process; whether it needs the challenge.
PROVIDERS: dict[str, tuple[Callable[[Any, float], Token], Callable[[], object], bool]] = {
    "token": (given_token, given_source, False),
    "workload_identity": (workload_identity, has_workload_identity, True),
    "azure_cli": (azure_cli, lambda: True, True),
    "managed_identity": (managed_identity, lambda: True, True),
}
PROVIDER_VARIABLE = "ARTIFACTS_KEYRING_NOFUSS_PROVIDER"


def chosen_providers() -> list[str]:
    """Return the provider that the environment or keyringrc.cfg names, else all, in order."""
    source, name = PROVIDER_VARIABLE, setting(PROVIDER_VARIABLE)
    if not name:
        source, name = configured_provider()
    if not name:
        unasked = "managed_identity" if has_workload_identity() else ""  # a pod is not its node
        return [provider for provider in PROVIDERS if provider != unasked]
    if name not in PROVIDERS:
        raise SignInError(f"{source} names {clean(name)}, not one of {', '.join(PROVIDERS)}")
    _, is_configured, _ = PROVIDERS[name]
    if not is_configured():
        raise SignInError(f"{source} names {name}, which is not configured")
    return [name]


def configured_provider() -> tuple[str, str]:
    """Return the path of keyring's own configuration file, and the provider it names or ""."""
    path, config = "", configparser.RawConfigParser()
    try:
        path = os.path.join(config_root(), "keyringrc.cfg")
        config.read(path if os.path.isabs(path) else (), encoding="utf-8")
    except (configparser.Error, ValueError, OSError) as error:
        raise SignInError(f"{path} cannot be read: {type(error).__name__}") from error
    except (RuntimeError, KeyError):  # there is no home
        pass
    return path, config.get("artifacts_keyring_nofuss", "provider", fallback="").strip()


# --- The exchange for a session token ------------------------------------------------------------

# https://github.com/microsoft/artifacts-credprovider
SESSION_LIFE = 4 * 3600.0  # seconds to ask for; the service may grant less


def session_token(feed: Feed, challenge: Challenge, bearer: Token, deadline: float) -> Token:
    """Exchange a bearer for a session token of the feed's organization and scope."""
    url = f"{challenge.authority}/_apis/Token/SessionTokens"
    url += "?tokenType=SelfDescribing&api-version=5.0-preview.1"
    headers = {**JSON, **NO_LOGIN_PAGE, "Authorization": f"Bearer {bearer.value}"}
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(challenge.clock + now() + SESSION_LIFE))
    wishes = {"scope": feed.scope, "displayName": "artifacts-keyring-nofuss", "validTo": end}
    response = http(url, headers, deadline, json.dumps(wishes))
    if response.status == 400:  # Microsoft's own client does without it then, too
        del wishes["validTo"]
        response = http(url, headers, deadline, json.dumps(wishes))
    if response.status != 200:
        return refused_bearer(feed, challenge, bearer, response)
    document = parse_object(response.body)
    value = parse_token(document.get("token"))
    label = f"scope {clean(str(document.get('scope')), bearer.value, value)}"
    times = [number(read_claims(value).get("exp"))]
    with contextlib.suppress(ValueError):  # a time like 2026-01-01T01:00:00.123Z
        end = re.sub(r"\.\d+", "", str(document.get("validTo")))
        times.append(datetime.strptime(end, "%Y-%m-%dT%H:%M:%S%z").timestamp())
    return Token(value, PASSWORD, label, expiry(challenge, *times))


def refused_bearer(feed: Feed, challenge: Challenge, bearer: Token, response: Response) -> Token:
    """Return a refused bearer if it may be an application's, which cannot be read; else raise."""
    reason = f"Azure DevOps {complaint(response, bearer.value)}"
    said = " ".join(response.headers.get_all("WWW-Authenticate", []))
    if "insufficient_claims" in said:
        reason = "Azure DevOps has revoked the sign-in"
    elif bearer.kind == UNREADABLE and response.status in (401, 403) and "TF401444" not in reason:
        return bearer._replace(kind=PASSWORD, label=f"the token itself, because {reason}")
    found = re.search(r'\bclaims="([A-Za-z0-9+/]+=*)"', said)
    claims = f" --claims-challenge {found[1]}" if found else ""
    raise SignInError(reason, feed=feed, tenant=challenge.tenant, claims=claims)


# --- Remedies ------------------------------------------------------------------------------------

# Without --scope no second factor is asked for; without the last option, nothing may be stored.
LOGIN = f"az login --tenant {{tenant}} --scope {RESOURCE}/.default --allow-no-subscriptions"
# What to do, by the beginning of a reason; the first that fits counts. Codes and words are those of
# https://learn.microsoft.com/entra/identity-platform/reference-error-codes and of
# https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
REMEDIES = {
    "the proxy ": "set HTTPS_PROXY to http://host:port, or NO_PROXY to the hosts that need none",
    r"\S+: certificate .*mismatch": "find out who answers in place of this host, a proxy perhaps",
    r"\S+: certificate .*(expired|not yet valid)": "check this machine's clock, then the server's",
    r"\S+: certificate ": f"set {' or '.join(CA_VARIABLES)} to the certificates to trust",
    r"\S+: .* 407": "put the user and password of the proxy into HTTPS_PROXY",
    r"(?!http:)\S+: (no|the) ": "check the network and HTTPS_PROXY",
    "this system has no certificates": "install ca-certificates, or set SSL_CERT_FILE",
    r"the token is of tenant |az .*(managed identity account|AADSTS(50020|90072)\b)": "sign in "
    "with an account of tenant {tenant}",
    "the token in .* has expired": "get a new token",
    r"(?!the answer)(\w:)?[^:]* (cannot be (read|used)|holds no usable|names .*, )": "correct it",
    "[^:]* is not trusted: ": "find out who set it, and what stands between you and Azure",
    "organization .* no Entra tenant": f"set {TOKEN_VARIABLE} to a personal access token, made at "
    "https://dev.azure.com/{feed.organization}/_usersSettings/tokens",
    r"Entra .*AADSTS700016\b": "check AZURE_CLIENT_ID: the application must be in tenant {tenant}",
    r"Entra .*AADSTS70021[123]?\b": "give the application a federated credential with {terms}",
    r"Entra .*AADSTS700024\b": "get a new assertion: GitHub's lives 5 minutes",
    r"Entra .*AADSTS7000(215|222)\b": "set AZURE_CLIENT_SECRET to a valid secret, not to its ID",
    r"(Entra|az) .*AADSTS(53\d+|7002(23|38)\b)|Azure DevOps .*VS403463|"
    "(Azure DevOps )?answered 3": "ask your administrator: a policy forbids this sign-in",
    r"(Entra|az) .*AADSTS500011\b": "check the URL: nobody in tenant {tenant} uses Azure DevOps",
    "az is not on PATH": f"install the Azure CLI, or set {TOKEN_VARIABLE}",
    "az .*AADSTS700024": "sign in again: the proof that CI gives to az lives 5 to 10 minutes; "
    f"to keep the sign-in, run `az account get-access-token --resource {RESOURCE}` right after it",
    "az failed: .*(?i:certificate.verif)": "set REQUESTS_CA_BUNDLE to the certificates to trust",
    "az failed: .*(AADSTS|az login|local cache|MSAL|No subscription)": LOGIN,
    "the metadata service .*specify the clientId": "set AZURE_CLIENT_ID to the identity to use",
    "Azure DevOps has revoked": f"az logout, then {LOGIN}{{claims}}",
    "Azure DevOps .*TF401444": "sign in once at https://dev.azure.com/{feed.organization}, then "
    "try again; an application has to be added to the organization by an administrator",
    "Azure DevOps answered 401": "check that this account is a member of {feed.organization}",
    "Azure DevOps answered 403": "sign in at https://dev.azure.com/{feed.organization} first",
    "answered 401": "let an administrator add this account, or renew the token that you gave",
    "answered 403": "ask the feed's owner for a role: Reader to install, Contributor to upload; "
    "a token that was made for reading cannot upload",
    "(the feed |Azure DevOps |Entra |GitHub |the metadata .*)?answered (429|5)": "try again later",
    "(the feed )?answered ": "check the organization and the feed in the URL",
    "keyring does not start": "install keyring, or correct PYTHON_KEYRING_BACKEND or keyringrc.cfg",
    "keyring does not ask": "install this package beside keyring and unset PYTHON_KEYRING_BACKEND",
    ".* not list this backend; ": "put the other one's folder first on PATH",
    ".* not list": 'uv tool install keyring --with "artifacts-keyring-nofuss>=2", first on PATH',
}


# --- The whole sign-in ---------------------------------------------------------------------------


class Step(NamedTuple):
    """A step of a sign-in: what it found, or why it failed."""

    name: str
    found: object = None
    error: SignInError | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        remedy = f"\n    {self.error.remedy}" if self.error and self.error.remedy else ""
        found = ", ".join(self.found) if isinstance(self.found, list) else self.found
        return f"{self.name}: {self.error or found or 'nothing is needed'}{remedy}"


def is_public(steps: Iterable[Step]) -> bool:
    """Tell whether the feed needs no password."""
    return any(step.name == "discovery" and not (step.found or step.error) for step in steps)


def take(report: Report, name: str, function: Callable[..., T], *arguments: object) -> T | None:
    """Take a step and report it; return what the function returns, None if it fails."""
    started, found, error = now(), None, None
    try:
        found = function(*arguments)
    except SignInError as failure:
        error = failure
    except Exception as defect:  # it would turn keyring off in pip, and crash other clients
        place = traceback.extract_tb(defect.__traceback__)[-1]  # its words may hold a secret
        where = f"{type(defect).__name__} at {os.path.basename(place.filename)}:{place.lineno}"
        error = SignInError(f"please report this: {where}")
    report(Step(name, found, error, now() - started))
    return found


def sign_in(
    feed: Feed, deadline: float, report: Report, names: Iterable[str] | None = None
) -> Iterator[tuple[str, Token]]:
    """Yield each provider that signs in, with the password for the feed; report each step."""
    # This step is taken when a token first needs it.
    challenge = functools.cache(lambda: take(report, "discovery", discover, feed, deadline))
    for name in names or take(report, "configuration", chosen_providers) or []:
        provider, is_configured, needs_challenge = PROVIDERS[name]
        if not is_configured():
            report(Step(name, "not configured"))
            continue
        if needs_challenge and not challenge():
            return  # it failed, or the feed is public and needs no password
        token = take(report, name, provider, needs_challenge and challenge(), deadline)
        if token and token.kind != PASSWORD:
            exchange = f"{name}, session token", session_token, feed, challenge(), token, deadline
            token = challenge() and take(report, *exchange)
        if token:
            yield name, token


# --- The keyring class ---------------------------------------------------------------------------

USERNAME = "VssSessionToken"  # by convention; Azure DevOps looks at the password alone
SHORT_MEMORY = 60.0  # of a failure, and of a token of unknown expiry
EXPIRY_MARGIN = 300.0  # how long before it expires a token is renewed
# By the feed's credential_key: the password or None, and until when (of now()) that counts.
memories: dict[object, tuple[Token | None, float]] = {}
locks: dict[object, threading.RLock] = {}  # likewise; only the thread that has one releases it
if hasattr(os, "register_at_fork"):  # what the parent's threads hold and run is not the child's
    os.register_at_fork(after_in_child=locks.clear)
    os.register_at_fork(after_in_child=processes.clear)


def next_memory(password: Token | None, old: Token | None) -> tuple[Token | None, float]:
    """Return the memory of a sign-in that ends now; if it failed, the old token may still serve."""
    if password and password.expires:
        life = password.expires - now()
        return password, now() + max(life - EXPIRY_MARGIN, life / 2)
    if not password and old and old.expires and now() < old.expires:
        tell(logging.DEBUG, f"the renewal failed, the old token still serves: {old}")
        return old, min(now() + SHORT_MEMORY, old.expires)
    return password, now() + SHORT_MEMORY


class ReadOnlyError(PasswordSetError, PasswordDeleteError, NotImplementedError):
    """Tells the chainer to ask the next backend, and a client without chainer that it failed."""


class ArtifactsKeyringBackend(KeyringBackend):
    """Keyring backend for Azure DevOps Artifacts feeds: what fails is logged, never raised.

    A tool that vendors this file can do without keyring:

        credential = ArtifactsKeyringBackend().get_credential(feed_url, None)
        if credential:
            session.auth = credential.username, credential.password
    """

    priority = 9.9  # asked before all others, below the chainer's 10

    def get_password(self, service: str, username: str | None) -> str | None:
        """Return the password for a feed and any username, None for another service."""
        credential = self.get_credential(service, username)
        return credential.password if credential else None

    def get_credential(self, service: str, username: str | None) -> SimpleCredential | None:
        """Return the credential for a feed, under the username given if any; None without one."""
        feed = parse_feed(service)
        password = self._password(feed) if feed else None
        return SimpleCredential(username or USERNAME, password.value) if password else None

    def set_password(self, service: str, username: str, password: str = "") -> None:
        """Leave it to another backend, like delete_password. Raises ReadOnlyError."""
        raise ReadOnlyError("artifacts-keyring-nofuss stores no passwords")

    delete_password = set_password

    def _password(self, feed: Feed) -> Token | None:
        """Return the password for a feed, from memory or else by a sign-in; None if it has none."""
        deadline = now() + SIGN_IN_LIMIT
        password, until = memories.get(feed.credential_key, (None, 0.0))
        if now() < until:
            return password
        lock = locks.setdefault(feed.credential_key, threading.RLock())
        try:
            if not poll(lambda seconds: lock.acquire(timeout=seconds), deadline):
                tell(logging.WARNING, "another thread's sign-in does not end")
                return None
            password, until = memories.get(feed.credential_key, (None, 0.0))
            return password if now() < until else self._renew(feed, password, deadline)
        finally:
            try:  # noqa: SIM105 - an interrupt within suppress() would leave the lock held
                lock.release()
            except RuntimeError:  # an interrupt came before it was acquired
                pass

    def _renew(self, feed: Feed, old: Token | None, deadline: float) -> Token | None:
        """Sign in, log the steps, and remember an outcome that holds for the whole organization."""
        steps: list[Step] = []

        def report(step: Step) -> None:
            end_if_abandoned()
            steps.append(step)
            tell(logging.DEBUG, f"{step.seconds:.2f} s {step}")

        passwords = (password for _, password in sign_in(feed, deadline, report))
        password = in_time(lambda: next(passwords, None), deadline)
        if now() >= deadline and not password:
            steps.append(Step("time", error=SignInError(f"not over within {SIGN_IN_LIMIT:.0f} s")))
        memory = next_memory(password, old)
        errors = [step.error for step in steps if step.error]
        if password or not (is_public(steps) or any(error.feed_only for error in errors)):
            memories[feed.credential_key] = memory
        if errors and not memory[0]:
            failed = [str(step) for step in steps if step.error]
            tell(logging.WARNING, "\n  ".join([f"no credentials for {feed.url}", *failed]))
        return memory[0]


def tell(level: int, text: str) -> None:
    """Log a text; a handler that fails is no reason to fail."""
    with contextlib.suppress(Exception):
        log.log(level, "%s", f"artifacts-keyring-nofuss: {text}")


if os.environ.get("ARTIFACTS_KEYRING_NOFUSS_DEBUG", "0") not in ("", "0"):
    log.addHandler(logging.StreamHandler())  # to stderr alone: pip would show it on stdout
    log.setLevel(logging.DEBUG)
    log.propagate = False


# --- The diagnosis: python -m artifacts_keyring_nofuss URL ---------------------------------------

MODULE = os.path.splitext(os.path.basename(__file__))[0]
EXAMPLE_URL = "https://pkgs.dev.azure.com/ORGANIZATION/_packaging/FEED/pypi/simple/"
COMMAND_LIMIT = 10.0  # for a keyring command to list its backends


def diagnose(feed: Feed, report: Report) -> bool:
    """Take keyring's steps and those around it; tell whether the feed accepts the password."""
    deadline = now() + SIGN_IN_LIMIT
    take(report, "keyring", keyring_order)
    take(report, "network", network, feed)
    chosen = take(report, "configuration", chosen_providers) or []
    passwords = dict(sign_in(feed, deadline, report, dict.fromkeys([*chosen, *PROVIDERS])))
    used = next((name for name in chosen if name in passwords), "")
    accepted = used and take(report, "the feed", ask_feed, feed, used, passwords[used], deadline)
    take(report, "keyring command", keyring_command)
    return bool(accepted)


def keyring_order() -> str:
    """Tell when keyring asks this backend."""
    try:
        active = import_module("keyring").get_keyring()
        release = import_module("importlib.metadata").version("keyring")
        kinds = [type(backend) for backend in getattr(active, "backends", [active])]
    except Exception as error:
        words = f"{type(error).__name__}: {clean(str(error))}"
        raise SignInError(f"keyring does not start: {words}") from error
    names = [f"{k.__module__}.{k.__name__}" for k in kinds if k.__module__ != "__main__"]
    ours = [name for name in names if f".{name}".endswith(f".{MODULE}.ArtifactsKeyringBackend")]
    if not ours:
        raise SignInError(f"keyring does not ask this backend but {', '.join(names) or 'none'}")
    before = ", ".join(names[: names.index(ours[0])])
    return f"keyring {release} asks this backend " + (f"after {before}" if before else "first")


def keyring_command() -> str:
    """Tell whether the keyring command on PATH, which uv and pip may run, has this backend."""
    commands = [*on_path("keyring")]
    if not commands:
        return "none on PATH; uv, and pip by subprocess, need one"
    root = Path(os.path.realpath(commands[0])).parent.parent
    beside = [*root.glob("[Ll]ib/site-packages/keyring-[0-9]*-info")]
    beside += root.glob("lib/python3*/*-packages/keyring-[0-9]*-info")
    name = f"{commands[0]} ({beside[0].stem if beside else 'of unknown version'})"
    usable = next(filter(lists_this, commands), None)
    if usable == commands[0]:
        return f"{name} lists this backend"
    raise SignInError(f"{name} does not list this backend" + (f"; {usable} does" if usable else ""))


def lists_this(command: str) -> bool:
    """Tell whether a keyring command lists this backend; one that fails does not."""
    with contextlib.suppress(SignInError):
        _, backends, _ = run([command, "--list-backends"], now() + COMMAND_LIMIT, {})
        return f"{MODULE}.Artifacts" in backends
    return False


def network(feed: Feed) -> str:
    """Tell the proxy, without its password, and whose certificates are trusted."""
    proxy = re.sub("http://(.*@)?", "", proxy_setting(feed.host).get("https", "none"))
    variable, path = ca_setting()
    tls_context(variable, path)
    return f"proxy {proxy}, certificates " + (f"{variable}={path}" if path else "of the system")


def ask_feed(feed: Feed, name: str, password: Token, deadline: float) -> str:
    """Ask the feed's index with the password of a provider."""
    basic = base64.b64encode(f"{USERNAME}:{password.value}".encode()).decode()
    index = re.sub("/upload/$", "/simple/", feed.url, flags=re.I)  # which answers a GET
    response = http(index, {**NO_LOGIN_PAGE, "Authorization": f"Basic {basic}"}, deadline)
    if response.status != 200:
        raise SignInError(complaint(response, password.value, basic))
    untried = "; whether it may upload was not tried" if feed.scope == WRITE else ""
    return f"accepts the password of {name}, which keyring uses{untried}"


def main() -> int:
    """Tell step by step whether keyring's clients can use a feed, and what to do if not."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=main.__doc__)
    parser.add_argument("url", help="the feed's URL, as your client has it")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for a report")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a log in ASCII
    feed = parse_feed(options.url) or parser.error(f"not a feed's URL, which is like {EXAMPLE_URL}")
    steps: list[Step] = []

    def report(step: Step) -> None:
        steps.append(step)
        if not options.json:
            print(f"{'-' if step.error else '+'} {step.seconds:5.2f} s  {step}", flush=True)

    accepted = diagnose(feed, report)
    if not any(step.name == "the feed" for step in steps):
        accepted = is_public(steps)
    # Where one provider works, it does not matter why another one does not.
    matter = [step for step in steps if not accepted or step.name.startswith("keyring")]
    order = {"the feed": -1, "keyring command": 2}  # and in between, the want of an az comes last
    matter.sort(key=lambda step: order.get(step.name, str(step.error) == "az is not on PATH"))
    remedies = [step.error.remedy for step in matter if step.error and step.error.remedy]
    advice = f"To do: {remedies[0]}" if remedies else "Nothing to do." if accepted else "See above."
    rows = [{"ok": not s.error, "text": str(s), "seconds": s.seconds} for s in steps]
    document = {"version": __version__, "python": sys.version, "accepted": accepted, "steps": rows}
    print(json.dumps({**document, "advice": advice}) if options.json else advice, flush=True)
    return 0 if accepted else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except OSError as error:  # stdout is closed or full
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python still flushes at its end
        sys.exit(f"stdout: {error.strerror}")
