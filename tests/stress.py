"""The README's promises under stress: `nox -s stress`, or `python tests/stress.py`.

Each round draws a world: a way to sign in, faults for any answer, an az that may hang,
a clock that is wrong. In it, threads and a main thread that is interrupted ask keyring
for several feeds; time passes, and they ask again. Each time the promises are checked.
The module runs in this very process (not on Windows, which has no timer to interrupt).
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from types import SimpleNamespace
from typing import Any, Callable
from unittest.mock import patch

import keyring

import artifacts_keyring_nofuss as module
from identities import (
    PAT,
    TOKEN,
    app_service,
    azure_ml,
    managed_identity,
    token_of_user,
)
from simulated_azure import (
    CLIENT_SECRET,
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
from simulated_faults import (
    BROKEN,
    DRIPS,
    OVERLOADED,
    echo,
    echo_phrase,
    nonsense,
    redirect,
    status,
)
from simulated_machine import HOUR, Lifelines, ended
from simulated_services import service_at

THREADS = 16
INTERRUPTS = 5  # that come during a sign-in
QUICK_INTERRUPTS = 40  # that come while a password is looked up in memory
HORIZON = 0.5  # within which the interrupts come
LIMIT = 5.0  # of a sign-in that has every kind of bad luck, and waits for such another
SLACK = 3.0  # what a busy machine may add to it
DIALS: dict[str, Any] = {"ATTEMPT_LIMIT": 0.1, "AZ_LIMIT": 0.3}
PATIENT_DIALS = {name: 100 * seconds for name, seconds in DIALS.items()}
PAUSES = {"PAUSES": [0.005, 0.01], "IMDS_PAUSES": [0.005, 0.01]}
FEEDS = [INDEX_URL, INDEX_URL.replace("private", "other"), UPLOAD_URL]
URLS = [
    url.replace("contoso", organization)
    for organization in ("contoso", "fabrikam", "adatum")
    for url in FEEDS
]


# --- What is drawn


def hang(handler: Handler) -> None:
    """Say nothing for longer than an attempt may take."""
    handler.connection.settimeout(0.3)
    with suppress(OSError):
        handler.connection.recv(1)


def astray(handler: Handler) -> None:
    """Name a token service that is not Azure's."""
    headers = {
        "X-VSS-ResourceTenant": TENANT,
        "X-VSS-AuthorizationEndpoint": "https://vssps.dev.azure.com.example/contoso",
    }
    handler.answer(401, "<html>", headers)


FAULTS: list[Answer] = [*BROKEN, *OVERLOADED, *DRIPS.values(), hang]
FAULTS += [status(code) for code in (200, 302, 400, 401, 403, 404)]
FAULTS += [nonsense, echo, echo_phrase, redirect, astray]


def user(azure: Azure) -> str:
    return azure.entra_token()


def encrypted_user(azure: Azure) -> str:
    azure.encrypted = True
    return azure.entra_token()


def application(azure: Azure) -> str:
    return azure.application_token()


def made_elsewhere(azure: Azure) -> dict[str, str]:
    azure.passwords[PAT] = Issued("", [module.WRITE])
    return {TOKEN: PAT}


# Each returns the token that az gives, or the variables for another way to sign in.
WAYS: list[Callable[[Azure], str | dict[str, str]]] = [
    user,
    encrypted_user,
    application,
]
WAYS += [managed_identity, app_service, azure_ml, made_elsewhere, token_of_user]
WAYS += [Azure.github_job, Azure.pod, Azure.client_secret]


def sources_of_az(token: str, azure: Azure, lifelines: Lifelines) -> list[str]:
    """Return what az may do, from the good to the bad."""
    answer = f"print({azure.az_answer(token)!r}, flush=True)\n"
    return [
        *[answer] * 5,
        f"time.sleep(0.1)\n{answer}",
        f"sys.stderr.write('WARNING: beware ' * 65536)\n{answer}",
        f"{answer}time.sleep(0.5)",
        f"{answer}if os.fork(): sys.exit()\ntime.sleep(0.5)",
        lifelines.hang,
        """print('{"accessToken": 7}')""",
        f"sys.exit('ERROR: not signed in with {token}')",
    ]


class Interrupt(BaseException):
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

    def __init__(self, number: int, azure: Azure, lifelines: Lifelines) -> None:
        self.random = Random(number)
        self.luck = Random(number)  # of the threads
        self.number, self.azure, self.lifelines = number, azure, lifelines
        self.trouble = self.random.choice([0, 0.1, 0.3, 0.6])
        self.way = self.random.choice(WAYS)
        self.passed = 0.0  # seconds
        self.wrong_by = 0.0  # of this machine's clock
        azure.lifetime = self.random.choice([600, HOUR, 9 * HOUR])
        azure.faults = {kind: Draws(self) for kind in azure.faults}
        self.broken: list[str] = []
        self.log = Log()
        # What happens is appended to lists, for an interrupt may leave a lock held.
        self.events: list[str] = []
        self.running: list[object] = []  # attempts to reach somebody
        # Since the time last passed, by what shares an outcome
        self.worked: list[object] = []
        self.interrupts: list[object] = []

    def draw_fault(self) -> Answer | None:
        if self.luck.random() >= self.trouble:
            return None
        self.events.append("faults")
        return self.luck.choice(FAULTS)

    def promise(self, kept: object, text: str) -> None:
        if not kept:
            self.broken.append(f"round {self.number}: {text}")

    # --- What the module sees

    def environment(self) -> dict[str, str]:
        """Let it be possible to sign in, perhaps, by tokens that are new."""
        given = self.way(self.azure)
        if not isinstance(given, str):
            return self.azure.environment(**given)
        sources = sources_of_az(given, self.azure, self.lifelines)
        self.azure.az(self.random.choice(sources))
        return self.azure.environment()

    def pass_time(self) -> None:
        seconds = self.random.choice([1, 40, 80, 280, 320, HOUR + 10])
        self.passed += seconds
        self.azure.skew += seconds
        self.wrong_by = self.random.choice([0, -3, 3, 90_000]) * HOUR

    def attributes(self) -> dict[str, Any]:
        """Return what to set in the module: dials, clocks, and who counts its work."""
        real_discover, real_sign_in, real_send = (
            module.discover,
            module.sign_in,
            module.send,
        )

        def discover(feed: module.Feed) -> module.Challenge:
            self.worked.append(feed.url)
            return real_discover(feed)

        def sign_in(feed: module.Feed, challenge: module.Challenge) -> module.Token:
            try:
                token = real_sign_in(feed, challenge)
            except module.SignInError as error:
                if "the feed answered 403" not in error.reason:  # this one's alone
                    self.worked.append(None if challenge.is_public else feed.key)
                raise
            self.worked.append(None if challenge.is_public else feed.key)
            return token

        def send(*arguments: Any) -> module.Response:
            attempt = object()
            self.running.append(attempt)
            try:
                return real_send(*arguments)
            finally:
                self.running.remove(attempt)

        clocks = {
            "time": lambda: time.time() + self.passed + self.wrong_by,
            "monotonic": lambda: time.monotonic() + self.passed,
        }
        return {
            **DIALS,
            **PAUSES,
            "discover": discover,
            "sign_in": sign_in,
            "send": send,
            "time": SimpleNamespace(**{**vars(time), **clocks}),
        }

    # --- What is asked

    def ask(self, url: str) -> str | None:
        """Ask keyring, check what it returns, and return the password."""
        now, start = self.azure.now(), time.monotonic()
        self.events.append("asked")
        try:
            credential = keyring.get_credential(url, None)
        finally:
            seconds = time.monotonic() - start
            self.promise(seconds < LIMIT + SLACK, f"{url}: after {seconds:.1f} s")
        if not credential:
            return None
        self.events.append("credentials")
        self.check_password(url, credential.password, now)
        return credential.password

    def ask_interrupted(self, url: str, delay: float) -> None:
        error = self.random.choice([KeyboardInterrupt, Interrupt])
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
            self.events.append("interrupted")
            self.promise(type(caught) is error, f"{url}: {caught!r}, not {error}")
        else:
            self.promise(not raised, f"{url}: {error.__name__} did not go through")
        if raised:
            self.interrupts += [url, key_of(url)]

    def ask_all(self, pool: ThreadPoolExecutor) -> None:
        """Let all threads ask at once, and the main thread meanwhile and afterwards."""
        self.worked.clear()
        self.interrupts.clear()
        urls = self.random.choices(URLS, k=THREADS)
        with patch.dict(os.environ, self.environment(), clear=True):
            asks = [pool.submit(self.ask, url) for url in urls]
            for _ in range(INTERRUPTS):
                delay = self.random.uniform(0, HORIZON)
                self.ask_interrupted(self.random.choice(URLS), delay)
            known = [url for url, ask in zip(urls, asks) if ask.result()]
            for _ in range(QUICK_INTERRUPTS if known else 0):
                delay = self.random.uniform(0, 2e-4)
                self.ask_interrupted(self.random.choice(known), delay)
            self.check()

    # --- What is promised

    def check_password(self, url: str, password: str, now: float) -> None:
        azure, organization = self.azure, url.split("/")[3]
        scope = module.WRITE if "upload" in url else module.READ
        issued = azure.session_tokens.get(password) or azure.passwords.get(password)
        if password in azure.bearers:  # of an application: it is good for all
            issued = Issued("", [], azure.bearers[password]["exp"])
            is_person = self.way in (user, token_of_user)
            self.promise(not is_person, f"{url}: a person's own token")
        if not issued:
            return self.promise(False, f"{url}: a password that was never issued")
        is_here = issued.organization in ("", organization)
        self.promise(is_here, f"{url}: a token of another")
        is_narrow = issued.scopes in ([], [scope]) or password == PAT
        self.promise(is_narrow, f"{url}: {issued.scopes}")
        late = now - issued.expires
        self.promise(late < 0, f"{url}: a token {late:.2f} s past its end")

    def check(self) -> None:
        """When all are answered: nothing runs on or leaks, nobody worked in vain."""
        self.lifelines.server.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                self.promise(ended(self.lifelines.accept()), "az runs on")
        for lock in [*module.locks.values()]:
            self.promise(is_free(lock), "a lock is held")
        for key, times in Counter(self.worked).items():
            most = 1 + self.interrupts.count(key)
            self.promise(not key or times <= most, f"{key}: {times} times")
        keys = {key_of(url) for url in URLS}
        self.events += ["sign-ins" for work in self.worked if work in keys]
        azure, log = self.azure, "\n".join(self.log.lines)
        secrets = [PAT, CLIENT_SECRET, REQUEST_TOKEN, SECRET_HEADER]
        for secret in [*secrets, *azure.session_tokens, *azure.bearers]:
            parts = secret[:100], secret[-40:]
            self.promise(not any(part in log for part in parts), "a secret is logged")
        self.promise("please report" not in log, "there is something to report")
        strangers = [host for host in azure.connects if not service_at(host)]
        self.promise(not strangers, f"asked were {strangers}")

    def check_calm(self) -> None:
        """After all the trouble, a sign-in works as if nothing had been."""
        self.trouble, self.way = 0, user
        self.azure.encrypted = False
        module.memory.clear()
        self.azure.az_signed_in()
        environment = patch.dict(os.environ, self.azure.environment(), clear=True)
        with environment, patch.multiple(module, **PATIENT_DIALS):
            for url in self.random.sample(URLS, 2):
                self.promise(self.ask(url), f"{url}: no credential in calm")

    def check_end(self) -> None:
        """What was late ends soon, and no child stays but an az that went on."""
        until = time.monotonic() + SLACK
        while (self.running or has_child()) and time.monotonic() < until:
            time.sleep(0.005)
        self.promise(not self.running, "an attempt goes on")
        self.promise(not has_child(), "a child is left")


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


def key_of(url: str) -> tuple[str, ...]:
    """Return what feeds share a credential by."""
    feed = module.parse_feed(url)
    assert feed
    return feed.key


def has_child() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)  # an az that went on may have ended meanwhile
    except ChildProcessError:
        return False
    return True


class Draws(list[Answer]):
    """Stands for the faults of a service, of which one is popped for each answer."""

    def __init__(self, world: World) -> None:
        self.world = world

    def pop(self, _index: Any = -1) -> Answer:
        fault = self.world.draw_fault()
        if not fault:
            raise LookupError
        return fault


def play(number: int, pool: ThreadPoolExecutor, count: Counter[str]) -> list[str]:
    """Play a round; return the promises that were broken."""
    with Azure() as azure, Lifelines() as lifelines:
        world = World(number, azure, lifelines)
        logging.getLogger().addHandler(world.log)
        module.memory.clear()
        with patch.multiple(module, **world.attributes()):
            for _ in range(2):
                world.ask_all(pool)
                world.pass_time()
            world.check_calm()
            world.check_end()
        logging.getLogger().removeHandler(world.log)
        count.update(world.events)
        count["runs of az"] += len(azure.az_runs)
        count["requests"] += len(azure.requests)
        return world.broken


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument(
        "--first", type=int, default=1, help="the seed of the first one"
    )
    options = parser.parse_args()
    if not hasattr(signal, "setitimer"):
        sys.exit("there is no timer here to interrupt by")
    logging.getLogger().setLevel(logging.DEBUG)
    sys.unraisablehook = lambda _: None  # tells of threads killed as they start
    keyring.get_keyring()  # which is not safe to call from several threads
    count: Counter[str] = Counter()
    broken: list[str] = []
    start = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(options.first, options.first + options.rounds):
            news = play(number, pool, count)
            for line in news:
                print(line, flush=True)
            broken += news
    count["broken promises"] = len(broken)
    print(f"{options.rounds} rounds in {time.monotonic() - start:.0f} s:")
    print(*(f"  {number} {what}" for what, number in count.items()), sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
