"""The file of results: mended, read, continued, rewritten; and the summary made of it."""

import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from toolpost.calls.errors import ConfigurationError
from toolpost.transports.cli_results import MAX_NAMES, Results, ResultsFile, Summary, open_results


def record(line: int, index: int = 0, digest: str = "aa", **more: Any) -> dict[str, Any]:
    return {
        "line": line,
        "index": index,
        "digest": digest,
        "status": "ok",
        "source": "run",
        "tool_name": "add",
        "execution_time_ms": 1.0,
        **more,
    }


def text_of(*records: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(one) + b"\n" for one in records)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def kept(path: Path) -> list[tuple[int, int, str]]:
    records = map(orjson.loads, path.read_bytes().splitlines())
    return [(one["line"], one["index"], one["digest"]) for one in records]


@pytest.mark.parametrize("cut", range(1, len(text_of(record(2)))))
def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(path: Path, cut: int) -> None:
    whole, torn = text_of(record(1)), text_of(record(2))[:-cut]
    is_whole = cut == 1  # only the line's end is missing
    path.write_bytes(whole + torn)

    results = ResultsFile(str(path))
    results.add(record(3))
    results.close()

    assert kept(path) == [(1, 0, "aa"), *([(2, 0, "aa")] if is_whole else []), (3, 0, "aa")]
    assert results.has(1, "aa", 0)
    assert results.has(2, "aa", 0) is is_whole


def test_a_torn_only_line_is_cut_off(path: Path) -> None:
    path.write_bytes(b'{"li')

    results = ResultsFile(str(path))
    results.close()

    assert path.read_bytes() == b""


def test_a_result_stands_in_the_file_as_soon_as_it_is_added(path: Path) -> None:
    results = ResultsFile(str(path))

    results.add(record(1))

    assert kept(path) == [(1, 0, "aa")]
    results.close()


def test_results_are_known_by_line_index_and_digest(path: Path) -> None:
    path.write_bytes(text_of(record(1), record(4, 0, of=201), record(4, 200, of=201)))

    results = ResultsFile(str(path))

    assert [results.has(4, "aa", index) for index in (0, 1, 200)] == [True, False, True]
    assert not results.has(4, "ab", 0)
    assert not results.has(2, "aa", 0)
    results.close()


def test_a_line_is_done_when_all_its_calls_have_results(path: Path) -> None:
    path.write_bytes(text_of(record(1), record(2, 0, of=2), record(3, 1, of=2), record(3, 0, of=2)))

    results = ResultsFile(str(path))

    assert [results.has_all(line, "aa") for line in (1, 2, 3, 4)] == [True, False, True, False]
    assert not results.has_all(1, "ab")
    results.close()


def test_old_results_of_a_changed_line_go_at_the_end(path: Path) -> None:
    path.write_bytes(text_of(record(1), record(2, of=2), record(2, 1, of=2), record(3)))
    results = ResultsFile(str(path))
    for line, digest in ((1, "aa"), (2, "bb"), (3, "aa")):
        results.read(line, digest)
    results.add(record(2, digest="bb"))

    dropped = results.finish(3)

    assert (dropped, results.changed) == (2, 1)
    assert kept(path) == [(1, 0, "aa"), (3, 0, "aa"), (2, 0, "bb")]
    assert results.summary.total.calls == 3
    results.close()


def test_results_beyond_the_end_of_the_input_go_only_when_the_end_was_seen(path: Path) -> None:
    path.write_bytes(text_of(record(1), record(9)))
    cut, whole = ResultsFile(str(path)), None
    assert cut.finish(None) == 0
    cut.close()

    whole = ResultsFile(str(path))

    assert whole.finish(1) == 1
    assert kept(path) == [(1, 0, "aa")]
    whole.close()


def test_a_run_killed_after_the_input_had_changed_leaves_the_newer_results(path: Path) -> None:
    path.write_bytes(text_of(record(1), record(2), record(1, digest="bb")))

    results = ResultsFile(str(path))

    assert kept(path) == [(2, 0, "aa"), (1, 0, "bb")]
    assert results.has(1, "bb", 0)
    assert results.summary.total.calls == 2
    results.close()


def test_a_file_is_added_to_after_it_was_rewritten(path: Path) -> None:
    path.write_bytes(text_of(record(1), record(1, digest="bb")))
    path.chmod(0o600)

    results = ResultsFile(str(path))
    results.add(record(2))
    results.close()

    assert kept(path) == [(1, 0, "bb"), (2, 0, "aa")]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["results.jsonl"]


def test_a_link_to_results_stays_a_link(path: Path, tmp_path: Path) -> None:
    path.write_bytes(text_of(record(1), record(1, digest="bb")))
    link = tmp_path / "latest.jsonl"
    link.symlink_to(path)

    ResultsFile(str(link)).close()

    assert link.is_symlink()
    assert kept(path) == [(1, 0, "bb")]


@pytest.mark.parametrize("content", [b"dear diary", b'{"name": "add"}\n', b"\x00" * 100, b"[1]"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_file_that_holds_something_else_is_left_as_it_is(path: Path, content: bytes, restart: bool) -> None:
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match="holds something else"):
        ResultsFile(str(path), restart=restart)

    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "bad",
    [
        b"\n",
        b"null\n",
        b'{"line": 0}\n',
        orjson.dumps(record(1, digest="xyz")) + b"\n",
        orjson.dumps(record(1, -1)) + b"\n",
    ],
)
def test_a_line_that_is_no_result_is_refused_with_its_number(path: Path, bad: bytes) -> None:
    content = text_of(record(1)) + bad + text_of(record(2))
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"line 2 of .* is no result of a run; .* --restart"):
        ResultsFile(str(path))

    assert path.read_bytes() == content


def test_restart_forgets_what_is_there(path: Path) -> None:
    path.write_bytes(text_of(record(1)) + b"damaged\n")

    results = ResultsFile(str(path), restart=True)

    assert not results.has(1, "aa", 0)
    assert path.read_bytes() == b""
    results.close()


def test_a_file_is_written_by_one_run_at_a_time(path: Path) -> None:
    first = ResultsFile(str(path))

    with pytest.raises(ConfigurationError, match="is being written by another run"):
        ResultsFile(str(path))

    first.close()
    ResultsFile(str(path)).close()


def test_a_device_takes_results_and_is_never_read() -> None:
    results = open_results("/dev/null", io.StringIO(), restart=False)

    results.add(record(1))
    results.close()

    assert not results.has(1, "aa", 0)
    assert results.summary.total.calls == 1


def test_what_json_has_no_form_for_is_written_all_the_same() -> None:
    stream = io.BytesIO()

    Results(stream).add(record(1, data=["\ud800", 2**70, Path("/x")]))

    assert orjson.loads(stream.getvalue())["data"][0] == "?"


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200), st.sampled_from([0.5, 0.95]))
def test_quantiles_are_within_two_percent_of_the_exact_ones(times: list[float], part: float) -> None:
    summary = Summary()
    for time_ms in times:
        summary.add(record(1, execution_time_ms=time_ms))

    exact = sorted(times)[max(0, -int(-part * len(times) // 1) - 1)]
    assert summary.total.quantile_ms(part) == pytest.approx(exact, rel=0.02)


def test_times_of_rejected_calls_do_not_count() -> None:
    summary = Summary()
    summary.add(record(1, status="rejected", code="invalid_input", execution_time_ms=0.01))

    assert summary.to_dict()["p50_ms"] is None
    assert summary.to_dict()["rejected"] == 1


def test_the_summary_is_bounded_however_many_names_there_are() -> None:
    summary = Summary()
    for n in range(3 * MAX_NAMES):
        summary.add(record(1, status="failed", tool_name=f"tool{n}", code=f"code{n}"))

    assert len(summary.tools) == MAX_NAMES + 1
    assert summary.tools["(others)"].calls == 2 * MAX_NAMES
    assert summary.codes["(others)"] == 2 * MAX_NAMES


def test_cache_hits_are_counted() -> None:
    summary = Summary()
    summary.add(record(1, source="cache"))
    summary.add(record(2))

    assert summary.to_dict()["tools"]["add"]["cache_hits"] == 1
