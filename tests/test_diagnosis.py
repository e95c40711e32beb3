"""`python -m artifacts_keyring_nofuss URL`, and the README's table of what can be printed."""

from __future__ import annotations

import ast
import json
import os
import platform
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Callable, NamedTuple

import pytest
import trustme

import artifacts_keyring_nofuss as module
from simulated_azure import (
    AUTHORITY,
    FEED,
    INDEX_URL,
    NOT_SIGNED_IN,
    TENANT,
    UPLOAD_URL,
    Azure,
    Handler,
)

README = Path(__file__).parent.parent / "README.md"
TROUBLESHOOTING = README.read_text(encoding="utf-8").partition("\n## Troubleshooting\n")[2]
QUICK = "import artifacts_keyring_nofuss as module; module.RETRY_PAUSE = 0.01; "


class Diagnosis(NamedTuple):
    status: int
    stdout: str
    stderr: str


def diagnose(azure: Azure, *arguments: str, script: str = "", **variables: str) -> Diagnosis:
    """Run the command, or its main() after a script that sets smaller constants."""
    command = [sys.executable, "-m", "artifacts_keyring_nofuss", *arguments]
    if script:
        command = [sys.executable, "-c", f"{script}import sys; sys.exit(module.main())", *arguments]
    env = azure.environment(**variables)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    return Diagnosis(done.returncode, done.stdout, done.stderr)


def without_times(text: str) -> list[str]:
    return [re.sub(r" \([0-9.]+ s\)$", "", line) for line in text.splitlines()]


def test_a_good_run_tells_every_step(azure: Azure) -> None:
    token = azure.az_signed_in()
    run = diagnose(azure, INDEX_URL.replace("//", "//me:secret@"))
    assert (run.status, run.stderr) == (0, "")
    marks_and_names = [line.partition(":")[0] for line in without_times(run.stdout)]
    assert marks_and_names == [
        "+ feed",
        "+ keyring",
        "+ proxy",
        "+ certificates",
        "+ providers",
        "+ discovery",
        "+ azure_cli",
        "+ azure_cli, session token",
        "- managed_identity",
        "+ feed's answer",
        "Nothing to do",
    ]
    assert all(re.search(r" \(\d+\.\d\d s\)$", line) for line in run.stdout.splitlines()[:-1])
    for fact in (
        "organization contoso, scope vso.packaging",
        "asks this backend first",
        azure.proxy.url.partition("//")[2],
        f"SSL_CERT_FILE={azure.ca_file}",
        f"tenant {TENANT}, authority https://{AUTHORITY}/contoso",
        "signed in as dev@contoso.com, expires 2",
        "scope vso.packaging, expires 2",
        "200, the feed accepts the credential",
    ):
        assert fact in run.stdout
    for secret in (token, "secret", *azure.session_tokens):
        assert secret not in run.stdout
    (*_, last) = azure.requests
    assert (last.host, last.status, len(azure.az_runs)) == (FEED, 200, 1)


def test_every_provider_is_tried_and_the_one_that_keyring_uses_is_marked(azure: Azure) -> None:
    azure.az_signed_in()
    azure.identity = azure.application_token()
    run = diagnose(azure, INDEX_URL)
    assert run.status == 0
    (used,) = [line for line in run.stdout.splitlines() if "this is what keyring uses" in line]
    assert used.startswith("+ azure_cli, session token: ")
    assert "+ managed_identity, session token: the application's own" in run.stdout
    run = diagnose(azure, INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_PROVIDER="managed_identity")
    assert run.status == 0
    (used,) = [line for line in run.stdout.splitlines() if "this is what keyring uses" in line]
    assert used.startswith("+ managed_identity, session token: ")


def test_an_upload_url_is_asked_for_its_index(azure: Azure) -> None:
    azure.az_signed_in()
    run = diagnose(azure, UPLOAD_URL)
    assert run.status == 0
    assert "organization contoso, scope vso.packaging_write" in run.stdout
    assert azure.requests[-1].path.endswith("/pypi/simple/")


def test_a_public_feed_is_accepted_without_credential(azure: Azure) -> None:
    azure.public_feeds = {"private"}
    run = diagnose(azure, INDEX_URL)
    assert run.status == 0
    assert "a public feed needs no credentials" in run.stdout


def test_each_step_is_told_as_soon_as_it_is_done(azure: Azure) -> None:
    azure.az_signed_in()
    told = azure.folder / "told"
    answer = f"cat {azure.folder}/az.json"
    azure.az(f"for i in 1 2 3 4 5 6 7 8 9; do [ -e {told} ] && {answer} && exit; sleep 0.2; done")
    command = [sys.executable, "-m", "artifacts_keyring_nofuss", INDEX_URL]
    with subprocess.Popen(
        command, env=azure.environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("+ discovery: "):
                told.touch()
    assert process.returncode == 0


def test_nothing_works_without_a_sign_in(azure: Azure) -> None:
    azure.az(NOT_SIGNED_IN)
    run = diagnose(azure, INDEX_URL)
    assert run.status == 1
    assert run.stdout.splitlines()[-1] == f"To sign in: az login --tenant {TENANT}"


def test_a_forced_provider_that_fails_is_not_helped_by_the_others(azure: Azure) -> None:
    azure.az_signed_in()
    run = diagnose(azure, INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_PROVIDER="managed_identity")
    assert run.status == 1
    assert "+ azure_cli, session token" in run.stdout
    assert "this is what keyring uses" not in run.stdout
    assert "To do: let keyring use a provider that works" in run.stdout.splitlines()[-1]
    azure.az(NOT_SIGNED_IN)
    azure.identity = azure.application_token()
    run = diagnose(azure, INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_PROVIDER="azure_cli")
    assert run.status == 1
    assert "+ managed_identity, session token" in run.stdout


def test_a_provider_that_is_not_needed_may_fail(azure: Azure) -> None:
    azure.az_signed_in("refused")
    azure.identity = azure.application_token()
    run = diagnose(azure, INDEX_URL)
    assert run.status == 0
    assert "- azure_cli, session token: Azure DevOps refused the token" in run.stdout
    assert run.stdout.splitlines()[-1].startswith("Nothing to do")


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (302, "try again later"),
        (401, "the feed does not know this account: ask an administrator"),
        (403, "ask the feed's owner for a role"),
        (404, "check the organization and the feed in the URL"),
        (500, "try again later"),
    ],
)
def test_a_feed_that_refuses_the_credential_is_told(azure: Azure, status: int, remedy: str) -> None:
    azure.az_signed_in()

    def echo(handler: Handler) -> None:
        handler.answer(status, {"message": handler.headers["Authorization"] + " short-token"})

    azure.faults[AUTHORITY] = [lambda handler: handler.answer(200, {"token": "short-token"})]
    azure.faults[FEED] = [Handler.answer_feed, echo, echo, echo]
    run = diagnose(azure, INDEX_URL, script=QUICK)
    assert run.status == 1
    assert f"- feed's answer: answered {status}: Basic [removed] [removed]; {remedy}" in run.stdout
    assert run.stdout.splitlines()[-1].startswith(f"To do: {remedy}")
    assert azure.requests[-1].headers["x-tfs-fedauthredirect"] == "Suppress"


def test_certificates_that_do_not_exist_are_told(azure: Azure) -> None:
    run = diagnose(azure, INDEX_URL, SSL_CERT_FILE="/no/such/file")
    assert "- certificates: SSL_CERT_FILE cannot be used: no such file" in run.stdout
    run = diagnose(azure, INDEX_URL, SSL_CERT_FILE="", CURL_CA_BUNDLE="/no/such/file")
    assert "- certificates: CURL_CA_BUNDLE cannot be used: No such file" in run.stdout


def test_a_vendored_copy_knows_its_name(azure: Azure) -> None:
    azure.az_signed_in()
    (azure.home / "vendored.py").write_text(Path(module.__file__).read_text())
    command = [sys.executable, "-m", "vendored", INDEX_URL]
    env = azure.environment(
        PYTHONPATH=str(azure.home), PYTHON_KEYRING_BACKEND="vendored.ArtifactsKeyringBackend"
    )
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert "asks this backend first" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], [INDEX_URL, INDEX_URL]])
def test_unusable_arguments_are_told(azure: Azure, arguments: list[str]) -> None:
    run = diagnose(azure, *arguments)
    assert run.status == 2
    assert "usage: python -m artifacts_keyring_nofuss" in run.stderr


def test_help_is_given(azure: Azure) -> None:
    run = diagnose(azure, "--help")
    assert run.status == 0
    assert "--json" in run.stdout


@pytest.mark.parametrize("signed_in", [True, False])
def test_json_is_the_same_as_one_object(azure: Azure, signed_in: bool) -> None:
    if signed_in:
        azure.az_signed_in()
    text, report = diagnose(azure, INDEX_URL), diagnose(azure, INDEX_URL, "--json")
    document = json.loads(report.stdout)
    lines = [f"{'+' if s['ok'] else '-'} {s['name']}: {s['text']}" for s in document["steps"]]
    times = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ")
    assert [times.sub("", line) for line in [*lines, document["advice"]]] == [
        times.sub("", line) for line in without_times(text.stdout)
    ]
    assert document["accepted"] is signed_in
    assert report.status == text.status == (0 if signed_in else 1)
    assert document["versions"] == {
        "artifacts-keyring-nofuss": module.__version__,
        "python": platform.python_version(),
    }
    assert max(step["seconds"] for step in document["steps"]) > 0


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_is_for_terminals_that_want_it(azure: Azure, no_color: str, coloured: bool) -> None:
    azure.az_signed_in()
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "artifacts_keyring_nofuss", INDEX_URL]
    env = azure.environment(NO_COLOR=no_color)
    with subprocess.Popen(command, env=env, stdout=slave) as process:
        process.wait(timeout=60)
    os.close(slave)
    text = os.read(master, 65536).decode()
    os.close(master)
    assert ("\x1b[32m+\x1b[0m feed: " in text) is coloured
    assert ("\x1b[31m-\x1b[0m managed_identity: " in text) is coloured
    assert "\x1b" not in diagnose(azure, INDEX_URL).stdout


def test_a_log_in_ascii_is_no_obstacle(azure: Azure) -> None:
    azure.az("echo 'ERROR: gesch\u00fctzt' >&2; exit 1")
    run = diagnose(azure, INDEX_URL, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert run.stderr == ""
    assert "azure_cli: gesch\\xfctzt" in run.stdout


def test_a_proxy_is_shown_without_its_password(azure: Azure) -> None:
    azure.az_signed_in()
    proxy = azure.proxy.url.replace("//", "//me:secr@et@")
    run = diagnose(azure, INDEX_URL, HTTPS_PROXY=proxy)
    assert run.status == 0
    assert f"+ proxy: {azure.proxy.url.partition('//')[2]}" in run.stdout
    assert "secr" not in run.stdout
    assert "+ proxy: none" in diagnose(azure, "x.pkgs.vsts.me", NO_PROXY="*").stdout


@pytest.mark.parametrize(
    ("priority", "words"),
    [
        (20, "- keyring: keyring does not ask this backend but other.First"),
        (9.95, "asks this backend after other.First"),
        (5, "asks this backend first"),
    ],
)
def test_another_backend_before_this_one_is_told(azure: Azure, priority: float, words: str) -> None:
    """Above the chainer's priority of 10, a backend is the only one that keyring asks."""
    (azure.home / "other.py").write_text(
        "from keyring.backend import KeyringBackend\n"
        f"class First(KeyringBackend):\n    priority = {priority}\n"
        "    def get_password(self, service, username): return None\n"
        "    def set_password(self, service, username, password): return None\n"
    )
    metadata = azure.home / "other-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[keyring.backends]\nother = other\n")
    run = diagnose(azure, INDEX_URL, PYTHONPATH=str(azure.home))
    assert words in run.stdout


# --- The README's table of messages


class Case(NamedTuple):
    """How a message comes about."""

    arrange: Callable[[Azure], object] = Azure.az_signed_in
    variables: Mapping[str, str] = MappingProxyType({})
    url: str = INDEX_URL
    script: str = QUICK


def answer(host: str, status: int, content: object = "<html>") -> Case:
    def arrange(azure: Azure) -> None:
        azure.faults[host] = [lambda handler: handler.answer(status, content)] * 3
        azure.az_signed_in()

    return Case(arrange)


def refused_by_feed(status: int) -> Case:
    """The feed challenges the first request and refuses the second, which has a credential."""

    def arrange(azure: Azure) -> None:
        azure.az_signed_in()
        azure.faults[FEED] = [Handler.answer_feed, lambda handler: handler.answer(status)]

    return Case(arrange)


def silence(azure: Azure) -> None:
    def wait(handler: Handler) -> None:
        handler.connection.recv(1)

    azure.faults[FEED] = [wait] * 3


def nonsense(azure: Azure) -> None:
    def answer(handler: Handler) -> None:
        handler.wfile.write(b"nonsense\r\n\r\n")

    azure.faults[FEED] = [answer] * 3


def challenge(**headers: str) -> Case:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Case(lambda azure: azure.challenge.update(names))


def environment(**variables: str) -> Case:
    return Case(variables=variables)


def az(script: str, limit: str = "") -> Case:
    return Case(lambda azure: azure.az(script), script=QUICK + limit)


def broken_az(azure: Azure) -> None:
    (azure.bin / "az").write_text("#!/no/such/interpreter")
    (azure.bin / "az").chmod(0o755)


def broken_configuration(azure: Azure) -> None:
    path = azure.home / ".config" / "python_keyring" / "keyringrc.cfg"
    path.parent.mkdir(parents=True)
    path.write_text("nonsense")


def another_authority(azure: Azure) -> None:
    trustme.CA().cert_pem.write_to_path(str(azure.ca_file))


# The rows of the table, and what makes each message come about.
CASES = {
    "this is not the URL of an Azure Artifacts feed": Case(url="https://pypi.org/simple/"),
    "keyring does not start: …": environment(PYTHON_KEYRING_BACKEND="no.such.Backend"),
    "keyring does not ask this backend but …": environment(
        PYTHON_KEYRING_BACKEND="keyring.backends.null.Keyring"
    ),
    "… cannot be used: …": environment(SSL_CERT_FILE="", CURL_CA_BUNDLE="/no/such/file"),
    "… names an unknown provider: …": environment(ARTIFACTS_KEYRING_NOFUSS_PROVIDER="azure"),
    "… cannot be read: …": Case(broken_configuration),
    "…: certificate not trusted: …": Case(another_authority),
    "the proxy is not an http URL": environment(HTTPS_PROXY="http://x:y"),
    "…: no connection: …": environment(HTTPS_PROXY="http://127.0.0.1:1"),
    "…: the answer is not HTTP or breaks off": Case(nonsense),
    "…: no complete answer in time": Case(silence, script=QUICK + "module.ATTEMPT_LIMIT = 0.3; "),
    "the feed answered …, without a challenge to sign in": answer(FEED, 404),
    "… has no Entra tenant …": challenge(WWW_Authenticate="Bearer", X_VSS_ResourceTenant=""),
    "the feed names no token service …": challenge(X_VSS_AuthorizationEndpoint=""),
    "the feed's … is not trusted: …": challenge(X_VSS_AuthorizationEndpoint="https://evil.example"),
    "az is not on PATH": Case(lambda azure: None),
    "az cannot be started: …": Case(broken_az),
    "az gave no token within … s and was stopped": az("sleep 60", "module.AZ_LIMIT = 0.2; "),
    "Please run 'az login' to setup account.": az(NOT_SIGNED_IN),
    "AADSTS…": az("echo 'ERROR: AADSTS50076: MFA.' >&2; exit 1"),
    "az failed without a word": az("exit 1"),
    "the answer is not a JSON object": az("echo nonsense"),
    "the answer holds no usable token": az("echo {}"),
    "the metadata service answered …": Case(lambda azure: None),
    "… is not an http URL": environment(AZURE_POD_IDENTITY_AUTHORITY_HOST="https://x"),
    "IDENTITY_HEADER is unfit for a header": environment(
        IDENTITY_ENDPOINT="http://127.0.0.1:1/", IDENTITY_HEADER="a b"
    ),
    "Azure DevOps does not know this account yet (TF401444)": answer(
        AUTHORITY, 401, {"message": "TF401444: sign in"}
    ),
    "Azure DevOps answered …, to a sign-in page": answer(AUTHORITY, 302),
    "Azure DevOps has trouble: …": answer(AUTHORITY, 503),
    "Azure DevOps refused the token: …": answer(AUTHORITY, 401, {"message": "TF400813"}),
    "answered 401…": refused_by_feed(401),
    "answered 403…": refused_by_feed(403),
    "answered …": refused_by_feed(404),
}
LOGGED_ALONE = {"another thread's sign-in does not end", "please report this: …"}


def table() -> set[str]:
    """Return the messages in the README's table; an ellipsis stands for any text."""
    return set(re.findall(r"^\| `([^`]+)` \|", TROUBLESHOOTING, re.MULTILINE))


def matches(row: str, line: str) -> bool:
    pattern = ".*".join(map(re.escape, row.split("…")))
    return bool(re.match(rf"- [^:]+: {pattern}", line))


@pytest.mark.parametrize(("row", "case"), CASES.items(), ids=CASES)
def test_each_message_is_in_the_table(azure: Azure, row: str, case: Case) -> None:
    case.arrange(azure)
    run = diagnose(azure, case.url, script=case.script, **case.variables)
    failures = [line for line in without_times(run.stdout) if line.startswith("- ")]
    assert [line for line in failures if matches(row, line)], run.stdout + run.stderr
    assert all(any(matches(row, line) for row in table()) for line in failures), failures
    assert "Traceback" not in run.stderr


def sample(part: ast.expr) -> str:
    """Return a part of a text; what it tells of an answer begins in a known way."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    return "answered 5" if "complaint(" in ast.unparse(part) else "x"


def reasons_in_the_code() -> set[str]:
    """Return a sample of each reason that the module gives in words of its own."""
    samples = set()
    for function in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                is_error = isinstance(node, ast.Call) and ast.unparse(node.func) == "SignInError"
                is_reason = (
                    isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason"
                )
                text = node.args[0] if is_error else node.value if is_reason else None  # type: ignore[attr-defined]
                if isinstance(text, ast.Constant):
                    samples.add(str(text.value))
                if isinstance(text, ast.JoinedStr):
                    samples.add("".join(map(sample, text.values)))
    return samples


def test_the_table_has_every_reason_in_the_code() -> None:
    samples = reasons_in_the_code()
    assert len(samples) > 20
    missing = [s for s in samples if not any(matches(row, f"- step: {s}") for row in table())]
    assert missing == []


def test_the_table_has_no_message_that_does_not_exist() -> None:
    assert table() == CASES.keys() | LOGGED_ALONE
