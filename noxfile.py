"""`nox` checks everything; `nox -s demo` shows the backend without an Azure account."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = [
    "tests",
    "oldest_keyring",
    "clients",
    "lint",
    "types",
    "package",
]
OLDEST, NEWEST = 9, 15  # the minor versions of Python 3 that we know
BUILD_PINS = Path(".github/requirements-build.txt").resolve()
RELEASE_TIME = "1767225600"  # the date of a release's files, so that all get the same


def runs(command: list[str]) -> bool:
    """Tell whether a command succeeds; pyenv has some for Pythons that it has not."""
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def find(minor: int) -> str | None:
    """Return what nox finds this Python by, None if it is not here."""
    version = f"3.{minor}"
    if os.name == "nt":
        candidates = [["py", f"-{version}"]]
    else:
        folders = os.get_exec_path()
        paths = [shutil.which(f"python{version}", path=folder) for folder in folders]
        candidates = [[path] for path in paths if path]
    if any(runs([*command, "-c", ""]) for command in candidates):
        return version
    if minor == sys.version_info.minor:
        return sys.executable  # runs nox, so it is here, whatever it is called
    return None


found = [find(minor) for minor in range(OLDEST, NEWEST + 1)]
PYTHONS = [python for python in found if python]
if not PYTHONS:
    raise SystemExit(f"There is no Python from 3.{OLDEST} to 3.{NEWEST} to test with.")


def install_group(session: nox.Session, group: str, *packages: str) -> None:
    """Install a dependency group of pyproject.toml, and packages beside it."""
    project = nox.project.load_toml("pyproject.toml")
    session.install(*nox.project.dependency_groups(project, group), *packages)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests."""
    install_group(session, "test", ".")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session(python=PYTHONS[0])
def oldest_keyring(session: nox.Session) -> None:
    """Run the tests with the oldest keyring, and a pip that knows how to call it."""
    install_group(session, "test", "pip<26.2", ".", "keyring==23.0.0")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session(python=PYTHONS[-1])
def clients(session: nox.Session) -> None:
    """Run the clients that people use, each at a pinned version and by itself."""
    install_group(session, "test", "uv")
    limit = "--timeout=600"  # the first test of a client installs it
    session.env["UV_CACHE_DIR"] = str(session.cache_dir / "uv")  # HOME may be read-only
    session.run("pytest", "-n", "2", limit, "tests/clients.py", *session.posargs)


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
    """Run the tests that draw their examples with many of them."""
    install_group(session, "test", ".")
    many = {"HYPOTHESIS_PROFILE": "fuzz"}
    session.run("pytest", "-m", "hypothesis", "--timeout=0", *session.posargs, env=many)


@nox.session(python=PYTHONS[-1])
def stress(session: nox.Session) -> None:
    """Try the README's promises under faults and interrupts (-- --rounds 300)."""
    install_group(session, "test", ".")
    session.run("python", "tests/stress.py", *session.posargs)


@nox.session(python=PYTHONS[-1])
def lint(session: nox.Session) -> None:
    """Check style and formatting, and the workflows."""
    install_group(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    if shutil.which("zizmor", path=session.bin):
        session.run("zizmor", "--offline", "--quiet", "--strict-collection", ".github")
    else:
        session.log("The workflows are not checked: zizmor needs a newer Python.")


@nox.session(python=PYTHONS[-1])
def types(session: nox.Session) -> None:
    """Check the types, as on Linux and as on Windows."""
    install_group(session, "types")
    session.run("mypy")
    session.run("mypy", "--platform", "win32", "artifacts_keyring_nofuss.py")


@nox.session(python=PYTHONS[-1])
def package(session: nox.Session) -> None:
    """Build wheel and sdist into dist/, and check them."""
    session.install("build", "flit_core", "--constraint", str(BUILD_PINS))
    session.env["SOURCE_DATE_EPOCH"] = RELEASE_TIME
    tmp = Path(session.create_tmp())
    first = build(session, tmp / "first")
    if first != build(session, tmp / "second"):
        session.error("Two builds differ.")
    dist = Path("dist")
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    for name, content in first.items():
        (dist / name).write_bytes(content)
    check_sdist(session, *dist.glob("*.tar.gz"))
    check_wheel(session, *dist.glob("*.whl"))
    shutil.rmtree(tmp)


def build(session: nox.Session, folder: Path) -> dict[str, bytes]:
    """Build from a copy of the project, dated now; return the files by name."""
    shutil.rmtree(folder, ignore_errors=True)
    lines = Path(".gitignore").read_text(encoding="utf-8").split()
    ignored = shutil.ignore_patterns(".git", *(line.rstrip("/") for line in lines))
    shutil.copytree(".", folder, ignore=ignored, copy_function=shutil.copy)
    session.run("python", "-m", "build", "--no-isolation", str(folder), silent=True)
    return {path.name: path.read_bytes() for path in (folder / "dist").iterdir()}


def check_sdist(session: nox.Session, sdist: Path) -> None:
    """Compare the files in an sdist with those that git tracks, in a clone."""
    if not (Path(".git").exists() and runs(["git", "ls-files"])):
        session.log("This is no clone: the sdist is not compared with git's files.")
        return
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True)
    tracked = set(listed.stdout.splitlines())
    with tarfile.open(sdist) as file:
        packed = {name.partition("/")[2] for name in file.getnames()} - {"PKG-INFO"}
    if packed != tracked:
        session.error(f"Only in the sdist or only in git: {sorted(packed ^ tracked)}")


def check_wheel(session: nox.Session, wheel: Path) -> None:
    """Check that a wheel, alone in an environment, is a keyring backend."""
    clean = Path(session.create_tmp(), "clean")
    session.run("python", "-m", "venv", "--clear", str(clean))
    python = str(clean / ("Scripts" if os.name == "nt" else "bin") / "python")
    install = ["pip", "install", "--quiet", "--disable-pip-version-check"]
    session.run(python, "-m", *install, str(wheel), external=True)
    ask = [python, "-m", "keyring", "--list-backends"]
    backends = session.run(*ask, external=True, silent=True)
    if "artifacts_keyring_nofuss.ArtifactsKeyringBackend " not in str(backends):
        session.error("keyring does not list the backend.")


@nox.session(python=PYTHONS[-1])
def demo(session: nox.Session) -> None:
    """Install a private package with pip from a simulated Azure, step by step."""
    install_group(session, "demo", ".")
    session.run("python", "tests/demo.py")


@nox.session(python=PYTHONS[-1])
def bench(session: nox.Session) -> None:
    """Measure the backend beside its peers, from the package index (-- --rounds 25)."""
    install_group(session, "test")
    session.run("python", "tests/bench.py", session.create_tmp(), *session.posargs)


@nox.session(python=False)
def machines(session: nox.Session) -> None:
    """Try the demo and all this on other machines (-- HOME, for one)."""
    session.run(sys.executable, "tests/machines.py", *session.posargs)
