"""What becomes of approvals, of users' grants and of API keys is in the chain of the calls, without any token."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.services.oidc import parameters
from toolpost import AuthorizationManager, Tool, ToolExecutor, create_tool_call
from toolpost.calls.errors import UnauthorizedError
from toolpost.calls.oauth import OAuth
from toolpost.calls.policies import Approval
from toolpost.testing import FakeClock, executor_for
from toolpost.testing.records_claims_contract import said

ISSUER = "https://id.example"
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth",
    "token_endpoint": f"{ISSUER}/token",
    "revocation_endpoint": f"{ISSUER}/revoke",
}
ACCESS, REFRESH, CODE = "access-token-canary-1", "refresh-token-canary-1", "authorization-code-canary"
TOKENS = {
    "access_token": ACCESS,
    "refresh_token": REFRESH,
    "token_type": "Bearer",
    "expires_in": 60,
    "scope": "mail.read",
}


class Provider:
    """An OAuth provider that answers at once. refuses: which grant types it takes no more."""

    def __init__(self) -> None:
        self.refuses: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            kind = parameters(f"?{request.content.decode()}")["grant_type"]
            refused = httpx.Response(400, json={"error": "invalid_grant", "error_description": "no more"})
            return refused if kind in self.refuses else httpx.Response(200, json=TOKENS)
        if request.url.path == "/revoke":
            return httpx.Response(200)
        return httpx.Response(200, json=METADATA)

    def manager(self, **more: Any) -> AuthorizationManager:
        return AuthorizationManager(
            "client",
            "the client secret",
            "https://app.example/callback",
            issuer=ISSUER,
            transport=lambda: httpx.MockTransport(self),
            **more,
        )


@Tool("Mail.Read", register=False, oauth=OAuth(scopes=["mail.read"]))
def read_mail() -> str:
    """Read mail."""
    return "mail"


@Tool("Shop.Refund", register=False, approval=Approval())
def refund(order: int, card_token: str = "") -> int:
    """Give money back."""
    return order


def rows(executor: ToolExecutor, of: str) -> list[dict[str, Any]]:
    """The rows whose kind begins so; and all rows are as they were written."""
    assert executor.audit.verify().ok
    found = [orjson.loads(row.body) for row in said(executor.records.audit_rows(0, 1000))]
    assert not any(None in {**row, **row.get("data", {})}.values() for row in found)
    return [row for row in found if row["kind"].startswith(of)]


def all_of_it(executor: ToolExecutor) -> str:
    executor.audit.verify()
    return " ".join(row.body.decode() for row in said(executor.records.audit_rows(0, 1000)))


def about(row: dict[str, Any]) -> tuple[Any, ...]:
    """Kind, user, tenant, tool, provider and scopes."""
    data = row["data"]
    return (row["kind"], row.get("user"), row.get("tenant"), row.get("tool"), data.get("provider"), data.get("scopes"))


# Grants.


async def test_a_grant_that_is_given_and_revoked_is_in_the_chain_and_no_token_is() -> None:
    manager = Provider().manager()
    with executor_for(read_mail, audit="on", secret_key="k" * 40, authorization=manager) as executor:
        flow = await manager.initiate_authorization_async("ann", "Mail.Read", ["mail.read"], tenant="acme")
        state = parameters(flow.auth_url)["state"]
        callback = f"https://app.example/callback?code={CODE}&state={state}"
        await manager.complete_from_callback(callback, user_id="ann", tenant="acme")
        await manager.revoke_authorization_async("ann", tenant="acme")
        await manager.revoke_authorization_async("ann", tenant="acme")
        given, revoked = rows(executor, "grant")
        everything = all_of_it(executor)

    whose = ("ann", "acme", "Mail.Read", "default", ["mail.read"])
    assert (about(given), about(revoked)) == (("grant.given", *whose), ("grant.revoked", *whose))
    assert revoked["data"]["at_provider"] is True
    assert not any(secret in everything for secret in (ACCESS, REFRESH, CODE, state, "the client secret"))


@pytest.mark.parametrize("what", ["no", "user", "state", "code"])
async def test_a_grant_that_is_refused_says_why_and_who_came_with_the_answer(what: str) -> None:
    provider = Provider()
    manager = provider.manager()
    with executor_for(read_mail, audit="on", authorization=manager) as executor:
        flow = await manager.initiate_authorization_async("ann", "Mail.Read", ["mail.read"], session_id="s1")
        state = parameters(flow.auth_url)["state"]
        answer = f"code={CODE}&state={state}"
        if what == "no":
            answer = f"error=access_denied&error_description=not+today&state={state}"
        elif what == "state":
            answer = f"error=access_denied&state={flow.flow_id}.forged"
        elif what == "code":
            provider.refuses.add("authorization_code")
        who = "eve" if what == "user" else "ann"
        with pytest.raises(UnauthorizedError):
            await manager.complete_from_callback(f"https://app.example/callback?{answer}", user_id=who)
        [row] = rows(executor, "grant")
        everything = all_of_it(executor)

    assert about(row) == ("grant.refused", "ann", None, "Mail.Read", "default", ["mail.read"])
    assert row["session"] == "s1"
    assert row["data"].get("by") == ("eve" if what == "user" else None)
    why = {"no": "access_denied not today", "user": "another user", "state": "state is not", "code": "no more"}
    assert why[what] in row["data"]["reason"]
    assert CODE not in everything
    assert state not in everything


async def test_a_grant_that_its_provider_ended_is_in_the_chain() -> None:
    provider, clock = Provider(), FakeClock()
    manager = provider.manager(clock=clock)
    with executor_for(read_mail, audit="on", authorization=manager) as executor:
        flow = await manager.initiate_authorization_async("ann", "Mail.Read", ["mail.read"])
        await manager.complete_authorization(flow.flow_id, CODE)
        clock.advance(3600)
        provider.refuses.add("refresh_token")
        result = await executor.execute_tool_call(create_tool_call("Mail.Read", {}, user_id="ann"))
        given, ended = rows(executor, "grant")

    assert result.failure is not None
    assert result.failure.code == "authorization_required"
    assert about(ended) == ("grant.ended", *about(given)[1:])


async def test_executors_that_share_a_manager_tell_each_chain_once() -> None:
    manager = Provider().manager()
    with (
        executor_for(audit="on", authorization=manager) as first,
        executor_for(audit="on", authorization=manager) as other,
        executor_for(audit="on", authorization=manager, records=first.records) as beside,
        executor_for(audit="off", authorization=manager),
    ):
        flow = await manager.initiate_authorization_async("ann", "Mail.Read", ["mail.read"])
        await manager.complete_authorization(flow.flow_id, CODE)
        assert beside.audit.verify().ok

        assert [len(rows(one, "grant")) for one in (first, other)] == [1, 1]


# Approvals.


async def test_a_decision_says_who_what_of_whom_and_why() -> None:
    with executor_for(refund, audit="on") as executor:
        secret = {"order": 7, "card_token": "card-canary"}
        call = create_tool_call("Shop.Refund", secret, "c1", user_id="ann", tenant="acme", session_id="s1")
        first = await executor.execute_tool_call(call)
        assert first.failure is not None
        approval = first.failure.details["approval_id"]
        executor.approvals.deny(approval, by="bob", reason="not him, password=hunter22")
        asked, denied = rows(executor, "approval")
        everything = all_of_it(executor)

    assert [row["kind"] for row in (asked, denied)] == ["approval.asked", "approval.denied"]
    assert asked["call"] == "c1"
    for row in (asked, denied):
        assert (row["user"], row["tenant"], row["session"], row["tool"]) == ("ann", "acme", "s1", "Shop.Refund")
        assert row["data"]["approval_id"] == approval
    assert denied["data"]["by"] == "bob"
    assert denied["data"]["reason"].startswith("not him")
    assert "hunter22" not in everything
    assert "card-canary" not in everything


def test_a_decision_on_the_command_line_is_in_the_chain_too(tmp_path: Path) -> None:
    settings = {"audit": "on", "records_url": f"sqlite:///{tmp_path}/records.db", "secret_key": "k" * 40}
    with executor_for(refund, **settings) as executor:
        result = executor.execute_sync(create_tool_call("Shop.Refund", {"order": 7}, user_id="ann"))
        assert result.failure is not None
        approval = result.failure.details["approval_id"]
        command = [sys.executable, "-m", "toolpost", "approvals", "approve", approval, "--by", "bob"]
        variables = {f"TOOL_EXECUTOR_{name.upper()}": text for name, text in settings.items()}
        done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        asked, approved = rows(executor, "approval")

    assert (approved["kind"], approved["user"], approved["data"]["by"]) == ("approval.approved", "ann", "bob")
    assert approved["by"] != asked["by"]


# API keys.


def test_keys_that_are_made_and_ended_are_in_the_chain_and_their_secrets_are_not() -> None:
    with executor_for(audit="on") as executor:
        first = executor.api_keys.create(user_id="ann", tenant="acme", scopes=["read"], roles=["clerk"], name="till")
        second = executor.api_keys.rotate(first.key.id, overlap_s=60)
        assert second is not None
        executor.api_keys.revoke(second.key.id)
        executor.api_keys.revoke(second.key.id)
        found = rows(executor, "key")
        everything = all_of_it(executor)

    assert [(row["kind"], row["user"], row["tenant"], row["data"]["id"]) for row in found] == [
        ("key.created", "ann", "acme", first.key.id),
        ("key.created", "ann", "acme", second.key.id),
        ("key.ending", "ann", "acme", first.key.id),
        ("key.revoked", "ann", "acme", second.key.id),
    ]
    assert (found[0]["data"]["scopes"], found[0]["data"]["roles"], found[0]["data"]["name"]) == (
        ["read"],
        ["clerk"],
        "till",
    )
    assert found[2]["data"]["instead"] == second.key.id
    assert first.secret not in everything
    assert second.secret not in everything


def test_what_cannot_be_noted_is_said_in_the_programs_log_and_done_all_the_same(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with executor_for(audit="on") as executor:

        def broken(kind: str, **fields: Any) -> None:
            raise OSError("the disk is full")

        monkeypatch.setattr(executor._guards.audit, "note", broken)
        made = executor.api_keys.create(user_id="ann")

    assert made.key.user_id == "ann"
    assert "key.created could not be noted in the audit log" in caplog.text


def test_where_audit_is_required_these_rows_are_kept_however_many_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolpost.telemetry.audit_writer.MOST_ROWS", 0)
    settings = {"records_url": f"sqlite:///{tmp_path}/records.db", "secret_key": "k" * 40}
    with executor_for(audit="required", **settings) as executor:
        executor.api_keys.create(user_id="ann")
        assert [row["kind"] for row in rows(executor, "key")] == ["key.created"]
