"""Whose token it is, and when it ends, by any clock."""

from __future__ import annotations

import json
import os
import ssl
import time
from base64 import b64encode, urlsafe_b64encode
from email.message import Message
from typing import Any
from unittest.mock import patch
from urllib.request import Request, urlopen

import pytest

import artifacts_keyring_nofuss as module
from conftest import AskHere, Python
from simulated_azure import IMDS, INDEX_URL, TENANT, Azure, jwt

HOUR = 3600
OTHER_TENANT = TENANT.replace("1", "9")
ENTRA = f"https://sts.windows.net/{TENANT}/"
USER, PRINCIPAL, VM, APP_SERVICE = "az as a user", "az as a principal", "a VM", "App Service"


def sign_in(azure: Azure, way: str, **claims: Any) -> dict[str, str]:
    """Let processes sign in this way; return the variables that they need for it."""
    token = azure.entra_token(**claims) if way == USER else azure.application_token(**claims)
    if way in (USER, PRINCIPAL):
        azure.az_signed_in(token)
        return {}
    azure.identity = token
    return azure.app_service() if way == APP_SERVICE else {}


def feed_status(azure: Azure, credential: list[str]) -> int:
    """Ask the feed as a client does. Raises HTTPError where it refuses the credential."""
    basic = b64encode(":".join(credential).encode()).decode()
    request = Request(INDEX_URL, headers={"Authorization": f"Basic {basic}"})
    here = patch.dict(os.environ, azure.environment(), clear=True)
    with here, urlopen(request, context=ssl.create_default_context()) as response:
        status: int = response.status
    return status


def bearer(claims: dict[str, Any], tenant: str = TENANT) -> module.Token:
    """Return what is known of a token that a provider knows nothing about."""
    answer = {"access_token": jwt(claims)}
    return module.bearer_of(answer, module.UNREADABLE, module.Challenge(tenant, "", 0.0))


# --- Whose it is


@pytest.mark.parametrize("shape", ["real", "encrypted", "idtyp"])
@pytest.mark.parametrize("way", [USER, PRINCIPAL, VM, APP_SERVICE])
def test_a_person_gets_a_session_token_and_an_application_uses_its_own(
    azure: Azure, ask_here: AskHere, way: str, shape: str
) -> None:
    azure.encrypted = shape == "encrypted"
    kind = "user" if way == USER else "app"
    variables = sign_in(azure, way, idtyp=kind if shape == "idtyp" else None)
    (bearer,) = azure.bearers
    credential = ask_here(INDEX_URL, **variables).value
    assert credential
    assert feed_status(azure, credential) == 200
    assert credential[1] in (azure.session_tokens if way == USER else {bearer})
    unknown = way == PRINCIPAL and shape == "encrypted"  # until the exchange is refused
    assert len(azure.scopes()) == (1 if way == USER or unknown else 0)


@pytest.mark.parametrize("idtyp", [None, "user"])
def test_the_token_of_a_machine_is_never_exchanged_whatever_it_claims(
    azure: Azure, ask_here: AskHere, idtyp: str | None
) -> None:
    azure.identity = azure.entra_token(idtyp=idtyp)
    assert ask_here(INDEX_URL).value == ["VssSessionToken", azure.identity]
    assert azure.scopes() == []


def test_an_opaque_token_is_exchanged(azure: Azure, ask_here: AskHere) -> None:
    azure.bearers["opaque"] = {"scp": "user_impersonation"}
    azure.az_signed_in("opaque")
    credential = ask_here(INDEX_URL).value
    assert credential
    assert credential[1] in azure.session_tokens


@pytest.mark.parametrize(
    ("claims", "kind"),
    [
        ({"iss": ENTRA, "scp": "user_impersonation"}, module.PERSON),
        ({"iss": ENTRA, "scp": "vso.packaging", "roles": ["x"]}, module.PERSON),
        ({"iss": ENTRA}, module.PASSWORD),
        ({"iss": ENTRA, "upn": "dev@contoso.com"}, module.PASSWORD),
        ({"iss": f"https://login.microsoftonline.com/{TENANT}/v2.0"}, module.PASSWORD),
        ({"iss": "app.vstoken.visualstudio.com", "scp": "vso.packaging"}, module.UNREADABLE),
        ({"iss": "https://token.actions.githubusercontent.com"}, module.UNREADABLE),
        ({"iss": f"https://sts.windows.net.evil.example/{TENANT}/"}, module.UNREADABLE),
        ({"iss": [ENTRA], "scp": "x"}, module.UNREADABLE),
        ({"idtyp": "user", "scp": "x"}, module.UNREADABLE),
        ({}, module.UNREADABLE),
    ],
)
def test_claims_tell_people_from_applications(claims: dict[str, Any], kind: str) -> None:
    assert bearer(claims).kind == kind


@pytest.mark.parametrize(
    "token",
    [
        "opaque",
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "a.\u00fc.c",
        "a.!!!!.c",
        "a.bm9uc2Vuc2U.c",
        "a.W10.c",
        "a.e30.c.d.e",
        pytest.param(f"a.{urlsafe_b64encode(b'[' * 100_000).decode()}.c", id="deep"),
    ],
)
def test_an_opaque_token_has_no_claims(token: str) -> None:
    assert module.read_claims(token) == {}


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"upn": "a", "unique_name": "b", "oid": "c"}, "a"),
        ({"unique_name": "b", "appid": "c"}, "b"),
        ({"appid": "c", "oid": "d"}, "c"),
        ({"upn": "", "oid": "d"}, "d"),
        ({"upn": "a\n\x1b[31mb"}, "a [31mb"),
        ({}, "an unknown account"),
    ],
)
def test_claims_name_the_account(claims: dict[str, Any], name: str) -> None:
    assert bearer(claims).label == f"signed in as {name}"


def test_a_token_of_another_tenant_is_told_and_the_next_provider_is_tried(
    azure: Azure, ask_here: AskHere
) -> None:
    sign_in(azure, USER, tid=OTHER_TENANT)
    sign_in(azure, VM)
    outcome = ask_here(INDEX_URL)
    assert outcome.value == ["VssSessionToken", azure.identity]
    told = f"azure_cli: the token is of tenant {OTHER_TENANT}, the feed of {TENANT}"
    assert told in outcome.log
    assert azure.scopes() == []


@pytest.mark.parametrize("tid", ["ABCD" + TENANT[4:], "contoso.com", None, 5])
def test_a_tenant_that_may_be_the_feeds_is_no_reason_to_refuse(tid: object) -> None:
    assert bearer({"tid": tid}, tenant="abcd" + TENANT[4:])


# --- When it ends


def answer(azure: Azure, way: str, token: str, times: dict[str, Any]) -> None:
    """Let az or the machine give a token and say this of its end."""
    if way == PRINCIPAL:
        azure.az_says(json.dumps({"accessToken": token, **times}))
    else:
        content = {"access_token": token, **times}
        azure.faults[IMDS] = [lambda handler: handler.answer(200, content)]


@pytest.mark.parametrize(
    ("way", "times", "minutes"),
    [
        (PRINCIPAL, {"expires_on": 600}, 10),
        (PRINCIPAL, {"expires_on": 7200}, 60),
        (PRINCIPAL, {}, 60),
        (VM, {"expires_on": 600}, 10),
        (VM, {"expires_on": 7200}, 60),
        (VM, {"expires_in": "600"}, 10),
        (VM, {"expires_in": 7200}, 60),
        (VM, {"expires_in": "600", "expires_on": 7200}, 10),
        (VM, {"expires_in": "7200", "expires_on": 600}, 10),
        (VM, {"expires_in": "soon", "expires_on": "06/20/2019 02:57:58 +00:00"}, 60),
        (VM, {}, 60),
    ],
)
def test_the_earlier_of_what_the_answer_says_and_the_token_says_counts(
    azure: Azure, ask_here: AskHere, way: str, times: dict[str, Any], minutes: int
) -> None:
    token = azure.application_token()
    if isinstance(times.get("expires_on"), int):
        times = {**times, "expires_on": str(int(azure.now()) + times["expires_on"])}
    answer(azure, way, token, times)
    outcome = ask_here(INDEX_URL)
    assert outcome.value == ["VssSessionToken", token]
    assert f"an application, expires in {minutes} min" in outcome.log


@pytest.mark.parametrize("way", [PRINCIPAL, VM])
@pytest.mark.parametrize("nonsense", [9_999_999_999, 10**400, -1, "", "soon", True, {}])
def test_a_nonsense_time_is_none(
    azure: Azure, ask_here: AskHere, way: str, nonsense: object
) -> None:
    token = azure.application_token(exp=None)
    answer(azure, way, token, {"expires_on": nonsense, "expires_in": nonsense})
    outcome = ask_here(INDEX_URL)
    assert outcome.value == ["VssSessionToken", token]
    assert "an application, expires at an unknown time" in outcome.log


def test_a_machines_token_may_live_for_a_day(azure: Azure, ask_here: AskHere) -> None:
    sign_in(azure, VM, exp=int(azure.now()) + 24 * HOUR)
    assert "an application, expires in 1440 min" in ask_here(INDEX_URL).log


@pytest.mark.parametrize("way", [PRINCIPAL, VM])
def test_an_end_that_only_the_answer_puts_in_the_past_is_no_failure(
    azure: Azure, ask_here: AskHere, way: str
) -> None:
    token = azure.application_token()
    answer(azure, way, token, {"expires_on": 600})
    assert ask_here(INDEX_URL).value == ["VssSessionToken", token]


@pytest.mark.parametrize("way", [USER, PRINCIPAL, VM])
def test_a_token_past_its_end_is_not_handed_out(azure: Azure, ask_here: AskHere, way: str) -> None:
    azure.skew = 3 * HOUR  # the clock of this machine is slow, and az believes it
    sign_in(azure, way, exp=int(azure.now()) - HOUR)
    assert ask_here(INDEX_URL).value is None


@pytest.mark.parametrize(
    "date",
    [None, "", "soon", "Wed, 99 Nov 2026 00:00:00 GMT", "Wed, 25 Nov 99999999999 00:00:00 GMT"],
)
def test_a_feed_that_does_not_tell_the_time_is_taken_to_have_ours(date: str | None) -> None:
    headers = Message()
    if date is not None:
        headers["Date"] = date
    assert abs(module.unix_date(headers) - time.time()) < 60


CLOCKS = f"""
import os, sys, time
running = "monotonic" if os.name == "nt" else "clock_gettime"
feeds = [{INDEX_URL!r}.replace("private", name) for name in "abcde"]
def turn(clock, seconds):
    real = getattr(time, clock)
    setattr(time, clock, lambda *which: real(*which) + seconds)
def later(seconds, feeds):
    turn("time", seconds)
    turn(running, seconds)
    print("later", file=sys.stderr, flush=True)
    return all(map(ask, feeds))
"""


@pytest.mark.parametrize("hours", [-5, 5])
@pytest.mark.parametrize(
    ("way", "encrypted"), [(USER, False), (PRINCIPAL, False), (PRINCIPAL, True), (VM, True)]
)
def test_a_wrong_clock_costs_no_sign_in_and_serves_no_token_past_its_end(
    azure: Azure, python: Python, way: str, encrypted: bool, hours: int
) -> None:
    azure.skew, azure.encrypted = hours * HOUR, encrypted
    sign_in(azure, way)
    set_right = f"turn('time', {azure.skew})"
    script = f"show([later(0, feeds), {set_right}, later(3000, feeds), later(601, feeds[:1])])"
    outcome = python(CLOCKS + script, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert outcome.value == [True, None, True, True]
    _, *times = outcome.stderr.split("later\n")
    assert [said.count(" discovery: ") for said in times] == [1, 0, 1]
