"""No secret is shown: whoever signs in, whatever is answered, wherever one looks."""

from __future__ import annotations

import os
import sys
import traceback
from http.client import HTTPConnection
from logging import LogRecord
from unittest.mock import patch
from urllib.parse import unquote_plus

import pytest

import artifacts_keyring_nofuss as module
import identities as by
from conftest import DIALS, Ask
from identities import Identity
from simulated_azure import (
    AUTHORITY,
    CLIENT_SECRET,
    ENTRA,
    FEED,
    GITHUB,
    INDEX_URL,
    REQUEST_TOKEN,
    SECRET_HEADER,
    Answer,
    Azure,
    Handler,
)
from simulated_faults import cut, drop, echo, echo_phrase, garbage, redirect

URL_WITH_PASSWORD = INDEX_URL.replace("//", "//me:p4ss@")
WAYS = [  # and a service that it tells a secret
    (identity, service)
    for identity, way in by.WAYS.items()
    for service in way.services or [FEED]
]
SECRETS = [
    "p4ss",
    by.PAT,
    CLIENT_SECRET,
    REQUEST_TOKEN,
    SECRET_HEADER,
    "eyJ",  # every JWT
    "VnNzU2Vzc2lvblRva2Vu",  # "VssSessionToken": every password at the feed
]


@pytest.mark.parametrize("answer", [None, echo, echo_phrase, garbage, redirect, cut])
@pytest.mark.parametrize(("identity", "service"), [*WAYS, (by.opaque_user, AUTHORITY)])
def test_no_secret_is_shown(
    azure: Azure,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    identity: Identity,
    service: str,
    answer: Answer | None,
) -> None:
    """Nor is one in a whole record, or in the exception that is being handled."""
    seen: list[object] = []

    def see(record: LogRecord) -> bool:
        seen.append(f"{vars(record)} {traceback.format_exc()}")
        return True

    def answer_badly(handler: Handler) -> None:
        is_discovery = service == FEED and not handler.headers["Authorization"]
        (Handler.answer_feed if is_discovery else answer or drop)(handler)

    monkeypatch.setattr(HTTPConnection, "debuglevel", 1)
    monkeypatch.setattr(sys, "argv", ["the diagnosis", URL_WITH_PASSWORD])
    (azure.bin / "keyring").unlink()  # which would take its time
    environment = azure.environment(**identity(azure))
    azure.faults[service] = [answer_badly] * 20 if answer else []
    log = patch.multiple(module.log, filters=[see], handlers=[], propagate=True)
    dials = patch.multiple(module, **DIALS)
    with log, dials, patch.dict(os.environ, environment, clear=True):
        asked = ask(URL_WITH_PASSWORD, **environment)
        seen += [asked[1:], module.memory]
        module.main()
    text = unquote_plus(f"{seen} {capfd.readouterr()}")
    assert [secret for secret in SECRETS if secret in text] == []
    assert asked.value or answer
    if service in (ENTRA, GITHUB) and answer in (echo, echo_phrase):
        assert "[removed]" in text
