"""Every client people use, for real: each at a pinned version, against the simulated Azure.

`nox -s clients` runs this file; plain pytest leaves it out, for it installs the clients from the
package registry. The README's "Use with" shows no command that is not run here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Callable

import pytest
from flit_core.wheel import make_wheel_in

from simulated_azure import FEED, INDEX_URL, UPLOAD_URL, Azure, wheel

CLIENTS = {
    "pip": "pip==26.3 keyring==25.7.0",
    "older pip": "pip==23.2.1",
    "uv": "uv==0.13.9",
    "twine": "twine==7.0.0 keyring==25.7.0",
    "poetry": "poetry==2.5.1 keyring==25.7.0",
    "pdm": "pdm[locked]==2.29.3 keyring==25.7.0",  # the newest of its dependencies clash
    "hatch": "hatch==1.18.2 keyring==25.7.0",
    "flit": "flit==4.2.0 keyring==25.7.0",
    "keyring": "keyring==25.7.0",
    "keyring and another backend": "keyring==25.7.0 keyrings.alt==5.0.2",
}
PROJECT = Path(__file__).parents[1]
OTHER_FEED = INDEX_URL.replace("/private/", "/other/")
OWN_NAME_URL = INDEX_URL.replace("https://", "https://me@")  # not the backend's name
USER_URL = INDEX_URL.replace("https://", "https://VssSessionToken@")
TOKEN_URL = INDEX_URL.replace("https://", "https://__token__@")
READ, WRITE = "vso.packaging", "vso.packaging_write"
BACKEND = "artifacts-keyring-nofuss"
APP = """\
[project]
name = "app"
version = "1.0"
requires-python = ">=3.9"
dependencies = ["contoso-secrets"]

"""
Install = Callable[[str], Path]


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Install a client and this project, once, into an environment; return its bin folder.

    CLIENTS_FOLDER names a folder that keeps the environments for the next session.
    """
    folder = Path(os.environ.get("CLIENTS_FOLDER") or tmp_path_factory.mktemp("clients"))
    folder.mkdir(parents=True, exist_ok=True)
    project = str(make_wheel_in(PROJECT / "pyproject.toml", folder).file)

    @cache
    def install(client: str) -> Path:
        home = folder / client.replace(" ", "-")
        uv = [sys.executable, "-m", "uv", "--quiet"]
        make = [*uv, "venv", "--allow-existing", "--python", sys.executable, str(home)]
        fill = [*uv, "pip", "install", "--python", str(home), "--reinstall-package", BACKEND]
        subprocess.run(make, check=True, timeout=120)
        subprocess.run([*fill, project, *CLIENTS[client].split()], check=True, timeout=240)
        return home / "bin"

    return install


class Shell:
    """Runs command lines in a folder; PATH has the client, keyring and az and no more.

    What Azure was asked, and keyring_runs, are those of the last command line.
    """

    def __init__(self, azure: Azure, install: Install, folder: Path) -> None:
        self.azure, self.install, self.folder = azure, install, folder
        self.log = azure.folder / "keyring.log"

    def __call__(
        self, line: str, *, client: str = "", typed: str = "", status: int = 0, **variables: str
    ) -> str:
        """Run a command line, of a client if not of the one it names; return what it said."""
        name = next(word for word in line.split() if word in CLIENTS)
        self.provide("keyring", "keyring")
        self.provide(name, client or name)
        self.azure.requests.clear()
        for log in (self.log, self.azure.folder / "az.log"):
            log.unlink(missing_ok=True)
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.folder,
            env=self.azure.environment(REQUESTS_CA_BUNDLE=str(self.azure.ca_file), **variables),
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def provide(self, name: str, client: str) -> None:
        """Put an executable from a client's environment on PATH; runs of keyring are logged."""
        note = f'echo "$*" >> "{self.log}"\n' if name == "keyring" else ""
        self.azure.executable(name, f'{note}exec "{self.install(client)}/{name}" "$@"')

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
        assert len(self.azure.az_runs) == 1
        assert self.azure.scopes() == [scope]
        assert self.refused == list(refused)
        assert self.keyring_runs == list(keyring)

    def assert_nothing_asked(self) -> None:
        """Assert that the last command line was none of Azure's business."""
        assert (self.azure.az_runs, self.azure.requests) == ([], [])


@pytest.fixture
def shell(azure: Azure, install: Install, tmp_path: Path) -> Shell:
    """Run command lines as somebody who is signed in with az."""
    azure.az_signed_in()
    return Shell(azure, install, tmp_path)


@pytest.fixture
def dist(tmp_path: Path) -> bytes:
    """Put a wheel into dist/; return its bytes."""
    name, content = wheel()
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / name).write_bytes(content)
    return content


def assert_uploaded(azure: Azure, content: bytes) -> None:
    """Assert that the feed, which tells the scopes of tokens apart, took one wheel."""
    assert [content in body for body in azure.uploads] == [True]


# --- pip


def assert_installs(shell: Shell, line: str, client: str = "pip") -> None:
    """Run pip install into a folder."""
    target = shell.folder / "site"
    shell(line, client=client, PIP_TARGET=str(target))
    assert (target / "contoso_secrets.py").exists()


@pytest.mark.parametrize(
    "line",
    [
        f"pip install --index-url {INDEX_URL} contoso-secrets",
        f"pip install --no-input --keyring-provider import --index-url {INDEX_URL} contoso-secrets",
        f"pip install --index-url {OWN_NAME_URL} contoso-secrets",
        f"pip install --index-url {INDEX_URL} --extra-index-url {OTHER_FEED} contoso-secrets",
    ],
    ids=["plain", "no input", "user in the URL", "two feeds"],
)
def test_pip(shell: Shell, line: str) -> None:
    assert_installs(shell, line)
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND])


def test_pip_with_two_organizations(shell: Shell) -> None:
    # pip keeps one credential for each host and user.
    urls = [OWN_NAME_URL, OWN_NAME_URL.replace("me@", "you@").replace("/contoso/", "/fabrikam/")]
    assert_installs(
        shell, "pip install --index-url {} --extra-index-url {} contoso-secrets".format(*urls)
    )
    assert len(shell.azure.az_runs) == 2
    assert shell.azure.scopes() == [READ, READ]
    assert shell.refused == ["pip", BACKEND, "pip", BACKEND]


BY_SUBPROCESS = f"pip install --keyring-provider subprocess --index-url {INDEX_URL} contoso-secrets"
WITH_USER = f"pip install --keyring-provider subprocess --index-url {USER_URL} contoso-secrets"


def test_pip_by_subprocess(shell: Shell) -> None:
    assert_installs(shell, BY_SUBPROCESS)
    asked = f"--mode=creds --output=json get {INDEX_URL}"
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND], keyring=[asked])


def test_pip_by_subprocess_with_user(shell: Shell) -> None:
    assert_installs(shell, WITH_USER)
    asked = f"--mode=creds --output=json get {INDEX_URL} VssSessionToken"
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND], keyring=[asked])


def test_older_pip_by_subprocess_with_user(shell: Shell) -> None:
    assert_installs(shell, WITH_USER, client="older pip")
    asked = f"get {INDEX_URL} VssSessionToken"
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND], keyring=[asked])


def test_older_pip_by_subprocess_asks_for_nobody_without_user(shell: Shell) -> None:
    shell(f"{BY_SUBPROCESS} --no-input", client="older pip", status=1)
    assert (shell.refused, shell.keyring_runs) == (["pip"], [])


def test_pip_download(shell: Shell) -> None:
    shell(f"pip download --index-url {INDEX_URL} contoso-secrets")
    name, content = wheel()
    assert (shell.folder / name).read_bytes() == content
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND])


@pytest.mark.parametrize("url", [INDEX_URL, OWN_NAME_URL], ids=["plain", "user in the URL"])
def test_pip_index_versions(shell: Shell, url: str) -> None:
    said = shell(f"pip index versions --json --index-url {url} contoso-secrets")
    assert json.loads(said)["versions"] == ["1.0"]  # nothing but JSON
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND])


@pytest.fixture
def app(tmp_path: Path) -> None:
    """Lay out a project that needs the private package for its own build."""
    name, content = wheel("app")
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / name).write_bytes(content)
    (tmp_path / "backend.py").write_text(f"""\
import shutil, contoso_secrets
def build_wheel(folder, *_):
    shutil.copy("built/{name}", folder)
    return "{name}"
""")
    (tmp_path / "pyproject.toml").write_text("""\
[build-system]
requires = ["contoso-secrets"]
build-backend = "backend"
backend-path = ["."]
""")


@pytest.mark.usefixtures("app")
def test_pip_build_isolation(shell: Shell) -> None:
    shell(f"""
export PIP_INDEX_URL={INDEX_URL}
export PIP_KEYRING_PROVIDER=import
pip wheel --no-input .
""")
    assert list(shell.folder.glob("app-1.0-*.whl"))
    shell.assert_one_sign_in(READ, refused=["pip", BACKEND])


@pytest.mark.usefixtures("app")
def test_pip_build_isolation_hands_on_no_keyring_provider(shell: Shell) -> None:
    line = f"pip wheel --no-input --keyring-provider import --index-url {INDEX_URL} ."
    assert "No matching distribution found for contoso-secrets" in shell(line, status=1)
    assert shell.refused == ["pip"]


# --- uv
#
# For each file, which is under another path than the index, uv first tries without credentials.


def test_uv_pip_install(shell: Shell) -> None:
    shell(f"uv venv --python {sys.executable}")
    shell(f"uv pip install --keyring-provider subprocess --index-url {TOKEN_URL} contoso-secrets")
    assert list(shell.folder.glob(".venv/lib/*/site-packages/contoso_secrets.py"))
    asked = f"get {INDEX_URL} __token__"
    shell.assert_one_sign_in(READ, refused=[BACKEND, "uv", "uv", "uv"], keyring=[asked])


UV_PROJECT = f"""\
[tool.uv]
keyring-provider = "subprocess"

[[tool.uv.index]]
name = "private"
url = "{USER_URL}"
default = true
"""
UV_PROJECT_WITHOUT_USER = UV_PROJECT.replace(USER_URL, INDEX_URL) + 'authenticate = "always"\n'


def test_uv_project(shell: Shell) -> None:
    (shell.folder / "pyproject.toml").write_text(APP + UV_PROJECT)
    shell("uv lock", UV_PYTHON=sys.executable)
    assert 'name = "contoso-secrets"' in (shell.folder / "uv.lock").read_text()
    asked = f"get {INDEX_URL} VssSessionToken"
    shell.assert_one_sign_in(READ, refused=[BACKEND, "uv", "uv"], keyring=[asked])
    shell("uv sync --no-cache", UV_PYTHON=sys.executable)
    assert list(shell.folder.glob(".venv/lib/*/site-packages/contoso_secrets.py"))
    (url,) = re.findall(r'url = "(.*\.whl)"', (shell.folder / "uv.lock").read_text())
    asked = f"get {url} VssSessionToken"  # which is all that uv knows, with everything locked
    shell.assert_one_sign_in(READ, refused=["uv", BACKEND], keyring=[asked])


def test_uv_project_without_user(shell: Shell) -> None:
    (shell.folder / "pyproject.toml").write_text(APP + UV_PROJECT_WITHOUT_USER)
    shell("uv sync", UV_PYTHON=sys.executable)
    assert list(shell.folder.glob(".venv/lib/*/site-packages/contoso_secrets.py"))
    asked = f"get {INDEX_URL} --mode creds"
    shell.assert_one_sign_in(READ, refused=[BACKEND, "uv", "uv", "uv"], keyring=[asked])


def test_uv_asks_for_nobody_without_user_when_all_is_locked(shell: Shell) -> None:
    (shell.folder / "pyproject.toml").write_text(APP + UV_PROJECT_WITHOUT_USER)
    shell("uv lock", UV_PYTHON=sys.executable)
    asked = f"get {INDEX_URL} --mode creds"
    shell.assert_one_sign_in(READ, refused=[BACKEND, "uv", "uv"], keyring=[asked])
    shell("uv sync --no-cache", UV_PYTHON=sys.executable, status=2)
    assert (shell.refused, shell.keyring_runs) == (["uv"], [])


def test_uv_publish(shell: Shell, dist: bytes) -> None:
    shell(f"uv publish --keyring-provider subprocess -u VssSessionToken --publish-url {UPLOAD_URL}")
    assert_uploaded(shell.azure, dist)
    asked = f"get {UPLOAD_URL} VssSessionToken"
    shell.assert_one_sign_in(WRITE, refused=[BACKEND], keyring=[asked])


# --- Uploads


@pytest.mark.parametrize(
    "line",
    [
        f"twine upload --repository-url {UPLOAD_URL} dist/*",
        f"twine upload --repository-url {UPLOAD_URL} -u VssSessionToken dist/*",
    ],
    ids=["plain", "user"],
)
def test_twine(shell: Shell, dist: bytes, line: str) -> None:
    shell(line)
    assert_uploaded(shell.azure, dist)
    shell.assert_one_sign_in(WRITE, refused=[BACKEND])


# hatch does not obey HTTPS_PROXY, the way to the simulated Azure; this alone is changed in it.
HATCH_OBEYS_THE_PROXY = """
import functools, os, httpx2
httpx2.HTTPTransport = functools.partial(httpx2.HTTPTransport, proxy=os.environ["HTTPS_PROXY"])
"""


def test_hatch(shell: Shell, dist: bytes) -> None:
    (shell.folder / "sitecustomize.py").write_text(HATCH_OBEYS_THE_PROXY)
    line = f"hatch publish --repo {UPLOAD_URL} --user VssSessionToken"
    shell(line, PYTHONPATH=str(shell.folder))
    assert_uploaded(shell.azure, dist)
    shell.assert_one_sign_in(WRITE, refused=[BACKEND])


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
    shell("poetry lock")
    assert 'name = "contoso-secrets"' in (shell.folder / "poetry.lock").read_text()
    shell.assert_one_sign_in(READ, refused=[BACKEND])
    shell("poetry install", POETRY_VIRTUALENVS_PATH=str(shell.folder))
    assert list(shell.folder.glob("*/lib/*/site-packages/contoso_secrets.py"))
    shell.assert_one_sign_in(READ, refused=[BACKEND])


PDM_PROJECT = f"""\
[[tool.pdm.source]]
name = "pypi"
url = "{INDEX_URL}"
"""


@pytest.mark.parametrize("url", [INDEX_URL, OWN_NAME_URL], ids=["plain", "user in the URL"])
def test_pdm(shell: Shell, url: str) -> None:
    (shell.folder / "pyproject.toml").write_text(APP + PDM_PROJECT.replace(INDEX_URL, url))
    shell("pdm lock", PDM_CHECK_UPDATE="0")
    assert 'name = "contoso-secrets"' in (shell.folder / "pdm.lock").read_text()
    shell.assert_one_sign_in(READ, refused=["pdm", BACKEND])


# --- keyring itself


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


def test_keyring_list_backends(shell: Shell) -> None:
    said = shell("keyring --list-backends")
    assert "artifacts_keyring_nofuss.ArtifactsKeyringBackend (priority: 9.9)" in said.splitlines()
    shell.assert_nothing_asked()


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


def test_another_backend_serves_all_else(shell: Shell) -> None:
    both = "keyring and another backend"
    for service in ("example.com", "python-poetry-check"):
        shell(f"keyring set {service} me", client=both, typed="hidden")
        assert shell(f"keyring get {service} me", client=both).strip() == "hidden"
        shell.assert_nothing_asked()
        shell(f"keyring del {service} me", client=both)
        assert shell(f"keyring get {service} me", client=both, status=1) == ""


def test_another_backend_takes_what_is_set_for_a_feed(shell: Shell) -> None:
    both = "keyring and another backend"
    shell(f"keyring set {INDEX_URL} me", client=both, typed="hidden")
    shell.assert_nothing_asked()
    password = shell(f"keyring get {INDEX_URL} me", client=both).strip()
    assert shell.azure.session_tokens[password].scopes == [READ]  # but ours is asked first


# --- The README


def snippets() -> list[tuple[str, str]]:
    """Return the language and the text of each snippet in "Use with", as this file writes it."""
    text = (PROJECT / "README.md").read_text().partition("\n## Use with\n")[2].partition("\n## ")[0]
    for name in ("USER_URL", "TOKEN_URL", "INDEX_URL", "UPLOAD_URL"):
        url = globals()[name].replace("contoso", "ORGANIZATION").replace("private", "FEED")
        text = text.replace(url, f"{{{name}}}")
    text = text.replace("PACKAGE", "contoso-secrets")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_readme_shows_what_is_run_here() -> None:
    source = Path(__file__).read_text()
    for language, text in snippets():
        for line in filter(None, text.splitlines()):
            command = re.sub(r"^ *(- run: |RUN )?", "", line)
            if language in ("sh", "toml") or "_URL}" in command:
                assert command in source
    assert snippets()
