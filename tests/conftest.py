"""Fixtures: a simulated Azure, ways to ask in it, and golden files."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import settings

from simulated_azure import INDEX_URL, Azure

# The parsers' tests are alike in every run; `nox -s fuzz` tries many new examples.
settings.register_profile("default", derandomize=True, deadline=None)
settings.register_profile("fuzz", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
# Of every asking process
DIALS: dict[str, Any] = {"PAUSES": [0.01, 0.02], "IMDS_PAUSES": [0.01] * 4}


class Asked(NamedTuple):
    """What keyring returned, what was logged of it, and what a client's user saw."""

    value: list[str] | None  # the username and the password
    log: str
    warnings: str
    stdout: str
    stderr: str

    @property
    def password(self) -> str | None:
        return self.value[1] if self.value else None

    @property
    def failure(self) -> str:
        """The warning, where there is no password."""
        assert self.value is None
        return self.warnings


class Outcome(NamedTuple):
    """What a program wrote; values are what it showed, in order."""

    values: list[Any]
    stderr: str

    @property
    def value(self) -> Any:
        (value,) = self.values
        return value


class Diagnosis(NamedTuple):
    """How a diagnosis ended, and what it wrote, without its times."""

    status: int
    said: str


Ask = Callable[..., Asked]
Python = Callable[..., Outcome]
Diagnose = Callable[..., Diagnosis]
Golden = Callable[[str, str], None]


# --- Nothing is left behind


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves a process, a thread or a temporary file behind."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    before = {*leftovers(folder)}
    with patch.object(tempfile, "tempdir", folder):
        yield
    for _ in range(300):
        left = {*leftovers(folder)} - before
        if not left:
            break
        time.sleep(0.01)
    assert not left


def leftovers(folder: str) -> Iterator[object]:
    """Name what runs, or lies about; on Linux also who sees a simulated Azure."""
    yield from threading.enumerate()
    yield from os.listdir(folder)
    with suppress(AttributeError, ChildProcessError):  # not on Windows; there is none
        yield "a child", os.waitpid(-1, os.WNOHANG)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if folder.encode() in (process / "environ").read_bytes():
                yield process.name, (process / "cmdline").read_bytes()


# --- Ways to ask


@pytest.fixture
def azure() -> Iterator[Azure]:
    with Azure() as azure:
        yield azure


def command(program: str, *arguments: str) -> list[str]:
    """Return the command line of a program: a file in programs/, or its text.

    A text finds ask(), show(), keyring and module; a file imports them from prelude.
    """
    if program.endswith(".py"):
        return [sys.executable, str(PROGRAMS / program), *arguments]
    begin = f"import sys; sys.path.insert(0, {str(PROGRAMS)!r}); from prelude import *"
    return [sys.executable, "-c", f"{begin}\n{program}", *arguments]


@pytest.fixture
def python(azure: Azure) -> Python:
    """Run a program, see command(), in a process that sees the Azure."""

    def run(
        program: str,
        *arguments: str,
        dials: Mapping[str, object] = {},
        **variables: str,
    ) -> Outcome:
        numbers = json.dumps({**DIALS, **dials})
        done = azure.run(*command(program, *arguments), DIALS=numbers, **variables)
        assert done.returncode == 0, done.stderr
        return Outcome([*map(json.loads, done.stdout.splitlines())], done.stderr)

    return run


@pytest.fixture
def ask(
    azure: Azure,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Ask:
    """Ask the real keyring in this process, which is quick."""
    import keyring  # neither is installed where the clients run

    import artifacts_keyring_nofuss as module

    def run(
        url: str | None = INDEX_URL,
        username: str | None = None,
        *,
        dials: Mapping[str, Any] = {},
        **variables: str,
    ) -> Asked:
        module.memory.clear()
        caplog.set_level(logging.DEBUG, module.__name__)
        caplog.clear()
        capfd.readouterr()
        environment = patch.dict(os.environ, azure.environment(**variables), clear=True)
        with environment, patch.multiple(module, **{**DIALS, **dials}):
            credential = keyring.get_credential(url, username)  # type: ignore[arg-type]
        return Asked(
            [credential.username, credential.password] if credential else None,
            "\n".join(caplog.messages),
            "\n".join(said for _, level, said in caplog.record_tuples if level >= 30),
            *capfd.readouterr(),
        )

    return run


@pytest.fixture
def diagnose(azure: Azure) -> Diagnose:
    """Run the diagnosis as people do."""

    def run(*arguments: str, **variables: str) -> Diagnosis:
        line = sys.executable, "-m", "artifacts_keyring_nofuss", *arguments
        done = azure.run(*line, **variables)
        said = done.stdout + done.stderr
        return Diagnosis(done.returncode, re.sub("(?m)^ *[0-9]+ ms  ", "", said))

    return run


# --- Golden files

USUAL = {  # what stands there for what is the machine's, by its pattern
    r"FOLDER\S+keyring(\.cmd)?": "FOLDER/bin/keyring",
    "version .*": "version",
    r"127\.0\.0\.1:\d+": "127.0.0.1:PORT",
    "(it asks [^,\n]*), .*": r"\1",
}


@pytest.fixture
def golden(azure: Azure) -> Golden:
    """Compare a text that people see with golden/NAME.txt, or UPDATE_GOLDEN=1."""

    def compare(name: str, text: str) -> None:
        text = text.replace(str(azure.folder), "FOLDER")
        for pattern, usual in USUAL.items():
            text = re.sub(pattern, usual, text)
        path = HERE / "golden" / f"{name}.txt"
        if "UPDATE_GOLDEN" in os.environ:
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare
