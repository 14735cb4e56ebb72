"""The figures of several processes: whichever is asked tells the sum, which never falls, however processes end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolpost.telemetry.figures import Figures, Snapshot
from toolpost.telemetry.metric_files import RETIRED, MetricFiles, counted_together
from toolpost.telemetry.metrics import ExecutorMetrics
from toolpost.telemetry.prometheus import exposition, summed

# Takes words: a number counts so many calls, "write" writes them down, "fork" forks, "sum" tells the sum, "end" ends in
# good order.
PROCESS = """
import os
import signal
import sys
from pathlib import Path
from toolpost.telemetry.figures import Figures
from toolpost.telemetry import metric_files
from toolpost.telemetry.metrics import ExecutorMetrics
from toolpost.telemetry.prometheus import summed

metric_files.WRITE_S = 3600.0
metrics = ExecutorMetrics()
figures = Figures(metrics)
figures.watch("toolpost_calls_in_flight", lambda: 1)
files = metric_files.MetricFiles(Path(sys.argv[1]), figures)
print("ready", flush=True)
for word in sys.stdin:
    word = word.strip()
    if word == "write":
        files.write()
    elif word == "sum":
        print(summed(figures).counters.get(("tool_executions", ("Math", "add", "success")), 0), flush=True)
        continue
    elif word == "fork":
        if os.fork() == 0:
            signal.alarm(10)
            signal.pause()
    elif word == "end":
        files.close()
        break
    else:
        for _ in range(int(word)):
            metrics.tool("Math", "add").record(0.75)
    print("done", flush=True)
"""


class Process:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.read() == "ready"

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def ask(self, word: str) -> str:
        self.say(word)
        return self.read()

    def end(self) -> None:
        self.say("end")
        self.process.wait(20)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type]:
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(tmp_path / "metrics"))
        return started[-1]

    yield start  # type: ignore[misc]
    for process in started:
        process.close()


def files_of(folder: Path, tool: str = "Math", calls: int = 0) -> tuple[MetricFiles, Figures]:
    metrics = ExecutorMetrics()
    for _ in range(calls):
        metrics.tool(tool, "add").record(0.75)
    figures = Figures(metrics)
    return MetricFiles(folder, figures), figures


def calls_in(found: Snapshot) -> float:
    return found.counters.get(("tool_executions", ("Math", "add", "success")), 0)


def test_whichever_process_is_asked_tells_the_sum(start, tmp_path):
    one, two = start(), start()
    files, figures = files_of(tmp_path / "metrics", calls=100)
    one.ask("20"), one.ask("write")
    two.ask("3"), two.ask("write")

    assert [one.ask("sum"), two.ask("sum")] == ["123", "123"]
    found = summed(figures)
    assert calls_in(found) == 123
    assert found.histograms["tool_duration_seconds", ("Math", "add")].total_s == 123 * 0.75
    assert found.gauges["toolpost_calls_in_flight", ()] == 2
    assert found.gauges["toolpost_processes", ()] == 3
    files.close()


def test_who_is_asked_writes_first_so_that_no_later_sum_is_less(start):
    one, two = start(), start()
    one.ask("5")

    assert [one.ask("sum"), two.ask("sum")] == ["5", "5"]


@pytest.mark.parametrize("how", ["end", "kill"])
def test_what_a_process_counted_that_is_gone_stays_and_its_gauges_go(start, tmp_path, how):
    one, two = start(), start()
    files, figures = files_of(tmp_path / "metrics")
    for process in (one, two):
        process.ask("7"), process.ask("write")
    getattr(one, how)()

    for _ in range(3):
        found = summed(figures)
        assert calls_in(found) == 14
        assert (found.gauges["toolpost_calls_in_flight", ()], found.gauges["toolpost_processes", ()]) == (1, 2)
    assert two.ask("sum") == "14"
    assert len(list((tmp_path / "metrics").glob("*.alive"))) == 2, "its files are there no more"
    assert list((tmp_path / "metrics").glob("*.new")) == []
    files.close()


def test_what_was_not_written_yet_is_written_at_an_orderly_end(start):
    one, two = start(), start()
    one.ask("7")
    one.end()

    assert two.ask("sum") == "7"


def test_a_start_beside_no_process_that_lives_begins_at_zero(start, tmp_path):
    one = start()
    one.ask("7"), one.ask("write")
    one.kill()
    alone, _ = files_of(tmp_path / "metrics", calls=1)

    assert calls_in(alone.total()[0]) == 1
    alone.close()


def test_one_that_is_killed_while_it_adds_up_has_nothing_counted_twice(start, tmp_path, monkeypatch):
    folder = tmp_path / "metrics"
    files, _ = files_of(folder)
    one, two = start(), start()
    for process in (one, two):
        process.ask("7"), process.ask("write")
    one.kill()

    def killed(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_clear", killed)
    with pytest.raises(KeyboardInterrupt):
        files.total()
    two.kill()
    assert (folder / RETIRED).exists()
    monkeypatch.undo()

    assert [calls_in(files.total()[0]) for _ in range(2)] == [14, 14]
    files.close()


def test_a_child_that_it_forked_does_not_keep_a_process_alive(start, tmp_path):
    files, _ = files_of(tmp_path / "metrics")
    one = start()
    one.ask("2"), one.ask("write"), one.ask("fork")
    one.kill()

    found, processes = files.total()
    assert (calls_in(found), processes) == (2, 1)
    files.close()


def test_two_executors_of_one_process_do_not_take_each_other_for_gone(tmp_path):
    one, _ = files_of(tmp_path, calls=1)
    two, _ = files_of(tmp_path, calls=2)

    assert [calls_in(files.total()[0]) for files in (one, two, one)] == [3, 3, 3]
    assert one.total()[1] == 2
    one.close()
    two.close()


def test_threads_that_ask_at_once_all_get_the_sum(start, tmp_path):
    one = start()
    one.ask("9"), one.ask("write")
    files, figures = files_of(tmp_path / "metrics", calls=1)
    sums: list[float] = []
    threads = [threading.Thread(target=lambda: sums.append(calls_in(summed(figures)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sums == [10] * 8
    files.close()


def test_the_files_are_for_their_owner_alone(tmp_path):
    files, _ = files_of(tmp_path / "metrics", calls=1)
    files.total()

    assert (tmp_path / "metrics").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "metrics").iterdir()} == {0o600}
    files.close()


def test_each_tells_its_own_where_the_folder_cannot_be_used(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    figures = Figures(ExecutorMetrics())
    with counted_together(tmp_path / "file" / "metrics", figures):
        assert figures.files is None
    assert "cannot be added up" in caplog.text

    with counted_together(tmp_path / "metrics", figures):
        (tmp_path / "metrics").rename(tmp_path / "away")

        class Of:
            pass

        Of.figures = figures
        assert b"toolpost_processes 1.0" in exposition(Of)[0]
        assert "cannot be read" in caplog.text


def test_it_writes_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("toolpost.telemetry.metric_files.WRITE_S", 0.01)
    metrics = ExecutorMetrics()
    written = threading.Event()
    files = MetricFiles(tmp_path, Figures(metrics))
    put = files._put

    def seen(name, value):
        put(name, value)
        if value["counters"]:
            written.set()

    monkeypatch.setattr(files, "_put", seen)
    metrics.tool("Math", "add").record(0.75)

    assert written.wait(10)
    files.close()
    assert os.listdir(tmp_path)
