"""The log: the documented patterns are found, nothing of the arguments is, and nobody can forge a line."""

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import toolpost
from toolpost.calls.errors import (
    ConfigurationError,
    InputValidationError,
    OperationError,
    RateLimitError,
    SecurityError,
    ToolError,
    ToolExecutionError,
    ToolTimeoutError,
)
from toolpost.calls.events import Logged
from toolpost.calls.redaction import Redactor
from toolpost.telemetry.logs import CallLog, JsonFormatter, SecretFilter, one_line

DOCUMENTED_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


class Lines:
    """A logger of its own, whose lines can be read."""

    def __init__(self, formatter: logging.Formatter, level: int) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(formatter)
        self.records: list[logging.LogRecord] = []
        self.handler.addFilter(self._keep)
        self.logger = logging.Logger("toolpost", level)
        self.logger.addHandler(self.handler)

    def _keep(self, record: logging.LogRecord) -> bool:
        self.records.append(record)
        return True

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def grep(self, pattern: str) -> list[str]:
        return [line for line in self.text.splitlines() if re.search(pattern, line)]


@pytest.fixture
def lines() -> Lines:
    return Lines(logging.Formatter(DOCUMENTED_FORMAT), logging.DEBUG)


@pytest.fixture
def json_lines() -> Lines:
    return Lines(JsonFormatter(), logging.DEBUG)


def finished(log: CallLog, error: ToolExecutionError | None = None, **more: object) -> None:
    values = {
        "call_id": "c1",
        "tool": "Math.Add",
        "elapsed_s": 0.01234,
        "user_id": "u1",
        "task_id": "t1",
    } | more
    log.finished(error=error, **values)  # type: ignore[arg-type]


def raised(error: BaseException, cause: BaseException | None = None) -> ToolExecutionError:
    """error as it is once raised, from a cause that was raised too."""
    try:
        if cause is None:
            raise error
        try:
            raise cause
        except BaseException as exc:
            raise error from exc
    except ToolExecutionError as exc:
        return exc


def test_a_run_is_found_by_executed_in_and_ends_with_its_time(lines: Lines) -> None:
    finished(CallLog(logger=lines.logger))

    (line,) = lines.grep("executed in")
    assert line.endswith(" - toolpost - INFO - Math.Add executed in 0.0123s")


def test_a_cache_hit_is_found_and_is_no_execution(lines: Lines) -> None:
    finished(CallLog(level="DEBUG", logger=lines.logger), source="cache")

    assert len(lines.grep("INFO - Cache hit: Math.Add$")) == 1
    assert lines.grep("executed in") == []


def test_a_replay_is_no_execution(lines: Lines) -> None:
    finished(CallLog(level="DEBUG", logger=lines.logger), source="replay")

    assert len(lines.grep("INFO - Replayed: Math.Add$")) == 1


def test_a_failure_is_found_by_error_with_the_traceback_of_its_cause(lines: Lines) -> None:
    error = raised(OperationError("division by zero"), cause=ZeroDivisionError("division by zero"))

    finished(CallLog(logger=lines.logger), error)

    (line,) = lines.grep("ERROR")
    assert line.endswith(
        "ERROR - ToolExecutionError: Math.Add failed after 0.0123s (OperationError, tool_failed): division by zero"
    )
    assert "raise cause" in lines.text
    assert lines.text.rstrip().endswith("ZeroDivisionError: division by zero")


def test_a_failure_not_raised_yet_has_the_traceback_of_what_is_being_handled(lines: Lines) -> None:
    try:
        int("seven")
    except ValueError:
        finished(CallLog(logger=lines.logger), OperationError("failed"))

    assert 'int("seven")' in lines.text
    assert lines.text.rstrip().endswith("ValueError: invalid literal for int() with base 10: 'seven'")


@pytest.mark.parametrize("error", [ToolTimeoutError("too slow"), ToolError("no such order", code="NOT_FOUND")])
def test_a_foreseen_failure_has_no_traceback(lines: Lines, error: ToolExecutionError) -> None:
    finished(CallLog(logger=lines.logger), raised(error, cause=ValueError("inner")))

    assert len(lines.text.splitlines()) == 1
    assert lines.grep(f"ERROR - {type(error).__name__}: Math.Add .*{error.message}")


@pytest.mark.parametrize("error", [SecurityError("argument 'q' was refused"), RateLimitError("60/min reached")])
def test_a_refusal_is_a_warning_with_the_errors_class_name(lines: Lines, error: ToolExecutionError) -> None:
    finished(CallLog(logger=lines.logger), raised(error))

    (line,) = lines.text.splitlines()
    assert line.endswith(f"WARNING - {type(error).__name__}: Math.Add refused ({error.code}): {error.message}")


def test_of_arguments_that_do_not_fit_only_the_places_are_written(lines: Lines) -> None:
    problems = [{"path": "/a/0", "type": "type", "msg": "must be an integer, got 'hunter2'", "got": "'hunter2'"}]
    error = InputValidationError(problems=problems)
    assert "hunter2" in error.message

    finished(CallLog(logger=lines.logger), error)

    assert lines.grep(r"InputValidationError: Math.Add refused \(invalid_input\): /a/0 type$")
    assert "hunter2" not in lines.text


def test_every_record_carries_who_and_what_and_how(lines: Lines) -> None:
    log = CallLog(logger=lines.logger)
    finished(log)
    finished(log, SecurityError("no"))
    finished(log, ToolError("no", code="NOT_FOUND"), user_id=None, task_id=None)

    told = [
        (r.call_id, r.tool, r.task_id, r.user_id, r.status, r.elapsed_s, r.error_code)  # type: ignore[attr-defined]
        for r in lines.records
    ]

    assert told == [
        ("c1", "Math.Add", "t1", "u1", "ok", 0.01234, None),
        ("c1", "Math.Add", "t1", "u1", "rejected", 0.01234, "screened"),
        ("c1", "Math.Add", None, None, "failed", 0.01234, "NOT_FOUND"),
    ]


def test_log_execution_time_off_writes_failures_only(lines: Lines) -> None:
    log = CallLog(level="DEBUG", log_execution_time=False, logger=lines.logger)
    finished(log)
    finished(log, source="cache")
    finished(log, SecurityError("no"))

    assert [record.levelname for record in lines.records] == ["WARNING"]


def test_nothing_under_the_level_is_written(lines: Lines) -> None:
    log = CallLog(level="error", logger=lines.logger)
    finished(log)
    finished(log, SecurityError("no"))
    finished(log, ToolError("broken"))

    assert [record.levelname for record in lines.records] == ["ERROR"]


@pytest.mark.parametrize(
    ("options", "logger_level", "wanted"),
    [
        ({}, logging.INFO, True),
        ({}, logging.DEBUG, True),
        ({}, logging.WARNING, False),
        ({"log_execution_time": False}, logging.DEBUG, False),
        ({"level": "WARNING"}, logging.DEBUG, False),
    ],
)
def test_a_success_is_wanted_only_when_it_would_be_written(
    lines: Lines, options: dict[str, object], logger_level: int, wanted: bool
) -> None:
    lines.logger.setLevel(logger_level)
    log = CallLog(logger=lines.logger, **options)  # type: ignore[arg-type]

    finished(log)

    assert log.wants(failed=False) is wanted
    assert bool(lines.records) is wanted
    assert log.wants(failed=True) is True


def test_a_change_of_the_loggers_level_takes_effect_at_once() -> None:
    logger = logging.getLogger("toolpost.test_levels")
    log = CallLog(logger=logger)
    logger.setLevel(logging.WARNING)
    before = log.wants(failed=False)

    logger.setLevel(logging.INFO)

    assert (before, log.wants(failed=False)) == (False, True)


def test_an_unknown_level_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(ConfigurationError, match="'LOUD' is not known; choose one of DEBUG, INFO"):
        CallLog(level="LOUD")


def test_the_library_logs_under_its_name_and_configures_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="toolpost")

    finished(CallLog())

    assert [record.name for record in caplog.records] == ["toolpost"]
    assert [type(h) for h in logging.getLogger("toolpost").handlers] == [logging.NullHandler]


FORGED = "x\n2030-01-01 00:00:00,000 - toolpost - INFO - Admin.Login executed in 0.1s\r\x1b[2K\u2028y"


def test_no_name_or_message_can_begin_a_line(lines: Lines) -> None:
    log = CallLog(logger=lines.logger)
    finished(log, tool=FORGED)
    finished(log, SecurityError(FORGED))

    assert len(lines.text.splitlines()) == 2
    assert "\x1b" not in lines.text


def test_no_exceptions_text_can_begin_a_line(lines: Lines) -> None:
    error = raised(OperationError("failed"), cause=ValueError(FORGED))

    finished(CallLog(logger=lines.logger), error)

    first, *rest = lines.text.splitlines()
    assert "ERROR - " in first
    assert all(line.startswith(("  | ", "Traceback")) for line in rest)
    assert "\x1b" not in lines.text


def test_attributes_cannot_break_a_line_either(lines: Lines) -> None:
    lines.handler.setFormatter(logging.Formatter("%(call_id)s %(user_id)s %(task_id)s %(tool)s"))

    finished(CallLog(logger=lines.logger), call_id=FORGED, user_id=FORGED, task_id=FORGED, tool=FORGED)

    assert len(lines.text.splitlines()) == 1


def test_lines_are_bounded(lines: Lines) -> None:
    lines.handler.setFormatter(logging.Formatter("%(message)s"))
    log = CallLog(logger=lines.logger)
    finished(log, ToolError("é" * 1_000_000))
    finished(log, tool="t" * 1_000_000)
    finished(log, raised(OperationError("m" * 10_000), cause=ValueError("v" * 1_000_000)))

    assert max(len(line.encode()) for line in lines.text.splitlines()) <= 4096 + len("  | ")
    assert len(lines.text.encode()) < 20_000


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", "plain"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("Ελλάδα", "Ελλάδα"),
        ("half \ud800", "half \\ud800"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("é" * 100, "é" * 30 + "..."),
    ],
)
def test_one_line_keeps_what_is_readable_and_escapes_what_is_not(text: str, written: str) -> None:
    assert one_line(text, max_bytes=64) == written


def test_a_json_line_holds_the_call(json_lines: Lines) -> None:
    finished(CallLog(logger=json_lines.logger))

    (line,) = json_lines.text.splitlines()
    told = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("ts"))
    assert told == {
        "level": "INFO",
        "logger": "toolpost",
        "message": "Math.Add executed in 0.0123s",
        "call_id": "c1",
        "tool": "Math.Add",
        "task_id": "t1",
        "user_id": "u1",
        "status": "ok",
        "elapsed_s": 0.01234,
    }


def test_the_time_of_a_json_line_is_the_records_in_utc() -> None:
    record = logging.LogRecord("n", logging.INFO, "f", 1, "m", (), None)
    record.created = 0.25

    assert json.loads(JsonFormatter().format(record))["ts"] == "1970-01-01T00:00:00.250Z"


def test_a_json_line_holds_the_traceback_and_stays_one_line(json_lines: Lines) -> None:
    error = raised(OperationError("failed"), cause=ValueError("first\nsecond"))

    finished(CallLog(logger=json_lines.logger), error)

    (line,) = json_lines.text.splitlines()
    told = json.loads(line)
    assert told["error_code"] == "tool_failed"
    assert told["exception"].startswith("Traceback (most recent call last):\n")
    assert told["exception"].endswith("ValueError: first\nsecond")


def test_a_long_traceback_keeps_its_end(json_lines: Lines) -> None:
    error = raised(OperationError("failed"), cause=ValueError("v" * 10_000 + " the end"))

    finished(CallLog(logger=json_lines.logger), error)

    exception = json.loads(json_lines.text)["exception"]
    assert exception.startswith("...")
    assert exception.endswith("the end")
    assert len(exception) <= 4096


def test_the_json_formatter_serves_records_of_any_logger(json_lines: Lines) -> None:
    json_lines.logger.info("total %d\nof %s", 3, "\ud800", extra={"elapsed_s": 2**70, "tool": object})

    (line,) = json_lines.text.splitlines()
    told = json.loads(line)
    assert told["message"] == "total 3\nof \\ud800"
    assert told["elapsed_s"] == 2**70


def test_what_a_body_says_is_written_with_its_call(json_lines: Lines) -> None:
    event = Logged(call_id="c9", tool="Web.Fetch", level="warning", message="slow\nhost", fields={"ms": 900})

    CallLog(logger=json_lines.logger).logged(event)

    told = json.loads(json_lines.text)
    del told["ts"]
    assert told == {
        "level": "WARNING",
        "logger": "toolpost",
        "message": "slow\\nhost",
        "call_id": "c9",
        "tool": "Web.Fetch",
        "fields": {"ms": 900},
    }


@pytest.fixture(autouse=True)
def restored_levels() -> Iterator[None]:
    """The process's loggers are as they were after each test."""
    logger = logging.getLogger("toolpost.test_levels")
    yield
    logger.setLevel(logging.NOTSET)


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def knows() -> Redactor:
    redactor = Redactor()
    redactor.add("canary-of-logs")
    return redactor


def library_says(handler_filter: bool, formatter: logging.Formatter) -> str:
    """What another library's logger writes of a secret: in its message, an argument, a traceback and the stack."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    if handler_filter:
        handler.addFilter(SecretFilter())
    logger = logging.Logger("other", logging.DEBUG)
    logger.addHandler(handler)
    logger.info("GET https://x.example/?key=%s", "canary-of-logs")
    try:
        raise ValueError("no: " + "-".join(["canary", "of", "logs"]))
    except ValueError:
        logger.exception("failed", stack_info=True)
    return stream.getvalue()


def test_the_filter_hides_secrets_in_the_records_of_any_logger(knows: Redactor) -> None:
    without = library_says(False, logging.Formatter(DOCUMENTED_FORMAT))
    said = library_says(True, logging.Formatter(DOCUMENTED_FORMAT))

    assert without.count("canary-of-logs") >= 2
    assert "canary-of-logs" not in said
    assert "ValueError: no: [hidden]" in said
    assert "?key=[hidden]" in said


def test_the_json_formatter_hides_them_by_itself(knows: Redactor) -> None:
    said = library_says(False, JsonFormatter())

    assert "canary-of-logs" not in said
    assert "ValueError: no: [hidden]" in said


def test_what_toolpost_itself_logs_goes_through_the_filter(knows: Redactor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "toolpost"):
        logging.getLogger("toolpost").warning("an observer said %r", {"a": "canary-of-logs"})

    assert "canary-of-logs" not in caplog.text
    assert "'a': '[hidden]'" in caplog.text


def test_a_record_that_cannot_be_read_is_let_pass_without_its_text(knows: Redactor) -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%d canary-of-logs", ("no number",), None)

    assert SecretFilter().filter(record)
    assert record.getMessage() == "a record that cannot be read"


def test_a_secret_is_hidden_before_a_message_is_cut(knows: Redactor, lines: Lines) -> None:
    log = CallLog(logger=lines.logger)
    for room in range(4080, 4100):
        log.logged(Logged(call_id="c", tool="T", level="info", message="x" * room + "canary-of-logs"))

    assert "canar" not in lines.text


def test_the_fields_of_a_line_are_hidden_in(knows: Redactor, json_lines: Lines) -> None:
    class Prints:
        def __str__(self) -> str:
            return "<canary-of-logs>"

    fields = {"a": ["canary-of-logs"], "b": Prints(), "c": 1}

    CallLog(logger=json_lines.logger).logged(Logged(call_id="c", tool="T", level="info", message="m", fields=fields))

    assert json.loads(json_lines.text)["fields"] == {"a": ["[hidden]"], "b": "<[hidden]>", "c": 1}


def test_every_logger_of_ours_hides_secrets(knows: Redactor, caplog: pytest.LogCaptureFixture) -> None:
    root = Path(toolpost.__file__).parent
    written = {name for path in root.rglob("*.py") for name in re.findall(r'getLogger\("(.+?)"\)', path.read_text())}
    written = {name for name in written if name.partition(".")[0] == "toolpost"}
    assert {"toolpost", "toolpost.stores"} <= written

    for name in written:
        logging.getLogger(name).error("%s: canary-of-logs", name)

    assert "canary-of-logs" not in caplog.text
    assert all(f"{name}: [hidden]" in caplog.text for name in written)
