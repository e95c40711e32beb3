"""The README's promises under stress: `nox -s stress`, or `python tests/stress.py --rounds 1000`.

Each round draws a world: a way to sign in, faults for any answer, an az that may hang, a clock that
is wrong. In it, threads and a main thread that is interrupted ask keyring for several feeds; time
passes, and they ask again. Each time the promises are checked. The module runs in this very process
(not on Windows, which has no timer to interrupt it).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from types import SimpleNamespace
from typing import Any, Callable
from unittest.mock import patch

import keyring

import artifacts_keyring_nofuss as module
from simulated_azure import (
    CLIENT_SECRET,
    FEED,
    INDEX_URL,
    REQUEST_TOKEN,
    SECRET_HEADER,
    TENANT,
    UPLOAD_URL,
    Answer,
    Azure,
    Handler,
    Issued,
)
from simulated_machine import HOUR, Lifelines, ended
from simulated_services import service_at
from test_http import cut, cut_chunked, drop, garbage, hang, reset, status

THREADS = 16
INTERRUPTS = 5  # that come during a sign-in
QUICK_INTERRUPTS = 40  # that come while a token is looked up in memory
LIMIT = 0.5  # of a sign-in
SLACK = 3.0  # what a busy machine may add to it
DIALS = {
    "SIGN_IN_LIMIT": LIMIT,
    "HTTP_LIMIT": 0.3,
    "ATTEMPT_LIMIT": 0.1,
    "AZ_LIMIT": 0.3,
}
PATIENT_DIALS: dict[str, Any] = {name: 100 * seconds for name, seconds in DIALS.items()}
URLS = [
    url.replace("contoso", organization)
    for organization in ("contoso", "fabrikam", "adatum")
    for url in (INDEX_URL, UPLOAD_URL)
]
PAT = "a-personal-access-token"


# --- What is drawn


def drip(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{")
    for _ in range(20):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def echo(handler: Handler) -> None:
    """Answer with what was sent, secrets and all."""
    handler.answer(400, {"message": f"{handler.headers} {handler.body!r}"})


def nonsense(handler: Handler) -> None:
    handler.answer(200, {"token": ["x"], "access_token": 7, "expires_in": "soon", "value": ""})


def astray(handler: Handler) -> None:
    """Name a token service that is not Azure's."""
    headers = {
        "X-VSS-ResourceTenant": TENANT,
        "X-VSS-AuthorizationEndpoint": "https://vssps.dev.azure.com.example/contoso",
    }
    handler.answer(401, "<html>", headers)


TRANSIENT: list[Answer] = [drop, reset, cut, cut_chunked, garbage, hang, drip]
TRANSIENT += [status(code) for code in (429, 500, 503)]
TRANSIENT += [status(429, **{"Retry-After": value}) for value in ("-1", "9" * 99, "0.01")]
FINAL: list[Answer] = [status(code) for code in (200, 302, 400, 401, 403, 404)]
FINAL += [nonsense, echo, astray]


def user(azure: Azure) -> str:
    return azure.entra_token()


def encrypted_user(azure: Azure) -> str:
    azure.encrypted = True
    return azure.entra_token()


def application(azure: Azure) -> str:
    return azure.application_token()


def identity(azure: Azure) -> dict[str, str]:
    azure.identity = azure.application_token()
    return {}


def app_service(azure: Azure) -> dict[str, str]:
    return {**identity(azure), **azure.app_service()}


def made_elsewhere(azure: Azure) -> dict[str, str]:
    azure.passwords[PAT] = Issued("", [module.WRITE])
    return {"ARTIFACTS_KEYRING_NOFUSS_TOKEN": PAT}


# Each returns the token that az gives, or the variables for another way to sign in.
SIGN_INS: list[Callable[[Azure], str | dict[str, str]]] = [user, encrypted_user, application]
SIGN_INS += [identity, app_service, made_elsewhere]
SIGN_INS += [Azure.github_job, Azure.pod, Azure.client_secret]


def sources_of_az(token: str, azure: Azure, lifelines: Lifelines) -> list[str]:
    """Return what az may do, from the good to the bad."""
    answer = f"print({azure.az_answer(token)!r})\n"
    return [
        *[answer] * 5,
        f"time.sleep(0.1)\n{answer}",
        f"sys.stderr.write('WARNING: beware ' * 65536)\n{answer}",
        f"{lifelines.connect}\nif os.fork():\n  {answer}  sys.exit()\ntime.sleep({HOUR})",
        lifelines.hang,
        """print('{"accessToken": 7}')""",
        f"sys.exit('ERROR: not signed in with {token}')",
    ]


class Interrupt(Exception):
    """What the caller's own signal handler raises."""


class Log(logging.Handler):
    """What was logged; without a lock, which an interrupt could leave held."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def handle(self, record: logging.LogRecord) -> bool:
        self.lines.append(record.getMessage())
        return True


# --- A world, and what is promised in it


class World:
    """What a round draws, and the record of what keyring does there."""

    def __init__(
        self, number: int, azure: Azure, lifelines: Lifelines, count: Counter[str]
    ) -> None:
        self.random, self.luck = Random(number), Random(number)  # the second one is of the threads
        self.number, self.azure, self.lifelines, self.count = number, azure, lifelines, count
        self.trouble = self.random.choice([0, 0.1, 0.3, 0.6])
        self.way_to_sign_in = self.random.choice(SIGN_INS)
        self.passed = self.wrong_by = 0.0  # seconds, of the time and of this machine's clock
        azure.lifetime = self.random.choice([600, HOUR, 9 * HOUR])
        azure.faults = {kind: Draws(self, kind) for kind in azure.faults}
        self.broken: list[str] = []
        self.log = Log()
        self.lock = threading.Lock()
        self.running = 0  # sign-ins
        # Since the time last passed, by URL
        self.sign_ins: Counter[str] = Counter()
        self.interrupts: Counter[str] = Counter()
        # Likewise, by organization: answers that are of one feed alone, so they are not remembered
        self.forgotten: Counter[str] = Counter()

    def draw_fault(self, kind: str) -> Answer | None:
        if self.luck.random() >= self.trouble:
            return None
        fault = self.luck.choice([*TRANSIENT, *FINAL])
        self.add(self.count, "faults")
        if kind != FEED or fault in TRANSIENT:
            return fault

        def answer(handler: Handler) -> None:
            self.add(self.forgotten, handler.route.split("/")[1])
            fault(handler)

        return answer

    def add(self, counter: Counter[str], key: str) -> None:
        with self.lock:
            counter[key] += 1

    def promise(self, kept: object, text: str) -> None:
        if not kept:
            self.broken.append(f"round {self.number}: {text}")

    # --- What the module sees

    def environment(self) -> dict[str, str]:
        """Let it be possible to sign in, perhaps, by tokens that are new."""
        given = self.way_to_sign_in(self.azure)
        if not isinstance(given, str):
            return self.azure.environment(**given)
        self.azure.az(self.random.choice(sources_of_az(given, self.azure, self.lifelines)))
        return self.azure.environment()

    def pass_time(self) -> None:
        seconds = self.random.choice([1, 200, 590, 610, HOUR - 10, HOUR + 10, 9 * HOUR])
        self.passed += seconds
        self.azure.skew += seconds
        self.wrong_by = self.random.choice([0, -3, 3, 90_000]) * HOUR

    def attributes(self) -> dict[str, Any]:
        """Return what to set in the module: the dials, the clocks, and who counts the sign-ins."""
        real_now, real_sign_in = module.now, module.sign_in

        def sign_in(feed: module.Feed, *arguments: Any) -> Iterator[tuple[str, module.Token]]:
            self.add(self.sign_ins, feed.url)
            with self.lock:
                self.running += 1
            try:
                yield from real_sign_in(feed, *arguments)
            finally:
                with self.lock:
                    self.running -= 1

        local_time = {"time": lambda: time.time() + self.passed + self.wrong_by}
        return {
            **DIALS,
            "RETRY_PAUSES": (0.005, 0.01),
            "sign_in": sign_in,
            "time": SimpleNamespace(**{**vars(time), **local_time}),
            "now": lambda: real_now() + self.passed,
        }

    # --- What is asked

    def ask(self, url: str) -> str | None:
        """Ask keyring, check what it returns, and return the password."""
        now, start = self.azure.now(), time.monotonic()
        self.add(self.count, "asked")
        try:
            credential = keyring.get_credential(url, None)
        finally:
            seconds = time.monotonic() - start
            limit = module.SIGN_IN_LIMIT + SLACK
            self.promise(seconds < limit, f"{url}: an answer after {seconds:.1f} s")
        if not credential:
            return None
        self.add(self.count, "credentials")
        self.check_password(url, credential.password, now)
        return credential.password

    def ask_interrupted(self, url: str, delay: float) -> None:
        error = self.random.choice([KeyboardInterrupt, TimeoutError, Interrupt])
        raised = []

        def interrupt(*_: object) -> None:
            raised.append(error)
            raise error

        signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))
            self.ask(url)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException as caught:
            self.add(self.count, "interrupted")
            self.add(self.interrupts, url)
            # Inside Thread.start(), some Pythons make it a KeyError.
            kinds = type(caught), type(caught.__context__)
            self.promise(error in kinds, f"{url}: {caught!r} instead of {error.__name__}")
        else:
            self.promise(not raised, f"{url}: {error.__name__} did not go through")

    def ask_all(self, pool: ThreadPoolExecutor) -> None:
        """Let all threads ask at once, and the main thread meanwhile and afterwards."""
        for counter in (self.sign_ins, self.interrupts, self.forgotten):
            counter.clear()
        urls = self.random.choices(URLS, k=THREADS)
        with patch.dict(os.environ, self.environment(), clear=True):
            asks = [pool.submit(self.ask, url) for url in urls]
            for _ in range(INTERRUPTS):
                self.ask_interrupted(self.random.choice(URLS), self.random.uniform(0, LIMIT))
            known = [url for url, ask in zip(urls, asks) if ask.result()]
            for _ in range(QUICK_INTERRUPTS if known else 0):
                self.ask_interrupted(self.random.choice(known), self.random.uniform(0, 2e-4))
            self.check()

    # --- What is promised

    def check_password(self, url: str, password: str, now: float) -> None:
        azure, organization = self.azure, url.split("/")[3]
        scope = module.WRITE if "upload" in url else module.READ
        issued = azure.session_tokens.get(password) or azure.passwords.get(password)
        if password in azure.bearers:  # of an application: it is good for all
            issued = Issued("", [], azure.bearers[password]["exp"])
        if not issued:
            return self.promise(False, f"{url}: a password that was never issued")
        self.promise(issued.organization in ("", organization), f"{url}: a token of another")
        self.promise(issued.scopes in ([], [scope]) or password == PAT, f"{url}: {issued.scopes}")
        late = now - issued.expires
        self.promise(late < 0, f"{url}: a token {late:.2f} s past its end")

    def check(self) -> None:
        """When all have been answered: nothing runs on, nothing leaked, nobody worked in vain."""
        until = time.monotonic() + LIMIT + SLACK
        while self.running and time.monotonic() < until:
            time.sleep(0.005)
        self.promise(not self.running, "a sign-in goes on")
        self.promise(not module.processes, "a program is still known as running")
        with suppress(ChildProcessError):  # for there is none
            self.promise(os.waitpid(-1, os.WNOHANG) is None, "a child is left")
        self.lifelines.server.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                self.promise(ended(self.lifelines.accept()), "az runs on")
        for lock in [*module.locks.values()]:
            self.promise(is_free(lock), "a lock is held")
        for url in URLS:
            most = 1 + self.interrupts[url] + self.forgotten[url.split("/")[3]]
            self.promise(self.sign_ins[url] <= most, f"{url}: {self.sign_ins[url]} sign-ins")
        self.count["sign-ins"] += sum(self.sign_ins.values())
        azure, log = self.azure, "\n".join(self.log.lines)
        secrets = [PAT, CLIENT_SECRET, REQUEST_TOKEN, SECRET_HEADER]
        for secret in [*secrets, *azure.session_tokens, *azure.bearers]:
            parts = secret[:100], secret[-40:]
            self.promise(not any(part in log for part in parts), "a secret is in the log")
        strangers = [host for host in azure.connects if not service_at(host)]
        self.promise(not strangers, f"asked were {strangers}")

    def check_calm(self) -> None:
        """After all the trouble, a sign-in works as if nothing had been."""
        self.trouble, self.way_to_sign_in = 0, user
        module.memories.clear()
        self.azure.az_signed_in()
        environment = patch.dict(os.environ, self.azure.environment(), clear=True)
        with environment, patch.multiple(module, **PATIENT_DIALS):
            for url in self.random.sample(URLS, 2):
                self.promise(self.ask(url), f"{url}: no credential in calm")


def is_free(lock: Any) -> bool:
    """Tell whether a thread can have a lock that belongs to none."""
    outcome: list[bool] = []

    def take() -> None:
        outcome.append(lock.acquire(timeout=1.0))
        if outcome[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return outcome[0]


class Draws(list[Answer]):
    """Stands for the faults of a service, of which the simulated Azure pops one for each answer."""

    def __init__(self, world: World, kind: str) -> None:
        self.world, self.kind = world, kind

    def pop(self, _index: Any = -1) -> Answer:
        fault = self.world.draw_fault(self.kind)
        if not fault:
            raise LookupError
        return fault


def play(number: int, pool: ThreadPoolExecutor, count: Counter[str]) -> list[str]:
    """Play a round; return the promises that were broken."""
    with Azure() as azure, Lifelines() as lifelines:
        world = World(number, azure, lifelines, count)
        logging.getLogger().addHandler(world.log)
        module.memories.clear()
        with patch.multiple(module, **world.attributes()):
            for _ in range(2):
                world.ask_all(pool)
                world.pass_time()
            world.check_calm()
        logging.getLogger().removeHandler(world.log)
        count["runs of az"] += len(azure.az_runs)
        count["requests"] += len(azure.requests)
        return world.broken


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--first", type=int, default=1, help="the seed of the first one")
    options = parser.parse_args()
    if not hasattr(signal, "setitimer"):
        sys.exit("there is no timer here to interrupt by")
    logging.getLogger().setLevel(logging.DEBUG)
    sys.unraisablehook = lambda _: None  # tells of threads that an interrupt kills as they start
    keyring.get_keyring()  # which is not safe to call from several threads
    count: Counter[str] = Counter()
    broken: list[str] = []
    start = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(options.first, options.first + options.rounds):
            news = play(number, pool, count)
            print(*news, sep="\n", end="\n" if news else "", flush=True)
            broken += news
    count["broken promises"] = len(broken)
    print(f"{options.rounds} rounds in {time.monotonic() - start:.0f} s:")
    print(*(f"  {number} {what}" for what, number in count.items()), sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
