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
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Callable

import pytest
from flit_core.wheel import make_wheel_in

from identities import TOKEN, Identity, token
from simulated_azure import FEED, IMDS, INDEX_URL, UPLOAD_URL, Azure, Handler, wheel

KEYRING, PIP, UV, TOX = "keyring==25.7.0", "pip==26.3", "uv==0.13.9", "tox==4.67.15"
BACKEND = "artifacts-keyring-nofuss"
CLIENTS_GET_IN = "\nkeyring's clients get in.\n"
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
    "keyring": f"{KEYRING} {BACKEND}",
    "keyring alone": KEYRING,
    "keyring and another backend": f"{KEYRING} keyrings.alt==5.0.2 {BACKEND}",
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
OLD_PIP_INSIDE = [int(n) for n in ensurepip.version().split(".")] < [23, 1]
PROJECT = Path(__file__).parents[1]
OTHER_FEED = INDEX_URL.replace("/private/", "/other/")
USER_URL = INDEX_URL.replace("https://", "https://VssSessionToken@")  # the README's
LEGACY_URL = "https://fabrikam.pkgs.visualstudio.com/_packaging/private/pypi/simple/"
LEGACY_USER_URL = LEGACY_URL.replace("https://", "https://VssSessionToken@")
READ, WRITE = "vso.packaging", "vso.packaging_write"
APP = """\
[project]
name = "app"
version = "1.0"
requires-python = ">=3.9"
dependencies = ["contoso-secrets"]

"""
Install = Callable[[str], Path]


@pytest.fixture(scope="session")
def project_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build this project."""
    return Path(
        make_wheel_in(
            PROJECT / "pyproject.toml", tmp_path_factory.mktemp("project")
        ).file
    )


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
        subprocess.run(make, check=True, timeout=120)
        fill = [*uv, "pip", "install", "--python", str(home), *packages]
        done = subprocess.run(fill, stderr=subprocess.PIPE, text=True, timeout=240)
        # uv says why no version fits, over several lines.
        if "the current Python version (" in " ".join(done.stderr.split()):
            pytest.skip(f"{CLIENTS[client].split()[0]} needs a newer Python")
        assert done.returncode == 0, done.stderr
        return home / "bin"

    return install


class Shell:
    """Runs command lines in a folder; PATH has keyring, az and a client's environment.

    What Azure was asked, az_runs and keyring_runs are those of the last command line.
    """

    def __init__(self, azure: Azure, install: Install, folder: Path) -> None:
        self.azure, self.install, self.folder = azure, install, folder
        self.log = azure.folder / "keyring.log"

    def __call__(
        self,
        line: str,
        *,
        client: str = "",
        keyring: str = "keyring",
        typed: str = "",
        status: int = 0,
        **variables: str,
    ) -> str:
        """Run a command line, with the client that it names first; return its words."""
        client = client or next(word for word in line.split() if word in CLIENTS)
        command = (
            f'echo "$*" >> "{self.log}"\nexec "{self.install(keyring)}/keyring" "$@"'
        )
        self.azure.executable("keyring", command)
        self.log.unlink(missing_ok=True)
        self.azure.requests.clear()
        self.earlier = len(self.azure.az_runs)
        env = self.azure.environment(
            REQUESTS_CA_BUNDLE=str(self.azure.ca_file),
            PDM_CHECK_UPDATE="0",
            VIRTUALENV_NO_PERIODIC_UPDATE="1",
            UPLOAD=UPLOAD_URL,
            **variables,
        )
        env["PATH"] += f":{self.install(client)}"
        env["FEED"] = USER_URL
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.folder,
            env=env,
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def activate(self, client: str) -> str:
        """Return the line that puts an environment before all else on PATH."""
        return f'export PATH="{self.install(client)}:$PATH"\n'

    @property
    def az_runs(self) -> list[str]:
        return self.azure.az_runs[self.earlier :]

    @property
    def keyring_runs(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def refused(self) -> list[str]:
        """The programs whose requests were answered 401, in order."""
        agents = [
            r.headers["user-agent"] for r in self.azure.requests if r.status == 401
        ]
        return [re.split("[/ ]", agent)[0] for agent in agents]

    def assert_one_sign_in(
        self, scope: str, *, refused: Sequence[str], keyring: Sequence[str] = ()
    ) -> None:
        """Assert what the last command line cost.

        The backend is refused when it asks where to sign in. A list that ends with it
        says that there was no 401 from the first credential on.
        """
        assert len(self.az_runs) == 1
        assert self.azure.scopes() == [scope]
        assert self.refused == list(refused)
        assert self.keyring_runs == list(keyring)

    def assert_nothing_asked(self) -> None:
        """Assert that the last command line was none of Azure's business."""
        assert (self.az_runs, self.azure.requests) == ([], [])

    def assert_installed(self, pattern: str) -> None:
        """Assert that the private package is in a folder."""
        assert list(self.folder.glob(f"{pattern}/contoso_secrets.py"))


@pytest.fixture
def shell(azure: Azure, install: Install, tmp_path: Path) -> Shell:
    """Run command lines as somebody who is signed in with az."""
    azure.az_signed_in()
    return Shell(azure, install, tmp_path)


@pytest.fixture
def dist(tmp_path: Path) -> bytes:
    """Put a wheel, which the feed has not, into dist/; return its bytes."""
    name, content = wheel("app")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / name).write_bytes(content)
    return content


def assert_uploaded(azure: Azure, content: bytes) -> None:
    """Assert that the feed, which tells the scopes of tokens apart, took one wheel."""
    assert [content in body for body in azure.uploads] == [True]


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
            "PIPX_HOME/venvs/poetry/bin/python",
        ),
    ],
)
def test_a_tool_gets_the_plugin(
    shell: Shell, project_wheel: Path, client: str, line: str, python: str
) -> None:
    names = "UV_TOOL_DIR", "UV_TOOL_BIN_DIR", "PIPX_HOME", "PIPX_BIN_DIR"
    folders = {name: str(shell.folder / name) for name in names}
    env = {**os.environ, **folders, "UV_FIND_LINKS": str(project_wheel.parent)}
    env["PATH"] += f":{shell.install(client)}"
    env["UV_SYSTEM_CERTS"] = "1"
    subprocess.run(["/bin/sh", "-c", line], env=env, check=True, timeout=400)
    said = shell(
        f"{python} -m artifacts_keyring_nofuss $FEED",
        client=client,
        status=0,
        **folders,
    )
    assert said.endswith(CLIENTS_GET_IN)


@pytest.mark.parametrize(
    "probe",
    [
        "python-poetry-check python-poetry",
        "poetry-repository-private VssSessionToken",
        "pdm-pypi-private VssSessionToken",
        "https://upload.pypi.org/legacy/ pypi_token:project:contoso-secrets",
        "https://upload.pypi.org/legacy/ __token__",
        FEED + " VssSessionToken",
    ],
)
def test_what_is_no_feed_is_not_signed_in_to(shell: Shell, probe: str) -> None:
    said = shell(f"keyring get {probe}", status=1)
    assert said == ""
    shell.assert_nothing_asked()


BOTH = "keyring and another backend"


def test_another_backend_serves_all_else(shell: Shell) -> None:
    shell("keyring set example.com me", keyring=BOTH, typed="hidden")
    assert shell("keyring get example.com me", keyring=BOTH) == "hidden\n"
    shell("keyring del example.com me", keyring=BOTH)
    assert shell("keyring get example.com me", keyring=BOTH, status=1) == ""
    shell.assert_nothing_asked()


def test_a_stored_password_is_used_when_the_backend_has_none(shell: Shell) -> None:
    shell.azure.az_not_signed_in()
    pat = token(shell.azure)[TOKEN]
    shell(f"keyring set {INDEX_URL} VssSessionToken", keyring=BOTH, typed=pat)
    assert_installs(shell, WITH_USER, "pip alone", keyring=BOTH)


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
WITH_USER = f"{NO_INPUT} subprocess --index-url $FEED contoso-secrets"


def assert_installs(shell: Shell, line: str, client: str = "", **more: str) -> None:
    """Run pip install into a folder."""
    shell(line, client=client, status=0, PIP_TARGET="site", **more)
    shell.assert_installed("site")


def test_start(shell: Shell, project_wheel: Path) -> None:
    links = {"PIP_FIND_LINKS": str(project_wheel.parent), "PIP_RETRIES": "0"}
    said = shell(START, client="pip, to begin with", status=0, **links)
    assert "Successfully installed contoso-secrets-1.0" in said
    assert said.endswith(CLIENTS_GET_IN)


@pytest.mark.parametrize(
    "line",
    [
        PLAIN,
        INSTALL,
        f"{NO_INPUT} import --index-url $FEED contoso-secrets",
        f"{INSTALL} --extra-index-url {OTHER_FEED}",
    ],
)
def test_pip(shell: Shell, line: str) -> None:
    assert_installs(shell, line)
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND])


@pytest.mark.parametrize(
    ("client", "options"),
    [("pip alone", "--mode=creds --output=json "), ("older pip", "")],
)
def test_pip_by_subprocess(shell: Shell, client: str, options: str) -> None:
    assert_installs(shell, WITH_USER, client)
    asked = f"{options}get {INDEX_URL} VssSessionToken"
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND], keyring=[asked])


def test_older_keyring_does_not_understand_pip(shell: Shell) -> None:
    shell(WITH_USER, client="pip alone", keyring="older keyring", status=1)
    assert shell.az_runs == []


def test_keyring_beside_pip_is_asked_unless_by_subprocess(shell: Shell) -> None:
    client = "pip and keyring"
    said = shell(shell.activate(client) + INSTALL, client=client, status=1)
    assert "Keyring is skipped due to an exception" in said
    assert "401 Error, Credentials not correct" in said
    assert_installs(shell, shell.activate(client) + WITH_USER, client)


def test_pip_conf(shell: Shell) -> None:
    (shell.folder / "pip.conf").write_text(f"[global]\nindex-url = {USER_URL}\n")
    assert_installs(shell, "pip install contoso-secrets", PIP_CONFIG_FILE="pip.conf")


def test_pip_index_versions(shell: Shell) -> None:
    said = shell("pip index versions --json --index-url $FEED contoso-secrets")
    assert json.loads(said)["versions"] == ["1.0"]  # nothing but JSON


def test_pip_names_no_organization_for_a_file_without_index(shell: Shell) -> None:
    shell(f"pip download --index-url {INDEX_URL} contoso-secrets")
    (path,) = [r.path for r in shell.azure.requests if r.path.endswith(".whl")]
    file = f"https://{FEED}{path}"
    shell(
        f"pip download --no-input --keyring-provider import --dest x {file}", status=1
    )
    assert (shell.refused, shell.az_runs) == (["pip"], [])
    shell(f"pip download --dest with-index --index-url {INDEX_URL} {file}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "SSL_CERT_FILE= REQUESTS_CA_BUNDLE= PIP_CERT= $DO --cert $SSL_CERT_FILE",
            "CERT",
        ),
        ("HTTPS_PROXY=http://127.0.0.1:1 $DO --proxy $HTTPS_PROXY", "no connection"),
    ],
)
def test_pip_keeps_its_own_options(shell: Shell, line: str, reason: str) -> None:
    do = f"{NO_INPUT} import --index-url {INDEX_URL} contoso-secrets"
    assert reason in shell(line.replace("$DO", do), client="pip", status=1)
    assert shell.refused == ["pip"]


# --- Tools that make environments of their own

PIP_INSIDE = "export PIP_INDEX_URL=$FEED PIP_KEYRING_PROVIDER=subprocess\n"
UV_INSIDE = "export UV_DEFAULT_INDEX=$FEED UV_KEYRING_PROVIDER=subprocess\n"
# The lines, and how often pip or uv signs in. A real feed would also have what pipx and
# pre-commit want from PyPI: a newer pip, and setuptools. (For pip, 0 means no build
# isolation.)
PIP_TOOLS = {
    "pip": ("python -m venv --without-pip v && pip --python v/bin/python install .", 2),
    "build": ("python -m build --wheel", 1),
    "nox": ("nox -db venv", 2),
    "tox": ("tox", 2),
    "hatch": ("hatch run python -c 'import contoso_secrets'", 1),
    "pip-tools": ("pip-compile pyproject.toml", 2),
    "pipenv": ("pipenv install", 5 if sys.version_info >= (3, 11) else 4),
    "pipx": ("pipx install --skip-maintenance .", 3),
    "pre-commit": (
        "git init --quiet && git add . && "
        "PIP_NO_BUILD_ISOLATION=0 VIRTUALENV_SETUPTOOLS=bundle pre-commit run",
        1,
    ),
}
UV_TOOLS = {
    "uv": ("uv build --wheel", 1),
    "build": ("python -m build --wheel --installer uv", 1),
    "nox": ("nox -db uv", 1),
    "tox and uv": ("tox", 2),
    "hatch": ("hatch -e uv run python -c 'import contoso_secrets'", 1),
    "pipx and uv": ("pipx install .", 2),
}
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
    "built/pyproject.toml": APP + 'description = ""\nscripts.app = "app:main"\n',
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
    for name, text in TOOLED_PROJECT.items():
        path = shell.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    built = shell.folder / "built"
    make_wheel_in(built / "pyproject.toml", built)
    shell.azure.executable("git", f'exec "{shutil.which("git")}" "$@"')
    return shell


@pytest.mark.parametrize(
    ("settings", "client", "line", "sign_ins"),
    [(PIP_INSIDE, client, *run) for client, run in PIP_TOOLS.items()]
    + [(UV_INSIDE, client, *run) for client, run in UV_TOOLS.items()],
    ids=[
        *(f"{client}, pip inside" for client in PIP_TOOLS),
        *(f"{client}, uv inside" for client in UV_TOOLS),
    ],
)
def test_tools_that_make_environments(
    tooled: Shell, settings: str, client: str, line: str, sign_ins: int
) -> None:
    if (settings, client) == (PIP_INSIDE, "pipx") and OLD_PIP_INSIDE:
        pytest.skip("pipx takes the pip inside Python, which is too old here")
    tooled(settings + line, client=client)
    assert tooled.azure.scopes() == [READ] * sign_ins
    assert len(tooled.keyring_runs) == sign_ins
    assert any(
        r.status == 200 and r.path.endswith(".whl") for r in tooled.azure.requests
    )


def test_keyring_is_not_imported_in_builds(tooled: Shell) -> None:
    settings = PIP_INSIDE.replace("subprocess", "import")
    tooled(f"{settings}python -m build --wheel", status=1)
    assert tooled.azure.scopes() == []


def test_tox_passes_on_what_it_is_told_to(tooled: Shell) -> None:
    answer = tooled.azure.az_answer(tooled.azure.entra_token())
    tooled.azure.executable("az", f"""[ "$AZURE_CONFIG_DIR" ] && echo '{answer}'""")
    settings = tooled.folder / "tox.ini"
    told = settings.read_text()
    for text, status in ((told.replace("    AZURE_*\n", ""), 1), (told, 0)):
        settings.write_text(text)
        tooled(f"{PIP_INSIDE}tox", status=status, AZURE_CONFIG_DIR="of-this-job")


# --- Two organizations in one run

TWO = f"--index-url $FEED --extra-index-url {LEGACY_USER_URL} contoso-secrets"


@pytest.mark.parametrize(
    ("client", "line"),
    [
        ("pip", "pip install"),
        ("pip alone", "pip install --keyring-provider subprocess"),
        ("uv", "uv pip install --target site --keyring-provider subprocess"),
    ],
)
def test_two_organizations(shell: Shell, client: str, line: str) -> None:
    # The strategy makes uv ask both indexes, as pip does.
    strategy = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    assert_installs(shell, f"{line} {TWO}", client, **strategy)
    assert shell.azure.scopes() == [READ, READ]
    served = {
        r.host for r in shell.azure.requests if r.status == 200 and r.method == "GET"
    }
    assert served == {FEED, "fabrikam.pkgs.visualstudio.com"}


def test_two_organizations_at_one_host_are_refused_for_each_package(
    shell: Shell,
) -> None:
    fabrikam = INDEX_URL.replace("/contoso/", "/fabrikam/")
    shell(f"{PLAIN} no-such-package --extra-index-url {fabrikam}", status=1)
    assert shell.refused.count("pip") == 2 * 2


# --- uv
#
# For each file, which is under another path than the index, uv first tries without.

UV_PIP = (
    "uv pip install --keyring-provider subprocess --index-url $FEED contoso-secrets"
)


def test_uv_pip_install(shell: Shell) -> None:
    shell("uv venv", UV_PYTHON=sys.executable)
    shell(UV_PIP)
    shell.assert_installed(".venv/lib/*/site-packages")
    asked = f"get {INDEX_URL} VssSessionToken"
    shell.assert_one_sign_in(READ, refused=[BACKEND, "uv", "uv", "uv"], keyring=[asked])


def test_uv_asks_the_first_keyring_on_path(shell: Shell) -> None:
    shell(f"{shell.activate('keyring alone')}{UV_PIP} --target site", status=1)
    assert shell.keyring_runs == []  # of the one behind, which has the backend


UV_KEYRING = """\
[tool.uv]
keyring-provider = "subprocess"
"""
UV_PROJECT = f"""\
{UV_KEYRING}
[[tool.uv.index]]
name = "private"
url = "{USER_URL}"
publish-url = "{UPLOAD_URL}"
default = true
"""


def test_uv_project(shell: Shell) -> None:
    (shell.folder / "pyproject.toml").write_text(APP + UV_PROJECT)
    shell("uv lock", UV_PYTHON=sys.executable)
    asked = f"get {INDEX_URL} VssSessionToken"
    shell.assert_one_sign_in(READ, refused=[BACKEND, "uv", "uv"], keyring=[asked])
    shell("uv sync --locked --no-cache", UV_PYTHON=sys.executable)
    shell.assert_installed(".venv/lib/*/site-packages")
    (url,) = re.findall(r'url = "(.*\.whl)"', (shell.folder / "uv.lock").read_text())
    asked = f"get {url} VssSessionToken"  # all that uv knows, with everything locked
    shell.assert_one_sign_in(READ, refused=["uv", BACKEND], keyring=[asked])


def test_uv_needs_the_user_when_all_is_locked(shell: Shell) -> None:
    path = shell.folder / "pyproject.toml"
    always = UV_PROJECT.replace(USER_URL, INDEX_URL) + 'authenticate = "always"\n'
    added = APP.replace('"contoso-secrets"', "") + UV_KEYRING
    for project, line in (
        (APP + always, "uv lock"),
        (added, "uv add --index private=$FEED contoso-secrets"),
    ):
        path.write_text(project)
        shell(line, UV_PYTHON=sys.executable)
        assert "VssSessionToken" not in path.read_text()
        shell(
            "uv sync --reinstall --locked --no-cache",
            status=2,
            UV_PYTHON=sys.executable,
        )
        assert (shell.refused, shell.keyring_runs) == (["uv"], [])
        settings = "UV_INDEX_PRIVATE_USERNAME=VssSessionToken"
        shell(f"{settings} uv sync --locked --no-cache", UV_PYTHON=sys.executable)


# --- poetry and pdm

POETRY_PROJECT = f"""\
[tool.poetry]
package-mode = false

[[tool.poetry.source]]
name = "private"
url = "{INDEX_URL}"
"""


def test_poetry(shell: Shell) -> None:
    (shell.folder / "pyproject.toml").write_text(APP + POETRY_PROJECT)
    shell("poetry lock", POETRY_VIRTUALENVS_IN_PROJECT="true")
    assert 'name = "contoso-secrets"' in (shell.folder / "poetry.lock").read_text()
    shell.assert_one_sign_in(READ, refused=[BACKEND])
    shell("poetry install", POETRY_VIRTUALENVS_IN_PROJECT="true")
    shell.assert_installed(".venv/lib/*/site-packages")
    shell.assert_one_sign_in(READ, refused=[BACKEND])


def test_poetry_stores_a_token_elsewhere(shell: Shell) -> None:
    said = shell("poetry config pypi-token.pypi TOKEN", status=1)
    assert "stores no passwords" in said
    shell("POETRY_KEYRING_ENABLED=false poetry config pypi-token.pypi TOKEN")
    (path,) = shell.azure.home.rglob("auth.toml")
    assert 'pypi = "TOKEN"' in path.read_text()


PDM_PROJECT = f"""\
[[tool.pdm.source]]
name = "pypi"
url = "{INDEX_URL}"
"""


def test_pdm(shell: Shell) -> None:
    (shell.folder / "pyproject.toml").write_text(APP + PDM_PROJECT)
    shell("pdm lock")
    assert 'name = "contoso-secrets"' in (shell.folder / "pdm.lock").read_text()
    shell.assert_one_sign_in(READ, refused=["pdm", BACKEND])


# --- Uploads

# hatch does not obey HTTPS_PROXY, the way to simulated Azure; this alone is changed.
HATCH_OBEYS_THE_PROXY = """
import functools, os, httpx2
proxy = os.environ["HTTPS_PROXY"]
httpx2.HTTPTransport = functools.partial(httpx2.HTTPTransport, proxy=proxy)
"""
POETRY_PUBLISH = """
poetry config repositories.private $UPLOAD
poetry publish -r private
"""


@pytest.mark.parametrize(
    ("line", "scopes"),
    [
        (
            f"export UPLOAD={UPLOAD_URL}\ntwine upload --repository-url $UPLOAD dist/*",
            [WRITE],
        ),
        ("uv publish --index private", [READ, WRITE]),  # it looks what is there already
        (POETRY_PUBLISH, [WRITE]),
        ("pdm publish --no-build -r $UPLOAD", [WRITE]),
        ("hatch publish --repo $UPLOAD --user VssSessionToken", [WRITE]),
    ],
    ids=["twine", "uv", "poetry", "pdm", "hatch"],
)
def test_upload(shell: Shell, dist: bytes, line: str, scopes: list[str]) -> None:
    (shell.folder / "pyproject.toml").write_text(APP + UV_PROJECT)
    if line.startswith("hatch"):
        (shell.folder / "sitecustomize.py").write_text(HATCH_OBEYS_THE_PROXY)
        line = f"PYTHONPATH=. {line}"
    shell(line)
    assert_uploaded(shell.azure, dist)
    assert shell.azure.scopes() == scopes
    assert shell.refused == [BACKEND] * len(scopes)


FLIT_PROJECT = """\
[project]
name = "contoso_secrets"
version = "1.0"
description = "The answer"
"""


def test_flit(shell: Shell) -> None:
    (shell.folder / "pyproject.toml").write_text(FLIT_PROJECT)
    (shell.folder / "contoso_secrets.py").write_text("answer = 42\n")
    shell("FLIT_INDEX_URL=$UPLOAD FLIT_USERNAME=VssSessionToken flit publish")
    built = sorted(shell.folder.glob("dist/*"))
    for path, body in zip(built, shell.azure.uploads):
        assert path.read_bytes() in body
    shell.assert_one_sign_in(WRITE, refused=[BACKEND])


# --- In CI


def test_a_token_made_once_serves_a_client_without_az(shell: Shell) -> None:
    line = f"export {TOKEN}=$(keyring get $FEED VssSessionToken)\n{INSTALL}"
    assert_installs(shell, line, "pip")
    asked = f"get {USER_URL} VssSessionToken"
    # Each process asks the feed where to sign in; pip's then tries the token there.
    shell.assert_one_sign_in(READ, refused=[BACKEND, "pip", BACKEND], keyring=[asked])


def gitlab_job(azure: Azure) -> dict[str, str]:
    """Return the variables of a job whose id token is not in the file yet."""
    variables = azure.pod()
    path = Path(variables["AZURE_FEDERATED_TOKEN_FILE"])
    variables["ID_TOKEN"] = path.read_text()
    path.unlink()
    return variables


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (token, INSTALL),
        (Azure.github_job, INSTALL),
        (gitlab_job, f'echo "$ID_TOKEN" >"$AZURE_FEDERATED_TOKEN_FILE"\n{INSTALL}'),
    ],
    ids=["Azure Pipelines", "GitHub", "GitLab"],
)
def test_jobs_sign_in_without_az(shell: Shell, job: Identity, line: str) -> None:
    assert_installs(shell, line, "pip", **job(shell.azure))
    assert shell.az_runs == []


# --- What is not https

CLEAR_URL = LEGACY_URL.replace("https:", "http:")
PIP_CLEAR = "pip download --no-input --trusted-host fabrikam.pkgs.visualstudio.com"


@pytest.mark.parametrize(
    ("client", "line"),
    [
        ("pip", f"{PIP_CLEAR} --keyring-provider import --index-url {CLEAR_URL} x"),
        (
            "pip",
            f"{PIP_CLEAR} --keyring-provider import {CLEAR_URL}x-1-py3-none-any.whl",
        ),
        (
            "pip alone",
            f"{PIP_CLEAR} --keyring-provider subprocess --index-url {CLEAR_URL} x",
        ),
        ("uv", UV_PIP.replace("$FEED", CLEAR_URL.replace("//", "//me@"))),
        ("poetry", "poetry lock"),
        ("pdm", "pdm lock"),
    ],
)
def test_no_password_goes_over_http(shell: Shell, client: str, line: str) -> None:
    """Whoever can sign in: the metadata's port is a proxy that wants a password."""
    project = {"poetry": POETRY_PROJECT, "pdm": f"{PDM_PROJECT}verify_ssl = false"}
    text = APP + project.get(client, "").replace(INDEX_URL, CLEAR_URL)
    (shell.folder / "pyproject.toml").write_text(text)
    wanted = {"WWW-Authenticate": 'Basic realm="x"'}
    shell.azure.faults[IMDS] = [
        partial(Handler.answer, status=401, headers=wanted)
    ] * 99
    variables = {"http_proxy": shell.azure.metadata.url, **token(shell.azure)}
    shell(f"{line} || exit 9", client=client, status=9, **variables)
    assert {r.host for r in shell.azure.requests} == {IMDS}
    for request in shell.azure.requests:
        basic = request.headers.get("authorization", "").partition(" ")[2]
        assert b64decode(basic).partition(b":")[2] == b""
    assert shell.az_runs == []


# --- The README

SNIPPETS = r"^```(?!text|python)\w+\n(.*?)^```|`((?:uv|pipx) (?:tool|inject) [^`]+)`"
NOT_COMMANDS = r'$|"\$\(uv |[\w-]+: |[\w ]+:$|- script|FROM|ARG|--mount|python3 -m venv'
PLACEHOLDERS = {
    "/ORGANIZATION/": "/contoso/",
    "/FEED/": "/private/",
    "PACKAGE": "contoso-secrets",
}


def test_the_readme_shows_what_is_run_here() -> None:
    source, readme = Path(__file__).read_text(), (PROJECT / "README.md").read_text()
    for name in ("USER_URL", "INDEX_URL", "UPLOAD_URL", "INSTALL", "NO_INPUT", "TOKEN"):
        source = source.replace(f"{{{name}}}", globals()[name])
    for there, here in PLACEHOLDERS.items():
        readme = readme.replace(there, here)
    found = map("".join, re.findall(SNIPPETS, readme, re.M | re.S))
    lines = "\n".join(found).splitlines()
    for line in lines:
        command = re.sub("^ *(- run: |RUN )?", "", line)
        assert re.match(NOT_COMMANDS, command) or command in source
    assert len(lines) > 50
