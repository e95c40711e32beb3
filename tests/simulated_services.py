"""What the services of the simulated Azure answer, and how they are reached.

A proxy takes CONNECT for the hosts in the table SERVICES and answers behind it, with
certificates of its own authority. A second port is the metadata services.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple
from urllib.parse import parse_qsl, urlsplit
from uuid import NAMESPACE_DNS, uuid4, uuid5

import trustme
from flit_core.wheel import make_wheel_in

from simulated_entra import answer_arm, answers_a_person
from simulated_identity import (
    ERRORS,
    EVERYTHING,
    METADATA,
    OBJECT_ID,
    RESOURCE,
    TENANT,
    check_request,
    iso,
    metadata_problem,
)

if TYPE_CHECKING:
    from simulated_azure import Azure

# A host of each service, under which tests find its requests and its faults
FEED = "pkgs.dev.azure.com"
AUTHORITY = "vssps.dev.azure.com"
ENTRA = "login.microsoftonline.com"
GITHUB = "run-actions-3-azure-eastus.actions.githubusercontent.com"
STORAGE = "contoso.blob.core.windows.net"
IMDS = "imds"

READ, WRITE = "vso.packaging", "vso.packaging_write"
# The feed's words
STRANGER = "TF400813: The user '' is not authorized to access this resource."
NO_PERMISSION = (
    "User 'contoso' lacks permission to complete this action. You need to have '{}'."
)
NO_FEED = "The feed with ID '{}' doesn't exist."
NO_PACKAGE = "The package doesn't exist in this feed."

GITHUB_PATH = f"/104//idtoken/{OBJECT_ID}/{TENANT}"
GITHUB_ISSUER = "https://token.actions.githubusercontent.com"
GITHUB_SUBJECT = "repo:contoso/app:ref:refs/heads/main"
REQUEST_TOKEN = "the-request-token-of-github"


@dataclass
class Recorded:
    """A request that reached the simulated Azure, and its answer's status if any."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0
    time: float = field(default_factory=time.monotonic)


class Issued(NamedTuple):
    """What a feed's password is good for; the organization "" stands for all."""

    organization: str
    scopes: list[str]
    expires: float = inf


Answer = Callable[["Handler"], None]


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
        project.write_text(
            f"[project]\nname = '{name}'\nversion = '{version}'\ndescription = ''"
        )
        path = make_wheel_in(project, Path(folder)).file
        return path.name, path.read_bytes()


def feed_id(feed: str) -> str:
    """Return the GUID of a feed, under which its files lie."""
    return str(uuid5(NAMESPACE_DNS, feed))


class Server(ThreadingHTTPServer):
    """The proxy (host "") or the metadata services."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, azure: Azure, host: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.azure, self.host = azure, host
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *address: Any) -> None:
        if not isinstance(
            sys.exc_info()[1], OSError
        ):  # a client that hangs up is no news
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
        self.host, _, port = self.path.partition(":")
        self.azure.connects.append(self.host)
        self.azure.proxy_user = self.headers.get("Proxy-Authorization", "")
        if self.azure.proxy_refuses:
            self.send_response_only(*self.azure.proxy_refuses)
            return self.end_headers()
        if not service_at(self.host) or port != "443":
            return self.send_error(502)
        self.send_response(200)
        self.end_headers()
        context = self.azure.tls or tls(self.host)
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.azure.handshakes += 1
        self.close_connection = False
        self.rfile, self.wfile = (
            self.connection.makefile("rb"),
            self.connection.makefile("wb", 0),
        )

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.recorded = Recorded(self.host, self.command, self.path, headers, self.body)
        self.azure.requests.append(self.recorded)
        service = service_at(self.host)
        if not service:  # asked of the proxy itself
            return self.send_error(502)
        url = urlsplit(self.path)
        self.route, self.query = url.path, dict(parse_qsl(url.query))
        try:
            answer = self.azure.faults[service.kind].pop(0)
            self.close_connection = True
        except LookupError:
            answer = service.answer
        answer(self)

    do_HEAD = do_POST = do_GET

    def answer(
        self,
        status: int,
        content: object = b"",
        headers: Mapping[str, str | list[str]] | None = None,
        reason: str | None = None,
    ) -> None:
        """Answer with bytes, with HTML (a str) or with JSON, and in a phrase."""
        body = content if isinstance(content, bytes) else str(content).encode()
        kind = "text/html" if isinstance(content, str) else "application/octet-stream"
        if isinstance(content, dict):
            body, kind = json.dumps(content).encode(), "application/json"
        self.recorded.status = status
        self.send_response(status, reason)
        for name, values in (headers or {}).items():
            for value in [values] if isinstance(values, str) else values:
                self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(
        self,
        status: int,
        message: str,
        type_key: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer with an error of an API, or show a browser where to sign in."""
        if status == 401 and self.headers.get("X-TFS-FedAuthRedirect") != "Suppress":
            return self.answer(
                302, "<html>", {"Location": f"https://{AUTHORITY}/_signin"}
            )
        error = {
            "$id": "1",
            "innerException": None,
            "message": message,
            "typeName": f"Microsoft.VisualStudio.Services.WebApi.{type_key}",
            "typeKey": type_key,
            "errorCode": 0,
            "eventId": 3000,
        }
        self.answer(status, error, headers)

    def refuse_at_feed(
        self,
        status: int,
        message: str = "",
        headers: Mapping[str, str | list[str]] | None = None,
    ) -> None:
        """Answer with a feed's error, whose words are in the reason phrase alone."""
        phrase = HTTPStatus(status).phrase
        if message:
            phrase += f" - {message} (DevOps Activity ID: {str(uuid4()).upper()})"
        self.answer(status, b"", headers, phrase)

    # --- The feed: "[/{organization}][/{project}]/_packaging/{feed}/pypi/…"

    def answer_feed(self) -> None:
        organization = organization_at(self.host) or self.route.split("/")[1].lower()
        named = re.search("/_packaging/([^/]+)/", self.route)
        feed = named[1] if named else ""
        public = any(feed in (name, feed_id(name)) for name in self.azure.public_feeds)
        upload = self.route.rstrip("/").endswith("/pypi/upload")
        if upload or not public:
            scopes = self.granted(organization)
            if scopes is None or not self.azure.is_member:
                message = STRANGER if scopes else ""
                return self.refuse_at_feed(401, message, self.sign_in(organization))
            needed = "AddPackage" if upload else "ReadPackages"
            may = {WRITE if upload else READ, EVERYTHING} & scopes
            if not may or not self.azure.has_role:
                return self.refuse_at_feed(403, NO_PERMISSION.format(needed))
            if feed in self.azure.missing_feeds:
                return self.refuse_at_feed(404, NO_FEED.format(feed))
        if upload:
            self.azure.uploads.append(self.body)
            return self.answer(200)
        self.answer_package(feed, public)

    def answer_package(self, feed: str, public: bool) -> None:
        """Answer with the index, with the package's page or with its file."""
        name, content = wheel()
        if self.route.endswith(name) and public:
            blob = f"https://{STORAGE}/b-{feed_id(feed)}/{name}?sv=2019-07-07&sig=of-nobody"
            return self.answer(303, b"", {"Location": blob})
        if self.route.endswith(name):
            return self.answer(200, content)
        base, _, project = self.route.partition(f"/_packaging/{feed}/pypi/simple/")
        if not project:
            return self.answer(200, '<a href="contoso-secrets/">contoso-secrets</a>')
        if project.strip("/") != "contoso-secrets":
            return self.refuse_at_feed(404, NO_PACKAGE)
        folder = f"{base}/_packaging/{feed_id(feed)}/pypi/download"
        file = f"{folder}/contoso-secrets/1.0/{name}"
        digest = sha256(content).hexdigest()
        self.answer(
            200, f'<a href="https://{self.host}{file}#sha256={digest}">{name}</a>'
        )

    def answer_storage(self) -> None:
        self.answer(200, wheel()[1])

    def granted(self, organization: str) -> set[str] | None:
        """Return the scopes of the password in the request, None if it is no good."""
        azure = self.azure
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        try:
            password = base64.b64decode(value).decode().partition(":")[2]
        except ValueError:
            return None
        issued = azure.session_tokens.get(password) or azure.passwords.get(password)
        claims = azure.valid_claims(password)
        if claims is not None and not azure.is_revoked(claims):
            issued = Issued("", claims.get("scp", EVERYTHING).split())
        if kind.lower() != "basic" or not issued or issued.expires <= azure.now():
            return None
        if issued.organization not in ("", organization):
            return None
        reading = {READ} if WRITE in issued.scopes else set()  # is part of writing
        return {*issued.scopes} | reading

    def sign_in(self, organization: str) -> dict[str, str | list[str]]:
        """Return the headers that say where to sign in."""
        authority = self.host.replace("pkgs.", "vssps.")
        path = "" if organization_at(self.host) else f"{organization}/"
        challenges = [
            f"Bearer authorization_uri=https://login.windows.net/{TENANT}",
            'Basic realm="https://pkgsprodcus1.pkgs.visualstudio.com/"',
            "TFS-Federated",
        ]
        if self.host == FEED:  # both forms occur
            challenges = [", ".join(challenges)]
        headers: dict[str, str | list[str]] = {
            "WWW-Authenticate": challenges,
            "X-VSS-ResourceTenant": TENANT,
            "X-VSS-AuthorizationEndpoint": f"https://{authority}/{path}",
            **self.azure.challenge,
        }
        return {name: value for name, value in headers.items() if value}

    # --- The session token service: "[/{organization}]/_apis/Token/SessionTokens"

    def answer_authority(self) -> None:
        azure, query = self.azure, {"tokenType": "SelfDescribing", **self.query}
        named = re.fullmatch("(?:/([^/]+))?/_apis/Token/SessionTokens", self.route)
        known = query == {"tokenType": "SelfDescribing", "api-version": "5.0-preview.1"}
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        if self.command != "POST" or not named or not known or not is_json:
            return self.refuse(
                400, "not what this service expects", "VssServiceException"
            )
        claims = azure.valid_claims(
            self.headers.get("Authorization", "").partition("Bearer ")[2]
        )
        if claims is None or azure.is_revoked(claims):
            challenge = f"Bearer authorization_uri=https://login.windows.net/{TENANT}"
            if claims:
                challenge += (
                    f', error="insufficient_claims", claims="{azure.revoked_claims}"'
                )
            message = STRANGER
            headers = {"WWW-Authenticate": challenge}
            return self.refuse(401, message, "UnauthorizedRequestException", headers)
        if "scp" not in claims:
            message = "Service principals are not allowed to perform this action."
            return self.refuse(
                azure.application_refusal, message, "InvalidAccessException"
            )
        organization = organization_at(self.host) or (named[1] or "").lower()
        try:
            self.answer(200, self.session_token(organization, json.loads(self.body)))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self.refuse(400, str(error), "SessionTokenCreateException")

    def session_token(self, organization: str, wish: dict[str, Any]) -> dict[str, Any]:
        """Issue a session token; return the answer. Raises what comes of a bad wish."""
        azure, now = self.azure, self.azure.now()
        granted = {"scope": wish["scope"], "displayName": wish["displayName"]}
        scopes, until = wish["scope"].split(), now + azure.lifetime
        if "validTo" in wish:
            valid_to = datetime.fromisoformat(
                wish["validTo"].replace("Z", "+00:00")
            ).timestamp()
            until = min(until, valid_to)
            if azure.refuses_valid_to or valid_to <= now:
                raise ValueError("InvalidValidTo")
        if not {*scopes} <= {READ, WRITE}:
            raise ValueError("InvalidScope")
        who = {
            "iss": "app.vstoken.visualstudio.com",
            "nameid": OBJECT_ID,
            "scp": wish["scope"],
        }
        token = azure.encode({**who, "nbf": int(now), "exp": int(until)})
        azure.session_tokens[token] = Issued(organization, scopes, until)
        return {**granted, "token": token, "validFrom": iso(now), "validTo": iso(until)}

    # --- Entra: "/{tenant}/oauth2/v2.0/token"

    def answer_entra(self) -> None:
        if answers_a_person(self):
            return
        named = re.fullmatch(r"/([^/]+)/oauth2/v2\.0/token", self.route)
        if self.command != "POST" or not named:
            return self.answer(404, "<html>no such page</html>")
        form_type = "application/x-www-form-urlencoded"
        is_form = self.headers.get("Content-Type", "").startswith(form_type)
        form = dict(parse_qsl(self.body.decode())) if is_form else {}
        code, reason = check_request(
            named[1], form, self.azure.clients, self.azure.now()
        )
        if not code:
            proof = "1" if "client_secret" in form else "2"
            resource = form["scope"][: -len("/.default")]
            claims = {"appid": form["client_id"], "appidacr": proof, "aud": resource}
            token = self.azure.application_token(**claims)
            lifetime = {"expires_in": 3599, "ext_expires_in": 3599}
            return self.answer(
                200, {"token_type": "Bearer", **lifetime, "access_token": token}
            )
        self.refuse_sign_in(code, reason)

    def refuse_sign_in(self, code: int, reason: str) -> None:
        error = ERRORS.get(code, "invalid_client")
        now, trace, correlation = (
            iso(self.azure.now()).replace("T", " "),
            uuid4(),
            uuid4(),
        )
        trail = f"Trace ID: {trace} Correlation ID: {correlation} Timestamp: {now}"
        refusal = {
            "error": error,
            "error_description": f"AADSTS{code}: {reason} {trail}",
            "error_codes": [code],
            "timestamp": now,
            "trace_id": str(trace),
            "correlation_id": str(correlation),
            "error_uri": f"https://{self.host}/error?code={code}",
        }
        self.answer(401 if error == "invalid_client" else 400, refusal)

    # --- GitHub's OIDC provider

    def answer_github(self) -> None:
        known = self.route == GITHUB_PATH and self.query.get("api-version") == "2.0"
        if self.command != "GET" or not known:
            return self.answer(404, "<html>no such page</html>")
        if self.headers.get("Authorization") != f"Bearer {REQUEST_TOKEN}":
            return self.answer(401, {"message": "the request token is not valid"})
        audience = self.query.get("audience", "https://github.com/contoso")
        claims = {"iss": GITHUB_ISSUER, "sub": GITHUB_SUBJECT, "aud": audience}
        assertion = self.azure.assertion({**claims, **self.azure.github_claims})
        self.answer(200, {"value": assertion})

    # --- The metadata services

    def answer_metadata(self) -> None:
        azure, service = self.azure, METADATA.get(self.route)
        if self.command != "GET" or not service:
            return self.answer(404, "<html>no such page</html>")
        problem = metadata_problem(
            service, self.recorded.headers, self.query, azure.assigned
        )
        if problem or azure.identity is None:
            return self.answer(400, service.error(problem or service.unknown))
        expires = str(int(azure.now()) + 3600)
        answer = {"resource": RESOURCE, "token_type": "Bearer", "expires_on": expires}
        self.answer(200, {"access_token": azure.identity, **answer})


class Service(NamedTuple):
    """A service: the key of its faults, a pattern of its hosts, and its answers."""

    kind: str
    hosts: str
    answer: Answer


DOMAINS = r"(dev\.azure\.com|visualstudio\.com|codedev\.ms|vsts\.me)"
LOGIN_HOSTS = r"login\.(microsoftonline\.com|windows\.net|microsoft\.com)"
SERVICES = [
    Service(FEED, rf"([\w-]+\.)?pkgs\.{DOMAINS}", Handler.answer_feed),
    Service(AUTHORITY, rf"([\w-]+\.)?vssps(ext)?\.{DOMAINS}", Handler.answer_authority),
    Service(ENTRA, LOGIN_HOSTS, Handler.answer_entra),
    Service("arm", r"management\.azure\.com", answer_arm),
    Service(GITHUB, r"[\w-]+\.actions\.githubusercontent\.com", Handler.answer_github),
    Service(STORAGE, r"[\w-]+\.blob\.core\.windows\.net", Handler.answer_storage),
    Service(
        IMDS, IMDS, Handler.answer_metadata
    ),  # the metadata port, not behind the proxy
]


def service_at(host: str) -> Service | None:
    """Return the service at a host, None for a host that is in no row."""
    return next(
        (service for service in SERVICES if re.fullmatch(service.hosts, host)), None
    )


def organization_at(host: str) -> str:
    """Return the organization in the name of a host, "" if there is none."""
    label = re.split(r"\.?(?:pkgs|vssps|vsspsext)\.", host)[0].lower()
    return "" if label == "app" else label
