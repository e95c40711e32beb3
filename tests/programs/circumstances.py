"""Ask keyring in a circumstance, and show what it returns."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path

INDEX_URL = "https://pkgs.dev.azure.com/contoso/_packaging/private/pypi/simple/"
UPLOAD_URL = INDEX_URL.replace("simple", "upload")
ISOLATED = f"""
import artifacts_keyring_nofuss as module
password = module.ArtifactsKeyringBackend().get_password({INDEX_URL!r}, None)
print('["me", "' + password + '"]', flush=True)
"""


def ask(url: str = INDEX_URL) -> None:
    prelude = import_module("prelude")  # not before gevent has replaced things
    prelude.show(prelude.ask(url))


def plainly() -> None:
    ask()
    with suppress(AttributeError, ChildProcessError):  # there is no zombie
        sys.exit(f"left is a child: {os.waitpid(-1, os.WNOHANG)}")


def without_threads() -> None:
    """As in a container with a limit of processes, which holds for threads, too."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = start  # type: ignore[assignment, method-assign]
    ask()


def while_it_ends() -> None:
    """From Python 3.12 on, no thread can be started then."""
    import_module("prelude")
    atexit.register(ask)


def under_gevent() -> None:
    """It puts its own sockets, threads and processes in place of Python's."""
    import_module("gevent.monkey").patch_all()
    ask()


def with_children_ignored() -> None:
    """Nobody can tell how they ended."""
    import_module("prelude").keyring.get_keyring()  # which runs some of its own
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    ask()


def in_an_isolated_interpreter() -> None:
    """It has neither daemon threads nor fork(), and before Python 3.12 no processes."""
    if sys.version_info >= (3, 13):
        interpreters = import_module("_interpreters")
        isolated = interpreters.create("isolated")
    else:
        interpreters = import_module("_xxsubinterpreters")
        isolated = interpreters.create(isolated=True)
    failure = interpreters.run_string(isolated, ISOLATED)
    assert not failure, failure


def amid_a_fork() -> None:
    """Fork while az runs for another thread; the child has the memory, but no locks."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of just this
    folder = Path(os.environ["FOLDER"])
    ask(UPLOAD_URL)
    thread = threading.Thread(target=ask)
    thread.start()
    while not (folder / "started").exists():
        time.sleep(0.01)

    if not os.fork():
        signal.alarm(30)  # so that it never stays
        ask(UPLOAD_URL)
        ask()
        (folder / "go").touch()
        os._exit(0)
    os.wait()
    thread.join()


if __name__ == "__main__":
    globals()[sys.argv[1].replace(" ", "_")]()
