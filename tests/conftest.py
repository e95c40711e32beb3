"""Fixtures: a simulated Azure, and processes that see it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import settings

from simulated_azure import Azure

if TYPE_CHECKING:
    from artifacts_keyring_nofuss import Response

# The parsers' tests are alike in every run; `nox -s fuzz` tries many examples, and new ones.
settings.register_profile("default", derandomize=True, deadline=None)
settings.register_profile("fuzz", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

DIALS = {"RETRY_PAUSES": (0.01, 0.02)}  # of every process under test
PRELUDE = """
import json, keyring, artifacts_keyring_nofuss as module
def ask(service, username=None):
    credential = keyring.get_credential(service, username)
    return credential and [credential.username, credential.password]
def show(value):
    print(json.dumps(value), flush=True)
for name, value in {dials!r}.items():
    assert hasattr(module, name), name
    setattr(module, name, value)
{script}
"""


class Outcome(NamedTuple):
    """What a process under test wrote; values are what its script showed, in order."""

    values: list[Any]
    stdout: str
    stderr: str

    @property
    def value(self) -> Any:
        (value,) = self.values
        return value


class Asked(NamedTuple):
    """What keyring returned in this process, and what was logged, at every level and as warning."""

    value: list[str] | None
    log: str
    warnings: str


Dials = Mapping[str, object]  # constants of the module, and the values they have in a test
Python = Callable[..., Outcome]
Ask = Callable[..., Outcome]
AskHere = Callable[..., Asked]
Fetch = Callable[..., "Response"]


@pytest.fixture
def azure() -> Iterator[Azure]:
    with Azure() as azure:
        yield azure


def command(script: str, dials: Dials | None = None) -> list[str]:
    """Return the command line of a script that has ask(), show() and the module, dialled so."""
    return [sys.executable, "-c", PRELUDE.format(dials={**DIALS, **(dials or {})}, script=script)]


@pytest.fixture
def python(azure: Azure) -> Python:
    """Run a script, as command() makes it, in a process that sees the Azure."""

    def run(script: str, *, dials: Dials | None = None, **variables: str) -> Outcome:
        done = subprocess.run(
            command(script, dials),
            env=azure.environment(**variables),
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        values = [json.loads(line) for line in done.stdout.splitlines()]
        return Outcome(values, done.stdout, done.stderr)

    return run


@pytest.fixture
def ask(python: Python) -> Ask:
    """Ask the real keyring for a credential, in a process of its own."""

    def run(
        service: str, username: str | None = None, *, dials: Dials | None = None, **variables: str
    ) -> Outcome:
        return python(f"show(ask({service!r}, {username!r}))", dials=dials, **variables)

    return run


@pytest.fixture
def fetch(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """Send a GET as a sign-in does, but in this process, which sees the Azure meanwhile."""
    import artifacts_keyring_nofuss as module  # is not installed where the clients run

    def run(
        url: str, limit: float = 5.0, *, dials: Dials | None = None, **variables: str
    ) -> Response:
        for name, value in {**DIALS, **(dials or {})}.items():
            monkeypatch.setattr(module, name, value)
        with patch.dict(os.environ, azure.environment(**variables), clear=True):
            return module.http(url, {}, module.now() + limit)

    return run


@pytest.fixture
def ask_here(
    azure: Azure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AskHere:
    """Ask the real keyring in this process, which takes a tenth of the time: for many cases."""
    import keyring  # neither it nor the module is installed where the clients run

    import artifacts_keyring_nofuss as module

    caplog.set_level(logging.DEBUG, module.__name__)

    def run(
        service: str, username: str | None = None, *, dials: Dials | None = None, **variables: str
    ) -> Asked:
        for constant, value in {**DIALS, **(dials or {})}.items():
            monkeypatch.setattr(module, constant, value)
        module.memories.clear()
        caplog.clear()
        with patch.dict(os.environ, azure.environment(**variables), clear=True):
            credential = keyring.get_credential(service, username)
        warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        value = [credential.username, credential.password] if credential else None
        return Asked(value, "\n".join(caplog.messages), "\n".join(warnings))

    return run
