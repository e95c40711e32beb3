"""What Entra and Azure Resource Manager answer to a real az, which signs in persons, too.

The grants of applications are in simulated_identity.
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-device-code
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from simulated_identity import SCOPES, TENANT, USER, Refusal, jwt

if TYPE_CHECKING:
    from simulated_services import Handler

LOGIN = "https://login.microsoftonline.com"
AZ = USER["appid"]
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
PAGES = {
    "/common/discovery/instance": {
        "tenant_discovery_endpoint": f"{LOGIN}/common/.well-known/openid-configuration",
        "metadata": [
            {
                "preferred_network": "login.microsoftonline.com",
                "preferred_cache": "login.windows.net",
                "aliases": ["login.microsoftonline.com", "login.windows.net", "sts.windows.net"],
            }
        ],
    },
}


@dataclass
class Persons:
    """Who signs in by device code, and what becomes of it."""

    refusal: Refusal = (0, "")  # of every token from now on
    # The home tenant, and the scopes, of each device code and refresh token
    grants: dict[str, tuple[str, str]] = field(default_factory=dict)


def answers_a_person(handler: Handler) -> bool:
    """Answer what Entra is asked in the course of a person's sign-in, if it is that."""
    form = dict(parse_qsl(handler.body.decode()))
    tenant, _, page = handler.route[1:].partition("/")
    if handler.route == "/common/discovery/instance":
        handler.answer(200, PAGES[handler.route])
    elif page == "v2.0/.well-known/openid-configuration":
        handler.answer(200, openid_configuration(tenant))
    elif page == "oauth2/v2.0/devicecode":
        handler.answer(200, device_code(handler.azure.persons, tenant, form["scope"]))
    elif page == "oauth2/v2.0/token" and form.get("grant_type") in (DEVICE_CODE, "refresh_token"):
        answer_grant(handler, tenant, form)
    else:
        return False
    return True


def openid_configuration(tenant: str) -> dict[str, Any]:
    pages = f"{LOGIN}/{tenant}/oauth2/v2.0"
    return {
        "issuer": f"{LOGIN}/{tenant}/v2.0",
        "authorization_endpoint": f"{pages}/authorize",
        "device_authorization_endpoint": f"{pages}/devicecode",
        "token_endpoint": f"{pages}/token",
    }


def device_code(persons: Persons, tenant: str, scope: str) -> dict[str, Any]:
    code = token_urlsafe(40)
    home = TENANT if tenant == "organizations" else tenant
    persons.grants[code] = home, scope
    page = "https://login.microsoft.com/device"
    how = f"To sign in, use a web browser to open the page {page} and enter the code ABCD1234 "
    return {
        "user_code": "ABCD1234",
        "device_code": code,
        "verification_uri": page,
        "expires_in": 900,
        "interval": 5,
        "message": how + "to authenticate.",
    }


def answer_grant(handler: Handler, tenant: str, form: dict[str, str]) -> None:
    azure = handler.azure
    proof = form.get("device_code") or form.get("refresh_token", "")
    home, scopes = azure.persons.grants.get(proof, ("", ""))
    code, reason = azure.persons.refusal
    (scope,) = {*form.get("scope", scopes).split()} - {"openid", "profile", "offline_access"}
    if not home:
        code, reason = 9002313, "Invalid request. Request is malformed or invalid."
    elif tenant not in (home, "organizations"):
        who = f"User account '{{EmailHidden}}' from identity provider 'https://sts.windows.net/{home}/'"
        reason = f"{who} does not exist in tenant 'Contoso' and cannot access the application "
        reason += f"'{AZ}'(Microsoft Azure CLI) in that tenant. The account needs to be added as "
        reason += "an external user in the tenant first. Sign out and sign in again with a "
        reason += "different Azure Active Directory user account."
        code = 50020
    elif scope not in SCOPES:
        code, reason = 500011, f"The resource principal named {scope} was not found in the tenant."
    if code:
        return handler.refuse_sign_in(code, reason)
    resource = scope[: -len("/.default")]
    refresh = f"1.A{token_urlsafe(60)}"
    azure.persons.grants[refresh] = home, ""
    name = "dev@contoso.com" if home == TENANT else "dev@fabrikam.com"
    who = {"oid": USER["oid"], "tid": home, "preferred_username": name, "sub": USER["sub"]}
    now = int(azure.now())
    claims = {"aud": AZ, "iss": f"{LOGIN}/{home}/v2.0", "iat": now, "nbf": now, "exp": now + 3600}
    info = json.dumps({"uid": USER["oid"], "utid": home}).encode()
    handler.answer(
        200,
        {
            "token_type": "Bearer",
            "scope": f"{resource}/user_impersonation {scope}",
            "expires_in": 3599,
            "ext_expires_in": 3599,
            "access_token": azure.entra_token(aud=resource, tid=home, upn=name, unique_name=name),
            "refresh_token": refresh,
            "foci": "1",
            "id_token": jwt({**claims, **who, "ver": "2.0"}),
            "client_info": base64.urlsafe_b64encode(info).decode().rstrip("="),
        },
    )


def answer_arm(handler: Handler) -> None:
    """Answer that the account has no subscriptions."""
    tenants = [{"id": f"/tenants/{TENANT}", "tenantId": TENANT}]
    if re.fullmatch("/tenants", handler.route):
        return handler.answer(200, {"value": tenants})
    handler.answer(200, {"value": []})
