"""How az is run and stopped, and what signals and odd circumstances do to a sign-in."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Callable
from unittest.mock import patch

import keyring
import pytest

import artifacts_keyring_nofuss as module
from conftest import Ask, Python
from identities import token
from simulated_azure import FEED, IMDS, INDEX_URL, Azure, Handler
from simulated_faults import hang
from simulated_machine import Lifelines, ended

DEVELOPMENT = {  # which tells of an az that is slow to end, too
    "PYTHONDEVMODE": "1",
    "PYTHONWARNINGS": "ignore:subprocess:ResourceWarning",
}
MANY_WORDS = "WARNING: beware\n" * 65536
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such thing")


@pytest.fixture
def lifelines() -> Iterator[Lifelines]:
    with Lifelines() as lifelines:
        yield lifelines


class Interrupt(KeyboardInterrupt):
    """One that pytest does not take for a person's."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Interrupt the main thread, which runs the test."""

    def handle(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGINT, handle)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@contextmanager
def when_all_runs(lifelines: Lifelines, act: Callable[[], None]) -> Iterator[None]:
    """Act when az and what it started run; see that both have ended in the end."""
    connections: list[socket.socket] = []
    acted = []

    def wait() -> None:
        connections.extend([lifelines.accept(), lifelines.accept()])
        acted.append(time.perf_counter())
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()
    assert time.perf_counter() - acted[0] < 5
    assert all(map(ended, connections))


# --- How az ends


def test_an_az_that_hangs_is_stopped_at_its_limit_with_all_it_started(
    azure: Azure, ask: Ask, lifelines: Lifelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pass_time() -> None:
        monkeypatch.setattr(time, "monotonic", lambda: now() + 61)

    now = time.monotonic
    azure.az(lifelines.hang)
    with when_all_runs(lifelines, pass_time):
        told = ask().warnings
    assert "azure_cli: az gave no answer within 60 s and was stopped\n" in told


@posix
@pytest.mark.parametrize("who", ["az itself", "its child"])
def test_who_goes_on_after_the_answer_is_left_alone(
    azure: Azure, ask: Ask, lifelines: Lifelines, who: str
) -> None:
    """Be it an az that upgrades itself, or its child that holds its pipes."""
    answer = azure.az_answer(azure.entra_token())
    ends = "if os.fork(): sys.exit()\n" if who == "its child" else ""
    azure.az(f"{lifelines.connect}\nprint({answer!r}, flush=True)\n{ends}line.recv(1)")
    started = time.monotonic()
    assert ask().value
    assert time.monotonic() - started < 5
    with lifelines.accept() as connection:
        connection.settimeout(0.2)
        with pytest.raises(socket.timeout):
            connection.recv(1)


@posix
def test_nobody_waits_for_a_child_that_holds_the_pipes_of_an_az_that_failed(
    azure: Azure, ask: Ask, lifelines: Lifelines
) -> None:
    azure.az(f"{lifelines.connect}\nif os.fork(): sys.exit('no')\nline.recv(1)")
    assert "azure_cli: az failed: no\n" in ask(dials={"AZ_LIMIT": 5}).warnings
    lifelines.accept().close()


@posix
def test_no_pipe_of_who_goes_on_stays_open(azure: Azure, python: Python) -> None:
    azure.az(
        f"print({azure.az_answer(azure.entra_token())!r}, flush=True)\ntime.sleep(1)"
    )
    assert python("ask.py", INDEX_URL, **DEVELOPMENT).stderr == ""


def test_the_answer_counts_whatever_else_az_says(azure: Azure, ask: Ask) -> None:
    answer = "\ufeff" + azure.az_answer(azure.entra_token())
    azure.az_says(answer, MANY_WORDS, status=3)
    assert ask().value


def test_an_az_that_cannot_be_started_is_told(azure: Azure, ask: Ask) -> None:
    az = azure.bin / ("az.exe" if os.name == "nt" else "az")
    az.write_text("#!/usr/bin/an-interpreter-that-is-not-here\n")
    az.chmod(0o755)
    assert f"azure_cli: {az.name} does not start: " in ask().warnings


@posix
def test_a_working_directory_that_is_gone_is_azs_reason(
    azure: Azure, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who knows what was meant by a folder below it?"""
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    azure.az_signed_in()
    assert ask().value
    told = ask(AZURE_CONFIG_DIR="a.zure").warnings
    assert "azure_cli: az does not start: " in told


def test_the_environment_may_change_while_az_starts(azure: Azure, ask: Ask) -> None:
    """By many threads, of which one nearly always interferes with a copy of it."""
    over = threading.Event()

    def change(name: str) -> None:
        while not (over.is_set() or azure.az_runs):
            for _ in range(50):
                os.environ[name] = ""
                del os.environ[name]

    def answer(handler: Handler) -> None:
        pool.map(change, "abcdefgh")
        handler.answer_feed()

    azure.az_signed_in()
    azure.faults[FEED] = [answer]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(8) as pool:
        asked = ask(**{f"STAYING_{number}": "" for number in range(2000)})
        over.set()
    sys.setswitchinterval(interval)
    assert asked.value, asked.log


@pytest.mark.skipif(os.name != "nt", reason="only Windows needs a program for it")
def test_a_process_is_killed_even_if_taskkill_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "SYSTEM_ROOT", str(tmp_path))
    process = subprocess.Popen(["cmd", "/c", "pause"])
    module.stop(process)
    assert process.poll() is not None


# --- Interrupts


def test_an_interrupt_stops_az_and_all_it_started(
    azure: Azure, ask: Ask, lifelines: Lifelines, interrupt: Callable[[], None]
) -> None:
    """Afterwards another thread can sign in."""
    azure.az(lifelines.hang)
    with when_all_runs(lifelines, interrupt), pytest.raises(Interrupt):
        ask(dials={"AZ_LIMIT": 20})
    azure.az_signed_in()
    with ThreadPoolExecutor() as pool:
        assert pool.submit(ask).result(20).value


def test_an_interrupt_stops_an_az_that_is_just_being_started(
    azure: Azure, ask: Ask, lifelines: Lifelines, interrupt: Callable[[], None]
) -> None:
    """It comes as Python tells its auditors of the start, which then takes a while."""
    starts = ["subprocess.Popen"]

    def listen(event: str, _: object) -> None:
        if event in starts:
            starts.clear()
            interrupt()
            time.sleep(0.15)

    azure.az(lifelines.hang)
    sys.addaudithook(listen)
    with pytest.raises(Interrupt):
        ask(dials={"AZ_LIMIT": 20})
    assert starts == []
    lifelines.server.settimeout(0.3)
    try:
        connection = lifelines.accept()
    except socket.timeout:
        return
    assert ended(connection)


def test_an_interrupt_goes_through_a_request_that_waits(
    azure: Azure, ask: Ask, interrupt: Callable[[], None]
) -> None:
    over = threading.Event()

    def answer(handler: Handler) -> None:
        interrupt()
        over.wait(5)

    azure.faults[FEED] = [answer]
    started = time.monotonic()
    with pytest.raises(Interrupt):
        ask(dials={"ATTEMPT_LIMIT": 5.0})
    over.set()
    assert time.monotonic() - started < 3


def test_an_interrupt_at_any_moment_leaves_no_thread_waiting(
    azure: Azure, interrupt: Callable[[], None]
) -> None:
    """A sign-in with a given token takes less than 20 ms."""
    passed = 0
    with patch.dict(os.environ, azure.environment(**token(azure)), clear=True):
        for moment in range(60):
            module.memory.clear()
            timer = threading.Timer(moment * 0.0003, interrupt)
            try:
                timer.start()
                keyring.get_credential(INDEX_URL, None)
                timer.join()
                time.sleep(0)
            except Interrupt:
                passed += 1
        with ThreadPoolExecutor() as pool:
            assert pool.submit(keyring.get_credential, INDEX_URL, None).result(20)
    assert passed > 50  # one that comes amid a finalizer is lost to Python


# --- Circumstances


ANYWHERE = ["plainly", "under gevent", "in an isolated interpreter"]
ON_POSIX = ["without threads", "while it ends", "with children ignored"]


@pytest.mark.parametrize(
    "circumstance", [*ANYWHERE, *(pytest.param(each, marks=posix) for each in ON_POSIX)]
)
def test_a_sign_in_works_in_any_circumstance(
    azure: Azure, python: Python, circumstance: str
) -> None:
    """In development mode, Python would tell of whatever is left unclosed.

    In Python 3.12, a mere `import ssl` in an isolated interpreter crashes at its end.
    """
    isolated = circumstance == "in an isolated interpreter"
    if isolated and sys.version_info[:2] == (3, 12):
        pytest.skip("Python's own modules crash there")
    azure.az_signed_in()
    azure.identity = azure.application_token()  # for who may start no process
    if circumstance == "under gevent":
        pytest.importorskip("gevent")
        outcome = python("circumstances.py", circumstance)
    else:
        outcome = python("circumstances.py", circumstance, **DEVELOPMENT)
    _, password = outcome.value
    is_old = isolated and sys.version_info < (3, 12)
    assert password in ([azure.identity] if is_old else azure.session_tokens)
    assert outcome.stderr == ""


@posix
def test_limits_hold_without_threads_too(azure: Azure, python: Python) -> None:
    """A request's is then that of a silence."""
    azure.az("time.sleep(30)")
    azure.faults[IMDS] = [hang]
    dials = {"AZ_LIMIT": 0.6, "ATTEMPT_LIMIT": 0.3, "IMDS_PAUSES": []}
    outcome = python("circumstances.py", "without threads", dials=dials)
    assert outcome.value is None
    assert "azure_cli: az gave no answer within 1 s and was stopped\n" in outcome.stderr
    assert ": no connection: timed out\n" in outcome.stderr


@posix
def test_a_fork_amid_a_sign_in_leaves_both_processes_well(
    azure: Azure, python: Python
) -> None:
    """The child has the memory, signs in by itself and leaves the parent's az alone."""
    folder = str(azure.folder)
    azure.az(f"""
if len(open({folder!r} + "/az.log").readlines()) == 2:  # it is the parent's thread's
    open({folder!r} + "/started", "w").close()
    while not os.path.exists({folder!r} + "/go"):
        time.sleep(0.01)
print({azure.az_answer(azure.entra_token())!r})
""")
    outcome = python("circumstances.py", "amid a fork", FOLDER=folder)
    upload, again, of_child, of_parent = (password for _, password in outcome.values)
    assert [upload, of_child, of_parent] == [*azure.session_tokens]
    assert again == upload
    assert outcome.stderr == ""
