"""Schemathesis, which knows nothing of this code, tries all that the OpenAPI document says, and finds nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.transports.gateway import Served, gateway
from toolpost import Approval, AuthorizationManager, OAuth, Tool, ToolContext, ToolExecutor
from toolpost.engine.registry import ToolRegistry
from toolpost.transports import http_calling, http_lookups, http_oauth
from toolpost.worker.calls import OPERATE

CONFIG = """
seed = 20260728
continue-on-failure = true
request-timeout = 20
max-stream-events = 1
warnings = false

AUTH

[generation]
deterministic = true
database = "none"

[checks.positive_data_acceptance]
# Conditions and ranges may rightly fail, and so may an Accept.
expected-statuses = ["2xx", "3xx", 401, 403, 404, 406, 409, 410, 412, 416]

[phases.fuzzing.generation]
max-examples = 20

[phases.stateful.generation]
max-examples = 20

[[operations]]
# What a body may be depends on the format, which OpenAPI cannot say.
include-operation-id = "makeCalls"
checks.positive_data_acceptance.enabled = false

[[operations]]
# What arguments may be depends on the tool, and some members go with Prefer: respond-async only.
include-operation-id = "callTool"
checks.positive_data_acceptance.enabled = false

[[operations]]
# DELETE of a call ends it, and what became of it is told as ever.
include-path-regex = "^/v1/calls/"
checks.use_after_free.enabled = false

[[operations]]
# Part of a JSON text is no JSON.
include-operation-id = "showResult"
checks.response_schema_conformance.enabled = false

[[operations]]
# So are those of a call that is approved in another's place.
include-operation-id = "approveCall"
checks.positive_data_acceptance.enabled = false
"""

OPERATOR = '[auth.openapi]\nbearer = { bearer = "${TOOLPOST_TEST_KEY}" }'
USERS = '[auth.wfc]\npath = "users.json"\nuser = "ann"\npeers = ["ann", "bob"]'
"""Two users, neither of whom may see what is the other's."""


@Tool(name="Math.Add", description="Add.", register=False)
async def add(a: int, b: int) -> int:
    return a + b


@Tool(
    name="Shop.Refund", description="Give money back.", approval=Approval(approvers=("role:manager",)), register=False
)
async def refund(order: int, amount: float = 1.0) -> float:
    return amount


@Tool(name="Mail.Inbox", description="Read my inbox.", oauth=OAuth(scopes=("read",)), register=False)
async def inbox(ctx: ToolContext) -> int:
    return len(await ctx.token())


@Tool(name="Files.Write", description="Write a file.", register=False)
async def write(ctx: ToolContext, text: str = "text") -> str:
    ctx.artifact("a.txt", text.encode())
    return text


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Long polls are short here: what is asked for is random, and nothing would come of waiting."""
    for module in (http_calling, http_lookups, http_oauth):
        monkeypatch.setattr(module, "MAX_WAIT_S", 0.2)
    manager = AuthorizationManager(
        "toolpost",
        "hidden",
        "https://app.example/oauth/callback",
        authorization_endpoint="http://127.0.0.1:9/authorize",
        token_endpoint="http://127.0.0.1:9/token",
    )
    settings: dict[str, Any] = {
        "authentication": "required",
        "records_url": f"sqlite:///{tmp_path}/records.db",
        "secret_key": "k" * 40,
        "drain_timeout": 5.0,
    }
    executor = ToolExecutor(settings, registry=ToolRegistry(), authorization=manager)
    with gateway([add, refund, inbox, write], executor=executor) as one:
        yield one


@pytest.mark.timeout(300)
@pytest.mark.parametrize("auth", [OPERATOR, USERS], ids=["an operator", "two users"])
def test_it_finds_nothing(served: Served, tmp_path: Path, auth: str) -> None:
    scopes = [OPERATE, "toolpost:metrics"] if auth is OPERATOR else []
    ann = served.executor.api_keys.create(user_id="ann", tenant="acme", scopes=scopes).secret
    bob = served.executor.api_keys.create(user_id="bob", tenant="acme").secret
    for tool, arguments in (("Math.Add", {"a": 1, "b": 2}), ("Shop.Refund", {"order": 1}), ("Files.Write", {})):
        headers = {"authorization": f"Bearer {ann}"}
        served.client.post(f"/v1/tools/{tool}/calls", json={"arguments": arguments}, headers=headers)
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG.replace("AUTH", auth))
    users = [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {secret}"}]}
        for name, secret in (("ann", ann), ("bob", bob))
    ]
    (tmp_path / "users.json").write_text(json.dumps({"auth": users}))

    command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "--no-color", "run"]
    run = subprocess.run(
        [*command, f"{served.url}/openapi.json"],
        cwd=tmp_path,
        env={**os.environ, "TOOLPOST_TEST_KEY": ann},
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
