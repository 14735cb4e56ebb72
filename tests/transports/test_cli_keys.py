"""The commands that make, list, revoke and replace API keys: a key is printed once, on standard output."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.transports.cli_shop import answer, invoke
from toolpost import ToolExecutor
from toolpost.security.api_keys import PATTERN


@pytest.fixture
def where(tmp_path: Path) -> tuple[str, str]:
    return "--set", f"records_url=sqlite:///{tmp_path}/records.db"


def state_of(secret: str, where: tuple[str, str]) -> Any:
    """The caller that a key makes in another process's executor, or why it is refused."""
    import asyncio

    from toolpost import UnauthorizedError

    with ToolExecutor(records_url=where[1].partition("=")[2]) as executor:
        try:
            return asyncio.run(executor.authenticator.caller(f"Bearer {secret}"))
        except UnauthorizedError as refused:
            return refused.details["reason"]


def test_a_key_is_printed_alone_on_standard_output_and_never_again(where: tuple[str, str]) -> None:
    made = invoke("keys", "create", "--user", "ann", "--scope", "read", "--scope", "write", "--role", "clerk", *where)
    secret = made.stdout.strip()

    assert made.exit_code == 0
    assert PATTERN.fullmatch(secret)
    assert secret not in made.stderr
    assert "nothing shows it again" in made.stderr
    listed = invoke("keys", "list", *where)
    in_json = invoke("keys", "list", "--json", *where)
    assert secret[20:] not in f"{listed.output}{in_json.output}"
    assert listed.stdout.splitlines()[1].split() == [secret[3:19], "active", "ann", "read", "write", "clerk"]
    caller = state_of(secret, where)
    assert (caller.user_id, caller.scopes, caller.roles) == ("ann", {"read", "write"}, {"clerk"})


def test_a_key_in_json(where: tuple[str, str]) -> None:
    made = answer("keys", "create", "--tenant", "acme", "--days", "2", "--name", "ci", "--json", *where)

    assert PATTERN.fullmatch(made["key"])
    assert made["id"] == made["key"][3:19]
    assert (made["tenant"], made["user_id"], made["name"]) == ("acme", f"key-{made['id']}", "ci")
    assert made["expires_at"] - made["created_at"] == pytest.approx(2 * 86_400)
    (listed,) = answer("keys", "list", "--json", *where)
    assert "key" not in listed
    assert listed["id"] == made["id"]


@pytest.mark.parametrize("by", ["id", "key"])
def test_a_revoked_key_is_refused(where: tuple[str, str], by: str) -> None:
    made = answer("keys", "create", "--json", *where)

    done = invoke("keys", "revoke", made[by], *where)
    again = invoke("keys", "revoke", made[by], *where)

    assert (done.exit_code, done.stdout) == (0, f"the key {made['id']} is refused from now on\n")
    assert (again.exit_code, again.stdout) == (1, "")
    assert f"there is no key {made['id']} in force" in again.stderr
    assert made["key"][20:] not in f"{done.output}{again.output}"
    assert state_of(made["key"], where) == "revoked"
    assert answer("keys", "list", "--json", *where)[0]["state"] == "revoked"


def test_a_key_is_replaced(where: tuple[str, str]) -> None:
    old = answer("keys", "create", "--user", "ann", "--scope", "read", "--json", *where)

    new = answer("keys", "rotate", old["id"], "--json", *where)

    assert state_of(old["key"], where) == "revoked"
    assert state_of(new["key"], where).scopes == {"read"}
    assert invoke("keys", "rotate", old["id"], *where).exit_code == 1


def test_a_tenant_ends_only_its_own(where: tuple[str, str]) -> None:
    theirs = answer("keys", "create", "--tenant", "theirs", "--json", *where)

    assert invoke("keys", "revoke", theirs["id"], "--tenant", "mine", *where).exit_code == 1
    assert answer("keys", "list", "--tenant", "mine", "--json", *where) == []
    assert state_of(theirs["key"], where).tenant == "theirs"


def test_keys_need_a_store_that_outlives_the_command() -> None:
    refused = invoke("keys", "create")

    assert refused.exit_code == 2
    assert "TOOL_EXECUTOR_RECORDS_URL" in refused.stderr
    assert not re.search("tp_", refused.output)


@pytest.mark.parametrize("wrong", [("--days", "0"), ("--days", "-1"), ("--scope", "read write"), ("--user", "")])
def test_what_could_not_be_meant_is_refused(where: tuple[str, str], wrong: tuple[str, str]) -> None:
    assert invoke("keys", "create", *wrong, *where).exit_code == 2


def test_a_call_tells_roles_and_tenant() -> None:
    told = answer("call", "orders", "--user", "ann", "--scope", "orders:read", "--role", "r", "--tenant", "t", "--json")

    assert told["success"]
