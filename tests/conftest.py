"""Fixtures: a simulated Azure, and processes that see it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import pytest

from simulated_azure import Azure

PRELUDE = """
import json, keyring, artifacts_keyring_nofuss as module
def ask(service, username=None):
    credential = keyring.get_credential(service, username)
    return credential and [credential.username, credential.password]
def show(value):
    print(json.dumps(value), flush=True)
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


Python = Callable[..., Outcome]
Ask = Callable[..., Outcome]


@pytest.fixture
def azure() -> Iterator[Azure]:
    with Azure() as azure:
        yield azure


@pytest.fixture
def python(azure: Azure) -> Python:
    """Run a script, with ask(), show() and the module, in a process that sees the Azure."""

    def run(script: str, **variables: str) -> Outcome:
        command = [sys.executable, "-c", PRELUDE + script]
        env = azure.environment(**variables)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        values = [json.loads(line) for line in done.stdout.splitlines()]
        return Outcome(values, done.stdout, done.stderr)

    return run


@pytest.fixture
def ask(python: Python) -> Ask:
    """Ask the real keyring for a credential, in a process of its own."""

    def run(service: str, username: str | None = None, **variables: str) -> Outcome:
        return python(f"show(ask({service!r}, {username!r}))", **variables)

    return run
