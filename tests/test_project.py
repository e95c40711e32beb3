"""The project keeps its shape, and its README's commands are what CI runs."""

from __future__ import annotations

import zipfile
from pathlib import Path

from flit_core.wheel import make_wheel_in

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox"


def test_two_commands_set_everything_up_and_ci_runs_the_second() -> None:
    assert f"\n{TEST_COMMAND} -s demo\n" in README
    assert f"\n{TEST_COMMAND}\n" in README
    assert (ROOT / ".ci" / "run").read_text().endswith(f"\n{TEST_COMMAND}\n")


def test_the_wheel_holds_one_module_and_the_entry_point(tmp_path: Path) -> None:
    wheel = zipfile.ZipFile(make_wheel_in(ROOT / "pyproject.toml", tmp_path).file)
    modules = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert modules == ["artifacts_keyring_nofuss.py"]
    texts = {name.partition("/")[2]: wheel.read(name).decode() for name in wheel.namelist()}
    assert "[keyring.backends]" in texts["entry_points.txt"]
    required = [row for row in texts["METADATA"].splitlines() if row.startswith("Requires-Dist")]
    assert required == ["Requires-Dist: keyring>=23"]
    assert "LICENSE" in "".join(texts)
