"""What Entra and Azure Resource Manager answer to a real az, by which persons sign in.

How an application's token is granted is in simulated_identity.
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-device-code
https://learn.microsoft.com/entra/identity-platform/v2-protocols-oidc
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from simulated_identity import SCOPES, TENANT, USER, encode, jwt

if TYPE_CHECKING:
    from simulated_azure import Azure
    from simulated_services import Handler

OTHER_TENANT = "22222222-3333-4444-5555-666666666666"
NAMES = {TENANT: "dev@contoso.com", OTHER_TENANT: "dev@fabrikam.com"}
ENTRA = "login.microsoftonline.com"
ALIASES = [ENTRA, "login.windows.net", "login.microsoft.com", "sts.windows.net"]
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
DEVICE_PAGE = "https://login.microsoft.com/device"
EVERY_LOGIN = {"openid", "profile", "offline_access"}  # scopes that az adds
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
    pages: dict[str, dict[str, Any]] = {
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
    (scope,) = {*form.get("scope", "").split(), *scopes} - EVERY_LOGIN
    code, reason = handler.azure.refusal
    if tenant not in (home, "organizations"):
        code, reason = 50020, STRANGER.format(home)
    elif scope not in SCOPES:
        code, reason = 500011, f"The resource principal named {scope} was not found."
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
