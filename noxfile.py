"""`nox` checks everything; `nox -s demo` shows the backend at work without an Azure account."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests", "oldest_keyring", "clients", "lint", "types", "package"]
RELEASE_TIME = "1767225600"  # what the files of a release are dated, so that it can be built again


def is_present(version: str) -> bool:
    """Tell whether a Python runs; the shims of pyenv exist for those that do not, too."""
    if os.name == "nt":
        candidates = [["py", f"-{version}"]]
    else:
        found = (shutil.which(f"python{version}", path=folder) for folder in os.get_exec_path())
        candidates = [[path] for path in found if path]
    return any(runs([*command, "-c", ""]) for command in candidates)


def runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


PYTHONS = [f"3.{minor}" for minor in range(9, 15) if is_present(f"3.{minor}")]
if not PYTHONS:
    raise SystemExit("No Python from 3.9 to 3.14 is here, so there is nothing to test with.")


def install_group(session: nox.Session, group: str, *packages: str) -> None:
    """Install a dependency group of pyproject.toml, and packages beside it."""
    project = nox.project.load_toml("pyproject.toml")
    session.install(*nox.project.dependency_groups(project, group), *packages)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests."""
    install_group(session, "test", "pip", ".")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session(python=PYTHONS[0])
def oldest_keyring(session: nox.Session) -> None:
    """Run the tests with the oldest keyring that the project allows, and a pip that knows it."""
    install_group(session, "test", "pip<26.2", ".", "keyring==23.0.0")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session(python=PYTHONS[-1])
def clients(session: nox.Session) -> None:
    """Run the clients that people use, each at a pinned version in an environment of its own."""
    install_group(session, "test", "uv")
    session.run("pytest", "-n", "2", "tests/clients.py", *session.posargs)


@nox.session(python=PYTHONS[-1])
def az(session: nox.Session) -> None:
    """Let the real az sign in to the simulated Azure, for the real pip and twine."""
    install_group(session, "test", "uv", "pip", "twine", ".")
    home = Path(session.create_tmp(), "az").resolve()
    uv = ["uv", "--quiet", "--system-certs"]
    session.run(*uv, "venv", "--clear", "--python", "python", str(home))
    session.run(*uv, "pip", "install", "--python", str(home), "azure-cli==2.91.0")
    session.env["REAL_AZ"] = str(home / "bin" / "az")
    session.run("pytest", "-n", "2", "tests/azure_cli.py", *session.posargs)


@nox.session(python=PYTHONS[-1])
def fuzz(session: nox.Session) -> None:
    """Run the tests of the parsers with many examples."""
    install_group(session, "test", ".")
    files = ["tests/test_feed_url.py", "tests/test_discovery.py"]
    session.run(
        "pytest", "-k", "hypothesis or allowlist", *files, env={"HYPOTHESIS_PROFILE": "fuzz"}
    )


@nox.session(python=PYTHONS[-1])
def stress(session: nox.Session) -> None:
    """Try the README's promises under faults, interrupts and many threads (-- --rounds 300)."""
    install_group(session, "test", ".")
    session.run("python", "tests/stress.py", *session.posargs)


@nox.session(python=PYTHONS[-1])
def lint(session: nox.Session) -> None:
    """Check style and formatting, and the workflows."""
    install_group(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("zizmor", "--offline", "--strict-collection", ".github")


@nox.session(python=PYTHONS[-1])
def types(session: nox.Session) -> None:
    """Check the types, as on Linux and as on Windows."""
    install_group(session, "types")
    session.run("mypy")
    session.run("mypy", "--platform", "win32", "artifacts_keyring_nofuss.py")


@nox.session(python=PYTHONS[-1])
def package(session: nox.Session) -> None:
    """Build wheel and sdist into dist/, twice alike; the wheel alone is a keyring backend."""
    session.install("build", "flit_core>=3.11,<5")
    session.env["SOURCE_DATE_EPOCH"] = RELEASE_TIME
    first, second = (build(session, Path(session.create_tmp(), name)) for name in ("a", "b"))
    if first != second:
        session.error("two builds differ")
    dist = Path("dist")
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    for name, content in first.items():
        (dist / name).write_bytes(content)
    clean = Path(session.create_tmp(), "clean")
    session.run("python", "-m", "venv", "--clear", str(clean))
    (wheel,) = dist.glob("*.whl")
    python = str(clean / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True)
    backends = session.run(python, "-m", "keyring", "--list-backends", external=True, silent=True)
    if "artifacts_keyring_nofuss.ArtifactsKeyringBackend (priority: 9.9)" not in str(backends):
        session.error("keyring does not list the backend")


def build(session: nox.Session, folder: Path) -> dict[str, bytes]:
    """Build from a copy of the project in a folder; return the files by name."""
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns(".*", "__pycache__", "dist")
    shutil.copytree(".", folder, ignore=ignored, copy_function=shutil.copyfile)  # dated now
    session.run("python", "-m", "build", "--no-isolation", str(folder), silent=True)
    return {path.name: path.read_bytes() for path in sorted((folder / "dist").iterdir())}


@nox.session(python=PYTHONS[-1])
def demo(session: nox.Session) -> None:
    """Install a private package with pip from a simulated Azure, step by step."""
    install_group(session, "test", "pip", ".")
    session.run("python", "tests/demo.py")


@nox.session(python=PYTHONS[-1])
def bench(session: nox.Session) -> None:
    """Measure the backend beside its peers, from the package registry (-- --rounds 25)."""
    install_group(session, "test")
    session.run("python", "tests/bench.py", session.create_tmp(), *session.posargs)
