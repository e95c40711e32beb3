"""The project keeps its shape, and its README's commands are what CI runs."""

from __future__ import annotations

import email
import zipfile
from pathlib import Path

import pytest
from flit_core.wheel import make_wheel_in

import artifacts_keyring_nofuss as module

ROOT = Path(__file__).parent.parent
DIST_INFO = f"artifacts_keyring_nofuss-{module.__version__}.dist-info"
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox"


def test_two_commands_set_everything_up_and_ci_runs_the_second() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"\n{TEST_COMMAND} -s demo\n{TEST_COMMAND}\n" in readme
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert ci.endswith(f"\n{TEST_COMMAND}\n.venv/bin/nox -s az\n")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the texts in the wheel, by their paths."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(make_wheel_in(ROOT / "pyproject.toml", folder).file) as file:
        return {name: file.read(name).decode() for name in file.namelist()}


def test_the_wheel_holds_one_module(wheel: dict[str, str]) -> None:
    files = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    assert {*wheel} == {
        "artifacts_keyring_nofuss.py",
        *(f"{DIST_INFO}/{name}" for name in files),
    }
    assert wheel[f"{DIST_INFO}/entry_points.txt"].split() == [
        "[keyring.backends]",
        "artifacts-keyring-nofuss=artifacts_keyring_nofuss",
    ]


def test_the_metadata_says_what_is_true(wheel: dict[str, str]) -> None:
    metadata = email.message_from_string(wheel[f"{DIST_INFO}/METADATA"])
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.9"
    assert metadata.get_all("Requires-Dist") == ["keyring>=23"]
    assert metadata.get_all("Project-URL")
    classifiers = metadata.get_all("Classifier", [])
    assert [name for name in classifiers if name.startswith("Operating System :: ")]
    assert "Typing :: Typed" not in classifiers  # a single module cannot be: PEP 561


def test_a_copied_file_says_what_it_is() -> None:
    source = (ROOT / "artifacts_keyring_nofuss.py").read_text("utf-8")
    beginning = source.partition("import ")[0]
    for fact in (
        "SPDX-License-Identifier: MIT",
        "Copyright (c) ",
        "artifacts-keyring-nofuss",
        "https://pypi.org/project/artifacts-keyring-nofuss/",
    ):
        assert fact in beginning
