"""A simulated Azure on loopback, with real sockets and real TLS.

Tests set the attributes of Azure to make a case, and read there what was asked of it.
What its services answer is in simulated_services, tokens and the rules of Entra are in
simulated_identity, az and its surroundings in simulated_machine.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import partialmethod
from typing import Any

from simulated_identity import (
    APPLICATION,
    AUDIENCE,
    CLIENT_ID,
    CLIENT_SECRET,
    COMMON,
    FEDERATED,
    POD_ISSUER,
    RESOURCE,
    SECRET_HEADER,
    TENANT,
    USER,
    Refusal,
    encrypted_jwt,
    jwt,
)
from simulated_machine import Machine
from simulated_services import (
    AUTHORITY,
    ENTRA,
    FEED,
    GITHUB,
    GITHUB_PATH,
    IMDS,
    REQUEST_TOKEN,
    SERVICES,
    STORAGE,
    Answer,
    Handler,
    Issued,
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
    "IMDS",
    "INDEX_URL",
    "REQUEST_TOKEN",
    "SECRET_HEADER",
    "STORAGE",
    "TENANT",
    "UPLOAD_URL",
    "Answer",
    "Azure",
    "Handler",
    "Issued",
    "jwt",
    "wheel",
]

INDEX_URL = f"https://{FEED}/contoso/_packaging/private/pypi/simple/"
UPLOAD_URL = INDEX_URL.replace("simple", "upload")


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
        issued = Issued("contoso", ["vso.packaging"])
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
        answer = {
            "accessToken": token,
            "expiresOn": f"{datetime.fromtimestamp(expires)}.000000",
            "expires_on": expires,
            "tenant": TENANT,
            "tokenType": "Bearer",
        }
        return json.dumps(answer)

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
