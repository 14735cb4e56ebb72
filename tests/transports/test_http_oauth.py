"""Grants at OAuth providers over HTTP: begun, answered at the callback's page, confirmed by their user, and ended."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.protected_api import ProtectedApi
from tests.services import Oidc
from tests.transports.gateway import Served, gateway
from toolpost import AuthorizationManager, OAuth, Tool, ToolContext, ToolExecutor
from toolpost.engine.registry import ToolRegistry
from toolpost.security.oauth_parked import TRIES
from toolpost.transports import http_oauth

CODE = re.compile(r"<strong>([A-Z]{4}-[A-Z]{4})</strong>")


@Tool(name="Mail.Inbox", description="Read my inbox.", oauth=OAuth(scopes=("read",)), register=False)
async def inbox(ctx: ToolContext) -> int:
    return len(await ctx.token())


@Tool(name="Quick.Add", description="Add.", register=False)
async def add(a: int, b: int) -> int:
    return a + b


def executor_for(oidc: Oidc, **settings: Any) -> ToolExecutor:
    manager = AuthorizationManager(oidc.client_id, oidc.client_secret, oidc.redirect_uri, issuer=oidc.issuer)
    return ToolExecutor({"drain_timeout": 5.0, **settings}, registry=ToolRegistry(), authorization=manager)


@pytest.fixture(scope="module")
def served(oidc_server: Oidc) -> Iterator[Served]:
    with gateway([inbox, add], executor=executor_for(oidc_server, authentication="required")) as one:
        yield one


class Person:
    """Somebody with a key, and a browser at the provider. Each test has a tenant of its own, in one gateway for all."""

    def __init__(self, served: Served, oidc: Oidc, name: str, tenant: str) -> None:
        self.served, self.oidc, self.name, self.tenant = served, oidc, name, tenant
        secret = served.executor.api_keys.create(user_id=name, tenant=tenant).secret
        self.headers = {"authorization": f"Bearer {secret}"}

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.served.client.request(method, path, headers=self.headers, **options)

    def begin(self, **body: Any) -> Any:
        answer = self.ask("POST", "/v1/authorizations", json={"tool": "Mail.Inbox", **body})
        assert answer.status_code == 201, answer.text
        assert answer.headers["location"] == f"{self.served.url}/v1/authorizations/{answer.json()['id']}"
        return answer.json()

    def callback(self, flow: Any, **options: Any) -> httpx.Response:
        """Log in at the provider, and open what it sends the browser back to, in a browser that has no key."""
        url = urlsplit(self.oidc.login(flow["authorization_url"], user=self.name, **options))
        return httpx.get(f"{self.served.url}{url.path}?{url.query}")

    def confirm(self, flow: Any, code: str) -> httpx.Response:
        return self.ask("POST", f"/v1/authorizations/{flow['id']}/complete", json={"confirmation": code})

    def status(self, flow: Any, **params: Any) -> str:
        path = f"{self.served.url}/v1/authorizations/{flow['id']}"
        told: str = httpx.get(path, params=params, headers=self.headers, timeout=30).json()["status"]
        return told

    def calls(self) -> httpx.Response:
        return self.ask("POST", "/v1/tools/Mail.Inbox/calls", json={})


@pytest.fixture
def ann(served: Served, oidc: Oidc, request: pytest.FixtureRequest) -> Person:
    return Person(served, oidc, "ann", request.node.name)


@pytest.fixture
def bob(served: Served, oidc: Oidc, request: pytest.FixtureRequest) -> Person:
    return Person(served, oidc, "bob", request.node.name)


def code_on(page: httpx.Response) -> str:
    found = CODE.search(page.text)
    assert found is not None, page.text
    return found[1]


class TestTheJourney:
    def test_a_refused_call_leads_to_a_grant_and_then_runs(self, ann: Person) -> None:
        refused = ann.calls()
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (401, "authorization_required")
        flow = ann.ask("GET", f"/v1/authorizations/{problem['flow_id']}").json()
        assert flow["authorization_url"] == problem["authorization_url"]

        page = ann.callback(flow)
        assert ann.status(flow) == "answered"
        done = ann.confirm(flow, code_on(page))

        assert (done.status_code, done.json()["status"]) == (200, "completed")
        assert ann.calls().status_code == 200

    def test_a_flow_is_begun_by_hand_for_what_a_tool_needs(self, ann: Person) -> None:
        flow = ann.begin()

        assert (flow["status"], flow["scopes"], flow["tool"], flow["provider"]) == (
            "pending",
            ["read"],
            "Mail.Inbox",
            "default",
        )
        assert ann.confirm(flow, code_on(ann.callback(flow))).json()["status"] == "completed"
        assert "authorization_url" not in ann.ask("GET", f"/v1/authorizations/{flow['id']}").json()

    def test_an_application_of_its_own_completes_with_its_callbacks_url(self, ann: Person, oidc: Oidc) -> None:
        flow = ann.begin()
        url = oidc.login(flow["authorization_url"], user="ann")

        done = ann.ask("POST", f"/v1/authorizations/{flow['id']}/complete", json={"callback_url": url})

        assert done.json()["status"] == "completed"

    def test_who_waits_is_told_of_the_answer(self, ann: Person) -> None:
        flow = ann.begin()
        page = ann.callback(flow)

        told = ann.ask("GET", f"/v1/authorizations/{flow['id']}", params={"wait": 0})
        ann.confirm(flow, code_on(page))
        over = ann.ask("GET", f"/v1/authorizations/{flow['id']}", params={"wait": 20})

        assert (told.json()["status"], over.json()["status"]) == ("answered", "completed")

    def test_a_long_poll_ends_with_each_change(
        self, ann: Person, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_oauth, "LOOK_S", 60.0)  # so that only what is told here ends it
        flow = ann.begin()
        waiting = served.app.door.state.setdefault("authorizations", {})

        def told_of(change: Callable[[], Any]) -> tuple[str, Any]:
            heard: list[str] = []
            poll = threading.Thread(target=lambda: heard.append(ann.status(flow, wait=20)))
            poll.start()
            while not waiting:
                pass
            changed = change()
            poll.join()
            return heard[0], changed

        answered, page = told_of(lambda: ann.callback(flow))
        completed, _ = told_of(lambda: ann.confirm(flow, code_on(page)))

        assert (answered, completed) == ("answered", "completed")
        assert waiting == {}

    def test_what_was_granted_is_listed_without_tokens_and_ended(self, ann: Person, oidc: Oidc) -> None:
        flow = ann.begin()
        ann.confirm(flow, code_on(ann.callback(flow)))

        listed = ann.ask("GET", "/v1/authorizations")
        ended = ann.ask("DELETE", "/v1/authorizations")

        grant = listed.json()["authorizations"][0]
        assert (grant["provider"], grant["scopes"], grant["tool"]) == ("default", ["read"], "Mail.Inbox")
        assert "token" not in listed.text
        assert ended.json() == {"found": True, "at_provider": True, "why": None}
        assert ann.ask("GET", "/v1/authorizations").json()["authorizations"] == []
        assert ann.calls().status_code == 401

    def test_a_completed_flow_is_ended_with_its_grant(self, ann: Person) -> None:
        flow = ann.begin()
        ann.confirm(flow, code_on(ann.callback(flow)))

        ended = ann.ask("DELETE", f"/v1/authorizations/{flow['id']}")

        assert ended.json()["found"] is True
        assert ann.ask("GET", f"/v1/authorizations/{flow['id']}").status_code == 404
        assert ann.calls().status_code == 401

    def test_a_flow_that_was_forgotten_takes_no_answer(self, ann: Person) -> None:
        flow = ann.begin()
        ann.ask("DELETE", f"/v1/authorizations/{flow['id']}")

        assert ann.callback(flow).status_code == 404

    def test_where_nobody_is_asked_who_they_are_users_are_named(self, oidc: Oidc) -> None:
        with gateway([inbox], executor=executor_for(oidc)) as served:
            client = served.client
            none = client.post("/v1/authorizations", json={"tool": "Mail.Inbox"})
            flow = client.post("/v1/authorizations", json={"tool": "Mail.Inbox", "user_id": "ann"}).json()
            url = urlsplit(oidc.login(flow["authorization_url"], user="ann"))
            page = client.get(f"{url.path}?{url.query}")
            path = f"/v1/authorizations/{flow['id']}/complete"
            done = client.post(path, json={"confirmation": code_on(page)})
            grants = client.get("/v1/authorizations", params={"user_id": "ann"}).json()["authorizations"]

        assert none.status_code == 400
        assert done.json()["status"] == "completed"
        assert len(grants) == 1


class TestThePage:
    def test_it_says_no_more_than_it_must(self, ann: Person, oidc: Oidc) -> None:
        flow = ann.begin()
        url = urlsplit(oidc.login(flow["authorization_url"], user="ann"))

        page = httpx.get(f"{ann.served.url}{url.path}?{url.query}&more=<script>alert(1)</script>")

        assert page.status_code == 200
        assert "<script" not in page.text
        assert all(value not in page.text for value in ("alert", flow["id"], *url.query.split("&")))
        headers = page.headers
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert headers.get_list("content-security-policy") == [headers["content-security-policy"]]

    def test_it_names_the_user_and_reads_as_text(self, served: Served, oidc: Oidc) -> None:
        odd = Person(served, oidc, "<b>ann</b>", "odd")
        page = odd.callback(odd.begin())

        assert "&lt;b&gt;ann&lt;/b&gt;" in page.text

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("", 400),
            ("code=z", 400),
            ("state=a.b&state=a.b&code=z", 400),
            ("state=x", 404),
            ("state=x.y&code=z", 404),
            ("state=x.y&code=z&code=z", 404),
            ("error=access_denied&state=x.y", 404),
        ],
    )
    def test_an_answer_to_nothing_is_not_used(self, served: Served, query: str, status: int) -> None:
        page = served.client.get(f"/oauth/callback?{query}")

        assert page.status_code == status
        assert "was not used" in page.text
        assert CODE.search(page.text) is None

    def test_an_answer_with_another_state_is_not_used(self, ann: Person, oidc: Oidc) -> None:
        flow = ann.begin()
        url = oidc.login(flow["authorization_url"], user="ann")

        page = ann.served.client.get(
            "/oauth/callback", params={**dict(httpx.URL(url).params), "state": f"{flow['id']}.other"}
        )

        assert page.status_code == 404
        assert ann.status(flow) == "pending"

    def test_an_answer_is_taken_once(self, ann: Person, oidc: Oidc) -> None:
        flow = ann.begin()
        url = urlsplit(oidc.login(flow["authorization_url"], user="ann"))
        first, second = (httpx.get(f"{ann.served.url}{url.path}?{url.query}") for _ in range(2))

        assert (first.status_code, second.status_code) == (200, 404)
        assert ann.confirm(flow, code_on(first)).status_code == 200
        assert httpx.get(f"{ann.served.url}{url.path}?{url.query}").status_code == 404

    def test_a_person_who_says_no_is_told_that_nothing_changed(self, ann: Person) -> None:
        flow = ann.begin()

        page = ann.callback(flow, deny=True)

        assert (page.status_code, CODE.search(page.text)) == (200, None)
        assert "was not granted" in page.text
        assert ann.status(flow) == "denied"

    def test_it_is_where_the_redirect_uri_says(self, oidc: Oidc) -> None:
        manager = AuthorizationManager(
            "a",
            "b",
            "https://app.example/back/here",
            authorization_endpoint=f"{oidc.url}/auth",
            token_endpoint=oidc.url,
        )
        executor = ToolExecutor({"drain_timeout": 5.0}, registry=ToolRegistry(), authorization=manager)

        with gateway(executor=executor) as served:
            assert served.client.get("/back/here?state=x").status_code == 404
            assert served.client.get("/oauth/callback").json()["code"] == "not_found"


class TestWhoseItIs:
    def test_nobody_gets_the_account_of_whomever_they_had_open_their_url(self, ann: Person, bob: Person) -> None:
        flow = bob.begin()
        page = ann.callback(flow)  # Ann was sent Bob's URL, and logs in
        guesses = [bob.confirm(flow, "BCDF-GHJK") for _ in range(TRIES)]

        assert "bob" in page.text
        assert {one.status_code for one in guesses} == {403}
        late = bob.confirm(flow, code_on(page))  # even the right one, after too many wrong ones
        assert (late.status_code, late.json()["state"]) == (409, "failed")
        assert ann.callback(flow).status_code == 404
        assert bob.calls().status_code == 401

    def test_a_code_serves_its_own_user_only(self, ann: Person, bob: Person) -> None:
        flow = ann.begin()
        code = code_on(ann.callback(flow))

        stolen = bob.confirm(flow, code)

        assert stolen.status_code == 404
        assert bob.ask("GET", f"/v1/authorizations/{flow['id']}").status_code == 404
        assert bob.ask("DELETE", f"/v1/authorizations/{flow['id']}").status_code == 404
        assert ann.confirm(flow, code.lower().replace("-", " ")).status_code == 200

    def test_a_callback_of_another_flow_is_refused(self, ann: Person, bob: Person, oidc: Oidc) -> None:
        mine, other = ann.begin(), bob.begin()
        url = oidc.login(other["authorization_url"], user="bob")

        refused = ann.ask("POST", f"/v1/authorizations/{mine['id']}/complete", json={"callback_url": url})

        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (403, "#/callback_url")

    def test_a_flow_that_is_over_is_not_completed_again(self, ann: Person) -> None:
        flow = ann.begin()
        code = code_on(ann.callback(flow))
        ann.confirm(flow, code)

        again = ann.confirm(flow, code)

        assert (again.status_code, again.json()["state"]) == (409, "completed")

    def test_other_tenants_users_of_the_name_are_others(self, served: Served, oidc: Oidc, ann: Person) -> None:
        flow = ann.begin()

        assert (
            Person(served, oidc, "ann", tenant="other").ask("GET", f"/v1/authorizations/{flow['id']}").status_code
            == 404
        )


def test_what_became_of_an_answer_is_audited(oidc: Oidc) -> None:
    executor = executor_for(oidc, audit="on")
    with gateway([inbox], executor=executor) as served:
        path = "/v1/authorizations"
        flow = served.client.post(path, json={"tool": "Mail.Inbox", "user_id": "ann"}).json()
        url = urlsplit(oidc.login(flow["authorization_url"], user="ann"))
        page = served.client.get(f"{url.path}?{url.query}")
        for code in ("BCDF-GHJK", code_on(page)):
            served.client.post(f"{path}/{flow['id']}/complete", json={"confirmation": code})
        flow = served.client.post(path, json={"tool": "Mail.Inbox", "user_id": "ann", "scopes": ["write"]}).json()
        url = urlsplit(oidc.login(flow["authorization_url"], user="ann", deny=True))
        served.client.get(f"{url.path}?{url.query}")

        rows = [json.loads(row.body) for row in executor.audit.newest(100)]

    grants = [row for row in rows if row["kind"].startswith("grant.")]
    assert [(row["kind"], row["data"].get("reason")) for row in grants] == [
        ("grant.refused", "the code was not the one that was shown"),
        ("grant.given", None),
        ("grant.refused", "the person said no"),
    ]


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({}, 400),
            ({"tool": "Quick.Add"}, 409),
            ({"tool": "Mail.Nothing"}, 404),
            ({"tool": "Mail.Inbox", "provider": "other"}, 400),
            ({"tool": "Mail.Inbox", "scopes": ["a b"]}, 400),
            ({"tool": "Mail.Inbox", "scopes": [{}]}, 400),
            ({"tool": "Mail.Inbox", "user_id": "bob"}, 403),
            ({"tool": 1}, 400),
            ([], 400),
        ],
        ids=str,
    )
    def test_what_cannot_be_begun_is_refused(self, ann: Person, body: Any, status: int) -> None:
        assert ann.ask("POST", "/v1/authorizations", json=body).status_code == status

    @pytest.mark.parametrize(
        "body", [{}, {"confirmation": "a", "callback_url": "b"}, {"confirmation": 1}, {"code": "x"}], ids=str
    )
    def test_a_completion_is_one_of_two_things(self, ann: Person, body: Any) -> None:
        flow = ann.begin()

        assert ann.ask("POST", f"/v1/authorizations/{flow['id']}/complete", json=body).status_code == 400

    def test_a_provider_that_is_away_is_told(self, own_oidc: Oidc) -> None:
        with gateway([inbox], executor=executor_for(own_oidc)) as served:
            own_oidc.stop()
            answer = served.client.post("/v1/authorizations", json={"tool": "Mail.Inbox", "user_id": "ann"})

        assert answer.status_code == 502

    def test_without_a_provider_there_is_nothing(self) -> None:
        with gateway([add]) as served:
            begun = served.client.post("/v1/authorizations", json={"tool": "Quick.Add", "user_id": "ann"})

            assert (begun.status_code, begun.json()["code"]) == (404, "not_found")
            assert served.client.get("/oauth/callback").status_code == 400


def test_tokens_reach_the_api(oidc: Oidc, ann: Person) -> None:
    with ProtectedApi(oidc) as api:
        flow = ann.begin()
        ann.confirm(flow, code_on(ann.callback(flow)))
        grant = ann.served.run(
            ann.served.executor.authorizations.validate_authorization("ann", "Mail.Inbox", ["read"], tenant=ann.tenant)
        )

        assert httpx.get(api.url, headers={"authorization": f"Bearer {grant.access_token}"}).json() == {"owner": "ann"}
