"""`python -m artifacts_keyring_nofuss URL`: does it tell what clients will meet?"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

import artifacts_keyring_nofuss as module
from conftest import Ask, Diagnose, Golden, command
from identities import TOKEN, Variables, managed_identity, token, user
from simulated_azure import FEED, INDEX_URL, UPLOAD_URL, Azure, Handler
from simulated_faults import refuses, status
from simulated_machine import Lifelines, ended

posix = pytest.mark.skipif(os.name == "nt", reason="Windows interrupts whole consoles")


# --- What people see whole


def nobody(azure: Azure) -> Variables:
    azure.az_not_signed_in()
    return {}


def machine(azure: Azure) -> Variables:
    return {**nobody(azure), **managed_identity(azure)}


def no_tenant(azure: Azure) -> Variables:
    azure.challenge = {"WWW-Authenticate": "Basic", "X-VSS-ResourceTenant": ""}
    return {}


def stranger(azure: Azure) -> Variables:
    return {TOKEN: "of-another-organization"}


@pytest.mark.parametrize(
    ("name", "arrange", "url", "status"),
    [
        ("person", user, INDEX_URL, 0),
        ("machine", machine, UPLOAD_URL, 0),
        ("nobody", nobody, INDEX_URL, 1),
        ("no-tenant", no_tenant, INDEX_URL, 1),
        ("stranger", stranger, INDEX_URL, 1),
    ],
)
def test_a_run_tells_every_step_and_what_to_do(
    azure: Azure,
    diagnose: Diagnose,
    golden: Golden,
    name: str,
    arrange: Callable[[Azure], Variables],
    url: str,
    status: int,
) -> None:
    run = diagnose(url, **arrange(azure))
    golden(f"diagnosis-{name}", run.said)
    assert run.status == status


def test_a_warning_has_the_reason_of_each_provider_and_one_remedy(
    azure: Azure, ask: Ask, golden: Golden
) -> None:
    golden("warning", ask(**stranger(azure), **nobody(azure)).warnings)


def test_a_warning_of_the_feed_has_its_own_words(
    azure: Azure, ask: Ask, golden: Golden
) -> None:
    words = "VS800075: The project with id 'vstfs:///x' does not exist."
    azure.faults[FEED] = [refuses(404, words)]
    golden("warning-feed", ask().warnings)


def test_the_feeds_refusal_of_the_password_is_not_good(
    azure: Azure, diagnose: Diagnose
) -> None:
    azure.faults[FEED] = [Handler.answer_feed, status(404)]
    run = diagnose(INDEX_URL, **user(azure))
    assert run.status == 1
    assert " 404" in run.said.partition("\n\n")[2]


# --- What keyring and its clients do


@pytest.mark.parametrize(
    ("name", "priority", "told", "status"),
    [
        ("other", 20, "does not ask this backend but other.First", 1),
        ("other", 9.99, "it asks other.First", 0),
        ("artifacts_keyring", 9.9, "serves feeds, too: uninstall its package", 0),
    ],
)
def test_another_backend_is_told(
    azure: Azure,
    diagnose: Diagnose,
    name: str,
    priority: float,
    told: str,
    status: int,
) -> None:
    """Above the chainer's priority of 10, a backend is the only one that is asked."""
    (azure.home / f"{name}.py").write_text(
        "from keyring.backend import KeyringBackend\n"
        f"class First(KeyringBackend):\n    priority = {priority}\n"
        "    def get_password(self, service, username): return None\n"
        "    def set_password(self, service, username, password): return None\n"
    )
    metadata = azure.home / "other-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1")
    (metadata / "entry_points.txt").write_text(f"[keyring.backends]\nx = {name}\n")
    run = diagnose(INDEX_URL, PYTHONPATH=str(azure.home), **token(azure))
    assert told in run.said
    assert run.status == status


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("keyring.backends.null.Keyring", "does not ask this backend but keyring.bac"),
        ("json.\x1b[1mX", "does not start: AttributeError: module 'json' has no attr"),
    ],
)
def test_a_keyring_that_does_not_ask_this_backend_is_told(
    azure: Azure, diagnose: Diagnose, backend: str, told: str
) -> None:
    run = diagnose(INDEX_URL, PYTHON_KEYRING_BACKEND=backend, **token(azure))
    assert f"\n\nkeyring {told}" in run.said
    assert "PYTHON_KEYRING_BACKEND" in run.said.partition("\nTo do:\n")[2]
    assert "\x1b" not in run.said
    assert "+ sign-in: " in run.said
    assert run.status == 1


@pytest.mark.parametrize(
    ("user", "variables", "told"),
    [
        ("me:0ld@", {}, "they use the password in this URL"),
        ("", {"PIP_NO_INPUT": "1"}, "PIP_NO_INPUT"),
        ("", {"PIP_KEYRING_PROVIDER": "disabled"}, "PIP_KEYRING_PROVIDER"),
        ("", {"UV_KEYRING_PROVIDER": "disabled"}, "UV_KEYRING_PROVIDER"),
        ("me@", {"UV_KEYRING_PROVIDER": "subprocess"}, ""),
    ],
)
def test_what_keeps_clients_from_asking_keyring_is_told(
    azure: Azure, diagnose: Diagnose, user: str, variables: Variables, told: str
) -> None:
    run = diagnose(INDEX_URL.replace("//", f"//{user}"), **token(azure), **variables)
    assert (f"\n- clients: {told}" in run.said) is bool(told)
    assert "0ld" not in run.said


@pytest.mark.parametrize(
    "says",
    ["print('keyring.backends.fail.Keyring')", "import time; time.sleep(60)", ""],
)
def test_a_keyring_command_that_does_not_serve_uv_is_told(
    azure: Azure, says: str
) -> None:
    """For those who use pip, nothing is wrong."""
    azure.command("keyring", sys.executable, "-c", says)
    path = {} if says else {"PATH": str(azure.home)}
    line = command("diagnosis.py", INDEX_URL)
    dials = {"DIALS": '{"COMMAND_LIMIT": 0.5}'}
    run = azure.run(*line, **dials, **token(azure), **path)
    assert (
        '\nuv tool install keyring --with "artifacts-keyring-nofuss>=2"\n' in run.stdout
    )
    assert run.returncode == 0


# --- How it is run, and how it ends


@pytest.mark.parametrize("arguments", [[], ["https://pypi.org/simple/"], ["--help"]])
def test_its_usage_is_told(diagnose: Diagnose, arguments: list[str]) -> None:
    run = diagnose(*arguments)
    assert "usage: python -m artifacts_keyring_nofuss" in run.said
    assert run.status == 2 or arguments == ["--help"]


def test_a_terminal_in_ascii_is_no_obstacle(azure: Azure, diagnose: Diagnose) -> None:
    azure.az_fails("ERROR: gesch\u00fctzt")
    run = diagnose(INDEX_URL, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert "azure_cli: az failed: gesch" in run.said
    assert "Traceback" not in run.said


def test_a_copied_module_calls_itself_by_its_whole_name(azure: Azure) -> None:
    folder = azure.home / "tool"
    folder.mkdir()
    shutil.copy(module.__file__, folder / "copy.py")
    name = "tool.copy"
    ours = {**token(azure), "PYTHON_KEYRING_BACKEND": f"{name}.ArtifactsKeyringBackend"}
    run = azure.run(sys.executable, "-m", name, INDEX_URL, **ours)
    assert f"it asks {name}.ArtifactsKeyringBackend" in run.stdout
    assert run.returncode == 0
    bad = azure.run(
        sys.executable, "-m", "keyring", "get", INDEX_URL, "me", **{**ours, TOKEN: ""}
    )
    assert f"every step: python -m {name} {INDEX_URL}\n" in bad.stderr


def test_a_copied_module_diagnoses_itself_without_keyring(azure: Azure) -> None:
    copy = shutil.copy(module.__file__, azure.folder)
    path = {"PYTHONPATH": str(Path(copy).parent)}
    line = sys.executable, "-S", "-m", "artifacts_keyring_nofuss", INDEX_URL
    run = azure.run(*line, **token(azure), **path)
    assert "- keyring: keyring does not start: ModuleNotFoundError" in run.stdout
    assert "+ sign-in: " in run.stdout
    assert run.returncode == 1


@posix
def test_a_long_wait_is_told_before_and_an_interrupt_ends_it(azure: Azure) -> None:
    with Lifelines() as lifelines:
        azure.az(lifelines.hang)
        process = subprocess.Popen(
            [sys.executable, "-m", "artifacts_keyring_nofuss", INDEX_URL],
            env=azure.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            # Undo what a shell does to a program in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert process.stdout
        for line in process.stdout:
            if "~ running az, up to 60 s" in line:
                break
        connections = [lifelines.accept(), lifelines.accept()]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[1] == "interrupted\n"
        assert process.returncode == 1
        assert all(map(ended, connections))
