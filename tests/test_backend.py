"""The keyring class: what keyring asks, what is remembered, and what people see."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Callable

import pytest
from keyring.errors import NoKeyringError, PasswordDeleteError, PasswordSetError

import artifacts_keyring_nofuss as module
from conftest import PROGRAMS, Ask, Golden, Python
from simulated_azure import FEED, INDEX_URL, UPLOAD_URL, Answer, Azure, Handler
from simulated_faults import drop, status

FEEDS = [INDEX_URL.replace("private", f"feed-{number}") for number in range(16)]
BACKEND = "artifacts_keyring_nofuss.ArtifactsKeyringBackend"
DEBUG = "ARTIFACTS_KEYRING_NOFUSS_DEBUG"

# --- What keyring asks of it


def test_keyring_finds_the_backend_and_asks_it_before_the_others(
    python: Python,
) -> None:
    found = "[f'{type(k).__module__} {k.priority}' for k in get_all_keyring()]"
    said = python(f"from keyring.backend import *; show({found})").value
    assert said.count("artifacts_keyring_nofuss 9.95") == 1


def test_alone_it_says_that_it_stores_nothing() -> None:
    ours = module.ArtifactsKeyringBackend()  # type: ignore[no-untyped-call]
    for method in (ours.set_password, ours.delete_password):
        with pytest.raises(PasswordSetError, match="stores no passwords") as caught:
            method(INDEX_URL, "me")
        for kind in (PasswordDeleteError, NoKeyringError, NotImplementedError):
            assert isinstance(caught.value, kind)


@pytest.mark.parametrize("service", [None, b"https://pkgs.dev.azure.com/contoso/", 7])
def test_what_is_no_text_is_no_feed(azure: Azure, ask: Ask, service: str) -> None:
    azure.az_signed_in()
    assert ask(service, PYTHON_KEYRING_BACKEND=BACKEND).value is None
    assert azure.connects == []


def test_password_and_credential_agree_and_the_username_is_echoed(
    azure: Azure, python: Python
) -> None:
    azure.az_signed_in()
    done = python(
        f"""
for user in (None, "", "me", "__token__"):
    show([*ask({INDEX_URL!r}, user), keyring.get_password({INDEX_URL!r}, user)])
"""
    )
    (token,) = azure.session_tokens
    usernames = ["VssSessionToken", "VssSessionToken", "me", "__token__"]
    assert done.values == [[name, token, token] for name in usernames]


@pytest.mark.parametrize("debug", ["", "0"])
def test_success_leaves_no_trace(azure: Azure, python: Python, debug: str) -> None:
    """Neither for the eye nor on the disk."""
    azure.az_signed_in()
    before = {*azure.folder.rglob("*")}
    done = python("ask.py", INDEX_URL, **{DEBUG: debug})
    assert done.value
    assert done.stderr == ""
    assert {path.name for path in {*azure.folder.rglob("*")} - before} == {"az.log"}


@pytest.mark.skipif(os.name == "nt", reason="keyring needs no home on Windows")
def test_a_user_without_home_signs_in(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    # Without this variable keyring itself fails without home.
    done = python("without_home.py", INDEX_URL, PYTHON_KEYRING_BACKEND=BACKEND)
    assert done.value


# --- What is remembered, and who shares it


@pytest.mark.parametrize(
    ("arrange", "seconds"), [(Azure.az_signed_in, 300), (Azure.az_not_signed_in, 60)]
)
def test_how_long_an_outcome_is_remembered(
    azure: Azure, python: Python, arrange: Callable[[Azure], None], seconds: int
) -> None:
    arrange(azure)
    kept, renewed = str(seconds - 10), "20"
    python("one_by_one.py", INDEX_URL, kept, INDEX_URL)
    assert len(azure.az_runs) == 1
    python("one_by_one.py", INDEX_URL, kept, INDEX_URL, renewed, *FEEDS[:2])
    assert len(azure.az_runs) == 3


def test_threads_and_feeds_of_an_organization_share_a_password(
    azure: Azure, python: Python
) -> None:
    azure.az_signed_in()
    passwords = [password for _, password in python("threads.py", *FEEDS).value]
    assert passwords == [*azure.session_tokens] * 16
    assert len(azure.az_runs) == 1


@pytest.mark.parametrize(
    ("urls", "faults", "runs"),
    [(FEEDS, [], 1), ([INDEX_URL] * 16, [status(404)], 0)],
)
def test_threads_share_a_failure_too(
    azure: Azure, python: Python, urls: list[str], faults: list[Answer], runs: int
) -> None:
    azure.az_not_signed_in()
    azure.faults[FEED] = faults
    done = python("threads.py", *urls)
    assert done.value == [None] * 16
    assert done.stderr.count("no credentials for") == 1
    assert len(azure.az_runs) == runs
    assert len(azure.asked(FEED)) <= len({*urls})


def test_nobody_waits_for_another_feed_that_is_slow(
    azure: Azure, python: Python
) -> None:
    def slowly(handler: Handler) -> None:
        while not azure.session_tokens:  # of the other thread
            time.sleep(0.01)
        handler.answer_feed()

    azure.az_signed_in()
    azure.faults[FEED] = [slowly]
    first, second = python("threads.py", *FEEDS[:2]).value
    assert first == second
    assert first


def test_organizations_hosts_and_scopes_never_share(
    azure: Azure, python: Python
) -> None:
    azure.az_signed_in()
    legacy = "https://{}.visualstudio.com{}/_packaging/a/pypi/simple/"
    wanted = {
        INDEX_URL: "contoso vso.packaging",
        UPLOAD_URL: "contoso vso.packaging_write",
        INDEX_URL.replace("contoso", "fabrikam"): "fabrikam vso.packaging",
        legacy.format("contoso.pkgs", ""): "contoso vso.packaging",
        legacy.format("fabrikam.pkgs", ""): "fabrikam vso.packaging",
        legacy.format("pkgs", "/contoso"): "contoso vso.packaging",
    }
    same = [INDEX_URL.replace("contoso", "CONTOSO"), FEEDS[0]]
    values = python("one_by_one.py", *wanted, *same).value
    passwords = [password for _, password in values]
    assert passwords == [*azure.session_tokens, *passwords[:1] * 2]
    issued = [f"{name} {scope}" for name, [scope], _ in azure.session_tokens.values()]
    assert issued == [*wanted.values()]


@pytest.mark.parametrize("fault", [drop, status(500)])
def test_a_feed_that_fails_says_nothing_of_the_others(
    azure: Azure, python: Python, fault: Answer
) -> None:
    azure.az_signed_in()
    azure.faults[FEED] = [fault] * 3
    first, *others = FEEDS[:3]
    values = python("one_by_one.py", first, first, *others, first).value
    assert values == [None, None, *[["VssSessionToken", *azure.session_tokens]] * 3]
    assert len(azure.asked(FEED)) == 4


# --- What people see


def test_debug_tells_every_step_and_the_handlers_of_the_client_none(
    azure: Azure, python: Python, golden: Golden
) -> None:
    """pip shows the root logger's records on stdout, where they break its --json."""
    azure.az_signed_in()
    program = (
        "import importlib, logging; logging.basicConfig(format='ROOT %(message)s')"
    )
    program += "; importlib.reload(module)"  # which adds no other handler
    done = python(f"{program}; show(ask({INDEX_URL!r}))", **{DEBUG: "1"})
    golden("debug", done.stderr)


def test_without_debug_the_log_is_the_callers() -> None:
    log = module.log
    assert (log.handlers, log.level, log.propagate) == ([], logging.NOTSET, True)


def test_a_defect_is_told_without_its_words(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("a secret")

    monkeypatch.setitem(module.PROVIDERS, "azure_cli", broken)
    asked = ask()
    assert asked.value is None
    assert "please report this: LookupError at " in asked.warnings
    assert "a secret" not in asked.log


def test_a_log_that_fails_is_no_reason_to_fail(
    azure: Azure, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the disk is full")

    monkeypatch.setattr(module.log, "handlers", [Broken()])
    assert ask().value is None
    azure.az_signed_in()
    assert ask().value


# --- Vendored copies


@pytest.mark.parametrize(
    ("missing", "origin"),
    [("another", "keyring.credentials"), ("keyring", "vendored_copy")],
)
def test_a_vendored_copy_signs_in(
    azure: Azure, tmp_path: Path, missing: str, origin: str
) -> None:
    azure.az_signed_in()
    copy = tmp_path / "vendored_copy.py"
    copy.write_bytes(Path(module.__file__).read_bytes())
    program = str(PROGRAMS / "vendored.py")
    done = azure.run(sys.executable, program, str(tmp_path), missing, INDEX_URL)
    credential = f"{origin} VssSessionToken {''.join(azure.session_tokens)}"
    assert (done.stdout, done.stderr) == (f"{credential}\nnot stored\n", "")
