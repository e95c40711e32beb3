"""Ask keyring in a circumstance: python circumstances.py CIRCUMSTANCE DIALS.

The dials are constants of the module, in JSON. It prints each password that it gets.
"""

from __future__ import annotations

import atexit
import json
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
module.log.addHandler(module.logging.NullHandler())
password = module.ArtifactsKeyringBackend().get_password({INDEX_URL!r}, None)
print(password, flush=True)
"""


def ask(url: str = INDEX_URL) -> None:
    keyring = import_module("keyring")  # not before gevent has replaced things
    module = import_module("artifacts_keyring_nofuss")
    for name, value in json.loads(sys.argv[2]).items():
        assert hasattr(module, name)
        setattr(module, name, value)
    print(keyring.get_password(url, "me"), flush=True)
    with suppress(AttributeError, ChildProcessError):  # Windows has no zombies
        print("a child is left:", os.waitpid(-1, os.WNOHANG), file=sys.stderr)


def without_threads() -> None:
    """As in a container with a limit of processes, which holds for threads, too."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threading.Thread.start = start  # type: ignore[method-assign]
    ask()


def while_python_ends() -> None:
    """From Python 3.12 on, no thread can be started then."""
    atexit.register(ask)


def under_gevent() -> None:
    """It puts its own sockets, threads and processes in place of Python's."""
    import_module("gevent.monkey").patch_all()
    ask()


def with_children_ignored() -> None:
    """Nobody can tell how they ended."""
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
    {
        "plainly": ask,
        "without threads": without_threads,
        "while Python ends": while_python_ends,
        "under gevent": under_gevent,
        "with children ignored": with_children_ignored,
        "in an isolated interpreter": in_an_isolated_interpreter,
        "amid a fork": amid_a_fork,
    }[sys.argv[1]]()
