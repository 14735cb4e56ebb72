"""The commands that list users' grants, end them, and seal them with another key."""

import asyncio
from pathlib import Path

import pytest

from tests.security.oauth_shelf import SECRET, grant, manager_of
from tests.services import Oidc
from tests.transports.cli_shop import answer, invoke
from toolpost.stores.sqlite import SqliteRecords

NEW = "the-secret-key-after-that-one"


@pytest.fixture
def settings(oidc: Oidc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment of a program whose users ann (of acme) and bob have granted; the URL of its records."""
    url = f"sqlite:///{tmp_path}/records.db"
    records = SqliteRecords(url)
    records.migrate()
    manager = manager_of(oidc, records=records)
    asyncio.run(grant(manager, oidc, "ann", ("read", "write"), tenant="acme"))
    asyncio.run(grant(manager, oidc, "bob"))
    records.close()
    for name, value in {
        "OAUTH_ISSUER": oidc.issuer,
        "OAUTH_CLIENT_ID": oidc.client_id,
        "OAUTH_CLIENT_SECRET": oidc.client_secret,
        "OAUTH_REDIRECT_URI": oidc.redirect_uri,
        "SECRET_KEY": SECRET,
        "RECORDS_URL": url,
    }.items():
        monkeypatch.setenv(f"TOOL_EXECUTOR_{name}", value)
    return url


@pytest.mark.usefixtures("settings")
def test_grants_are_listed_without_their_tokens() -> None:
    rows = answer("grants", "list", "--json")
    of_bob = answer("grants", "list", "--user", "bob", "--json")
    of_acme = invoke("grants", "list", "--tenant", "acme").stdout.splitlines()

    assert {(row["tenant"], row["user_id"], row["provider"], *row["scopes"]) for row in rows} == {
        ("acme", "ann", "default", "read", "write"),
        ("", "bob", "default", "read"),
    }
    assert set(rows[0]) == {
        "tenant", "user_id", "provider", "scopes", "refreshable", "expires_at", "created_at", "updated_at",
    }  # fmt: skip
    assert [row["user_id"] for row in of_bob] == ["bob"]
    assert of_acme[1].split() == ["acme", "ann", "default", "read", "write", "when", "revoked"]
    assert len(of_acme) == 2


@pytest.mark.usefixtures("settings")
def test_a_grant_is_revoked_here_and_at_the_provider(oidc: Oidc) -> None:
    before = oidc.count("revocation")

    done = invoke("grants", "revoke", "ann", "--tenant", "acme")
    again = invoke("grants", "revoke", "ann", "--tenant", "acme")

    assert (done.exit_code, done.stdout) == (0, "the grant of ann at default is ended, here and there\n")
    assert oidc.count("revocation") > before
    assert (again.exit_code, again.stderr) == (1, "ann has no grant at default\n")
    assert [row["user_id"] for row in answer("grants", "list", "--json")] == ["bob"]


@pytest.mark.usefixtures("settings")
def test_a_provider_that_does_not_take_it_is_told(oidc: Oidc) -> None:
    oidc.set(fail={"/token/revocation": [503, 1]})

    done = invoke("grants", "revoke", "bob")

    assert done.exit_code == 1
    assert "forgotten here, but not ended there: " in done.stdout
    assert "answered 503" in done.stdout
    assert answer("grants", "list", "--user", "bob", "--json") == []


@pytest.mark.usefixtures("settings")
def test_grants_are_sealed_with_a_new_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOL_EXECUTOR_SECRET_KEY", NEW)

    unreadable = invoke("grants", "rotate")
    listed = invoke("grants", "list", "--user", "bob").stdout

    assert unreadable.exit_code == 1
    assert "4 cannot be opened" in unreadable.stderr
    assert "(sealed with another key)" in listed

    monkeypatch.setenv("TOOL_EXECUTOR_SECRET_KEY_PREVIOUS", SECRET)
    done = answer("grants", "rotate", "--json")
    monkeypatch.delenv("TOOL_EXECUTOR_SECRET_KEY_PREVIOUS")

    assert done == {"sealed": 4, "unreadable": 0}
    assert [row["scopes"] for row in answer("grants", "list", "--user", "bob", "--json")] == [["read"]]


def test_without_a_provider_or_shared_records_there_is_nothing_to_look_at(
    oidc: Oidc, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOOL_EXECUTOR_RECORDS_URL")
    alone = invoke("grants", "list")
    monkeypatch.delenv("TOOL_EXECUTOR_OAUTH_ISSUER")
    nowhere = invoke("grants", "list")

    assert "records_url names no store that other processes share" in alone.stderr
    assert "set oauth_issuer" in nowhere.stderr
    assert (alone.exit_code, nowhere.exit_code) == (2, 2)
