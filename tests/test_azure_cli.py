"""Provider azure_cli: the account that az is signed in as."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import Ask, Python, command
from simulated_azure import INDEX_URL, Azure, jwt
from simulated_machine import FOLDERS

# --- How az is run


def test_az_is_run_apart_from_the_caller(azure: Azure) -> None:
    """Where nobody else can write, with nothing to read, and no terminal to ask by."""
    report = azure.folder / "report"
    azure.az(f"""
import json
session = os.name == "nt" or os.getppid() == os.getsid(0)
with open({str(report)!r}, "w") as file:
    json.dump([os.getcwd(), sys.stdin.read(), session, dict(os.environ)], file)
""")
    subprocess.run(
        command("ask.py", INDEX_URL),
        input=b"typed",
        cwd=azure.home,
        env=azure.environment(
            AZURE_CLOUD_NAME="x",
            AZURE_CONFIG_DIR="a.zure",
            REQUESTS_CA_BUNDLE="../ca.pem",
        ),
    )
    folder, *others, environment = json.loads(report.read_text())
    assert Path(folder) == Path(os.environ.get("SYSTEMROOT", "/"))
    assert others == ["", True]
    settings = {
        "AZURE_CLOUD_NAME": "AzureCloud",
        "AZURE_CONFIG_DIR": str(azure.home / "a.zure"),
        "AZURE_CORE_COLLECT_TELEMETRY": "no",
        "AZURE_CORE_NO_COLOR": "true",
        "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
        "AZURE_LOGGING_ENABLE_LOG_FILE": "no",
        "REQUESTS_CA_BUNDLE": str(azure.ca_file),
    }
    assert settings.items() <= environment.items()


@pytest.mark.parametrize("ending", [".cmd", ".bat"] if os.name == "nt" else [""])
def test_az_may_lie_in_any_folder_but_the_working_directory(
    azure: Azure, ask: Ask, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    azure.az_signed_in()
    (az,) = azure.bin.glob("az*")
    folder = azure.folder / "R&D (new) ^tools'"
    folder.mkdir()
    az.rename(folder / f"az{ending}")
    azure.command("az", sys.executable, "-c", "print('hijacked')")
    monkeypatch.chdir(azure.bin)
    assert ask(PATH=os.pathsep.join([".", "", "nowhere", str(folder)])).value


def test_a_missing_az_is_told(azure: Azure, ask: Ask) -> None:
    """So is one that is a folder, or no program."""
    (azure.bin / "az").mkdir()
    (azure.folder / "az").touch(0o644)
    for path in (azure.home, azure.bin, azure.folder):
        assert "azure_cli: az is not on PATH\n" in ask(PATH=str(path)).failure


def test_everything_works_where_nothing_can_be_written(
    azure: Azure, python: Python
) -> None:
    """A folder that is a file: not even root can write there."""
    azure.az_signed_in()
    nowhere = azure.folder / "nowhere"
    nowhere.touch()
    assert python("ask.py", INDEX_URL, **dict.fromkeys(FOLDERS, str(nowhere))).value


# --- What az says


BROKE = "ERROR: The command failed with an unexpected error. Here is the traceback:\n"
TRACEBACK = (
    "Traceback (most recent call last):\n  File x\nOSError: [Errno 28] No space\n"
)


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (
            "WARNING: x\ny\nERROR: AADSTS50076: MFA.\nRun the command below\naz logout",
            "AADSTS50076: MFA. az logout",
        ),
        (
            f"{BROKE}ERROR: no space\n{TRACEBACK}",
            "no space OSError: [Errno 28] No space",
        ),
        (TRACEBACK, "OSError: [Errno 28] No space"),
        (
            "No version is set for az\n\nazure-cli 2.9",
            "No version is set for az azure-cli 2.9",
        ),
        ("\x1b[31mERROR\x1b[0m", "?[31mERROR?[0m"),
        ("ERROR: a-C8Q~s3cr.et_with.dots~1234567890-a-b leaked", "[removed] leaked"),
        (b"ERROR: caf\xe9 closed", "caf? closed"),
        ("\n" * 60_000 + "late", "late"),
    ],
    ids=range(8),
)
def test_a_failure_is_told_in_all_words_of_az(
    azure: Azure, ask: Ask, errors: str | bytes, reason: str
) -> None:
    azure.az_says(stderr=errors, status=1)
    started = time.monotonic()
    assert f"azure_cli: az failed: {reason}\n" in ask().failure
    assert time.monotonic() - started < 3


NO_ANSWERS = ["", "nonsense", "[]", "[" * 99_999, "{}"]
NO_TOKENS = ['""', "null", '"a\\r\\nb"', '"\\ud800"']


def test_an_answer_of_another_shape_is_told(azure: Azure, ask: Ask) -> None:
    for answer in NO_ANSWERS:
        azure.az_says(answer)
        assert "azure_cli: az failed: silently\n" in ask().failure, answer
    for token in NO_TOKENS:
        azure.az_says(f'{{"accessToken": {token}}}')
        assert "azure_cli: az's answer holds no usable token\n" in ask().failure, token


def test_the_account_is_named_in_one_line(azure: Azure, ask: Ask) -> None:
    for claims in ({"unique_name": "me\r\n\x1b", "appid": "x"}, {"appid": "me ?"}):
        azure.az_signed_in(jwt(claims))
        assert "+ azure_cli: a token of me ?\n" in ask().log
