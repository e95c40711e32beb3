"""`python -m artifacts_keyring_nofuss URL`, and the README's table of what it may say."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, NamedTuple
from unittest.mock import patch

import pytest
import trustme

import artifacts_keyring_nofuss as module
from conftest import Dials, Python, command
from simulated_azure import (
    AUTHORITY,
    FEED,
    IMDS,
    INDEX_URL,
    TENANT,
    UPLOAD_URL,
    Azure,
    Handler,
    Issued,
)

KEYRING = "keyring.cmd" if os.name == "nt" else "keyring"
DIAGNOSIS = [sys.executable, "-m", "artifacts_keyring_nofuss"]
LOGIN = (
    f"az login --tenant {TENANT} --scope 499b84ac-1321-427f-aa17-267ca6975798/.default "
    "--allow-no-subscriptions"
)


class Run(NamedTuple):
    """How a diagnosis ended, and what it wrote."""

    status: int
    stdout: str
    stderr: str

    @property
    def told(self) -> str:
        """What it told, in text or in JSON, as text without times."""
        if not self.stdout.startswith("{"):
            return re.sub(r"^([+-]) +\d+\.\d\d s  ", r"\1 ", self.stdout, flags=re.MULTILINE)
        document = json.loads(self.stdout)
        steps = [f"{'+' if step['ok'] else '-'} {step['text']}\n" for step in document["steps"]]
        return f"{''.join(steps)}{document['advice']}\n"


def diagnose(
    azure: Azure, *arguments: str, program: Sequence[str] = DIAGNOSIS, **variables: str
) -> Run:
    env = azure.environment(**variables)
    done = subprocess.run(
        [*program, *arguments], env=env, capture_output=True, encoding="utf-8", timeout=60
    )
    return Run(done.returncode, done.stdout, done.stderr)


# --- What it tells


def beginning(azure: Azure) -> str:
    return f"""\
+ keyring: keyring {version("keyring")} asks this backend first
+ network: proxy {azure.proxy.url.partition("//")[2]}, certificates SSL_CERT_FILE={azure.ca_file}
+ configuration: token, workload_identity, azure_cli, managed_identity
+ token: not configured
+ workload_identity: not configured
+ discovery: tenant {TENANT}, authority https://{AUTHORITY}/contoso
"""


def end(azure: Azure, advice: str) -> str:
    command = azure.bin / KEYRING
    return f"+ keyring command: {command} (of unknown version) lists this backend\n{advice}\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_good_run_tells_every_step(azure: Azure, options: list[str]) -> None:
    azure.az_signed_in()
    run = diagnose(azure, INDEX_URL.replace("//", "//me:p4ss@"), *options)
    assert (run.status, run.stderr) == (0, "")
    assert run.told == beginning(azure) + (
        "+ azure_cli: signed in as dev@contoso.com, expires in 60 min\n"
        "+ azure_cli, session token: scope vso.packaging, expires in 60 min\n"
        "- managed_identity: the metadata service of this machine answered 400: "
        "Identity not found\n"
        "+ the feed: accepts the password of azure_cli, which keyring uses\n"
        f"{end(azure, 'Nothing to do.')}"
    )
    assert (azure.requests[-1].host, azure.requests[-1].status) == (FEED, 200)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_bad_run_tells_what_to_do(azure: Azure, options: list[str]) -> None:
    azure.az_not_signed_in()
    run = diagnose(azure, INDEX_URL, *options)
    assert (run.status, run.stderr) == (1, "")
    assert run.told == beginning(azure) + (
        "- azure_cli: az failed: Please run 'az login' to setup account.\n"
        f"    {LOGIN}\n"
        "- managed_identity: the metadata service of this machine answered 400: "
        "Identity not found\n"
        f"{end(azure, f'To do: {LOGIN}')}"
    )


def test_json_has_what_a_report_needs(azure: Azure) -> None:
    document = json.loads(diagnose(azure, INDEX_URL, "--json").stdout)
    assert document["accepted"] is False
    assert (document["version"], document["python"]) == (module.__version__, sys.version)
    assert document["steps"][0]["text"].startswith("keyring: ")
    assert 0 < max(step["seconds"] for step in document["steps"]) < 60


@pytest.mark.parametrize("provider", ["azure_cli", "managed_identity"])
def test_every_provider_is_tried_and_the_one_that_keyring_uses_is_named(
    azure: Azure, provider: str
) -> None:
    azure.az_signed_in()
    azure.identity = azure.application_token()
    run = diagnose(azure, INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_PROVIDER=provider)
    assert run.status == 0
    assert f"+ configuration: {provider}\n" in run.told
    assert "+ azure_cli, session token: scope vso.packaging" in run.told
    assert "+ managed_identity: signed in as 99999999-" in run.told
    assert f"+ the feed: accepts the password of {provider}, which keyring uses\n" in run.told


def test_a_chosen_provider_that_fails_is_not_helped_by_the_others(azure: Azure) -> None:
    azure.az_signed_in()
    run = diagnose(azure, INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_PROVIDER="managed_identity")
    assert run.status == 1
    assert "+ azure_cli, session token" in run.told
    assert "the feed: " not in run.told
    assert run.told.endswith("\nSee above.\n")


def test_a_remedy_goes_before_the_installation_of_az(azure: Azure) -> None:
    words = "Multiple user assigned identities exist, please specify the clientId / resourceId"
    azure.faults[IMDS] = [refusal(400, {"error_description": words})]
    run = diagnose(azure, INDEX_URL)
    assert run.status == 1
    assert "- azure_cli: az is not on PATH\n    install the Azure CLI, or " in run.told
    assert run.told.endswith("\nTo do: set AZURE_CLIENT_ID to the identity to use\n")


def test_a_sign_in_goes_before_the_keyring_command(azure: Azure) -> None:
    azure.command("keyring", sys.executable, "-c", "print('no backends')")
    run = diagnose(azure, INDEX_URL)
    assert run.status == 1
    assert "\nTo do: install the Azure CLI, or " in run.told


def test_a_provider_that_is_not_needed_may_fail(azure: Azure) -> None:
    azure.az_not_signed_in()
    azure.identity = azure.application_token()
    run = diagnose(azure, INDEX_URL)
    assert run.status == 0
    assert (
        "- azure_cli: az failed: Please run 'az login' to setup account.\n    az login" in run.told
    )
    assert run.told.endswith("\nNothing to do.\n")


def test_a_token_made_elsewhere_is_enough_without_a_tenant(azure: Azure) -> None:
    azure.passwords["pat"] = Issued("contoso", ["vso.packaging"])
    azure.challenge = {"WWW-Authenticate": "Basic", "X-VSS-ResourceTenant": ""}
    run = diagnose(azure, INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_TOKEN="pat")
    assert run.status == 0
    assert "+ the feed: accepts the password of token, which keyring uses\n" in run.told
    assert run.told.endswith("\nNothing to do.\n")


def test_an_upload_url_is_asked_for_its_index(azure: Azure) -> None:
    azure.az_signed_in()
    run = diagnose(azure, UPLOAD_URL)
    assert run.status == 0
    assert "+ azure_cli, session token: scope vso.packaging_write, " in run.told
    assert "; whether it may upload was not tried\n" in run.told
    assert azure.requests[-1].path.endswith("/pypi/simple/")


def test_a_public_feed_is_accepted_without_credential(azure: Azure) -> None:
    azure.public_feeds = {"private"}
    run = diagnose(azure, INDEX_URL)
    assert run.status == 0
    assert run.told.endswith(f"+ discovery: nothing is needed\n{end(azure, 'Nothing to do.')}")


def test_a_token_that_a_public_feed_refuses_is_told(azure: Azure) -> None:
    azure.faults[FEED] = [refusal(200), refusal(401)]
    run = diagnose(azure, INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_TOKEN="expired")
    assert run.status == 1
    assert "- the feed: answered 401" in run.told
    assert "\nTo do: let an administrator add this account, or" in run.told


# --- How it ends


def az_that_waits(azure: Azure) -> Path:
    """Put an az on PATH that answers when this file exists."""
    go = azure.folder / "go"
    answer = azure.az_answer(azure.entra_token())
    azure.az(f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\nprint({answer!r})")
    return go


def start(azure: Azure, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DIAGNOSIS, INDEX_URL],
        env=azure.environment(),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        **{"stdout": subprocess.PIPE, **options},
    )


def read_until_discovery(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    assert any("  discovery: " in line for line in process.stdout)


def test_each_step_is_told_as_soon_as_it_is_done(azure: Azure) -> None:
    go = az_that_waits(azure)
    with start(azure) as process:
        read_until_discovery(process)
        go.touch()
        output, _ = process.communicate(timeout=30)
    assert output.endswith("Nothing to do.\n")


def test_a_pipe_that_is_closed_ends_it(azure: Azure) -> None:
    """As with `| head`."""
    go = az_that_waits(azure)
    with start(azure) as process:
        read_until_discovery(process)
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        go.touch()
        assert re.fullmatch("stdout: .+\n", process.stderr.read())
    assert process.returncode == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_a_disk_that_is_full_ends_it(azure: Azure) -> None:
    with open("/dev/full", "w") as full, start(azure, stdout=full) as process:
        assert process.communicate(timeout=60)[1] == "stdout: No space left on device\n"
    assert process.returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no way to start without stdout")
@pytest.mark.parametrize("signed_in", [True, False])
def test_the_exit_status_counts_without_stdout(azure: Azure, signed_in: bool) -> None:
    """As with `>&-`."""
    if signed_in:
        azure.az_signed_in()
    with start(azure, stdout=None, preexec_fn=lambda: os.close(1)) as process:
        assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == (0 if signed_in else 1)


def allow_interrupts() -> None:
    """Undo what a shell does to a program in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends interrupts to whole consoles")
def test_an_interrupt_ends_it_in_a_line(azure: Azure) -> None:
    az_that_waits(azure)
    with start(azure, preexec_fn=allow_interrupts) as process:
        read_until_discovery(process)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[1] == "interrupted\n"
    assert process.returncode == 1


@pytest.mark.parametrize(
    "arguments", [[], ["--nonsense"], [INDEX_URL, INDEX_URL], ["https://pypi.org/simple/"]]
)
def test_unusable_arguments_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["", *arguments])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 2
    assert "usage: python -m artifacts_keyring_nofuss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "words"), [("--help", "--json"), ("--version", f"{module.__version__}\n")]
)
def test_help_and_version_are_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, words: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["", option])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert words in capsys.readouterr().out


def test_a_terminal_in_ascii_is_no_obstacle(azure: Azure) -> None:
    azure.az_fails("ERROR: gesch\u00fctzt")
    run = diagnose(azure, INDEX_URL, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert run.stderr == ""
    assert "azure_cli: az failed: gesch\\xfctzt" in run.told


# --- The steps around the sign-in


@pytest.mark.parametrize(
    ("priority", "words"),
    [
        (20, "keyring does not ask this backend but other.First"),
        (9.95, "asks this backend after other.First"),
        (5, "asks this backend first"),
    ],
)
def test_another_backend_before_this_one_is_told(
    azure: Azure, python: Python, priority: float, words: str
) -> None:
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
    script = "module.take(lambda step: show(str(step)), 'keyring', module.keyring_order)"
    assert words in python(script, PYTHONPATH=str(azure.home)).value


@pytest.fixture
def two_keyrings(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Put two folders on PATH, the first with a keyring command that lists another backend.

    The second one has the right command.
    """
    right = azure.folder / "right"
    shutil.copytree(azure.bin, right)
    azure.command("keyring", sys.executable, "-c", "print('keyring.backends.fail.Keyring')")
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (azure.bin, right))))
    return azure.bin, right


@pytest.mark.parametrize(
    "place",
    [
        "Lib/site-packages/keyring-25.7.0.dist-info",
        "lib/python3.13/site-packages/keyring-25.7.0.dist-info",
        "lib/python3/dist-packages/keyring-25.7.0.egg-info",
    ],
)
def test_the_wrong_keyring_command_is_told_with_its_version_and_the_right_one(
    azure: Azure, two_keyrings: tuple[Path, Path], place: str
) -> None:
    wrong, right = two_keyrings
    (azure.folder / place).mkdir(parents=True)
    with pytest.raises(module.SignInError) as told:
        module.keyring_command()
    name = f"{wrong / KEYRING} (keyring-25.7.0)"
    assert str(told.value) == f"{name} does not list this backend; {right / KEYRING} does"
    assert told.value.remedy == "put the other one's folder first on PATH"


def test_the_wrong_keyring_command_alone_is_told_with_what_to_install(
    two_keyrings: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, _ = two_keyrings
    monkeypatch.setenv("PATH", str(wrong))
    with pytest.raises(module.SignInError, match="does not list this backend") as told:
        module.keyring_command()
    assert "uv tool install keyring --with" in told.value.remedy


def test_a_keyring_command_that_hangs_is_given_up(
    azure: Azure, two_keyrings: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.command("keyring", sys.executable, "-c", "import time; time.sleep(60)")
    monkeypatch.setenv("PATH", str(azure.bin))
    monkeypatch.setattr(module, "COMMAND_LIMIT", 0.3)
    started = time.monotonic()
    with pytest.raises(module.SignInError, match="does not list this backend"):
        module.keyring_command()
    assert time.monotonic() - started < 10


def test_no_keyring_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.keyring_command() == "none on PATH; uv, and pip by subprocess, need one"


def test_a_wrong_keyring_command_is_mended_even_if_the_feed_accepts(azure: Azure) -> None:
    azure.az_signed_in()
    azure.command("keyring", sys.executable, "-c", "print('no backends')")
    run = diagnose(azure, INDEX_URL)
    assert run.status == 0
    assert "\nTo do: uv tool install keyring --with" in run.told


def contoso() -> module.Feed:
    feed = module.parse_feed(INDEX_URL)
    assert feed
    return feed


@pytest.fixture
def here(azure: Azure) -> Iterator[Azure]:
    """The Azure, which this very process sees."""
    with patch.dict(os.environ, azure.environment(), clear=True):
        yield azure


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HTTPS_PROXY": "http://me:p4ss@word@proxy.example:8080"}, "proxy proxy.example:8080, "),
        ({"NO_PROXY": "*"}, "proxy none, "),
        ({"SSL_CERT_FILE": ""}, "certificates of the system"),
    ],
)
def test_the_network_is_told_without_the_proxys_password(
    here: Azure, variables: dict[str, str], words: str
) -> None:
    os.environ.update(variables)
    told = module.network(contoso())
    assert words in told
    assert "p4ss" not in told


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"])
def test_certificates_that_do_not_exist_are_told(here: Azure, variable: str) -> None:
    os.environ.update({"SSL_CERT_FILE": "", variable: os.path.abspath("/no/such/file")})
    with pytest.raises(module.SignInError, match=f"{variable} cannot be used: (?i:no such file)"):
        module.network(contoso())


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (302, "ask your administrator: a policy forbids this sign-in"),
        (401, "let an administrator add this account, or renew the token"),
        (403, "ask the feed's owner for a role: Reader to install, Contributor to upload"),
        (404, "check the organization and the feed in the URL"),
        (500, "try again later"),
    ],
)
def test_a_feed_that_refuses_the_password_is_told_with_what_to_do(
    here: Azure, monkeypatch: pytest.MonkeyPatch, status: int, remedy: str
) -> None:
    def echo(handler: Handler) -> None:
        handler.answer(status, {"message": handler.headers["Authorization"] + " a-pat"})

    here.faults[FEED] = [echo] * 3
    monkeypatch.setattr(module, "RETRY_PAUSES", (0.01, 0.02))
    password = module.Token("a-pat", module.PASSWORD, "")
    with pytest.raises(module.SignInError) as told:
        module.ask_feed(contoso(), "token", password, module.now() + 10)
    assert str(told.value) == f"answered {status}: Basic [removed] [removed]"
    assert told.value.remedy.startswith(remedy)
    assert here.requests[-1].headers["x-tfs-fedauthredirect"] == "Suppress"


# --- Vendored copies


@pytest.fixture
def copy(azure: Azure) -> Path:
    path = azure.home / "vendored_copy.py"
    path.write_bytes(Path(module.__file__).read_bytes())
    return path


@pytest.mark.parametrize("by_path", [True, False])
def test_a_vendored_copy_diagnoses_itself(azure: Azure, copy: Path, by_path: bool) -> None:
    azure.az_signed_in()
    backend = "vendored_copy.ArtifactsKeyringBackend"
    azure.command("keyring", sys.executable, "-c", f"print('tool.{backend}')")
    run = diagnose(
        azure,
        INDEX_URL,
        program=[sys.executable, *([str(copy)] if by_path else ["-m", "vendored_copy"])],
        PYTHONPATH=str(azure.home),
        PYTHON_KEYRING_BACKEND=backend,
    )
    assert (run.status, run.stderr) == (0, "")
    assert "asks this backend first" in run.told
    assert run.told.endswith("\nNothing to do.\n")


def test_a_vendored_copy_diagnoses_itself_without_keyring(azure: Azure, copy: Path) -> None:
    azure.az_signed_in()
    run = diagnose(azure, INDEX_URL, program=[sys.executable, "-S", str(copy)])
    assert run.status == 0
    assert "- keyring: keyring does not start: ModuleNotFoundError" in run.told
    assert "+ the feed: accepts the password of azure_cli" in run.told


# --- The README's table of messages


class Case(NamedTuple):
    """How a message comes about; what arranges it may return variables."""

    arrange: Callable[[Azure], Mapping[str, str] | None]
    dials: Dials | None = None


def environment(**variables: str) -> Case:
    return Case(lambda azure: variables)


def challenge(headers: dict[str, str | list[str]]) -> Case:
    return Case(lambda azure: azure.challenge.update(headers))


def fault(kind: str, *answers: Callable[[Handler], None], dials: Dials | None = None) -> Case:
    def arrange(azure: Azure) -> None:
        azure.az_signed_in()
        azure.faults[kind] = [*answers]

    return Case(arrange, dials)


def refusal(status: int, content: object = "<html>") -> Callable[[Handler], None]:
    return lambda handler: handler.answer(status, content)


def silence(handler: Handler) -> None:
    handler.connection.recv(1)


def another_certificate_authority(azure: Azure) -> None:
    trustme.CA().cert_pem.write_to_path(str(azure.ca_file))


def another_tenant(azure: Azure) -> None:
    azure.az_signed_in(azure.entra_token(tid="22222222-2222-2222-2222-222222222222"))


def another_secret(azure: Azure) -> Mapping[str, str]:
    return {**azure.client_secret(), "AZURE_CLIENT_SECRET": "of-another-application"}


CASES = {
    "keyring does not ask this backend but …": environment(
        PYTHON_KEYRING_BACKEND="keyring.backends.null.Keyring"
    ),
    "…: certificate not trusted: …": Case(another_certificate_authority),
    "the proxy is not an http URL": environment(HTTPS_PROXY="http://x:y"),
    "…: no complete answer in time": fault(FEED, *[silence] * 3, dials={"ATTEMPT_LIMIT": 0.3}),
    "… is not trusted: …": challenge({"X-VSS-AuthorizationEndpoint": "https://evil.example"}),
    "Entra answered …: AADSTS…": Case(another_secret),
    "the token is of tenant …, the feed of …": Case(another_tenant),
    "Azure DevOps answered 401: TF401444…": fault(
        AUTHORITY, refusal(401, {"message": "TF401444: Please sign-in at least once"})
    ),
    "Azure DevOps answered …": fault(AUTHORITY, refusal(302)),
}
LOGGED_ALONE = {"please report this: …"}
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
TROUBLESHOOTING = README.partition("\n## Troubleshooting\n")[2].partition("\n## ")[0]
ROWS = {*re.findall(r"^\| `([^`]+)` \|", TROUBLESHOOTING, re.MULTILINE)}


def test_the_table_has_these_messages() -> None:
    assert CASES.keys() | LOGGED_ALONE == ROWS


@pytest.mark.parametrize(("row", "case"), CASES.items(), ids=CASES)
def test_each_message_comes_about(azure: Azure, row: str, case: Case) -> None:
    variables = case.arrange(azure) or {}
    main = command("import sys; sys.exit(module.main())", case.dials)
    run = diagnose(azure, INDEX_URL, program=main, **variables)
    message = ".*".join(map(re.escape, row.split("…")))  # an ellipsis stands for any text
    assert re.search(f"^- [^:]+: {message}", run.told, re.MULTILINE), run.told
    assert run.stderr == ""
