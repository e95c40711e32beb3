"""A simulated Azure on loopback, with real sockets and real TLS.

Tests set the attributes of Azure to make a case, and read there what was asked of it.
A proxy takes CONNECT for the hosts in the table SERVICES and answers behind it, with
certificates of its own authority. A second port is the metadata services.
Tokens and the rules of Entra are in simulated_identity, az and its surroundings in
simulated_machine.
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache, partialmethod
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, NamedTuple
from urllib.parse import parse_qsl, urlsplit
from uuid import NAMESPACE_DNS, uuid4, uuid5

import trustme
from flit_core.wheel import make_wheel_in

from simulated_identity import (
    APPLICATION,
    AUDIENCE,
    COMMON,
    ERRORS,
    FEDERATED,
    GITHUB_ISSUER,
    METADATA,
    NONE_FOUND,
    OBJECT_ID,
    POD_ISSUER,
    RESOURCE,
    SEVERAL,
    USER,
    Refusal,
    answer_arm,
    answers_a_person,
    application_problem,
    encrypted_jwt,
    iso,
)
from simulated_identity import CLIENT_ID as CLIENT_ID
from simulated_identity import CLIENT_SECRET as CLIENT_SECRET
from simulated_identity import ENTRA as ENTRA
from simulated_identity import SECRET_HEADER as SECRET_HEADER
from simulated_identity import TENANT as TENANT
from simulated_identity import jwt as jwt
from simulated_machine import Machine

# A host of each service, under which tests find its requests and its faults
FEED = "pkgs.dev.azure.com"
AUTHORITY = "vssps.dev.azure.com"
GITHUB = "run-actions-3-azure-eastus.actions.githubusercontent.com"
STORAGE = "contoso.blob.core.windows.net"
IMDS = "imds"

INDEX_URL = f"https://{FEED}/contoso/_packaging/private/pypi/simple/"
UPLOAD_URL = INDEX_URL.replace("simple", "upload")

READ, WRITE = "vso.packaging", "vso.packaging_write"
# The feed's words
STRANGER = "TF400813: The user '' is not authorized to access this resource."
NO_PERMISSION = (
    "User 'contoso' lacks permission to complete this action. You need to have '{}'."
)
NO_PACKAGE = "The package doesn't exist in this feed."
# The token service's
NO_PRINCIPALS = "Service principals are not allowed to perform this action."

PAGE = f"Bearer authorization_uri=https://login.windows.net/{TENANT}"
TOKENS = (
    r"POST (/[^/]+)?/_apis/Token/SessionTokens\?(tokenType=SelfDescribing&)?"
    r"api-version=5\.0-preview\.1(&tokenType=SelfDescribing)? "
)
GITHUB_PATH = f"/104//idtoken/{OBJECT_ID}/{TENANT}?api-version=2.0"
REQUEST_TOKEN = "the-request-token-of-github"


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
def wheel(name: str = "contoso_secrets") -> tuple[str, bytes]:
    """Build a wheel with one module; return its file name and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "pyproject.toml")
        Path(folder, f"{name}.py").write_text("answer = 42\n")
        project.write_text(
            f"[project]\nname = '{name}'\nversion = '1.0'\ndescription = ''"
        )
        path = make_wheel_in(project, Path(folder)).file
        return path.name, path.read_bytes()


def feed_id(feed: str) -> str:
    """Return the GUID of a feed, under which its files lie."""
    return str(uuid5(NAMESPACE_DNS, feed))


class Server(ThreadingHTTPServer):
    """The proxy (host "") or the metadata services."""

    request_queue_size = 64

    def __init__(self, azure: Azure, host: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.azure, self.host = azure, host
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        azure.callback(self.server_close)
        azure.callback(self.shutdown)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, through the proxy's CONNECT for one of Azure's hosts."""

    protocol_version = "HTTP/1.1"
    server: Server

    def handle(self) -> None:
        self.azure, self.host = self.server.azure, self.server.host
        with suppress(OSError):  # a client that hangs up is no news
            super().handle()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.host, _, port = self.path.partition(":")
        self.azure.connects.append(self.host)
        self.azure.proxy_user = self.headers["Proxy-Authorization"]
        if self.azure.proxy_refuses:
            self.send_response_only(*self.azure.proxy_refuses)
            return self.end_headers()
        if not service_at(self.host) or port != "443":
            return self.send_error(502)
        self.send_response(200)
        self.end_headers()
        context = self.azure.tls or tls(self.host)
        self.request = context.wrap_socket(self.connection, server_side=True)
        self.setup()
        self.azure.handshakes += 1
        self.close_connection = False

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.recorded = SimpleNamespace(
            host=self.host,
            method=self.command,
            path=self.path,
            headers=self.headers,
            body=self.body,
            status=0,  # of the answer, if there is any
            time=time.monotonic(),
        )
        self.azure.requests.append(self.recorded)
        kind = service_at(self.host)
        url = urlsplit(self.path)
        self.route, self.query = url.path, dict(parse_qsl(url.query))
        try:
            answer = self.azure.faults[kind].pop(0)
            self.close_connection = True
        except LookupError:
            answer = SERVICES[kind][1]
        answer(self)

    do_HEAD = do_POST = do_GET

    def answer(
        self,
        status: int,
        content: object = b"",
        headers: Mapping[str, Any] = {},
        reason: str | None = None,
    ) -> None:
        """Answer with bytes, with HTML (a str) or with JSON, and in a phrase.

        A header may have several values in a list, and is left out if it is empty.
        """
        kind = "text/html" if isinstance(content, str) else "application/octet-stream"
        if isinstance(content, dict):
            content, kind = json.dumps(content), "application/json"
        body = content if isinstance(content, bytes) else str(content).encode()
        self.recorded.status = status
        self.send_response(status, reason)
        described = {"Content-Type": kind, "Content-Length": str(len(body)), **headers}
        for name, value in described.items():
            for one in value if isinstance(value, list) else filter(None, [value]):
                self.send_header(name, one)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(
        self, status: int, message: str, headers: Mapping[str, Any] = {}
    ) -> None:
        """Answer with an error of an API, or show a browser where to sign in."""
        if status == 401 and self.headers["X-TFS-FedAuthRedirect"] != "Suppress":
            status, headers = 302, {"Location": f"https://{AUTHORITY}/_signin"}
        self.answer(status, {"message": message}, headers)

    def refuse_at_feed(
        self, status: int, message: str = "", headers: Mapping[str, Any] = {}
    ) -> None:
        """Answer with a feed's error, whose words are in the reason phrase alone."""
        phrase = HTTPStatus(status).phrase
        if message:
            phrase += f" - {message} (DevOps Activity ID: {str(uuid4()).upper()})"
        self.answer(status, b"", headers, phrase)

    # --- The feed: "[/{organization}][/{project}]/_packaging/{feed}/pypi/…"

    def answer_feed(self) -> None:
        organization = organization_at(self.host, self.route)
        feed = self.route.partition("/_packaging/")[2].partition("/")[0]
        public = any(feed in (name, feed_id(name)) for name in self.azure.public_feeds)
        upload = self.route.rstrip("/").endswith("/pypi/upload")
        if upload or not public:
            scopes = self.granted(organization)
            if not scopes or not self.azure.is_member:
                message = STRANGER if scopes else ""
                return self.refuse_at_feed(401, message, self.sign_in(organization))
            scope, needed = (WRITE, "AddPackage") if upload else (READ, "ReadPackages")
            if not {scope, WRITE} & scopes or not self.azure.has_role:
                return self.refuse_at_feed(403, NO_PERMISSION.format(needed))
        if upload:
            self.azure.uploads.append(self.body)
            return self.answer(200)
        self.answer_package(feed, public)

    def answer_package(self, feed: str, public: bool) -> None:
        """Answer with the index, with the package's page or with its file."""
        name, content = wheel()
        if self.route.endswith(name):
            blob = f"https://{STORAGE}/b-{feed_id(feed)}/{name}?sv=2019-07-07&sig=of-nobody"
            there = 303, b"", {"Location": blob}
            return self.answer(*(there if public else (200, content)))
        base, _, project = self.route.partition(f"{feed}/pypi/simple/")
        if not project:
            return self.answer(200, '<a href="contoso-secrets/">contoso-secrets</a>')
        if project.strip("/") != "contoso-secrets":
            return self.refuse_at_feed(404, NO_PACKAGE)
        path = f"{base}{feed_id(feed)}/pypi/download/contoso-secrets/1.0/{name}"
        link = f"https://{self.host}{path}#sha256={sha256(content).hexdigest()}"
        self.answer(200, f'<a href="{link}">{name}</a>')

    def granted(self, organization: str) -> set[str]:
        """Return the scopes of the password in the request, none if it is no good."""
        azure = self.azure
        encoded = self.headers.get("Authorization", "").partition("Basic ")[2]
        password = base64.b64decode(encoded).decode().partition(":")[2]
        claims = azure.valid_claims(password)
        if claims and not azure.is_revoked(claims):
            return {READ, WRITE}
        issued = azure.session_tokens.get(password) or azure.passwords.get(password)
        if not issued or issued.expires <= azure.now():
            return set()
        return {*issued.scopes} if issued.organization in ("", organization) else set()

    def sign_in(self, organization: str) -> dict[str, Any]:
        """Return the headers that say where to sign in."""
        authority = self.host.replace("pkgs.", "vssps.")
        path = f"{organization}/" if self.host.startswith("pkgs.") else ""
        challenges = [
            PAGE,
            'Basic realm="https://pkgsprodcus1.pkgs.visualstudio.com/"',
            "TFS-Federated",
        ]
        return {  # both forms of the first occur
            "WWW-Authenticate": ", ".join(challenges) if path else challenges,
            "X-VSS-ResourceTenant": TENANT,
            "X-VSS-AuthorizationEndpoint": f"https://{authority}/{path}",
            **self.azure.challenge,
        }

    # --- The session token service: "[/{organization}]/_apis/Token/SessionTokens"

    def answer_authority(self) -> None:
        azure = self.azure
        is_json = self.headers.get_content_type() == "application/json"
        if not (is_json and re.match(TOKENS, self.requestline)):
            return self.refuse(400, "not what this service expects")
        bearer = self.headers.get("Authorization", "").partition("Bearer ")[2]
        claims = azure.valid_claims(bearer)
        if not claims or azure.is_revoked(claims):
            error = f', error="insufficient_claims", claims="{azure.revoked_claims}"'
            headers = {"WWW-Authenticate": PAGE + error * bool(claims)}
            return self.refuse(401, STRANGER, headers)
        if "scp" not in claims:
            return self.refuse(401, NO_PRINCIPALS)
        self.answer_wish(json.loads(self.body), azure.now())

    def answer_wish(self, wish: dict[str, str], now: float) -> None:
        """Issue a session token, if this can be granted."""
        until, scopes = now + self.azure.lifetime, wish["scope"].split()
        problem = "" if {*scopes} <= {READ, WRITE} else "InvalidScope"
        if "validTo" in wish:
            end = datetime.fromisoformat(wish["validTo"].replace("Z", "+00:00"))
            until = min(until, end.timestamp())
            if self.azure.refuses_valid_to or until <= now:
                problem = "InvalidValidTo"
        if problem:
            return self.refuse(400, problem)
        claims = {"iss": "app.vstoken.visualstudio.com", "scp": wish["scope"]}
        token = self.azure.encode({**claims, "exp": int(until)})
        organization = organization_at(self.host, self.route)
        self.azure.session_tokens[token] = Issued(organization, scopes, until)
        self.answer(200, {**wish, "token": token, "validTo": iso(until)})

    # --- Entra: "/{tenant}/oauth2/v2.0/token"

    def answer_entra(self) -> None:
        if answers_a_person(self):
            return
        named = re.match(r"POST /([^/]+)/oauth2/v2\.0/token ", self.requestline)
        if not named:
            return self.send_error(404)
        is_form = self.headers.get_content_type() == "application/x-www-form-urlencoded"
        form = dict(parse_qsl(self.body.decode())) if is_form else {}
        code, reason = application_problem(named[1], form, self.azure)
        if code:
            return self.refuse_sign_in(code, reason)
        resource = form["scope"].replace("/.default", "")
        token = self.azure.application_token(aud=resource)
        answer = {"token_type": "Bearer", "expires_in": 3599, "access_token": token}
        self.answer(200, answer)

    def refuse_sign_in(self, code: int, reason: str) -> None:
        error = ERRORS.get(code, "invalid_client")
        now = iso(self.azure.now()).replace("T", " ")
        trail = f"Trace ID: {uuid4()} Correlation ID: {uuid4()} Timestamp: {now}"
        refusal = {
            "error": error,
            "error_description": f"AADSTS{code}: {reason} {trail}",
            "error_codes": [code],
        }
        self.answer(401 if error == "invalid_client" else 400, refusal)

    # --- GitHub's OIDC provider

    def answer_github(self) -> None:
        authorized = self.headers["Authorization"] == f"Bearer {REQUEST_TOKEN}"
        if not (authorized and self.requestline.startswith(f"GET {GITHUB_PATH}")):
            return self.answer(401, {"message": "the request token is not valid"})
        claims = {"aud": self.query["audience"], **self.azure.github_claims}
        self.answer(200, {"value": self.azure.assertion(GITHUB_ISSUER, **claims)})

    # --- The metadata services

    def answer_metadata(self) -> None:
        azure = self.azure
        if self.command != "GET" or self.route not in METADATA:
            return self.send_error(404)
        version, needed, parameter = METADATA[self.route]
        asked = {**self.query, "api-version": version, "resource": RESOURCE}
        client_id = self.query.get(parameter)
        if client_id is None and len(azure.assigned) == 1 and parameter != "clientid":
            (client_id,) = azure.assigned  # Azure ML wants it named
        is_imds = self.route.startswith("/metadata")
        if asked != self.query or any(
            self.headers[name] != needed[name] for name in needed
        ):
            problem = "Required metadata header or parameter not specified"
        elif azure.identity and client_id in azure.assigned:
            expires = str(int(azure.now()) + 3600)
            token = {"access_token": azure.identity, "token_type": "Bearer"}
            return self.answer(200, {**token, "expires_on": expires})
        elif is_imds:
            problem = "Identity not found" if client_id else SEVERAL
        else:
            problem = NONE_FOUND
        imds = {"error": "invalid_request", "error_description": problem}
        self.answer(400, imds if is_imds else {"statusCode": 400, "message": problem})


DOMAINS = r"(dev\.azure\.com|visualstudio\.com|codedev\.ms|vsts\.me)"
# Each service: the key of its faults, a pattern of its hosts, and its answers
SERVICES: dict[str, tuple[str, Answer]] = {
    FEED: (rf"([\w-]+\.)?pkgs\.{DOMAINS}", Handler.answer_feed),
    AUTHORITY: (rf"([\w-]+\.)?vssps(ext)?\.{DOMAINS}", Handler.answer_authority),
    ENTRA: (
        r"login\.(microsoftonline\.com|windows\.net|microsoft\.com)",
        Handler.answer_entra,
    ),
    "arm": (r"management\.azure\.com", answer_arm),
    GITHUB: (r"[\w-]+\.actions\.githubusercontent\.com", Handler.answer_github),
    STORAGE: (
        r"[\w-]+\.blob\.core\.windows\.net",
        lambda handler: handler.answer(200, wheel()[1]),
    ),
    IMDS: (IMDS, Handler.answer_metadata),  # on a port of its own, without the proxy
}


def service_at(host: str) -> str:
    """Return the key of the service at a host, "" for a host that is in no row."""
    kinds = [kind for kind in SERVICES if re.fullmatch(SERVICES[kind][0], host)]
    return "".join(kinds)


def organization_at(host: str, path: str) -> str:
    """Return the organization that an address names: in the host, or in the path."""
    named = re.match(r"(?!app\.)([\w-]+)\.(pkgs|vssps|vsspsext)\.", host)
    return (named[1] if named else path.split("/")[1]).lower()


class Azure(Machine):
    """The simulated Azure, and the machine that sees it; a context manager."""

    handshakes = 0
    proxy_user = ""  # the header of the last connection
    # How it behaves
    skew = 0.0  # seconds by which its clock is ahead of this machine's
    proxy_refuses: tuple[int, str] | None = None  # a status and its phrase
    tls: ssl.SSLContext | None = None  # instead of a good one for each host
    encrypted = False  # tokens issued from now on are for Azure alone to read
    claims: Mapping[str, Any] = {}  # of all of them
    public_feeds: Collection[str] = ()
    is_member = has_role = True  # whoever signs in
    challenge: Mapping[str, Any] = {}  # overrides headers of the feed's 401
    lifetime = 3600.0  # seconds, the longest of a session token
    refuses_valid_to = False
    revoked_claims = ""  # base64; if set, the tokens that az gets are revoked
    refusal: Refusal = (0, "")  # if there is a code, no person gets a token
    secret = CLIENT_SECRET  # of the application
    github_claims: Mapping[str, Any] = {}  # overrides those of its assertions
    identity: str | None = None  # the bearer of the managed identity
    assigned: Collection[str] = (CLIENT_ID,)  # the user-assigned identities

    def __init__(self) -> None:
        super().__init__()
        # What was asked of it, and what it issued
        self.requests: list[Any] = []
        self.connects: list[str] = []  # the hosts that the proxy was asked for
        self.uploads: list[bytes] = []
        self.bearers: dict[str, dict[str, Any]] = {}  # Entra's tokens, and their claims
        self.session_tokens: dict[str, Issued] = {}
        self.passwords: dict[str, Issued] = {}  # personal access tokens and the like
        self.faults: dict[str, list[Answer]] = {kind: [] for kind in SERVICES}

        self.ca_file = self.folder / "ca.pem"
        authority().cert_pem.write_to_path(str(self.ca_file))
        self.proxy, self.metadata = Server(self, ""), Server(self, IMDS)

    def asked(self, host: str) -> list[str]:
        """The requests to a host so far, as "METHOD path"."""
        return [f"{r.method} {r.path}" for r in self.requests if r.host == host]

    def scopes(self) -> list[str]:
        """The scopes for which session tokens were asked so far."""
        wishes = [r.body for r in self.requests if "SessionTokens" in r.path]
        return [json.loads(wish)["scope"] for wish in wishes]

    # --- Tokens

    def takes(self, *passwords: str) -> None:
        """Let the feeds of contoso take these passwords, which are not Entra's."""
        issued = Issued("contoso", [READ])
        self.passwords.update(dict.fromkeys(passwords, issued))

    def now(self) -> float:
        """The time by Azure's clock."""
        return time.time() + self.skew

    def entra_token(self, who: Mapping[str, Any] = USER, **claims: Any) -> str:
        """Issue the token of a user of az, with these claims besides."""
        now = int(self.now())
        times = {"iat": now - 300, "nbf": now - 300, "exp": now + 3600}  # dated back
        issued = {**COMMON, **times, **who, **self.claims, **claims}
        token = self.encode(issued)
        self.bearers[token] = issued
        return token

    # The token of a service principal or a managed identity, likewise
    application_token: partialmethod[str] = partialmethod(entra_token, APPLICATION)

    def encode(self, claims: Mapping[str, Any]) -> str:
        return encrypted_jwt() if self.encrypted else jwt(claims)

    def assertion(self, issuer: str, **claims: Any) -> str:
        """Return the assertion of a workload, which lives for five minutes."""
        now = int(self.now())
        who = {"iss": issuer, "sub": FEDERATED[issuer], "aud": [AUDIENCE]}
        return jwt({**who, "iat": now, "nbf": now, "exp": now + 300, **claims})

    def valid_claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that Azure DevOps takes, {} of another."""
        claims = self.bearers.get(token, {})
        here = (claims.get("tid"), claims.get("aud")) == (TENANT, RESOURCE)
        return claims if here and claims["exp"] > self.now() else {}

    def is_revoked(self, claims: Mapping[str, Any]) -> object:
        """Tell whether a token is revoked; only those of clients with CP1 can be."""
        return self.revoked_claims and "xms_cc" in claims

    # --- What a process finds around it

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a process that sees this Azure alone."""
        azure = {
            "HTTPS_PROXY": self.proxy.url,
            "SSL_CERT_FILE": str(self.ca_file),
            "PIP_CERT": str(self.ca_file),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": self.metadata.url,
        }
        return super().environment(**{**azure, **variables})

    def az_signed_in(self, token: str | None = None) -> str:
        """Put an az on PATH that is signed in; return the token that it gives."""
        token = token or self.entra_token()
        self.az_says(self.az_answer(token))
        return token

    def az_answer(self, token: str) -> str:
        """Return what az prints for a token."""
        expires = int(self.now()) + 3600
        return json.dumps(
            {
                "accessToken": token,
                "expiresOn": f"{datetime.fromtimestamp(expires)}.000000",
                "expires_on": expires,
                "tenant": TENANT,
                "tokenType": "Bearer",
            }
        )

    def github_job(self) -> dict[str, str]:
        """Return the variables of GitHub's job that signs in the application."""
        return {
            "AZURE_CLIENT_ID": CLIENT_ID,
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"https://{GITHUB}{GITHUB_PATH}",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
        }

    def pod(self) -> dict[str, str]:
        """Return the variables of a pod, likewise."""
        path = self.folder / "azure-identity-token"
        path.write_text(self.assertion(POD_ISSUER))
        return {
            "AZURE_CLIENT_ID": CLIENT_ID,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_FEDERATED_TOKEN_FILE": str(path),
        }

    def client_secret(self) -> dict[str, str]:
        """Return the variables for its secret."""
        return {
            "AZURE_CLIENT_ID": CLIENT_ID,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_SECRET": CLIENT_SECRET,
        }
