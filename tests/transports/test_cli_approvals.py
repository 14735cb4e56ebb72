"""`toolpost approvals`: list, show, approve and deny, for people and for scripts."""

from pathlib import Path

import orjson
import pytest

from tests.transports.cli_shop import answer, invoke
from toolpost import Approval, Tool, create_tool_call
from toolpost.testing import executor_for


@Tool(name="Shop.Refund", register=False, approval=Approval(reason="money leaves"))
def refund(order: int, note: str = "") -> int:
    """Give money back."""
    return order


TOOLS = [refund]
HERE = f"{Path(__file__).resolve()}:TOOLS"


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/records.db"


def make(database: str, order: int = 1, **more: object) -> object:
    """The result of a call by ann."""
    with executor_for(refund, records_url=database) as executor:
        return executor.execute_sync(create_tool_call("Shop.Refund", {"order": order, **more}, user_id="ann"))


def ask(database: str, **more: object) -> str:
    return make(database, **more).failure.details["approval_id"]


def run(database: str, *arguments: str) -> object:
    return invoke("approvals", *arguments, "--set", f"records_url={database}", tools=False)


def told(database: str, *arguments: str) -> object:
    return answer("approvals", *arguments, "--set", f"records_url={database}", "--json", tools=False)


def test_what_waits_is_listed(database: str) -> None:
    first, second = ask(database), ask(database, order=2)

    lines = run(database, "list").stdout.splitlines()
    assert lines[0].split("  ")[0] == "approval"
    assert [line.split()[:4] for line in lines[1:]] == [
        [first, "Shop.Refund", "ann", "pending"],
        [second, "Shop.Refund", "ann", "pending"],
    ]
    assert '{"order":1,"note":""}' in lines[1]
    assert [one["id"] for one in told(database, "list")] == [first, second]
    assert [one["id"] for one in told(database, "list", "--limit", "1")] == [first]
    assert told(database, "list", "--state", "denied") == told(database, "list", "--tenant", "acme") == []
    assert len(told(database, "list", "--all")) == 2


def test_one_is_shown_with_all_that_an_approver_needs(database: str) -> None:
    approval_id = ask(database, note="for\u202e you")

    shown = orjson.loads(run(database, "show", approval_id).stdout)

    assert (shown["tool"], shown["reason"], shown["state"]) == ("Shop.Refund", "money leaves", "pending")
    assert shown["arguments"] == {"order": 1, "note": "for\\u202e you"}
    assert shown["odd"] == ["/note has U+202E RIGHT-TO-LEFT OVERRIDE at character 4"]
    assert [event["what"] for event in shown["history"]] == ["asked"]


def test_an_approved_call_runs_once(database: str) -> None:
    approval_id = ask(database)

    done = run(database, "approve", approval_id, "--by", "eve", "--reason", "paid twice")

    assert (done.exit_code, done.stdout) == (0, f"{approval_id} is approved\n")
    assert make(database).success
    assert make(database).failure.code == "approval_required"
    shown = told(database, "show", approval_id)
    assert (shown["state"], shown["decided_by"], shown["decision_reason"]) == ("consumed", "eve", "paid twice")


def test_a_denied_call_is_told_the_reason(database: str) -> None:
    approval_id = ask(database)

    assert told(database, "deny", approval_id, "--reason", "it was never paid", "--by", "eve")["state"] == "denied"
    assert "it was never paid" in make(database).failure.message
    assert run(database, "deny", approval_id).exit_code == 2  # without a reason


def test_other_arguments_are_approved_where_their_tool_is_loaded(database: str) -> None:
    approval_id = ask(database)
    edited = ("approve", approval_id, "--arguments", '{"order": 7}', "--by", "eve")

    alone, wrong = run(database, *edited), run(database, *edited[:3], '{"order": "x"}', "--tools", HERE)
    done = run(database, *edited, "--tools", HERE)

    assert (alone.exit_code, wrong.exit_code, done.exit_code) == (1, 1, 0)
    assert "is not loaded here" in alone.stderr
    assert "'order' must be an integer" in wrong.stderr
    assert done.stdout.startswith(f"{approval_id} is approved with other arguments, as ")
    assert make(database).failure.details["arguments"] == {"order": 7, "note": ""}
    assert make(database, order=7).success


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("approve", "nothing", "--by", "eve"), "is not there"),
        (("deny", "nothing", "--by", "eve", "--reason", "x"), "is not there"),
        (("show", "nothing"), "there is no approval"),
    ],
)
def test_what_is_not_there_ends_with_1(database: str, arguments: tuple[str, ...], said: str) -> None:
    plain, scripted = run(database, *arguments), run(database, *arguments, "--json")

    assert (plain.exit_code, scripted.exit_code) == (1, 1)
    assert said in plain.stderr
    assert said in orjson.loads(scripted.stderr)["error"]["message"]


def test_whoever_made_the_call_does_not_approve_it(database: str) -> None:
    done = run(database, "approve", ask(database), "--by", "ann")

    assert done.exit_code == 1
    assert "nobody approves a call of their own" in done.stderr


def test_whoever_runs_the_command_decides_by_default(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "operator")

    assert told(database, "approve", ask(database))["decided_by"] == "operator"


@pytest.mark.parametrize("arguments", [("list",), ("show", "x"), ("approve", "x"), ("deny", "x", "--reason", "y")])
def test_records_that_nobody_else_sees_are_refused(arguments: tuple[str, ...]) -> None:
    done = invoke("approvals", *arguments, tools=False)

    assert done.exit_code == 2
    assert "records_url names no store that other processes share" in done.stderr


def test_arguments_that_are_no_object_are_wrong_usage(database: str) -> None:
    assert run(database, "approve", "x", "--arguments", "[1]").exit_code == 2
