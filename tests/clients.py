"""Every client people use, for real: each at a pinned version, against the simulated Azure.

`nox -s clients` runs this file; plain pytest leaves it out, for it installs the clients from the
package registry. The README's "Use with" and "In CI" show no command that is not run here.
"""

from __future__ import annotations

import ensurepip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Callable

import pytest
from flit_core.wheel import make_wheel_in

from simulated_azure import FEED, INDEX_URL, UPLOAD_URL, Azure, wheel

KEYRING, PIP, UV, TOX = "keyring==25.7.0", "pip==26.3", "uv==0.13.9", "tox==4.67.15"
BACKEND = "artifacts-keyring-nofuss"
CLIENTS = {  # what is in the environment of each; the backend is where its name stands
    "pip": f"{PIP} {KEYRING} {BACKEND}",
    "pip alone": PIP,
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
OWN_NAME_URL = INDEX_URL.replace("https://", "https://me@")  # not the backend's name
USER_URL = INDEX_URL.replace("https://", "https://VssSessionToken@")
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
    return Path(make_wheel_in(PROJECT / "pyproject.toml", tmp_path_factory.mktemp("project")).file)


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
    """Runs command lines in a folder; PATH has keyring, az and a client's environment, no more.

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
        """Run a command line, with the client that it names first; return what it said."""
        client = client or next(word for word in line.split() if word in CLIENTS)
        command = f'echo "$*" >> "{self.log}"\nexec "{self.install(keyring)}/keyring" "$@"'
        self.azure.executable("keyring", command)
        self.log.unlink(missing_ok=True)
        self.azure.requests.clear()
        self.earlier = len(self.azure.az_runs)
        env = self.azure.environment(
            REQUESTS_CA_BUNDLE=str(self.azure.ca_file),
            PDM_CHECK_UPDATE="0",
            VIRTUALENV_NO_PERIODIC_UPDATE="1",
            **variables,
        )
        env["PATH"] += f":{self.install(client)}"
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
        agents = [r.headers["user-agent"] for r in self.azure.requests if r.status == 401]
        return [re.split("[/ ]", agent)[0] for agent in agents]

    def assert_one_sign_in(
        self, scope: str, *, refused: Sequence[str], keyring: Sequence[str] = ()
    ) -> None:
        """Assert what the last command line cost.

        The backend is refused when it asks where to sign in. A list that ends with it says that
        there was no 401 from the first credential on.
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


def test_uv_tool_installs_the_keyring_command(
    install: Install, project_wheel: Path, tmp_path: Path
) -> None:
    folders = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path)}
    variables = {**os.environ, **folders, "UV_SYSTEM_CERTS": "1", "UV_PYTHON": sys.executable}
    variables["PATH"] = f"{install('uv')}:{variables['PATH']}"
    line = f"uv tool install keyring --with {project_wheel}"
    subprocess.run(line.split(), env=variables, check=True, timeout=240)
    said = subprocess.run(
        [tmp_path / "keyring", "--list-backends"], capture_output=True, text=True, timeout=60
    ).stdout
    assert "artifacts_keyring_nofuss.ArtifactsKeyringBackend (priority: 9.9)" in said.splitlines()


def test_keyring_get(shell: Shell) -> None:
    password = shell(f"keyring get {INDEX_URL} VssSessionToken").strip()
    assert shell.azure.session_tokens[password].scopes == [READ]
    asked = f"get {INDEX_URL} VssSessionToken"
    shell.assert_one_sign_in(READ, refused=[BACKEND], keyring=[asked])


def test_keyring_mode_creds(shell: Shell) -> None:
    user, password = shell(f"keyring --mode creds get {INDEX_URL}").split()
    assert (user, shell.azure.session_tokens[password].scopes) == ("VssSessionToken", [READ])
    asked = f"--mode creds get {INDEX_URL}"
    shell.assert_one_sign_in(READ, refused=[BACKEND], keyring=[asked])


def test_keyring_output_json(shell: Shell) -> None:
    said = json.loads(shell(f"keyring --mode creds --output json get {UPLOAD_URL}"))
    assert said["username"] == "VssSessionToken"
    assert shell.azure.session_tokens[said["password"]].scopes == [WRITE]
    asked = f"--mode creds --output json get {UPLOAD_URL}"
    shell.assert_one_sign_in(WRITE, refused=[BACKEND], keyring=[asked])


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
    for service in ("example.com", "python-poetry-check"):
        shell(f"keyring set {service} me", keyring=BOTH, typed="hidden")
        assert shell(f"keyring get {service} me", keyring=BOTH).strip() == "hidden"
        shell.assert_nothing_asked()
        shell(f"keyring del {service} me", keyring=BOTH)
        assert shell(f"keyring get {service} me", keyring=BOTH, status=1) == ""


def test_a_stored_password_is_used_when_the_backend_has_none(shell: Shell) -> None:
    stored = shell(f"keyring get {INDEX_URL} me").strip()  # stands for a personal access token
    shell(f"keyring set {INDEX_URL} me", keyring=BOTH, typed=stored)
    shell.assert_nothing_asked()
    assert shell(f"keyring get {INDEX_URL} me", keyring=BOTH).strip() != stored
    shell.azure.executable("az", "exit 1")
    shell(
        f"pip download --index-url {OWN_NAME_URL} contoso-secrets", client="pip alone", keyring=BOTH
    )
    assert (shell.refused, shell.azure.scopes()) == (["pip", BACKEND], [])


# --- pip

PLAIN = f"pip install --index-url {INDEX_URL} contoso-secrets"
BY_SUBPROCESS = f"pip install --keyring-provider subprocess --index-url {INDEX_URL} contoso-secrets"
WITH_USER = f"pip install --keyring-provider subprocess --index-url {USER_URL} contoso-secrets"


def assert_installs(shell: Shell, line: str, client: str = "") -> None:
    """Run pip install into a folder."""
    shell(line, client=client, PIP_TARGET="site")
    shell.assert_installed("site")


@pytest.mark.parametrize(
    "line",
    [
        PLAIN,
        f"pip install --no-input --keyring-provider import --index-url {INDEX_URL} contoso-secrets",
        f"pip install --index-url {OWN_NAME_URL} contoso-secrets",
        f"pip install --index-url {INDEX_URL} --extra-index-url {OTHER_FEED} contoso-secrets",
    ],
    ids=["plain", "no input", "user in the URL", "two feeds"],
)
def test_pip(shell: Shell, line: str) -> None:
    assert_installs(shell, line)
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND])


@pytest.mark.parametrize(
    ("client", "line", "asked"),
    [
        ("pip alone", BY_SUBPROCESS, f"--mode=creds --output=json get {INDEX_URL}"),
        ("pip alone", WITH_USER, f"--mode=creds --output=json get {INDEX_URL} VssSessionToken"),
        ("older pip", WITH_USER, f"get {INDEX_URL} VssSessionToken"),
    ],
)
def test_pip_by_subprocess(shell: Shell, client: str, line: str, asked: str) -> None:
    assert_installs(shell, line, client)
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND], keyring=[asked])


def test_older_pip_by_subprocess_asks_for_nobody_without_user(shell: Shell) -> None:
    shell(f"{BY_SUBPROCESS} --no-input", client="older pip", status=1)
    assert (shell.refused, shell.keyring_runs) == (["pip"], [])


def test_older_keyring_does_not_understand_pip(shell: Shell) -> None:
    shell(WITH_USER, client="pip alone", keyring="older keyring", status=1)
    assert (shell.refused, shell.az_runs) == (["pip", "pip"], [])


def test_keyring_beside_pip_is_asked_unless_by_subprocess(shell: Shell) -> None:
    client = "pip and keyring"
    line = f"{shell.activate(client)}pip install --index-url {USER_URL} contoso-secrets"
    shell(line, client=client, status=1)
    assert (shell.refused, shell.az_runs) == (["pip", "pip"], [])
    assert_installs(shell, shell.activate(client) + WITH_USER, client)


@pytest.mark.parametrize("url", [INDEX_URL, OWN_NAME_URL], ids=["plain", "user in the URL"])
def test_pip_index_versions(shell: Shell, url: str) -> None:
    said = shell(f"pip index versions --json --index-url {url} contoso-secrets")
    assert json.loads(said)["versions"] == ["1.0"]  # nothing but JSON
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND])


def test_pip_names_no_organization_for_a_file_without_index(shell: Shell) -> None:
    shell(f"pip download --index-url {INDEX_URL} contoso-secrets")
    (path,) = [r.path for r in shell.azure.requests if r.path.endswith(".whl")]
    file = f"https://{FEED}{path}"
    shell(f"pip download --no-input --keyring-provider import --dest x {file}", status=1)
    assert (shell.refused, shell.az_runs) == (["pip"], [])
    shell(f"pip download --dest with-index --index-url {INDEX_URL} {file}")
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND])


NO_CERTIFICATES = "SSL_CERT_FILE= REQUESTS_CA_BUNDLE= PIP_CERT="
NO_PROXY = "HTTPS_PROXY=http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("variables", "option", "reason"),
    [
        (NO_CERTIFICATES, '--cert "$SSL_CERT_FILE"', "certificate not trusted"),
        (NO_CERTIFICATES, f"--trusted-host {FEED}", "certificate not trusted"),
        (NO_PROXY, '--proxy "$HTTPS_PROXY"', "no connection"),
    ],
    ids=["certificate", "trusted host", "proxy"],
)
def test_pip_keeps_its_own_options(shell: Shell, variables: str, option: str, reason: str) -> None:
    said = shell(f"{variables} {PLAIN} --no-input --keyring-provider import {option}", status=1)
    assert reason in said
    assert shell.refused == ["pip"]


# --- Tools that make environments of their own

PIP_INSIDE = f"""
export PIP_INDEX_URL={USER_URL}
export PIP_KEYRING_PROVIDER=subprocess
"""
UV_INSIDE = f"""
export UV_DEFAULT_INDEX={USER_URL}
export UV_KEYRING_PROVIDER=subprocess
"""
# The lines, and how often pip or uv signs in. A real feed would also have the packages that pipx
# and pre-commit want from PyPI: a newer pip, and setuptools. (For pip, 0 means no build isolation.)
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
pass_env = AZURE_*, IDENTITY_*, ARTIFACTS_KEYRING_NOFUSS_*, REQUESTS_CA_BUNDLE
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
    assert any(r.status == 200 and r.path.endswith(".whl") for r in tooled.azure.requests)


@pytest.mark.parametrize(
    ("line", "status", "sign_ins"),
    [("pip wheel --no-deps .", 0, 1), ("python -m build --wheel", 1, 0)],
    ids=["pip", "build"],
)
def test_keyring_is_imported_in_pips_own_builds_only(
    tooled: Shell, line: str, status: int, sign_ins: int
) -> None:
    tooled(PIP_INSIDE.replace("subprocess", "import") + line, status=status)
    assert tooled.azure.scopes() == [READ] * sign_ins
    assert tooled.keyring_runs == []


def test_pip_hands_no_keyring_provider_on_to_its_builds(tooled: Shell) -> None:
    line = f"pip wheel --no-input --keyring-provider import --index-url {INDEX_URL} ."
    assert "No matching distribution found for contoso-secrets" in tooled(line, status=1)
    assert tooled.refused == ["pip"]


@pytest.mark.parametrize(("passed", "status"), [("AZURE_*", 0), ("AZURE_POD_*", 1)])
def test_tox_passes_on_what_it_is_told_to(tooled: Shell, passed: str, status: int) -> None:
    answer = json.dumps({"accessToken": tooled.azure.az_signed_in(), "tokenType": "Bearer"})
    tooled.azure.executable("az", f"""[ "$AZURE_CONFIG_DIR" ] && echo '{answer}'""")
    settings = tooled.folder / "tox.ini"
    settings.write_text(settings.read_text().replace("AZURE_*", passed))
    tooled(f"{PIP_INSIDE}tox", status=status, AZURE_CONFIG_DIR="of-this-job")


# --- Two organizations in one run

TWO_FEEDS = f"--index-url {USER_URL} --extra-index-url {LEGACY_USER_URL} contoso-secrets"


@pytest.mark.parametrize(
    ("client", "line", "refused"),
    [
        (
            "pip",
            f"pip install --index-url {INDEX_URL} --extra-index-url {LEGACY_URL} contoso-secrets",
            ["pip", "pip"],
        ),
        (
            "pip alone",
            f"pip install --keyring-provider subprocess {TWO_FEEDS}",
            ["pip", "pip"],
        ),
        (
            "uv",
            f"uv pip install --target site --keyring-provider subprocess {TWO_FEEDS}",
            ["uv", "uv", "uv"],
        ),
    ],
    ids=["pip", "pip, subprocess", "uv"],
)
def test_two_organizations(shell: Shell, client: str, line: str, refused: list[str]) -> None:
    # The strategy makes uv ask both indexes, as pip does.
    shell(line, client=client, PIP_TARGET="site", UV_INDEX_STRATEGY="unsafe-best-match")
    shell.assert_installed("site")
    assert shell.azure.scopes() == [READ, READ]
    assert sorted(shell.refused) == [BACKEND, BACKEND, *refused]
    served = {r.host for r in shell.azure.requests if r.status == 200 and r.method == "GET"}
    assert served == {FEED, "fabrikam.pkgs.visualstudio.com"}


def test_two_organizations_at_one_host_are_refused_for_each_package(shell: Shell) -> None:
    fabrikam = INDEX_URL.replace("/contoso/", "/fabrikam/")
    shell(f"{PLAIN} no-such-package --extra-index-url {fabrikam}", status=1)
    assert shell.refused.count("pip") == 2 * 2


# --- uv
#
# For each file, which is under another path than the index, uv first tries without credentials.

UV_PIP = f"uv pip install --keyring-provider subprocess --index-url {USER_URL} contoso-secrets"


def test_uv_pip_install(shell: Shell) -> None:
    shell("uv venv", UV_PYTHON=sys.executable)
    shell(UV_PIP)
    shell.assert_installed(".venv/lib/*/site-packages")
    asked = f"get {INDEX_URL} VssSessionToken"
    shell.assert_one_sign_in(READ, refused=[BACKEND, "uv", "uv", "uv"], keyring=[asked])


@pytest.mark.parametrize(("activated", "status"), [("keyring alone", 1), ("keyring", 0)])
def test_uv_asks_the_first_keyring_on_path(shell: Shell, activated: str, status: int) -> None:
    shell(f"{shell.activate(activated)}{UV_PIP} --target site", status=status)
    assert shell.keyring_runs == []  # of the one behind, which has the backend


UV_PROJECT = f"""\
[tool.uv]
keyring-provider = "subprocess"

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
    asked = f"get {url} VssSessionToken"  # which is all that uv knows, with everything locked
    shell.assert_one_sign_in(READ, refused=["uv", BACKEND], keyring=[asked])


ALWAYS = UV_PROJECT.replace(USER_URL, INDEX_URL) + 'authenticate = "always"\n'


@pytest.mark.parametrize(
    ("project", "line"),
    [
        (APP + ALWAYS, "uv lock"),
        (
            APP.replace('"contoso-secrets"', "") + '[tool.uv]\nkeyring-provider = "subprocess"\n',
            f"uv add --index private={USER_URL} contoso-secrets",
        ),
    ],
    ids=["always", "added"],
)
def test_uv_needs_the_user_when_all_is_locked(shell: Shell, project: str, line: str) -> None:
    (shell.folder / "pyproject.toml").write_text(project)
    shell(line, UV_PYTHON=sys.executable)
    assert "VssSessionToken" not in (shell.folder / "pyproject.toml").read_text()
    shutil.rmtree(shell.folder / ".venv", ignore_errors=True)
    shell("uv sync --locked --no-cache", status=2, UV_PYTHON=sys.executable)
    assert (shell.refused, shell.keyring_runs) == (["uv"], [])
    line = """
export UV_INDEX_PRIVATE_USERNAME=VssSessionToken
uv sync --locked --no-cache
"""
    shell(line, UV_PYTHON=sys.executable)
    shell.assert_installed(".venv/lib/*/site-packages")


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


PDM_PROJECT = f"""\
[[tool.pdm.source]]
name = "pypi"
url = "{INDEX_URL}"
"""


@pytest.mark.parametrize("url", [INDEX_URL, OWN_NAME_URL], ids=["plain", "user in the URL"])
def test_pdm(shell: Shell, url: str) -> None:
    (shell.folder / "pyproject.toml").write_text(APP + PDM_PROJECT.replace(INDEX_URL, url))
    shell("pdm lock")
    assert 'name = "contoso-secrets"' in (shell.folder / "pdm.lock").read_text()
    shell.assert_one_sign_in(READ, refused=["pdm", BACKEND])


# --- Uploads

# hatch does not obey HTTPS_PROXY, the way to the simulated Azure; this alone is changed in it.
HATCH_OBEYS_THE_PROXY = """
import functools, os, httpx2
httpx2.HTTPTransport = functools.partial(httpx2.HTTPTransport, proxy=os.environ["HTTPS_PROXY"])
"""
PUBLISH = f"uv publish --keyring-provider subprocess -u VssSessionToken --publish-url {UPLOAD_URL}"
POETRY_PUBLISH = f"""
poetry config repositories.private {UPLOAD_URL}
poetry publish -r private
"""


@pytest.mark.parametrize(
    ("line", "scopes"),
    [
        (f"twine upload --repository-url {UPLOAD_URL} dist/*", [WRITE]),
        (f"twine upload --repository-url {UPLOAD_URL} -u VssSessionToken dist/*", [WRITE]),
        (PUBLISH, [WRITE]),
        ("uv publish --index private", [READ, WRITE]),  # it looks what is there already
        (POETRY_PUBLISH, [WRITE]),
        (f"pdm publish --no-build -r {UPLOAD_URL}", [WRITE]),
        (f"hatch publish --repo {UPLOAD_URL} --user VssSessionToken", [WRITE]),
    ],
    ids=["twine", "twine, user", "uv", "uv, index", "poetry", "pdm", "hatch"],
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
    shell(f"FLIT_INDEX_URL={UPLOAD_URL} FLIT_USERNAME=VssSessionToken flit publish")
    built = [path.read_bytes() for path in sorted(shell.folder.glob("dist/*"))]
    assert [content in body for content, body in zip(built, shell.azure.uploads)] == [True, True]
    shell.assert_one_sign_in(WRITE, refused=[BACKEND])


# --- In CI


def test_a_token_made_once_serves_a_client_without_az(shell: Shell) -> None:
    assert_installs(
        shell,
        f"""
export ARTIFACTS_KEYRING_NOFUSS_TOKEN=$(keyring get {INDEX_URL} VssSessionToken)
pip install --index-url {INDEX_URL} contoso-secrets
""",
    )
    asked = f"get {INDEX_URL} VssSessionToken"
    shell.assert_one_sign_in(READ, refused=[BACKEND, "pip"], keyring=[asked])


# --- The README

PLACEHOLDERS = {
    "{USER_URL}": "https://VssSessionToken@pkgs.dev.azure.com/ORGANIZATION/_packaging/FEED/pypi/simple/",
    "{INDEX_URL}": "https://pkgs.dev.azure.com/ORGANIZATION/_packaging/FEED/pypi/simple/",
    "{UPLOAD_URL}": "https://pkgs.dev.azure.com/ORGANIZATION/_packaging/FEED/pypi/upload/",
    "{LEGACY_URL}": "https://OTHER.pkgs.visualstudio.com/_packaging/FEED/pypi/simple/",
    "contoso-secrets": "PACKAGE",
    "--with {project_wheel}": f'--with "{BACKEND}>=2"',
}


def snippets() -> list[tuple[str, str]]:
    """Return the language and the text of each of the README's snippets, as this file writes it."""
    text = (PROJECT / "README.md").read_text()
    for here, there in PLACEHOLDERS.items():
        text = text.replace(there, here)
    sections = re.findall(r"^## (?:Use with|In CI)\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```(\w+)\n(.*?)^```", "".join(sections), re.MULTILINE | re.DOTALL)


def test_the_readme_shows_what_is_run_here() -> None:
    source = Path(__file__).read_text()
    for language, text in snippets():
        for line in filter(None, text.splitlines()):
            command = re.sub(r"^ *(- run: |RUN )?", "", line)
            if language in ("sh", "toml", "ini") or "_URL}" in command:
                assert command in source
    assert snippets()
