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
# Azure DevOps, and the Resource Manager, which az asks
SCOPES = {f"{RESOURCE}/.default", "https://management.core.windows.net//.default"}
AUDIENCE = "api://AzureADTokenExchange"
SECRET_HEADER = "the-secret-of-the-metadata-service"
CLIENT_SECRET = "aBc8Q~the/secret+of=the~application"
# Whose assertions the application may sign in with: subjects by issuers
GITHUB_ISSUER = "https://token.actions.githubusercontent.com"
POD_ISSUER = "https://eastus.oic.prod-aks.azure.com/contoso/"
FEDERATED = {
    GITHUB_ISSUER: "repo:contoso/app:ref:refs/heads/main",
    POD_ISSUER: "system:serviceaccount:default:app",
}

# Claims of every token of Entra, of a person's, and of an application's
COMMON = {
    "aud": RESOURCE,
    "iss": f"https://sts.windows.net/{TENANT}/",
    "tid": TENANT,
}
USER = {
    "appid": "04b07795-8ddb-461a-bbee-02f9e1bf7b46",  # az
    "oid": "77777777-0000-0000-0000-000000000000",
    "scp": "user_impersonation",
    "sub": "the-subject-that-this-user-is-for-az-alone",
    "unique_name": "dev@contoso.com",
    "upn": "dev@contoso.com",
    "xms_cc": ["CP1"],
}
APPLICATION = {
    "appid": CLIENT_ID,
    "oid": OBJECT_ID,
    "sub": OBJECT_ID,
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

# A code of Entra's and what it means; the code is 0 if all is well
Refusal = tuple[int, str]
ERRORS = {  # all others are "invalid_client"
    50020: "invalid_grant",
    50076: "interaction_required",
    70003: "unsupported_grant_type",
    700082: "invalid_grant",
    500011: "invalid_resource",
    700016: "unauthorized_client",
}


def application_problem(tenant: str, form: Mapping[str, str], azure: Azure) -> Refusal:
    """Check a request for an application's token."""
    grant_type, client_id, scope, secret = map(
        form.get, ("grant_type", "client_id", "scope", "client_secret")
    )
    if grant_type != "client_credentials":
        return 70003, f"The app requested an unsupported grant type '{grant_type}'."
    if (tenant.lower(), client_id) != (TENANT, CLIENT_ID):
        where = f"was not found in the directory '{tenant}'"
        return 700016, f"Application with identifier '{client_id}' {where}."
    if scope not in SCOPES:
        return 500011, f"The resource principal named {scope} was not found in tenant."
    if secret is None:
        return assertion_problem(form)
    if secret != azure.secret:
        value = "the client secret value, not the client secret ID, for the secret"
        return 7000215, f"Invalid client secret provided. Ensure that you send {value}."
    return 0, ""


def assertion_problem(form: Mapping[str, str]) -> Refusal:
    """Check whether an assertion is one that the application may sign in with."""
    bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    if form.get("client_assertion_type") != bearer:
        needed = "'client_assertion' or 'client_secret'"
        return 7000218, f"The request body must contain the parameter: {needed}."
    middle = form["client_assertion"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(f"{middle}=="))
    issuer, subject, audience = map(claims.get, ("iss", "sub", "aud"))
    rows: list[Any] = [
        (700211, "issuer", issuer, [*FEDERATED]),
        (700213, "subject", subject, [FEDERATED.get(issuer)]),
        (700212, "audience", audience, [AUDIENCE, [AUDIENCE]]),
    ]
    for code, name, value, known in rows:
        if value not in known:
            what = f"for presented assertion {name} '{value}'"
            return code, f"No matching federated identity record found {what}."
    return 0, ""


# --- What a real az asks, by which persons sign in: Entra, and Azure Resource Manager
# https://learn.microsoft.com/entra/identity-platform/v2-oauth2-device-code
# https://learn.microsoft.com/entra/identity-platform/v2-protocols-oidc

OTHER_TENANT = "22222222-3333-4444-5555-666666666666"
NAMES = {TENANT: "dev@contoso.com", OTHER_TENANT: "dev@fabrikam.com"}
ENTRA = "login.microsoftonline.com"
ALIASES = [ENTRA, "login.windows.net", "login.microsoft.com", "sts.windows.net"]
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
DEVICE_PAGE = "https://login.microsoft.com/device"
STRANGER = (
    "User account '{{EmailHidden}}' from identity provider 'https://sts.windows.net/{}/'"
    " does not exist in tenant 'Contoso' and cannot access the application "
    f"'{USER['appid']}'(Microsoft Azure CLI) in that tenant."
)


def answers_a_person(handler: Handler) -> bool:
    """Answer what Entra is asked while a person signs in; tell whether it was that."""
    form = dict(parse_qsl(handler.body.decode()))
    tenant, _, page = handler.route[1:].partition("/")
    home = TENANT if tenant == "organizations" else tenant
    protocol = f"https://{ENTRA}/{tenant}/oauth2/v2.0"
    pages: dict[str, Any] = {
        "discovery/instance": {
            "metadata": [
                {
                    "preferred_network": ENTRA,
                    "preferred_cache": ALIASES[1],
                    "aliases": ALIASES,
                }
            ]
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
            "interval": 5,
            "message": f"To sign in, open {DEVICE_PAGE} and enter the code ABCD1234.",
        },
    }
    if page in pages:
        handler.answer(200, pages[page])
    elif form.get("grant_type") in (DEVICE_CODE, "refresh_token"):
        answer_grant(handler, tenant, form)
    else:
        return False
    return True


def answer_grant(handler: Handler, tenant: str, form: dict[str, str]) -> None:
    """Give one person in each tenant tokens; whoever has a code has approved."""
    proof = form.get("device_code") or form["refresh_token"]
    home, *scopes = proof.split()
    added = {"openid", "profile", "offline_access"}  # by az
    (scope,) = {*form.get("scope", "").split(), *scopes} - added
    code, reason = handler.azure.refusal
    if tenant not in (home, "organizations"):
        code, reason = 50020, STRANGER.format(home)
    if code:
        return handler.refuse_sign_in(code, reason)
    handler.answer(200, person_tokens(handler.azure, home, scope))


def person_tokens(azure: Azure, tenant: str, scope: str) -> dict[str, Any]:
    name, resource, now = NAMES[tenant], scope[: -len("/.default")], int(azure.now())
    identity = {
        "aud": USER["appid"],
        "iss": f"https://{ENTRA}/{tenant}/v2.0",
        "iat": now,
        "exp": now + 3600,
        "sub": USER["sub"],
        "oid": USER["oid"],
        "tid": tenant,
        "preferred_username": name,
    }
    return {
        "token_type": "Bearer",
        "scope": f"{resource}/user_impersonation {scope}",
        "expires_in": 3599,
        "access_token": azure.entra_token(
            aud=resource, tid=tenant, upn=name, unique_name=name
        ),
        "refresh_token": tenant,  # opaque to az
        "foci": "1",
        "id_token": jwt(identity),
        "client_info": encode({"uid": USER["oid"], "utid": tenant}),
    }


def answer_arm(handler: Handler) -> None:
    """Answer that the account sees its tenant and no subscriptions."""
    tenants = [{"id": f"/tenants/{TENANT}", "tenantId": TENANT}]
    handler.answer(200, {"value": tenants if handler.route == "/tenants" else []})


# --- Managed identity

# What a metadata service demands: a version, headers, and how an identity is named
METADATA: dict[str, Any] = {
    "/metadata/identity/oauth2/token": (
        "2018-02-01",
        {"Metadata": "true", "X-Forwarded-For": None},
        "client_id",
    ),
    "/msi/token": (  # App Service; "Metadata" is for Azure Automation
        "2019-08-01",
        {"X-IDENTITY-HEADER": SECRET_HEADER, "Metadata": "true"},
        "client_id",
    ),
    "/MSI/auth": ("2017-09-01", {"secret": SECRET_HEADER}, "clientid"),  # Azure ML
}
NONE_FOUND = "No User Assigned or Delegated Managed Identity found for specified"
NONE_FOUND += " ClientId/ResourceId/PrincipalId."
SEVERAL = "Multiple user assigned identities exist, please specify the clientId"
SEVERAL += " / resourceId of the identity in the token request"
