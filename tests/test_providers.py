"""Step 3: a bearer token from the Azure CLI or from a managed identity."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from conftest import Ask, Python
from simulated_azure import FEED, IMDS, INDEX_URL, NOT_SIGNED_IN, SECRET_HEADER, TENANT, Azure

RESOURCE = "499b84ac-1321-427f-aa17-267ca6975798"
AZ_COMMAND = f"account get-access-token --resource {RESOURCE} --tenant {TENANT} --output json"
IMDS_PATH = f"/metadata/identity/oauth2/token?api-version=2018-02-01&resource={RESOURCE}"


def test_a_user_signs_in_by_the_azure_cli(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    username, password = ask(INDEX_URL).value
    assert username == "VssSessionToken"
    assert azure.session_tokens[password].scopes == ["vso.packaging"]
    assert azure.az_runs == [AZ_COMMAND]
    assert azure.asked(IMDS) == []


def test_a_machine_signs_in_by_its_managed_identity(azure: Azure, ask: Ask) -> None:
    azure.identity = azure.application_token()
    assert ask(INDEX_URL).value == ["VssSessionToken", azure.identity]
    assert azure.asked(IMDS) == [f"GET {IMDS_PATH}"]
    (request,) = [request for request in azure.requests if request.host == IMDS]
    assert request.headers["metadata"] == "true"
    assert "authorization" not in request.headers


def test_a_user_assigned_identity_is_named_by_its_client_id(azure: Azure, ask: Ask) -> None:
    azure.identity = azure.application_token()
    assert ask(INDEX_URL, AZURE_CLIENT_ID="a-b&c").value
    assert ask(INDEX_URL, AZURE_CLIENT_ID="").value
    assert azure.asked(IMDS) == [f"GET {IMDS_PATH}&client_id=a-b%26c", f"GET {IMDS_PATH}"]


def test_an_undecodable_client_id_is_no_obstacle(azure: Azure, ask: Ask) -> None:
    azure.identity = azure.application_token()
    assert ask(INDEX_URL, AZURE_CLIENT_ID="\udcff").value
    assert azure.asked(IMDS) == [f"GET {IMDS_PATH}&client_id=%FF"]


def test_an_empty_address_of_imds_is_the_usual_one(azure: Azure, python: Python) -> None:
    azure.identity = azure.application_token()
    here = f"module.IMDS = {azure.metadata.url!r}; "
    assert python(f"{here}show(ask({INDEX_URL!r}))", AZURE_POD_IDENTITY_AUTHORITY_HOST="").value


def test_app_service_has_an_endpoint_of_its_own(azure: Azure, ask: Ask) -> None:
    azure.identity = azure.application_token()
    endpoint = azure.metadata.url + "/msi/token"
    assert ask(INDEX_URL, IDENTITY_ENDPOINT=endpoint, IDENTITY_HEADER=SECRET_HEADER).value
    assert azure.asked(IMDS) == [f"GET /msi/token?api-version=2019-08-01&resource={RESOURCE}"]


@pytest.mark.parametrize("variable", ["IDENTITY_ENDPOINT", "IDENTITY_HEADER"])
def test_half_of_app_service_is_imds(azure: Azure, ask: Ask, variable: str) -> None:
    azure.identity = azure.application_token()
    assert ask(INDEX_URL, **{variable: "http://127.0.0.1:1/"}).value
    (request,) = [request for request in azure.requests if request.host == IMDS]
    assert (request.method, request.path) == ("GET", IMDS_PATH)
    assert "x-identity-header" not in request.headers


@pytest.mark.parametrize(
    "variables",
    [
        {"AZURE_POD_IDENTITY_AUTHORITY_HOST": "nonsense"},
        {"AZURE_POD_IDENTITY_AUTHORITY_HOST": "file:///etc"},
        {"AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://me:secret@imds"},
        {"IDENTITY_ENDPOINT": "https://evil.example/\n", "IDENTITY_HEADER": "secret"},
        {"IDENTITY_ENDPOINT": "http://127.0.0.1:x/", "IDENTITY_HEADER": "secret"},
        {"IDENTITY_ENDPOINT": "http://127.0.0.1:1/a#b", "IDENTITY_HEADER": "secret"},
        {"IDENTITY_ENDPOINT": "http://127.0.0.1:1/a?b", "IDENTITY_HEADER": "secret"},
        {"IDENTITY_ENDPOINT": "http://127.0.0.1:1/", "IDENTITY_HEADER": "secret\r\nX: y"},
    ],
)
def test_an_unusable_metadata_service_is_told(
    azure: Azure, ask: Ask, variables: dict[str, str]
) -> None:
    outcome = ask(INDEX_URL, **variables)
    assert outcome.value is None
    assert f"correct {list(variables)[-1]}" in outcome.stderr or "is not an http" in outcome.stderr
    assert "secret" not in outcome.stderr


def test_the_next_provider_is_tried_when_one_has_no_token(azure: Azure, ask: Ask) -> None:
    azure.az(NOT_SIGNED_IN)
    azure.identity = azure.application_token()
    outcome = ask(INDEX_URL)
    assert outcome.value == ["VssSessionToken", azure.identity]
    assert outcome.stderr == ""
    assert len(azure.az_runs) == 1


def test_the_next_provider_is_tried_when_azure_devops_refuses_a_token(
    azure: Azure, ask: Ask
) -> None:
    azure.az_signed_in("refused")
    azure.identity = azure.application_token()
    outcome = ask(INDEX_URL)
    assert outcome.value == ["VssSessionToken", azure.identity]
    assert outcome.stderr == ""
    assert azure.scopes() == ["vso.packaging"]


@pytest.mark.parametrize("forced", ["azure_cli", "managed_identity"])
@pytest.mark.parametrize("by", ["environment", "keyringrc.cfg"])
def test_a_provider_can_be_forced(azure: Azure, ask: Ask, forced: str, by: str) -> None:
    azure.az(NOT_SIGNED_IN)
    variables = {"ARTIFACTS_KEYRING_NOFUSS_PROVIDER": forced}
    if by == "keyringrc.cfg":
        variables = {}
        configure(azure, f"[artifacts_keyring_nofuss]\nprovider = {forced}\n")
    assert ask(INDEX_URL, **variables).value is None
    assert (len(azure.az_runs), len(azure.asked(IMDS))) == (
        (1, 0) if forced == "azure_cli" else (0, 1)
    )


def test_the_environment_counts_more_than_the_configuration(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    configure(azure, "[artifacts_keyring_nofuss]\nprovider = managed_identity\n")
    assert ask(INDEX_URL, ARTIFACTS_KEYRING_NOFUSS_PROVIDER="azure_cli").value


@pytest.mark.parametrize("by", ["environment", "keyringrc.cfg"])
def test_a_mistyped_provider_is_told_before_any_network(azure: Azure, ask: Ask, by: str) -> None:
    azure.az_signed_in()
    variables = {"ARTIFACTS_KEYRING_NOFUSS_PROVIDER": "azure%cli"}
    if by == "keyringrc.cfg":
        variables = {}
        configure(azure, "[artifacts_keyring_nofuss]\nprovider = azure%cli\n")
    outcome = ask(INDEX_URL, **variables)
    assert outcome.value is None
    assert "names an unknown provider: azure%cli" in outcome.stderr
    assert "use one of: azure_cli, managed_identity" in outcome.stderr
    assert (azure.connects, azure.requests, azure.az_runs) == ([], [], [])


def test_a_configuration_in_the_working_directory_is_not_read(
    azure: Azure, python: Python, tmp_path: Path
) -> None:
    azure.az_signed_in()
    (tmp_path / "keyringrc.cfg").write_text("[artifacts_keyring_nofuss]\nprovider = nonsense\n")
    assert python(f"import os; os.chdir({str(tmp_path)!r}); show(ask({INDEX_URL!r}))").value


def test_a_relative_configuration_folder_is_not_read(
    azure: Azure, python: Python, tmp_path: Path
) -> None:
    azure.az_signed_in()
    (tmp_path / "python_keyring").mkdir()
    path = tmp_path / "python_keyring" / "keyringrc.cfg"
    path.write_text("[artifacts_keyring_nofuss]\nprovider = nonsense\n")
    script = f"import os; os.chdir({str(tmp_path)!r}); show(ask({INDEX_URL!r}))"
    assert python(script, XDG_CONFIG_HOME=".").value


@pytest.mark.parametrize("content", [b"nonsense", b"[a]\n[a]\n", b"\xff\xfe", b"[x\ny=%("])
def test_a_broken_configuration_breaks_nothing_else(
    azure: Azure, python: Python, content: bytes
) -> None:
    azure.az_signed_in()
    path = configure(azure, "")
    path.write_bytes(content)
    # keyring itself stumbles over this file, unless it is told its backend.
    outcome = python(
        f"show([ask('https://pypi.org/'), ask({INDEX_URL!r})])",
        PYTHON_KEYRING_BACKEND="artifacts_keyring_nofuss.ArtifactsKeyringBackend",
    )
    assert outcome.value == [None, None]
    assert f"{path} cannot be read" in outcome.stderr


def test_an_unreadable_configuration_is_ignored_as_keyring_ignores_it(
    azure: Azure, ask: Ask
) -> None:
    azure.az_signed_in()
    path = configure(azure, "")
    path.unlink()
    path.mkdir()  # which even root cannot read as a file
    backend = "artifacts_keyring_nofuss.ArtifactsKeyringBackend"
    assert ask(INDEX_URL, PYTHON_KEYRING_BACKEND=backend).value


def configure(azure: Azure, text: str) -> Path:
    folder = azure.home / ".config" / "python_keyring"
    folder.mkdir(parents=True)
    path = folder / "keyringrc.cfg"
    path.write_text(text)
    return path


# --- How az is run


def test_az_is_run_apart_from_the_caller(azure: Azure, python: Python, tmp_path: Path) -> None:
    """In a folder that is nobody's, in a session of its own, with nothing to read."""
    typed = "import os; r, w = os.pipe(); os.write(w, b'typed'); os.close(w); os.dup2(r, 0); "
    token = azure.entra_token()
    report = azure.folder / "report"
    azure.az(
        f'pwd >{report}; cat >>{report}; env >>{report}; echo \'{{"accessToken": "{token}"}}\''
    )
    (tmp_path / "az").write_text("#!/bin/sh\ntouch hijacked\n")
    (tmp_path / "az").chmod(0o755)
    path = os.pathsep.join([".", "", "nowhere", str(azure.bin)])
    script = f"import os; os.chdir({str(tmp_path)!r}); show(ask({INDEX_URL!r}))"
    assert python(typed + script, PATH=path).value
    assert not (tmp_path / "hijacked").exists()
    folder, *environment = report.read_text().splitlines()
    assert "typed" not in "".join(environment)
    assert Path(folder) != tmp_path
    mode = os.stat(folder)
    assert mode.st_uid == 0
    assert not mode.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    assert {
        "AZURE_CORE_COLLECT_TELEMETRY=no",
        "AZURE_CORE_NO_COLOR=true",
        "AZURE_CORE_ONLY_SHOW_ERRORS=true",
        "AZURE_LOGGING_ENABLE_LOG_FILE=no",
    } <= {*environment}
    assert token not in "".join(environment)


@pytest.mark.parametrize("missing", ["no az", "not executable", "a folder"])
def test_a_missing_az_is_told(azure: Azure, ask: Ask, missing: str) -> None:
    if missing == "not executable":
        (azure.bin / "az").write_text("")
    if missing == "a folder":
        (azure.bin / "az").mkdir()
    assert "azure_cli: az is not on PATH" in ask(INDEX_URL).stderr


def test_an_az_that_does_not_start_is_told(azure: Azure, ask: Ask) -> None:
    (azure.bin / "az").write_text("#!/no/such/interpreter\n")
    (azure.bin / "az").chmod(0o755)
    assert "azure_cli: az cannot be started: No such file or directory" in ask(INDEX_URL).stderr


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        (
            "ERROR: Please run 'az login' to setup account.",
            "Please run 'az login' to setup account.",
        ),
        ("WARNING: x\nERROR: AADSTS50076: MFA.\nRun the command below", "AADSTS50076: MFA."),
        ("Traceback:\n  x\nPermissionError: no\n", "PermissionError: no"),
        ("\x1b[31mERROR\x1b[0m", "[31mERROR [0m"),
        ("ERROR: eyJhbGciOiJ9.eyJ9.sig leaked", "[removed] leaked"),
        ("", "az failed without a word"),
    ],
)
def test_az_tells_the_reason_in_its_own_words(
    azure: Azure, ask: Ask, errors: str, reason: str
) -> None:
    (azure.folder / "errors").write_text(errors)
    azure.az(f"cat {azure.folder}/errors >&2; exit 1")
    assert f"  azure_cli: {reason}\n" in ask(INDEX_URL).stderr


def test_undecodable_words_of_az_are_still_told(azure: Azure, ask: Ask) -> None:
    azure.az("printf 'ERROR: caf\\351 closed' >&2; exit 1")
    assert "  azure_cli: caf\ufffd closed\n" in ask(INDEX_URL).stderr


BAD_ANSWERS = [
    "",
    "nonsense",
    "<html>",
    "[]",
    "null",
    '"token"',
    "[" * 5000,
    "{}",
    '{"accessToken": ""}',
    '{"accessToken": null}',
    '{"accessToken": 5}',
    '{"accessToken": ["x"]}',
    '{"accessToken": "a\\nb"}',
    '{"accessToken": "a b"}',
    '{"accessToken": "\\u00fc"}',
    '{"accessToken": "\\ud800"}',
    '{"accessToken": "x", "expires_on": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("answer", BAD_ANSWERS, ids=range(len(BAD_ANSWERS)))
def test_an_answer_of_another_shape_is_a_clear_failure(
    azure: Azure, python: Python, answer: str
) -> None:
    (azure.folder / "answer").write_text(answer)
    azure.az(f"cat {azure.folder}/answer")
    azure.faults[IMDS] = [
        lambda handler: handler.answer(200, answer.replace("accessToken", "access_token"))
    ]
    outcome = python(f"show(ask({INDEX_URL!r}))")
    assert outcome.value is None
    for provider in ("azure_cli", "managed_identity"):
        assert f"  {provider}: the answer " in outcome.stderr or "refused" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "please report" not in outcome.stderr


def test_undecodable_bytes_are_a_clear_failure(azure: Azure, ask: Ask) -> None:
    azure.az("printf '\\377\\376'")
    azure.faults[IMDS] = [lambda handler: handler.answer(200, b"\xff\xfe\x00")]
    stderr = ask(INDEX_URL).stderr
    assert stderr.count("the answer is not a JSON object") == 2


def test_an_identity_that_is_refused_tells_the_reason_of_the_service(
    azure: Azure, ask: Ask
) -> None:
    reason = "managed_identity: the metadata service answered 400: Identity not found"
    assert reason in ask(INDEX_URL).stderr
    azure.faults[IMDS] = [lambda handler: handler.answer(400, {"error": "invalid_scope"})]
    assert "the metadata service answered 400: invalid_scope" in ask(INDEX_URL).stderr


def test_no_redirect_of_the_metadata_service_is_followed(azure: Azure, ask: Ask) -> None:
    azure.identity = azure.application_token()
    away = {"Location": azure.metadata.url + IMDS_PATH}
    azure.faults[IMDS] = [lambda handler: handler.answer(302, "<html>", {**away})]
    assert "the metadata service answered 302" in ask(INDEX_URL).stderr
    assert len(azure.asked(IMDS)) == 1


def test_the_secret_of_app_service_is_never_shown(azure: Azure, ask: Ask) -> None:
    azure.faults[IMDS] = [
        lambda handler: handler.answer(403, {"message": f"{handler.headers['X-IDENTITY-HEADER']}!"})
    ]
    endpoint = azure.metadata.url + "/msi/token"
    outcome = ask(
        INDEX_URL,
        IDENTITY_ENDPOINT=endpoint,
        IDENTITY_HEADER="secret-header",
        ARTIFACTS_KEYRING_NOFUSS_DEBUG="1",
    )
    assert "answered 403: [removed]!" in outcome.stderr
    assert "secret-header" not in outcome.stderr


@pytest.mark.parametrize("expires", [None, "soon", -1, 1e99, "NaN", [], True, "9" * 11])
def test_an_application_token_of_unknown_expiry_is_not_kept(
    azure: Azure, python: Python, expires: object
) -> None:
    token = azure.entra_token(idtyp="app", exp=None)
    (azure.folder / "az.json").write_text(json.dumps({"accessToken": token, "expires_on": expires}))
    azure.az(f"cat {azure.folder}/az.json")
    assert python(f"show([ask({INDEX_URL!r}) == ask({INDEX_URL!r})])").value == [True]
    assert len(azure.az_runs) == 2


def test_an_application_token_is_kept_as_long_as_az_says(azure: Azure, python: Python) -> None:
    token = azure.az_signed_in(azure.entra_token(idtyp="app", exp=None))
    assert python(f"show([ask({INDEX_URL!r}), ask({INDEX_URL!r})])").value[1][1] == token
    assert len(azure.az_runs) == 1


def test_an_old_az_tells_no_epoch_and_the_token_itself_does(azure: Azure, python: Python) -> None:
    token = azure.entra_token(idtyp="app", exp=int(time.time() + 3600))
    azure.az(f'echo \'{{"accessToken": "{token}", "expiresOn": "2026-01-01 01:00:00.000000"}}\'')
    assert python(f"show([ask({INDEX_URL!r}) == ask({INDEX_URL!r})])").value == [True]
    assert len(azure.az_runs) == 1


def test_everything_works_with_a_read_only_home(azure: Azure, ask: Ask) -> None:
    azure.az_signed_in()
    azure.home.chmod(0o555)
    assert ask(INDEX_URL).value
    assert [*azure.home.iterdir()] == []
    assert {r.host for r in azure.requests} >= {FEED}
