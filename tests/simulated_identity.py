"""The identity platform of the simulated Azure: tokens, and who gets them."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Callable, NamedTuple

TENANT = "11111111-2222-3333-4444-555555555555"
NO_TENANT = "00000000-0000-0000-0000-000000000000"
CLIENT_ID = (
    "99999999-0000-0000-0000-000000000000"  # of the application, and of the identity
)
OBJECT_ID = "88888888-0000-0000-0000-000000000000"  # likewise
RESOURCE = "499b84ac-1321-427f-aa17-267ca6975798"  # Azure DevOps
ARM_RESOURCE = (
    "https://management.core.windows.net/"  # Azure Resource Manager, which az asks
)
SCOPES = {f"{RESOURCE}/.default", f"{ARM_RESOURCE}/.default"}
EVERYTHING = "user_impersonation"
ISSUER = f"https://sts.windows.net/{TENANT}/"
AUDIENCE = "api://AzureADTokenExchange"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SECRET_HEADER = "the-secret-of-the-metadata-service"

USER = {
    "appid": "04b07795-8ddb-461a-bbee-02f9e1bf7b46",  # az
    "appidacr": "0",
    "oid": "77777777-0000-0000-0000-000000000000",
    "scp": EVERYTHING,
    "sub": "the-subject-that-this-user-is-for-az-alone",
    "unique_name": "dev@contoso.com",
    "upn": "dev@contoso.com",
    "xms_cc": ["CP1"],
}
APPLICATION = {
    "appid": CLIENT_ID,
    "appidacr": "2",
    "idp": ISSUER,
    "oid": OBJECT_ID,
    "sub": OBJECT_ID,
}


# --- Tokens


def entra_claims(now: float, claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return these claims and those of every token of Entra, without those of None."""
    common = {
        "aud": RESOURCE,
        "iss": ISSUER,
        "iat": int(now) - 300,  # Entra dates its tokens back by five minutes
        "nbf": int(now) - 300,
        "exp": int(now) + 3600,
        "aio": secrets.token_urlsafe(40),
        "rh": secrets.token_urlsafe(40),
        "tid": TENANT,
        "uti": secrets.token_urlsafe(16),
        "ver": "1.0",
    }
    return {
        name: value for name, value in {**common, **claims}.items() if value is not None
    }


def jwt(claims: Mapping[str, Any]) -> str:
    """Return a token that everybody can read."""
    header = {"typ": "JWT", "alg": "RS256"}
    parts = [json.dumps(part).encode() for part in (header, claims)]
    return dotted(*parts, secrets.token_bytes(256))


def encrypted_jwt() -> str:
    """Return a token that nobody can read."""
    header = json.dumps(
        {"typ": "JWT", "alg": "RSA-OAEP", "enc": "A256CBC-HS512"}
    ).encode()
    return dotted(header, *map(secrets.token_bytes, (256, 16, 1024, 32)))


def dotted(*parts: bytes) -> str:
    return ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts
    )


def read_jwt(token: str) -> dict[str, Any]:
    """Return the claims of a token; {} of what is none."""
    try:
        return dict(json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "==")))
    except (IndexError, ValueError, TypeError):
        return {}


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# --- Entra


class Federated(NamedTuple):
    """Whose assertions an application may sign in with."""

    issuer: str
    subject: str
    audience: str = AUDIENCE


@dataclass
class Client:
    """An application in the tenant, and what it may sign in with."""

    secret: str = ""
    secret_expires: float = inf
    federated: list[Federated] = field(default_factory=list)


Refusal = tuple[
    int, str
]  # a code of Entra's and what it means; the code is 0 if all is well
ERRORS = {  # all others are "invalid_client"
    50020: "invalid_grant",
    50076: "interaction_required",
    70003: "unsupported_grant_type",
    700082: "invalid_grant",
    500011: "invalid_resource",
    700016: "unauthorized_client",
    900021: "invalid_request",
    900144: "invalid_request",
}


def check_request(
    tenant: str, form: Mapping[str, str], clients: Mapping[str, Client], now: float
) -> Refusal:
    """Check a request for an application's token."""
    missing = [
        name for name in ("grant_type", "client_id", "scope") if name not in form
    ]
    if missing:
        return (
            900144,
            f"The request body must contain the following parameter: '{missing[0]}'.",
        )
    if tenant == NO_TENANT:
        empty = "Tenant identifiers may not be an empty GUID."
        return 900021, f"Requested tenant identifier '{tenant}' is not valid. {empty}"
    grant_type, client_id, scope = form["grant_type"], form["client_id"], form["scope"]
    if grant_type != "client_credentials":
        return 70003, f"The app requested an unsupported grant type '{grant_type}'."
    if tenant.lower() != TENANT or client_id not in clients:
        where = f"was not found in the directory '{tenant}'"
        return 700016, f"Application with identifier '{client_id}' {where}."
    if scope not in SCOPES:
        return (
            500011,
            f"The resource principal named {scope} was not found in tenant {tenant}.",
        )
    check = check_secret if "client_secret" in form else check_assertion
    return check(form, clients[client_id], now)


def check_secret(form: Mapping[str, str], client: Client, now: float) -> Refusal:
    app = f"app '{form['client_id']}'"
    if form["client_secret"] != client.secret:
        value = (
            "the client secret value, not the client secret ID, for a secret added to "
            + app
        )
        sent = f"Ensure the secret being sent in the request is {value}."
        return 7000215, f"Invalid client secret provided. {sent}"
    if client.secret_expires <= now:
        return 7000222, f"The provided client secret keys for {app} are expired."
    return 0, ""


def check_assertion(form: Mapping[str, str], client: Client, now: float) -> Refusal:
    if form.get("client_assertion_type") != ASSERTION_TYPE:
        needed = "'client_assertion' or 'client_secret'"
        return (
            7000218,
            f"The request body must contain the following parameter: {needed}.",
        )
    claims = read_jwt(form.get("client_assertion", ""))
    if not claims:
        return 50027, "JWT token is invalid or malformed."
    audience, records = claims.get("aud"), client.federated
    for code, name, values in [
        (700211, "issuer", [claims.get("iss")]),
        (700213, "subject", [claims.get("sub")]),
        (700212, "audience", audience if isinstance(audience, list) else [audience]),
    ]:
        records = [record for record in records if getattr(record, name) in values]
        if not records:
            what = f"for presented assertion {name} '{values[0]}'"
            return code, f"No matching federated identity record found {what}."
    start, end = claims.get("nbf", 0), claims.get("exp", 0)
    if not start <= now < end:
        times = f"Current time: {iso(now)}, assertion valid from {iso(start)}, "
        times += f"expiry time of assertion {iso(end)}"
        return 700024, f"Client assertion is not within its valid time range. {times}."
    return 0, ""


# --- Managed identity


class MetadataService(NamedTuple):
    """What a metadata service demands, and how it answers."""

    version: str
    headers: dict[str, str]
    client_id: str  # the parameter that names a user-assigned identity
    must_name: bool  # whether that parameter is always needed
    unknown: str
    unnamed: str
    error: Callable[[str], dict[str, Any]]


NONE_FOUND = "No User Assigned or Delegated Managed Identity found for specified "
NONE_FOUND += "ClientId/ResourceId/PrincipalId."
METADATA = {
    "/metadata/identity/oauth2/token": MetadataService(
        version="2018-02-01",
        headers={"Metadata": "true"},
        client_id="client_id",
        must_name=False,
        unknown="Identity not found",
        unnamed="Multiple user assigned identities exist, please specify the clientId"
        " / resourceId of the identity in the token request",
        error=lambda text: {"error": "invalid_request", "error_description": text},
    ),
    "/msi/token": MetadataService(  # App Service; "Metadata" is for Azure Automation
        version="2019-08-01",
        headers={"X-IDENTITY-HEADER": SECRET_HEADER, "Metadata": "true"},
        client_id="client_id",
        must_name=False,
        unknown=NONE_FOUND,
        unnamed=NONE_FOUND,
        error=lambda text: {"statusCode": 400, "message": text},
    ),
    "/MSI/auth": MetadataService(  # Azure ML
        version="2017-09-01",
        headers={"secret": SECRET_HEADER},
        client_id="clientid",
        must_name=True,
        unknown=NONE_FOUND,
        unnamed=NONE_FOUND,
        error=lambda text: {"statusCode": 400, "message": text},
    ),
}


def metadata_problem(
    service: MetadataService,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    assigned: list[str],
) -> str:
    """Return why a metadata service refuses a request, "" if it does not."""
    if any(
        headers.get(name.lower()) != value for name, value in service.headers.items()
    ):
        return "Required metadata header not specified"
    if "x-forwarded-for" in headers:
        return "Forwarded requests are not served"
    if (query.get("api-version"), query.get("resource")) != (service.version, RESOURCE):
        return "The api-version or the resource is not supported"
    client_id = query.get(service.client_id)
    if client_id is None:
        choice = service.must_name or len(assigned) > 1
        return service.unnamed if choice else ""
    return "" if client_id in assigned else service.unknown
