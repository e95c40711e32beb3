"""Nothing hangs and nothing leaks: faults of the network, of the services and of az."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
import trustme
from OpenSSL import crypto

import artifacts_keyring_nofuss as module
from conftest import PRELUDE, Ask, Python
from simulated_azure import AUTHORITY, FEED, IMDS, INDEX_URL, Answer, Azure, Handler

HOSTS = [FEED, AUTHORITY, IMDS]
QUICK = "module.RETRY_PAUSE = 0.01; "
NOT_A_SECOND = "module.ATTEMPT_LIMIT = 0.3; module.HTTP_LIMIT = 0.6; "
ASK = f"show(ask({INDEX_URL!r}))"
# Even where the tests run in the background, which makes a shell ignore interrupts.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


def case(azure: Azure, host: str) -> None:
    """Make a sign-in that uses the host."""
    if host == IMDS:
        azure.identity = azure.application_token()
    else:
        azure.az_signed_in()


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A port that swallows connections, as the metadata address does off Azure."""
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


# --- What passes


def drop(handler: Handler) -> None:
    """Close the connection without an answer: the caller does."""


def reset(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def cut(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\n{")


def cut_chunked(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{")


def garbage(handler: Handler) -> None:
    handler.wfile.write(b"nonsense\r\n\r\n")


def status(code: int, **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.answer(code, "<html>", {**headers})

    answer.__name__ = str(code)
    return answer


PASSING = [drop, reset, cut, cut_chunked, garbage, *map(status, (429, 500, 502, 503, 504))]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.__name__)
def test_a_fault_that_passes_leaves_no_trace(
    azure: Azure, python: Python, host: str, fault: Answer
) -> None:
    case(azure, host)
    azure.faults[host] = [fault, fault]
    outcome = python(QUICK + ASK)
    assert outcome.value
    assert outcome.stderr == ""
    assert len(azure.asked(host)) == 3


@pytest.mark.parametrize("code", [404, 410])
def test_an_identity_may_still_be_on_its_way(azure: Azure, python: Python, code: int) -> None:
    case(azure, IMDS)
    azure.faults[IMDS] = [status(code), status(code)]
    assert python(QUICK + ASK).value


@pytest.mark.parametrize("host", HOSTS)
def test_there_are_three_attempts_with_growing_pauses(
    azure: Azure, python: Python, host: str
) -> None:
    case(azure, host)
    azure.faults[host] = [status(503)] * 5
    outcome = python("module.RETRY_PAUSE = 0.1; " + ASK)
    assert outcome.value is None
    assert "answered 503" in outcome.stderr
    first, second, third = [request.time for request in azure.requests if request.host == host]
    assert second - first >= 0.1 * 0.75
    assert third - second >= 0.2 * 0.75
    assert third - first < 2


def test_the_pauses_are_not_the_same_for_everybody(azure: Azure, python: Python) -> None:
    """The pauses are noted, not waited for."""
    azure.faults[FEED] = [drop] * 3
    outcome = python("module.RETRY_PAUSE = 0.1; module.time.sleep = show; " + ASK)
    first, second, password = outcome.values
    assert password is None
    assert 0.075 <= first <= 0.125
    assert 0.15 <= second <= 0.25
    assert second != 2 * first


def test_a_timeout_passes(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    azure.faults[FEED] = [hang]
    assert python(QUICK + "module.ATTEMPT_LIMIT = 0.5; " + ASK).value


def test_a_refused_connection_passes(azure: Azure, python: Python) -> None:
    case(azure, IMDS)
    azure.metadata.shutdown()
    azure.metadata.socket.close()
    late = socket.socket()
    late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    late.bind(azure.metadata.server_address)
    azure.metadata.socket = late

    def serve_late() -> None:
        while not azure.requests:
            time.sleep(0.01)
        time.sleep(0.3)
        late.listen()
        azure.metadata.serve_forever(0.01)

    threading.Thread(target=serve_late, daemon=True).start()
    outcome = python("module.RETRY_PAUSE = 0.3; " + ASK)
    assert outcome.value
    assert outcome.stderr == ""


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("code", [400, 401, 403])
def test_what_will_not_pass_is_not_retried(
    azure: Azure, python: Python, host: str, code: int
) -> None:
    case(azure, host)
    azure.faults[host] = [status(code)]
    assert python(QUICK + ASK).value is None
    assert len(azure.asked(host)) == 1


def test_a_server_may_ask_to_wait(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    azure.faults[AUTHORITY] = [status(429, **{"Retry-After": "1"})]
    assert python(QUICK + ASK).value
    first, second = [request.time for request in azure.requests if request.host == AUTHORITY]
    assert 1 <= second - first < 3


def test_a_server_that_asks_to_wait_too_long_is_not_waited_for(
    azure: Azure, python: Python
) -> None:
    azure.az_signed_in()
    azure.faults[AUTHORITY] = [status(503, **{"Retry-After": "3600"})]
    started = time.monotonic()
    assert python(QUICK + ASK).value is None
    assert time.monotonic() - started < 5
    assert len(azure.asked(AUTHORITY)) == 1


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("5", 5, 5),
        (" 7 ", 7, 7),
        ("", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("9" * 20, 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e10, 1e12),
        ("Fri, 31 Dec 1999 23:59:59 GMT", -1e10, 0),
        ("Fri, 99 Dec 1999 23:59:59 GMT", 0, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, low: float, high: float) -> None:
    headers = Message()
    headers["Retry-After"] = value
    assert low <= module.retry_after(headers) <= high


# --- What does not end


def hang(handler: Handler) -> None:
    handler.connection.recv(1)


def forever(start: bytes, more: bytes, pause: float) -> Answer:
    def answer(handler: Handler) -> None:
        handler.wfile.write(start)
        while True:
            handler.wfile.write(more)
            time.sleep(pause)

    return answer


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ENDLESS = {
    "no answer": hang,
    "a line": forever(b"HTTP/1.1 200 O", b"K", 0.05),
    "a header": forever(b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.05),
    "headers": forever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.05),
    "continue": forever(CONTINUE, CONTINUE, 0.05),
    "a body": forever(b"HTTP/1.1 200 OK\r\n\r\n{", b" ", 0.05),
    "a chunked body": forever(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.05
    ),
    "trailers": forever(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", 0.05
    ),
    "a body of known size": forever(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{", b" ", 0.05
    ),
}


@pytest.mark.parametrize("host", [AUTHORITY, IMDS])
@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_an_answer_that_does_not_end_in_time_is_cut_off(
    azure: Azure, python: Python, host: str, answer: Answer
) -> None:
    cut_off = threading.Event()

    def watched(handler: Handler) -> None:
        try:
            answer(handler)
        finally:
            cut_off.set()

    case(azure, host)
    azure.faults[host] = [watched] * 9
    count = "import threading; show(threading.active_count())"
    script = f"import time; start = time.monotonic(); {ASK}; show(time.monotonic() - start); "
    outcome = python(QUICK + NOT_A_SECOND + script + "time.sleep(0.3); " + count)
    password, seconds, threads = outcome.values
    assert password is None
    assert "no complete answer in time" in outcome.stderr
    assert seconds < 2
    assert threads == 1
    assert cut_off.wait(2)


@pytest.mark.parametrize("host", HOSTS)
def test_an_answer_without_end_is_cut_off_at_a_sensible_size(
    azure: Azure, python: Python, host: str
) -> None:
    sent = []

    def flood(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 403 No\r\n\r\n")
        while True:
            handler.wfile.write(bytes(65536))
            sent.append(65536)

    case(azure, host)
    azure.faults[host] = [flood]
    assert python(ASK).value is None
    assert sum(sent) < 20e6  # what the sockets' buffers take


def test_a_name_server_that_never_answers_is_not_waited_for(azure: Azure, python: Python) -> None:
    """No socket can play a name server here, so the look-up is replaced."""
    azure.az_signed_in()
    never = "import socket, time; socket.getaddrinfo = lambda *a, **k: time.sleep(30); "
    started = time.monotonic()
    outcome = python(QUICK + NOT_A_SECOND + never + ASK, HTTPS_PROXY="", HTTP_PROXY="")
    assert outcome.value is None
    assert "pkgs.dev.azure.com: no complete answer in time" in outcome.stderr
    assert time.monotonic() - started < 5


def test_a_name_server_may_fail_twice(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    fail_twice = """
import socket
real, failures = socket.getaddrinfo, [1, 2]
def look_up(host, *arguments, **options):
    if host == "127.0.0.1" and failures:
        raise socket.gaierror(failures.pop(), "temporary failure")
    return real(host, *arguments, **options)
socket.getaddrinfo = look_up
"""
    outcome = python(fail_twice + QUICK + ASK)
    assert outcome.value
    assert outcome.stderr == ""


def test_an_address_that_swallows_packets_is_not_the_last_one_tried(
    azure: Azure, python: Python, black_hole: str
) -> None:
    """A host with two addresses, of which the first is dead, as with a broken IPv6."""
    azure.az_signed_in()
    two = f"""
import socket
real = socket.getaddrinfo
dead = real("127.0.0.1", {black_hole.rpartition(":")[2]}, 0, socket.SOCK_STREAM)
socket.getaddrinfo = lambda *a, **k: dead + real(*a, **k)
module.CONNECT_LIMIT = 0.2
"""
    assert python(two + ASK).value


def test_a_proxy_that_never_answers_is_not_waited_for(azure: Azure, python: Python) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        assert python(QUICK + NOT_A_SECOND + ASK, HTTPS_PROXY=proxy).value is None
        assert time.monotonic() - started < 5


def test_the_whole_sign_in_has_a_limit(azure: Azure, python: Python) -> None:
    azure.az("sleep 60")
    azure.faults = {host: [hang] * 9 for host in HOSTS}
    azure.faults[FEED] = [hang]
    outcome = python(
        "module.SIGN_IN_LIMIT = 1.5; module.ATTEMPT_LIMIT = 0.5; import time; "
        f"start = time.monotonic(); {ASK}; show(time.monotonic() - start)"
    )
    assert outcome.values[0] is None
    assert outcome.values[1] < 3
    assert module.SIGN_IN_LIMIT + 2 < 90


def test_a_request_has_no_more_time_than_the_sign_in(azure: Azure, python: Python) -> None:
    azure.faults[FEED] = [hang]
    started = time.monotonic()
    assert python(f"module.SIGN_IN_LIMIT = 0.5; {ASK}").value is None
    assert time.monotonic() - started < 5


def test_a_request_with_its_repetitions_has_a_limit(azure: Azure, python: Python) -> None:
    azure.faults[FEED] = [hang] * 3
    limits = "module.ATTEMPT_LIMIT = 0.4; module.HTTP_LIMIT = 0.6; "
    assert python(QUICK + limits + ASK).value is None
    first, second = [request.time for request in azure.requests]
    assert second - first < 0.6


def test_waiting_for_another_thread_is_part_of_the_limit(azure: Azure, python: Python) -> None:
    azure.faults[FEED] = [hang]
    hold = f"""
import threading, time
account = module.parse_feed({INDEX_URL!r}).account
module.locks[account] = lock = threading.Lock()
lock.acquire()
threading.Timer(1.5, lock.release).start()
module.SIGN_IN_LIMIT = 2
start = time.monotonic()
{ASK}
show(time.monotonic() - start)
"""
    password, seconds = python(hold).values
    assert password is None
    assert seconds < 3


def test_off_azure_and_without_az_the_answer_comes_within_four_seconds(
    azure: Azure, ask: Ask, black_hole: str
) -> None:
    started = time.monotonic()
    outcome = ask(INDEX_URL, AZURE_POD_IDENTITY_AUTHORITY_HOST=black_hole)
    assert time.monotonic() - started < 4
    assert outcome.value is None
    assert "managed_identity: 127.0.0.1:" in outcome.stderr
    assert "no complete answer in time" in outcome.stderr


def test_a_managed_identity_may_take_longer_than_the_connection(
    azure: Azure, python: Python
) -> None:
    case(azure, IMDS)

    def slow(handler: Handler) -> None:
        time.sleep(0.5)
        handler.answer_metadata()

    azure.faults[IMDS] = [slow]
    assert python("module.METADATA_CONNECT_LIMIT = 0.2; " + ASK).value
    assert len(azure.asked(IMDS)) == 1


# --- What az does


STUBBORN = """
trap '' TERM HUP INT
(trap '' TERM HUP INT; while :; do sleep 0.2; done) &
child=$!
sleep 0.3  # until whoever started this has noticed
echo $child > {folder}/child
while :; do sleep 0.2; done
"""


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_for(path: Path) -> int:
    for _ in range(500):
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.01)
    raise AssertionError(f"{path} never came")


def gone(pid: int) -> bool:
    for _ in range(100):
        if not is_running(pid):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_an_az_that_hangs_is_stopped_with_all_it_started(azure: Azure, python: Python) -> None:
    azure.az(STUBBORN.format(folder=azure.folder))
    azure.identity = azure.application_token()
    started = time.monotonic()
    outcome = python("module.AZ_LIMIT = 1; " + ASK, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert time.monotonic() - started < 5
    assert outcome.value == ["VssSessionToken", azure.identity]
    assert "az gave no token within 1 s and was stopped" in outcome.stderr
    assert module.AZ_LIMIT == 30
    assert gone(wait_for(azure.folder / "child"))


def test_no_zombie_is_left_of_an_az_that_hangs(azure: Azure, python: Python) -> None:
    azure.az("sleep 60")
    children = (
        "import os\ntry: os.waitpid(-1, os.WNOHANG); show('left')\nexcept ChildProcessError: pass"
    )
    assert python(f"module.AZ_LIMIT = 0.2; {ASK}\n{children}").values == [None]


def test_an_az_that_leaves_a_process_behind_has_still_answered(
    azure: Azure, python: Python
) -> None:
    azure.az_signed_in()
    answer = f"cat {azure.folder}/az.json"
    azure.az(f"{answer}; sleep 60 & echo $! > {azure.folder}/child")
    started = time.monotonic()
    assert python(ASK).value
    assert time.monotonic() - started < 5
    assert gone(wait_for(azure.folder / "child"))


def test_an_az_that_never_stops_talking_is_not_listened_to(azure: Azure, python: Python) -> None:
    azure.az("yes; yes >&2")
    azure.identity = azure.application_token()
    memory = "import resource; show(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    started = time.monotonic()
    password, kilobytes = python(f"{ASK}; {memory}").values
    assert password
    assert kilobytes < 500_000
    assert time.monotonic() - started < 5


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_an_interrupt_stops_az_and_goes_through(azure: Azure) -> None:
    azure.az(STUBBORN.format(folder=azure.folder))
    command = [sys.executable, "-c", PRELUDE + INTERRUPTIBLE + ASK]
    process = subprocess.Popen(command, env=azure.environment(), stderr=subprocess.PIPE)
    child = wait_for(azure.folder / "child")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert b"KeyboardInterrupt" in errors
    assert process.returncode in (1, -signal.SIGINT)
    assert gone(child)


def test_an_interrupt_goes_through_a_request(azure: Azure) -> None:
    asked = threading.Event()

    def hang_on(handler: Handler) -> None:
        asked.set()
        hang(handler)

    azure.faults[FEED] = [hang_on]
    command = [sys.executable, "-c", PRELUDE + INTERRUPTIBLE + ASK]
    process = subprocess.Popen(command, env=azure.environment(), stderr=subprocess.PIPE)
    assert asked.wait(10)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=5)
    assert b"KeyboardInterrupt" in errors


def test_no_process_is_left_behind(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    script = "import subprocess; show(subprocess._active); import os\n"
    script += (
        "try: os.waitpid(-1, os.WNOHANG); show('a child is left')\nexcept ChildProcessError: pass"
    )
    assert python(f"ask({INDEX_URL!r}); {script}").values == [[]]


# --- Certificates and proxies


def hashed_folder(azure: Azure) -> str:
    """Make a folder of certificates as OpenSSL looks them up: by the hash of the subject."""
    pem = azure.ca_file.read_bytes()
    subject = crypto.load_certificate(crypto.FILETYPE_PEM, pem).subject_name_hash()
    folder = azure.folder / "certificates"
    folder.mkdir()
    (folder / f"{subject:08x}.0").write_bytes(pem)
    return str(folder)


def stranger(azure: Azure) -> str:
    """Return the file of an authority that this Azure does not use."""
    path = azure.folder / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("variable", "kind"),
    [
        ("SSL_CERT_FILE", "file"),
        ("SSL_CERT_DIR", "folder"),
        ("REQUESTS_CA_BUNDLE", "file"),
        ("REQUESTS_CA_BUNDLE", "folder"),
        ("CURL_CA_BUNDLE", "file"),
        ("CURL_CA_BUNDLE", "folder"),
    ],
)
def test_the_trusted_certificates_can_be_set(
    azure: Azure, ask: Ask, variable: str, kind: str
) -> None:
    azure.az_signed_in()
    value = hashed_folder(azure) if kind == "folder" else str(azure.ca_file)
    assert ask(INDEX_URL, **{"SSL_CERT_FILE": "", variable: value}).value


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
        ("SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
        ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    ],
)
def test_the_certificates_of_the_first_variable_count(
    azure: Azure, ask: Ask, first: str, second: str
) -> None:
    azure.az_signed_in()
    ours, others = str(azure.ca_file), stranger(azure)
    if first == "SSL_CERT_DIR":
        ours = hashed_folder(azure)
    assert ask(INDEX_URL, **{"SSL_CERT_FILE": "", first: ours, second: others}).value
    assert not ask(INDEX_URL, **{"SSL_CERT_FILE": "", first: others, second: ours}).value


def test_a_certificate_that_fails_is_not_retried_and_the_remedy_told(
    azure: Azure, ask: Ask
) -> None:
    azure.az_signed_in()
    outcome = ask(INDEX_URL, SSL_CERT_FILE=stranger(azure))
    assert outcome.value is None
    assert "pkgs.dev.azure.com: certificate not trusted: " in outcome.stderr
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        assert variable in outcome.stderr
    assert (len(azure.connects), azure.requests, azure.az_runs) == (1, [], [])


def test_a_certificate_of_another_host_is_not_trusted(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    azure.certificate_host = "vssps.dev.azure.com"
    outcome = ask(INDEX_URL)
    assert outcome.value is None
    assert "pkgs.dev.azure.com: certificate not trusted: Hostname mismatch" in outcome.stderr
    assert (azure.requests, azure.az_runs) == ([], [])


def test_old_tls_is_not_spoken_and_keys_are_not_logged(azure: Azure, ask: Ask) -> None:
    assert module.tls_context("", "").minimum_version == ssl.TLSVersion.TLSv1_2
    azure.az_signed_in()
    log = azure.folder / "keys"
    assert ask(INDEX_URL, SSLKEYLOGFILE=str(log)).value
    assert not log.exists()


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_unusable_certificates_are_told(azure: Azure, ask: Ask, content: bytes | None) -> None:
    path = azure.folder / "bundle.pem"
    if content is not None:
        path.write_bytes(content)
    outcome = ask(INDEX_URL, SSL_CERT_FILE="", REQUESTS_CA_BUNDLE=str(path))
    assert outcome.value is None
    assert "REQUESTS_CA_BUNDLE cannot be used: " in outcome.stderr
    assert "correct REQUESTS_CA_BUNDLE" in outcome.stderr


def test_no_proxy_ever_sees_the_metadata_service(azure: Azure, ask: Ask) -> None:
    case(azure, IMDS)
    names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
    assert ask(INDEX_URL, **dict.fromkeys(names, azure.proxy.url)).value
    assert azure.asked("") == []
    (request,) = [request for request in azure.requests if request.host == IMDS]
    assert request.path.startswith("/metadata/")


def test_no_proxy_is_obeyed(azure: Azure, python: Python) -> None:
    """The look-up of the name is replaced, so that no test ever leaves for the real Azure."""
    looked_up = "import socket; socket.getaddrinfo = lambda host, *a, **k: show(host) or [][0]; "
    outcome = python(QUICK + looked_up + ASK, NO_PROXY="pkgs.dev.azure.com")
    assert outcome.values[0] == "pkgs.dev.azure.com"
    assert azure.connects == []


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
def test_the_password_of_a_proxy_is_used_but_not_shown(
    azure: Azure, ask: Ask, variable: str
) -> None:
    azure.az_signed_in()
    proxy = azure.proxy.url.replace("//", "//me:secret@")
    variables = {"HTTPS_PROXY": "", variable: proxy, "ARTIFACTS_KEYRING_NOFUSS_DEBUG": "1"}
    outcome = ask(INDEX_URL, **variables)
    assert outcome.value
    assert "secret" not in outcome.stderr


@pytest.mark.parametrize(
    "proxy",
    ["http://me:secret", "http://me:se/cr@x:1", "http://x:y", "//", "https://me:secret@x:1"],
)
def test_a_malformed_proxy_is_told_without_its_password(
    azure: Azure, python: Python, proxy: str
) -> None:
    outcome = python(QUICK + ASK, HTTPS_PROXY=proxy, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert outcome.value is None
    assert "the proxy is not an http URL; correct HTTPS_PROXY" in outcome.stderr
    assert "secret" not in outcome.stderr


@pytest.mark.parametrize(
    ("answer", "words", "attempts"),
    [
        ("407 No", "Tunnel connection failed: 407", 1),
        ("403 No", "Tunnel connection failed: 403", 1),
        ("403 \x1b[1mNo", "Tunnel connection failed: 403 [1mNo", 1),
        ("502 No", "Tunnel connection failed: 502", 3),
        ("503 No", "Tunnel connection failed: 503", 3),
        ("200 OK", "", 3),  # and then hangs up, in the middle of the TLS handshake
    ],
)
def test_a_proxy_that_refuses_is_told(
    azure: Azure, python: Python, answer: str, words: str, attempts: int
) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        asked = []

        def refuse() -> None:
            while True:
                connection, _ = proxy.accept()
                asked.append(connection.recv(4096))
                connection.sendall(f"HTTP/1.1 {answer}\r\n\r\n".encode())
                connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        outcome = python(QUICK + ASK, HTTPS_PROXY=url)
    assert f"pkgs.dev.azure.com: no connection: {words}" in outcome.stderr
    assert len(asked) == attempts


def test_text_from_outside_is_made_harmless() -> None:
    token = "eyJhbGciOiJub25lIn0.eyJhIjoxfQ.c2ln"
    assert module.clean(f"a\r\n\x1b[1mb\u2028c {token} d") == "a [1mb c [removed] d"
    assert module.clean("x" * 39) == "x" * 39
    assert module.clean("x" * 40) == "[removed]"
    assert module.clean("0.AXkAvH.x-y_z." + "AgAB" * 5) == "[removed]"
    assert module.clean("aBc8Q~" + "x" * 34) == "[removed]"
    assert (
        module.clean("p@ss at https://me:p@ss@host/p@th", "p@ss")
        == "[removed] at https://host/p@th"
    )
    assert module.clean("1b4e28ba-2fa1-11d2-883f-0016d3cca427").startswith("1b4e28ba")
    assert len(module.clean("many words " * 1000)) == 400


def test_an_answer_that_echoes_the_token_is_not_shown(azure: Azure, python: Python) -> None:
    def echo(handler: Handler) -> None:
        handler.wfile.write(handler.headers["Authorization"].encode() + b"\r\n\r\n")

    azure.az_signed_in("short-secret")
    azure.faults[AUTHORITY] = [echo] * 3
    outcome = python(QUICK + ASK, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert "vssps.dev.azure.com: the answer is not HTTP or breaks off" in outcome.stderr
    assert "short-secret" not in outcome.stderr


def test_no_token_is_on_a_command_line(azure: Azure, ask: Ask) -> None:
    token = azure.az_signed_in()
    assert ask(INDEX_URL).value
    assert token not in " ".join(azure.az_runs) + os.sep
