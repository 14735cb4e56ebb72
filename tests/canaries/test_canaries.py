"""The canary property: a secret that tools misuse in every way they can comes out of no sink, in no encoding.

Each run is made twice: as it is, where no sink may show the canary in any form, and with a Redactor that hides nothing,
where it has to be found: a sink that nothing reaches would prove nothing.
"""

import asyncio
import contextlib
import gc
import io
import json
import logging
import threading
import traceback
import warnings
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote, urlsplit

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.canaries.encoded_forms import ENCODINGS, shows
from tests.canaries.tools import HOWS, POLICIES, REFERENCE, SPEC, TOOLS, Misuse, by_spec
from toolpost import (
    FunctionToolExecutor,
    HttpToolSpec,
    PostgreSqlToolSpec,
    StringParameter,
    ToolContext,
    ToolExecutionError,
    create_tool_call,
)
from toolpost.authoring.parameters import IntegerParameter
from toolpost.calls import redaction
from toolpost.calls.redaction import Redactor
from toolpost.telemetry.logs import JsonFormatter
from toolpost.testing import executor_for
from toolpost.testing.executor import Recorder
from toolpost.transports.cli import main
from toolpost.transports.wire import encode_results
from toolpost.transports.wire_tools import FORMATS

CANARIES = ("c4nary-token_17xyzABC", 'c4nary/"quoted" <&> 100% +é\\t')
TOOLS_FILE = f"{Path(__file__).parent / 'tools.py'}:TOOLS"

# What a working Redactor is not needed for: these never hold a value, and are looked at all the same.
NEVER = {"metrics", "repr of the executor", "config command"}


class Sinks(dict[str, str]):
    """What came out, by the name of where."""

    def put(self, name, *texts):
        self[name] = "\n".join([self.get(name, ""), *map(str, texts)])

    def found(self, canary):
        """In which sinks the canary stands, and in which encodings."""
        return {name: found for name, text in self.items() if (found := shows(canary, text))}


class Spans:
    """A tracer that keeps what a span could send away."""

    def __init__(self):
        self.kept = []

    @contextlib.contextmanager
    def __call__(self, tool, inv):
        self.kept.append(repr((tool, vars(inv))))
        try:
            yield
        except BaseException as error:
            self.kept.append("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
            raise
        finally:
            self.kept.append(repr(vars(inv)))


class Echo(BaseHTTPRequestHandler):
    """Sends back all it got, in every encoding; as an error where the path says so."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        secret = self.headers["X-Secret"].encode("latin-1").decode("latin-1")
        answer = {"path": self.path, "headers": dict(self.headers), "body": body}
        answer["encoded"] = [encode(secret) for encode in ENCODINGS.values()]
        data = json.dumps(answer).encode()
        self.send_response(500 if "fails" in self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", quote(secret))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def echo():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def logs(sinks):
    """Everything that is logged, as both formatters write it."""
    streams = {"log as text": logging.Formatter("%(levelname)s %(message)s"), "log as JSON": JsonFormatter()}
    logger, handlers = logging.getLogger("toolpost"), {}
    before, logger.level = logger.level, logging.DEBUG
    for name, formatter in streams.items():
        handlers[name] = handler = logging.StreamHandler(io.StringIO())
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.level = before
        for name, handler in handlers.items():
            logger.removeHandler(handler)
            sinks.put(name, handler.stream.getvalue())


@contextlib.contextmanager
def hiding(works):
    """Redactors as they are, or such as hide nothing."""
    with contextlib.ExitStack() as stack:
        if not works:
            stack.enter_context(patch.object(Redactor, "add", lambda self, value, name="": True))
            stack.enter_context(patch.object(redaction, "_watched", ()))  # those of executors that are still there
        yield


def http_spec(url, name, **options):
    return HttpToolSpec(
        id=name,
        version="1",
        tool_name=name,
        description="Post.",
        url=url,
        headers={"X-Secret": REFERENCE, "Authorization": "Bearer {secret://env/CANARY}"},
        query_params={"key": REFERENCE},
        parameters=[StringParameter(name="how"), IntegerParameter(name="encoding")],
        **options,
    )


def sql_spec(kind, **options):
    return kind(
        id=kind.__name__,
        version="1",
        tool_name=kind.__name__,
        description="Run.",
        parameters=[StringParameter(name="query")],
        **options,
    )


def run_all(folder, sinks, calls, tools=(), *, whole=True, **more):
    """Make calls, with everything on that has a sink, and gather what came out."""
    spans, recorder = Spans(), Recorder()
    options = {
        "records_url": f"sqlite:///{folder}/records.db",
        "blobs_url": f"file://{folder}/blobs",
        "debug": True,
        "audit": "on",
        "audit_values": "redacted",
        "enable_security_checks": False,
        "egress_private": ["127.0.0.1:*"],
        "tracer": spans,
        "observers": [recorder],
        **more,
    }
    with logs(sinks), warnings.catch_warnings(record=True) as warned, executor_for(**options) as executor:
        executor.add([*TOOLS, *tools])
        asyncio.run(_calls(executor, sinks, calls))
        sinks.put("events", *map(repr, recorder.events))
        sinks.put("spans", *spans.kept)
        sinks.put("metrics", executor.get_metrics(), executor._collector.__dict__)
        if whole:
            sinks.put("repr of the executor", *_reprs(executor))
        sinks.put("warnings", *(str(warning.message) for warning in warned))
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            name = "blobs" if "blobs" in path.parts else "records"
            sinks.put(name, path.read_bytes().decode("latin-1"), path.read_bytes().decode("utf-8", "replace"))


async def _calls(executor, sinks, calls):
    made = [
        create_tool_call(name, arguments, idempotency_key=f"{i}", user_id="ann")
        for i, (name, arguments) in enumerate(calls)
    ]
    results = await executor.execute_tool_calls(made)
    results += [await executor.execute_tool_call(call) for call in made[:4]]  # replayed, or from the cache
    sinks.put("results", *map(repr, results), *(json.dumps(result.to_dict(), ensure_ascii=False) for result in results))
    for name in FORMATS:
        sinks.put("provider formats", json.dumps(encode_results(results, name), ensure_ascii=False))
    for name, arguments in calls:
        explained = await executor.execute_tool_call(create_tool_call(name, arguments), explain=True)
        sinks.put("explanations", json.dumps(explained.explanation, default=repr, ensure_ascii=False))
    for name, arguments in calls:
        try:
            sinks.put("values in process", repr(await executor.call(name, **arguments)))
        except ToolExecutionError as error:
            sinks.put("exceptions in process", *_shown(error))
    await _by_class_and_spec(executor, sinks, [arguments for name, arguments in calls if "how" in arguments])


async def _by_class_and_spec(executor, sinks, arguments):
    tool, by_hand = Misuse(), FunctionToolExecutor(SPEC, by_spec, executor=executor)
    for one in arguments:
        try:
            sinks.put("values in process", repr(await executor.execute_async(tool, "take", **one)))
        except ToolExecutionError as error:
            sinks.put("exceptions in process", *_shown(error))
        result = await by_hand.execute(one, ToolContext(user_id="ann"))
        sinks.put("results", repr(result))
        sinks.put("logs of specs", *result.logs)


def _shown(error):
    """All that a program could show of an exception."""
    below = error.__traceback__
    while below is not None and below.tb_frame.f_code.co_filename == __file__:  # whose locals are the sinks
        below = below.tb_next
    yield "".join(traceback.TracebackException(type(error), error, below, capture_locals=True).format())
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield f"{one} {one!r} {one.args!r} {vars(one)!r}"
            waiting += [one.__cause__, one.__context__]


def _reprs(executor):
    """repr and vars of the executor and of all of ours that can be reached from it."""
    gc.collect()
    waiting, seen = [executor], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, (type, Recorder, Spans)):
            continue
        seen.add(id(one))
        if type(one).__module__.startswith(("toolpost.", "tests.canaries")):
            yield repr(one)
            inner = dict(getattr(one, "__dict__", {}))
            for kind in type(one).__mro__:
                for name in kind.__dict__.get("__slots__", ()):
                    if hasattr(one, name):
                        inner[name] = getattr(one, name)
            yield repr(inner)
            waiting += inner.values()
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one


def clean(canary, sinks):
    """Assert that no sink shows it, and tell which ones."""
    assert sinks.found(canary) == {}, "sinks that show the canary, and how"


# -- every tool, every way, every encoding -----------------------------------------------------------------------------


@pytest.mark.parametrize("canary", CANARIES)
def test_no_sink_shows_a_secret_and_every_sink_would(tmp_path, monkeypatch, echo, canary):
    monkeypatch.setenv("CANARY", canary)
    ways = {"Async.Misuse": HOWS, "Sync.Misuse": ("return", "raise", "tell"), "Process.Misuse": ("return", "raise")}
    calls = [(name, {"how": how, "encoding": -1}) for name, hows in ways.items() for how in hows]
    http = [http_spec(f"{echo}/{path}", f"Http.{path}").define() for path in ("works", "fails")]
    calls += [(f"Http.{path}", {"how": "x", "encoding": 0}) for path in ("works", "fails")]

    counted = {}
    for works in (True, False):
        sinks, folder = Sinks(), tmp_path / str(works)
        folder.mkdir()
        with hiding(works):
            run_all(folder, sinks, calls, http)
        counted[works] = sinks.found(canary)
        assert len(sinks) >= 14

    assert counted[True] == {}, "sinks that show the canary, and how"
    silent = set(sinks) - set(counted[False]) - NEVER - {"warnings"}
    assert silent == set(), "sinks that show nothing even where nothing is hidden prove nothing"


def _sql(text):
    return "'" + text.replace("'", "''") + "'"


def test_the_control_finds_each_encoding(tmp_path, monkeypatch):
    """What looks for canaries would find every encoding in which a tool gave one back."""
    canary = CANARIES[1]
    monkeypatch.setenv("CANARY", canary)

    missed = [name for name, encode in ENCODINGS.items() if not shows(canary, f"x {encode(canary)} y")]

    assert missed == []


# -- any secret --------------------------------------------------------------------------------------------------------

SECRETS = st.text(st.sampled_from("abcXYZ0189-_./+=%&<>\"'\\ :@é€😀"), min_size=6, max_size=60).filter(
    lambda s: len(s.strip()) >= 6 and len(set(s)) > 4
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    secret=SECRETS,
    tool=st.sampled_from(["Async.Misuse", "Sync.Misuse"]),
    how=st.sampled_from(HOWS),
    encoding=st.integers(0, len(ENCODINGS) - 1),
)
def test_whatever_the_secret_and_however_it_is_misused(tmp_path_factory, monkeypatch, secret, tool, how, encoding):
    monkeypatch.setenv("CANARY", secret)
    sinks = Sinks()

    call = (tool, {"how": how, "encoding": encoding})
    run_all(tmp_path_factory.mktemp("run"), sinks, [call], whole=False)

    # Secrets of few and plain characters may stand in what is nobody's: hashes, times. Those are no finds.
    for name in ("records", "blobs", "metrics", "spans"):
        sinks.pop(name, None)
    clean(secret, sinks)


# -- every provider ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["env", "file", "field", "keyring", "plugin", "setting"])
def test_a_secret_of_every_provider_is_hidden(tmp_path, monkeypatch, provider):
    canary = CANARIES[0]
    monkeypatch.setenv("CANARY", canary)  # what the tools of all styles ask for; the others are given to the redactor
    (tmp_path / "secrets").mkdir()
    for name, text in (("key", f"{canary}\n"), ("app.json", json.dumps({"db": {"password": canary}}))):
        (tmp_path / "secrets" / name).write_text(text)
        (tmp_path / "secrets" / name).chmod(0o600)

    class Plugin:
        async def get(self, path):
            return canary

    class Keyring:
        def get(self, path):
            return canary

    reference = {
        "env": REFERENCE,
        "file": "secret://file/key",
        "field": "secret://file/app.json#/db/password",
        "keyring": "secret://keyring/shop/db",
        "plugin": "secret://plugin/x",
        "setting": "",
    }[provider]
    options = {
        "secrets": {"plugin": Plugin(), "keyring": Keyring()},
        "secrets_directories": [tmp_path / "secrets"],
        **({"secret_key": canary} if provider == "setting" else {}),
    }
    with executor_for(*TOOLS, **options) as executor:
        if reference:
            assert executor._guards.secrets.value_sync(reference) == canary

        shown = executor.execute_sync(create_tool_call("Process.Misuse", {"how": "return", "encoding": -1}))

    assert shown.success
    assert shows(canary, repr(shown)) == []


# -- databases ---------------------------------------------------------------------------------------------------------


def test_errors_of_postgresql_that_quote_the_password_are_hidden(tmp_path, monkeypatch, postgres_url):
    canary = "c4nary-of-postgres'17"
    monkeypatch.setenv("CANARY", canary)
    where = urlsplit(postgres_url)
    tool = sql_spec(
        PostgreSqlToolSpec,
        host=where.hostname,
        port=where.port,
        database=where.path[1:],
        username="nobody",
        password=REFERENCE,
        connection_string=f"postgresql://postgres:{quote(where.password)}@{where.hostname}:{where.port}{where.path}"
        "?application_name={secret://env/CANARY}",
    ).define()
    queries = [
        f"select cast({_sql(canary)} as integer)",
        f"select {_sql(canary)} frm",
        "select * from pg_stat_activity",
    ]
    calls = [("PostgreSqlToolSpec", {"query": query}) for query in queries]

    for works in (True, False):
        sinks, folder = Sinks(), tmp_path / str(works)
        folder.mkdir()
        with hiding(works):
            run_all(folder, sinks, calls, [tool], records_url="memory://", audit="off")
        # Arguments are the caller's own, and hold the secret as SQL writes it: so they reach spans and local variables.
        found = [sink for sink, forms in sinks.found(canary).items() if set(forms) - {"SQL"}]
        assert ("results" in found) == (not works)
        assert ("log as JSON" in found) == (not works)
        assert ("exceptions in process" in found) == (not works)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("works", [True, False], ids=["as it is", "control"])
def test_the_command_line_shows_none(tmp_path, monkeypatch, works):
    canary = CANARIES[0]
    monkeypatch.setenv("CANARY", canary)
    monkeypatch.setenv("TOOL_EXECUTOR_SECRET_KEY", canary)
    monkeypatch.setenv("TOOL_EXECUTOR_RECORDS_URL", f"sqlite:///{tmp_path}/records.db")
    calls = [
        {"id": f"{tool}-{how}", "name": tool, "arguments": {"how": how, "encoding": -1}}
        for tool in ("Async.Misuse", "Sync.Misuse")
        for how in HOWS
    ]
    (tmp_path / "calls.jsonl").write_text("\n".join(map(json.dumps, calls)))
    given = json.dumps({"how": "raise", "encoding": -1})
    commands = {
        "run command": ["run", str(tmp_path / "calls.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--exit-zero"],
        "call command": ["call", "Async.Misuse", "--arguments", given, "--explain"],
        "call command in JSON": ["--json", "call", "Sync.Misuse", "--arguments", given.replace("raise", "return")],
        "config command": ["config"],
        "doctor command": ["doctor"],
        "show command": ["tools", "show", "Async.Misuse"],
    }
    sinks = Sinks()

    with hiding(works):
        for name, arguments in commands.items():
            done = CliRunner().invoke(main, ["--no-toolbox", "--tools", TOOLS_FILE, *arguments])
            sinks.put(name, done.stdout, done.stderr, *(_shown(done.exception) if done.exception else ()))
    sinks.put("run command", (tmp_path / "out.jsonl").read_text())
    sinks.put("records", (tmp_path / "records.db").read_bytes().decode("latin-1"))

    found = set(sinks.found(canary))
    assert found == (set() if works else {"run command", "call command", "call command in JSON", "records"})
    assert Counter(json.loads(line)["success"] for line in (tmp_path / "out.jsonl").read_text().splitlines())[True] >= 8
    assert POLICIES["idempotency"] is not None
