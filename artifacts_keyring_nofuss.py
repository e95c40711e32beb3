"""Keyring backend that signs pip, uv, twine and their kin in to Azure DevOps Artifacts feeds.

The file reads in the order in which a request travels: the feed's URL, HTTP, discovery of the
feed's tenant, the providers of a bearer token, its exchange for a session token, and last the
keyring class, which alone decides what to log, to remember and to return.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Callable, NamedTuple, TypeVar

try:
    from keyring.backend import KeyringBackend
    from keyring.credentials import SimpleCredential
    from keyring.errors import PasswordDeleteError, PasswordSetError
except ImportError:  # a vendored copy serves credentials without keyring, too
    KeyringBackend = object  # type: ignore[assignment, misc]

    class PasswordSetError(Exception):  # type: ignore[no-redef]
        pass

    class PasswordDeleteError(Exception):  # type: ignore[no-redef]
        pass

    class SimpleCredential:  # type: ignore[no-redef]
        def __init__(self, username: str, password: str) -> None:
            self.username, self.password = username, password


# Every keyring operation of every client imports this file, mostly for services that are not
# feeds. What only a sign-in needs (urllib, ssl, subprocess, json) is imported where it is used.
if TYPE_CHECKING:
    import ssl
    import subprocess
    from collections.abc import Collection, Iterator, Mapping
    from email.message import Message
    from http.client import HTTPResponse
    from socket import socket
    from urllib.request import OpenerDirector, Request

__version__ = "0.1.0"

log = logging.getLogger(__name__)

# Seconds. A sign-in is over within the first, whatever happens; the others are its parts.
SIGN_IN_LIMIT = 85.0
HTTP_LIMIT = 20.0  # one request with its repetitions
ATTEMPT_LIMIT = 10.0  # one attempt at it, from the look-up of the name to the last byte
CONNECT_LIMIT = 4.0
RETRY_PAUSE = 0.25  # before the second attempt; twice that before the third
METADATA_CONNECT_LIMIT = 0.6  # off Azure, the metadata address swallows every packet
AZ_LIMIT = 30.0
FAILURE_MEMORY = 60.0
EXPIRY_MARGIN = 300.0  # how long before it expires a token is renewed


class SignInError(Exception):
    """Why a step of the sign-in failed, in words for a person, and what to do if that is known.

    passing: another attempt may work. feed_only: it tells nothing of the organization.
    """

    def __init__(
        self, reason: str, remedy: str = "", *, passing: bool = False, feed_only: bool = False
    ) -> None:
        super().__init__(reason)
        self.remedy, self.passing, self.feed_only = remedy, passing, feed_only


# --- The feed's URL ------------------------------------------------------------------------------

READ, WRITE = "vso.packaging", "vso.packaging_write"  # the scopes of a session token
FEED_DOMAINS = ("pkgs.dev.azure.com", "pkgs.visualstudio.com", "pkgs.codedev.ms", "pkgs.vsts.me")
ORGANIZATION = r"[A-Za-z0-9][A-Za-z0-9._-]*"
# Narrower than the standard: what two parsers could read as two hosts does not match.
HTTPS_URL = (
    r"(?:(?P<scheme>https://)(?:(?P<userinfo>[\w.~%!$&'()*+,;=:-]*)@)?|[\w.~%!$&'()*+,;=-]*@)?"
    r"(?P<host>[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+)(?::443)?"
    r"(?P<path>/[^?#]*)?(?P<rest>[?#].*)?"
)
AMBIGUOUS_PATH = r"/(?:\.|%2e){1,2}(?:/|$)|%2f|%5c"  # a server may see another organization in it


class Feed(NamedTuple):
    """A feed: its URL without userinfo, query and fragment, and the scope that its use needs."""

    url: str
    host: str
    organization: str
    home: str  # the organization's own page, where a person can sign in
    scope: str

    def __str__(self) -> str:
        return f"organization {self.organization}, scope {self.scope}"

    @property
    def account(self) -> tuple[str, ...]:
        """What a credential is good for: all feeds with the same account share it."""
        return self.host, self.organization, self.scope


def parse_feed(service: str | None) -> Feed | None:
    """Return the feed that a keyring service name means, None if it means none.

    Serves https URLs of Azure DevOps Artifacts, new and legacy, with or without the scheme
    ("Allowed IP addresses and domain URLs", Azure DevOps documentation).
    """
    service = service or ""
    if not any(domain in service.lower() for domain in FEED_DOMAINS):
        return None  # like most services, which are spared the compilation of HTTPS_URL
    url = split_https(service)
    domain = domain_of(url["host"], FEED_DOMAINS) if url else None
    if not url or not domain:
        return None
    host, path = url["host"].lower(), url["path"] or "/"
    organization = path.split("/")[1].lower()
    home = f"https://dev.azure.com/{organization}"
    if domain != "pkgs.dev.azure.com":
        organization = host[: -len("." + domain)] or organization
        home = f"https://{organization}.{domain[len('pkgs.') :]}"
    if not re.fullmatch(ORGANIZATION, organization) or re.search(AMBIGUOUS_PATH, path, re.I):
        return None
    upload = re.fullmatch(r"(?:/[^/]+){0,2}/_packaging/[^/]+/pypi/upload/?", path, re.I)
    return Feed(canonical_url(host, path), host, organization, home, WRITE if upload else READ)


def split_https(url: str) -> re.Match[str] | None:
    """Match a URL against HTTPS_URL; None for anything else."""
    if not url.isprintable() or "\\" in url:
        return None
    return re.fullmatch(HTTPS_URL, url, re.ASCII | re.IGNORECASE)


def domain_of(host: str, domains: Collection[str]) -> str | None:
    """Return which of the domains a host is or lies below, None if none."""
    host = host.lower()
    return next((name for name in domains if host == name or host.endswith("." + name)), None)


def canonical_url(host: str, path: str) -> str:
    """Return an https URL fit for a request: quoted, and with the last slash of a folder."""
    from urllib.parse import quote

    if "." not in path.rpartition("/")[2]:
        path = path.rstrip("/") + "/"
    return f"https://{host}" + quote(path, "/%:@!$&'()*+,;=~")


# --- HTTP ----------------------------------------------------------------------------------------

ATTEMPTS = 3
RETRIED = frozenset((429, 500, 502, 503, 504))
ANSWER_LIMIT = 64 * 1024  # bytes; a token has some thousand
CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXY_URL = r"(?:http://)?(?:[^\s/@]*@)*[A-Za-z0-9._-]+(?::[0-9]{1,5})?/?"  # or an IPv6 address
TOKEN_LIKE = r"eyJ[\w.~=-]+|[01]\.A[\w.~-]{20,}|[\w~+=-]{40,}"  # JWT, refresh token, long secret


class Response(NamedTuple):
    """An answer: its body is cut off at ANSWER_LIMIT."""

    status: int
    headers: Message
    body: bytes


def http(
    url: str,
    headers: Mapping[str, str],
    deadline: float,
    *,
    body: bytes | None = None,
    retried: Collection[int] = RETRIED,
) -> Response:
    """Send a GET, or a POST of the body, and return the answer, whatever its status.

    A fault that may pass gets three attempts before the deadline (a time.monotonic()). Redirects
    are not followed. An http URL means a metadata service, which no proxy may see.
    Raises SignInError if there is no answer.
    """
    from random import uniform
    from urllib.request import Request

    headers = {"User-Agent": f"artifacts-keyring-nofuss/{__version__}", **headers}
    deadline = min(deadline, time.monotonic() + HTTP_LIMIT)
    attempts = 0
    while True:
        attempts += 1
        pause = RETRY_PAUSE * 2 ** (attempts - 1) * uniform(0.75, 1.25)
        if attempts == ATTEMPTS:
            pause = float("inf")
        try:
            limit = min(ATTEMPT_LIMIT, deadline - time.monotonic())
            response = attempt(Request(url, body, headers), max(limit, 0.1))
            pause = max(pause, retry_after(response.headers))
            if response.status not in retried or time.monotonic() + pause >= deadline:
                return response
        except SignInError as error:
            if not error.passing or time.monotonic() + pause >= deadline:
                raise
        time.sleep(pause)


def retry_after(headers: Message) -> float:
    """Return the seconds that a server asks to wait, 0 if it does not ask (RFC 9110, 10.2.3)."""
    from email.utils import parsedate_to_datetime

    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):  # TypeError: what Python 3.9 raises
        return 0.0


def attempt(request: Request, limit: float) -> Response:
    """Send a request once and return its answer. Raises SignInError if there is none in time.

    A socket's timeout is for each packet; the limit (seconds) is on the whole, so the attempt
    has a thread of its own.
    """
    outcome: list[Response | Exception] = []
    sockets: list[socket] = []
    host, https = request.host, request.type == "https"  # before a proxy takes the host's place
    director = opener(host, https, limit, sockets)

    def work() -> None:
        try:
            outcome.append(transfer(director, request, limit))
        except Exception as error:
            outcome.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        worker.join(limit)
        answer = outcome[0] if outcome else TimeoutError()
    finally:
        hang_up(sockets)
    if isinstance(answer, Exception):
        raise explain(answer, host, https)
    return answer


def opener(host: str, https: bool, limit: float, sockets: list[socket]) -> OpenerDirector:
    """Return an opener for one request, which appends its socket to the list.

    It has no handler of redirects. Only https goes through a proxy. Raises SignInError if the
    proxy or the certificates cannot be used.
    """
    from http.client import HTTPConnection, HTTPSConnection
    from urllib.request import AbstractHTTPHandler, OpenerDirector, ProxyHandler

    connection_type: Any = HTTPSConnection if https else HTTPConnection

    class Connection(connection_type):  # type: ignore[misc]
        def connect(self) -> None:
            self.timeout = CONNECT_LIMIT if https else METADATA_CONNECT_LIMIT
            super().connect()
            self.sock.settimeout(limit)
            sockets.append(self.sock)

    class Handler(AbstractHTTPHandler):
        http_request = https_request = AbstractHTTPHandler.do_request_

        def http_open(self, request: Request) -> HTTPResponse:
            return self.do_open(Connection, request)

        def https_open(self, request: Request) -> HTTPResponse:
            return self.do_open(Connection, request, context=tls_context(*ca_setting()))

    director = OpenerDirector()
    director.add_handler(Handler())
    if https:
        director.add_handler(ProxyHandler(proxy_setting(host)))
    return director


def transfer(director: OpenerDirector, request: Request, limit: float) -> Response:
    """Send the request and read the answer, at most ANSWER_LIMIT bytes of it."""
    from http.client import IncompleteRead

    deadline = time.monotonic() + limit
    with director.open(request, timeout=limit) as response:
        body = b""
        size = ANSWER_LIMIT if response.length is None else min(response.length, ANSWER_LIMIT)
        while len(body) < size:
            if time.monotonic() > deadline:
                raise TimeoutError
            part = response.read1(size - len(body))
            if not part and response.length is not None:
                raise IncompleteRead(body)
            if not part:
                break
            body += part
        return Response(response.status, response.headers, body)


def hang_up(sockets: Collection[socket]) -> None:
    """Cut off what still waits for the rest of its answer."""
    import socket

    for connected in sockets:
        with contextlib.suppress(OSError):  # it is mostly closed by now
            socket.socket.shutdown(connected, socket.SHUT_RDWR)


def proxy_setting(host: str) -> dict[str, str]:
    """Return the proxy's URL for https requests to a host, under "https"; {} if there is none.

    Raises SignInError if it is not the URL of an http proxy, without showing it.
    """
    from urllib.request import getproxies, proxy_bypass

    proxy = getproxies().get("https", "")
    if not proxy or proxy_bypass(host):
        return {}
    if not re.fullmatch(PROXY_URL, re.sub(r"\[[0-9A-Fa-f:.]+\]", "ip", proxy)):
        raise SignInError("the proxy is not an http URL", "correct HTTPS_PROXY: http://host:port")
    return {"https": proxy}


def ca_setting() -> tuple[str, str]:
    """Return the environment variable that names the trusted certificates, and its value.

    ("", "") stands for the system's. REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE are what az obeys
    ("Work behind a proxy", Azure CLI documentation).
    """
    name = next(filter(os.environ.get, CA_VARIABLES), "")
    return name, os.environ.get(name, "")


@functools.cache  # it takes longer to make than a TLS handshake
def tls_context(variable: str, path: str) -> ssl.SSLContext:
    """Return the context for the outcome of ca_setting(). Raises SignInError if it is unusable."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not the default: that writes a key log
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if variable.startswith("SSL_") or not path:  # which ssl reads by itself
            context.load_default_certs()
        elif os.path.isdir(path):
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except OSError as error:
        reason = clean(error.strerror or str(error))
        raise SignInError(f"{variable} cannot be used: {reason}", f"correct {variable}") from error
    return context


def explain(error: Exception, host: str, https: bool) -> SignInError:
    """Return what an exception of urllib means to a person."""
    import socket
    import ssl
    from http.client import HTTPException

    reason = getattr(error, "reason", error)
    error = reason if isinstance(reason, Exception) else error
    remedy = "check the network and HTTPS_PROXY" if https else ""
    if isinstance(error, SignInError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = f"set {' or '.join(CA_VARIABLES)} to the certificates to trust"
        return SignInError(f"{host}: certificate not trusted: {error.verify_message}", remedy)
    if isinstance(error, (TimeoutError, socket.timeout)):
        return SignInError(f"{host}: no complete answer in time", remedy, passing=True)
    if isinstance(error, HTTPException) and not isinstance(error, ConnectionError):
        # Its words may hold what was sent.
        return SignInError(f"{host}: the answer is not HTTP or breaks off", remedy, passing=True)
    words = clean(getattr(error, "strerror", None) or str(error) or type(error).__name__)
    tunnel = re.match(r"Tunnel connection failed: (\d+)", words)
    hung_up = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)  # the last in Python 3.9
    passing = isinstance(error, (*hung_up, socket.gaierror))
    passing = passing or (tunnel is not None and int(tunnel[1]) in RETRIED)
    return SignInError(f"{host}: no connection: {words}", remedy, passing=passing)


def parse_object(body: bytes | str) -> dict[str, Any]:
    """Return the JSON object in an answer. Raises SignInError if it is anything else."""
    import json

    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SignInError("the answer is not a JSON object")
    return document


def complaint(response: Response, *secrets: str) -> str:
    """Return what an answer says of its refusal, in a line and without the secrets sent to it."""
    try:
        document = parse_object(response.body)
    except SignInError:
        document = {}
    said = [document.get(key) for key in ("message", "error_description", "error")]
    words = next((clean(text, *secrets) for text in said if text and isinstance(text, str)), "")
    return f"answered {response.status}" + (f": {words}" if words else "")


def clean(text: str, *secrets: str) -> str:
    """Make text from outside fit for a log: a printable line, not long, without secrets."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "[removed]")
    text = re.sub(TOKEN_LIKE, "[removed]", re.sub(r"//[^/\s]*@", "//", text))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:400]


# --- Discovery -----------------------------------------------------------------------------------

LOGIN_HOSTS = ("login.microsoftonline.com", "login.windows.net", "login.microsoft.com")
AUTHORITY_DOMAINS = tuple(domain.replace("pkgs.", "vssps.") for domain in FEED_DOMAINS)
GUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
TENANT = GUID + r"|[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)+"  # or a plain domain name
NO_TENANT = "00000000-0000-0000-0000-000000000000"  # an organization of Microsoft accounts
NO_LOGIN_PAGE = {"X-TFS-FedAuthRedirect": "Suppress"}  # instead of some refusals, for browsers
FEED_URL_REMEDY = "check the organization and the feed in the URL"
CHALLENGE_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
CHALLENGE = rf'({CHALLENGE_TOKEN})\s*=\s*(?:"([^"]*)"|([^\s,"]*))|({CHALLENGE_TOKEN})'


class Directory(NamedTuple):
    """Where a feed's organization signs in: its Entra tenant, and its token service's URL."""

    tenant: str
    authority: str

    def __str__(self) -> str:
        return f"tenant {self.tenant}, authority {self.authority}"


def discover(feed: Feed, deadline: float) -> Directory | None:
    """Ask the feed, unauthenticated, where to sign in; None if it is public and needs no sign-in.

    Raises SignInError if the feed does not say or what it says is not trusted.
    Source: the credential provider of Azure Artifacts (microsoft/artifacts-credprovider).
    """
    response = http(feed.url, NO_LOGIN_PAGE, deadline)
    if response.status == 200 and feed.scope == READ:
        return None
    tenant = challenge_tenant(response.headers)
    if not tenant and response.status != 401:
        reason = f"the feed {complaint(response)}, without a challenge to sign in"
        raise SignInError(reason, FEED_URL_REMEDY, feed_only=True)
    if not tenant:
        reason = f"{feed.organization} has no Entra tenant (its members use Microsoft accounts)"
        raise SignInError(reason, f"use a personal access token, see {feed.home}")
    endpoint = response.headers.get("X-VSS-AuthorizationEndpoint")
    if not endpoint:
        raise SignInError("the feed names no token service (X-VSS-AuthorizationEndpoint)")
    return Directory(tenant, trusted_authority(endpoint))


def challenge_tenant(headers: Message) -> str | None:
    """Return the tenant that a challenge names, None if it names none.

    Raises SignInError if the challenge leads to a login host that is not Microsoft's.
    """
    uri = bearer_parameter(headers.get_all("WWW-Authenticate", []), "authorization_uri")
    named = [trusted_tenant(uri)] if uri else []
    for value in headers.get_all("X-VSS-ResourceTenant", []):
        named += re.findall(GUID, value)
    return next((tenant for tenant in named if tenant != NO_TENANT), None)


def bearer_parameter(challenges: Collection[str], name: str) -> str | None:
    """Return a parameter of the Bearer challenge among several, combined or not (RFC 9110, 11)."""
    for challenge in challenges:
        scheme = ""
        for parameter, quoted, bare, word in re.findall(CHALLENGE, challenge[:4096]):
            scheme = word.lower() or scheme
            if scheme == "bearer" and parameter.lower() == name:
                return str(quoted or bare)
    return None


def trusted_tenant(uri: str) -> str:
    """Return the tenant in the URL of a login page. Raises SignInError if it is not Microsoft's."""
    url = split_https(uri)
    tenant = (url["path"] or "").strip("/") if url else ""
    if url and plain(url) and url["host"].lower() in LOGIN_HOSTS and re.fullmatch(TENANT, tenant):
        return tenant
    raise untrusted("authorization_uri", uri)


def trusted_authority(endpoint: str) -> str:
    """Return the URL of a token service without its last slash.

    Raises SignInError if it is not Microsoft's.
    """
    url = split_https(endpoint)
    path = (url["path"] or "").rstrip("/") if url else ""
    trusted = url and plain(url) and domain_of(url["host"], AUTHORITY_DOMAINS)
    if url and trusted and re.fullmatch(rf"(?:/{ORGANIZATION})?", path):
        return f"https://{url['host'].lower()}{path}"
    raise untrusted("X-VSS-AuthorizationEndpoint", endpoint)


def plain(url: re.Match[str]) -> bool:
    """Tell whether a URL has a scheme and neither userinfo, query nor fragment."""
    return bool(url["scheme"]) and url["userinfo"] is None and url["rest"] is None


def untrusted(name: str, value: str) -> SignInError:
    """Return the error for a value in the feed's challenge that leads somewhere else."""
    reason = f"the feed's {name} is not trusted: {clean(value)}"
    return SignInError(reason, "check that nothing stands between you and Azure DevOps")


# --- Providers -----------------------------------------------------------------------------------

ENTRA_RESOURCE = "499b84ac-1321-427f-aa17-267ca6975798"  # Azure DevOps, in every tenant
AZ_NAMES = ("az.cmd", "az.exe") if sys.platform == "win32" else ("az",)
AZ_SETTINGS = {
    "AZURE_CORE_COLLECT_TELEMETRY": "no",  # which takes a sixth of each run
    "AZURE_CORE_NO_COLOR": "true",
    "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
    "AZURE_LOGGING_ENABLE_LOG_FILE": "no",  # which fails where home is read-only
}
IMDS = "http://169.254.169.254"
METADATA_URL = r'http://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[!"$->@-~]*)?'
IMDS_RETRIED = RETRIED | {404, 410}  # an identity that is still being assigned


class Token(NamedTuple):
    """A token, what to tell a person of it, and when it expires (Unix time, 0.0 if unknown)."""

    value: str
    label: str
    expires: float

    def __str__(self) -> str:
        if not self.expires:
            return f"{self.label}, expires at an unknown time"
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(self.expires))
        return f"{self.label}, expires {when}"

    def __repr__(self) -> str:
        return f"<{self}>"  # a token is never shown


def azure_cli(tenant: str, deadline: float) -> Token:
    """Return a bearer of the account that az is signed in as, for a tenant.

    Raises SignInError with az's own words. Source: "az account get-access-token".
    """
    az = find_az()
    if not az:
        raise SignInError("az is not on PATH")
    command = [az, "account", "get-access-token", "--resource", ENTRA_RESOURCE]
    command += ["--tenant", tenant, "--output", "json"]
    status, output, errors = run(command, min(AZ_LIMIT, deadline - time.monotonic()))
    if status:
        raise SignInError(az_complaint(errors.decode("utf-8", "replace")))
    return parse_bearer(output, "accessToken")


def find_az() -> str | None:
    """Return the path of az, None without one; relative entries of PATH do not count."""
    folders = filter(os.path.isabs, os.get_exec_path())
    paths = (os.path.join(folder, name) for folder in folders for name in AZ_NAMES)
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)


def run(command: list[str], limit: float) -> tuple[int, bytes, bytes]:
    """Run a command and return its exit status, its output and its errors.

    When the limit (seconds) is over, or the caller is interrupted, the command is stopped with
    everything that it started. Raises SignInError if it cannot be started or is stopped.
    """
    import subprocess

    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **AZ_SETTINGS},
            cwd=safe_folder(),  # python -m azure.cli imports what lies in the working directory
            start_new_session=True,
        )
    except OSError as error:
        raise SignInError(f"az cannot be started: {error.strerror}") from error
    readers: list[tuple[threading.Thread, list[bytes]]] = []
    try:
        readers += [read_apart(pipe) for pipe in (process.stdout, process.stderr) if pipe]
        status = process.wait(max(limit, 0.1))
        for thread, _ in readers:
            thread.join(1)
    except subprocess.TimeoutExpired:
        raise SignInError(f"az gave no token within {limit:.0f} s and was stopped") from None
    finally:
        if process.returncode is None or any(thread.is_alive() for thread, _ in readers):
            stop(process)
    output, errors = (b"".join(parts) for _, parts in readers)
    return status, output, errors


def read_apart(pipe: IO[bytes]) -> tuple[threading.Thread, list[bytes]]:
    """Start to read a pipe; return the thread and the parts, not more than az has to say."""
    parts: list[bytes] = []

    def work() -> None:
        with pipe:
            while sum(map(len, parts)) < ANSWER_LIMIT:
                part = os.read(pipe.fileno(), ANSWER_LIMIT)
                if not part:
                    break
                parts.append(part)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, parts


def safe_folder() -> str:
    """Return a folder that only an administrator can write to."""
    return os.environ.get("SYSTEMROOT", "C:\\Windows") if sys.platform == "win32" else "/"


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started: az is a script in front of the real one."""
    import subprocess

    if sys.platform == "win32":
        taskkill = os.path.join(safe_folder(), "System32", "taskkill.exe")
        command = [taskkill, "/F", "/T", "/PID", str(process.pid)]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, check=False, capture_output=True, timeout=5)
    else:
        import signal

        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)


def az_complaint(errors: str) -> str:
    """Return the line of az's error output that says what is wrong."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    marked = [line[len("ERROR:") :] for line in lines if line.startswith("ERROR:")]
    return clean((marked or lines[-1:] or ["az failed without a word"])[0])


def managed_identity(tenant: str, deadline: float) -> Token:
    """Return a bearer of the machine's managed identity, which is of its own tenant.

    Raises SignInError if there is none. Sources: "How to use managed identities for Azure
    resources on an Azure VM to acquire an access token"; "Use managed identities for App Service".
    """
    from urllib.parse import urlencode

    url, version, headers = metadata_service()
    query = {"api-version": version, "resource": ENTRA_RESOURCE}
    if os.environ.get("AZURE_CLIENT_ID"):
        query["client_id"] = os.environ["AZURE_CLIENT_ID"]
    query_string = urlencode(query, errors="surrogateescape")
    response = http(f"{url}?{query_string}", headers, deadline, retried=IMDS_RETRIED)
    if response.status != 200:
        secret = headers.get("X-IDENTITY-HEADER", "")
        raise SignInError(f"the metadata service {complaint(response, secret)}")
    return parse_bearer(response.body, "access_token")


def metadata_service() -> tuple[str, str, dict[str, str]]:
    """Return the URL, API version and headers of App Service's endpoint or of IMDS.

    Raises SignInError if the environment names it by an unusable value.
    """
    variable, version = "IDENTITY_ENDPOINT", "2019-08-01"
    url, secret = os.environ.get(variable), os.environ.get("IDENTITY_HEADER")
    headers = {"X-IDENTITY-HEADER": secret or ""}
    if not url or not secret:
        variable, version = "AZURE_POD_IDENTITY_AUTHORITY_HOST", "2018-02-01"
        url = (os.environ.get(variable) or IMDS).rstrip("/") + "/metadata/identity/oauth2/token"
        headers = {"Metadata": "true"}
    if not re.fullmatch(METADATA_URL, url):
        raise SignInError(f"{variable} is not an http URL", f"correct {variable}")
    if not all(re.fullmatch(r"[!-~]+", value) for value in headers.values()):
        raise SignInError("IDENTITY_HEADER is unfit for a header", "correct IDENTITY_HEADER")
    return url, version, headers


def parse_bearer(answer: bytes, field: str) -> Token:
    """Return the token in the JSON of az or of a metadata service. Raises SignInError."""
    document = parse_object(answer)
    value = parse_token(document.get(field))
    claims = read_claims(value)
    names = ("upn", "unique_name", "preferred_username", "appid", "oid")
    account = next((str(claims[name]) for name in names if claims.get(name)), "unknown account")
    expires = unix_time(document.get("expires_on")) or unix_time(claims.get("exp"))
    return Token(value, f"signed in as {clean(account)}", expires)


def parse_token(value: object) -> str:
    """Return the value if it is a token that fits into a header. Raises SignInError if not."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise SignInError("the answer holds no usable token")
    return value


def read_claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT, unverified; none of an opaque token."""
    import base64

    try:
        payload = token.split(".")[1]
        return parse_object(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, SignInError):
        return {}


def unix_time(value: object) -> float:
    """Return a count of seconds, which may come as a string, as a float; 0.0 if it is none."""
    return float(str(value)) if re.fullmatch("[0-9]{1,10}", str(value)) else 0.0


Provider = Callable[[str, float], Token]
PROVIDERS: dict[str, Provider] = {"azure_cli": azure_cli, "managed_identity": managed_identity}
PROVIDER_VARIABLE = "ARTIFACTS_KEYRING_NOFUSS_PROVIDER"


def chosen_providers() -> dict[str, Provider]:
    """Return the provider that the environment or keyringrc.cfg forces, else all, in order.

    Raises SignInError for an unknown name.
    """
    source = PROVIDER_VARIABLE
    name = os.environ.get(source, "").strip()
    if not name:
        source, name = configured_provider()
    if not name:
        return PROVIDERS
    if name not in PROVIDERS:
        reason = f"{source} names an unknown provider: {clean(name)}"
        raise SignInError(reason, f"use one of: {', '.join(PROVIDERS)}")
    return {name: PROVIDERS[name]}


def configured_provider() -> tuple[str, str]:
    """Return the path of keyring's own configuration file, and the provider it names or ""."""
    from configparser import Error, RawConfigParser

    try:
        from keyring.util.platform_ import config_root
    except ImportError:
        return "", ""
    path = os.path.join(config_root(), "keyringrc.cfg")
    if not os.path.isabs(path):
        return "", ""
    config = RawConfigParser()
    try:
        config.read(path, encoding="utf-8")
    except (Error, ValueError, OSError) as error:
        raise SignInError(f"{path} cannot be read: {type(error).__name__}", "correct it") from error
    return path, config.get("artifacts_keyring_nofuss", "provider", fallback="").strip()


# --- Exchange ------------------------------------------------------------------------------------


def feed_password(feed: Feed, authority: str, bearer: Token, deadline: float) -> Token:
    """Return what the feed takes as the password: a session token, or an application's bearer.

    Azure DevOps grants no session token to service principals and managed identities; their
    bearer serves itself. Raises SignInError if the bearer is refused.
    """
    if is_application(read_claims(bearer.value)):
        return bearer._replace(label="the application's own Entra token")
    return session_token(feed, authority, bearer, deadline)


def is_application(claims: Mapping[str, Any]) -> bool:
    """Tell by its claims whether a token is an application's; in doubt it is a person's.

    Source: "Access token claims reference", Microsoft identity platform documentation.
    """
    if claims.get("idtyp") in ("app", "user"):
        return bool(claims["idtyp"] == "app")
    return "roles" in claims and "scp" not in claims


def session_token(feed: Feed, authority: str, bearer: Token, deadline: float) -> Token:
    """Exchange a person's bearer for a session token of the feed's organization and scope.

    Raises SignInError if Azure DevOps refuses.
    Source: the credential provider of Azure Artifacts (microsoft/artifacts-credprovider).
    """
    import json

    headers = {
        "Authorization": f"Bearer {bearer.value}",
        "Accept": "application/json",
        "Content-Type": "application/json",
        **NO_LOGIN_PAGE,
    }
    request = {"scope": feed.scope, "displayName": "artifacts-keyring-nofuss"}
    url = f"{authority}/_apis/Token/SessionTokens?api-version=5.0-preview.1"
    response = http(url, headers, deadline, body=json.dumps(request).encode())
    if response.status != 200:
        raise refusal(feed, response, bearer)
    document = parse_object(response.body)
    value = parse_token(document.get("token"))
    expires = iso_time(document.get("validTo")) or unix_time(read_claims(value).get("exp"))
    scope = clean(str(document.get("scope")), bearer.value, value)
    return Token(value, f"scope {scope}", expires)


def refusal(feed: Feed, response: Response, bearer: Token) -> SignInError:
    """Return why Azure DevOps gave no session token."""
    if b"TF401444" in response.body:
        remedy = f"sign in once at {feed.home} with a browser, then try again"
        return SignInError("Azure DevOps does not know this account yet (TF401444)", remedy)
    if 300 <= response.status < 400:
        reason = f"Azure DevOps answered {response.status}, to a sign-in page"
        return SignInError(reason, "ask your administrator about conditional access policies")
    words = complaint(response, bearer.value)
    if response.status in RETRIED:
        return SignInError(f"Azure DevOps has trouble: {words}", "try again later")
    return SignInError(f"Azure DevOps refused the token: {words}")


def iso_time(value: object) -> float:
    """Return a UTC time like 2026-01-01T01:00:00.123Z as Unix time; 0.0 if it is none."""
    from datetime import datetime, timezone

    time_and_zone = re.fullmatch(r"([0-9T:-]{19})(?:\.[0-9]+)?(?:Z|\+00:00)", str(value))
    try:
        naive = datetime.fromisoformat(time_and_zone[1] if time_and_zone else "")
    except ValueError:
        return 0.0
    return min(max(naive.replace(tzinfo=timezone.utc).timestamp(), 0.0), 9999999999.0)


# --- The whole sign-in ---------------------------------------------------------------------------

T = TypeVar("T")


class Step(NamedTuple):
    """A step of a sign-in, the seconds it took, and what it found or why it failed."""

    name: str
    seconds: float
    found: object = None
    error: SignInError | None = None
    provider: str = ""
    password: Token | None = None  # what the feed takes; only from the last step of a sign-in

    def __str__(self) -> str:
        if self.error:
            return str(self.error) + (f"; {self.error.remedy}" if self.error.remedy else "")
        return str(self.found)


def sign_in(feed: Feed, providers: Mapping[str, Provider], deadline: float) -> Iterator[Step]:
    """Take the steps of a sign-in, one at a time; the first password need not be the last."""
    step, directory = take("discovery", discover, feed, deadline)
    if not directory:
        yield step if step.error else step._replace(found="a public feed needs no credentials")
        return
    yield step
    for name, provider in providers.items():
        step, bearer = take(name, provider, directory.tenant, deadline)
        yield step._replace(provider=name)
        if bearer:
            step, password = take(
                f"{name}, session token", feed_password, feed, directory.authority, bearer, deadline
            )
            yield step._replace(provider=name, password=password)


def take(name: str, function: Callable[..., T], *arguments: object) -> tuple[Step, T | None]:
    """Take a step; return it, and the function's result or None if it failed."""
    started = time.monotonic()
    try:
        found = function(*arguments)
    except SignInError as error:
        return Step(name, time.monotonic() - started, error=error), None
    return Step(name, time.monotonic() - started, found), found


def failure(feed: Feed, steps: Collection[Step]) -> str:
    """Return the warning for a sign-in that failed: why each step did, and what to do."""
    lines = [f"no credentials for {feed.url}"]
    lines += [f"  {step.name}: {step}" for step in steps if step.error]
    return "\n".join(filter(None, [*lines, login_advice(steps)]))


def login_advice(steps: Collection[Step]) -> str:
    """Return how to sign in to the tenant that was found; "" if none was, or az was not tried."""
    tenants = [step.found.tenant for step in steps if isinstance(step.found, Directory)]
    az_tried = any(step.provider == "azure_cli" for step in steps)
    return f"To sign in: az login --tenant {tenants[0]}" if tenants and az_tried else ""


# --- The keyring class ---------------------------------------------------------------------------

USERNAME = "VssSessionToken"  # by custom; Azure DevOps looks at the password alone
DEBUG_VARIABLE = "ARTIFACTS_KEYRING_NOFUSS_DEBUG"


class Memory(NamedTuple):
    """The outcome of a sign-in: the password or None, and when it was made and is to be renewed."""

    password: Token | None
    made: float  # a time.monotonic()
    renewal: float  # Unix time

    def holds(self, asked: float) -> bool:
        """Tell whether it serves a request made at a time.monotonic(); it may have waited."""
        if self.password and time.time() < self.renewal:
            return True
        return self.made >= asked or (not self.password and asked - self.made < FAILURE_MEMORY)


def remember(password: Token | None) -> Memory:
    """Return the memory of a sign-in that ends now: a token is renewed before it expires."""
    lifetime = password.expires - time.time() if password else 0.0
    renewal = time.time() + max(lifetime - EXPIRY_MARGIN, lifetime / 2)
    return Memory(password, time.monotonic(), renewal)


memories: dict[object, Memory] = {}  # by the feed's account; by its URL if it concerns no other
locks: dict[object, threading.Lock] = {}  # by the feed's account


class ReadOnlyError(PasswordSetError, PasswordDeleteError, NotImplementedError):
    """Tells the chainer to ask the next backend, and a client without chainer that it failed."""


class ArtifactsKeyringBackend(KeyringBackend):
    """Keyring backend for Azure DevOps Artifacts feeds: what fails is logged, never raised."""

    priority = 9.9  # asked before all others, below the chainer's 10

    def get_password(self, service: str, username: str | None) -> str | None:
        """Return the password for a feed and any username, None for another service."""
        credential = self.get_credential(service, username)
        return credential.password if credential else None

    def get_credential(self, service: str, username: str | None) -> SimpleCredential | None:
        """Return the credential for a feed, under the username given if any; None without one."""
        try:
            feed = parse_feed(service)
            password = self._recall(feed) if feed else None
        except Exception as error:  # one would turn keyring off in pip, and crash others
            tell(logging.WARNING, f"please report this: {whereabouts(error)}")
            return None
        return SimpleCredential(username or USERNAME, password.value) if password else None

    def set_password(self, service: str, username: str, password: str) -> None:
        """Leave it to another backend. Raises ReadOnlyError."""
        raise ReadOnlyError("artifacts-keyring-nofuss stores no passwords")

    def delete_password(self, service: str, username: str) -> None:
        """Leave it to another backend. Raises ReadOnlyError."""
        raise ReadOnlyError("artifacts-keyring-nofuss stores no passwords")

    def _recall(self, feed: Feed) -> Token | None:
        """Return the password for a feed, from memory or else by a sign-in; None if it has none.

        Who waited for another thread's sign-in to the same account takes its outcome.
        """
        asked = time.monotonic()
        lock = locks.setdefault(feed.account, threading.Lock())
        if not lock.acquire(timeout=SIGN_IN_LIMIT):
            tell(logging.WARNING, "another thread's sign-in does not end")
            return None
        try:
            for memory in filter(None, map(memories.get, (feed.account, feed.url))):
                if memory.holds(asked):
                    return memory.password
            return self._sign_in(feed, asked + SIGN_IN_LIMIT)
        finally:
            lock.release()

    def _sign_in(self, feed: Feed, deadline: float) -> Token | None:
        """Sign in, log the steps, and remember the outcome."""
        step, providers = take("configuration", chosen_providers)
        steps = [step]
        for step in sign_in(feed, providers, deadline) if providers else ():
            tell(logging.DEBUG, f"{step.name}: {step} ({step.seconds:.2f} s)")
            steps.append(step)
            if step.password:
                break
        is_public = not step.password and not step.error
        feed_only = is_public or (step.error is not None and step.error.feed_only)
        memories[feed.url if feed_only else feed.account] = remember(step.password)
        if step.error:
            tell(logging.WARNING, failure(feed, steps))
        return step.password


def tell(level: int, text: str) -> None:
    """Log a text; a handler that fails is no reason to fail."""
    with contextlib.suppress(Exception):
        log.log(level, "%s", f"artifacts-keyring-nofuss: {text}")


def whereabouts(error: Exception) -> str:
    """Return the kind and the place of an exception, not its words: they may hold a secret."""
    from traceback import extract_tb

    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {os.path.basename(place.filename)}:{place.lineno}"


def debug_to_stderr() -> None:
    """Show every step on stderr, and there alone: pip would show it on stdout."""
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.DEBUG)
    log.propagate = False


if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
    debug_to_stderr()


# --- The diagnosis: python -m artifacts_keyring_nofuss URL ---------------------------------------

FEED_REMEDIES = {
    401: "the feed does not know this account: ask an administrator to add it to the organization",
    403: "ask the feed's owner for a role: Reader to install, Contributor to upload",
    404: FEED_URL_REMEDY,
}


def diagnose(url: str) -> Iterator[Step]:
    """Take the steps of keyring, and those around it; the last asks the feed, if it gets so far."""
    deadline = time.monotonic() + SIGN_IN_LIMIT
    step, feed = take("feed", served_feed, url)
    yield step
    yield take("keyring", keyring_order)[0]
    if not feed:
        return
    yield take("proxy", shown_proxy, feed.host)[0]
    yield take("certificates", certificates)[0]
    step, chosen = take("providers", chosen_providers)
    yield step._replace(found=", ".join(chosen or ()))
    password = None
    for step in sign_in(feed, PROVIDERS, deadline):
        if step.password and not password and step.provider in (chosen or ()):
            password = step.password
            step = step._replace(found=f"{step.found}; this is what keyring uses")
        yield step
    if password:
        yield take("feed's answer", ask_feed, feed, password, deadline)[0]


def served_feed(url: str) -> Feed:
    """Return the feed that a URL means. Raises SignInError if it is not one that is served."""
    feed = parse_feed(url)
    if not feed:
        example = "https://pkgs.dev.azure.com/ORGANIZATION/_packaging/FEED/pypi/simple/"
        reason = "this is not the URL of an Azure Artifacts feed"
        raise SignInError(reason, f"give a URL like {example}")
    return feed


def keyring_order() -> str:
    """Tell when keyring asks this backend. Raises SignInError if it does not."""
    try:
        from importlib.metadata import version

        import keyring

        active = keyring.get_keyring()
        chain = [type(backend) for backend in getattr(active, "backends", [active])]
        release = version("keyring")
    except Exception as error:
        reason = f"keyring does not start: {type(error).__name__}: {clean(str(error))}"
        remedy = "install keyring, or correct PYTHON_KEYRING_BACKEND or keyringrc.cfg"
        raise SignInError(reason, remedy) from error
    this = f"{__spec__.name if __spec__ else __name__}.{ArtifactsKeyringBackend.__name__}"
    names = [f"{kind.__module__}.{kind.__name__}" for kind in chain]
    names = [name for name in names if not name.startswith("__main__.")]  # it is this very run
    if this not in names:
        reason = f"keyring does not ask this backend but {', '.join(names) or 'none'}"
        remedy = "install this package beside keyring and unset PYTHON_KEYRING_BACKEND"
        raise SignInError(reason, remedy)
    before = ", ".join(names[: names.index(this)])
    return f"keyring {release} asks this backend " + (f"after {before}" if before else "first")


def shown_proxy(host: str) -> str:
    """Tell which proxy a request to the host goes through. Raises SignInError if it is unusable."""
    return re.sub("^(http://)?(.*@)?", "", proxy_setting(host).get("https", "none"))


def certificates() -> str:
    """Tell which certificates are trusted. Raises SignInError if they cannot be used."""
    variable, path = ca_setting()
    tls_context(variable, path)
    if path and not any(map(os.path.exists, [path, *path.split(os.pathsep)])):
        raise SignInError(f"{variable} cannot be used: no such file", f"correct {variable}")
    return f"{variable}={path}" if path else "the system's"


def ask_feed(feed: Feed, password: Token, deadline: float) -> str:
    """Ask the feed's index with a credential. Raises SignInError unless it is accepted."""
    from base64 import b64encode

    basic = b64encode(f"{USERNAME}:{password.value}".encode()).decode()
    index = re.sub("/upload/$", "/simple/", feed.url, flags=re.I)  # which answers a GET
    response = http(index, {**NO_LOGIN_PAGE, "Authorization": f"Basic {basic}"}, deadline)
    if response.status == 200:
        return "200, the feed accepts the credential"
    remedy = FEED_REMEDIES.get(response.status, "try again later")
    raise SignInError(complaint(response, password.value, basic), remedy)


def advice(steps: Collection[Step], accepted: bool) -> str:
    """Return the one line that says what to do."""
    failed = [step for step in steps if step.error and not (accepted and step.provider)]
    remedies = [step.error.remedy for step in failed if step.error and step.error.remedy]
    if not failed:
        return "Nothing to do: keyring's clients can use this feed."
    if not remedies and any(step.password for step in steps):
        return f"To do: let keyring use a provider that works, see {PROVIDER_VARIABLE}"
    return f"To do: {remedies[0]}" if remedies else login_advice(steps)


def main() -> int:
    """Tell step by step whether and why (not) keyring's clients get at a feed."""
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="python -m artifacts_keyring_nofuss", description=main.__doc__)
    parser.add_argument("url", help="the feed's URL, as your client has it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a log in ASCII
    steps = []
    for step in diagnose(options.url):
        steps.append(step)
        if not options.json:
            print(f"{mark(step)} {step.name}: {step} ({step.seconds:.2f} s)", flush=True)
    accepted = not steps[-1].error and steps[-1].name in ("feed's answer", "discovery")
    if options.json:
        print_json(steps, accepted)
    else:
        print(advice(steps, accepted))
    return 0 if accepted else 1


def mark(step: Step) -> str:
    """Return + or - for a step, coloured on a terminal unless NO_COLOR is set."""
    sign, colour = ("-", 31) if step.error else ("+", 32)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return f"\033[{colour}m{sign}\033[0m"
    return sign


def print_json(steps: Collection[Step], accepted: bool) -> None:
    """Print the steps as one JSON object, for a bug report."""
    import json
    import platform

    versions = {"artifacts-keyring-nofuss": __version__, "python": platform.python_version()}
    rows = [
        {"name": step.name, "ok": not step.error, "text": str(step), "seconds": step.seconds}
        for step in steps
    ]
    verdict = {"accepted": accepted, "advice": advice(steps, accepted)}
    print(json.dumps({"versions": versions, "steps": rows, **verdict}))


if __name__ == "__main__":
    sys.exit(main())
