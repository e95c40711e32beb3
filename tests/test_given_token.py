"""Provider token: a token that was made elsewhere."""

from __future__ import annotations

from typing import Any

from conftest import Ask
from identities import TOKEN, TOKEN_FILE
from simulated_azure import FEED, Azure


def test_what_is_missing_or_empty_gives_way_to_what_comes_next(
    azure: Azure, ask: Ask
) -> None:
    """All have space around them, and a file may have a byte order mark."""
    azure.takes("first", "second", "third")
    secret, file = azure.folder / "secret", azure.folder / "file"
    secret.write_text(" third\r\n")
    file.write_text("\ufeff\tfirst\r\n", "utf-8")
    dials = {"SECRET_FILE": str(secret)}
    given: dict[str, Any] = {TOKEN: " \tsecond\n", TOKEN_FILE: str(file)}
    assert ask(**given, dials=dials).password == "first"
    file.write_text(" \r\n")
    for path in ("/nowhere", str(file)):
        asked = ask(**given | {TOKEN_FILE: path}, dials=dials)
        assert asked.password == "second"
        assert f"file that {TOKEN_FILE} names is missing or empty" in asked.log
    assert ask(**{TOKEN: " \n", TOKEN_FILE: ""}, dials=dials).password == "third"


def test_a_token_that_has_expired_is_told_and_not_sent(azure: Azure, ask: Ask) -> None:
    told = ask(**{TOKEN: azure.entra_token(exp=1)}).failure
    assert f"token: the token in {TOKEN} has expired" in told
    assert azure.connects == [FEED]
