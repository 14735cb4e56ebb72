"""Secrets reach the body that they are for, and nothing that it gives or raises shows them."""

import asyncio
import json
import logging
import os
import threading
import traceback
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import psycopg
import psycopg.sql
import pytest

from toolpost import (
    Cache,
    ConfigurationError,
    HttpToolSpec,
    Idempotency,
    OperationError,
    PostgreSqlToolSpec,
    RemoteToolError,
    SecretUnavailableError,
    SqliteToolSpec,
    StringParameter,
    Tool,
    ToolContext,
    create_tool_call,
)
from toolpost.calls.redaction import HIDDEN
from toolpost.pipeline.hiding import hidden
from toolpost.testing import executor_for
from toolpost.testing.executor import Recorder

CANARY = 'canary/"value" 17+é'
REFERENCE = "secret://env/CANARY"


@pytest.fixture(autouse=True)
def canary(monkeypatch):
    monkeypatch.setenv("CANARY", CANARY)


@Tool(name="Plain.Echo", register=False)
def echo(text: str) -> str:
    return text


@Tool(name="Secret.Give", register=False)
async def give(how: str, ctx: ToolContext) -> object:
    value = await ctx.secret(REFERENCE)
    if how == "raise":
        raise ValueError(f"no: {value}", {"inner": value})
    return {"right": value == CANARY, "value": value, "json": json.dumps(value)}


@Tool(name="Secret.Sync", register=False)
def give_sync(ctx: ToolContext) -> str:
    return f"got {ctx.secret_sync(REFERENCE)}"


def stages(executor, name, arguments):
    told = executor.execute_sync(create_tool_call(name, arguments), explain=True).explanation
    return [entry["stage"] for entry in told if entry["decision"] != "not in the chain"]


# -- what is in the chain ----------------------------------------------------------------------------------------------


def test_without_secrets_reveal_is_not_in_the_chain_and_with_the_first_one_it_is_in_all():
    with executor_for(echo, give) as executor:
        before = stages(executor, "Plain.Echo", {"text": "x"})
        executor.execute_sync(create_tool_call("Secret.Give", {"how": "return"}))

        after = stages(executor, "Plain.Echo", {"text": "x"})

    assert "reveal" not in before
    assert after == [*before[:-1], "reveal", "runner"]


def test_a_secret_that_one_tool_resolved_is_hidden_in_the_results_of_all():
    with executor_for(echo, give) as executor:
        assert executor.call_sync("Plain.Echo", text=f"x {CANARY}") == f"x {CANARY}"
        executor.execute_sync(create_tool_call("Secret.Give", {"how": "return"}))

        assert executor.call_sync("Plain.Echo", text=f"x {CANARY}") == f"x {HIDDEN}"


def test_a_setting_that_is_a_secret_is_hidden_from_the_start():
    with executor_for(echo, secret_key="canary-secret-key", state_url="memory://") as executor:
        assert "reveal" in stages(executor, "Plain.Echo", {"text": "x"})
        assert executor.call_sync("Plain.Echo", text="canary-secret-key memory://") == f"{HIDDEN} memory://"


# -- ctx.secret --------------------------------------------------------------------------------------------------------


def test_a_body_gets_the_value_and_its_result_does_not_show_it():
    with executor_for(give, give_sync) as executor:
        result = executor.execute_sync(create_tool_call("Secret.Give", {"how": "return"}))

        assert result.data == {"right": True, "value": HIDDEN, "json": f'"{HIDDEN}"'}
        assert executor.call_sync("Secret.Sync") == f"got {HIDDEN}"


async def test_also_for_callers_that_await_and_in_batches():
    with executor_for(give, give_sync) as executor:
        calls = [create_tool_call("Secret.Give", {"how": how}) for how in ("return", "raise")]
        results = await executor.execute_tool_calls([*calls, create_tool_call("Secret.Sync", {})])

    assert CANARY not in repr(results)
    assert [result.success for result in results] == [True, False, True]


def test_a_secret_that_cannot_be_had_is_an_error_that_names_it(monkeypatch):
    monkeypatch.delenv("CANARY")

    with executor_for(give) as executor:
        result = executor.execute_sync(create_tool_call("Secret.Give", {"how": "return"}))

    assert result.failure.code == "secret_unavailable"
    assert REFERENCE in result.error


def test_a_context_without_an_executor_has_no_secrets():
    with pytest.raises(ConfigurationError, match="only the context of a call"):
        asyncio.run(ToolContext().secret(REFERENCE))


@Tool(name="Secret.Named", register=False)
async def by_name(name: str, ctx: ToolContext) -> str:
    return await ctx.secret(f"secret://env/{name}")


TABLE = {"shop": REFERENCE}


@Tool(name="Secret.Chosen", register=False)
async def chosen(which: str, ctx: ToolContext) -> str:
    return await ctx.secret(TABLE.get(which, REFERENCE))


@Tool(name="Secret.Changed", register=False)
async def by_changed_name(name: str, ctx: ToolContext) -> str:
    return await ctx.secret(f"secret://env/{name.strip().upper().replace('-', '_')}ARY")


@pytest.mark.parametrize(
    ("tool", "name"), [("Secret.Named", "CANARY"), ("Secret.Changed", "can"), ("Secret.Changed", " c-a-n ")]
)
def test_a_reference_that_an_argument_makes_up_is_refused_and_not_resolved(tool, name):
    with executor_for(by_name, by_changed_name) as executor:
        result = executor.execute_sync(create_tool_call(tool, {"name": name}))

        assert result.failure.code == "secret_unavailable"
        assert "made of an argument" in result.error
        assert not executor._guards.redactor.active


def test_secrets_allowed_lets_arguments_choose_among_what_it_has(monkeypatch):
    monkeypatch.setenv("APP_ONE", "canary-of-app")

    with executor_for(by_name, secrets_allowed=["secret://env/APP_*"]) as executor:
        assert executor.call_sync("Secret.Named", name="APP_ONE") == HIDDEN
        refused = executor.execute_sync(create_tool_call("Secret.Named", {"name": "CANARY"}))

    assert "secrets_allowed" in refused.error


@pytest.mark.parametrize("which", ["shop", "CANARY", "env", REFERENCE])
def test_a_reference_that_the_author_wrote_is_good_whatever_the_arguments_say(which):
    with executor_for(chosen) as executor:
        assert executor.call_sync("Secret.Chosen", which=which) == HIDDEN


# -- what a body raises ------------------------------------------------------------------------------------------------


def test_an_error_and_all_behind_it_are_hidden_in():
    with executor_for(give) as executor:
        with pytest.raises(OperationError) as raised:
            executor.call_sync("Secret.Give", how="raise")

    error = raised.value
    assert type(error.__cause__) is ValueError
    assert error.__cause__.args == (f"no: {HIDDEN}", {"inner": HIDDEN})
    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert CANARY not in text
    assert "canary" not in repr(vars(error))


class Author(Exception):
    def __init__(self, secret):
        self.secret = secret
        self.request = types.SimpleNamespace(headers={"X-Key": secret})
        super().__init__("of the author")


class Stubborn(Exception):
    def __init__(self, secret):
        super().__init__()
        self._say = lambda: f"it is {secret}"

    def __str__(self):
        return self._say()


def of_many_kinds(secret):
    def raise_it():
        raise Author(secret)

    try:
        raise_it()
    except Author as behind:
        chained = RuntimeError("outer")
        chained.__cause__ = behind
    noted = ValueError("noted")
    noted.add_note(f"note {secret}")
    withheld = KeyError("outer")
    withheld.__context__ = Stubborn(secret)
    return [
        ValueError(secret),
        OSError(2, "No such file", f"/srv/{secret}"),
        UnicodeDecodeError("utf-8", secret.encode(), 0, 1, f"no {secret}"),
        KeyError(secret),
        SyntaxError(secret, ("file", 1, 1, f"x = {secret}")),
        ImportError("no", name=secret),
        StopIteration(secret),
        RemoteToolError(f"said {secret}", details={"body": {"deep": [secret]}}),
        Author(secret),
        chained,
        noted,
        ExceptionGroup(f"many {secret}", [ValueError(secret), ExceptionGroup("more", [Author(secret)])]),
        Stubborn(secret),
        withheld,
    ]


def reachable(error):
    """All texts that an exception, and all behind and within it, would show."""
    seen, waiting, texts = set(), [error], []
    while waiting:
        one = waiting.pop()
        if id(one) in seen or one is None:
            continue
        seen.add(id(one))
        texts += [str(one), repr(one), repr(one.args), repr(vars(one))]
        texts += [repr(getattr(one, name, None)) for name in ("filename", "object", "reason", "text", "name", "value")]
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return "\n".join(texts)


@pytest.mark.parametrize("index", range(len(of_many_kinds("x"))))
def test_every_kind_of_exception_is_hidden_in(index):
    secret = "canary-of-exceptions"
    error = of_many_kinds(secret)[index]
    assert secret in reachable(error)
    with executor_for(secret_key=secret) as executor:
        shown = hidden(error, executor._guards.redactor)

    assert secret not in reachable(shown)
    assert type(shown) is type(error) or "Withheld" in type(shown).__name__


class Telling(Exception):
    """Tells what its arguments and attributes do not have."""

    def __str__(self):
        return f"it is {CANARY}"


class Unwritable(Exception):
    def __str__(self):
        raise RuntimeError

    def __repr__(self):
        return f"Unwritable({CANARY})"


def chained(length):
    first = error = Telling()
    for _ in range(length):
        error = ValueError("on top")
        error.__context__, first = first, error
    return error


@pytest.mark.parametrize(
    "error",
    [ExceptionGroup("several", [ExceptionGroup("deep", [Telling()]), ValueError()]), Unwritable(), chained(1200)],
    ids=["group", "unwritable", "long chain"],
)
def test_what_cannot_be_changed_is_withheld_wherever_it_is(error):
    with executor_for(secret_key=CANARY) as executor:
        shown = hidden(error, executor._guards.redactor)

    assert CANARY not in "".join(traceback.format_exception(shown)) + repr(shown)


def test_an_error_does_not_tell_whoever_guesses_how_far_the_guess_is_right():
    @Tool(name="Users.Find", register=False)
    def find(name: str) -> str:
        raise ValueError(f"no user {unquote(name)}")

    def said(name):
        return executor.execute_sync(create_tool_call("Users.Find", {"name": name})).error

    with executor_for(find, secret_key="sk_live_9fQ2mZ7L1kXw", enable_security_checks=False) as executor:
        errors = [said(guess) for guess in ("sk_live_9", "sk_live_8", "sk%5Flive_9f", "sk%255Flive_9f")]
        unknown = executor.execute_sync(create_tool_call("sk_live_9", {}))

    assert [error.rpartition(" ")[2] for error in errors] == ["sk_live_9", "sk_live_8", "sk_live_9f", "sk%5Flive_9f"]
    assert HIDDEN not in unknown.error


async def test_frames_of_what_still_runs_are_left_alone():
    """An exception that came through a coroutine which only waits must not end that coroutine."""
    go, errors = asyncio.Event(), []

    async def waits():
        kept = "canary-of-frames"
        try:
            raise ValueError(kept)
        except ValueError as error:
            errors.append(error)
        await go.wait()
        return kept

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)

    @Tool(name="Raises", register=False)
    async def raises() -> None:
        raise errors[0]

    with executor_for(raises, secret_key="canary-of-frames") as executor:
        result = await executor.execute_tool_call(create_tool_call("Raises", {}))
    go.set()

    assert result.error == f"Error executing Raises: ValueError: {HIDDEN}"
    assert await task == "canary-of-frames"


def test_an_error_of_a_stage_is_hidden_in_too():
    with executor_for(echo, secret_key="canary-argument") as executor:
        result = executor.execute_sync(create_tool_call("Plain.Echo", {"text": ["canary-argument"]}))
        unknown = executor.execute_sync(create_tool_call("canary-argument", {}))

    assert result.failure.code == "invalid_input"
    assert "canary-argument" not in repr(result.failure)
    assert "canary-argument" not in repr(unknown.failure)


def test_what_a_stage_notes_for_an_explanation_is_hidden_in():
    @Tool(name="Voids", register=False, invalidates=("item:{text}",))
    def voids(text: str) -> int:
        return len(text)

    with executor_for(voids, secret_key="canary-noted") as executor:
        result = executor.execute_sync(create_tool_call("Voids", {"text": "canary-noted"}), explain=True)

    assert result.success
    assert f"item:{HIDDEN}" in repr(result.explanation)
    assert "canary-noted" not in repr(result.explanation)


# -- stages outside ----------------------------------------------------------------------------------------------------


def test_neither_the_cache_nor_the_records_ever_hold_it(tmp_path):
    @Tool(name="Kept", register=False, cache=Cache(ttl_s=60, per="global"), idempotency=Idempotency())
    async def kept(ctx: ToolContext) -> object:
        value = await ctx.secret(REFERENCE)
        return {"right": value == CANARY, "value": value, "json": json.dumps(value)}

    database = tmp_path / "records.db"
    with executor_for(kept, records_url=f"sqlite:///{database}") as executor:
        call = create_tool_call("Kept", {}, idempotency_key="one")
        first, again = executor.execute_sync(call), executor.execute_sync(call)
        cached = executor._cache

        assert first.data == again.data == {"right": True, "value": HIDDEN, "json": f'"{HIDDEN}"'}
        assert again.source in ("cache", "replay")
        assert "canary" not in repr([vars(cached) if hasattr(cached, "__dict__") else cached])
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"canary" not in written
    assert b"hidden" in written


def test_what_was_kept_before_the_secret_was_known_is_hidden_when_it_is_given():
    @Tool(name="Early", register=False, cache=Cache(ttl_s=60, per="global"))
    def early(text: str) -> str:
        return text

    with executor_for(early) as executor:
        executor.call_sync("Early", text="canary-early")
        executor._guards.redactor.add("canary-early")

        result = executor.execute_sync(create_tool_call("Early", {"text": "canary-early"}))

    assert (result.source, result.data) == ("cache", {"result": HIDDEN})


def test_events_and_logs_of_a_body_are_hidden_in(caplog):
    @Tool(name="Talks", register=False)
    async def talks(ctx: ToolContext) -> str:
        value = await ctx.secret(REFERENCE)
        ctx.log(f"using {value}", token=value)
        ctx.progress(1, message=f"with {value}")
        return "done"

    recorder = Recorder()
    with caplog.at_level(logging.DEBUG), executor_for(talks, observers=[recorder], debug=True) as executor:
        executor.call_sync("Talks")

    assert "canary" not in repr(recorder.events)
    assert repr(recorder.events).count(HIDDEN) == 3
    assert "canary" not in caplog.text
    assert f"using {HIDDEN}" in caplog.text


# -- declarations ------------------------------------------------------------------------------------------------------


class Upstream(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.server.got.append((self.path, dict(self.headers), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        answer = json.dumps({"path": self.path, "headers": dict(self.headers), "body": body}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def upstream():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.got, server.statuses = [], []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def spec(url, **options):
    options.setdefault("parameters", [StringParameter(name="text", description="text")])
    return HttpToolSpec(id="up", version="1", tool_name="Up", description="Post.", url=url, **options)


def sending(*specs, **settings):
    return executor_for(*(s.define() for s in specs), egress_private=["127.0.0.1:*"], **settings)


def test_references_of_a_request_are_filled_in_and_come_back_hidden(upstream, monkeypatch):
    monkeypatch.setenv("CANARY", "canary-up/17 x")
    tool = spec(
        f"{upstream.url}/hooks/{{secret://env/CANARY}}?key={{secret://env/CANARY}}",
        headers={"Authorization": "Bearer {secret://env/CANARY}", "X-Whole": REFERENCE},
        query_params={"token": REFERENCE},
        body={"password": REFERENCE, "said": "{text} with {secret://env/CANARY}"},
    )

    with sending(tool) as executor:
        result = executor.execute_sync(create_tool_call("Up", {"text": "hello"}))

    path, headers, body = upstream.got[0]
    assert path == "/hooks/canary-up/17%20x?key=canary-up%2F17%20x&token=canary-up%2F17%20x"
    assert (headers["Authorization"], headers["X-Whole"]) == ("Bearer canary-up/17 x", "canary-up/17 x")
    assert json.loads(body) == {"password": "canary-up/17 x", "said": "hello with canary-up/17 x"}
    assert result.success
    assert "canary" not in repr(result)
    assert json.loads(result.data["body"]["body"])["said"] == f"hello with {HIDDEN}"


LITERAL = ["secret://env/CANARY", "{secret://env/CANARY}", "{secret_0}", "Bearer {secret://env/CANARY}"]


@pytest.mark.parametrize("text", LITERAL)
@pytest.mark.parametrize("beside", [True, False], ids=["beside a reference", "without one"])
def test_a_reference_in_an_argument_reaches_the_server_as_it_is_written(upstream, monkeypatch, text, beside):
    monkeypatch.setenv("CANARY", "canary-literal")
    monkeypatch.setenv("OTHER", "other-secret")
    own = " {secret://env/OTHER}" if beside else ""
    tool = spec(
        f"{upstream.url}/o?q={{text}}",
        headers={"X-Said": f"{{text}}{own}"},
        body={"whole": "{text}", "part": f"<{{text}}>{own}"},
    )

    with sending(tool, enable_security_checks=False) as executor:
        result = executor.execute_sync(create_tool_call("Up", {"text": text}))

    path, headers, body = upstream.got[0]
    sent = " other-secret" if beside else ""
    assert headers["X-Said"] == f"{text}{sent}"
    assert json.loads(body) == {"whole": text, "part": f"<{text}>{sent}"}
    assert "canary-literal" not in path + repr(headers) + body
    assert result.success


def test_arguments_without_a_place_and_plain_tools_take_references_for_text(upstream):
    @Tool(name="Ctx.Echo", register=False)
    async def with_context(text: str, ctx: ToolContext) -> str:
        return text

    with sending(spec(f"{upstream.url}/o"), enable_security_checks=False) as executor:
        executor.add([with_context, echo])
        executor.call_sync("Up", text=REFERENCE)

        assert executor.call_sync("Ctx.Echo", text=REFERENCE) == REFERENCE
        assert executor.call_sync("Plain.Echo", text=REFERENCE) == REFERENCE
        assert json.loads(upstream.got[0][2]) == {"text": REFERENCE}


def test_a_secret_that_the_server_refuses_is_asked_for_anew_next_time(upstream):
    class Rotates:
        waits = False
        asked = 0

        def get(self, path):
            Rotates.asked += 1
            return f"canary-version-{Rotates.asked}"

    tool = spec(f"{upstream.url}/o", headers={"X-Key": "secret://shop/key"})
    upstream.statuses[:] = [200, 401]
    with sending(tool, secrets={"shop": Rotates()}) as executor:
        results = [executor.execute_sync(create_tool_call("Up", {"text": "x"})) for _ in range(3)]

    sent = [headers["X-Key"] for _, headers, _ in upstream.got]
    assert sent == ["canary-version-1", "canary-version-1", "canary-version-2"]
    assert [result.success for result in results] == [True, False, True]
    assert "canary" not in repr(results)


def test_an_answer_that_is_an_error_and_was_cut_within_the_secret_shows_none_of_it(upstream, monkeypatch):
    monkeypatch.setenv("CANARY", "canary-" + "abcdefgh" * 60)
    tool = spec(f"{upstream.url}/o", headers={"X-Filler": "f" * 700, "X-Key": REFERENCE})
    upstream.statuses[:] = [500]

    with sending(tool) as executor:
        result = executor.execute_sync(create_tool_call("Up", {"text": "x" * 200}))

    assert result.failure.details["body"].endswith(HIDDEN)
    assert "canary" not in repr(result)


@pytest.mark.parametrize(
    ("where", "value"),
    [("headers", "line one\r\nX-Evil: 1"), ("headers", "€"), ("url", "../admin")],
)
def test_a_secret_that_cannot_stand_where_it_is_named_is_refused_by_its_reference(upstream, monkeypatch, where, value):
    monkeypatch.setenv("CANARY", value)
    more = {"headers": {"X-Key": REFERENCE}} if where == "headers" else {}
    path = "/o/{secret://env/CANARY}" if where == "url" else "/o"

    with sending(spec(upstream.url + path, **more)) as executor:
        result = executor.execute_sync(create_tool_call("Up", {"text": "x"}))

    assert result.failure.code == "secret_unavailable"
    assert REFERENCE in result.error
    assert upstream.got == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"headers": {"A": "Bearer secret://env/X"}}, r"\{secret://env/X\}"),
        ({"headers": {"A": "secret://env"}}, "secret://provider/path"),
        ({"body": {"a": ["{secret://nothing}"]}}, "secret://provider/path"),
    ],
)
def test_a_reference_that_is_written_wrongly_is_refused_before_any_call(upstream, options, says):
    with pytest.raises(ConfigurationError, match=says):
        spec(f"{upstream.url}/o", **options).define()


def test_credentials_that_a_declaration_holds_come_back_hidden(upstream):
    tool = spec(f"{upstream.url}/o", headers={"Authorization": "Bearer canary-declared"})

    with sending(tool) as executor:
        result = executor.execute_sync(create_tool_call("Up", {"text": "x"}))

    assert upstream.got[0][1]["Authorization"] == "Bearer canary-declared"
    assert result.data["body"]["headers"]["Authorization"] == f"Bearer {HIDDEN}"


def test_a_database_is_reached_by_a_path_that_is_a_reference(tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", str(tmp_path / "canary-file.db"))
    tool = SqliteToolSpec(
        id="db", version="1", tool_name="Db", description="Run.", database_path=REFERENCE, parameters=QUERY
    ).define()

    with executor_for(tool, enable_security_checks=False) as executor:
        executor.call_sync("Db", query="create table t (a)")
        result = executor.execute_sync(create_tool_call("Db", {"query": "select file from pragma_database_list"}))

    assert (tmp_path / "canary-file.db").exists()
    assert result.data["rows"] == [{"file": HIDDEN}]


QUERY = [StringParameter(name="query", description="SQL")]


@pytest.fixture
def login(postgres_url, monkeypatch):
    """Makes a user with a password, who may use the test's database."""
    made = []

    def make(password):
        user = f"canary_user_{len(made)}_{os.getpid()}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                psycopg.sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    psycopg.sql.Identifier(user), psycopg.sql.Literal(password)
                )
            )
        made.append(user)
        monkeypatch.setenv("CANARY", password)
        return user, urlsplit(postgres_url)

    yield make
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for user in made:
            connection.execute(psycopg.sql.SQL("DROP ROLE {}").format(psycopg.sql.Identifier(user)))


@pytest.mark.parametrize("form", ["field", "url", "keywords"])
def test_postgresql_is_reached_by_a_password_that_is_a_reference(login, form):
    password = "canary-password" if form == "keywords" else "canary \"p@ss/w:%d' é"
    user, where = login(password)
    database = where.path[1:]
    connection_string = {
        "field": None,
        "url": f"postgresql://{user}:{{secret://env/CANARY}}@{where.hostname}:{where.port}/{database}",
        "keywords": f"user={user} password={{secret://env/CANARY}} host={where.hostname} port={where.port} "
        f"dbname={database}",
    }[form]
    tool = PostgreSqlToolSpec(
        id="db",
        version="1",
        tool_name="Db",
        description="Run.",
        parameters=QUERY,
        host=where.hostname,
        port=where.port,
        database=database,
        username=user,
        password=REFERENCE,
        connection_string=connection_string,
    ).define()

    with executor_for(tool, enable_security_checks=False) as executor:
        result = executor.execute_sync(create_tool_call("Db", {"query": "select current_user as who"}))
        quoted = password.replace("'", "''")
        wrong = executor.execute_sync(create_tool_call("Db", {"query": f"select cast('{quoted}' as integer)"}))
        shown = repr(vars(tool)) + repr(executor._resources.clients._made)

    assert result.data["rows"] == [{"who": user}]
    assert HIDDEN in wrong.error
    assert "canary-password" not in repr(wrong) + shown
    assert "p@ss" not in repr(wrong) + shown


def test_a_secret_that_cannot_stand_in_a_keyword_string_is_refused_by_its_reference(monkeypatch):
    monkeypatch.setenv("CANARY", "two words")
    tool = PostgreSqlToolSpec(
        id="db",
        version="1",
        tool_name="Db",
        description="Run.",
        parameters=QUERY,
        database="x",
        username="x",
        password="x",
        connection_string="user=x password={secret://env/CANARY}",
    ).define()

    with executor_for(tool, enable_security_checks=False) as executor:
        result = executor.execute_sync(create_tool_call("Db", {"query": "select 1"}))

    assert result.failure.code == "secret_unavailable"
    assert REFERENCE in result.error


def test_settings_may_be_references(tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", f"sqlite:///{tmp_path}/canary-records.db")

    with executor_for(echo, records_url=REFERENCE) as executor:
        executor.records.migrate()
        shown = [setting for setting in executor.config.effective() if setting.name == "records_url"]

    assert (tmp_path / "canary-records.db").exists()
    assert "canary" not in repr(shown) + repr(executor.config)


def test_a_setting_whose_secret_cannot_be_had_refuses_the_executor(monkeypatch):
    monkeypatch.delenv("CANARY")

    with pytest.raises(SecretUnavailableError, match=REFERENCE):
        with executor_for(records_url=REFERENCE):
            pass


@pytest.mark.parametrize("mark", [{"writeOnly": True}, {"format": "password"}, {"x-secret": True}])
def test_what_a_schema_marks_is_not_shown_by_a_refusal(mark):
    inner = {"type": "object", "properties": {"pin": {"type": "integer", **mark}, "n": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"code": {"type": "integer", **mark}, "deep": inner}}

    @Tool(name="Marked", register=False, parameters=schema)
    def marked(code: int = 0, deep: dict | None = None) -> int:
        return code

    with executor_for(marked) as executor:
        given = {"code": "canary-code", "deep": {"pin": "canary-pin", "n": "shown"}}
        result = executor.execute_sync(create_tool_call("Marked", given))

    assert result.failure.code == "invalid_input"
    assert "canary" not in repr(result)
    assert [problem["got"] for problem in result.failure.details["errors"]] == [HIDDEN, HIDDEN, "'shown'"]


def test_what_stands_under_a_credentials_name_in_a_url_or_a_body_is_hidden_too(upstream):
    tool = HttpToolSpec(
        id="declared",
        version="1",
        tool_name="Declared",
        description="Post.",
        url=f"{upstream.url}/o?api_key=literal-in-url",
        method="post",
        body={"inner": [{"client_secret": "literal-in-body"}], "text": "{text}"},
        parameters=[StringParameter(name="text")],
    )

    with sending(tool) as executor:
        executor.execute_sync(create_tool_call("Declared", {"text": "x"}))
        shown = executor._guards.redactor.text("literal-in-url literal-in-body")

    assert shown == f"{HIDDEN} {HIDDEN}"
    assert "literal-in" not in repr(tool)
