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
    "sub": "the-subject-that-this-user-is-for-az-alone",
    "unique_name": "dev@contoso.com",
}
APPLICATION = {"appid": CLIENT_ID, "oid": OBJECT_ID, "sub": OBJECT_ID}

# Claims of the assertions that the application may sign in with
GITHUB_JOB: dict[str, Any] = {
    "iss": "https://token.actions.githubusercontent.com",
    "sub": "repo:contoso/app:ref:refs/heads/main",
    "aud": "api://AzureADTokenExchange",
}
POD: dict[str, Any] = {
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
    header = encode({"typ": "JWT", "alg": "RS256"})
    return f"{header}.{encode(claims)}.{token_urlsafe(256)}"


def encrypted_jwt() -> str:
    """Return a token that nobody can read."""
    header = encode({"typ": "JWT", "alg": "RSA-OAEP", "enc": "A256CBC-HS512"})
    return ".".join([header, *map(token_urlsafe, (256, 16, 1024, 32))])


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# --- Entra
# https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
# https://learn.microsoft.com/entra/identity-platform/v2-oauth2-device-code
# https://learn.microsoft.com/entra/identity-platform/v2-protocols-oidc

ENTRA = "login.microsoftonline.com"
OTHER_TENANT = "22222222-3333-4444-5555-666666666666"
NAMES = {TENANT: "dev@contoso.com", OTHER_TENANT: "dev@fabrikam.com"}
# Azure DevOps, and the Resource Manager, which az asks
SCOPES = {f"{RESOURCE}/.default", "https://management.core.windows.net//.default"}
DEVICE_PAGE = "https://login.microsoft.com/device"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

# A code of Entra's and what it means; the code is 0 if all is well
Refusal = tuple[int, str]
ERRORS = {  # all others are "invalid_client"
    50020: "invalid_grant",
    50076: "interaction_required",
    700082: "invalid_grant",
    500011: "invalid_resource",
    700016: "unauthorized_client",
}


def answer_entra(handler: Handler) -> None:
    """Answer what an application asks, and a real az, by which persons sign in."""
    is_form = handler.headers.get_content_type() == "application/x-www-form-urlencoded"
    form = dict(parse_qsl(handler.body.decode())) if is_form else {}
    grant = form.get("grant_type")
    tenant, _, page = handler.route[1:].partition("/")
    home = TENANT if tenant == "organizations" else tenant
    protocol = f"https://{ENTRA}/{tenant}/oauth2/v2.0"
    pages: dict[str, Any] = {
        "discovery/instance": {
            "metadata": [{"aliases": [ENTRA, "login.windows.net", "sts.windows.net"]}]
        },
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
        handler.answer(200, pages[page])
    elif page != "oauth2/v2.0/token":
        handler.send_error(404)
    elif grant in (DEVICE_CODE, "refresh_token"):
        answer_person(handler, tenant, form)
    else:
        answer_application(handler, tenant, form)


def answer_application(handler: Handler, tenant: str, form: dict[str, str]) -> None:
    azure = handler.azure
    code, reason = application_problem(azure, tenant, form)
    if code:
        return refuse(handler, code, reason)
    token = azure.application_token(aud=form["scope"].replace("/.default", ""))
    answer = {"token_type": "Bearer", "expires_in": 3599, "access_token": token}
    handler.answer(200, answer)


def application_problem(azure: Azure, tenant: str, form: dict[str, str]) -> Refusal:
    """Check who asks for what, and the secret or else the assertion that proves it."""
    grant, client, scope, secret, kind = map(
        form.get,
        ("grant_type", "client_id", "scope", "client_secret", "client_assertion_type"),
    )
    if (tenant, client) != (TENANT, CLIENT_ID):
        where = f"was not found in the directory '{tenant}'"
        return 700016, f"Application with identifier '{client}' {where}."
    if scope not in SCOPES:
        return 500011, f"The resource principal named {scope} was not found in tenant."
    if grant != "client_credentials" or not (secret or kind == ASSERTION):
        needed = "'client_assertion' or 'client_secret'"
        return 7000218, f"The request body must contain the parameter: {needed}."
    if secret:
        right = "the client secret value, not the client secret ID"
        problem = f"Invalid client secret provided. Ensure that you send {right}."
        return (0, "") if secret == azure.secret else (7000215, problem)

    middle = form["client_assertion"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(f"{middle}=="))
    workload = POD if claims["iss"] == POD["iss"] else GITHUB_JOB
    for code, name in ((700211, "iss"), (700213, "sub"), (700212, "aud")):
        if claims[name] != workload[name]:
            what = f"for presented assertion {name} '{claims[name]}'"
            return code, f"No matching federated identity record found {what}."
    return 0, ""


def answer_person(handler: Handler, tenant: str, form: dict[str, str]) -> None:
    """Give one person in each tenant tokens; whoever has a code has approved."""
    azure = handler.azure
    home, *scopes = (form.get("device_code") or form["refresh_token"]).split()
    added = {"openid", "profile", "offline_access"}  # by az
    (scope,) = {*form.get("scope", "").split(), *scopes} - added
    code, reason = azure.refusal
    if tenant not in (home, "organizations"):
        code, reason = 50020, f"User account of {home} does not exist in this tenant."
    if code:
        return refuse(handler, code, reason)

    resource, name = scope.replace("/.default", ""), NAMES[home]
    token = azure.entra_token(aud=resource, tid=home, unique_name=name)
    identity = {
        **azure.bearers[token],
        "aud": USER["appid"],
        "iss": f"https://{ENTRA}/{home}/v2.0",
        "preferred_username": name,
    }
    answer = {
        "token_type": "Bearer",
        "scope": f"{resource}/user_impersonation {scope}",
        "expires_in": 3599,
        "access_token": token,
        "refresh_token": home,  # opaque to az
        "foci": "1",
        "id_token": jwt(identity),
        "client_info": encode({"uid": USER["oid"], "utid": home}),
    }
    handler.answer(200, answer)


def refuse(handler: Handler, code: int, reason: str) -> None:
    error = ERRORS.get(code, "invalid_client")
    trail = f"Trace ID: {OBJECT_ID} Correlation ID: {OBJECT_ID}"
    trail += " Timestamp: 2026-11-27 06:53:08Z"
    refusal = {
        "error": error,
        "error_description": f"AADSTS{code}: {reason} {trail}",
        "error_codes": [code],
    }
    handler.answer(401 if error == "invalid_client" else 400, refusal)


def answer_arm(handler: Handler) -> None:
    """Answer that the account sees its tenant and no subscriptions."""
    tenants = [{"id": f"/tenants/{TENANT}", "tenantId": TENANT}]
    handler.answer(200, {"value": tenants if handler.route == "/tenants" else []})


# --- Managed identity

# What a metadata service demands: a version, a header, and how an identity is named
METADATA = {
    "/metadata/identity/oauth2/token": ("2018-02-01", "Metadata", "true", "client_id"),
    "/msi/token": ("2019-08-01", "X-IDENTITY-HEADER", SECRET_HEADER, "client_id"),
    "/MSI/auth": ("2017-09-01", "secret", SECRET_HEADER, "clientid"),  # Azure ML
}
NONE_FOUND = "No User Assigned or Delegated Managed Identity found for specified"
NONE_FOUND += " ClientId/ResourceId/PrincipalId."
SEVERAL = "Multiple user assigned identities exist, please specify the clientId"
SEVERAL += " / resourceId of the identity in the token request"
