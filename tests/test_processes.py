"""How az is run and stopped, and what signals, forks and a want of threads do to a sign-in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import artifacts_keyring_nofuss as module
from conftest import Ask, Python, command
from simulated_azure import FEED, INDEX_URL, UPLOAD_URL, Azure, Handler
from simulated_machine import HOUR, Lifelines, ended

ASK = f"show(ask({INDEX_URL!r}))\n"
SECONDS = f"start = module.now()\n{ASK}show(module.now() - start)\n"
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals, forks and zombies")
needs_partial_output = pytest.mark.skipif(
    os.name == "nt", reason="on Windows, subprocess tells what was said when its pipe ends"
)


@pytest.fixture
def lifelines() -> Iterator[Lifelines]:
    with Lifelines() as lifelines:
        yield lifelines


def start(azure: Azure, script: str) -> subprocess.Popen[str]:
    """Start a script that the test talks to by its standard input."""
    return subprocess.Popen(
        command("import sys, threading\n" + script),
        env=azure.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> Any:
    """Return the next value that a script shows."""
    assert process.stdout
    return json.loads(process.stdout.readline())


# --- How az ends


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        pytest.param(70, "gave no answer in time and was stopped", id="of az"),
        pytest.param(90, "no credentials for", id="of the sign-in"),
    ],
)
def test_an_az_that_hangs_is_stopped_at_its_limit_with_all_it_started(
    azure: Azure, lifelines: Lifelines, seconds: int, words: str
) -> None:
    """The time passes as soon as everything runs."""
    azure.az(lifelines.hang)
    script = f"""
real = module.now
def pass_time():
    sys.stdin.readline()
    module.now = lambda: real() + {seconds}
threading.Thread(target=pass_time).start()
"""
    process = start(azure, script + ASK)
    connections = [lifelines.accept(), lifelines.accept()]
    output, errors = process.communicate("pass\n", timeout=10)
    assert json.loads(output) is None
    assert words in errors
    assert all(map(ended, connections))


@posix
@pytest.mark.parametrize("source", [f"time.sleep({HOUR})", "sys.exit('no token')"])
def test_no_zombie_is_left(azure: Azure, python: Python, source: str) -> None:
    azure.az(source)
    children = """
import os
try:
    show(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    show("no child")
"""
    assert python(ASK + children, dials={"AZ_LIMIT": 0.5}).values == [None, "no child"]


@needs_partial_output
def test_an_az_that_leaves_a_process_behind_has_still_answered(
    azure: Azure, python: Python, lifelines: Lifelines
) -> None:
    answer = azure.az_answer(azure.entra_token())
    child = f"{lifelines.connect}print('connected', file=sys.stderr, flush=True)\nline.recv(1)"
    azure.az(f"""
import subprocess
child = [sys.executable, "-I", "-S", "-c", {child!r}]
subprocess.Popen(child, stdout=1, stderr=subprocess.PIPE).stderr.readline()
print({answer!r})
""")
    password, seconds = python(SECONDS).values
    assert password
    assert seconds < 5
    assert ended(lifelines.accept())


def test_az_may_say_a_lot_before_the_words_that_count(azure: Azure, ask: Ask) -> None:
    azure.az_says(stderr="WARNING: beware\n" * 65536 + "no token today\n", status=1)
    outcome = ask(INDEX_URL)
    assert outcome.value is None
    assert "  azure_cli: az failed: no token today\n" in outcome.stderr


def test_az_may_say_a_lot_beside_the_token(azure: Azure, ask: Ask) -> None:
    azure.az_says(azure.az_answer(azure.entra_token()), "WARNING: beware\n" * 65536)
    assert ask(INDEX_URL).value


@needs_partial_output
def test_an_az_that_never_stops_talking_is_not_listened_to(azure: Azure, python: Python) -> None:
    azure.az("while True: os.write(1, bytes(65536)); os.write(2, bytes(65536))")
    azure.identity = azure.application_token()
    memory = "import resource; show(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    password, seconds, kilobytes = python(SECONDS + memory).values
    assert password
    assert seconds < 5
    assert kilobytes < 500_000


def test_an_az_that_cannot_be_started_is_told(azure: Azure, ask: Ask) -> None:
    az = azure.bin / ("az.exe" if os.name == "nt" else "az")
    az.write_text("#!/usr/bin/an-interpreter-that-is-not-here\n")
    az.chmod(0o755)
    assert re.search(rf"  azure_cli: {az.name} cannot be started: \w+", ask(INDEX_URL).stderr)


@posix
@pytest.mark.parametrize("signed_in", [True, False])
def test_the_status_of_az_may_be_lost(azure: Azure, python: Python, signed_in: bool) -> None:
    """The caller ignores the end of its children, so nobody knows how they ended."""
    azure.az_signed_in() if signed_in else azure.az_not_signed_in()
    outcome = python("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + ASK)
    assert bool(outcome.value) == signed_in
    assert ("azure_cli: az failed: Please run 'az login'" in outcome.stderr) != signed_in


@pytest.mark.skipif(os.name != "nt", reason="only Windows needs a program for it")
def test_a_process_is_killed_even_if_taskkill_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "SYSTEM_ROOT", str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    module.stop(process)
    assert process.poll() is not None


# --- Signals, and the end of the caller

INTERRUPTED = """
import signal
def alarm(*_):
    raise TimeoutError
signal.signal(signal.SIGINT, {handler})
def interrupt():
    sys.stdin.readline()
    signal.raise_signal(signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    ask({service!r})
except BaseException as error:
    show(type(error).__name__)
sys.stdin.readline()
threading.Thread(target=lambda: show(bool(ask({service!r})))).start()
"""
HANDLERS = [  # the default one is set again, for a shell ignores interrupts in the background
    ("signal.default_int_handler", "KeyboardInterrupt"),
    ("alarm", "TimeoutError"),  # as test runners do it
]


@pytest.mark.parametrize(("handler", "name"), HANDLERS)
def test_an_interrupt_goes_through_and_stops_az(
    azure: Azure, lifelines: Lifelines, handler: str, name: str
) -> None:
    """Afterwards another thread can sign in."""
    azure.az(lifelines.hang)
    script = INTERRUPTED.format(handler=handler, service=INDEX_URL)
    process = start(azure, script)
    connections = [lifelines.accept(), lifelines.accept()]
    interrupted = module.now()
    say(process, "interrupt")
    assert hear(process) == name
    assert module.now() - interrupted < 10
    assert all(map(ended, connections))
    azure.az_signed_in()
    say(process, "go on")
    assert hear(process) is True
    process.communicate(timeout=10)


@pytest.mark.parametrize(("handler", "name"), HANDLERS)
def test_an_interrupt_goes_through_a_request(azure: Azure, handler: str, name: str) -> None:
    asked = threading.Event()

    def hang(handler: Handler) -> None:
        asked.set()
        handler.connection.recv(1)

    azure.az_signed_in()
    azure.faults[FEED] = [hang]
    process = start(azure, INTERRUPTED.format(handler=handler, service=INDEX_URL))
    assert asked.wait(10)
    output, errors = process.communicate("interrupt\ngo on\n", timeout=10)
    assert [*map(json.loads, output.splitlines())] == [name, True], errors


@posix
def test_an_interrupt_stops_az_before_it_gets_through(azure: Azure, lifelines: Lifelines) -> None:
    """The caller may end at once, without what it registered for its end."""
    azure.az(lifelines.hang)
    script = f"""
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt():
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    ask({INDEX_URL!r})
except KeyboardInterrupt:
    os._exit(0)
"""
    process = start(azure, script)
    connections = [lifelines.accept(), lifelines.accept()]
    process.communicate("interrupt\n", timeout=10)
    assert process.returncode == 0
    assert all(map(ended, connections))


def test_an_interrupt_stops_an_az_that_is_being_started(azure: Azure, lifelines: Lifelines) -> None:
    azure.az(lifelines.hang)
    script = f"""
import signal, subprocess, time
signal.signal(signal.SIGINT, signal.default_int_handler)
keyring.get_keyring()  # which looks for libraries by programs of its own
class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        sys.stdin.readline()
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.1)  # as if az took longer to start
subprocess.Popen = Popen
try:
    ask({INDEX_URL!r})
except KeyboardInterrupt:
    show("interrupted")
sys.stdin.readline()
"""
    process = start(azure, script)
    connections = [lifelines.accept(), lifelines.accept()]
    say(process, "interrupt")
    assert hear(process) == "interrupted"
    assert all(map(ended, connections))
    process.communicate(timeout=10)


@posix
def test_an_interrupt_at_any_moment_leaves_no_lock_held(azure: Azure, python: Python) -> None:
    """The token is in memory, so a call takes some millionths of a second."""
    azure.az_signed_in()
    script = f"""
import signal, threading
def alarm(*_):
    raise TimeoutError
signal.signal(signal.SIGALRM, alarm)
show(ask({INDEX_URL!r}))
module.SIGN_IN_LIMIT = 1
for number in range(3000):
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + number % 300 * 1e-7)
        ask({INDEX_URL!r})
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeoutError:
        pass
threading.Thread(target=lambda: show(ask({INDEX_URL!r}))).start()
"""
    before, after = python(script).values
    assert after == before


def test_az_ends_with_a_caller_that_does_not_wait_for_its_thread(
    azure: Azure, lifelines: Lifelines
) -> None:
    azure.az(lifelines.hang)
    script = f"threading.Thread(target=ask, args=[{INDEX_URL!r}], daemon=True).start()\n"
    process = start(azure, script + "sys.stdin.readline()")
    connections = [lifelines.accept(), lifelines.accept()]
    process.communicate("end\n", timeout=10)
    assert process.returncode == 0
    assert all(map(ended, connections))


# --- Forks and threads


@posix
def test_a_fork_during_a_sign_in_leaves_both_processes_well(
    azure: Azure, lifelines: Lifelines
) -> None:
    """The child has the memory, signs in by itself at once, and leaves the parent's az alone."""
    log, answer = str(azure.folder / "az.log"), azure.az_answer(azure.entra_token())
    azure.az(f"""
if len(open({log!r}).readlines()) == 2:  # this run is for the parent's thread
    exec({lifelines.connect!r})
    line.recv(1)
print({answer!r})
""")
    script = f"""
import os
show(ask({UPLOAD_URL!r}))
thread = threading.Thread(target=lambda: show(ask({INDEX_URL!r})))
thread.start()
sys.stdin.readline()
if not os.fork():
    show([ask({UPLOAD_URL!r}), ask({INDEX_URL!r})])
    sys.exit()
os.wait()
show("the child has ended")
thread.join()
"""
    process = start(azure, script)
    connection = lifelines.accept()
    say(process, "fork")
    upload, (same_upload, index) = hear(process), hear(process)
    assert hear(process) == "the child has ended"
    connection.sendall(b"!")
    passwords = [password for _, password in (upload, index, hear(process))]
    assert passwords == [*azure.session_tokens]
    assert same_upload == upload
    assert len(azure.az_runs) == 3
    process.communicate(timeout=10)


def test_waiting_for_another_thread_is_part_of_the_limit(python: Python) -> None:
    script = f"""
import threading
key = module.parse_feed({INDEX_URL!r}).credential_key
lock = module.locks.setdefault(key, threading.RLock())
thread = threading.Thread(target=lock.acquire)
thread.start()
thread.join()
"""
    outcome = python(script + SECONDS, dials={"SIGN_IN_LIMIT": 0.3})
    password, seconds = outcome.values
    assert password is None
    assert seconds < 5
    assert "another thread's sign-in does not end" in outcome.stderr


needs_no_thread = pytest.mark.skipif(
    os.name == "nt", reason="on Windows, subprocess needs threads to read what az says"
)
NO_THREADS = """
import threading
def start(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
"""


@needs_no_thread
def test_a_sign_in_needs_no_thread(azure: Azure, python: Python) -> None:
    """A container may have a limit of processes, which holds for threads, too."""
    azure.az_signed_in()
    outcome = python(NO_THREADS + ASK)
    assert outcome.value
    assert outcome.stderr == ""


def test_a_sign_in_works_in_an_isolated_interpreter(azure: Azure, python: Python) -> None:
    """It has neither daemon threads nor fork()."""
    pytest.importorskip("_interpreters", reason="is new in Python 3.13")
    azure.identity = azure.application_token()
    script = f"""
import _interpreters as interpreters
isolated = interpreters.create("isolated")
assert not interpreters.exec(isolated, '''
import artifacts_keyring_nofuss as module
password = module.ArtifactsKeyringBackend().get_password({INDEX_URL!r}, None)
print('"' + password + '"', flush=True)
''')
"""
    assert python(script).value == azure.identity


@needs_no_thread
def test_az_has_its_limit_without_threads_too(azure: Azure, python: Python) -> None:
    azure.az(f"time.sleep({HOUR})")
    outcome = python(NO_THREADS + ASK, dials={"AZ_LIMIT": 0.5})
    assert "azure_cli: az gave no answer in time" in outcome.stderr


def test_a_request_has_its_limit_without_threads_too(azure: Azure, python: Python) -> None:
    azure.faults[FEED] = [lambda handler: handler.connection.recv(1)] * 3
    password, seconds = python(NO_THREADS + SECONDS, dials={"ATTEMPT_LIMIT": 0.1}).values
    assert password is None
    assert seconds < 5


@needs_no_thread
def test_a_sign_in_works_while_python_ends(azure: Azure, python: Python) -> None:
    """From Python 3.12 on, no thread can be started then."""
    azure.az_signed_in()
    outcome = python(f"import atexit; atexit.register(lambda: {ASK.strip()})")
    assert outcome.value
    assert outcome.stderr == ""


def test_a_sign_in_works_under_gevent(azure: Azure) -> None:
    """gevent puts its own sockets, threads and processes in place of Python's."""
    pytest.importorskip("gevent")
    azure.az_signed_in()
    line = command(ASK)
    line[-1] = "from gevent import monkey; monkey.patch_all()\n" + line[-1]
    done = subprocess.run(line, env=azure.environment(), capture_output=True, encoding="utf-8")
    assert json.loads(done.stdout)
    assert done.stderr == ""
