"""Faults of networks and services: what passes, what ends, and what is told of them."""

from __future__ import annotations

import socket
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conftest import Ask
from identities import managed_identity, token
from simulated_azure import FEED, IMDS, Answer, Azure, Handler
from simulated_faults import BROKEN, DRIPS, OVERLOADED, flood, hang, status


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a port that refuses connections."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unheard.getsockname()[1]}"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The address of a port that swallows connections, as IMDS's does off Azure."""
    if sys.platform != "linux":
        pytest.skip("only on Linux does a full queue swallow packets")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for filler in fillers:
            filler.close()


# --- What passes, and what does not


@pytest.mark.parametrize(
    "fault", [*BROKEN, *OVERLOADED], ids=lambda fault: fault.__name__
)
def test_a_fault_that_passes_leaves_no_trace(
    azure: Azure, ask: Ask, fault: Answer
) -> None:
    """One service is behind the proxy and in TLS, the other without both."""
    azure.faults = {**azure.faults, FEED: [fault] * 2, IMDS: [fault] * 2}
    asked = ask(**managed_identity(azure))
    assert asked.value
    assert (asked.warnings, asked.stderr) == ("", "")
    assert len(azure.asked(FEED)) == 4  # the last one tries the token
    assert len(azure.asked(IMDS)) == 3


def test_there_are_three_attempts_with_pauses(azure: Azure, ask: Ask) -> None:
    azure.faults[FEED] = [status(503)] * 3
    started = time.monotonic()
    assert " feed answered 503: " in ask(dials={"PAUSES": [0.2, 0.4]}).warnings
    assert time.monotonic() - started > 0.6
    assert azure.faults[FEED] == []


# --- What takes time


@pytest.mark.parametrize("answer", [hang, *DRIPS.values()], ids=["silence", *DRIPS])
def test_an_attempt_has_a_limit_and_is_not_repeated(
    azure: Azure, ask: Ask, answer: Answer
) -> None:
    azure.faults[FEED] = [answer]
    with within(1.9):
        told = ask(dials={"ATTEMPT_LIMIT": 0.6}).warnings
    assert "pkgs.dev.azure.com: no complete answer within 1 s\n" in told
    assert len(azure.requests) == 1


def test_a_name_server_that_never_answers_is_not_waited_for(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No socket can play a name server here, so the look-up is replaced."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [][over.wait(20)])
    with within(5):
        told = ask(HTTPS_PROXY="", dials={"ATTEMPT_LIMIT": 0.6}).warnings
    over.set()
    assert "pkgs.dev.azure.com: no complete answer within 1 s\n" in told


@pytest.mark.parametrize("address", ["nobody", "black_hole"])
def test_without_a_metadata_service_the_bad_news_come_soon(
    ask: Ask, address: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(address)
    with within(3):
        told = ask(AZURE_POD_IDENTITY_AUTHORITY_HOST=url).warnings
    assert "managed_identity: no metadata service is at " in told
    assert url[7:] in told


def test_an_answer_may_take_longer_than_the_connection(azure: Azure, ask: Ask) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.4)
        handler.answer_metadata()

    azure.faults[IMDS] = [slow]
    assert ask(**managed_identity(azure), dials={"IMDS_LIMIT": 0.2}).value
    assert len(azure.asked(IMDS)) == 1


def test_an_answer_without_end_is_cut_off(azure: Azure, ask: Ask) -> None:
    azure.faults[FEED] = [flood]
    with within(5):
        assert "+ discovery: tenant none" in ask().log


# --- What is told

PHRASE = "Not Found - The feed with ID 'x' doesn't exist."
ACTIVITY = "(DevOps Activity ID: 0C6B3ED1-3CC8-4F5E-AF9F-0C1D2E3F4A5B)"
R = "[removed]"
TRAIL = "Trace ID: 1b4e28ba Correlation ID: 2fa1-11d2 Timestamp: 2026-11-27 06:53:08Z"


@pytest.mark.parametrize(
    ("phrase", "content", "told"),
    [
        (f"{PHRASE} {ACTIVITY}", b"", PHRASE),
        (PHRASE, "<html>", PHRASE),
        (PHRASE, {"message": "Said"}, "Said"),
        ("", {"message": "", "error": "x", "error_description": f"Y {TRAIL}"}, "Y"),
        ("", {"message": "a\r\n\x1b[1mb\u2028c"}, "a ?[1mb c"),
        (
            "",
            {"message": f"eyJh.eyJ9.c2ln {'x' * 40} {'x' * 39}"},
            f"{R} {R} {'x' * 39}",
        ),
        (
            "",
            {"message": "0.AXkAvH.x-y_z." + "AgAB" * 5 + " aBc8Q~" + "x" * 34},
            f"{R} {R}",
        ),
        ("", {"message": "at https://me:p@ss@host/p@th"}, "at https://host/p@th"),
        ("", {"message": "many words " * 100}, ("many words " * 100)[:400]),
    ],
)
def test_a_refusal_is_told_in_its_own_words_made_harmless(
    azure: Azure, ask: Ask, phrase: str, content: object, told: str
) -> None:
    azure.faults[FEED] = [lambda handler: handler.answer(404, content, reason=phrase)]
    assert f"the feed answered 404: {told}\n" in ask().warnings


# --- Proxies

ESCAPE = "\x1b"
PROXIES = ["https_proxy", "ALL_PROXY", "PIP_PROXY"]


@pytest.mark.parametrize("variable", PROXIES)
@pytest.mark.parametrize(
    "form", ["http://{}", "{}", " HTTP://{}/\n", "http://{}/x.pac"]
)
def test_a_proxy_may_be_set_and_written_in_many_ways(
    azure: Azure, ask: Ask, variable: str, form: str
) -> None:
    """The one for https goes before that for all, and pip's comes last."""
    proxies = dict.fromkeys(PROXIES[PROXIES.index(variable) :], "socks5://x:1")
    proxies[variable] = form.format(azure.proxy.url.partition("//")[2])
    assert ask(**token(azure), **{"HTTPS_PROXY": "", **proxies}).value
    assert {*azure.connects} == {FEED}


@pytest.mark.parametrize("variable", PROXIES)
@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://me:secret@x:1",
        "https://me:secret@x:1",
        "http://me:secret",
        "http://me:se/cr@x:1",
        "http://me:12/secret@x:1",
        "http://me:12?secret@x:1",
        "http://me:12#secret@x:1",
        "http://x:y",
        "//",
    ],
)
def test_another_proxy_is_refused_and_not_shown(
    azure: Azure, ask: Ask, variable: str, proxy: str
) -> None:
    asked = ask(**{"HTTPS_PROXY": "", variable: proxy})
    assert "the proxy is not an http URL\n" in asked.warnings
    assert "secret" not in asked.log
    assert azure.connects == []


def test_a_host_may_be_reached_without_the_proxy(
    azure: Azure, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-up is replaced, so that no test leaves for the real Azure."""
    looked_up = []

    def look_up(host: str, *_: object, **__: object) -> None:
        looked_up.append(host)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    asked = ask(NO_PROXY=FEED, HTTPS_PROXY="socks5://127.0.0.1:9")
    assert "pkgs.dev.azure.com: no connection: " in asked.warnings
    assert {*looked_up} == {FEED}


@pytest.mark.parametrize(
    ("status", "phrase", "attempts"),
    [
        (407, "No", 1),
        (403, f"{ESCAPE}No", 1),
        (429, "No", 3),
        (502, "No", 3),
        (200, "OK", 3),  # but it then speaks no TLS
    ],
)
def test_a_proxy_that_refuses_is_told_without_its_password(
    azure: Azure, ask: Ask, status: int, phrase: str, attempts: int
) -> None:
    azure.proxy_refuses = status, phrase
    told = ask(HTTPS_PROXY=azure.proxy.url.replace("//", "//me:secret@")).warnings
    assert "pkgs.dev.azure.com: no connection: " in told
    assert status == 200 or f" {status} {phrase.replace(ESCAPE, '?')}\n" in told
    assert len(azure.connects) == attempts
    assert azure.proxy_user == f"Basic {b64encode(b'me:secret').decode()}"
    assert "secret" not in told
