"""A simulated Azure on loopback, with real sockets and real TLS.

A proxy takes CONNECT for the real host names and answers behind it, with certificates of its own
authority, as the feeds and the session token service of Azure DevOps. A second port is the
metadata service (IMDS, and App Service's endpoint). `az` is an executable in a folder of its own.
Whatever is asked of any of them is recorded.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import ssl
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, NamedTuple
from urllib.parse import parse_qs, urlsplit
from uuid import NAMESPACE_DNS, uuid5

import trustme
from flit_core.wheel import make_wheel_in

TENANT = "11111111-2222-3333-4444-555555555555"
FEED = "pkgs.dev.azure.com"
AUTHORITY = "vssps.dev.azure.com"
IMDS = "imds"
INDEX_URL = f"https://{FEED}/contoso/_packaging/private/pypi/simple/"
UPLOAD_URL = f"https://{FEED}/contoso/_packaging/private/pypi/upload/"
SECRET_HEADER = "the-secret-of-app-service"
NO_IDENTITY = {"error": "invalid_request", "error_description": "Identity not found"}
NOT_SIGNED_IN = "echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1"


@dataclass
class Recorded:
    """A request that reached the simulated Azure, and the status of its answer if any."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    time: float = field(default_factory=time.monotonic)


class Issued(NamedTuple):
    """A session token: the organization and the scopes that it is good for."""

    organization: str
    scopes: list[str]


Answer = Callable[["Handler"], None]


class Azure:
    """The simulated Azure; a context manager. Tests set its public attributes to make a case."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self.connects: list[str] = []  # the hosts that the proxy was asked for
        self.handshakes = 0
        self.uploads: list[bytes] = []
        self.public_feeds: set[str] = set()
        self.certificate_host = ""  # if not the host that is asked for
        self.lifetime = 3600.0  # seconds, of session tokens
        self.challenge: dict[str, str | list[str]] = {}  # overrides headers of the feed's 401
        self.identity: str | None = None  # the bearer of the managed identity
        self.faults: dict[str, list[Answer]] = {FEED: [], AUTHORITY: [], IMDS: []}
        self.bearers: dict[str, dict[str, Any]] = {}  # the claims of each token of Entra
        self.session_tokens: dict[str, Issued] = {}
        self.lock = threading.Lock()
        self.folder = Path(tempfile.mkdtemp(prefix="simulated-azure-")).resolve()
        self.bin, self.home = self.folder / "bin", self.folder / "home"
        self.bin.mkdir()
        self.home.mkdir()
        self.ca_file = self.folder / "ca.pem"
        self.executable("keyring", f'exec {sys.executable} -m keyring "$@"')
        authority().cert_pem.write_to_path(str(self.ca_file))
        self.proxy = Server(self, "")
        self.metadata = Server(self, IMDS)

    def __enter__(self) -> Azure:
        for server in (self.proxy, self.metadata):
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.proxy, self.metadata):
            server.shutdown()
            server.server_close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment in which a process sees this Azure and nothing of the machine."""
        return {
            "PATH": str(self.bin),
            "HOME": str(self.home),
            "HTTPS_PROXY": self.proxy.url,
            "SSL_CERT_FILE": str(self.ca_file),
            "PIP_CERT": str(self.ca_file),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": self.metadata.url,
            **variables,
        }

    def entra_token(self, **claims: Any) -> str:
        """Issue a token of Entra: a user's unless the claims say otherwise."""
        user = {"appid": "of-az", "oid": "of-dev", "upn": "dev@contoso.com"}
        claims = claims or {**user, "scp": "user_impersonation"}
        token = jwt(
            {"tid": TENANT, "exp": int(time.time() + 3600), "n": len(self.bearers), **claims}
        )
        self.bearers[token] = claims
        return token

    def application_token(self) -> str:
        """Issue a token of Entra for a service principal or a managed identity."""
        return self.entra_token(idtyp="app", appid="99999999-0000-0000-0000-000000000000")

    def executable(self, name: str, script: str) -> None:
        """Put a shell script on PATH."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def az(self, script: str) -> None:
        """Put an az on PATH: a shell script that records its arguments, then runs the script."""
        self.executable("az", f'PATH=/usr/bin:/bin\necho "$*" >> {self.folder}/az.log\n{script}')

    def az_signed_in(self, token: str | None = None) -> str:
        """Put an az on PATH that is signed in; return the token that it gives."""
        token = token or self.entra_token()
        answer = {"accessToken": token, "expires_on": int(time.time() + 3600), "tenant": TENANT}
        (self.folder / "az.json").write_text(json.dumps({**answer, "tokenType": "Bearer"}))
        self.az(f"cat {self.folder}/az.json")
        return token

    @property
    def az_runs(self) -> list[str]:
        """The arguments of each run of az so far."""
        path = self.folder / "az.log"
        return path.read_text().splitlines() if path.exists() else []

    def asked(self, host: str) -> list[str]:
        """The requests to a host so far, as "METHOD path"."""
        return [f"{r.method} {r.path}" for r in self.requests if r.host == host]

    def scopes(self) -> list[str]:
        """The scopes for which session tokens were asked so far."""
        posts = [r for r in self.requests if r.method == "POST" and "SessionTokens" in r.path]
        return [json.loads(post.body)["scope"] for post in posts]


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def tls(host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(host).configure_cert(context)
    return context


@cache
def wheel(name: str = "contoso_secrets", version: str = "1.0") -> tuple[str, bytes]:
    """Build a wheel with one module; return its file name and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "pyproject.toml")
        Path(folder, f"{name}.py").write_text("answer = 42\n")
        project.write_text(f"[project]\nname = '{name}'\nversion = '{version}'\ndescription = ''")
        path = make_wheel_in(project, Path(folder)).file
        return path.name, path.read_bytes()


def feed_id(feed: str) -> str:
    """Return the GUID of a feed, under which its files lie."""
    return str(uuid5(NAMESPACE_DNS, feed))


def jwt(claims: dict[str, Any]) -> str:
    parts = [{"alg": "none"}, claims, {"signature": "of nobody"}]
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts)
    return ".".join(part.decode().rstrip("=") for part in encoded)


class Server(ThreadingHTTPServer):
    """The proxy (host "") or the metadata service."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, azure: Azure, host: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.azure, self.host = azure, host
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that hangs up is no news
            super().handle_error(*address)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, through the proxy's CONNECT for one of Azure's hosts."""

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.azure, self.host = self.server.azure, self.server.host

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.host = self.path.partition(":")[0]
        self.azure.connects.append(self.host)
        if not re.search(r"(^|\.)(pkgs|vssps)\.", self.host):
            return self.send_error(502)
        self.send_response(200)
        self.end_headers()
        self.connection = tls(self.azure.certificate_host or self.host).wrap_socket(
            self.connection, server_side=True
        )
        self.azure.handshakes += 1
        self.close_connection = False
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.recorded = Recorded(self.host, self.command, self.path, headers, self.body)
        self.azure.requests.append(self.recorded)
        kind = IMDS if self.host == IMDS else FEED if "pkgs." in self.host else AUTHORITY
        if self.azure.faults[kind]:
            self.close_connection = True
            return self.azure.faults[kind].pop(0)(self)
        {IMDS: self.answer_metadata, FEED: self.answer_feed, AUTHORITY: self.answer_authority}[
            kind
        ]()

    do_HEAD = do_POST = do_GET

    def answer(
        self,
        status: int,
        content: object = b"",
        headers: dict[str, str | list[str]] | None = None,
    ) -> None:
        """Answer with bytes, with HTML (a str) or with JSON."""
        body = content if isinstance(content, bytes) else str(content).encode()
        kind = "text/html" if isinstance(content, str) else "application/octet-stream"
        if isinstance(content, dict):
            body, kind = json.dumps(content).encode(), "application/json"
        self.recorded.status = status
        self.send_response(status)
        for name, values in (headers or {}).items():
            for value in [values] if isinstance(values, str) else values:
                self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # --- The feed: "/{organization}[/{project}]/_packaging/{feed}/pypi/…"; legacy in the host

    def answer_feed(self) -> None:
        path = urlsplit(self.path).path
        legacy = self.host.partition(".pkgs.")[0] if ".pkgs." in self.host else ""
        organization = legacy or path.split("/")[1]
        named = re.search(r"/_packaging/([^/]+)/", path)
        feed = named[1] if named else ""
        public = any(feed in (name, feed_id(name)) for name in self.azure.public_feeds)
        upload = path.rstrip("/").endswith("/pypi/upload")
        if upload or not public:
            issued = self.authorized()
            if not issued:
                return self.answer(
                    401, "<html>sign in</html>", self.challenge(organization, legacy)
                )
            scope = "vso.packaging_write" if upload else "vso.packaging"
            if organization != issued.organization or not {scope, "all"} & {*issued.scopes}:
                return self.answer(403, "<html>forbidden</html>")
        name, content = wheel()
        if upload:
            self.azure.uploads.append(self.body)
            return self.answer(200)
        if path.endswith(name):
            return self.answer(200, content)
        project = path.rpartition("/pypi/simple/")[2].strip("/")
        if not project:
            return self.answer(200, '<a href="contoso-secrets/">contoso-secrets</a>')
        if project != "contoso-secrets":
            return self.answer(404, "<html>no such package</html>")
        base = path.partition("/_packaging/")[0] + "/_packaging/" + feed_id(feed)
        digest = sha256(content).hexdigest()
        href = f"https://{self.host}{base}/pypi/download/contoso-secrets/1.0/{name}#sha256={digest}"
        self.answer(200, f'<a href="{href}">{name}</a>')

    def authorized(self) -> Issued | None:
        """Return what the password in the request is good for; None for a wrong one."""
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "basic":
            return None
        password = base64.b64decode(value).decode().partition(":")[2]
        if self.azure.bearers.get(password, {}).get("idtyp") == "app":
            return Issued("contoso", ["all"])
        issued = self.azure.session_tokens.get(password)
        # Reading is part of writing.
        return issued and issued._replace(scopes=[*issued.scopes, "vso.packaging"])

    def challenge(self, organization: str, legacy: str) -> dict[str, str | list[str]]:
        host = f"{legacy}.vssps.visualstudio.com" if legacy else f"{AUTHORITY}/{organization}"
        challenge: dict[str, str | list[str]] = {
            "WWW-Authenticate": [
                'Basic realm="https://pkgsprodcus1.pkgs.visualstudio.com/"',
                f"Bearer authorization_uri=https://login.windows.net/{TENANT}",
                "TFS-Federated",
            ],
            "X-VSS-ResourceTenant": TENANT,
            "X-VSS-AuthorizationEndpoint": f"https://{host}/",
            **self.azure.challenge,
        }
        return {name: value for name, value in challenge.items() if value}

    # --- The session token service: "/{organization}/_apis/Token/SessionTokens"

    def answer_authority(self) -> None:
        url = urlsplit(self.path)
        organization, _, path = url.path.lstrip("/").partition("/")
        if self.host != AUTHORITY:
            organization, path = self.host.partition(".")[0], url.path.lstrip("/")
        bearer = self.headers.get("Authorization", "").partition("Bearer ")[2]
        well_formed = (
            (self.command, path) == ("POST", "_apis/Token/SessionTokens")
            and url.query == "api-version=5.0-preview.1"
            and self.headers.get("X-TFS-FedAuthRedirect") == "Suppress"
            and self.headers.get("Content-Type") == "application/json"
        )
        claims = self.azure.bearers.get(bearer)
        if not well_formed:
            return self.answer(400, {"message": "not what this service expects"})
        if claims is None or claims.get("idtyp") == "app":
            return self.answer(401, {"message": "TF400813: the user is not authorized"})
        asked = json.loads(self.body)
        until = time.time() + self.azure.lifetime
        token = jwt({"scp": asked["scope"], "n": len(self.azure.session_tokens)})
        self.azure.session_tokens[token] = Issued(organization, asked["scope"].split())
        valid_to = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until))
        self.answer(200, {"token": token, "validTo": valid_to, "scope": asked["scope"]})

    # --- The metadata services

    def answer_metadata(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        imds = (
            url.path == "/metadata/identity/oauth2/token" and query["api-version"] == "2018-02-01"
        )
        app_service = url.path == "/msi/token" and query["api-version"] == "2019-08-01"
        secret = self.headers.get("X-IDENTITY-HEADER") == SECRET_HEADER
        if not (imds and self.headers.get("Metadata") == "true") and not (app_service and secret):
            return self.answer(400, {"error": "bad_request"})
        if "X-Forwarded-For" in self.headers or self.azure.identity is None:
            return self.answer(400, NO_IDENTITY)
        expires = {"expires_in": "3600", "expires_on": str(int(time.time() + 3600))}
        self.answer(200, {"access_token": self.azure.identity, "token_type": "Bearer", **expires})
