"""Which providers are asked and in which order; and that no failure of theirs shows a secret."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from unittest.mock import patch

import pytest
from keyring.util.platform_ import config_root

import artifacts_keyring_nofuss as module
from conftest import AskHere
from identities import (
    PAT,
    TOKEN,
    Identity,
    Variables,
    app_service,
    azure_ml,
    managed_identity,
    token_of_user,
    user,
)
from simulated_azure import (
    AUTHORITY,
    CLIENT_SECRET,
    ENTRA,
    GITHUB,
    IMDS,
    INDEX_URL,
    REQUEST_TOKEN,
    SECRET_HEADER,
    Answer,
    Azure,
    Handler,
)

CHOICE = "ARTIFACTS_KEYRING_NOFUSS_PROVIDER"
NAMES = ["token", "workload_identity", "azure_cli", "managed_identity"]


def everything(azure: Azure) -> Variables:
    """Let every provider sign in."""
    return {
        **user(azure),
        **managed_identity(azure),
        **azure.client_secret(),
        TOKEN: PAT,
    }


def configure(azure: Azure, text: str | bytes) -> Path:
    """Write keyring's own configuration file."""
    with patch.dict(os.environ, azure.environment(), clear=True):
        path = Path(config_root(), "keyringrc.cfg")
    path.parent.mkdir(parents=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def choose(azure: Azure, by: str, name: str) -> Variables:
    """Name a provider; return the variables for it."""
    if by == "environment":
        return {CHOICE: name}
    configure(azure, f"[artifacts_keyring_nofuss]\nprovider = {name}\n")
    return {}


def asked_providers(log: str) -> list[str]:
    """Return the providers that were asked, in order."""
    steps = [line.partition(" s ")[2].partition(": ") for line in log.splitlines()]
    return [name for name, _, found in steps if name in NAMES and found != "not configured"]


# --- Order


def test_all_are_asked_in_order_but_the_machines_identity_where_another_applies(
    azure: Azure, ask_here: AskHere
) -> None:
    variables = {**everything(azure), TOKEN: "no token", "AZURE_CLIENT_SECRET": "wrong"}
    azure.az_not_signed_in()
    asked = ask_here(INDEX_URL, **variables)
    assert asked.value is None
    assert asked_providers(asked.log) == ["token", "workload_identity", "azure_cli"]
    del variables["AZURE_CLIENT_SECRET"]
    asked = ask_here(INDEX_URL, **variables)
    assert asked.value
    assert asked_providers(asked.log) == ["token", "azure_cli", "managed_identity"]
    assert asked.warnings == ""


def test_the_first_one_that_signs_in_is_the_last_one_asked(azure: Azure, ask_here: AskHere) -> None:
    variables = everything(azure)
    asked = [asked_providers(ask_here(INDEX_URL, **variables).log)]
    del variables[TOKEN]
    asked += [asked_providers(ask_here(INDEX_URL, **variables).log)]
    del variables["AZURE_CLIENT_SECRET"]
    asked += [asked_providers(ask_here(INDEX_URL, **variables).log)]
    assert asked == [["token"], ["workload_identity"], ["azure_cli"]]


def test_the_next_one_is_asked_when_azure_devops_refuses_a_token(
    azure: Azure, ask_here: AskHere
) -> None:
    azure.az_signed_in(azure.entra_token(aud="https://graph.microsoft.com"))
    azure.identity = azure.application_token()
    asked = ask_here(INDEX_URL)
    assert asked.value == ["VssSessionToken", azure.identity]
    assert asked.warnings == ""
    assert azure.scopes() == ["vso.packaging"]


# --- Choice


@pytest.mark.parametrize("by", ["environment", "keyringrc.cfg"])
@pytest.mark.parametrize("name", NAMES)
def test_a_provider_can_be_chosen(azure: Azure, ask_here: AskHere, name: str, by: str) -> None:
    asked = ask_here(INDEX_URL, **everything(azure), **choose(azure, by, name))
    assert asked.value
    assert asked_providers(asked.log) == [name]


def test_the_next_one_is_not_asked_when_the_chosen_one_fails(
    azure: Azure, ask_here: AskHere
) -> None:
    azure.az_not_signed_in()
    azure.identity = azure.application_token()
    asked = ask_here(INDEX_URL, **{CHOICE: "azure_cli"})
    assert asked.value is None
    assert asked_providers(asked.log) == ["azure_cli"]


def test_the_environment_counts_more_than_the_configuration(
    azure: Azure, ask_here: AskHere
) -> None:
    choose(azure, "keyringrc.cfg", "managed_identity")
    asked = ask_here(INDEX_URL, **everything(azure), **{CHOICE: "azure_cli"})
    assert asked_providers(asked.log) == ["azure_cli"]


@pytest.mark.parametrize("by", ["environment", "keyringrc.cfg"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("azure%cli", f"names azure%cli, not one of {', '.join(NAMES)}"),
        ("token", "names token, which is not configured"),
        ("workload_identity", "names workload_identity, which is not configured"),
    ],
)
def test_a_choice_that_cannot_be_is_told_before_any_network(
    azure: Azure, ask_here: AskHere, by: str, name: str, reason: str
) -> None:
    azure.az_signed_in()
    asked = ask_here(INDEX_URL, **choose(azure, by, name))
    assert asked.value is None
    assert reason in asked.warnings
    assert (CHOICE if by == "environment" else by) in asked.warnings
    assert (azure.connects, azure.requests, azure.az_runs) == ([], [], [])


# --- keyringrc.cfg


@pytest.mark.parametrize(
    ("folder", "variables"), [("", {}), ("python_keyring", {"XDG_CONFIG_HOME": "."})]
)
def test_a_configuration_in_the_working_directory_is_not_read(
    azure: Azure,
    ask_here: AskHere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    variables: Variables,
) -> None:
    azure.az_signed_in()
    path = tmp_path / folder / "keyringrc.cfg"
    path.parent.mkdir(exist_ok=True)
    path.write_text("[artifacts_keyring_nofuss]\nprovider = nonsense\n")
    monkeypatch.chdir(tmp_path)
    assert ask_here(INDEX_URL, **variables).value


# keyring itself stumbles over the files that follow, unless it is told its backend.
BACKEND = {"PYTHON_KEYRING_BACKEND": "artifacts_keyring_nofuss.ArtifactsKeyringBackend"}


@pytest.mark.parametrize("content", [b"nonsense", b"[a]\n[a]\n", b"\xff\xfe", b"[x\ny=%("])
def test_a_broken_configuration_is_told(azure: Azure, ask_here: AskHere, content: bytes) -> None:
    azure.az_signed_in()
    path = configure(azure, content)
    assert ask_here("https://pypi.org/", **BACKEND) == (None, "", "")
    asked = ask_here(INDEX_URL, **BACKEND)
    assert asked.value is None
    assert f"  configuration: {path} cannot be read" in asked.warnings
    assert azure.connects == []


def test_an_unreadable_configuration_is_ignored_as_keyring_ignores_it(
    azure: Azure, ask_here: AskHere
) -> None:
    azure.az_signed_in()
    path = configure(azure, "")
    path.unlink()
    path.mkdir()  # which even root cannot read as a file
    assert ask_here(INDEX_URL, **BACKEND).value


# --- Secrets


def echo(handler: Handler) -> None:
    """Answer with all that was sent."""
    handler.answer(400, {"message": sent(handler)})


def garble(handler: Handler) -> None:
    """Answer with it in the place of a status line, which exceptions of Python show."""
    handler.wfile.write(f"{sent(handler)}\r\n\r\n".encode())


def sent(handler: Handler) -> str:
    return " ".join([*handler.headers.values(), handler.body.decode()])


@pytest.mark.parametrize("answer", [echo, garble])
@pytest.mark.parametrize(
    "identity",
    [
        token_of_user,
        user,
        app_service,
        azure_ml,
        Azure.pod,
        Azure.github_job,
        Azure.client_secret,
    ],
)
def test_no_exception_holds_a_secret_even_in_its_context(
    azure: Azure, monkeypatch: pytest.MonkeyPatch, identity: Identity, answer: Answer
) -> None:
    monkeypatch.setattr(module, "RETRY_PAUSES", (0.01, 0.02))
    variables = identity(azure)
    for kind in (AUTHORITY, ENTRA, GITHUB, IMDS):
        azure.faults[kind] = [answer] * 3
    told: list[str] = []

    def report(step: module.Step) -> None:
        if step.error:
            told.extend(traceback.format_exception(None, step.error, step.error.__traceback__))

    with patch.dict(os.environ, azure.environment(**variables), clear=True):
        feed = module.parse_feed(INDEX_URL)
        assert feed
        deadline = module.now() + 20
        assert [*module.sign_in(feed, deadline, report, module.PROVIDERS)] == []
    text = "".join(told)
    assert "SignInError" in text
    secrets = ["eyJ", CLIENT_SECRET, REQUEST_TOKEN, SECRET_HEADER]
    assert [secret for secret in secrets if secret in text] == []
