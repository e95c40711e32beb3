"""Provider managed_identity: the identity of a machine, from the metadata service there."""

from __future__ import annotations

import os

import pytest

from conftest import Ask, AskHere
from identities import Identity, app_service, azure_ml, managed_identity
from simulated_azure import (
    CLIENT_ID,
    FEED,
    IMDS,
    INDEX_URL,
    SECRET_HEADER,
    TENANT,
    Azure,
    Recorded,
)

RESOURCE = "499b84ac-1321-427f-aa17-267ca6975798"
OTHER = "aaaaaaaa-2222-3333-4444-555555555555"
IMDS_PATH = f"/metadata/identity/oauth2/token?api-version=2018-02-01&resource={RESOURCE}"
APP_SERVICE_PATH = f"/msi/token?api-version=2019-08-01&resource={RESOURCE}"
AZURE_ML_PATH = f"/MSI/auth?api-version=2017-09-01&resource={RESOURCE}"
PLACES = [managed_identity, app_service, azure_ml]


def request(azure: Azure) -> Recorded:
    """Return the only request to the metadata services."""
    (request,) = [request for request in azure.requests if request.host == IMDS]
    return request


@pytest.mark.parametrize(
    ("place", "path", "headers"),
    [
        (managed_identity, IMDS_PATH, {}),
        (app_service, APP_SERVICE_PATH, {"x-identity-header": SECRET_HEADER}),
        (azure_ml, f"{AZURE_ML_PATH}&clientid={CLIENT_ID}", {"secret": SECRET_HEADER}),
    ],
)
def test_the_identitys_token_is_itself_the_password(
    azure: Azure, ask: Ask, place: Identity, path: str, headers: dict[str, str]
) -> None:
    outcome = ask(INDEX_URL, **place(azure))
    assert outcome.value == ["VssSessionToken", azure.identity]
    assert outcome.stderr == ""
    asked = request(azure)
    assert (asked.method, asked.path) == ("GET", path)
    assert {"metadata": "true", **headers}.items() <= asked.headers.items()
    unwanted = {"authorization", "x-forwarded-for", "x-identity-header", "secret"} - {*headers}
    assert not unwanted & {*asked.headers}
    assert [request.host for request in azure.requests] == [FEED, IMDS]


# --- Which identity


@pytest.mark.parametrize(
    ("place", "path"),
    [
        (managed_identity, f"{IMDS_PATH}&client_id=a-b%26c"),
        (app_service, f"{APP_SERVICE_PATH}&client_id=a-b%26c"),
        (azure_ml, f"{AZURE_ML_PATH}&clientid=a-b%26c"),
    ],
)
def test_an_identity_is_named_by_its_client_id(
    azure: Azure, ask_here: AskHere, place: Identity, path: str
) -> None:
    azure.assigned = [CLIENT_ID, "a-b&c"]
    assert ask_here(INDEX_URL, **place(azure), AZURE_CLIENT_ID=" a-b&c ").value
    assert request(azure).path == path


@pytest.mark.skipif(os.name == "nt", reason="variables are text on Windows")
def test_an_undecodable_client_id_is_sent_as_it_is(azure: Azure, ask_here: AskHere) -> None:
    ask_here(INDEX_URL, **managed_identity(azure), AZURE_CLIENT_ID="\udcff")
    assert request(azure).path == f"{IMDS_PATH}&client_id=%FF"


def test_one_of_several_identities_must_be_named(azure: Azure, ask_here: AskHere) -> None:
    azure.assigned = [CLIENT_ID, OTHER]
    lines = ask_here(INDEX_URL, **managed_identity(azure)).warnings.splitlines()
    assert "answered 400: Multiple user assigned identities exist" in lines[-2]
    assert lines[-1] == "    set AZURE_CLIENT_ID to the identity to use"


# --- Which metadata service


@pytest.mark.parametrize("name", ["IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_ENDPOINT"])
def test_half_of_the_variables_are_none(azure: Azure, ask_here: AskHere, name: str) -> None:
    half = {name: f"{azure.metadata.url}/msi/token"}
    assert ask_here(INDEX_URL, **managed_identity(azure), **half).value
    assert request(azure).path == IMDS_PATH


def test_imds_has_a_usual_address(azure: Azure, ask_here: AskHere) -> None:
    """Which a test cannot ask."""
    variables = {**managed_identity(azure), "AZURE_POD_IDENTITY_AUTHORITY_HOST": " "}
    assert ask_here(INDEX_URL, dials={"IMDS": azure.metadata.url}, **variables).value


@pytest.mark.parametrize(
    ("place", "variables"),
    [
        (
            "Service Fabric",
            {
                "IDENTITY_ENDPOINT": "https://localhost:2377/metadata/identity/oauth2/token",
                "IDENTITY_HEADER": SECRET_HEADER,
                "IDENTITY_SERVER_THUMBPRINT": "0123456789ABCDEF",
            },
        ),
        (
            "Azure Arc",
            {
                "IDENTITY_ENDPOINT": "http://localhost:40342/metadata/identity/oauth2/token",
                "IMDS_ENDPOINT": "http://localhost:40342",
            },
        ),
    ],
)
def test_a_place_that_asks_for_more_is_told(
    azure: Azure, ask_here: AskHere, place: str, variables: dict[str, str]
) -> None:
    asked = ask_here(INDEX_URL, **managed_identity(azure), **variables)
    assert asked.value is None
    told = f"\n  managed_identity: the identity of {place} is not supported"
    assert asked.warnings.endswith(told)
    assert azure.asked(IMDS) == []


# --- What may go wrong


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"AZURE_POD_IDENTITY_AUTHORITY_HOST": "nonsense"}, "{} is not trusted: nonsense/"),
        ({"AZURE_POD_IDENTITY_AUTHORITY_HOST": "file:///etc"}, "{} is not trusted: file:///etc/"),
        (
            {"AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://me:s3cret@imds"},
            "{} is not trusted: http://imds/",
        ),
        ({"IDENTITY_ENDPOINT": "https://evil.example/"}, "{} is not trusted: https://evil"),
        ({"IDENTITY_ENDPOINT": "http://127.0.0.1:x/"}, "{} is not trusted: http://127.0.0.1:x/"),
        ({"IDENTITY_ENDPOINT": "http://127.0.0.1:1/a#b"}, "{} is not trusted: "),
        ({"IDENTITY_ENDPOINT": "http://127.0.0.1:1/a?b"}, "{} is not trusted: "),
        ({"IDENTITY_ENDPOINT": "http://127.0.0.1:1/\r\nX: y"}, "{} is not trusted: "),
        ({"IDENTITY_HEADER": "s3cret\r\nX: y"}, "{} holds no usable token"),
        ({"IDENTITY_HEADER": "s3cr\u00e9t"}, "{} holds no usable token"),
    ],
    ids=range(10),
)
def test_an_unusable_variable_is_told_and_nothing_is_asked(
    azure: Azure, ask_here: AskHere, variables: dict[str, str], reason: str
) -> None:
    (name,) = variables
    place = managed_identity if name.startswith("AZURE") else app_service
    asked = ask_here(INDEX_URL, **{**place(azure), **variables})
    assert asked.value is None
    assert f"  managed_identity: {reason.format(name)}" in asked.warnings
    assert "s3cr" not in asked.log
    assert azure.asked(IMDS) == []


@pytest.mark.parametrize("status", [404, 410, 503])
@pytest.mark.parametrize("place", PLACES)
def test_an_identity_may_be_on_its_way_at_imds_only(
    azure: Azure, ask_here: AskHere, place: Identity, status: int
) -> None:
    azure.faults[IMDS] = [lambda handler: handler.answer(status)]
    again = place is managed_identity or status == 503
    assert bool(ask_here(INDEX_URL, **place(azure)).value) is again
    assert len(azure.asked(IMDS)) == 1 + again


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(azure: Azure, ask_here: AskHere, status: int) -> None:
    away = {"Location": azure.metadata.url + IMDS_PATH}
    azure.faults[IMDS] = [lambda handler: handler.answer(status, "<html>", {**away})]
    asked = ask_here(INDEX_URL, **managed_identity(azure))
    assert asked.value is None
    assert f"the metadata service of this machine answered {status}" in asked.warnings
    assert len(azure.asked(IMDS)) == 1


@pytest.mark.parametrize(
    ("place", "name", "refusal"),
    [
        (managed_identity, "this machine", {"error": "invalid_scope"}),
        (app_service, "App Service", {"statusCode": 400, "message": "invalid_scope"}),
        (azure_ml, "Azure ML", {"statusCode": 400, "message": "invalid_scope"}),
    ],
)
def test_a_refusal_is_told_in_the_words_of_the_service(
    azure: Azure, ask_here: AskHere, place: Identity, name: str, refusal: dict[str, object]
) -> None:
    azure.faults[IMDS] = [lambda handler: handler.answer(400, refusal)]
    warnings = ask_here(INDEX_URL, **place(azure)).warnings
    reason = f"the metadata service of {name} answered 400: invalid_scope"
    assert warnings.splitlines()[-1] == f"  managed_identity: {reason}"


@pytest.mark.parametrize(
    ("place", "header"), [(app_service, "X-IDENTITY-HEADER"), (azure_ml, "secret")]
)
def test_the_secret_of_a_service_is_never_shown(
    azure: Azure, ask_here: AskHere, place: Identity, header: str
) -> None:
    azure.faults[IMDS] = [
        lambda handler: handler.answer(403, {"message": f"{handler.headers[header]}!"})
    ]
    asked = ask_here(INDEX_URL, **place(azure))
    assert "answered 403: [removed]!" in asked.warnings
    assert SECRET_HEADER not in asked.log


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        "<html>",
        b"[]",
        b"\xff\xfe\x00",
        {},
        {"access_token": None},
        {"access_token": "a b"},
    ],
    ids=range(7),
)
def test_an_answer_of_another_shape_is_a_clear_failure(
    azure: Azure, ask_here: AskHere, answer: object
) -> None:
    azure.faults[IMDS] = [lambda handler: handler.answer(200, answer)]
    asked = ask_here(INDEX_URL, **managed_identity(azure))
    assert asked.value is None
    assert asked.warnings.endswith("\n  managed_identity: the answer holds no usable token")


def test_a_service_that_is_overloaded_is_told(azure: Azure, ask_here: AskHere) -> None:
    azure.faults[IMDS] = [lambda handler: handler.answer(503, "")] * 3
    told = "metadata service of this machine answered 503\n    try again later"
    assert ask_here(INDEX_URL).warnings.endswith(told)


def test_a_token_of_another_tenant_is_told(azure: Azure, ask_here: AskHere) -> None:
    azure.identity = azure.application_token(tid=OTHER)
    asked = ask_here(INDEX_URL)
    assert asked.value is None
    told = f"  managed_identity: the token is of tenant {OTHER}, the feed of {TENANT}"
    assert asked.warnings.splitlines()[-2] == told
