"""Fixtures: a simulated Azure, and processes that see it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple

import pytest

from simulated_azure import Azure

DIALS = {"RETRY_PAUSE": 0.01}  # of every process under test
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


Dials = Mapping[str, object]  # constants of the module, and the values they have in a test
Python = Callable[..., Outcome]
Ask = Callable[..., Outcome]


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
