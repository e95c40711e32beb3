"""Every client people use, for real, each at a pinned version, in simulated Azure.

`nox -s clients` runs this file; plain pytest leaves it out, for it installs the clients
from the package registry. The README shows no command that is not run here.
"""

from __future__ import annotations

import ensurepip
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Callable

import pytest
from flit_core.wheel import make_wheel_in

from identities import TOKEN, Identity, token
from simulated_azure import FEED, IMDS, INDEX_URL, READ, UPLOAD_URL, Azure, wheel
from simulated_faults import status

KEYRING, PIP, UV, TOX = "keyring==25.7.0", "pip==26.3", "uv==0.13.9", "tox==4.67.15"
BACKEND = "artifacts-keyring-nofuss"
CLIENTS = {  # what is in the environment of each; the backend is where its name stands
    "pip": f"{PIP} {KEYRING} {BACKEND}",
    "pip alone": PIP,
    "pip, to begin with": f"{PIP} {KEYRING}",
    "pip and keyring": f"{PIP} {KEYRING}",
    "older pip": "pip==23.2.1",
    "uv": UV,
    "twine": f"twine==7.0.0 {KEYRING} {BACKEND}",
    "poetry": f"poetry==2.5.1 {KEYRING} {BACKEND}",
    "pdm": f"pdm[locked]==2.29.3 {KEYRING} {BACKEND}",  # its newest dependencies clash
    "hatch": f"hatch==1.18.2 {UV} {KEYRING} {BACKEND}",
    "flit": f"flit==4.2.0 {KEYRING} {BACKEND}",
    "keyring": f"{KEYRING} keyrings.alt==5.0.2 {BACKEND}",  # beside another backend
    "older keyring": f"keyring==25.2.0 {BACKEND}",
    "build": f"build==1.6.1 {PIP} {UV}",
    "nox": f"nox==2026.10.20 {UV}",
    "pip-tools": "pip-tools==7.6.2",
    "pipenv": "pipenv==2026.10.3",
    "pipx": "pipx==1.18.4",
    "pipx and uv": f"pipx==1.18.4 {UV}",
    "pre-commit": "pre-commit==4.7.0",
    "tox": TOX,
    "tox and uv": f"{TOX} tox-uv==1.37.1",
}
PROJECT = Path(__file__).parents[1]
OTHER_FEED = f"https://{FEED}/contoso/_packaging/other/pypi/simple/"
USER_URL = f"https://VssSessionToken@{FEED}/contoso/_packaging/private/pypi/simple/"
OLD_HOST = "fabrikam.pkgs.visualstudio.com"  # names its organization
OLD_HOST_URL = f"https://VssSessionToken@{OLD_HOST}/_packaging/private/pypi/simple/"
CLIENTS_GET_IN = "\nkeyring's clients get in.\n"
IMPORTS = "python -c 'import contoso_secrets'"
APP = """\
[project]
name = "app"
version = "1.0"
description = ""
requires-python = ">=3.9"
dependencies = ["contoso-secrets"]

"""
Install = Callable[[str], Path]


@pytest.fixture(scope="session")
def project_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build this project."""
    folder = tmp_path_factory.mktemp("project")
    return Path(make_wheel_in(PROJECT / "pyproject.toml", folder).file)


@pytest.fixture(scope="session")
def install(project_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Install a client, once, into an environment; return its bin folder."""
    folder = tmp_path_factory.mktemp("clients")

    @cache
    def install(client: str) -> Path:
        home = folder / client.replace(" ", "-")
        packages = CLIENTS[client].replace(BACKEND, str(project_wheel)).split()
        # A company that intercepts TLS has its certificates in the system's store.
        uv = [sys.executable, "-m", "uv", "--quiet", "--system-certs"]
        make = [*uv, "venv", "--clear", "--python", sys.executable, str(home)]
        subprocess.run(make, check=True)
        fill = [*uv, "pip", "install", "--python", str(home), *packages]
        done = subprocess.run(fill, stderr=subprocess.PIPE, text=True)
        # uv says why no version fits, over several lines.
        if "the current Python version (" in " ".join(done.stderr.split()):
            pytest.skip(f"{packages[0]} needs a newer Python")
        assert done.returncode == 0, done.stderr
        return home / "bin"

    return install


@dataclass
class Shell:
    """Runs command lines in a folder; PATH has keyring, az and a client's environment.

    azure.requests, azure.az_runs and keyring_runs are those of the last command line.
    """

    azure: Azure
    install: Install
    folder: Path
    log: Path  # a line for each run of the keyring command

    def __call__(self, line: str, client: str = "", **variables: str) -> str:
        """Run a command line, with the client that it names first; return its words."""
        client = client or next(word for word in line.split() if word in CLIENTS)
        self.log.write_text("")
        self.azure.az_log.unlink(missing_ok=True)
        self.azure.requests.clear()
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.folder,
            env=self.azure.environment(
                PATH=f"{self.azure.bin}:{self.install(client)}",
                REQUESTS_CA_BUNDLE=str(self.azure.ca_file),
                VIRTUALENV_NO_PERIODIC_UPDATE="1",
                FEED=USER_URL,
                UPLOAD=UPLOAD_URL,
                **variables,
            ),
            input="",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def installs(self, line: str, client: str = "", **variables: str) -> str:
        """Run a command line that installs the private package."""
        said = self(line, client, PIP_TARGET="site", **variables)
        self.assert_installed()
        return said

    def assert_installed(self) -> None:
        """Assert that the private package is somewhere in the folder."""
        assert [*self.folder.rglob("contoso_secrets.py")]

    def activate(self, client: str) -> str:
        """Return the line that puts an environment before all else on PATH."""
        return f'export PATH="{self.install(client)}:$PATH"\n'

    def project(self, settings: str) -> None:
        """Write the file of a project that needs the private package."""
        (self.folder / "pyproject.toml").write_text(APP + settings)

    @property
    def keyring_runs(self) -> int:
        return len(self.log.read_text().splitlines())

    def assert_one_sign_in(self, keyring_runs: int = 0) -> None:
        """Assert what the last command line cost."""
        assert len(self.azure.az_runs) == 1
        assert self.azure.scopes() == [READ]
        assert self.keyring_runs == keyring_runs


@pytest.fixture
def shell(azure: Azure, install: Install, tmp_path: Path) -> Shell:
    """Run command lines as somebody who is signed in with az."""
    azure.az_signed_in()
    log, keyring = azure.folder / "keyring.log", install("keyring") / "keyring"
    azure.executable("keyring", f'echo >> "{log}"\nexec "{keyring}" "$@"')
    return Shell(azure, install, tmp_path, log)


# --- The keyring command


@pytest.mark.parametrize(
    ("client", "line", "python"),
    [
        (
            "uv",
            'uv tool install keyring --with "artifacts-keyring-nofuss>=2"',
            '"$(uv tool dir)/keyring/bin/python"',
        ),
        (
            "pipx and uv",
            'pipx install poetry && pipx inject poetry "artifacts-keyring-nofuss>=2"',
            "~/.local/share/pipx/venvs/poetry/bin/python",
        ),
    ],
)
def test_a_tool_gets_the_plugin(
    shell: Shell, project_wheel: Path, client: str, line: str, python: str
) -> None:
    env = {
        **os.environ,  # of the real machine, whose package registry has the tool
        "PATH": f"{os.environ['PATH']}:{shell.install(client)}",
        "HOME": str(shell.azure.home),
        "UV_FIND_LINKS": str(project_wheel.parent),
        "UV_SYSTEM_CERTS": "1",
    }
    subprocess.run(line, shell=True, env=env, check=True)
    said = shell(f"{python} -m artifacts_keyring_nofuss $FEED", client)
    assert said.endswith(CLIENTS_GET_IN)


def test_another_backend_serves_all_else(shell: Shell) -> None:
    shell("echo hidden | keyring set example.com me")
    assert shell("keyring get example.com me") == "hidden\n"
    shell("keyring del example.com me && ! keyring get example.com me")
    assert (shell.azure.az_runs, shell.azure.requests) == ([], [])


def test_a_stored_password_is_used_when_the_backend_has_none(shell: Shell) -> None:
    shell.azure.az_not_signed_in()
    pat = token(shell.azure)[TOKEN]
    shell(f"echo {pat} | keyring set {INDEX_URL} VssSessionToken")
    shell.installs(BY_SUBPROCESS, "pip alone")


# --- pip

PLAIN = f"pip install --index-url {INDEX_URL} contoso-secrets"
INSTALL = "pip install --index-url $FEED contoso-secrets"
START = f"""
pip install "artifacts-keyring-nofuss>=2"
az login
export FEED={USER_URL}
{INSTALL}
python -m artifacts_keyring_nofuss $FEED
"""
NO_INPUT = "pip install --no-input --keyring-provider"
BY_IMPORT = f"{NO_INPUT} import --index-url $FEED contoso-secrets"
BY_SUBPROCESS = f"{NO_INPUT} subprocess --index-url $FEED contoso-secrets"
UV_PIP = (
    "uv pip install --keyring-provider subprocess --index-url $FEED contoso-secrets"
)


def test_start(shell: Shell, project_wheel: Path) -> None:
    links = str(project_wheel.parent)
    said = shell(START, "pip, to begin with", PIP_FIND_LINKS=links, PIP_RETRIES="0")
    assert "Successfully installed contoso-secrets-1.0" in said
    assert said.endswith(CLIENTS_GET_IN)


@pytest.mark.parametrize(
    ("client", "line", "keyring_runs"),
    [
        ("pip", PLAIN, 0),
        ("pip", BY_IMPORT, 0),
        ("pip", f"{INSTALL} --extra-index-url {OTHER_FEED}", 0),
        ("pip alone", BY_SUBPROCESS, 1),
        ("older pip", BY_SUBPROCESS, 1),
        ("uv", f"{UV_PIP} --target site", 1),
    ],
)
def test_pip_and_uv(shell: Shell, client: str, line: str, keyring_runs: int) -> None:
    shell.installs(line, client)
    shell.assert_one_sign_in(keyring_runs)


def test_older_keyring_does_not_understand_pip(shell: Shell) -> None:
    shell(f"{shell.activate('older keyring')}! {BY_SUBPROCESS}")
    assert shell.azure.az_runs == []


def test_keyring_beside_pip_is_asked_unless_by_subprocess(shell: Shell) -> None:
    path = shell.activate("pip and keyring")
    said = shell(f"{path}! {INSTALL}")
    assert "Keyring is skipped due to an exception" in said
    assert "401 Error, Credentials not correct" in said
    shell.installs(path + BY_SUBPROCESS)


def test_uv_asks_the_first_keyring_on_path(shell: Shell) -> None:
    path = shell.activate("pip and keyring")
    said = shell(f"{path}! {UV_PIP} --target site", "uv")
    assert "lack of valid authentication credentials (401 Unauthorized)" in said
    assert shell.keyring_runs == 0  # of the one behind, which has the backend


def test_pip_conf(shell: Shell) -> None:
    (shell.folder / "pip.conf").write_text(f"[global]\nindex-url = {USER_URL}\n")
    shell.installs("pip install contoso-secrets", PIP_CONFIG_FILE="pip.conf")


def test_pip_index_versions(shell: Shell) -> None:
    said = shell("pip index versions --json --index-url $FEED contoso-secrets")
    assert json.loads(said)["versions"] == ["1.0"]  # nothing but JSON


def test_pip_names_no_organization_for_a_file_without_index(shell: Shell) -> None:
    file = INDEX_URL.replace("simple/", f"download/contoso-secrets/1.0/{wheel()[0]}")
    shell(f"! pip download --no-input --keyring-provider import {file}")
    assert shell.azure.az_runs == []
    shell(f"pip download --index-url {INDEX_URL} {file}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            f"SSL_CERT_FILE= REQUESTS_CA_BUNDLE= PIP_CERT= {BY_IMPORT} "
            "--cert $SSL_CERT_FILE",
            "CERTIFICATE_VERIFY_FAILED",
        ),
        (f"HTTPS_PROXY=http://127.0.0.1:1 {BY_IMPORT} --proxy $HTTPS_PROXY", "refused"),
    ],
)
def test_pip_keeps_its_own_options(shell: Shell, line: str, reason: str) -> None:
    said = shell(f"! {line}")
    assert f"{FEED}: no connection: " in said  # the backend's words
    assert reason in said


# --- Two organizations in one run

TWO = f"--index-url $FEED --extra-index-url {OLD_HOST_URL} contoso-secrets"


@pytest.mark.parametrize(
    "line",
    [
        "pip install",
        "pip install --keyring-provider subprocess",
        "uv pip install --target site --keyring-provider subprocess",
    ],
)
def test_two_organizations(shell: Shell, line: str) -> None:
    # The strategy makes uv ask both indexes, as pip does.
    said = shell.installs(f"{line} {TWO}", UV_INDEX_STRATEGY="unsafe-best-match")
    assert "401 " not in said  # Error (pip), Unauthorized (uv)
    assert shell.azure.scopes() == [READ, READ]


def test_two_organizations_at_one_host_are_asked_for_each_package(
    shell: Shell,
) -> None:
    fabrikam = INDEX_URL.replace("/contoso/", "/fabrikam/")
    shell(f"! {BY_SUBPROCESS} no-such-package --extra-index-url {fabrikam}")
    assert shell.keyring_runs == 2 * 2


# --- Tools that make environments of their own

PIP_INSIDE = "export PIP_INDEX_URL=$FEED PIP_KEYRING_PROVIDER=subprocess\n"
UV_INSIDE = "export UV_DEFAULT_INDEX=$FEED UV_KEYRING_PROVIDER=subprocess\n"
PIP_FROM_OUTSIDE = """\
python -m venv --without-pip v
pip --python v/bin/python install .
"""
PRE_COMMIT = """\
git init --quiet
git add .
PIP_NO_BUILD_ISOLATION=0 VIRTUALENV_SETUPTOOLS=bundle pre-commit run
"""
TOX_PASS_ENV = """\
[pkgenv]
pass_env = {[testenv]pass_env}

[testenv]
pass_env =
    ACTIONS_ID_TOKEN_*
    ARTIFACTS_KEYRING_NOFUSS_*
    AZURE_*
    IDENTITY_*
    REQUESTS_CA_BUNDLE
"""
TOOLED_PROJECT = {  # which needs the private package for its build, and later
    "pyproject.toml": """\
[build-system]
requires = ["contoso-secrets"]
build-backend = "backend"
backend-path = ["."]

[project]
name = "app"
version = "1.0"
dynamic = ["dependencies"]

[tool.hatch.envs.default]
skip-install = true
dependencies = ["contoso-secrets"]

[tool.hatch.envs.uv]
installer = "uv"
""",
    "backend.py": """\
import glob, os, shutil
import contoso_secrets
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    (built,) = glob.glob("built/*.whl")
    return os.path.basename(shutil.copy(built, wheel_directory))
""",
    "built/pyproject.toml": f'{APP}scripts.app = "app:main"\n',
    "built/app.py": "",
    "noxfile.py": """\
import nox
@nox.session
def tests(session):
    session.install(".")
    session.run("python", "-c", "import app, contoso_secrets")
""",
    "tox.ini": f"""\
{TOX_PASS_ENV}
package = wheel
commands = python -c "import app, contoso_secrets"
""",
    "Pipfile": '[packages]\ncontoso-secrets = "*"\n',
    ".pre-commit-config.yaml": """\
repos:
  - repo: local
    hooks:
      - id: check
        name: check
        language: python
        additional_dependencies: [contoso-secrets]
        entry: python -c "import contoso_secrets"
        always_run: true
        pass_filenames: false
""",
}


@pytest.fixture
def tooled(shell: Shell) -> Shell:
    """Lay out a project with the files of every tool."""
    built = shell.folder / "built"
    built.mkdir()
    for name, text in TOOLED_PROJECT.items():
        (shell.folder / name).write_text(text)
    make_wheel_in(built / "pyproject.toml", built)
    shell.azure.executable("git", f'exec "{shutil.which("git")}" "$@"')
    return shell


# A real feed would also have what pipx and pre-commit want from PyPI: a newer pip, and
# setuptools. (For pip, PIP_NO_BUILD_ISOLATION=0 means none.)
@pytest.mark.parametrize(
    ("client", "line"),
    [
        ("pip", PIP_INSIDE + PIP_FROM_OUTSIDE),
        ("build", f"{PIP_INSIDE}python -m build --wheel"),
        ("nox", f"{PIP_INSIDE}nox -db venv"),
        ("tox", f"{PIP_INSIDE}tox"),
        ("hatch", f"{PIP_INSIDE}hatch run {IMPORTS}"),
        ("pip-tools", f"{PIP_INSIDE}pip-compile pyproject.toml"),
        ("pipenv", f"{PIP_INSIDE}pipenv install"),
        pytest.param(
            "pipx",
            f"{PIP_INSIDE}pipx install --skip-maintenance .",
            marks=pytest.mark.skipif(
                ensurepip.version() < "23.1", reason="the pip in Python is too old"
            ),
        ),
        ("pre-commit", PIP_INSIDE + PRE_COMMIT),
        ("uv", f"{UV_INSIDE}uv build --wheel"),
        ("build", f"{UV_INSIDE}python -m build --wheel --installer uv"),
        ("nox", f"{UV_INSIDE}nox -db uv"),
        ("tox and uv", f"{UV_INSIDE}tox"),
        ("hatch", f"{UV_INSIDE}hatch -e uv run {IMPORTS}"),
        ("pipx and uv", f"{UV_INSIDE}pipx install ."),
    ],
)
def test_tools_that_make_environments(tooled: Shell, client: str, line: str) -> None:
    tooled(line, client)
    assert tooled.azure.scopes() == [READ] * tooled.keyring_runs != []


def test_tox_passes_on_what_it_is_told_to(tooled: Shell) -> None:
    tooled(f"{PIP_INSIDE}tox", **tooled.azure.github_job())
    assert tooled.azure.az_runs == []


def test_keyring_is_not_imported_in_builds(tooled: Shell) -> None:
    settings = PIP_INSIDE.replace("subprocess", "import")
    tooled(f"{settings}! python -m build --wheel")
    assert tooled.azure.az_runs == []


# --- Projects of uv, poetry and pdm

SETTINGS = f"""\
[tool.uv]
keyring-provider = "subprocess"

[[tool.uv.index]]
name = "private"
url = "{USER_URL}"
publish-url = "{UPLOAD_URL}"
default = true

[[tool.poetry.source]]
name = "private"
url = "{INDEX_URL}"

[[tool.pdm.source]]
name = "pypi"
url = "{INDEX_URL}"
"""


@pytest.mark.parametrize(
    ("lock", "sync", "keyring_runs"),
    [
        ("uv lock", "uv sync --locked --no-cache", 1),
        ("poetry lock", "poetry install --no-root", 0),
        ("pdm lock", "pdm sync --no-self", 0),
    ],
)
def test_a_project_is_locked_and_installed(
    shell: Shell, lock: str, sync: str, keyring_runs: int
) -> None:
    shell.project(SETTINGS)
    for line in (lock, sync):
        shell(line, UV_PYTHON=sys.executable, POETRY_VIRTUALENVS_IN_PROJECT="true")
        shell.assert_one_sign_in(keyring_runs)
    shell.assert_installed()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            SETTINGS.replace(f'{USER_URL}"', f'{INDEX_URL}"\nauthenticate = "always"'),
            "uv lock",
        ),
        ("", "uv add --index private=$FEED contoso-secrets"),
    ],
)
def test_uv_needs_the_user_when_all_is_locked(
    shell: Shell, settings: str, line: str
) -> None:
    shell.project(settings)
    sync = "uv sync --reinstall --locked --no-cache"
    said = shell(
        f"{line} && ! {sync} && UV_INDEX_PRIVATE_USERNAME=VssSessionToken {sync}",
        UV_PYTHON=sys.executable,
        UV_KEYRING_PROVIDER="subprocess",
    )
    assert "(401 Unauthorized)" in said


def test_poetry_stores_a_token_elsewhere(shell: Shell) -> None:
    said = shell("! poetry config pypi-token.pypi TOKEN")
    assert "stores no passwords" in said
    shell("POETRY_KEYRING_ENABLED=false poetry config pypi-token.pypi TOKEN")
    (path,) = shell.azure.home.rglob("auth.toml")
    assert 'pypi = "TOKEN"' in path.read_text()


# --- Uploads

# hatch does not obey HTTPS_PROXY, the way to simulated Azure; this alone is changed.
HATCH_OBEYS_THE_PROXY = """
import functools, os, httpx2
proxy = os.environ["HTTPS_PROXY"]
httpx2.HTTPTransport = functools.partial(httpx2.HTTPTransport, proxy=proxy)
"""


@pytest.mark.parametrize(
    "line",
    [
        f"export UPLOAD={UPLOAD_URL}\ntwine upload --repository-url $UPLOAD dist/*",
        "uv publish --index private",
        "poetry config repositories.private $UPLOAD && poetry publish -r private",
        "pdm publish --no-build -r $UPLOAD",
        "PYTHONPATH=. hatch publish --repo $UPLOAD --user VssSessionToken",
        "FLIT_INDEX_URL=$UPLOAD FLIT_USERNAME=VssSessionToken flit publish",
    ],
)
def test_upload(shell: Shell, line: str) -> None:
    """The feed tells the scopes of tokens apart."""
    shell.project(SETTINGS)
    (shell.folder / "app.py").touch()
    (shell.folder / "sitecustomize.py").write_text(HATCH_OBEYS_THE_PROXY)
    dist = shell.folder / "dist"
    dist.mkdir()
    make_wheel_in(shell.folder / "pyproject.toml", dist)
    shell(line)
    built = sorted(dist.iterdir())  # flit builds, and more
    assert len(shell.azure.uploads) == len(built)
    for path, body in zip(built, shell.azure.uploads):
        assert path.read_bytes() in body


# --- In CI


def test_a_token_made_once_serves_a_client_without_az(shell: Shell) -> None:
    make = "export ARTIFACTS_KEYRING_NOFUSS_TOKEN=$(keyring get $FEED VssSessionToken)"
    shell.installs(f"{make}\n{INSTALL}", "pip")
    shell.assert_one_sign_in(keyring_runs=1)


GITLAB = """\
read -r ID_TOKEN <"$AZURE_FEDERATED_TOKEN_FILE"
echo "$ID_TOKEN" >"$AZURE_FEDERATED_TOKEN_FILE"
"""


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (token, INSTALL),
        (Azure.github_job, INSTALL),
        (Azure.pod, GITLAB + INSTALL),
    ],
    ids=["Azure Pipelines", "GitHub", "GitLab"],
)
def test_jobs_sign_in_without_az(shell: Shell, job: Identity, line: str) -> None:
    shell.installs(line, **job(shell.azure))
    assert shell.azure.az_runs == []


# --- What is not https

CLEAR_URL = f"http://{OLD_HOST}/"
PIP_CLEAR = (
    f"pip download --no-input --trusted-host {OLD_HOST} --keyring-provider import"
)


@pytest.mark.parametrize(
    "line",
    [
        f"{PIP_CLEAR} --index-url {CLEAR_URL} x",
        f"{PIP_CLEAR} {CLEAR_URL}x-1-py3-none-any.whl",
        f"uv pip install --keyring-provider subprocess -i http://me@{OLD_HOST} x",
        "poetry lock",
        "pdm lock",
    ],
)
def test_no_password_goes_over_http(shell: Shell, line: str) -> None:
    """Whoever can sign in: the metadata's port is a proxy that wants a password."""
    shell.project(SETTINGS.replace(INDEX_URL, CLEAR_URL) + "verify_ssl = false")
    wanted = {"WWW-Authenticate": 'Basic realm="x"'}
    shell.azure.faults[IMDS] = [status(401, **wanted)] * 99
    shell(f"! {line}", http_proxy=shell.azure.metadata.url, **token(shell.azure))
    assert {r.host for r in shell.azure.requests} == {IMDS}
    for request in shell.azure.requests:
        basic = request.headers.get("authorization", "").partition(" ")[2]
        assert b64decode(basic).partition(b":")[2] == b""


# --- The README

SNIPPETS = r"^```(?!text|python)\w+\n(.*?)^```|`((?:uv|pipx) (?:tool|inject) [^`]+)`"
NOT_COMMANDS = r'$|"\$\(uv |[\w-]+: |[\w ]+:$|- script|FROM|ARG|--mount|python3 -m venv'
NAMES_HERE = {
    "/ORGANIZATION/": "/contoso/",
    "/FEED/": "/private/",
    "PACKAGE": "contoso-secrets",
    USER_URL: "{USER_URL}",
    INDEX_URL: "{INDEX_URL}",
    UPLOAD_URL: "{UPLOAD_URL}",
    NO_INPUT: "{NO_INPUT}",
}


def test_the_readme_shows_what_is_run_here() -> None:
    source, readme = Path(__file__).read_text(), (PROJECT / "README.md").read_text()
    for there, here in NAMES_HERE.items():
        readme = readme.replace(there, here)
    found = map("".join, re.findall(SNIPPETS, readme, re.M | re.S))
    lines = "\n".join(found).splitlines()
    for line in lines:
        command = re.sub("^ *(- run: |RUN )?", "", line)
        assert re.match(NOT_COMMANDS, command) or command in source
    assert len(lines) > 50
