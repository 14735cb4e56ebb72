"""Approvals over HTTP: who sees a question, who may answer it, and what becomes of the call."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.transports.gateway import Served, gateway
from toolpost import Approval, Tool
from toolpost.worker.calls import OPERATE


class Till:
    def __init__(self) -> None:
        self.paid: list[float] = []


def tools(till: Till) -> list[Any]:
    @Tool(
        name="Shop.Refund",
        description="Give money back.",
        approval=Approval(reason="money leaves the company", where={"amount": {"exclusiveMinimum": 100}}),
        register=False,
    )
    async def refund(order: int, amount: float, note: str = "") -> float:
        till.paid.append(amount)
        return amount

    @Tool(
        name="Shop.Close",
        description="Close the shop.",
        approval=Approval(approvers=("role:manager",)),
        register=False,
    )
    async def close(pin: str = "") -> str:
        return "closed"

    return [refund, close]


@pytest.fixture(scope="module")
def the_till() -> Till:
    return Till()


@pytest.fixture
def till(the_till: Till) -> Till:
    the_till.paid.clear()
    return the_till


@pytest.fixture(scope="module")
def served(the_till: Till) -> Iterator[Served]:
    with gateway(tools(the_till), authentication="required") as one:
        yield one


class Person:
    """Somebody with a key. Each test has a tenant of its own, in one gateway for all."""

    def __init__(self, served: Served, name: str, tenant: str | None, **rights: Any) -> None:
        self.served, self.name, self.tenant = served, name, tenant
        secret = served.executor.api_keys.create(user_id=name, tenant=tenant, **rights).secret
        self.headers = {"authorization": f"Bearer {secret}"}

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.served.client.get(path, params=params, headers=self.headers)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.served.client.post(path, json=body, headers=self.headers)

    def asks(self, tool: str = "Shop.Refund", **arguments: Any) -> Any:
        """Make a call that must be approved; the problem."""
        answer = self.post(f"/v1/tools/{tool}/calls", arguments=arguments or {"order": 17, "amount": 500})
        assert answer.status_code == 403, answer.text
        return answer.json()

    def sees(self, **params: Any) -> list[str]:
        answer = self.get("/v1/approvals", **params)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["approvals"]]


@pytest.fixture
def ann(served: Served, request: pytest.FixtureRequest) -> Person:
    return Person(served, "ann", request.node.name)


@pytest.fixture
def eve(served: Served, request: pytest.FixtureRequest) -> Person:
    return Person(served, "eve", request.node.name)


class TestTheJourney:
    def test_a_call_is_asked_about_approved_and_made_again(self, till: Till, ann: Person, eve: Person) -> None:
        problem = ann.asks()
        assert (problem["code"], problem["title"]) == ("approval_required", "Forbidden")
        path = problem["approval_url"].removeprefix(ann.served.url)
        assert path == f"/v1/approvals/{problem['approval_id']}"

        shown = eve.get(path).json()
        approved = eve.post(f"{path}/approve", reason="checked")
        again = ann.post("/v1/tools/Shop.Refund/calls", arguments={"order": 17, "amount": 500})

        assert (shown["state"], shown["user_id"], shown["decidable"]) == ("pending", "ann", True)
        assert shown["arguments"] == {"order": 17, "amount": 500.0, "note": ""}
        assert (approved.status_code, approved.json()["state"]) == (200, "approved")
        assert (approved.json()["decided_by"], approved.json()["decision_reason"]) == ("eve", "checked")
        assert (again.status_code, till.paid) == (200, [500.0])
        assert ann.asks()["approval_id"] != problem["approval_id"]

    def test_a_denial_tells_the_model_why(self, till: Till, ann: Person, eve: Person) -> None:
        its_id = ann.asks()["approval_id"]

        denied = eve.post(f"/v1/approvals/{its_id}/deny", reason="150 is the limit")

        assert denied.json()["state"] == "denied"
        problem = ann.asks()
        assert problem["code"] == "approval_denied"
        assert "150 is the limit" in problem["detail"]
        assert till.paid == []

    def test_another_call_is_approved_in_its_place_and_made(self, till: Till, ann: Person, eve: Person) -> None:
        its_id = ann.asks()["approval_id"]

        approved = eve.post(f"/v1/approvals/{its_id}/approve", arguments={"order": 17, "amount": 150}).json()
        made = ann.post(f"/v1/approvals/{its_id}/run")

        assert (approved["edited_from"], approved["arguments"]["amount"]) == (its_id, 150.0)
        assert eve.get(f"/v1/approvals/{its_id}").json()["edited_id"] == approved["id"]
        assert (made.status_code, made.json()["data"]) == (200, {"result": 150.0})
        assert till.paid == [150.0]

    def test_an_approved_call_is_run_once_and_recorded(self, till: Till, ann: Person, eve: Person) -> None:
        its_id = ann.asks()["approval_id"]
        eve.post(f"/v1/approvals/{its_id}/approve")

        made = ann.post(f"/v1/approvals/{its_id}/run")
        again = ann.post(f"/v1/approvals/{its_id}/run")

        assert (made.status_code, till.paid) == (200, [500.0])
        assert (again.status_code, again.json()["code"], again.json()["state"]) == (409, "conflict", "consumed")
        report = ann.get(f"/v1/calls/{made.json()['call_id']}").json()
        assert (report["state"], report["user_id"]) == ("succeeded", "ann")

    def test_what_is_not_approved_is_not_run(self, till: Till, ann: Person) -> None:
        its_id = ann.asks()["approval_id"]

        answer = ann.post(f"/v1/approvals/{its_id}/run")

        assert (answer.status_code, answer.json()["state"], till.paid) == (409, "pending", [])


class TestWhoMay:
    def test_nobody_approves_a_call_of_their_own(self, ann: Person) -> None:
        its_id = ann.asks()["approval_id"]

        answer = ann.post(f"/v1/approvals/{its_id}/approve")

        assert (answer.status_code, answer.json()["code"]) == (403, "denied")
        assert ann.get(f"/v1/approvals/{its_id}").json()["decidable"] is False

    def test_everybody_may_withdraw_a_call_of_their_own(self, ann: Person) -> None:
        its_id = ann.asks()["approval_id"]

        assert ann.post(f"/v1/approvals/{its_id}/deny", reason="a mistake").json()["state"] == "denied"

    def test_other_tenants_see_nothing(self, served: Served, ann: Person) -> None:
        its_id = ann.asks()["approval_id"]
        stranger = Person(served, "eve", tenant="other", scopes=[OPERATE])

        assert stranger.sees() == []
        assert stranger.get(f"/v1/approvals/{its_id}").status_code == 404
        assert stranger.post(f"/v1/approvals/{its_id}/approve").status_code == 404
        assert stranger.post(f"/v1/approvals/{its_id}/deny", reason="no").status_code == 404
        assert stranger.post(f"/v1/approvals/{its_id}/run").status_code == 404

    def test_those_who_may_not_decide_do_not_see_it_either(self, served: Served, ann: Person, eve: Person) -> None:
        its_id = ann.asks("Shop.Close", pin="1234")["approval_id"]
        manager = Person(served, "max", ann.tenant, roles=["manager"])

        assert (eve.sees(), manager.sees(), ann.sees()) == ([], [its_id], [its_id])
        assert eve.post(f"/v1/approvals/{its_id}/approve").status_code == 404
        assert manager.post(f"/v1/approvals/{its_id}/approve").json()["state"] == "approved"

    def test_operators_see_what_they_may_not_decide(self, served: Served, ann: Person) -> None:
        its_id = ann.asks("Shop.Close", pin="1")["approval_id"]
        operator = Person(served, "ops", None, scopes=[OPERATE])

        assert its_id in operator.sees()
        refused = operator.post(f"/v1/approvals/{its_id}/approve")
        assert (refused.status_code, refused.json()["code"]) == (403, "denied")

    def test_nobody_else_runs_it(self, till: Till, ann: Person, eve: Person) -> None:
        its_id = ann.asks()["approval_id"]
        eve.post(f"/v1/approvals/{its_id}/approve")

        answer = eve.post(f"/v1/approvals/{its_id}/run")

        assert (answer.status_code, till.paid) == (403, [])

    def test_nobody_decides_where_nobody_is_known(self, till: Till) -> None:
        with gateway(tools(till)) as served:
            body = {"arguments": {"order": 1, "amount": 500}, "user_id": "ann"}
            its_id = served.client.post("/v1/tools/Shop.Refund/calls", json=body).json()["approval_id"]

            refused = served.client.post(f"/v1/approvals/{its_id}/approve", json={})
            seen = served.client.get("/v1/approvals").json()["approvals"]
            served.executor.approvals.approve(its_id, by="eve")
            made = served.client.post(f"/v1/approvals/{its_id}/run")

        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert [one["id"] for one in seen] == [its_id]
        assert (made.status_code, till.paid) == (200, [500.0])


class TestWhatIsShown:
    def test_secrets_are_hidden(self, ann: Person, served: Served) -> None:
        its_id = ann.asks("Shop.Refund", order=1, amount=500, note="Bearer sk-live-0123456789abcdef0123456789")[
            "approval_id"
        ]

        text = Person(served, "eve", ann.tenant).get(f"/v1/approvals/{its_id}").text

        assert "0123456789abcdef" not in text

    def test_characters_that_nobody_sees_are_seen(self, ann: Person, eve: Person) -> None:
        its_id = ann.asks("Shop.Refund", order=1, amount=500, note="a\u202eb")["approval_id"]

        shown = eve.get(f"/v1/approvals/{its_id}").json()

        assert shown["arguments"]["note"] == "a\\u202eb"
        assert shown["odd"]

    def test_pages_go_from_the_oldest_to_the_newest(self, ann: Person, eve: Person) -> None:
        asked = [ann.asks("Shop.Refund", order=n, amount=500)["approval_id"] for n in range(5)]

        found: list[str] = []
        params: dict[str, Any] = {"limit": 2}
        while True:
            page = eve.get("/v1/approvals", **params).json()
            found += [one["id"] for one in page["approvals"]]
            if page["next"] is None:
                break
            params["after"] = page["next"]

        assert found == asked

    def test_those_that_stand_otherwise_are_asked_for(self, ann: Person, eve: Person) -> None:
        first, second = (ann.asks("Shop.Refund", order=n, amount=500)["approval_id"] for n in range(2))
        eve.post(f"/v1/approvals/{first}/approve")

        assert (eve.sees(), eve.sees(state="approved"), eve.sees(state="all")) == ([second], [first], [first, second])


class TestRefusals:
    @pytest.mark.parametrize(
        "params",
        [{"state": "maybe"}, {"limit": "0"}, {"limit": "x"}, {"after": "x"}, {"after": "x~y"}, {"else": "1"}],
        ids=str,
    )
    def test_a_query_that_cannot_be_is_refused(self, eve: Person, params: dict[str, str]) -> None:
        assert eve.get("/v1/approvals", **params).status_code == 400

    @pytest.mark.parametrize(
        ("what", "body", "pointer"),
        [
            ("deny", {}, "#/reason"),
            ("deny", {"reason": " "}, "#/reason"),
            ("deny", {"reason": 1}, "#/reason"),
            ("deny", {"reason": "x" * 2001}, "#/reason"),
            ("approve", {"arguments": []}, "#/arguments"),
            ("approve", {"arguments": {"order": "x", "amount": 1}}, "#/arguments/order"),
            ("approve", {"by": "eve"}, "#/by"),
            ("run", {"arguments": {}}, "#/arguments"),
        ],
    )
    def test_a_body_that_cannot_be_is_refused(
        self, ann: Person, eve: Person, what: str, body: dict[str, Any], pointer: str
    ) -> None:
        its_id = ann.asks()["approval_id"]

        answer = eve.post(f"/v1/approvals/{its_id}/{what}", **body)

        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, pointer)

    def test_an_answer_that_was_given_stays(self, ann: Person, eve: Person) -> None:
        its_id = ann.asks()["approval_id"]
        eve.post(f"/v1/approvals/{its_id}/approve")

        answer = eve.post(f"/v1/approvals/{its_id}/deny", reason="no")

        assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "conflict", "approved")

    def test_arguments_that_are_the_calls_own_are_no_change(self, ann: Person, eve: Person) -> None:
        its_id = ann.asks()["approval_id"]

        answer = eve.post(f"/v1/approvals/{its_id}/approve", arguments={"order": 17, "amount": 500})

        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")

    @pytest.mark.parametrize("what", ["", "/approve", "/deny", "/run"])
    def test_one_that_is_not_there_is_a_problem(self, eve: Person, what: str) -> None:
        path = f"/v1/approvals/nothing{what}"

        answer = eve.get(path) if not what else eve.post(path, **({"reason": "no"} if what == "/deny" else {}))

        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
