"""Faults of the network and of the services: what passes, what ends, and what is told of them."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

import pytest

import artifacts_keyring_nofuss as module
from conftest import Ask, Fetch, Python
from identities import managed_identity, user
from simulated_azure import (
    AUTHORITY,
    ENTRA,
    FEED,
    GITHUB,
    IMDS,
    INDEX_URL,
    Answer,
    Azure,
    Handler,
)
from simulated_services import Server

SERVICES = [FEED, IMDS]  # one behind the proxy and in TLS, the other without both
ASK = f"show(ask({INDEX_URL!r}))"
SECONDS = f"start = module.now(); {ASK}; show(module.now() - start)"
needs_full_queues = pytest.mark.skipif(
    sys.platform != "linux", reason="only on Linux does a full queue swallow packets"
)


def url(azure: Azure, service: str) -> str:
    return INDEX_URL if service == FEED else f"{azure.metadata.url}/metadata/identity/oauth2/token"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of the request, which are not waited for."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that refuses connections."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unheard.getsockname()[1]}"


@contextmanager
def full_queue(server: socket.socket) -> Iterator[None]:
    """Let a port swallow connections until somebody accepts those that fill its queue."""
    server.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(server.getsockname())
    yield
    for filler in fillers:
        filler.close()


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The URL of a port that swallows connections, as the metadata address does off Azure."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        with full_queue(server):
            yield f"http://127.0.0.1:{server.getsockname()[1]}"


# --- What passes


def drop(handler: Handler) -> None:
    """Close the connection without an answer: the caller does."""


def reset(handler: Handler) -> None:
    linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()


def cut(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\n{")


def cut_chunked(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{")


def garbage(handler: Handler) -> None:
    handler.wfile.write(b"nonsense\r\n\r\n")


def hang(handler: Handler) -> None:
    handler.connection.recv(1)


def status(code: int, **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.answer(code, "<html>", headers)

    answer.__name__ = str(code)
    return answer


TRANSIENT: list[Answer] = [drop, reset, cut, cut_chunked, garbage, hang]
TRANSIENT += [status(code) for code in (429, 500, 502, 503, 504)]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: fault.__name__)
def test_a_transient_fault_gets_another_attempt(
    azure: Azure, fetch: Fetch, service: str, fault: Answer
) -> None:
    azure.faults[service] = [fault, fault]
    response = fetch(url(azure, service), dials={"ATTEMPT_LIMIT": 0.2})
    assert response.status == (401 if service == FEED else 400)
    assert len(azure.asked(service)) == 3


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_a_refusal_gets_no_other_attempt(
    azure: Azure, fetch: Fetch, service: str, code: int
) -> None:
    azure.faults[service] = [status(code)]
    assert fetch(url(azure, service)).status == code
    assert len(azure.asked(service)) == 1


@pytest.mark.parametrize(
    ("sign_in", "services"),
    [
        (user, [FEED, AUTHORITY]),
        (managed_identity, [FEED, IMDS]),
        (Azure.github_job, [GITHUB, ENTRA]),
    ],
    ids=["user", "identity", "github"],
)
def test_faults_that_pass_leave_no_trace(
    azure: Azure, ask: Ask, sign_in: Callable[[Azure], dict[str, str]], services: list[str]
) -> None:
    for service in services:
        azure.faults[service] = [drop, status(503)]
    outcome = ask(INDEX_URL, **sign_in(azure))
    assert outcome.value
    assert outcome.stderr == ""


def test_an_identity_may_still_be_on_its_way(azure: Azure, ask: Ask) -> None:
    azure.faults[IMDS] = [status(404), status(410)]
    assert ask(INDEX_URL, **managed_identity(azure)).value


def test_the_pauses_grow_and_are_not_the_same_for_everybody(
    azure: Azure, fetch: Fetch, pauses: list[float]
) -> None:
    azure.faults[FEED] = [status(503)] * 4
    assert fetch(INDEX_URL, dials={"RETRY_PAUSES": (0.1, 0.2)}).status == 503
    first, second = pauses
    assert 0.075 <= first <= 0.125
    assert 0.15 <= second <= 0.25
    assert second != 2 * first


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("3", 3, 3),
        ("1.5", 1.5, 1.5),
        *[(odd, 0, 0.1) for odd in ("", "0", "-5", "soon", "9" * 20, "1e1", "\xb2")],
        ("Fri, 31 Dec 9999 23:59:59 GMT", 0, 0.1),
        ("Fri, 99 Dec 1999 23:59:59 GMT", 0, 0.1),
    ],
)
def test_a_server_may_ask_to_wait(
    azure: Azure, fetch: Fetch, pauses: list[float], value: str, low: float, high: float
) -> None:
    azure.faults[FEED] = [status(429, **{"Retry-After": value})]
    assert fetch(INDEX_URL).status == 401
    assert len(pauses) == 1
    assert low <= pauses[0] <= high


def test_a_server_that_asks_to_wait_too_long_is_not_waited_for(
    azure: Azure, fetch: Fetch, pauses: list[float]
) -> None:
    azure.faults[FEED] = [status(503, **{"Retry-After": "3600"})]
    assert fetch(INDEX_URL).status == 503
    assert (len(azure.requests), pauses) == (1, [])


def test_a_refused_connection_gets_three_attempts(
    fetch: Fetch, nobody: str, pauses: list[float]
) -> None:
    with pytest.raises(module.SignInError, match=r"pkgs\.dev\.azure\.com: no connection: \w+"):
        fetch(INDEX_URL, 20, HTTPS_PROXY=nobody)  # Windows takes two seconds for each
    assert len(pauses) == 2


def test_a_name_server_may_fail_twice(
    azure: Azure, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = socket.getaddrinfo, [1, 2]

    def look_up(*arguments: object, **options: object) -> object:
        if failures:
            raise socket.gaierror(failures.pop(), "temporary failure")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert fetch(INDEX_URL).status == 401


@needs_full_queues
def test_an_address_that_swallows_packets_is_not_the_last_one_tried(
    azure: Azure, fetch: Fetch, black_hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host with two addresses, of which the first is dead, as with a broken IPv6."""
    dead = socket.getaddrinfo("127.0.0.1", black_hole.rpartition(":")[2], 0, socket.SOCK_STREAM)
    living = socket.getaddrinfo("127.0.0.1", azure.proxy.server_port, 0, socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: dead + living)
    assert fetch(INDEX_URL, dials={"ATTEMPT_LIMIT": 0.2, "RETRY_PAUSES": ()}).status == 401


# --- What takes time


@pytest.mark.parametrize("service", SERVICES)
def test_an_answer_may_take_longer_than_the_connection_to_a_metadata_service(
    azure: Azure, fetch: Fetch, service: str
) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.4)
        handler.answer(200)

    azure.faults[service] = [slow]
    assert fetch(url(azure, service), dials={"METADATA_CONNECT_LIMIT": 0.2}).status == 200
    assert len(azure.asked(service)) == 1


@needs_full_queues
def test_a_proxy_may_take_long_to_connect(azure: Azure, fetch: Fetch) -> None:
    """Linux repeats the first packet after a second, which is too late for a metadata service."""
    proxy = Server(azure, "")
    with full_queue(proxy.socket):
        serve = threading.Timer(0.3, proxy.serve_forever, [0.01])
        serve.start()
        response = fetch(INDEX_URL, dials={"RETRY_PAUSES": ()}, HTTPS_PROXY=proxy.url)
    assert response.status == 401
    assert module.METADATA_CONNECT_LIMIT < 1
    proxy.shutdown()
    proxy.server_close()


@needs_full_queues
def test_a_metadata_address_that_swallows_packets_is_given_up_early(
    fetch: Fetch, black_hole: str
) -> None:
    start = module.now()
    with pytest.raises(module.SignInError, match="no complete answer in time"):
        fetch(black_hole, dials={"METADATA_CONNECT_LIMIT": 0.1})
    assert module.now() - start < 5


@pytest.mark.parametrize(
    ("dials", "limit", "attempts"),
    [
        pytest.param({"ATTEMPT_LIMIT": 0.2}, 9, 3, id="of each attempt"),
        pytest.param({"ATTEMPT_LIMIT": 0.4, "HTTP_LIMIT": 0.7}, 9, 2, id="of the request"),
        pytest.param({}, 0.3, 1, id="of the sign-in"),
    ],
)
def test_a_silent_server_is_waited_for_until_a_limit(
    azure: Azure, fetch: Fetch, dials: dict[str, float], limit: float, attempts: int
) -> None:
    azure.faults[FEED] = [hang] * 3
    start = module.now()
    with pytest.raises(module.SignInError, match="no complete answer in time"):
        fetch(INDEX_URL, limit, dials=dials)
    assert module.now() - start < 5
    assert len(azure.requests) == attempts


def drip(start: bytes, more: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        handler.wfile.write(start)
        while True:
            handler.wfile.write(more)
            time.sleep(0.05)

    return answer


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
DRIPS = {
    "headers": drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "a body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{", b" "),
    "interim answers": drip(CONTINUE, CONTINUE),
}


@pytest.mark.parametrize("answer", DRIPS.values(), ids=DRIPS)
def test_a_server_that_is_never_silent_ends_with_the_sign_in(
    azure: Azure, python: Python, answer: Answer
) -> None:
    azure.faults[FEED] = [answer]
    outcome = python(SECONDS, dials={"SIGN_IN_LIMIT": 0.5, "ATTEMPT_LIMIT": 0.2})
    password, seconds = outcome.values
    assert password is None
    assert seconds < 5
    assert "time: not over within" in outcome.stderr


def test_a_name_server_that_never_answers_is_not_waited_for(python: Python) -> None:
    """No socket can play a name server here, so the look-up is replaced."""
    never = "import socket, time; socket.getaddrinfo = lambda *a, **k: time.sleep(9); "
    outcome = python(never + SECONDS, dials={"SIGN_IN_LIMIT": 0.5}, HTTPS_PROXY="")
    password, seconds = outcome.values
    assert password is None
    assert seconds < 5


@pytest.mark.parametrize("service", SERVICES)
def test_an_answer_without_end_is_cut_off_at_a_sensible_size(
    azure: Azure, fetch: Fetch, service: str
) -> None:
    def flood(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 403 No\r\n\r\n")
        for _ in range(1000):
            handler.wfile.write(bytes(module.ANSWER_LIMIT))

    azure.faults[service] = [flood]
    assert len(fetch(url(azure, service)).body) == module.ANSWER_LIMIT


# --- What a failure costs


def test_a_feed_that_is_down_is_not_asked_again_at_once(azure: Azure, python: Python) -> None:
    azure.faults[FEED] = [status(503)] * 6
    assert python(ASK + "\n" + ASK).values == [None, None]
    assert len(azure.requests) == 3


def test_an_old_token_serves_while_its_renewal_fails(azure: Azure, python: Python) -> None:
    """The token lives for 3600 s and is renewed after 3300 s; an outcome is remembered for 60 s.

    Three sign-ins fail: at 3400 s, at 3570 s, and at 3610 s, when the old token is of no use.
    """
    azure.az_signed_in()
    azure.faults[AUTHORITY] = [Handler.answer_authority] + [status(503)] * 9
    ages = [0, 3400, 3450, 3570, 3610, 3660, 3680]
    script = "real = module.now\n"
    for age in ages:
        script += f"module.now = lambda: real() + {age}\nshow([ask({INDEX_URL!r}), {age}])\n"
    outcome = python(script, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    passwords = [credential and credential[1] for credential, _ in outcome.values]
    old, new = azure.session_tokens
    assert passwords == [old, old, old, old, None, None, new]
    assert len(azure.az_runs) == 5
    assert outcome.stderr.count("the renewal failed, the old token still serves: scope") == 2
    assert outcome.stderr.count("no credentials for") == 1


# --- What is told


def test_text_from_outside_is_made_harmless() -> None:
    token = "eyJhbGciOiJub25lIn0.eyJhIjoxfQ.c2ln"
    assert module.clean(f"a\r\n\x1b[1mb\u2028c {token} d") == "a [1mb c [removed] d"
    assert module.clean("x" * 39) == "x" * 39
    assert module.clean("x" * 40) == "[removed]"
    assert module.clean("0.AXkAvH.x-y_z." + "AgAB" * 5) == "[removed]"
    assert module.clean("aBc8Q~" + "x" * 34) == "[removed]"
    assert module.clean("p@ss at https://me:p@ss@host/p@th", "p@ss") == (
        "[removed] at https://host/p@th"
    )
    assert module.clean("1b4e28ba-2fa1-11d2-883f-0016d3cca427").startswith("1b4e28ba")
    assert len(module.clean("many words " * 1000)) == 400


def test_an_answer_that_echoes_the_token_is_not_shown(azure: Azure, ask: Ask) -> None:
    def echo(handler: Handler) -> None:
        handler.wfile.write(handler.headers["Authorization"].encode() + b"\r\n\r\n")

    azure.az_signed_in("short-secret")
    azure.faults[AUTHORITY] = [echo] * 3
    outcome = ask(INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert "vssps.dev.azure.com: the answer is not HTTP or breaks off" in outcome.stderr
    assert "short-secret" not in outcome.stderr


def test_the_debug_level_of_http_client_shows_no_header(azure: Azure, python: Python) -> None:
    """A caller may set it for requests of its own; from Python 3.12 on, urllib obeys it, too."""
    azure.az_signed_in()
    azure.faults[AUTHORITY] = [status(403)]  # so that the metadata service is asked, too
    azure.identity = azure.application_token()
    script = "import http.client; http.client.HTTPConnection.debuglevel = 1; "
    outcome = python(script + ASK, **azure.app_service())
    assert outcome.value[1] == azure.identity
    assert outcome.stdout.count("\n") == 1
