"""Provider workload_identity: an application signs in to Entra with what proves it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Callable
from urllib.parse import parse_qsl

import pytest

from conftest import Ask, AskHere, Python
from identities import Variables
from simulated_azure import (
    CLIENT_ID,
    CLIENT_SECRET,
    ENTRA,
    FEED,
    GITHUB,
    GITHUB_SUBJECT,
    IMDS,
    INDEX_URL,
    REQUEST_TOKEN,
    TENANT,
    UPLOAD_URL,
    Azure,
    Federated,
    Recorded,
)

OTHER = "aaaaaaaa-2222-3333-4444-555555555555"
SCOPE = "499b84ac-1321-427f-aa17-267ca6975798/.default"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
FLOWS = [Azure.pod, Azure.github_job, Azure.client_secret]
URL, REQUEST = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
FILE = "AZURE_FEDERATED_TOKEN_FILE"

Flow = Callable[[Azure], Variables]


def requests(azure: Azure, host: str) -> list[Recorded]:
    return [request for request in azure.requests if request.host == host]


def form(azure: Azure) -> dict[str, str]:
    """Return what the only request to Entra holds."""
    (request,) = requests(azure, ENTRA)
    assert (request.method, request.path) == ("POST", f"/{TENANT}/oauth2/v2.0/token")
    assert "authorization" not in request.headers
    return dict(parse_qsl(request.body.decode(), strict_parsing=True))


# --- The flows


@pytest.mark.parametrize("flow", FLOWS)
def test_the_applications_token_is_itself_the_password(azure: Azure, ask: Ask, flow: Flow) -> None:
    azure.az_signed_in()
    azure.identity = azure.application_token()
    outcome = ask(INDEX_URL, **flow(azure))
    username, password = outcome.value
    assert (username, azure.bearers[password]["appid"]) == ("VssSessionToken", CLIENT_ID)
    assert outcome.stderr == ""
    through = [GITHUB] if flow is Azure.github_job else []
    assert [request.host for request in azure.requests] == [FEED, *through, ENTRA]
    assert azure.az_runs == []


def test_a_pod_sends_its_projected_token(azure: Azure, ask_here: AskHere) -> None:
    variables = azure.pod()
    assertion = Path(variables[FILE]).read_text()
    Path(variables[FILE]).write_text(f"{assertion}\n")
    assert ask_here(INDEX_URL, **variables).value
    assert form(azure) == {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "scope": SCOPE,
        "client_assertion_type": JWT_BEARER,
        "client_assertion": assertion,
    }


def test_a_job_fetches_an_assertion_from_github(azure: Azure, ask_here: AskHere) -> None:
    variables = azure.github_job()
    assert ask_here(INDEX_URL, **variables).value
    (request,) = requests(azure, GITHUB)
    path = variables[URL].partition(GITHUB)[2]
    assert "//" in path
    assert request.method == "GET"
    assert request.path == f"{path}&audience=api%3A%2F%2FAzureADTokenExchange"
    assert request.headers["authorization"] == f"Bearer {REQUEST_TOKEN}"
    assert form(azure)["client_assertion_type"] == JWT_BEARER
    assert REQUEST_TOKEN not in requests(azure, ENTRA)[0].body.decode()


def test_the_audience_can_be_another(azure: Azure, ask_here: AskHere) -> None:
    variables = azure.github_job()
    issuer = azure.clients[CLIENT_ID].federated[0].issuer
    azure.clients[CLIENT_ID].federated = [Federated(issuer, GITHUB_SUBJECT, "api://a&b")]
    assert ask_here(INDEX_URL, AZURE_FEDERATED_TOKEN_AUDIENCE="api://a&b", **variables).value


def test_a_request_url_without_a_query_gets_one(azure: Azure, ask_here: AskHere) -> None:
    ask_here(INDEX_URL, **{**azure.github_job(), URL: f"https://{GITHUB}/idtoken"})
    assert azure.asked(GITHUB) == ["GET /idtoken?audience=api%3A%2F%2FAzureADTokenExchange"]


@pytest.mark.parametrize("secret", [CLIENT_SECRET, "a&b=c+d%41 \u00e9"])
def test_a_secret_is_sent_as_it_is(azure: Azure, ask_here: AskHere, secret: str) -> None:
    variables = azure.client_secret()
    azure.clients[CLIENT_ID].secret = secret
    assert ask_here(INDEX_URL, **{**variables, "AZURE_CLIENT_SECRET": f"{secret}\n"}).value
    assert form(azure) == {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "scope": SCOPE,
        "client_secret": secret,
    }


def test_the_secret_counts_before_the_file_and_that_before_github(
    azure: Azure, ask_here: AskHere
) -> None:
    variables = {**azure.github_job(), **azure.pod()}
    assert ask_here(INDEX_URL, **variables).value
    assert "client_assertion" in form(azure)
    azure.requests.clear()
    assert ask_here(INDEX_URL, **{**variables, **azure.client_secret()}).value
    assert "client_secret" in form(azure)
    assert GITHUB not in azure.connects


@pytest.mark.parametrize("flow", FLOWS)
def test_the_tenant_is_the_feeds(azure: Azure, ask_here: AskHere, flow: Flow) -> None:
    assert ask_here(INDEX_URL, **{**flow(azure), "AZURE_TENANT_ID": OTHER}).value
    assert form(azure)["client_id"] == CLIENT_ID


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("claims", [{"scp": "user_impersonation"}, None], ids=["scp", "encrypted"])
def test_the_token_is_never_exchanged_whatever_it_claims(
    azure: Azure, ask_here: AskHere, flow: Flow, claims: dict[str, Any] | None
) -> None:
    azure.encrypted = claims is None
    token = azure.application_token(**(claims or {}))
    azure.faults[ENTRA] = [lambda handler: handler.answer(200, {"access_token": token})]
    assert ask_here(INDEX_URL, **flow(azure)).value == ["VssSessionToken", token]
    assert azure.scopes() == []


@pytest.mark.parametrize(
    ("flow", "service"), [(Azure.pod, ENTRA), (Azure.github_job, GITHUB)], ids=["pod", "GitHub job"]
)
def test_each_sign_in_has_a_fresh_assertion(
    azure: Azure, python: Python, flow: Flow, service: str
) -> None:
    """The two URLs need different scopes, so that the second one signs in again."""
    variables = flow(azure)
    path = variables.get(FILE, str(azure.folder / "unused"))
    second = azure.assertion({"iss": "another"})
    script = f"""
show(bool(ask({INDEX_URL!r})))
open({path!r}, "w").write({second!r})
show(bool(ask({UPLOAD_URL!r})))
"""
    assert python(script, **variables).values == [True, service == GITHUB]
    first, last = requests(azure, ENTRA)
    assert first.body != last.body
    assert (second.encode() in last.body) is (service == ENTRA)
    assert len(azure.asked(service)) == 2


# --- Where it applies


@pytest.mark.parametrize(
    "missing",
    [
        (Azure.pod, FILE),
        (Azure.pod, "AZURE_CLIENT_ID"),
        (Azure.github_job, URL),
        (Azure.github_job, REQUEST),
        (Azure.github_job, "AZURE_CLIENT_ID"),
        (Azure.client_secret, "AZURE_CLIENT_SECRET"),
        (Azure.client_secret, "AZURE_CLIENT_ID"),
    ],
    ids=lambda missing: f"{missing[0].__name__} without {missing[1]}",
)
def test_half_of_the_variables_are_none(
    azure: Azure, ask_here: AskHere, missing: tuple[Flow, str]
) -> None:
    azure.identity = azure.application_token()
    flow, name = missing
    asked = ask_here(INDEX_URL, **{**flow(azure), name: " "})
    assert asked.value == ["VssSessionToken", azure.identity]
    assert "workload_identity: not configured" in asked.log
    assert [request.host for request in azure.requests] == [FEED, IMDS]


@pytest.mark.parametrize("flow", FLOWS)
def test_where_it_fails_the_machines_identity_is_not_asked(
    azure: Azure, ask_here: AskHere, flow: Flow
) -> None:
    """A pod must not become its node. az is asked: a person chose its account."""
    azure.identity = azure.application_token()
    variables = flow(azure)
    azure.clients.clear()
    asked = ask_here(INDEX_URL, **variables)
    assert asked.value is None
    steps = re.findall(r"^  (\w+): ", asked.warnings, re.MULTILINE)
    assert steps == ["workload_identity", "azure_cli"]
    azure.az_signed_in()
    assert ask_here(INDEX_URL, **variables).value
    assert azure.asked(IMDS) == []


def test_the_machines_identity_can_still_be_chosen(azure: Azure, ask_here: AskHere) -> None:
    azure.identity = azure.application_token()
    chosen = {"ARTIFACTS_KEYRING_NOFUSS_PROVIDER": "managed_identity"}
    assert ask_here(INDEX_URL, **azure.pod(), **chosen).value == ["VssSessionToken", azure.identity]
    assert azure.asked(ENTRA) == []


# --- Where what proves it may go


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("", ENTRA),
        (f"https://{ENTRA}/", ENTRA),
        (f" https://{ENTRA} ", ENTRA),
        (f"HTTPS://{ENTRA}:443", ENTRA),
        ("login.windows.net", "login.windows.net"),
        ("https://login.microsoft.com", "login.microsoft.com"),
    ],
)
def test_the_authority_can_be_any_login_host(
    azure: Azure, ask_here: AskHere, authority: str, host: str
) -> None:
    assert ask_here(INDEX_URL, **{**azure.pod(), "AZURE_AUTHORITY_HOST": authority}).value
    assert azure.connects == [FEED, host]


@pytest.mark.parametrize(
    "authority",
    [
        f"http://{ENTRA}",
        "https://login.microsoftonline.us",
        "https://evil.example",
        f"https://{ENTRA}.evil.example",
        f"https://evil{ENTRA}",
        f"https://sub.{ENTRA}",
        f"https://me:s3cret@{ENTRA}",
        f"https://{ENTRA}:8443",
        f"https://{ENTRA}/{OTHER}",
        f"https://{ENTRA}?",
        f"https://{ENTRA}#",
        f"https://evil.example\\@{ENTRA}",
        f"https://evil.example/{ENTRA}",
        "nonsense",
    ],
)
@pytest.mark.parametrize("flow", [Azure.github_job, Azure.client_secret])
def test_no_other_authority_gets_anything(
    azure: Azure, ask_here: AskHere, flow: Flow, authority: str
) -> None:
    asked = ask_here(INDEX_URL, **{**flow(azure), "AZURE_AUTHORITY_HOST": authority})
    assert asked.value is None
    assert "workload_identity: AZURE_AUTHORITY_HOST is not trusted: " in asked.warnings
    assert "s3cret" not in asked.log
    assert azure.connects == [FEED]


@pytest.mark.parametrize("host", ["pipelines.actions.githubusercontent.com", f"{GITHUB}:443"])
def test_githubs_hosts_are_trusted(azure: Azure, ask_here: AskHere, host: str) -> None:
    variables = azure.github_job()
    assert ask_here(INDEX_URL, **{**variables, URL: variables[URL].replace(GITHUB, host)}).value


@pytest.mark.parametrize(
    "url",
    [
        f"http://{GITHUB}/x",
        "https://evil.example/x",
        f"https://{GITHUB}.evil.example/x",
        "https://evilactions.githubusercontent.com/x",
        "https://raw.githubusercontent.com/x",
        "https://token.actions.contoso.ghe.com/x",
        f"https://me:s3cret@{GITHUB}/x",
        f"https://{GITHUB}:8443/x",
        f"https://{GITHUB}",
        f"https://{GITHUB}/x y",
        f"https://{GITHUB}/x\r\ny",
        f"https://evil.example/@{GITHUB}/x",
        f"https://evil.example\\@{GITHUB}/x",
        f"https://evil.example?.{GITHUB}/x",
        f"//{GITHUB}/x",
        "nonsense",
    ],
)
def test_no_other_host_gets_githubs_request_token(
    azure: Azure, ask_here: AskHere, url: str
) -> None:
    asked = ask_here(INDEX_URL, **{**azure.github_job(), URL: url})
    assert asked.value is None
    assert f"workload_identity: {URL} is not trusted: " in asked.warnings
    assert "s3cret" not in asked.log
    assert azure.connects == [FEED]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("service", [GITHUB, ENTRA])
def test_no_redirect_is_followed(
    azure: Azure, ask_here: AskHere, service: str, status: int
) -> None:
    away = {"Location": f"https://{service}/elsewhere"}
    azure.faults[service] = [lambda handler: handler.answer(status, "<html>", {**away})]
    asked = ask_here(INDEX_URL, **azure.github_job())
    assert asked.value is None
    assert f" answered {status}" in asked.warnings
    assert len(azure.asked(service)) == 1


# --- Refusals


CREDENTIAL = (
    "give the application a federated credential with "
    "iss 'https://token.actions.githubusercontent.com', sub '{}', aud '{}'"
)
AUDIENCE = "api://AzureADTokenExchange"
OTHER_REPOSITORY = "repo:contoso@1/a-repository-whose-name-is-long-enough-for-a-token@2:ref:x"


def changed(flow: Flow, **others: str) -> Flow:
    return lambda azure: {**flow(azure), **others}


def github(**claims: Any) -> Flow:
    def flow(azure: Azure) -> Variables:
        azure.github_claims = claims
        return azure.github_job()

    return flow


def expired_secret(azure: Azure) -> Variables:
    azure.clients[CLIENT_ID].secret_expires = 0
    return azure.client_secret()


def refused(code: int, words: str = "No.") -> Flow:
    """Return a flow that Entra refuses with this code."""

    def flow(azure: Azure) -> Variables:
        refusal = {"error": "invalid_client", "error_description": f"AADSTS{code}: {words}"}
        azure.faults[ENTRA] = [lambda handler: handler.answer(401, refusal)]
        return azure.github_job()

    return flow


@pytest.mark.parametrize(
    ("flow", "code", "remedy"),
    [
        pytest.param(
            changed(Azure.pod, AZURE_CLIENT_ID=OTHER),
            700016,
            f"check AZURE_CLIENT_ID: the application must be in tenant {TENANT}",
            id="unknown application",
        ),
        pytest.param(
            github(iss="https://token.actions.contoso.ghe.com"),
            700211,
            CREDENTIAL.format(GITHUB_SUBJECT, AUDIENCE).replace(
                "githubusercontent.com", "contoso.ghe.com"
            ),
            id="unknown issuer",
        ),
        pytest.param(
            changed(Azure.github_job, AZURE_FEDERATED_TOKEN_AUDIENCE="api://other"),
            700212,
            CREDENTIAL.format(GITHUB_SUBJECT, "api://other"),
            id="unknown audience",
        ),
        pytest.param(
            github(sub=OTHER_REPOSITORY),
            700213,
            CREDENTIAL.format(OTHER_REPOSITORY, AUDIENCE),
            id="unknown subject",
        ),
        pytest.param(
            refused(70021),
            70021,
            CREDENTIAL.format(GITHUB_SUBJECT, AUDIENCE),
            id="no federated credential",
        ),
        pytest.param(
            github(exp=1),
            700024,
            "get a new assertion: GitHub's lives 5 minutes",
            id="expired assertion",
        ),
        pytest.param(
            changed(Azure.client_secret, AZURE_CLIENT_SECRET="s3cret"),
            7000215,
            "set AZURE_CLIENT_SECRET to a valid secret, not to its ID",
            id="wrong secret",
        ),
        pytest.param(
            expired_secret,
            7000222,
            "set AZURE_CLIENT_SECRET to a valid secret, not to its ID",
            id="expired secret",
        ),
        *(
            pytest.param(
                refused(code),
                code,
                "ask your administrator: a policy forbids this sign-in",
                id=f"policy {code}",
            )
            for code in (53003, 530003, 700223, 700238)
        ),
        pytest.param(
            refused(500011),
            500011,
            f"check the URL: nobody in tenant {TENANT} uses Azure DevOps",
            id="unknown resource",
        ),
    ],
)
def test_a_refusal_is_told_with_its_remedy(
    azure: Azure, ask_here: AskHere, flow: Flow, code: int, remedy: str
) -> None:
    asked = ask_here(INDEX_URL, **flow(azure))
    assert asked.value is None
    _, reason, told, *_ = asked.warnings.splitlines()
    assert reason.startswith("  workload_identity: Entra answered 40")
    assert f": AADSTS{code}: " in reason
    assert told == f"    {remedy}"
    assert "s3cret" not in asked.log
    assert len(azure.asked(ENTRA)) == 1


def test_an_unknown_refusal_is_told_in_entras_words(azure: Azure, ask_here: AskHere) -> None:
    asked = ask_here(INDEX_URL, **refused(7000219, "Something new.")(azure))
    lines = asked.warnings.splitlines()
    assert lines[1] == "  workload_identity: Entra answered 401: AADSTS7000219: Something new."
    assert lines[2].startswith("  azure_cli: ")


def test_an_assertion_cannot_forge_a_line_of_the_log(azure: Azure, ask_here: AskHere) -> None:
    asked = ask_here(INDEX_URL, **github(sub="repo:x\n\x1b[31mforged")(azure))
    assert "AADSTS700213" in asked.warnings
    assert "forged" in asked.warnings
    assert not any(line.startswith(("forged", "\x1b")) for line in asked.log.splitlines())


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_of_github_is_told(azure: Azure, ask_here: AskHere, status: int) -> None:
    azure.faults[GITHUB] = [
        lambda handler: handler.answer(status, {"message": f"{handler.headers['Authorization']}!"})
    ]
    asked = ask_here(INDEX_URL, **azure.github_job())
    told = f"  workload_identity: GitHub answered {status}: Bearer [removed]!"
    assert asked.warnings.splitlines()[1] == told
    assert REQUEST_TOKEN not in asked.log
    assert azure.asked(ENTRA) == []


@pytest.mark.parametrize(("service", "name"), [(GITHUB, "GitHub"), (ENTRA, "Entra")])
def test_a_service_that_is_overloaded_is_told(
    azure: Azure, ask_here: AskHere, service: str, name: str
) -> None:
    azure.faults[service] = [lambda handler: handler.answer(503, "")] * 3
    told = f"  workload_identity: {name} answered 503\n    try again later\n"
    assert told in ask_here(INDEX_URL, **azure.github_job()).warnings


def test_a_secret_that_comes_back_encoded_is_not_shown(azure: Azure, ask_here: AskHere) -> None:
    azure.faults[ENTRA] = [
        lambda handler: handler.answer(400, {"message": handler.body.decode("ascii")})
    ]
    asked = ask_here(
        INDEX_URL, **{**azure.client_secret(), "AZURE_CLIENT_SECRET": "s3cret/+ \u00e9"}
    )
    assert asked.warnings.splitlines()[1].endswith("&client_secret=[removed]")
    assert "s3cret" not in asked.log


@pytest.mark.parametrize(
    "answer",
    [
        "<html>",
        b"[]",
        b"\xff\xfe",
        {},
        {"value": "", "access_token": ""},
        {"value": None, "access_token": None},
        {"value": "a\r\nb", "access_token": "a\r\nb"},
    ],
)
@pytest.mark.parametrize("service", [GITHUB, ENTRA])
def test_an_answer_of_another_shape_is_a_clear_failure(
    azure: Azure, ask_here: AskHere, service: str, answer: object
) -> None:
    azure.faults[service] = [lambda handler: handler.answer(200, answer)]
    asked = ask_here(INDEX_URL, **azure.github_job())
    assert asked.value is None
    assert "  workload_identity: the answer holds no usable token\n" in asked.warnings


# --- Bad files and bad variables


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda _: None, "cannot be read: No such file or directory", id="missing"),
        pytest.param(Path.mkdir, "cannot be read: ", id="a folder"),
        pytest.param(Path.touch, "holds no usable token", id="empty"),
        pytest.param(lambda p: p.write_text("s3cret s3cret"), "holds no usable token", id="words"),
        pytest.param(
            lambda p: p.write_bytes(b"s3cret" * 11_000), "holds no usable token", id="long"
        ),
    ],
)
def test_a_bad_file_is_told(
    azure: Azure, ask_here: AskHere, make: Callable[[Path], object], reason: str
) -> None:
    path = azure.folder / "assertion"
    make(path)
    asked = ask_here(INDEX_URL, **{**azure.pod(), FILE: str(path)})
    assert asked.value is None
    assert f"  workload_identity: {FILE} {reason}" in asked.warnings
    assert "s3cret" not in asked.log
    assert azure.connects == [FEED]


@pytest.mark.parametrize("token", ["s3cret s3cret", "s3cret\r\nX: y", "s3cr\u00e9t"])
def test_a_bad_request_token_is_told(azure: Azure, ask_here: AskHere, token: str) -> None:
    asked = ask_here(INDEX_URL, **{**azure.github_job(), REQUEST: token})
    assert asked.value is None
    assert f"  workload_identity: {REQUEST} holds no usable token" in asked.warnings
    assert "s3cr" not in asked.log
    assert azure.connects == [FEED]


@pytest.mark.skipif(os.name == "nt", reason="variables are text on Windows")
@pytest.mark.parametrize(
    "name", ["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_AUDIENCE"]
)
def test_an_undecodable_variable_is_sent_as_it_is(
    azure: Azure, ask_here: AskHere, name: str
) -> None:
    flow = Azure.github_job if name == "AZURE_FEDERATED_TOKEN_AUDIENCE" else Azure.client_secret
    asked = ask_here(INDEX_URL, **{**flow(azure), name: "\udcff"})
    assert "  workload_identity: Entra answered 40" in asked.warnings
