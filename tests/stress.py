"""The README's promises under stress: `nox -s stress`, or `-- FIRST LAST` for few.

Each round draws a world: a way to sign in, faults for any answer, an az that may hang,
a clock that is wrong. In it, threads and a main thread that is interrupted ask keyring
for several feeds; time passes, and they ask again. Each time the promises are checked.
The module runs in this very process (not on Windows, which has no timer to interrupt).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from logging import LogRecord
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import keyring

import artifacts_keyring_nofuss as module
from identities import PAT, WAYS, opaque_user, token_of_user, user
from simulated_azure import (
    CLIENT_SECRET,
    INDEX_URL,
    REQUEST_TOKEN,
    SECRET_HEADER,
    UPLOAD_URL,
    Answer,
    Azure,
    Handler,
    Issued,
    service_at,
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

THREADS = 16
LIMIT = 8.0  # of a sign-in with every kind of bad luck, on a busy machine
DIALS: dict[str, Any] = {
    "ATTEMPT_LIMIT": 0.1,
    "AZ_LIMIT": 0.3,
    "PAUSES": [0.005, 0.01],
    "IMDS_PAUSES": [0.005, 0.01],
}
URLS = [
    url.replace("contoso", organization)
    for organization in ("contoso", "fabrikam", "adatum")
    for url in (INDEX_URL, INDEX_URL.replace("private", "other"), UPLOAD_URL)
]


def hang(handler: Handler) -> None:
    """Say nothing for longer than an attempt may take."""
    handler.connection.settimeout(0.3)
    with suppress(OSError):
        handler.connection.recv(1)


FAULTS = [
    *(*BROKEN, *OVERLOADED, *DRIPS.values(), hang),
    *map(status, (200, 302, 400, 401, 403, 404)),
    *(nonsense, echo, echo_phrase, redirect),
]
AFTERWARDS = "import atexit; atexit.register(lambda: sys.stdout.flush() or "


class World(Azure):
    """What a round draws, the record of what keyring does there, and the promises.

    What happens is appended to lists, for an interrupt may leave a lock held.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.random = number, Random(number)
        self.luck = Random(number)  # of the threads
        self.trouble = self.random.choice([0, 0.1, 0.3, 0.6])
        self.way = self.random.choice([*WAYS, opaque_user])
        self.lifetime = self.random.choice([600, HOUR, 9 * HOUR])
        self.wrong_by = 0  # of this machine's clock, whose time passes with Azure's
        faults: Any = SimpleNamespace(pop=self.draw_fault)
        self.faults = dict.fromkeys(self.faults, faults)
        self.lifelines = self.enter_context(Lifelines())
        self.broken: list[str] = []
        self.log: list[str] = []
        self.events: list[str] = []
        self.running: list[str] = []  # attempts to reach somebody
        # Since the time last passed, by what shares an outcome
        self.worked: list[object] = []
        self.interrupts: list[object] = []

    def record(self, record: LogRecord) -> None:
        """Note what is logged, and let nobody else handle it."""
        self.log.append(record.getMessage())

    def promise(self, kept: object, text: str) -> None:
        if not kept:
            self.broken.append(f"round {self.number}: {text}")

    # --- What the module sees

    def draw_fault(self, _index: int) -> Answer:
        if self.luck.random() >= self.trouble:
            raise LookupError
        self.events.append("faults")
        return self.luck.choice(FAULTS)

    def az(self, source: str) -> None:
        """Put an az on PATH that does what it is to, or that is in trouble."""
        troubles = [
            "time.sleep(0.1)",
            "sys.stderr.write('WARNING: beware ' * 65536)",
            f"{AFTERWARDS}time.sleep(0.5))",
            f"{AFTERWARDS}os.fork() or time.sleep(0.5))",
            self.lifelines.hang,
            """sys.exit(print('{"accessToken": 7}'))""",
            f"sys.exit('ERROR: not signed in with {[*self.bearers][-1]}')",
        ]
        drawn = self.random.choice([*troubles, *[""] * 5]) if self.trouble else ""
        super().az(f"{drawn}\n{source}")

    def pass_time(self) -> None:
        self.skew += self.random.choice([1, 40, 80, 280, 320, HOUR + 10])
        self.wrong_by = self.random.choice([0, -3, 3, 90_000]) * HOUR

    def attributes(self) -> dict[str, Any]:
        """Return what to set in the module: dials, clocks, and who counts its work."""
        discover, sign_in, send = module.discover, module.sign_in, module.send

        def counted_discover(feed: module.Feed) -> module.Challenge:
            self.worked.append(feed.url)
            return discover(feed)

        def counted_sign_in(
            feed: module.Feed, challenge: module.Challenge
        ) -> module.Token:
            key = () if challenge.is_public else feed.key
            try:
                return sign_in(feed, challenge)
            except module.SignInError as error:
                if "the feed answered 403" in error.reason:  # this one's alone
                    key = ()
                raise
            finally:
                self.worked.append(key)

        def counted_send(url: str, *request: Any) -> module.Response:
            self.running.append(url)
            try:
                return send(url, *request)
            finally:
                self.running.remove(url)

        clocks = {
            "time": lambda: self.now() + self.wrong_by,
            "monotonic": lambda: time.monotonic() + self.skew,
        }
        return {
            **DIALS,
            "discover": counted_discover,
            "sign_in": counted_sign_in,
            "send": counted_send,
            "time": SimpleNamespace(**{**vars(time), **clocks}),
        }

    # --- What is asked

    def ask(self, url: str) -> bool:
        """Ask keyring and check what it returns; tell whether it is a credential."""
        now, start = self.now(), time.monotonic()
        self.events.append("asked")
        try:
            credential = keyring.get_credential(url, None)
        finally:
            seconds = time.monotonic() - start
            self.promise(seconds < LIMIT, f"{url}: after {seconds:.1f} s")
        if credential:
            self.events.append("credentials")
            self.check_password(url, credential.password, now)
        return bool(credential)

    def ask_interrupted(self, urls: list[str], within: float) -> None:
        url, raised = self.random.choice(urls), []

        def interrupt(*_: object) -> None:
            raised.append(url)
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, self.random.uniform(1e-6, within))
            self.ask(url)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.promise(not raised, f"{url}: an interrupt did not go through")
        except KeyboardInterrupt:
            self.events.append("interrupted")
            feed = module.parse_feed(url)
            assert feed
            self.interrupts += [url, feed.key]

    def ask_all(self, pool: ThreadPoolExecutor) -> None:
        """Let all threads ask at once, and the main thread meanwhile and afterwards."""
        self.worked.clear()
        self.interrupts.clear()
        urls = self.random.choices(URLS, k=THREADS)
        environment = self.environment(**self.way(self))
        with patch.dict(os.environ, environment, clear=True):
            asks = [pool.submit(self.ask, url) for url in urls]
            for _ in range(5):
                self.ask_interrupted(URLS, 0.5)
            known = [url for url, ask in zip(urls, asks) if ask.result()]
            for _ in range(40 if known else 0):  # while it is looked up in memory
                self.ask_interrupted(known, 2e-4)
            self.check()

    # --- What is promised

    def check_password(self, url: str, password: str, now: float) -> None:
        if password == PAT:  # as it was given
            return
        scope = module.WRITE if "upload" in url else module.READ
        issued = self.session_tokens.get(password)
        if password in self.bearers:  # of an application: it is good for all
            issued = Issued("", [scope], self.bearers[password]["exp"])
            is_person = self.way in (user, token_of_user)
            self.promise(not is_person, f"{url}: a person's own token")
        if not issued:
            return self.promise(False, f"{url}: a password that was never issued")
        is_here = issued.organization in ("", url.split("/")[3])
        self.promise(is_here, f"{url}: a token of another")
        self.promise(issued.scopes == [scope], f"{url}: {issued.scopes}")
        late = now - issued.expires
        self.promise(late < 0, f"{url}: a token {late:.2f} s past its end")

    def check(self) -> None:
        """When all are answered: nothing runs on or leaks, nobody worked in vain."""
        self.lifelines.server.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                self.promise(ended(self.lifelines.accept()), "az runs on")
        with ThreadPoolExecutor(1) as stranger:  # who holds none
            free = [*stranger.map(is_free, [*module.locks.values()])]
        self.promise(all(free), "a lock is held")
        for key, times in Counter(self.worked).items():
            most = 1 + self.interrupts.count(key)
            self.promise(not key or times <= most, f"{key}: {times} times")
        log = "\n".join(self.log)
        secrets = [PAT, CLIENT_SECRET, REQUEST_TOKEN, SECRET_HEADER]
        for secret in [*secrets, *self.session_tokens, *self.bearers]:
            parts = secret[:100], secret[-40:]
            self.promise(not any(part in log for part in parts), "a secret is logged")
        self.promise("please report" not in log, "there is something to report")
        strangers = [host for host in self.connects if not service_at(host)]
        self.promise(not strangers, f"asked were {strangers}")

    def check_calm(self) -> None:
        """After all the trouble, a sign-in works as if nothing had been."""
        self.trouble, self.way, self.encrypted = 0, user, False
        module.memory.clear()
        environment = patch.dict(os.environ, self.environment(**user(self)), clear=True)
        with environment, patch.multiple(module, ATTEMPT_LIMIT=10.0, AZ_LIMIT=30.0):
            for url in self.random.sample(URLS, 2):
                self.promise(self.ask(url), f"{url}: no credential in calm")

    def check_end(self) -> None:
        """What was late ends soon, and no child stays but an az that went on."""
        until = time.monotonic() + 3
        while (self.running or has_child()) and time.monotonic() < until:
            time.sleep(0.005)
        self.promise(not self.running, "an attempt goes on")
        self.promise(not has_child(), "a child is left")


def is_free(lock: threading.RLock) -> bool:
    is_free = lock.acquire(timeout=1.0)
    if is_free:
        lock.release()
    return is_free


def has_child() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)  # an az that went on may have ended meanwhile
    except ChildProcessError:
        return False
    return True


def play(number: int, pool: ThreadPoolExecutor) -> Counter[str]:
    """Play a round, tell of broken promises, and return how often what happened."""
    module.memory.clear()
    with World(number) as world:
        # A filter, for a handler has a lock, which an interrupt could leave held
        log = patch.object(module.log, "filters", [world.record])
        with log, patch.multiple(module, **world.attributes()):
            for _ in range(2):
                world.ask_all(pool)
                world.pass_time()
            world.check_calm()
            world.check_end()
    for line in world.broken:
        print(line, flush=True)
    return Counter([*world.events, *("broken promises" for _ in world.broken)])


def main() -> int:
    first, last = map(int, sys.argv[1:] or (1, 300))  # seeds of worlds
    if not hasattr(signal, "setitimer"):
        sys.exit("there is no timer here to interrupt by")
    module.log.setLevel("DEBUG")
    sys.unraisablehook = lambda _: None  # tells of threads killed as they start
    keyring.get_keyring()  # which is not safe to call from several threads
    count: Counter[str] = Counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(first, last + 1):
            count += play(number, pool)
    print(count)
    return min(count["broken promises"], 1)


if __name__ == "__main__":
    sys.exit(main())
