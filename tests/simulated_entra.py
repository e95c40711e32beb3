"""What Entra and Azure Resource Manager answer to a real az, by which persons sign in.

How an application's token is granted is in simulated_identity.
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-device-code
https://learn.microsoft.com/entra/identity-platform/v2-protocols-oidc
"""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from simulated_identity import ARM_RESOURCE, SCOPES, TENANT, USER, Refusal, encode, jwt

if TYPE_CHECKING:
    from simulated_services import Handler

OTHER_TENANT = "22222222-3333-4444-5555-666666666666"
NAMES = {TENANT: "dev@contoso.com", OTHER_TENANT: "dev@fabrikam.com"}
ENTRA = "login.microsoftonline.com"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
DEVICE_PAGE = "https://login.microsoft.com/device"
EVERY_LOGIN = {"openid", "profile", "offline_access"}  # scopes that az adds
STRANGER = (
    "User account '{{EmailHidden}}' from identity provider 'https://sts.windows.net/{}/'"
    " does not exist in tenant 'Contoso' and cannot access the application "
    f"'{USER['appid']}'(Microsoft Azure CLI) in that tenant."
)


@dataclass
class Persons:
    """Who signs in by device code, and approves at once; one in each tenant."""

    refusal: Refusal = (0, "")  # if there is a code, Entra refuses every token
    # By device code or refresh token: the person's tenant, and the scopes asked for
    grants: dict[str, tuple[str, str]] = field(default_factory=dict)

    def grant(self, kind: str, tenant: str, scopes: str = "") -> str:
        token = f"{kind}{token_urlsafe(60)}"
        self.grants[token] = TENANT if tenant == "organizations" else tenant, scopes
        return token


def answers_a_person(handler: Handler) -> bool:
    """Answer what Entra is asked while a person signs in; tell whether it was that."""
    form = dict(parse_qsl(handler.body.decode()))
    tenant, _, page = handler.route[1:].partition("/")
    if page == "discovery/instance":
        names = [ENTRA, "login.windows.net", "login.microsoft.com", "sts.windows.net"]
        cloud = {
            "preferred_network": ENTRA,
            "preferred_cache": names[1],
            "aliases": names,
        }
        handler.answer(200, {"metadata": [cloud]})
    elif page == "v2.0/.well-known/openid-configuration":
        handler.answer(200, openid_configuration(tenant))
    elif page == "oauth2/v2.0/devicecode":
        code = handler.azure.persons.grant("", tenant, form["scope"])
        handler.answer(200, device_code(code))
    elif form.get("grant_type") in (DEVICE_CODE, "refresh_token"):
        answer_grant(handler, tenant, form)
    else:
        return False
    return True


def openid_configuration(tenant: str) -> dict[str, Any]:
    protocol = f"https://{ENTRA}/{tenant}/oauth2/v2.0"
    return {
        "issuer": f"https://{ENTRA}/{tenant}/v2.0",
        "authorization_endpoint": f"{protocol}/authorize",
        "device_authorization_endpoint": f"{protocol}/devicecode",
        "token_endpoint": f"{protocol}/token",
    }


def device_code(code: str) -> dict[str, Any]:
    how = f"To sign in, use a web browser to open the page {DEVICE_PAGE}"
    return {
        "user_code": "ABCD1234",
        "device_code": code,
        "verification_uri": DEVICE_PAGE,
        "expires_in": 900,
        "interval": 5,
        "message": f"{how} and enter the code ABCD1234 to authenticate.",
    }


def answer_grant(handler: Handler, tenant: str, form: dict[str, str]) -> None:
    persons = handler.azure.persons
    proof = form.get("device_code") or form["refresh_token"]
    home, scopes = persons.grants[proof]
    (scope,) = {*form.get("scope", scopes).split()} - EVERY_LOGIN
    code, reason = persons.refusal
    if tenant not in (home, "organizations"):
        code, reason = 50020, STRANGER.format(home)
    elif scope not in SCOPES:
        code, reason = 500011, f"The resource principal named {scope} was not found."
    if code:
        return handler.refuse_sign_in(code, reason)
    handler.answer(200, person_tokens(handler, home, scope))


def person_tokens(handler: Handler, tenant: str, scope: str) -> dict[str, Any]:
    azure, name, resource = handler.azure, NAMES[tenant], scope[: -len("/.default")]
    who = {"oid": USER["oid"], "tid": tenant, "preferred_username": name}
    times = {"iat": int(azure.now()), "exp": int(azure.now()) + 3600}
    issuer = f"https://{ENTRA}/{tenant}/v2.0"
    return {
        "token_type": "Bearer",
        "scope": f"{resource}/user_impersonation {scope}",
        "expires_in": 3599,
        "ext_expires_in": 3599,
        "access_token": azure.entra_token(
            aud=resource, tid=tenant, upn=name, unique_name=name
        ),
        "refresh_token": azure.persons.grant("1.A", tenant),
        "foci": "1",
        "id_token": jwt(
            {"aud": USER["appid"], "iss": issuer, "sub": USER["sub"], **times, **who}
        ),
        "client_info": encode({"uid": USER["oid"], "utid": tenant}),
    }


def answer_arm(handler: Handler) -> None:
    """Answer that the account sees its tenant and no subscriptions."""
    bearer = handler.headers["Authorization"].partition(" ")[2]
    if handler.azure.bearers[bearer]["aud"] != ARM_RESOURCE:
        return handler.answer(
            401, {"error": {"code": "InvalidAuthenticationTokenAudience"}}
        )
    tenants = [{"id": f"/tenants/{TENANT}", "tenantId": TENANT}]
    handler.answer(200, {"value": tenants if handler.route == "/tenants" else []})
