"""The keyring class: what keyring asks of it, what it remembers, and what people see."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, ClassVar

import pytest
from keyring.backend import KeyringBackend
from keyring.backends.chainer import ChainerBackend
from keyring.errors import PasswordDeleteError, PasswordSetError
from keyring.testing.backend import BackendBasicTests

import artifacts_keyring_nofuss as module
from conftest import Ask, AskHere, Python
from identities import app_service, azure_ml
from simulated_azure import (
    AUTHORITY,
    CLIENT_SECRET,
    ENTRA,
    FEED,
    GITHUB,
    IMDS,
    INDEX_URL,
    REQUEST_TOKEN,
    SECRET_HEADER,
    TENANT,
    UPLOAD_URL,
    Azure,
    Handler,
    Issued,
    jwt,
)

FEEDS = [INDEX_URL.replace("private", f"feed-{number}") for number in range(16)]
OTHER_ORGANIZATION = INDEX_URL.replace("contoso", "fabrikam")
URL_WITH_PASSWORD = INDEX_URL.replace("//", "//me:p4ss@")
LOGIN = (
    f"az login --tenant {TENANT} --scope 499b84ac-1321-427f-aa17-267ca6975798/.default "
    "--allow-no-subscriptions"
)


# --- What keyring asks of it


def backend() -> module.ArtifactsKeyringBackend:
    return module.ArtifactsKeyringBackend()  # type: ignore[no-untyped-call]


def test_keyring_finds_the_backend_by_its_entry_point(python: Python) -> None:
    names = "[f'{type(k).__module__} {k.priority}' for k in keyring.backend.get_all_keyring()]"
    assert python(f"show({names})").value.count("artifacts_keyring_nofuss 9.9") == 1


class Store(KeyringBackend):
    """A backend that keeps passwords, as one behind ours does; keyring itself never asks it."""

    priority = 0
    passwords: ClassVar[dict[tuple[str, str], str]] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.passwords.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.passwords[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if (service, username) not in self.passwords:
            raise PasswordDeleteError
        del self.passwords[service, username]


class Chain(ChainerBackend):
    """keyring's way from backend to backend, through these two alone."""

    priority = 0
    backends = (backend(), Store())  # type: ignore[no-untyped-call]


class TestConformance(BackendBasicTests):
    """keyring's own tests of a backend, for ours in front of one that keeps passwords."""

    def init_keyring(self) -> Chain:
        return Chain()  # type: ignore[no-untyped-call]


def test_alone_it_says_that_it_stores_nothing() -> None:
    with pytest.raises(PasswordSetError):
        backend().set_password(INDEX_URL, "me", "password")
    with pytest.raises(PasswordDeleteError):
        backend().delete_password(INDEX_URL, "me")


@pytest.mark.parametrize("service", [None, b"https://pkgs.dev.azure.com/contoso/", 7])
def test_what_is_no_text_is_no_feed(service: str) -> None:
    assert backend().get_credential(service, None) is None
    assert backend().get_password(service, "me") is None


def test_password_and_credential_agree_and_the_username_is_echoed(
    azure: Azure, python: Python
) -> None:
    azure.az_signed_in()
    outcome = python(
        f"""
for user in (None, "", "me", "__token__"):
    show([ask({INDEX_URL!r}, user), keyring.get_password({INDEX_URL!r}, user)])
"""
    )
    (token,) = azure.session_tokens
    usernames = ["VssSessionToken", "VssSessionToken", "me", "__token__"]
    assert outcome.values == [[[name, token], token] for name in usernames]


def test_nothing_is_written_to_disk(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    before = {*azure.folder.rglob("*")}
    assert ask(INDEX_URL, TMPDIR=str(azure.folder)).value
    assert {path.name for path in {*azure.folder.rglob("*")} - before} == {"az.log"}


@pytest.mark.skipif(os.name == "nt", reason="keyring needs no home on Windows")
def test_a_user_without_home_signs_in(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    script = f"""
import os, pwd
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
del os.environ["HOME"]
show(ask({INDEX_URL!r}))
"""
    # Without this variable keyring itself fails without home.
    backend = "artifacts_keyring_nofuss.ArtifactsKeyringBackend"
    assert python(script, PYTHON_KEYRING_BACKEND=backend).value


# --- What is remembered


def lives_an_hour(azure: Azure) -> None:
    azure.az_signed_in()


def lives_200_seconds(azure: Azure) -> None:
    azure.az_signed_in()
    azure.lifetime = 200


def expires_at_an_unknown_time(azure: Azure) -> None:
    azure.az_says(json.dumps({"accessToken": azure.application_token(exp=None)}))


def fails(azure: Azure) -> None:
    azure.az_not_signed_in()


@pytest.mark.parametrize(
    ("arrange", "kept", "renewed"),
    [
        (lives_an_hour, 3290, 3310),
        (lives_200_seconds, 90, 110),
        (expires_at_an_unknown_time, 50, 70),
        (fails, 50, 70),
    ],
)
def test_how_long_an_outcome_is_remembered(
    azure: Azure, python: Python, arrange: Callable[[Azure], None], kept: float, renewed: float
) -> None:
    arrange(azure)
    outcome = python(
        f"""
real = module.now
for later in (0, {kept}, {renewed}):
    module.now = lambda: real() + later
    ask({INDEX_URL!r})
    show(open({str(azure.folder / "az.log")!r}).read().count("get-access-token"))
"""
    )
    assert outcome.values == [1, 1, 2]


@pytest.mark.parametrize("arrange", [lives_an_hour, expires_at_an_unknown_time, fails])
def test_threads_and_feeds_of_an_organization_share_an_outcome(
    azure: Azure, python: Python, arrange: Callable[[Azure], None]
) -> None:
    arrange(azure)
    outcome = python(
        f"""
from concurrent.futures import ThreadPoolExecutor
keyring.get_keyring()  # which is not safe to call from several threads
with ThreadPoolExecutor(16) as pool:
    show(list(pool.map(ask, {FEEDS})))
"""
    )
    assert outcome.value == outcome.value[:1] * 16
    assert outcome.stderr.count("no credentials for") == (arrange is fails)
    assert (len(azure.az_runs), len(azure.asked(FEED))) == (1, 1)


def test_organizations_and_scopes_never_share(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    services = [INDEX_URL, UPLOAD_URL, OTHER_ORGANIZATION, INDEX_URL]
    outcome = python(f"show([ask(service)[1] for service in {services}])")
    issued = [azure.session_tokens[token] for token in outcome.value]
    assert [(token.organization, token.scopes) for token in issued] == [
        ("contoso", ["vso.packaging"]),
        ("contoso", ["vso.packaging_write"]),
        ("fabrikam", ["vso.packaging"]),
        ("contoso", ["vso.packaging"]),
    ]
    assert len(azure.session_tokens) == 3


def test_a_failure_of_the_network_is_remembered_for_the_organization(
    azure: Azure, python: Python
) -> None:
    azure.faults[FEED] = [lambda handler: None] * 15
    outcome = python(f"show([ask(feed) for feed in {FEEDS[:5]}])")
    assert outcome.value == [None] * 5
    assert len(azure.asked(FEED)) == 3
    assert outcome.stderr.count("no credentials for") == 1


@pytest.mark.parametrize(("status", "warnings"), [(200, 0), (404, 1)])
def test_a_feed_that_is_public_or_missing_says_nothing_of_the_others(
    azure: Azure, python: Python, status: int, warnings: int
) -> None:
    azure.az_signed_in()
    azure.faults[FEED] = [lambda handler: handler.answer(status, "<html>")]
    outcome = python(f"show([ask(feed) for feed in {FEEDS[:2]}])")
    assert outcome.value == [None, ["VssSessionToken", *azure.session_tokens]]
    assert outcome.stderr.count("no credentials for") == warnings


def test_a_sign_in_that_does_not_end_is_not_waited_for(azure: Azure, python: Python) -> None:
    hold = f"""
lock = module.locks[module.parse_feed({INDEX_URL!r}).credential_key] = module.threading.RLock()
module.threading.Thread(target=lock.acquire).start()
"""
    started = time.monotonic()
    outcome = python(f"{hold}show(ask({INDEX_URL!r}))", dials={"SIGN_IN_LIMIT": 0.1})
    assert outcome.value is None
    assert "another thread's sign-in does not end" in outcome.stderr
    assert time.monotonic() - started < 5


# --- What people see


@pytest.mark.parametrize("debug", ["", "0"])
def test_success_is_silent(azure: Azure, ask: Ask, debug: str) -> None:
    azure.az_signed_in()
    outcome = ask(INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_DEBUG=debug)
    assert outcome.value
    assert outcome.stderr == ""


def test_one_warning_tells_why_nothing_worked_and_what_to_do(
    azure: Azure, ask_here: AskHere
) -> None:
    azure.az_not_signed_in()
    assert ask_here(URL_WITH_PASSWORD).warnings == (
        f"artifacts-keyring-nofuss: no credentials for {INDEX_URL}\n"
        "  azure_cli: az failed: Please run 'az login' to setup account.\n"
        f"    {LOGIN}\n"
        "  managed_identity: the metadata service of this machine answered 400: "
        "Identity not found"
    )


def test_debug_tells_every_step(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    outcome = ask(URL_WITH_PASSWORD, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert outcome.value
    steps = [
        "configuration: token, workload_identity, azure_cli, managed_identity",
        "token: not configured",
        "workload_identity: not configured",
        f"discovery: tenant {TENANT}, authority https://{AUTHORITY}/contoso",
        "azure_cli: signed in as dev@contoso.com, expires in 60 min",
        "azure_cli, session token: scope vso.packaging, expires in 60 min",
    ]
    lines = outcome.stderr.splitlines()
    without_times = [re.sub(r"^artifacts-keyring-nofuss: \d\.\d\d s ", "", line) for line in lines]
    assert without_times == steps


def test_debug_reaches_no_handler_of_the_client(azure: Azure, python: Python) -> None:
    """pip shows the root logger's records on stdout, where they would break its --json."""
    azure.az_signed_in()
    log_all = "import logging; logging.basicConfig(level=0, format='ROOT %(name)s')"
    outcome = python(f"{log_all}; show(ask({INDEX_URL!r}))", ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert "ROOT keyring" in outcome.stderr
    assert "ROOT artifacts" not in outcome.stderr


def test_without_debug_the_log_is_the_callers() -> None:
    log = module.log
    assert (log.handlers, log.level, log.propagate) == ([], logging.NOTSET, True)


def user(azure: Azure) -> dict[str, str]:
    azure.bearers["the-bearer-of-a-user"] = {"scp": "user_impersonation"}
    azure.az_signed_in("the-bearer-of-a-user")
    return {}


def personal_access_token(azure: Azure) -> dict[str, str]:
    azure.passwords["the-access-token"] = Issued("contoso", ["vso.packaging"])
    return {"ARTIFACTS_KEYRING_NOFUSS_TOKEN": "the-access-token"}


@pytest.mark.parametrize(
    "arrange",
    [
        personal_access_token,
        Azure.pod,
        Azure.github_job,
        Azure.client_secret,
        user,
        app_service,
        azure_ml,
    ],
)
def test_no_secret_is_in_any_record(
    azure: Azure,
    ask_here: AskHere,
    caplog: pytest.LogCaptureFixture,
    arrange: Callable[[Azure], Mapping[str, str]],
) -> None:
    """Neither where all goes well nor where a service echoes in its refusal what it was sent."""
    variables = arrange(azure)
    password = ask_here(URL_WITH_PASSWORD, **variables).value
    assert password
    records = [vars(record) for record in caplog.records]

    def echo(handler: Handler) -> None:
        sent = " ".join([*handler.headers.values(), handler.body.decode()])
        handler.answer(400, {"message": sent})

    for kind in (AUTHORITY, ENTRA, GITHUB, IMDS):
        azure.faults[kind] = [echo] * 2
    refused = ask_here(URL_WITH_PASSWORD, **variables)
    records += [vars(record) for record in caplog.records]
    assert ("[removed]" in refused.log) is (arrange is not personal_access_token)
    secrets = {"p4ss", "the-access-token", SECRET_HEADER, REQUEST_TOKEN, CLIENT_SECRET}
    secrets |= {password[1], *azure.bearers, *azure.session_tokens}
    assert not [secret for secret in secrets if secret in str(records)]


def test_a_remedy_needs_a_value_only_where_it_is_known() -> None:
    """A reason that begins with words from outside, a path perhaps, fits no such row."""
    patterns = [pattern for pattern, remedy in module.REMEDIES.items() if "{" in remedy]
    assert patterns
    assert all(re.match(r"[A-Za-z]|\(\w+\|\w+\) ", pattern) for pattern in patterns)


def test_the_name_of_an_account_stays_in_its_line() -> None:
    challenge = module.Challenge(TENANT, "", 0.0)
    answer = {"access_token": jwt({"upn": "dev\r\n\x1b[31mazure_cli: forged"})}
    label = module.bearer_of(answer, module.UNREADABLE, challenge).label
    assert label == "signed in as dev [31mazure_cli: forged"


def test_tokens_are_not_in_reprs() -> None:
    token = module.Token("secret", module.PASSWORD, "label", module.now())
    step, memory = module.Step("name", token), (token, 0.0)
    assert "secret" not in f"{token!r} {token} {step!r} {step} {memory!r}"


def test_a_defect_is_told_without_its_words(
    ask_here: AskHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("a secret")

    monkeypatch.setattr(module, "discover", broken)
    asked = ask_here(INDEX_URL)
    assert asked.value is None
    assert "  discovery: please report this: LookupError at test_backend.py:" in asked.warnings
    assert "a secret" not in asked.log


@pytest.mark.parametrize("signed_in", [True, False])
def test_a_log_that_fails_is_no_reason_to_fail(
    azure: Azure, ask_here: AskHere, monkeypatch: pytest.MonkeyPatch, signed_in: bool
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the disk is full")

    monkeypatch.setattr(module.log, "handlers", [Broken()])
    if signed_in:
        azure.az_signed_in()
    assert bool(ask_here(INDEX_URL).value) is signed_in


# --- Vendored copies


@pytest.mark.parametrize("with_keyring", [True, False])
def test_a_vendored_copy_signs_in(azure: Azure, tmp_path: Path, with_keyring: bool) -> None:
    azure.az_signed_in()
    (tmp_path / "vendored_copy.py").write_bytes(Path(module.__file__).read_bytes())
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
if not {with_keyring}:
    sys.modules["keyring"] = None
from vendored_copy import ArtifactsKeyringBackend
credential = ArtifactsKeyringBackend().get_credential({INDEX_URL!r}, None)
print(type(credential).__module__, credential.username, credential.password)
try:
    ArtifactsKeyringBackend().set_password("x", "y", "z")
except NotImplementedError:
    print("not stored")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=azure.environment(), capture_output=True, text=True)
    origin = "keyring.credentials" if with_keyring else "vendored_copy"
    credential = f"{origin} VssSessionToken {''.join(azure.session_tokens)}"
    assert (done.stdout, done.stderr) == (f"{credential}\nnot stored\n", "")
