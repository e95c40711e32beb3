"""The identity platform of the simulated Azure: tokens, and who gets them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from simulated_azure import Azure, Handler

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT_ID = "99999999-0000-0000-0000-000000000000"  # of application and identity
OBJECT_ID = "88888888-0000-0000-0000-000000000000"  # likewise
RESOURCE = "499b84ac-1321-427f-aa17-267ca6975798"  # Azure DevOps
SECRET_HEADER = "the-secret-of-the-metadata-service"
CLIENT_SECRET = "aBc8Q~the/secret+of=the~application"

# Claims of a person's tokens, and of an application's
USER = {
    "appid": "04b07795-8ddb-461a-bbee-02f9e1bf7b46",  # az
    "oid": "77777777-0000-0000-0000-000000000000",
    "scp": "user_impersonation",
    "unique_name": "dev@contoso.com",
}
APPLICATION = {"appid": CLIENT_ID, "oid": OBJECT_ID}

# Claims of the assertions that the application may sign in with
GITHUB_JOB = {
    "iss": "https://token.actions.githubusercontent.com",
    "sub": "repo:contoso/app:ref:refs/heads/main",
    "aud": "api://AzureADTokenExchange",
}
POD = {
    "iss": "https://eastus.oic.prod-aks.azure.com/contoso/",
    "sub": "system:serviceaccount:default:app",
    "aud": ["api://AzureADTokenExchange"],
}


# --- Tokens


def encode(content: object) -> str:
    """Return a part of a token."""
    text = json.dumps(content).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def jwt(claims: Mapping[str, Any]) -> str:
    """Return a token that everybody can read."""
    header = encode({"alg": "RS256"})
    return f"{header}.{encode(claims)}.{token_urlsafe(256)}"


def encrypted_jwt() -> str:
    """Return a token that nobody can read."""
    header = encode({"alg": "RSA-OAEP", "enc": "A256CBC-HS512"})
    return ".".join([header, *map(token_urlsafe, (256, 16, 1024, 32))])


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# --- Entra
# https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
# https://learn.microsoft.com/entra/identity-platform/v2-oauth2-device-code
# https://learn.microsoft.com/entra/identity-platform/v2-protocols-oidc

ENTRA = "login.microsoftonline.com"
OTHER_TENANT = "22222222-3333-4444-5555-666666666666"
DEVICE_PAGE = "https://login.microsoft.com/device"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ERRORS = {  # by their codes; all others are "invalid_client"
    50020: "invalid_grant",
    50076: "interaction_required",
    700082: "invalid_grant",
    700016: "unauthorized_client",
}


Fields = dict[str, str]


class Refusal(Exception):
    """A code of Entra's, and what it means."""


def answer_entra(handler: Handler) -> None:
    """Answer an application, and a real az, by which persons sign in."""
    tenant, _, page = handler.route[1:].partition("/")
    form = dict(parse_qsl(handler.body.decode()))
    home = TENANT if tenant == "organizations" else tenant
    protocol = f"https://{ENTRA}/{tenant}/oauth2/v2.0"
    pages: dict[str, Any] = {
        "discovery/instance": {"metadata": [{"aliases": [ENTRA, "login.windows.net"]}]},
        "v2.0/.well-known/openid-configuration": {
            "issuer": f"https://{ENTRA}/{tenant}/v2.0",
            "authorization_endpoint": f"{protocol}/authorize",
            "device_authorization_endpoint": f"{protocol}/devicecode",
            "token_endpoint": f"{protocol}/token",
        },
        "oauth2/v2.0/devicecode": {
            "user_code": "ABCD1234",
            "device_code": f"{home} {form.get('scope')}",  # opaque to az
            "verification_uri": DEVICE_PAGE,
            "expires_in": 900,
            "message": f"To sign in, open {DEVICE_PAGE} and enter the code ABCD1234.",
        },
    }
    if page in pages:
        return handler.answer(200, pages[page])
    assert page == "oauth2/v2.0/token"
    assert handler.headers.get_content_type() == "application/x-www-form-urlencoded"
    grants = {
        "client_credentials": application_tokens,
        "refresh_token": person_tokens,
        "urn:ietf:params:oauth:grant-type:device_code": person_tokens,
    }
    try:
        tokens = grants[form["grant_type"]](handler.azure, tenant, form)
        handler.answer(200, {"token_type": "Bearer", "expires_in": 3599, **tokens})
    except Refusal as refusal:
        code, reason = refusal.args
        error = ERRORS.get(code, "invalid_client")
        refused = {
            "error": error,
            "error_description": f"AADSTS{code}: {reason} Trace ID: {OBJECT_ID}"
            " Timestamp: 2026-11-27 06:53:08Z",
            "error_codes": [code],
        }
        handler.answer(401 if error == "invalid_client" else 400, refused)


def application_tokens(azure: Azure, tenant: str, form: Fields) -> Fields:
    """Give the application a token, if its secret or its assertion is right."""
    client = form["client_id"]
    if (tenant, client) != (TENANT, CLIENT_ID):
        where = f"was not found in the directory '{tenant}'"
        raise Refusal(700016, f"Application with identifier '{client}' {where}.")
    if "client_secret" not in form:
        assert form["client_assertion_type"] == ASSERTION
        middle = form["client_assertion"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(f"{middle}=="))
        workload = POD if claims["iss"] == POD["iss"] else GITHUB_JOB
        for code, name in {700211: "iss", 700213: "sub", 700212: "aud"}.items():
            if claims[name] != workload[name]:
                what = f"for presented assertion {name} '{claims[name]}'"
                raise Refusal(code, f"No matching federated identity record {what}.")
    elif form["client_secret"] != azure.secret:
        raise Refusal(7000215, "Invalid client secret provided.")
    resource, _ = form["scope"].split("/.default")
    return {"access_token": azure.application_token(aud=resource)}


def person_tokens(azure: Azure, tenant: str, form: Fields) -> Fields:
    """Give one person in each tenant tokens; whoever has a code has approved."""
    proof = form.get("device_code") or form["refresh_token"]
    home, *scopes = f"{proof} {form.get('scope', '')}".split()
    (scope,) = {*scopes} - {"openid", "profile", "offline_access"}
    if tenant not in (home, "organizations"):
        issuer = f"https://sts.windows.net/{home}/"
        raise Refusal(50020, f"User account from '{issuer}' does not exist in tenant.")
    if azure.refusal[0]:
        raise Refusal(*azure.refusal)
    name, (resource, _) = f"dev@{home}", scope.split("/.default")
    token = azure.entra_token(
        aud=resource, tid=home, unique_name=name, preferred_username=name
    )
    return {
        "scope": f"{resource}/user_impersonation {scope}",
        "access_token": token,
        "refresh_token": home,  # opaque to az
        "id_token": jwt({**azure.bearers[token], "aud": USER["appid"]}),
        "client_info": encode({"uid": USER["oid"], "utid": home}),
    }


def answer_arm(handler: Handler) -> None:
    """Answer that the account sees its tenant and no subscriptions."""
    tenant = {"id": f"/tenants/{TENANT}", "tenantId": TENANT}
    handler.answer(200, {"value": [tenant] * (handler.route == "/tenants")})


# --- Managed identity

# What a metadata service demands: a version, a header, and how an identity is named
METADATA = {
    "/metadata/identity/oauth2/token": ("2018-02-01", "Metadata", "true", "client_id"),
    "/msi/token": ("2019-08-01", "X-IDENTITY-HEADER", SECRET_HEADER, "client_id"),
    "/MSI/auth": ("2017-09-01", "secret", SECRET_HEADER, "clientid"),  # Azure ML
}
