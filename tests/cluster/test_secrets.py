from __future__ import annotations

import base64

import pytest

from fleetpack.cluster.secrets import credentials_in
from fleetpack.signals import BasicCredentials, BearerToken


def a_secret(**values: str) -> dict[str, object]:
    return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}}


def test_should_read_a_token_without_the_line_end_of_its_file() -> None:
    assert credentials_in(a_secret(token="abc\n")) == BearerToken(token="abc")


def test_should_read_user_name_and_password() -> None:
    found = credentials_in(a_secret(username="u", password="p"))

    assert found == BasicCredentials(username="u", password="p")


def test_should_say_which_keys_a_secret_must_have() -> None:
    with pytest.raises(ValueError, match="must have the key token, or username and password; it has user"):
        credentials_in(a_secret(user="u"))
