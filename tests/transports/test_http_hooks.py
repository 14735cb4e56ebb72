"""Callbacks from end to end: accepted with a call, sent by the gateway to a real receiver, looked up, sent again."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.transports.gateway import Served, gateway
from tests.transports.serving import serving
from tests.worker.receiver import Receiver, receiving
from toolpost import Caller, Tool, verify_webhook
from toolpost.worker.calls import OPERATE
from toolpost.worker.delivery_log import DeliveryLog

KEY = "a-secret-key-of-some-length"
ASYNC = {"prefer": "respond-async"}
CALLERS = {
    "alice": Caller(user_id="alice", tenant="acme"),
    "bob": Caller(user_id="bob", tenant="acme"),
    "root": Caller(user_id="root", tenant="acme", scopes=frozenset({OPERATE})),
    "other": Caller(user_id="root", tenant="other", scopes=frozenset({OPERATE})),
    "all": Caller(user_id="all", scopes=frozenset({OPERATE})),
    "single": Caller(user_id="alice"),
}


@Tool(name="Math.Add", description="Add.", register=False)
async def add(a: int, b: int) -> int:
    return a + b


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Served, dict[str, dict[str, str]]]]:
    """A gateway that asks for keys, and keys of several callers."""
    with gateway([add], listens_on="0.0.0.0", secret_key=KEY, egress_private=["127.0.0.1:*"], audit="on") as served:
        keys = {}
        for name, caller in CALLERS.items():
            made = served.executor.api_keys.create(user_id=caller.user_id, tenant=caller.tenant, scopes=caller.scopes)
            keys[name] = {"authorization": f"Bearer {made.secret}"}
        yield served, keys


class Client:
    """Asks the gateway as one of several callers."""

    def __init__(self, served: Served, keys: dict[str, dict[str, str]], http: httpx.AsyncClient) -> None:
        self.served, self._keys, self._http = served, keys, http

    async def get(self, path: str, who: str = "alice") -> httpx.Response:
        return await self._http.get(path, headers=self._keys.get(who, {}))

    async def post(self, path: str, who: str = "alice", body: Any = None, **headers: str) -> httpx.Response:
        return await self._http.post(path, json=body, headers={**self._keys.get(who, {}), **headers})

    async def accept(self, callback: str, who: str = "alice") -> str:
        """Have a call accepted that tells of its end; its id."""
        body = {"arguments": {"a": 1, "b": 2}, "callback": callback}
        answer = await self.post("/v1/tools/Math.Add/calls", who, body, **ASYNC)
        assert answer.status_code == 202, answer.text
        call_id: str = answer.json()["call_id"]
        return call_id

    async def delivery(self, call_id: str, state: str, who: str = "alice") -> dict[str, Any]:
        """The delivery of a call, once it stands so."""
        for _ in range(2000):
            [one] = (await self.get(f"/v1/deliveries?call={call_id}", who)).json()["deliveries"] or [{"state": ""}]
            if one["state"] == state:
                return one  # type: ignore[no-any-return]
        raise AssertionError(f"the delivery is {one}")


@pytest.fixture
async def client(guarded: tuple[Served, dict[str, dict[str, str]]]) -> AsyncIterator[Client]:
    served, keys = guarded
    async with httpx.AsyncClient(base_url=served.url, timeout=20) as http:
        yield Client(served, keys, http)


@asynccontextmanager
async def delivered(client: Client, who: str = "alice") -> AsyncIterator[tuple[Receiver, str]]:
    """A receiver that has been called back, and the id of the call."""
    async with receiving() as receiver:
        call_id = await client.accept(receiver.url("/hook?token=hidden"), who)
        await receiver.got(1)
        await client.delivery(call_id, "delivered", who)
        yield receiver, call_id


async def test_the_end_of_a_call_is_told_signed_with_the_secret_that_an_operator_reads(client: Client) -> None:
    async with delivered(client) as (receiver, call_id):
        [request] = receiver.requests

    secrets = (await client.get("/v1/webhooks/secrets", "root")).json()["secrets"]
    told = verify_webhook(request.body, request.headers, secrets)
    assert told["type"] == "call.succeeded"
    assert told["data"]["call_id"] == call_id
    assert told["data"]["data"] == {"result": 3}
    assert told["data"]["state"] == "succeeded"


async def test_what_became_of_it_is_looked_up(client: Client) -> None:
    async with delivered(client) as (receiver, call_id):
        shown = (await client.get(f"/v1/deliveries/msg_{call_id}")).json()

    assert shown["state"] == "delivered"
    assert shown["url"] == f"{receiver.url('/hook')}?..."
    assert [attempt["status"] for attempt in shown["attempts"]] == [200]
    assert shown["created_at"].endswith("Z")
    assert "hidden" not in str(shown)


@pytest.mark.parametrize(
    ("who", "status"), [("alice", 200), ("root", 200), ("all", 200), ("bob", 404), ("other", 404), ("single", 404)]
)
async def test_deliveries_are_seen_by_those_who_see_the_call(client: Client, who: str, status: int) -> None:
    async with delivered(client) as (receiver, call_id):
        path = f"/v1/deliveries/msg_{call_id}"

        assert (await client.get(path, who)).status_code == status
        listed = (await client.get("/v1/deliveries?limit=1000", who)).json()["deliveries"]
        assert any(one["call_id"] == call_id for one in listed) is (status == 200)
        by_call = (await client.get(f"/v1/deliveries?call={call_id}", who)).json()["deliveries"]
        assert len(by_call) == (1 if status == 200 else 0)
        assert (await client.post(f"{path}/resend", who)).status_code == (202 if status == 200 else 404)
        await receiver.got(2 if status == 200 else 1)


async def test_nobody_who_does_not_say_who_they_are_gets_anything(client: Client) -> None:
    for path in ("/v1/deliveries", "/v1/deliveries/msg_x", "/v1/webhooks/secrets"):
        assert (await client.get(path, "")).status_code == 401
    for path in ("/v1/deliveries/msg_x/resend", "/v1/webhooks/endpoints/enable"):
        assert (await client.post(path, "", {"url": "https://example.com"})).status_code == 401


async def test_what_becomes_of_callbacks_is_counted(client: Client) -> None:
    async with delivered(client):
        text = (await client.get("/metrics", "root")).text

    [n] = re.findall(r'^toolpost_deliveries_total\{state="delivered"\} (\S+)$', text, re.MULTILINE)
    assert float(n) >= 1


async def test_a_callback_is_sent_again_when_asked_for(client: Client) -> None:
    async with delivered(client) as (receiver, call_id):
        answer = await client.post(f"/v1/deliveries/msg_{call_id}/resend")
        first, second = await receiver.got(2)

    assert answer.status_code == 202
    assert answer.json()["state"] == "pending"
    assert answer.json()["turn"] == 2
    assert first.body == second.body
    assert first.path == second.path == "/hook?token=hidden"


async def test_a_receiver_that_is_gone_is_sent_nothing_until_it_is_enabled(client: Client) -> None:
    async with receiving(**{"/hook": 410}) as receiver:
        url = receiver.url()
        await client.delivery(await client.accept(url), "disabled")

        body = {"arguments": {"a": 1, "b": 2}, "callback": url}
        refused = await client.post("/v1/tools/Math.Add/calls", "alice", body, **ASYNC)
        others = [await client.post("/v1/webhooks/endpoints/enable", who, {"url": url}) for who in ("other", "single")]
        enabled = await client.post("/v1/webhooks/endpoints/enable", "bob", {"url": url})
        receiver.answers.clear()
        await client.delivery(await client.accept(url), "delivered")

    assert refused.status_code == 400
    assert "410 Gone" in refused.json()["detail"]
    assert refused.json()["errors"][0]["pointer"].endswith("/callback")
    assert [one.json()["was_disabled"] for one in others] == [False, False]
    assert enabled.json() == {"url": url, "was_disabled": True}


async def test_a_tenants_secrets_are_its_operators_to_see_and_a_users_his_own(client: Client) -> None:
    async def secrets(who: str, query: str = "") -> Any:
        answer = await client.get(f"/v1/webhooks/secrets{query}", who)
        assert answer.headers["cache-control"] == "no-store"
        return answer.json()["secrets"][0] if answer.status_code == 200 else answer.status_code

    acme, other, mine, operators = [await secrets(who) for who in ("root", "other", "single", "all")]

    assert len({acme, other, mine, operators}) == 4
    assert all(one.startswith("whsec_") for one in (acme, other, mine, operators))
    assert await secrets("alice") == await secrets("bob") == 403
    assert await secrets("all", "?tenant=acme") == acme
    assert await secrets("root", "?tenant=acme") == acme
    assert await secrets("all", "?user=alice") == mine
    assert await secrets("single", "?user=alice") == mine
    for who, query in (
        ("other", "?tenant=acme"),
        ("single", "?tenant=acme"),
        ("single", "?user=bob"),
        ("alice", "?tenant=acme"),
        ("root", "?user=alice"),
        ("root", "?tenant=other"),
    ):
        assert await secrets(who, query) == 403


async def test_the_audit_log_has_who_saw_secrets(client: Client) -> None:
    await client.get("/v1/webhooks/secrets", "root")

    rows = client.served.executor.audit.newest(20)

    said = [json.loads(row.body) for row in rows]
    assert any(one.get("kind") == "webhook.secrets_shown" and one.get("user") == "root" for one in said)
    assert "whsec_" not in str(rows)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("state=odd", "pending, delivered"),
        ("limit=0", "from 1 to 1000"),
        ("limit=x", "from 1 to 1000"),
        ("colour=red", "no parameter 'colour'"),
        ("state=failed&state=failed", "given twice"),
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(client: Client, query: str, said: str) -> None:
    answer = await client.get(f"/v1/deliveries?{query}")

    assert answer.status_code == 400
    assert said in answer.json()["detail"]


async def test_operators_of_all_enable_anybodys_endpoints_and_others_only_their_own(client: Client) -> None:
    url = "https://gone.example/hook"
    log = DeliveryLog(client.served.executor)

    async def disable() -> None:
        await log.disable(url, "acme", None)
        await log.disable(url, None, "alice")

    async def enable(who: str, **body: str) -> Any:
        answer = await client.post("/v1/webhooks/endpoints/enable", who, {"url": url, **body})
        return answer.json().get("was_disabled", answer.status_code)

    client.served.run(disable())

    assert await enable("other", tenant="acme") == await enable("single", tenant="acme") == 403
    assert await enable("alice", user_id="bob") == 403
    assert await enable("all") is False
    assert await enable("all", tenant="acme") is True
    assert await enable("alice", tenant="acme") is False
    assert await enable("all", user_id="alice") is True


@pytest.mark.parametrize("body", [None, [], {}, {"url": 1}, {"url": ""}, {"url": "https://a", "more": "1"}, "url"])
async def test_a_body_without_a_url_enables_nothing(client: Client, body: Any) -> None:
    answer = await client.post("/v1/webhooks/endpoints/enable", "alice", body)

    assert answer.status_code == 400, answer.text


async def test_pages_lead_to_one_another(client: Client) -> None:
    async with receiving() as receiver:
        ids = [await client.accept(receiver.url(), "single") for _ in range(3)]
        for call_id in ids:
            await client.delivery(call_id, "delivered", "single")
        first = await client.get("/v1/deliveries?limit=2&state=delivered", "single")
        second = await client.get(first.links["next"]["url"], "single")

    assert [one["call_id"] for one in first.json()["deliveries"]] == ids[:0:-1]
    assert second.json()["deliveries"][0]["call_id"] == ids[0]
    assert "limit=2" in first.headers["link"]


@pytest.mark.parametrize("delivery_id", ["msg_nothing", "msg_..", "%00", "a" * 5000, "msg_\u00e9"])
async def test_a_delivery_that_is_not_there_is_not_there(client: Client, delivery_id: str) -> None:
    assert (await client.get(f"/v1/deliveries/{delivery_id}")).status_code in (400, 404)
    assert (await client.post(f"/v1/deliveries/{delivery_id}/resend")).status_code in (400, 404)


async def test_without_a_secret_key_callbacks_and_secrets_are_refused_with_the_way_out() -> None:
    with gateway([add]) as served:
        async with httpx.AsyncClient(base_url=served.url) as http:
            body = {"arguments": {"a": 1, "b": 2}, "callback": "https://example.com/"}
            call = await http.post("/v1/tools/Math.Add/calls", json=body, headers=ASYNC)
            secrets = await http.get("/v1/webhooks/secrets")

    assert call.status_code == secrets.status_code == 501
    assert "set secret_key" in call.json()["detail"]
    assert "set secret_key" in secrets.json()["detail"]


async def test_an_open_gateway_lets_whoever_is_there_read_the_secret_of_nobodys_callbacks() -> None:
    with gateway([add], secret_key=KEY, egress_private=["127.0.0.1:*"]) as served:
        async with httpx.AsyncClient(base_url=served.url) as http, receiving() as receiver:
            body = {"arguments": {"a": 1, "b": 2}, "callback": receiver.url()}
            await http.post("/v1/tools/Math.Add/calls", json=body, headers=ASYNC)
            [request] = await receiver.got(1)
            secrets = (await http.get("/v1/webhooks/secrets")).json()

    assert secrets["tenant"] is None
    assert verify_webhook(request.body, request.headers, secrets["secrets"])["data"]["data"] == {"result": 3}


async def test_a_gateway_that_is_killed_goes_on_telling_when_it_is_back_takes_six_seconds(tmp_path: Path) -> None:
    """It was to try again in five seconds; with the key that it made for itself, it signs as before."""
    opened = {"TOOL_EXECUTOR_EGRESS_PRIVATE": "127.0.0.1:*"}
    async with receiving(**{"/hook": 500}) as receiver, httpx.AsyncClient(timeout=20) as http:
        with serving(folder=tmp_path, **opened) as killed:
            options = {"callback": receiver.url()}
            call_id = await asyncio.to_thread(killed.accept, "add", options=options, a=1)
            for _ in range(2000):
                shown = (await http.get(f"{killed.url}/v1/deliveries/msg_{call_id}")).json()
                if shown.get("next_at"):
                    break
            killed.signal(signal.SIGKILL)
            killed.process.wait()
        receiver.answers.clear()

        with serving(folder=tmp_path, **opened) as again:
            first, second = await receiver.got(2)
            secrets = (await http.get(f"{again.url}/v1/webhooks/secrets")).json()["secrets"]

    assert verify_webhook(second.body, second.headers, secrets)["data"]["call_id"] == call_id
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
