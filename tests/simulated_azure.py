"""A simulated Azure on loopback, with real sockets and real TLS.

Tests set the attributes of Azure to make a case, and read there what was asked of it.
What its services answer is in simulated_services, tokens and the rules of Entra are in
simulated_identity, az and its surroundings in simulated_machine.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from math import inf
from typing import Any

from simulated_entra import Persons
from simulated_identity import (
    APPLICATION,
    AUDIENCE,
    CLIENT_ID,
    RESOURCE,
    SECRET_HEADER,
    TENANT,
    USER,
    Client,
    Federated,
    encrypted_jwt,
    entra_claims,
    jwt,
)
from simulated_machine import Machine
from simulated_services import (
    AUTHORITY,
    ENTRA,
    FEED,
    GITHUB,
    GITHUB_ISSUER,
    GITHUB_PATH,
    GITHUB_SUBJECT,
    IMDS,
    REQUEST_TOKEN,
    SERVICES,
    STORAGE,
    Answer,
    Handler,
    Issued,
    Recorded,
    Server,
    authority,
    wheel,
)

__all__ = [
    "AUTHORITY",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "ENTRA",
    "FEED",
    "GITHUB",
    "GITHUB_SUBJECT",
    "IMDS",
    "INDEX_URL",
    "POD_SUBJECT",
    "REQUEST_TOKEN",
    "SECRET_HEADER",
    "STORAGE",
    "TENANT",
    "UPLOAD_URL",
    "Answer",
    "Azure",
    "Client",
    "Federated",
    "Handler",
    "Issued",
    "Recorded",
    "jwt",
    "wheel",
]

INDEX_URL = f"https://{FEED}/contoso/_packaging/private/pypi/simple/"
UPLOAD_URL = f"https://{FEED}/contoso/_packaging/private/pypi/upload/"
POD_ISSUER = "https://eastus.oic.prod-aks.azure.com/contoso/"
POD_SUBJECT = "system:serviceaccount:default:app"
CLIENT_SECRET = "aBc8Q~the/secret+of=the~application"


class Azure(Machine):
    """The simulated Azure, and the machine that sees it; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        # What was asked of it, and what it issued
        self.requests: list[Recorded] = []
        self.connects: list[str] = []  # the hosts that the proxy was asked for
        self.handshakes = 0
        self.proxy_user = ""  # the header of the last connection
        self.uploads: list[bytes] = []
        self.bearers: dict[
            str, dict[str, Any]
        ] = {}  # the claims of each token of Entra
        self.session_tokens: dict[str, Issued] = {}
        # How it behaves
        self.faults: dict[str, list[Answer]] = {
            service.kind: [] for service in SERVICES
        }
        self.skew = 0.0  # seconds by which its clock is ahead of this machine's
        self.proxy_refuses: tuple[int, str] | None = None  # a status and its phrase
        self.tls: ssl.SSLContext | None = None  # instead of a good one for each host
        self.encrypted = False  # tokens issued from now on are for Azure alone to read
        self.claims: dict[str, Any] = {}  # of all of them
        self.public_feeds: set[str] = set()
        self.missing_feeds: set[str] = set()
        self.is_member = self.has_role = True  # whoever signs in
        self.challenge: dict[
            str, str | list[str]
        ] = {}  # overrides headers of the feed's 401
        self.passwords: dict[
            str, Issued
        ] = {}  # personal access tokens, pipelines' tokens
        self.lifetime = 3600.0  # seconds, the longest of a session token
        self.refuses_valid_to = False
        self.application_refusal = 401  # the status, where one asks for a session token
        self.revoked_claims = ""  # base64; if set, the tokens that az gets are revoked
        self.persons = Persons()
        self.clients = {CLIENT_ID: Client()}  # the applications in the tenant
        self.github_claims: dict[
            str, Any
        ] = {}  # overrides claims of GitHub's assertions
        self.identity: str | None = None  # the bearer of the managed identity
        self.assigned = [CLIENT_ID]  # the user-assigned identities

        self.ca_file = self.folder / "ca.pem"
        authority().cert_pem.write_to_path(str(self.ca_file))
        self.proxy = Server(self, "")
        self.metadata = Server(self, IMDS)

    def __enter__(self) -> Azure:
        for server in (self.proxy, self.metadata):
            threading.Thread(
                target=server.serve_forever, args=(0.01,), daemon=True
            ).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.proxy, self.metadata):
            server.shutdown()
            server.server_close()
        self.delete()

    def asked(self, host: str) -> list[str]:
        """The requests to a host so far, as "METHOD path"."""
        return [f"{r.method} {r.path}" for r in self.requests if r.host == host]

    def scopes(self) -> list[str]:
        """The scopes for which session tokens were asked so far."""
        posts = [
            r for r in self.requests if r.method == "POST" and "SessionTokens" in r.path
        ]
        return [json.loads(post.body)["scope"] for post in posts]

    # --- Tokens

    def takes(self, *passwords: str) -> None:
        """Let the feeds of contoso take these passwords, which are not Entra's."""
        for password in passwords:
            self.passwords[password] = Issued("contoso", ["vso.packaging"])

    def now(self) -> float:
        """The time by Azure's clock."""
        return time.time() + self.skew

    def entra_token(self, **claims: Any) -> str:
        """Issue the token of a user of az with these claims, without those of None."""
        return self.issue({**USER, **claims})

    def application_token(self, **claims: Any) -> str:
        """Issue the token of a service principal or a managed identity, likewise."""
        return self.issue({**APPLICATION, **claims})

    def issue(self, claims: Mapping[str, Any]) -> str:
        issued = entra_claims(self.now(), {**self.claims, **claims})
        token = self.encode(issued)
        self.bearers[token] = issued
        return token

    def encode(self, claims: Mapping[str, Any]) -> str:
        return encrypted_jwt() if self.encrypted else jwt(claims)

    def assertion(self, claims: Mapping[str, Any]) -> str:
        """Return the assertion of a workload, which lives for five minutes."""
        now = int(self.now())
        return jwt({"iat": now, "nbf": now, "exp": now + 300, **claims})

    def valid_claims(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a token that Azure DevOps takes, None of another."""
        claims = self.bearers.get(token)
        if claims is None or claims.get("exp", inf) <= self.now():
            return None
        here = (claims.get("tid", TENANT), claims.get("aud", RESOURCE)) == (
            TENANT,
            RESOURCE,
        )
        return claims if here else None

    def is_revoked(self, claims: Mapping[str, Any]) -> bool:
        """Tell whether a token is revoked; only those of clients with CP1 can be."""
        return bool(self.revoked_claims) and "CP1" in claims.get("xms_cc", [])

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
        answer = {
            "accessToken": token,
            "expiresOn": f"{datetime.fromtimestamp(expires)}.000000",
            "expires_on": expires,
            "tenant": TENANT,
            "tokenType": "Bearer",
        }
        return json.dumps(answer)

    def github_job(self) -> dict[str, str]:
        """Let the application sign in from GitHub; return the variables of a job."""
        self.clients[CLIENT_ID].federated.append(
            Federated(GITHUB_ISSUER, GITHUB_SUBJECT)
        )
        return {
            "AZURE_CLIENT_ID": CLIENT_ID,
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"https://{GITHUB}{GITHUB_PATH}?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
        }

    def pod(self, **claims: Any) -> dict[str, str]:
        """Let the application sign in from a pod; return the variables of the pod.

        The claims override those of its projected token.
        """
        self.clients[CLIENT_ID].federated.append(Federated(POD_ISSUER, POD_SUBJECT))
        path = self.folder / "azure-identity-token"
        who = {"iss": POD_ISSUER, "sub": POD_SUBJECT, "aud": [AUDIENCE]}
        path.write_text(self.assertion({**who, **claims}))
        return {
            "AZURE_CLIENT_ID": CLIENT_ID,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_FEDERATED_TOKEN_FILE": str(path),
        }

    def client_secret(self) -> dict[str, str]:
        """Let the application sign in with a secret; return the variables for it."""
        self.clients[CLIENT_ID].secret = CLIENT_SECRET
        return {
            "AZURE_CLIENT_ID": CLIENT_ID,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_SECRET": CLIENT_SECRET,
        }

    def app_service(self) -> dict[str, str]:
        """Return the variables of App Service."""
        endpoint = f"{self.metadata.url}/msi/token"
        return {"IDENTITY_ENDPOINT": endpoint, "IDENTITY_HEADER": SECRET_HEADER}

    def azure_ml(self) -> dict[str, str]:
        """Return the variables of Azure ML."""
        return {
            "MSI_ENDPOINT": f"{self.metadata.url}/MSI/auth",
            "MSI_SECRET": SECRET_HEADER,
            "DEFAULT_IDENTITY_CLIENT_ID": CLIENT_ID,
        }
