"""A simulated Azure on loopback, with real sockets and real TLS.

Tests set the attributes of Azure to make a case, and read there what was asked of it.
A proxy takes CONNECT for the hosts in the table SERVICES and answers behind it, with
certificates of its own authority. Asked without CONNECT, it is the metadata services.
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
from calendar import timegm
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
from urllib.parse import parse_qsl

import trustme
from flit_core.wheel import make_wheel_in

from simulated_identity import (
    APPLICATION,
    CLIENT_ID as CLIENT_ID,
    CLIENT_SECRET as CLIENT_SECRET,
    ENTRA as ENTRA,
    GITHUB_JOB,
    METADATA,
    OBJECT_ID,
    POD,
    RESOURCE,
    SECRET_HEADER as SECRET_HEADER,
    TENANT as TENANT,
    USER,
    answer_arm,
    answer_entra,
    encrypted_jwt,
    iso,
    jwt as jwt,
)
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
PAGE = f"Bearer authorization_uri=https://login.windows.net/{TENANT}"
TOKENS = (
    r"POST (/[^/]+)?/_apis/Token/SessionTokens\?(tokenType=SelfDescribing&)?"
    r"api-version=5\.0-preview\.1(&tokenType=SelfDescribing)? "
)
GITHUB_PATH = f"/104//idtoken/{OBJECT_ID}/{TENANT}?api-version=2.0"
REQUEST_TOKEN = "the-request-token-of-github"


class Issued(NamedTuple):
    """What a feed's password is good for."""

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
        project.write_text(
            f"[project]\nname = '{name}'\nversion = '1.0'\ndescription = ''"
        )
        project.with_name(f"{name}.py").write_text("answer = 42\n")
        path = make_wheel_in(project, project.parent).file
        return path.name, path.read_bytes()


class Server(ThreadingHTTPServer):
    """The proxy, and the metadata services."""

    request_queue_size = 64

    def __init__(self, azure: Azure) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.azure = azure
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        azure.enter_context(self)
        azure.callback(self.shutdown)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, after CONNECT for one of Azure's hosts."""

    protocol_version = "HTTP/1.1"
    server: Server
    host = IMDS

    def handle(self) -> None:
        self.azure = self.server.azure
        with suppress(OSError):  # a client that hangs up is no news
            super().handle()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        azure = self.azure
        self.host = self.path.replace(":443", "")
        azure.connects.append(self.host)
        azure.proxy_user = self.headers["Proxy-Authorization"]
        refusal = azure.proxy_refuses
        if not service_at(self.host):
            refusal = 502, "Bad Gateway"
        self.send_response_only(*(refusal or (200, "OK")))
        self.end_headers()
        if refusal:
            return
        context = azure.tls or tls(self.host)
        self.request = context.wrap_socket(self.connection, server_side=True)
        self.setup()
        azure.handshakes += 1
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
        self.route, _, query = self.path.partition("?")
        self.query = dict(parse_qsl(query))
        named = re.match(r"([\w-]+)\.(pkgs|vssps)\.", self.host)
        organization = named[1] if named else self.path.split("/")[1]
        self.organization = organization.lower()
        kind = service_at(self.host)
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

        A header may have several values, in a list.
        """
        kind = "text/html" if isinstance(content, str) else "application/octet-stream"
        if isinstance(content, dict):
            content, kind = json.dumps(content), "application/json"
        body = content if isinstance(content, bytes) else str(content).encode()
        self.recorded.status = status
        self.send_response(status, reason)
        described = {"Content-Type": kind, "Content-Length": str(len(body)), **headers}
        for name, value in described.items():
            for one in value if isinstance(value, list) else [value]:
                self.send_header(name, one)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # --- The feed: "[/{organization}][/{project}]/_packaging/{feed}/pypi/…"

    def answer_feed(self) -> None:
        azure = self.azure
        base, _, rest = self.route.partition("/_packaging/")
        feed, _, path = rest.rstrip("/").replace("//", "/").partition("/pypi/")
        public = feed in azure.public_feeds
        upload = path == "upload"
        if upload or not public:
            scopes = self.granted()
            if not scopes:
                return self.refuse_at_feed(401, headers=self.sign_in())
            scope, needed = (WRITE, "AddPackage") if upload else (READ, "ReadPackages")
            if not {scope, WRITE} & scopes:
                lacks = "lacks permission to complete this action. You need to have"
                return self.refuse_at_feed(403, f"User 'contoso' {lacks} '{needed}'.")

        name, content = wheel()
        if upload:
            azure.uploads.append(self.body)
            self.answer(200)
        elif path == "simple":
            self.answer(200, '<a href="contoso-secrets/">contoso-secrets</a>')
        elif path == "simple/contoso-secrets":
            # A feed has an id, too, under which its files lie.
            link = f"https://{self.host}{base}/_packaging/{OBJECT_ID}/pypi/download/"
            link += f"contoso-secrets/1.0/{name}#sha256={sha256(content).hexdigest()}"
            self.answer(200, f'<a href="{link}">{name}</a>')
        elif not path.endswith(name):
            self.refuse_at_feed(404, "The package doesn't exist in this feed.")
        elif public:
            blob = f"https://{STORAGE}/{name}?sv=2019-07-07&sig=of-nobody"
            self.answer(303, headers={"Location": blob})
        else:
            self.answer(200, content)

    def refuse_at_feed(
        self, status: int, message: str = "", headers: Mapping[str, Any] = {}
    ) -> None:
        """Answer with a feed's error, whose words are in the reason phrase alone."""
        phrase = HTTPStatus(status).phrase
        if message:
            phrase += f" - {message} (DevOps Activity ID: {OBJECT_ID})"
        self.answer(status, b"", headers, phrase)

    def granted(self) -> set[str]:
        """Return the scopes of the password in the request, none if it is no good."""
        azure = self.azure
        encoded = self.headers.get("Authorization", "").partition("Basic ")[2]
        password = base64.b64decode(encoded).decode().partition(":")[2]
        if azure.is_member and azure.valid_claims(password):
            return {READ, WRITE}
        issued = azure.passwords.get(password)
        if not issued or issued.expires <= azure.now():
            return set()
        return {*issued.scopes} if issued.organization == self.organization else set()

    def sign_in(self) -> dict[str, Any]:
        """Return the headers that say where to sign in."""
        authority = f"https://{self.host}/".replace("pkgs.", "vssps.")
        if self.host.startswith("pkgs."):
            authority += f"{self.organization}/"
        return {
            "WWW-Authenticate": f"{PAGE}, TFS-Federated, "
            'Basic realm="https://pkgsprodcus1.pkgs.visualstudio.com/"',
            "X-VSS-ResourceTenant": TENANT,
            "X-VSS-AuthorizationEndpoint": authority,
            **self.azure.challenge,
        }

    # --- The session token service: "[/{organization}]/_apis/Token/SessionTokens"

    def answer_authority(self) -> None:
        azure = self.azure
        assert re.match(TOKENS, self.requestline)
        assert self.headers.get_content_type() == "application/json"
        bearer = self.headers.get("Authorization", "").partition("Bearer ")[2]
        claims = azure.valid_claims(bearer)
        if "scp" not in claims:
            if self.headers["X-TFS-FedAuthRedirect"] != "Suppress":
                return self.answer(302, headers={"Location": "/_signin"})
            message = "TF400813: The user '' is not authorized to access this resource."
            if claims:
                message = "Service principals are not allowed to perform this action."
            page, revoked = PAGE, azure.revoked_claims
            if revoked:
                page += f', error="insufficient_claims", claims="{revoked}"'
            return self.answer(401, {"message": message}, {"WWW-Authenticate": page})

        wish, until = json.loads(self.body), azure.now() + azure.lifetime
        if "validTo" in wish:
            if azure.refuses_valid_to:
                return self.answer(400, {"message": "InvalidValidTo"})
            end = timegm(time.strptime(wish["validTo"], "%Y-%m-%dT%H:%M:%SZ"))
            until = min(until, end)
        scope = wish["scope"]
        issuer = "app.vstoken.visualstudio.com"
        token = azure.encode({"iss": issuer, "scp": scope, "exp": int(until)})
        issued = Issued(self.organization, scope.split(), until)
        azure.session_tokens[token] = azure.passwords[token] = issued
        self.answer(200, {**wish, "token": token, "validTo": iso(until)})

    # --- GitHub's OIDC provider

    def answer_github(self) -> None:
        authorized = self.headers["Authorization"] == f"Bearer {REQUEST_TOKEN}"
        if not (authorized and self.requestline.startswith(f"GET {GITHUB_PATH}")):
            return self.send_error(401)
        claims = {**GITHUB_JOB, "aud": self.query["audience"]}
        self.answer(200, {"value": jwt(claims)})

    # --- The metadata services

    def answer_metadata(self) -> None:
        azure = self.azure
        version, header, secret, parameter = METADATA[self.route]
        is_imds = header == "Metadata"
        assert self.headers[header] == secret
        assert self.query["api-version"] == version
        assert self.query["resource"] == RESOURCE
        asked = {"clientid": "", **self.query}.get(parameter)  # Azure ML wants a name
        found = [one for one in azure.assigned if asked in (one, None)]
        if azure.identity and len(found) == 1:
            token = {
                "access_token": azure.identity,
                "expires_in": "3600",  # of IMDS alone
                "expires_on": str(int(azure.now()) + 3600),
                "token_type": "Bearer",
            }
            if not is_imds:
                del token["expires_in"]
            return self.answer(200, token)
        several = "Multiple user assigned identities exist, please specify the clientId"
        imds = {
            "error": "invalid_request",
            "error_description": several if found[1:] else "Identity not found",
        }
        none = "No User Assigned or Delegated Managed Identity found"
        others = {"statusCode": 400, "message": none}
        self.answer(400, imds if is_imds else others)


DOMAINS = r"(dev\.azure\.com|visualstudio\.com|codedev\.ms|vsts\.me)"
# Each service: the key of its faults, a pattern of its hosts, and its answers
SERVICES: dict[str, tuple[str, Answer]] = {
    FEED: (rf"([\w-]+\.)?pkgs\.{DOMAINS}", Handler.answer_feed),
    AUTHORITY: (rf"([\w-]+\.)?vssps(ext)?\.{DOMAINS}", Handler.answer_authority),
    ENTRA: (r"login\.(microsoftonline\.com|windows\.net|microsoft\.com)", answer_entra),
    "arm": (r"management\.azure\.com", answer_arm),
    GITHUB: (r"[\w-]+\.actions\.githubusercontent\.com", Handler.answer_github),
    STORAGE: (
        r"[\w-]+\.blob\.core\.windows\.net",
        lambda handler: handler.answer(200, wheel()[1]),
    ),
    IMDS: (IMDS, Handler.answer_metadata),
}


def service_at(host: str) -> str:
    """Return the key of the service at a host, "" for a host that is in no row."""
    return "".join(kind for kind in SERVICES if re.fullmatch(SERVICES[kind][0], host))


class Azure(Machine):
    """The simulated Azure, and the machine that sees it; a context manager."""

    handshakes = 0
    proxy_user = ""  # the header of the last connection
    # How it behaves
    skew = 0.0  # seconds by which its clock is ahead of this machine's
    proxy_refuses: tuple[int, str] | None = None  # a status and its phrase
    tls: ssl.SSLContext | None = None  # instead of a good one for each host
    encrypted = False  # tokens issued from now on are for Azure alone to read
    public_feeds: Collection[str] = ()
    is_member = True  # whoever signs in
    challenge: Mapping[str, Any] = {}  # overrides headers of the feed's 401
    lifetime = 3600.0  # seconds, the longest of a session token
    refuses_valid_to = False
    revoked_claims = ""  # base64; if set, all sign-ins are revoked
    refusal = 0, ""  # if there is a code, no person gets a token
    secret = CLIENT_SECRET  # of the application
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
        self.passwords: dict[str, Issued] = {}  # all that feeds take, but for Entra's
        self.faults: dict[str, list[Answer]] = {kind: [] for kind in SERVICES}

        self.ca_file = self.folder / "ca.pem"
        authority().cert_pem.write_to_path(str(self.ca_file))
        self.proxy = self.metadata = Server(self)

    def asked(self, host: str) -> list[str]:
        """The requests to a host so far, as "METHOD path"."""
        return [f"{r.method} {r.path}" for r in self.requests if r.host == host]

    def scopes(self) -> list[str]:
        """The scopes for which session tokens were asked so far."""
        return [
            json.loads(request.body)["scope"]
            for request in self.requests
            if "SessionTokens" in request.path
        ]

    # --- Tokens

    def takes(self, *passwords: str) -> None:
        """Let the feeds of contoso take these passwords, which are not Entra's."""
        self.passwords.update(dict.fromkeys(passwords, Issued("contoso", [READ])))

    def now(self) -> float:
        """The time by Azure's clock."""
        return time.time() + self.skew

    def entra_token(self, who: Mapping[str, Any] = USER, **claims: Any) -> str:
        """Issue the token of a user of az, with these claims besides."""
        issued = {
            "aud": RESOURCE,
            "iss": f"https://sts.windows.net/{TENANT}/",
            "tid": TENANT,
            "exp": int(self.now()) + 3600,
            **who,
            **claims,
        }
        token = self.encode(issued)
        self.bearers[token] = issued
        return token

    # The token of a service principal or a managed identity, likewise
    application_token: partialmethod[str] = partialmethod(entra_token, APPLICATION)

    def encode(self, claims: Mapping[str, Any]) -> str:
        return encrypted_jwt() if self.encrypted else jwt(claims)

    def valid_claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that Azure DevOps takes, {} of another."""
        claims = self.bearers.get(token, {})
        here = (claims.get("tid"), claims.get("aud")) == (TENANT, RESOURCE)
        if not here or claims["exp"] <= self.now() or self.revoked_claims:
            return {}
        return claims

    # --- What a process finds around it

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a process that sees this Azure alone."""
        return super().environment(
            **{
                "HTTPS_PROXY": self.proxy.url,
                "SSL_CERT_FILE": str(self.ca_file),
                "PIP_CERT": str(self.ca_file),
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "AZURE_POD_IDENTITY_AUTHORITY_HOST": self.metadata.url,
                **variables,
            }
        )

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

    # The variables of who signs in the application

    def github_job(self) -> dict[str, str]:
        return {
            "AZURE_CLIENT_ID": CLIENT_ID,
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"https://{GITHUB}{GITHUB_PATH}",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
        }

    def pod(self) -> dict[str, str]:
        path = self.folder / "azure-identity-token"
        path.write_text(jwt(POD))
        return {
            "AZURE_CLIENT_ID": CLIENT_ID,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_FEDERATED_TOKEN_FILE": str(path),
        }

    def client_secret(self) -> dict[str, str]:
        return {"AZURE_CLIENT_ID": CLIENT_ID, "AZURE_CLIENT_SECRET": CLIENT_SECRET}
