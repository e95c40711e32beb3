"""Step 5: the keyring class, what it remembers, and what people see."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import keyring.errors
import pytest

import artifacts_keyring_nofuss as module
from conftest import Ask, Python
from simulated_azure import (
    AUTHORITY,
    FEED,
    IMDS,
    INDEX_URL,
    NOT_SIGNED_IN,
    SECRET_HEADER,
    TENANT,
    UPLOAD_URL,
    Azure,
)

OTHER_FEED = INDEX_URL.replace("private", "other")


def test_keyring_finds_the_backend_by_its_entry_point(python: Python) -> None:
    outcome = python("show([type(k).__module__ for k in keyring.backend.get_all_keyring()])")
    assert outcome.value.count("artifacts_keyring_nofuss") == 1
    assert module.ArtifactsKeyringBackend.priority == 9.9
    assert module.ArtifactsKeyringBackend.viable


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
    usernames = [credential[0] for credential, _ in outcome.values]
    passwords = {credential[1] for credential, _ in outcome.values}
    assert usernames == ["VssSessionToken", "VssSessionToken", "me", "__token__"]
    assert passwords == {password for _, password in outcome.values}
    assert len(passwords) == len(azure.az_runs) == len(azure.scopes()) == 1


OTHER_BACKEND = """
class Other(keyring.backend.KeyringBackend):
    priority = 1
    stored = {}
    def get_password(self, service, username):
        return self.stored.get((service, username))
    def set_password(self, service, username, password):
        self.stored[service, username] = password
    def delete_password(self, service, username):
        del self.stored[service, username]
"""


def test_passwords_are_stored_by_the_next_backend(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    outcome = python(
        f"""{OTHER_BACKEND}
for service in ("https://pypi.org/", {INDEX_URL!r}):
    keyring.set_password(service, "me", "stored")
    show(keyring.get_password(service, "me") == "stored")
    keyring.delete_password(service, "me")
show(len(Other.stored))
"""
    )
    assert outcome.values == [True, False, 0]


def test_passwords_are_not_stored_without_another_backend() -> None:
    backend = module.ArtifactsKeyringBackend()  # type: ignore[no-untyped-call]
    with pytest.raises(keyring.errors.PasswordSetError):
        backend.set_password("x", "y", "z")
    with pytest.raises(keyring.errors.PasswordDeleteError):
        backend.delete_password("x", "y")


def test_nothing_is_written_to_disk(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    before = {*azure.folder.rglob("*")}
    assert ask(INDEX_URL, TMPDIR=str(azure.folder)).value
    assert {path.name for path in {*azure.folder.rglob("*")} - before} == {"az.log"}


# --- What is remembered


def test_feeds_of_an_organization_share_a_sign_in(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    outcome = python(f"show(ask({INDEX_URL!r}) == ask({OTHER_FEED!r}) != None)")
    assert outcome.value is True
    assert (len(azure.az_runs), len(azure.requests)) == (1, 2)


def test_threads_share_a_sign_in(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    outcome = python(
        f"""
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    feeds = [{INDEX_URL!r}.replace("private", f"feed{{n}}") for n in range(16)]
    passwords = [password for _, password in pool.map(ask, feeds)]
show([len(passwords), len(set(passwords))])
"""
    )
    assert outcome.value == [16, 1]
    assert (len(azure.az_runs), len(azure.requests)) == (1, 2)


def test_threads_share_a_failure_and_a_token_of_unknown_expiry(
    azure: Azure, python: Python
) -> None:
    token = azure.entra_token(idtyp="app", exp=None)
    azure.az(f'sleep 0.3; echo \'{{"accessToken": "{token}"}}\'')
    script = f"""
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    show([bool(credential) for credential in pool.map(ask, [{INDEX_URL!r}] * 8)])
"""
    assert python(script).value == [True] * 8
    assert len(azure.az_runs) == 1
    azure.az("sleep 0.3; exit 1")
    outcome = python(script)
    assert outcome.value == [False] * 8
    assert outcome.stderr.count("no credentials for") == 1


def test_a_read_token_never_serves_an_upload(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    outcome = python(f"show(ask({INDEX_URL!r}) == ask({UPLOAD_URL!r}))")
    assert outcome.value is False
    assert azure.scopes() == ["vso.packaging", "vso.packaging_write"]


def test_organizations_never_share(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    other = INDEX_URL.replace("contoso", "fabrikam")
    outcome = python(f"show([ask({INDEX_URL!r})[1], ask({other!r})[1]])")
    organizations = [azure.session_tokens[token].organization for token in outcome.value]
    assert organizations == ["contoso", "fabrikam"]


@pytest.mark.parametrize(
    ("lifetime", "later", "sign_ins"),
    [(3600, 3290, 1), (3600, 3310, 2), (200, 90, 1), (200, 110, 2), (-5, 0, 2)],
)
def test_a_token_is_kept_until_shortly_before_its_own_expiry(
    azure: Azure, python: Python, lifetime: float, later: float, sign_ins: int
) -> None:
    azure.az_signed_in()
    azure.lifetime = lifetime
    pass_time = f"real = time.time; time.time = lambda: real() + {later}; "
    outcome = python(f"import time; show(ask({INDEX_URL!r})); {pass_time}show(ask({INDEX_URL!r}))")
    assert all(outcome.values)
    assert len(azure.az_runs) == sign_ins


def test_a_failure_is_remembered_for_a_short_while(azure: Azure, python: Python) -> None:
    azure.az(NOT_SIGNED_IN)
    outcome = python(
        f"""
for service in [{INDEX_URL!r}, {OTHER_FEED!r}, {INDEX_URL!r}]:
    show(ask(service))
module.FAILURE_MEMORY = 0.0
show(ask({INDEX_URL!r}))
"""
    )
    assert outcome.values == [None] * 4
    assert outcome.stderr.count("no credentials for") == len(azure.az_runs) == 2
    assert 10 <= module.FAILURE_MEMORY <= 300


def test_a_failure_of_the_network_is_remembered_for_the_organization(
    azure: Azure, python: Python
) -> None:
    feeds = [INDEX_URL.replace("private", f"feed-{number}") for number in range(5)]
    azure.faults[FEED] = [lambda handler: None] * 15
    outcome = python(f"module.RETRY_PAUSE = 0.01; show([ask(feed) for feed in {feeds!r}])")
    assert outcome.value == [None] * 5
    assert len(azure.asked(FEED)) == 3
    assert outcome.stderr.count("no credentials for") == 1


def test_a_sign_in_that_does_not_end_is_not_waited_for(azure: Azure, python: Python) -> None:
    hold = (
        f"module.locks[module.parse_feed({INDEX_URL!r}).account] = lock = module.threading.Lock()"
    )
    started = time.monotonic()
    outcome = python(
        f"{hold}; lock.acquire(); module.SIGN_IN_LIMIT = 0.1; show(ask({INDEX_URL!r}))"
    )
    assert outcome.value is None
    assert "another thread's sign-in does not end" in outcome.stderr
    assert time.monotonic() - started < 5


def test_a_feed_that_fails_says_nothing_of_the_others(azure: Azure, python: Python) -> None:
    azure.az_signed_in()
    azure.faults[FEED] = [lambda handler: handler.answer(404, "<html>")]
    outcome = python(f"show([ask({OTHER_FEED!r}), bool(ask({INDEX_URL!r}))])")
    assert outcome.value == [None, True]


# --- What people see


def test_success_is_silent(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    assert ask(INDEX_URL).stderr == ""


def test_one_warning_tells_why_nothing_worked_and_what_to_do(azure: Azure, ask: Ask) -> None:
    azure.az(NOT_SIGNED_IN)
    assert ask(INDEX_URL.replace("//", "//me:secret@")).stderr == (
        f"artifacts-keyring-nofuss: no credentials for {INDEX_URL}\n"
        "  azure_cli: Please run 'az login' to setup account.\n"
        "  managed_identity: the metadata service answered 400: Identity not found\n"
        f"To sign in: az login --tenant {TENANT}\n"
    )


def test_debug_tells_every_step_but_no_secret(azure: Azure, ask: Ask) -> None:
    token = azure.az_signed_in()
    outcome = ask(INDEX_URL.replace("//", "//me:secret@"), ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    _, password = outcome.value
    for step in (
        f"discovery: tenant {TENANT}, authority https://{AUTHORITY}/contoso (",
        "azure_cli: signed in as dev@contoso.com, expires 2",
        "azure_cli, session token: scope vso.packaging, expires 2",
    ):
        assert step in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 3
    assert not [secret for secret in (token, password, "secret") if secret in outcome.stderr]


def test_the_name_of_an_account_stays_in_its_line(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in(azure.entra_token(upn="dev\r\n\x1b[31mazure_cli: forged"))
    outcome = ask(INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert outcome.value
    assert "signed in as dev [31mazure_cli: forged, expires" in outcome.stderr


def test_debug_tells_every_failure(azure: Azure, ask: Ask) -> None:
    azure.az(NOT_SIGNED_IN)
    azure.identity = azure.application_token()
    endpoint = azure.metadata.url + "/msi/token"
    outcome = ask(
        INDEX_URL,
        IDENTITY_ENDPOINT=endpoint,
        IDENTITY_HEADER=SECRET_HEADER,
        ARTIFACTS_KEYRING_NOFUSS_DEBUG="1",
    )
    assert "azure_cli: Please run 'az login' to setup account. (" in outcome.stderr
    assert "managed_identity: signed in as 99999999-0000-0000-0000-000000000000" in outcome.stderr
    assert "managed_identity, session token: the application's own Entra token" in outcome.stderr
    assert SECRET_HEADER not in outcome.stderr
    assert azure.identity not in outcome.stderr


def test_debug_reaches_no_handler_of_the_client(azure: Azure, python: Python) -> None:
    """pip shows the root logger's records on stdout, where they would break its --json."""
    azure.az_signed_in()
    logging_all = "import logging; logging.basicConfig(level=0, format='ROOT %(name)s'); "
    outcome = python(f"{logging_all}show(ask({INDEX_URL!r}))", ARTIFACTS_KEYRING_NOFUSS_DEBUG="1")
    assert "ROOT keyring" in outcome.stderr
    assert "ROOT artifacts" not in outcome.stderr


def test_without_debug_logging_follows_library_manners() -> None:
    assert (module.log.handlers, module.log.level, module.log.propagate) == (
        [],
        logging.NOTSET,
        True,
    )


@pytest.mark.parametrize("value", ["", "0"])
def test_debug_can_be_off(azure: Azure, ask: Ask, value: str) -> None:
    azure.az_signed_in()
    assert ask(INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_DEBUG=value).stderr == ""


def test_a_defect_of_ours_is_a_warning_without_its_words(azure: Azure, python: Python) -> None:
    outcome = python(
        f"""
def broken(feed, deadline):
    raise LookupError("a secret")
module.discover, module.SIGN_IN_LIMIT = broken, 2
show(ask({INDEX_URL!r}) or ask({INDEX_URL!r}))
"""
    )
    assert outcome.value is None
    assert outcome.stderr.count("please report this: LookupError at <string>:") == 2
    assert "a secret" not in outcome.stderr


def test_a_log_that_fails_is_no_reason_to_fail(azure: Azure, python: Python) -> None:
    fail = """
import logging
class Broken(logging.Handler):
    def emit(self, record):
        raise RuntimeError("full")
module.log.addHandler(Broken())
module.log.setLevel(logging.DEBUG)
"""
    assert python(f"{fail}show(ask({INDEX_URL!r}))").value is None
    azure.az_signed_in()
    assert python(f"{fail}show(ask({INDEX_URL!r}))").value


def test_log_records_hold_no_token(azure: Azure, python: Python) -> None:
    token = azure.az_signed_in()
    keep = """
import logging, sys
class Exporter(logging.Handler):
    def emit(self, record):
        print(json.dumps([record.msg, record.args]), file=sys.stderr)
module.log.addHandler(Exporter())
module.log.setLevel(logging.DEBUG)
"""
    outcome = python(f"{keep}show(ask({INDEX_URL!r}))")
    assert "session token: scope vso.packaging" in outcome.stderr
    assert token not in outcome.stderr
    assert outcome.value[1] not in outcome.stderr


def test_az_login_is_no_advice_where_az_is_not_asked(azure: Azure, ask: Ask) -> None:
    outcome = ask(INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_PROVIDER="managed_identity")
    assert "managed_identity: the metadata service answered 400" in outcome.stderr
    assert "az login" not in outcome.stderr


# --- Vendored copies


def test_a_vendored_copy_needs_neither_keyring_nor_metadata(azure: Azure, tmp_path: Path) -> None:
    azure.az_signed_in()
    source = Path(module.__file__).read_text()
    (tmp_path / "vendored_copy.py").write_text(source)
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.modules["keyring"] = None
import vendored_copy
backend = vendored_copy.ArtifactsKeyringBackend()
credential = backend.get_credential({INDEX_URL!r}, None)
print(credential.username, credential.password)
try:
    backend.set_password("x", "y", "z")
except NotImplementedError:
    print("not stored")
"""
    command = [sys.executable, "-S", "-c", script]
    done = subprocess.run(command, env=azure.environment(), capture_output=True, text=True)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first.split() == ["VssSessionToken", *azure.session_tokens]
    assert second == "not stored"


def test_tokens_are_not_in_reprs() -> None:
    token = module.Token("secret", "label", time.time())
    step = module.Step("name", 0.0, token, password=token)
    assert "secret" not in f"{token!r} {token} {step!r} {step}"


def test_the_metadata_service_is_asked_by_nobody_who_is_signed_in(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    assert ask(INDEX_URL).value
    assert azure.asked(IMDS) == []
