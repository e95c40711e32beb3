"""Provider azure_cli: the account that az is signed in as."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

import artifacts_keyring_nofuss as module
from conftest import Ask, AskHere, Python
from simulated_azure import IMDS, INDEX_URL, TENANT, Azure

RESOURCE = "499b84ac-1321-427f-aa17-267ca6975798"
OTHER = "aaaaaaaa-2222-3333-4444-555555555555"
LOGIN = f"az login --tenant {TENANT} --scope {RESOURCE}/.default --allow-no-subscriptions"


def test_a_user_signs_in(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    azure.identity = azure.application_token()
    username, password = ask(INDEX_URL).value
    assert username == "VssSessionToken"
    assert azure.session_tokens[password].scopes == ["vso.packaging"]
    arguments = f"--resource {RESOURCE} --tenant {TENANT} --output json"
    assert azure.az_runs == [f"account get-access-token {arguments}"]
    assert azure.asked(IMDS) == []


def test_the_tenant_is_given_in_lower_case(azure: Azure, ask_here: AskHere) -> None:
    """For the account of a managed identity, az compares it with attention to case."""
    uri = f"https://login.windows.net/{OTHER.upper()}"
    azure.challenge = {"WWW-Authenticate": f"Bearer authorization_uri={uri}"}
    azure.az_not_signed_in()
    ask_here(INDEX_URL)
    assert f"--tenant {OTHER} " in azure.az_runs[0]


# --- How az is run


def test_az_is_run_apart_from_the_caller(azure: Azure, python: Python, tmp_path: Path) -> None:
    """Where nobody else can write, and with nothing to read."""
    report = azure.folder / "report"
    azure.az(f"""
import json
with open({str(report)!r}, "w", encoding="utf-8") as file:
    json.dump([os.getcwd(), sys.stdin.read(), dict(os.environ)], file)
print({azure.az_answer(azure.entra_token())!r})
""")
    script = f"""
import os
read, write = os.pipe()
os.write(write, b"typed")
os.close(write)
os.dup2(read, 0)
os.chdir({str(tmp_path)!r})
show(bool(ask({INDEX_URL!r})))
"""
    assert python(script, AZURE_CLOUD_NAME="AzureUSGovernment").value
    folder, typed, environment = json.loads(report.read_text(encoding="utf-8"))
    assert Path(folder) == Path(os.environ["SYSTEMROOT"] if os.name == "nt" else "/")
    assert typed == ""
    settings = {
        "AZURE_CLOUD_NAME": "AzureCloud",
        "AZURE_CORE_COLLECT_TELEMETRY": "no",
        "AZURE_CORE_NO_COLOR": "true",
        "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
        "AZURE_LOGGING_ENABLE_LOG_FILE": "no",
    }
    assert {name: environment.get(name) for name in settings} == settings


@pytest.mark.skipif(os.name == "nt", reason="Windows has no terminals")
def test_az_is_run_in_a_session_of_its_own(azure: Azure, ask: Ask) -> None:
    """It has no terminal that it could ask a person by."""
    azure.az("sys.exit(f'leader {os.getppid() == os.getsid(0)}')")
    assert "  azure_cli: az failed: leader True\n" in ask(INDEX_URL).stderr


@pytest.mark.skipif(os.name != "nt", reason="only Windows has console windows")
def test_az_is_run_in_a_console_without_a_window(azure: Azure, ask: Ask) -> None:
    """Also if the caller has no console: it would get one that pops up."""
    azure.az("""
from ctypes import windll
window, encoding = windll.kernel32.GetConsoleWindow(), windll.kernel32.GetConsoleCP()
sys.exit(f"console {encoding > 0}, window {window}")
""")
    assert "  azure_cli: az failed: console True, window 0\n" in ask(INDEX_URL).stderr


@pytest.mark.parametrize("ending", [".cmd", ".bat"] if os.name == "nt" else [""])
def test_az_may_lie_in_any_folder(azure: Azure, ask: Ask, ending: str) -> None:
    azure.az_signed_in()
    (az,) = azure.bin.glob("az*")
    folder = azure.folder / "R&D (new) ^tools'"
    folder.mkdir()
    az.rename(folder / f"az{ending}")
    assert ask(INDEX_URL, PATH=str(folder)).value
    assert azure.az_runs[0].endswith("--output json")


def test_a_relative_folder_of_az_is_the_callers(
    azure: Azure, python: Python, tmp_path: Path
) -> None:
    azure.az("sys.exit('folder ' + os.environ['AZURE_CONFIG_DIR'])")
    script = f"import os; os.chdir({str(tmp_path)!r}); show(ask({INDEX_URL!r}))"
    stderr = python(script, AZURE_CONFIG_DIR="a.zure").stderr
    assert f"  azure_cli: az failed: folder {tmp_path / 'a.zure'}\n" in stderr


def test_az_is_not_run_from_a_relative_folder(azure: Azure, python: Python, tmp_path: Path) -> None:
    azure.command("hijacker", sys.executable, "-c", "print('hijacked')")
    (hijacker,) = azure.bin.glob("hijacker*")
    hijacker.rename(tmp_path / f"az{hijacker.suffix}")
    azure.az_signed_in()
    path_list = os.pathsep.join([".", "", "nowhere", str(azure.bin)])
    script = f"import os; os.chdir({str(tmp_path)!r}); show(bool(ask({INDEX_URL!r})))"
    assert python(script, PATH=path_list).value


@pytest.mark.parametrize("ending", [".cmd", ".bat", ".exe"])
def test_az_has_one_of_several_endings_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """az.cmd is what its installer brings, az.bat what pip does."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "az").touch(0o755)
    assert [*module.on_path("az")] == []
    (tmp_path / f"az{ending}").touch(0o755)
    assert [*module.on_path("az")] == [str(tmp_path / f"az{ending}")]


@pytest.mark.parametrize(
    "missing",
    [
        "no az",
        pytest.param(
            "not executable",
            marks=pytest.mark.skipif(os.name == "nt", reason="Windows goes by the ending"),
        ),
        "a folder",
    ],
)
def test_a_missing_az_is_told(azure: Azure, ask_here: AskHere, missing: str) -> None:
    if missing == "not executable":
        (azure.bin / "az").touch(0o644)
    if missing == "a folder":
        (azure.bin / "az").mkdir()
    told = "  azure_cli: az is not on PATH\n    install the Azure CLI, or set ARTIFACTS_KEYRING_"
    assert told in ask_here(INDEX_URL).warnings


# --- What az says


BROKE = "ERROR: The command failed with an unexpected error. Here is the traceback:\n"
REPLAYED = "AADSTS700024: Client assertion is not within its valid time range."
NOT_HERE = "For managed identity account, getting access token for non-current tenants is not "
NOT_HERE += "supported"
NO_GUEST = "AADSTS50020: User account from identity provider does not exist in tenant."
TRUST = "set REQUESTS_CA_BUNDLE to the certificates to trust"
SIGN_IN_AGAIN = (
    "sign in again: the proof that CI gives to az lives 5 to 10 minutes; to keep the sign-in, run "
    f"`az account get-access-token --resource {RESOURCE}` right after it"
)


@pytest.mark.parametrize(
    ("errors", "reason", "remedy"),
    [
        pytest.param(
            "ERROR: Please run 'az login' to setup account.",
            "Please run 'az login' to setup account.",
            LOGIN,
            id="not signed in",
        ),
        pytest.param(
            "WARNING: x\nERROR: AADSTS50076: MFA.\nRun the command below to authenticate",
            "AADSTS50076: MFA.",
            LOGIN,
            id="second factor",
        ),
        pytest.param(
            "ERROR: User 'me' does not exist in MSAL token cache. Run `az login`.",
            "User 'me' does not exist in MSAL token cache. Run `az login`.",
            LOGIN,
            id="no user in the cache",
        ),
        pytest.param(
            "ERROR: Can't find token from MSAL cache.",
            "Can't find token from MSAL cache.",
            LOGIN,
            id="no token in the cache",
        ),
        pytest.param(
            "ERROR: This token cannot be used. Run `az login`.",
            "This token cannot be used. Run `az login`.",
            LOGIN,
            id="a token that cannot be used",
        ),
        pytest.param(
            "ERROR: No subscription found.", "No subscription found.", LOGIN, id="no subscription"
        ),
        pytest.param(f"ERROR: {REPLAYED}", REPLAYED, SIGN_IN_AGAIN, id="expired assertion"),
        pytest.param(
            f"ERROR: {NOT_HERE}",
            NOT_HERE,
            f"sign in with an account of tenant {TENANT}",
            id="managed identity of another tenant",
        ),
        pytest.param(
            f"ERROR: {NO_GUEST}",
            NO_GUEST,
            f"sign in with an account of tenant {TENANT}",
            id="account of another tenant",
        ),
        pytest.param(
            "ERROR: AADSTS53003: Blocked.",
            "AADSTS53003: Blocked.",
            "ask your administrator: a policy forbids this sign-in",
            id="policy",
        ),
        pytest.param(
            "ERROR: AADSTS500011: The resource was not found.",
            "AADSTS500011: The resource was not found.",
            f"check the URL: nobody in tenant {TENANT} uses Azure DevOps",
            id="unknown resource",
        ),
        *(
            pytest.param(f"ERROR: {words}", words, TRUST, id=words.split()[0])
            for words in (
                "Certificate verification failed. This typically happens behind a proxy.",
                "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
            )
        ),
        pytest.param(
            f"{BROKE}ERROR: no space left\nTraceback (most recent call last):\nOSError: x",
            "no space left",
            "",
            id="az broke",
        ),
        pytest.param("Traceback:\n  x\nPermissionError: no\n", "PermissionError: no", "", id="raw"),
        pytest.param("\x1b[31mERROR\x1b[0m", "[31mERROR [0m", "", id="control characters"),
        pytest.param("ERROR: eyJhbGciOiJ9.eyJ9.sig leaked", "[removed] leaked", "", id="a token"),
        pytest.param(
            "ERROR: a-C8Q~s3cr.et_with.dots~1234567890-a-b leaked",
            "[removed] leaked",
            "",
            id="a client secret",
        ),
        pytest.param(
            "ERROR: Permission denied: /x/msal_token_cache.json",
            "Permission denied: /x/msal_token_cache.json",
            "",
            id="a cache that cannot be read",
        ),
        pytest.param("", "silently", "", id="nothing"),
    ],
)
def test_a_failure_is_told_in_azs_words_with_the_remedy_that_helps(
    azure: Azure, ask_here: AskHere, errors: str, reason: str, remedy: str
) -> None:
    azure.az_fails(errors)
    _, told, *rest = ask_here(INDEX_URL).warnings.splitlines()
    assert told == f"  azure_cli: az failed: {reason}"
    assert rest[: bool(remedy)] == [f"    {remedy}"][: bool(remedy)]
    assert rest[bool(remedy)].startswith("  managed_identity: ")


def test_undecodable_words_are_still_told(azure: Azure, ask_here: AskHere) -> None:
    azure.az_says(stderr=b"ERROR: caf\xe9 closed", status=1)
    assert "  azure_cli: az failed: caf\ufffd closed\n" in ask_here(INDEX_URL).warnings


def test_empty_lines_are_soon_read(azure: Azure, ask_here: AskHere) -> None:
    azure.az_says(stderr="\n" * 60_000 + "late", status=1)
    started = time.monotonic()
    assert "  azure_cli: az failed: late\n" in ask_here(INDEX_URL).warnings
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "answer",
    [
        "nonsense",
        "[]",
        '"token"',
        "[" * 100_000,
        b"\xff\xfe",
        "{}",
        '{"accessToken": ""}',
        '{"accessToken": null}',
        '{"accessToken": ["x"]}',
        '{"accessToken": "a\\r\\nb"}',
        '{"accessToken": "\\u00fc"}',
        '{"accessToken": "\\ud800"}',
    ],
    ids=range(12),
)
def test_an_answer_of_another_shape_is_a_clear_failure(
    azure: Azure, ask_here: AskHere, answer: str | bytes
) -> None:
    azure.az_says(answer)
    asked = ask_here(INDEX_URL)
    assert asked.value is None
    assert "  azure_cli: the answer holds no usable token\n" in asked.warnings


def test_an_az_that_says_nothing_has_failed(azure: Azure, ask_here: AskHere) -> None:
    azure.az_says("")
    assert "  azure_cli: az failed: silently\n" in ask_here(INDEX_URL).warnings


def test_everything_works_where_nothing_can_be_written(azure: Azure, ask: Ask) -> None:
    """A folder that is a file: not even root can write there."""
    azure.az_signed_in()
    nowhere = azure.folder / "nowhere"
    nowhere.touch()
    folders = ["HOME", "TMPDIR", "USERPROFILE", "LOCALAPPDATA", "TEMP", "TMP"]
    assert ask(INDEX_URL, **dict.fromkeys(folders, str(nowhere))).value
