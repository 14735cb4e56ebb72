"""The commands that settle claims, hold shared circuits, migrate; and `call --explain`, `--idempotency-key`."""

import asyncio
from pathlib import Path

import orjson
import pytest

from tests.transports.cli_shop import answer, invoke
from toolpost import Idempotency, Tool, create_tool_call
from toolpost.testing import FakeClock, executor_for


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/records.db"


@pytest.fixture
def unknown_claim(database: str) -> str:
    """The key of a claim whose end nobody knows."""
    started = asyncio.Event()

    @Tool(name="Pay", register=False, idempotency=Idempotency())
    async def pay(n: int) -> int:
        started.set()
        await asyncio.Event().wait()
        return n

    async def give_up() -> str:
        clock = FakeClock()
        with executor_for(pay, clock=clock, records_url=database) as executor:
            call = asyncio.ensure_future(executor.execute_tool_call(create_tool_call("Pay", {"n": 1})))
            await started.wait()
            clock.advance(60)
            await call
            (claim,) = await asyncio.to_thread(executor.claims().unsettled)
            return claim.key

    return asyncio.run(give_up())


def test_claims_of_unknown_end_are_listed(database: str, unknown_claim: str) -> None:
    (claim,) = answer("claims", "list", "--set", f"records_url={database}", "--json")
    lines = invoke("claims", "list", "--set", f"records_url={database}").stdout.splitlines()

    assert (claim["key"], claim["tool"], claim["state"]) == (unknown_claim, "Pay", "unknown")
    assert lines[1].split()[:3] == [unknown_claim, "Pay", "unknown"]


def test_a_claim_is_settled_with_a_result(database: str, unknown_claim: str) -> None:
    done = invoke("claims", "settle", unknown_claim, '{"n": 7}', "--set", f"records_url={database}")
    shown = answer("claims", "show", unknown_claim, "--set", f"records_url={database}", "--json")
    again = invoke("claims", "settle", unknown_claim, "8", "--set", f"records_url={database}")

    assert (done.exit_code, done.stdout) == (0, f"{unknown_claim} is settled\n")
    assert (shown["state"], shown["result"]) == ("done", 'J{"n":7}')
    assert again.exit_code == 1
    assert "is no claim of unknown end" in again.stderr


def test_a_claim_is_forgotten(database: str, unknown_claim: str) -> None:
    done = invoke("claims", "forget", unknown_claim, "--set", f"records_url={database}")
    shown = invoke("claims", "show", unknown_claim, "--set", f"records_url={database}")

    assert (done.exit_code, shown.exit_code) == (0, 1)
    assert shown.stderr == f"there is no claim '{unknown_claim}'\n"


def test_tables_are_migrated_once(database: str) -> None:
    first = answer("migrate", "--set", f"records_url={database}", "--json")
    second = invoke("migrate", "--set", f"records_url={database}")

    assert first["applied"]
    assert first["version"] == len(first["applied"])
    assert "nothing to do" in second.stdout


def test_a_shared_circuit_is_held_and_let_go(redis_url: str) -> None:
    where = ("--set", f"state_url={redis_url}")

    opened = answer("circuits", "open", "orders", *where, "--json")
    shown = invoke("circuits", "show", "orders", *where).stdout
    closed = answer("circuits", "close", "orders", *where, "--json")
    reset = answer("circuits", "reset", "orders", *where, "--json")

    assert (opened["state"], opened["forced"], opened["admitted"]) == ("open", "open", False)
    assert shown == "orders: forced open\n"
    assert (closed["forced"], closed["admitted"]) == ("closed", True)
    assert (reset["forced"], reset["state"]) == ("", "closed")


def test_a_call_is_explained_beside_its_value() -> None:
    result = invoke("call", "add", "a=1", "--explain")
    in_json = answer("call", "add", "a=1", "--explain", "--json")

    assert orjson.loads(result.stdout) == {"result": 3}
    assert result.stderr.splitlines()[0].split() == ["stage", "decision", "us", "rule"]
    assert "validate" in result.stderr
    assert [entry["stage"] for entry in in_json["explanation"]][:4] == ["settle", "trace", "audit", "validate"]


def test_a_call_tells_its_idempotency_key() -> None:
    told = answer("call", "told", "--idempotency-key", "k-1", "--json")

    assert told["data"]["idempotency_key"] == "k-1"


def test_a_store_that_is_away_is_said_in_one_sentence() -> None:
    result = invoke("claims", "list", "--set", "records_url=postgresql://nobody:hunter2@127.0.0.1:1/none")

    assert result.exit_code == 2
    assert "127.0.0.1:1" in result.stderr
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        (("circuits", "show", "orders"), "state_url"),
        (("circuits", "open", "orders"), "state_url"),
        (("circuits", "reset", "orders"), "state_url"),
        (("claims", "list"), "records_url"),
        (("claims", "list", "--in", "state"), "state_url"),
        (("claims", "forget", "k"), "records_url"),
    ],
)
def test_a_store_that_only_this_process_sees_is_refused(command: tuple[str, ...], setting: str) -> None:
    result = invoke(*command)

    assert result.exit_code == 2
    assert f"{setting} names no store that other processes share" in result.stderr
