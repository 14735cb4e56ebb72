"""The benchmarks run and report in the shape that README.md and CI read; how fast anything was is not asserted."""

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import Contender, Missing, WrongAnswerError, interleaved, rows, sample, table

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--rounds", "2", "--calls", "10", "--batch", "40"]
OURS = """async/run_async async/run_async-default async/execute_async async/call async/execute_tool_call async/cache-hit
    suspends/run_async text/run_async text/run_async-quoted sync/run-leaf sync/call-inline sync/cache-hit thread/run
    hop/run_async batch/execute_batch batch/execute_batch-suspending""".split()
FLOORS = """async/pydantic suspends/pydantic text/pydantic sync/pydantic thread/submit hop/to_thread batch/gather
    batch/gather-suspending""".split()


def run(script: str, *arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run a benchmark in a process of its own, as a person would; without names a module that is not installed."""
    command = [sys.executable, f"benchmarks/{script}"]
    if without:
        start = f"import runpy, sys; sys.modules[{without!r}] = None; sys.path.insert(0, 'benchmarks'); "
        command = [sys.executable, "-c", f"{start}runpy.run_path('benchmarks/{script}', run_name='__main__')"]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)


def report(script: str, tmp_path: Path, *arguments: str, without: str = "") -> dict[str, Any]:
    """What a benchmark wrote with --json."""
    path = tmp_path / "new folder" / "report.json"
    done = run(script, *arguments, "--json", str(path), without=without)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def contender(name: str, loop: Any = None, **more: Any) -> Contender:
    return Contender(name=name, what=name, loop=loop or (lambda n: 3), **more)


# What is made of the figures.


def test_a_row_over_its_bar_or_dearer_than_what_it_must_undercut_is_over() -> None:
    made = [
        contender("floor"),
        contender("within", floor="floor", bar=2.0, below="peer"),
        contender("over", floor="floor", bar=1.5),
        contender("dearer", floor="floor", bar=9.0, below="peer"),
        contender("unjudged", floor="floor"),
        contender("peer", floor="floor"),
    ]
    times = {"floor": 1.0, "within": 2.0, "over": 2.0, "dearer": 4.0, "unjudged": 9.0, "peer": 3.0}

    found = {row["name"]: row for row in rows(made, {name: [time * 1e-6] * 3 for name, time in times.items()})}

    assert {name: row["within"] for name, row in found.items()} == {
        "floor": None,
        "within": True,
        "over": False,
        "dearer": False,
        "unjudged": None,
        "peer": None,
    }
    assert found["dearer"]["ratio"] == pytest.approx(4.0)


def test_figures_are_medians_of_rounds_in_microseconds() -> None:
    [row] = rows([contender("a")], {"a": [5e-6, 1e-6, 2e-6]})

    assert (row["median_us"], row["min_us"], row["max_us"]) == pytest.approx((2.0, 1.0, 5.0))


def test_the_table_names_what_is_over_and_what_could_not_run() -> None:
    made = [
        contender("floor"),
        contender("slow", floor="floor", bar=2.0),
        Missing(name="gone", what="", why="not installed"),
    ]

    lines = table(rows(made, {"floor": [1e-6], "slow": [3e-6]})).splitlines()

    assert lines[2].split() == ["slow", "cpu", *["3.00"] * 4, "floor", "<=", "2", "OVER"]
    assert lines[3].split() == ["gone", "not", "installed"]


def test_a_contender_that_answers_wrong_is_not_timed() -> None:
    async def fails(n: int) -> str:
        return "an error"

    with asyncio.Runner() as runner, pytest.raises(WrongAnswerError, match="liar answered 'an error', not 3"):
        sample(contender("liar", fails), 1, runner)


def test_every_round_takes_every_contender_once() -> None:
    made = [contender("sync"), contender("batch", calls=7)]

    with asyncio.Runner() as runner:
        samples = interleaved(made, rounds=3, calls=4, runner=runner)

    assert {name: len(times) for name, times in samples.items()} == {"sync": 3, "batch": 3}


# The scripts. Each test starts an interpreter that imports toolpost, so it takes longer than others.


def test_overhead_measures_every_row_against_a_floor_of_the_same_run(tmp_path: Path) -> None:
    found = report("overhead.py", tmp_path, *TINY, "--no-peers")

    by_name = {row["name"]: row for row in found["rows"]}
    assert set(by_name) >= {*OURS, *FLOORS, "async/bare", "async/validate_call", "sync/bare", "sync/validate_call"}
    for row in found["rows"]:
        assert row["status"] == "measured"
        assert 0 < row["min_us"] <= row["median_us"] <= row["max_us"]
        assert row["ratio"] == pytest.approx(row["median_us"] / by_name[row["floor"]]["median_us"])
        assert isinstance(row["within"], bool if row["bar"] else type(None))
    assert {name: row["bar"] for name, row in by_name.items() if row["bar"]} == {
        "async/run_async": 4.5,
        "async/run_async-default": 4.5,
        "async/execute_async": 4.5,
        "async/call": 4.5,
        "sync/run-leaf": 3.5,
        "sync/call-inline": 3.5,
        "async/cache-hit": 3.0,
        "sync/cache-hit": 3.0,
        "batch/execute_batch": 1.5,
    }
    assert found["over"] == [row["name"] for row in found["rows"] if row["within"] is False]
    assert set(found["machine"]) >= {"python", "cpus", "processor", "versions"}
    assert found["machine"]["versions"]["pydantic"]


def test_overhead_says_which_peer_is_not_installed(tmp_path: Path) -> None:
    found = report("overhead.py", tmp_path, *TINY, "--only", "async/mcp", without="mcp.server")

    assert [(row["name"], row["status"]) for row in found["rows"]] == [("async/mcp", "not installed (mcp.server)")]


def test_overhead_keeps_the_floor_of_what_was_chosen(tmp_path: Path) -> None:
    found = report("overhead.py", tmp_path, *TINY, "--no-peers", "--only", "sync/run-*")

    assert [row["name"] for row in found["rows"]] == ["sync/pydantic", "sync/run-leaf"]


def test_overhead_refuses_a_name_that_no_contender_has() -> None:
    done = run("overhead.py", "--no-peers", "--only", "async/nothing")

    assert done.returncode == 2
    assert "no contender is called async/nothing; see --list" in done.stderr


def test_overhead_shows_where_the_time_of_one_contender_goes() -> None:
    done = run("overhead.py", *TINY, "--profile", "batch/execute_batch")

    assert done.returncode == 0, done.stderr
    assert "40 calls of batch/execute_batch" in done.stdout
    assert "settle.py" in done.stdout


def test_imports_compares_cold_processes(tmp_path: Path) -> None:
    found = report("imports.py", tmp_path, "--rounds", "1")

    by_name = {row["name"]: row for row in found["rows"]}
    ours = by_name["from toolpost import ToolExecutor, BaseTool, Tool"]
    assert ours["of"] == "from pydantic import BaseModel"
    assert ours["ratio"] == pytest.approx(ours["cpu_ms"] / by_name[ours["of"]]["cpu_ms"])
    assert by_name["import toolpost"]["modules"] < ours["modules"]
    assert by_name["pass"]["modules"] == 0
    assert isinstance(ours["within"], bool)


def test_memory_looks_at_both_kinds_of_growth_and_at_the_peak_of_a_batch(tmp_path: Path) -> None:
    tiny = ["--calls", "2560", "--batch", "20", "--only", "run_async", "--only", "execute_batch"]

    found = report("memory.py", tmp_path, *tiny)

    [scenario], [batch] = found["scenarios"], found["batches"]
    assert (scenario["name"], scenario["calls"], scenario["flat"]) == ("run_async", 2816, None)
    assert len(scenario["rss_mb"]) == len(scenario["blocks"]) == 11
    assert {"rss_growth_mb_per_100k", "block_growth_per_100k", "took_s"} <= set(scenario)
    assert (batch["name"], batch["items"]) == ("execute_batch", 20)
    assert batch["peak_mb"] > 0


POLICIES = """one/none one/limit one/concurrency one/once-first one/once-replay one/cache-miss one/cache-hit one/breaker
    one/breaker-open one/retry one/attempt all/miss all/replay all/cache-hit all/cache-hit-claimed all/miss-call
    all/miss-explain users/10 users/10000""".split()
REDIS = "limit once-first once-replay cache-miss cache-hit three-miss three-hit three-replay".split()


def test_policies_measures_each_alone_and_all_together_against_a_floor_of_the_same_run(tmp_path: Path) -> None:
    found = report("policies.py", tmp_path, "--rounds", "1", "--calls", "5", "--no-redis")

    by_name = {row["name"]: row for row in found["rows"]}
    assert set(by_name) == {*POLICIES, "one/pydantic", "all/pydantic"}
    for row in found["rows"]:
        assert row["status"] == "measured"
        assert row["ratio"] == pytest.approx(row["median_us"] / by_name[row["floor"]]["median_us"])
    assert {name: row["bar"] for name, row in by_name.items() if row["bar"]} == {
        "all/miss": 12.0,
        "all/replay": 6.0,
        "all/cache-hit": 6.0,
        "users/10000": 1.1,
    }
    assert found["growth"]["users"] == 10_000
    assert {"blocks_a_user", "blocks_per_100k", "rss_growth_mb_per_100k"} <= set(found["growth"])


def test_policies_counts_round_trips_as_the_executor_and_as_the_server_sees_them(
    tmp_path: Path, redis_url: str
) -> None:
    tiny = ["--rounds", "1", "--calls", "5", "--only", "redis/*", "--redis", redis_url]

    found = report("policies.py", tmp_path, *tiny)

    assert [row["name"] for row in found["rows"]] == [f"redis/{name}" for name in ("get", "set", *REDIS)]
    counts = {row["name"]: row for row in found["counts"]}
    assert set(counts) == {f"redis/{name}" for name in REDIS}
    assert counts["redis/limit"]["round_trips"] == 1
    assert counts["redis/three-replay"]["scripts"] == 3
    for row in found["counts"]:
        assert 0 < row["round_trips"] <= row["scripts"]
        assert row["server_reads"] == pytest.approx(row["round_trips"], abs=0.5)


def test_policies_says_that_there_is_no_redis() -> None:
    done = run(
        "policies.py", "--rounds", "1", "--calls", "5", "--only", "redis/limit", "--redis", "redis://127.0.0.1:1/0"
    )

    assert done.returncode == 0, done.stderr
    assert "no Redis (ConnectionError" in done.stdout


def test_stores_measures_each_operation_next_to_single_rows(tmp_path: Path) -> None:
    found = report("stores.py", tmp_path, "--rounds", "1", "--callers", "3", "--calls", "4", "--folder", str(tmp_path))

    assert {row["name"] for row in found["rows"]} == {f"sqlite/{n}" for n in ("single", "submit", "claim", "finish")}
    for row in found["rows"]:
        assert row["per_s"] > 0
        assert row["p50_ms"] <= row["p99_ms"]


def test_a_sandboxs_start_is_judged_by_what_it_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    sandbox = importlib.import_module("sandbox")
    names = ("python", "bwrap", "bwrap python", "native warm Python begun", "native cold Python", "podman cold Python")
    made = [sandbox.Contender(name, name, lambda: True) for name in names]
    times = dict(zip(names, ([10.0], [4.0], [20.0], [1.0, 1.4, 9.0], [70.0], [900.0]), strict=True))

    found = {row["name"]: row for row in sandbox.rows(made, times)}

    assert {name: row["within"] for name, row in found.items() if row["bar"]} == {
        "native warm Python begun": True,
        "native cold Python": False,
    }
    assert (found["native warm Python begun"]["ratio"], found["native warm Python begun"]["p99_ms"]) == pytest.approx(
        (0.14, 9.0)
    )
    assert "OVER" in sandbox.table(list(found.values()))
    alone = sandbox.rows(made[3:4], {"native warm Python begun": [1.0]})
    assert [row["within"] for row in alone] == [None]


def test_sandbox_measures_its_back_ends_beside_bare_processes_and_looks_for_leaks(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.json"
    done = run(
        *("sandbox.py", "--rounds", "1", "--only", "native", "--concurrent", "4", "--leaks", "4", "--json", str(path))
    )
    assert path.exists(), done.stderr
    found = json.loads(path.read_text())

    rows = {row["name"]: row for row in found["rows"]}
    assert {"python"} <= set(rows)
    for row in rows.values():
        assert 0 < row["min_ms"] <= row["p50_ms"] <= row["p99_ms"]
    if "native" not in found["missing"]:
        assert {"native warm Python begun", "native warm Python", "native warm shell", "native cold Python"} <= set(
            rows
        )
        assert rows["native warm Python begun"]["min_ms"] < rows["native warm Python"]["min_ms"]
    assert (found["concurrent"]["programs"], found["concurrent"]["failed"]) == (4, 0)
    assert found["leaks"]["calls"] == 4
    assert set(found["leaks"]["before"]) == set(found["leaks"]["after"])
    over = any(row["within"] is False for row in rows.values())
    assert done.returncode == int(over or not found["leaks"]["within"])


def test_doors_measures_each_door_and_loses_no_request(tmp_path: Path) -> None:
    path = tmp_path / "doors.json"

    done = run("doors.py", "--rounds", "1", "--seconds", "0.3", "--streams", "20", "--json", str(path))

    found = json.loads(path.read_text())
    assert {"bare route", "HTTP call", "MCP SDK", "MCP call", "HTTP call at load", "MCP call at load"} <= set(found)
    assert set(found["HTTP call"]["ratios"]) == {"bare route"}
    assert "MCP SDK" in found["MCP call"]["ratios"]
    assert found["overload"]["lost"] == 0
    assert set(found["overload"]["statuses"]) <= {"200", "429", "503"}
    assert found["streams"]["streams"] == 20
    missed = [line for line in done.stderr.splitlines() if line.startswith("MISSED")]
    assert (done.returncode == 1) == bool(missed), done.stderr
    assert not [line for line in missed if "were lost" in line or "overload" in line]
