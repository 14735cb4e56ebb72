"""What is shown of a store's URL, however it was written: never a password."""

import pytest

from toolpost.calls.errors import ConfigurationError
from toolpost.stores import open_blobs, open_records, public_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0?password=hunter2", "redis://host:6379/0"),
        ("redis://host:6379/0?password=hunt@er2", "redis://host..."),
        ("postgresql://host/db?user=me&password=hunt@er2", "postgresql://host..."),
        ("postgresql://me:hu?nt=er@host/db", "postgresql://me..."),
        ("host=db.internal user=me password=hunter2", "host..."),
        ("me:hunter2@host", "me..."),
        ("@hunter2", "..."),
        ("localhost:6379", "localhost:6379"),
    ],
)
def test_a_password_is_not_shown_wherever_it_stands(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_a_connection_string_in_place_of_a_url_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="records must be a URL") as caught:
        open_records("host=db.internal user=me password=hunter2")

    assert "hunter2" not in str(caught.value)


def test_a_folder_on_another_host_is_refused_without_the_password_for_it() -> None:
    with pytest.raises(ConfigurationError, match="file://me@host/folder") as caught:
        open_blobs("file://me:hunter2@host/folder")

    assert "hunter2" not in str(caught.value)
