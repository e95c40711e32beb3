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


def is_present(python: str) -> bool:
    """Tell whether a Python runs; the shims of pyenv exist for those that do not, too."""
    folders = os.get_exec_path()
    found = filter(None, (shutil.which(python, path=folder) for folder in folders))
    return any(
        subprocess.run([path, "-c", ""], capture_output=True).returncode == 0 for path in found
    )


PYTHONS = [f"3.{minor}" for minor in range(9, 15) if is_present(f"python3.{minor}")]
if not PYTHONS:
    raise SystemExit("No Python from 3.9 to 3.14 is on PATH, so there is nothing to test with.")


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
    session.run("pytest", "tests/clients.py", *session.posargs)


@nox.session(python=PYTHONS[-1])
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    install_group(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(python=PYTHONS[-1])
def types(session: nox.Session) -> None:
    """Check the types, as on Linux and as on Windows."""
    install_group(session, "types")
    session.run("mypy")
    session.run("mypy", "--platform", "win32", "artifacts_keyring_nofuss.py")


@nox.session(python=PYTHONS[-1])
def package(session: nox.Session) -> None:
    """Build wheel and sdist; the wheel alone, in a clean environment, is a keyring backend."""
    folder = Path(session.create_tmp())
    for old in folder.glob("artifacts_keyring_nofuss-*"):
        old.unlink()
    session.install("build")
    session.run("python", "-m", "build", "--outdir", str(folder))
    clean = folder / "clean"
    session.run("python", "-m", "venv", "--clear", str(clean))
    (wheel,) = folder.glob("*.whl")
    python = str(clean / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True)
    names = session.run(python, "-m", "zipfile", "-l", str(wheel), external=True, silent=True)
    backends = session.run(python, "-m", "keyring", "--list-backends", external=True, silent=True)
    session.log(f"{names}\n{backends}")
    if "artifacts_keyring_nofuss.ArtifactsKeyringBackend (priority: 9.9)" not in str(backends):
        session.error("keyring does not list the backend")


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
