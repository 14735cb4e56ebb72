"""SqlPolicy: what is executed, what is refused and how it is told, without a database."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from toolpost import ConfigurationError, InputValidationError, SecurityError, SqlPolicy
from toolpost.security.sql import Relation, TableName, bind
from toolpost.security.sql_names import Read
from toolpost.security.sql_words import judge_words, tokens_of

DIALECTS = ["sqlite", "postgres"]


def rule(policy: SqlPolicy, sql: str, dialect: str = "postgres", **known: Any) -> str:
    """The rule that a statement breaks."""
    with pytest.raises(SecurityError) as raised:
        policy.check(sql, dialect, **known)
    return str(raised.value.details["rule"])


def text(sql: str, dialect: str = "postgres", policy: SqlPolicy | None = None) -> str:
    return (policy or SqlPolicy()).check(sql, dialect).text


# -- what is executed --------------------------------------------------------------------------------------------------


def test_what_is_executed_is_rendered_anew_with_folded_and_quoted_names():
    checked = SqlPolicy().check("select Name, count(*)  FROM Users -- all\n where a='it''s' group by 1", "postgres")

    assert checked.text == 'SELECT "name", COUNT(*) FROM "users" WHERE "a" = \'it\'\'s\' GROUP BY 1'
    assert checked.tables == (TableName(None, "users"),)
    assert (checked.columns, checked.functions, checked.kind) == (("a", "name"), ("count",), "select")


def test_sqlite_names_cannot_be_read_as_text_unless_they_were_written_so():
    assert text('SELECT a, [b c], `d` FROM t WHERE e = "x"', "sqlite") == (
        'SELECT `a`, `b c`, `d` FROM `t` WHERE `e` = "x"'
    )


def test_quoted_names_keep_their_case_on_postgresql():
    assert text('SELECT "Id" FROM "Users"') == 'SELECT "Id" FROM "Users"'


def test_comments_are_gone_from_what_is_executed():
    assert text("SELECT /* a */ 1 -- b") == "SELECT 1"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "VALUES (1, 'a'), (2, NULL)",
        "SELECT * FROM t",
        "SELECT DISTINCT a, b AS c FROM t AS u WHERE a IN (1, 2) AND b NOT LIKE 'x%' OR c IS NOT NULL",
        "SELECT a FROM t JOIN u ON t.id = u.id LEFT JOIN v USING (id) CROSS JOIN w",
        "SELECT a, count(*), sum(b) FROM t GROUP BY a HAVING count(*) > 1 ORDER BY 2 DESC, a LIMIT 5 OFFSET 10",
        "WITH x AS (SELECT 1 AS n), y AS (SELECT n FROM x) SELECT * FROM y UNION ALL SELECT 2 EXCEPT SELECT 3",
        "SELECT (SELECT max(a) FROM t), CASE WHEN a > 1 THEN 'x' ELSE 'y' END FROM t WHERE EXISTS (SELECT 1 FROM u)",
        "SELECT row_number() OVER (PARTITION BY a ORDER BY b ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) FROM t",
        "SELECT coalesce(a, 0), nullif(a, b), round(a, 2), lower(b) || upper(c), substr(c, 1, 2) FROM t",
        "SELECT CAST(a AS integer), a BETWEEN 1 AND 2, -a, NOT b FROM t",
        "SELECT current_date, current_timestamp",
    ],
)
def test_plain_queries_are_allowed_and_stay_as_they_are_when_rendered_again(sql, dialect):
    checked = SqlPolicy().check(sql, dialect)

    assert SqlPolicy().check(checked.text, dialect) == checked


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT date_trunc('month', a), extract(year FROM a), to_char(a, 'YYYY-MM'), age(a, b) FROM t",
        "SELECT a::numeric(10, 2), '2024-01-01'::date + interval '1 day', a AT TIME ZONE 'UTC' FROM t",
        "SELECT string_agg(a, ',' ORDER BY a), array_agg(DISTINCT b), b FROM (SELECT a FROM t) AS x(b)",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY c) FROM t",
        "SELECT a ->> 'x', a #>> '{b,c}', a @> '{\"d\": 1}', jsonb_array_length(a) FROM t",
        "SELECT a ILIKE 'x%', a ~ '^x', a SIMILAR TO 'y', b = ANY (array[1, 2]) FROM t",
        "SELECT g FROM generate_series(1, 100) AS g",
        "SELECT generate_series(min(a), max(a), '1 month'::interval) FROM t",
        "SELECT count(*) FILTER (WHERE a) FROM t GROUP BY ROLLUP (b)",
        "SELECT x.n FROM t, LATERAL (SELECT count(*) AS n FROM u WHERE u.id = t.id) AS x",
        "SELECT DISTINCT ON (a) b FROM t ORDER BY a, b NULLS LAST FETCH FIRST 5 ROWS ONLY",
    ],
)
def test_what_postgresql_has_beside_the_standard_is_allowed(sql):
    checked = SqlPolicy().check(sql, "postgres")

    assert SqlPolicy().check(checked.text, "postgres").text == checked.text


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT strftime('%Y-%m', a), date('now', '-1 day'), julianday(a), datetime(a) FROM t",
        "SELECT group_concat(a, ','), total(b), typeof(c), iif(a, 1, 2), ifnull(a, b) FROM t",
        "SELECT a ->> '$.x', json_extract(a, '$.y[0]'), j.value FROM t, json_each(t.a) AS j",
        "SELECT mod, json_object('a', 1) FROM t WHERE a = b COLLATE nocase ORDER BY a COLLATE BINARY",
        "SELECT a GLOB 'x*', a LIKE 'x!_' ESCAPE '!', a IS NOT b, a % 2 FROM t LIMIT 5, 10",
        "SELECT printf('%05.2f', a), instr(b, 'x'), replace(b, 'x', 'y'), trim(b, '-') FROM t",
    ],
)
def test_what_sqlite_has_beside_the_standard_is_allowed(sql):
    checked = SqlPolicy().check(sql, "sqlite")

    assert SqlPolicy().check(checked.text, "sqlite").text == checked.text


@pytest.mark.parametrize(
    "sql",
    ["CAST(a AS numeric)", "CAST(a AS date)", "CAST(a AS boolean)", "CAST(a AS varchar(3))", "mod(a, 2)", "MOD (a, 2)"],
)
def test_what_would_mean_something_else_when_rendered_for_sqlite_is_refused(sql):
    assert rule(SqlPolicy(), f"SELECT {sql} FROM t", "sqlite") in ("sql.type", "sql.function")


@pytest.mark.parametrize(
    "sql",
    ["printf('%1000d', a)", "printf(a)", "instr(a, b)", "replace(a, b, 'x')", "trim(a, b)", "format('%*d', a, 1)"],
)
def test_arguments_with_which_one_call_on_sqlite_takes_long_are_refused(sql):
    assert rule(SqlPolicy(), f"SELECT {sql} FROM t", "sqlite") == "sql.argument"


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "sql"),
    [
        ("sql.statements", "SELECT 1; SELECT 2"),
        ("sql.statements", "  "),
        ("sql.statement", "DELETE FROM t"),
        ("sql.statement", "EXPLAIN SELECT 1"),
        ("sql.statement", "SELECT"),
        ("sql.statement", "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x"),
        ("sql.node", "SELECT * FROM t FETCH FIRST a ROWS ONLY"),
        ("sql.clause", "SELECT * INTO u FROM t"),
        ("sql.clause", "SELECT * FROM t FOR UPDATE"),
        ("sql.syntax", "SELECT FROM WHERE ((("),
        ("sql.function", "SELECT pg_sleep(1)"),
        ("sql.function", 'SELECT "pg_sleep"(1)'),
        ("sql.qualified", "SELECT pg_catalog.lower(a) FROM t"),
        ("sql.qualified", "SELECT (t).a FROM t"),
        ("sql.type", "SELECT 't'::regclass"),
        ("sql.type", "SELECT 'x'::mytype"),
        ("sql.type", "SELECT '<a/>'::xml"),
        ("sql.literal", "SELECT E'a'"),
        ("sql.literal", "SELECT $$a$$"),
        ("sql.literal", "SELECT U&'a'"),
        ("sql.literal", "SELECT 1_000"),
        ("sql.literal", "SELECT 'a\0b'"),
        ("sql.hint", "SELECT /*+ x */ 1"),
        ("sql.recursive", "WITH RECURSIVE r AS (SELECT 1) SELECT * FROM r"),
        ("sql.table", "SELECT * FROM pg_class"),
        ("sql.table", "SELECT * FROM information_schema.tables"),
        ("sql.clause", "SELECT * FROM t TABLESAMPLE SYSTEM (1)"),
        ("sql.argument", "SELECT generate_series(1, 100000000)"),
        ("sql.argument", "SELECT lpad(a, 100000) FROM t"),
        ("sql.word", "SELECT session_user"),
        ("sql.depth", "SELECT " + "abs(" * 60 + "1" + ")" * 60),
        ("sql.depth", "SELECT " + "NOT " * 20 + "true"),
        ("sql.size", "SELECT 1 FROM " + ", ".join(f"t{number}" for number in range(33))),
        ("sql.size", "SELECT " + "a, " * 500 + "a FROM t"),
        ("sql.size", "SELECT " + "1, " * 6_000 + "1"),
        ("sql.size", "SELECT '" + "x" * 30_000 + "'"),
        ("sql.name", "SELECT " + "x" * 64),
        ("sql.parameters", "SELECT $2"),
        ("sql.parameters", "SELECT ?"),
        ("sql.parameters", "SELECT :a, $1"),
    ],
)
def test_each_refusal_has_its_rule(expected, sql):
    assert rule(SqlPolicy(), sql) == expected


def test_a_refusal_names_the_thing_and_the_way_out_and_no_values():
    with pytest.raises(SecurityError) as raised:
        SqlPolicy().check("SELECT pg_read_file('/etc/passwd-canary')", "postgres")

    error = raised.value
    assert error.details == {
        "parameter": "query", "rule": "sql.function", "role": "sql", "kind": "sql", "subject": "PG_READ_FILE",
    }  # fmt: skip
    assert "SqlPolicy(functions=...)" in error.message
    assert "canary" not in error.message


def test_a_function_that_is_asked_for_may_be_called():
    assert SqlPolicy(functions=["similarity"]).check("SELECT similarity(a, 'x') FROM t", "postgres").functions == (
        "similarity",
    )


def test_nesting_that_has_many_readings_is_given_up_soon():
    nested = "SELECT 1 FROM a " + "JOIN b " * 200

    assert rule(SqlPolicy(), nested) == "sql.depth"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "x || x AS x FROM (SELECT " * 25 + "'x' AS x" + ") AS d" * 25,
        "WITH a0 AS (SELECT 'x' AS x), "
        + ", ".join(f"a{n + 1} AS (SELECT x || x AS x FROM a{n})" for n in range(25))
        + " SELECT x FROM a25",
        "SELECT * FROM (SELECT a + a AS a FROM "
        + "(SELECT a + a AS a FROM " * 20
        + "t"
        + ") AS d" * 20
        + ") AS d UNION SELECT 1",
    ],
)
def test_subqueries_that_double_at_every_step_are_refused(sql):
    assert rule(SqlPolicy(), sql) == "sql.size"


def test_what_writes_to_a_function_is_refused():
    assert rule(WRITES, "UPDATE stddev_samp(a) SET b = 1 WHERE c = 2") == "sql.write"


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_only_tables_on_the_list_may_be_used(dialect):
    policy = SqlPolicy(tables=["orders"])

    assert policy.check("SELECT * FROM orders AS o", dialect).tables == (TableName(None, "orders"),)
    assert rule(policy, "SELECT * FROM orders JOIN users ON true", dialect) == "sql.table"
    assert rule(policy, "SELECT (SELECT 1 FROM users)", dialect) == "sql.table"


def test_a_table_without_a_schema_is_the_default_schemas():
    policy = SqlPolicy(tables=["orders", "sales.items"])

    assert policy.check("SELECT * FROM public.orders", "postgres")
    assert policy.check("SELECT * FROM main.orders", "sqlite")
    assert policy.check("SELECT * FROM sales.items", "postgres")
    assert rule(policy, "SELECT * FROM hr.orders") == "sql.table"
    assert rule(policy, "SELECT * FROM items") == "sql.table"


@pytest.mark.parametrize("written", ["secrets", "SECRETS", '"secrets"', "public.secrets", '"public"."secrets"'])
def test_a_denied_table_is_denied_however_it_is_written(written):
    assert rule(SqlPolicy(deny_tables=["Secrets"]), f"SELECT 1 FROM {written}") == "sql.table"


def test_a_whole_schema_can_be_denied():
    policy = SqlPolicy(deny_tables=["hr.*"])

    assert rule(policy, "SELECT 1 FROM hr.salaries") == "sql.table"
    assert policy.check("SELECT 1 FROM sales.orders", "postgres")


def test_the_databases_own_tables_may_be_used_when_they_are_named():
    policy = SqlPolicy(tables=["information_schema.tables"])

    assert policy.check("SELECT table_name FROM information_schema.tables", "postgres")
    assert rule(policy, "SELECT 1 FROM information_schema.columns") == "sql.table"


@pytest.mark.parametrize(
    "sql",
    [
        "WITH secrets AS (SELECT value FROM secrets) SELECT value FROM secrets",
        "SELECT * FROM (WITH secrets AS (SELECT 1) SELECT * FROM secrets) AS a, secrets",
        "WITH a AS (SELECT * FROM secrets), secrets AS (SELECT 1) SELECT * FROM a",
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_with_query_does_not_lend_its_name_to_a_table(sql, dialect):
    assert rule(SqlPolicy(deny_tables=["secrets"]), sql, dialect) == "sql.table"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_with_query_may_be_named_as_a_denied_table(dialect):
    assert SqlPolicy(deny_tables=["secrets"]).check("WITH secrets AS (SELECT 1) SELECT * FROM secrets", dialect)


# -- columns -----------------------------------------------------------------------------------------------------------

USERS = Relation(name=TableName("public", "users"), columns=("id", "name", "password"))
ORDERS = Relation(name=TableName("public", "orders"), columns=("id", "user_id", "lower"))
KNOWN = {
    TableName(None, "users"): USERS,
    TableName(None, "orders"): ORDERS,
    TableName("public", "users"): USERS,
    TableName("public", "orders"): ORDERS,
}
COLUMNS = [SqlPolicy(deny_columns=["users.password"]), SqlPolicy(tables={"users": ["id", "name"], "orders": None})]


@pytest.mark.parametrize("policy", COLUMNS, ids=["denied", "allowed"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT password FROM users",
        "SELECT u.password FROM users AS u",
        "SELECT 1 FROM users WHERE Password = 'x'",
        "SELECT 1 FROM users ORDER BY password",
        "SELECT * FROM users",
        "SELECT users.* FROM orders, users",
        "SELECT * FROM orders JOIN users ON true",
        "SELECT * FROM (SELECT * FROM users) AS x",
        "SELECT * FROM (users JOIN orders ON true)",
        "SELECT * FROM ((users JOIN orders ON true))",
        "SELECT * FROM ((SELECT 1) AS one CROSS JOIN users)",
        "SELECT c FROM users AS x(a, b, c)",
        "SELECT users FROM users",
        "SELECT u FROM users AS u",
        "SELECT row_to_json(u) FROM users AS u",
        "SELECT u.row_to_json FROM users AS u",
        "SELECT 1 FROM users NATURAL JOIN orders",
        "SELECT 1 FROM (SELECT 'x' AS password) AS x NATURAL JOIN (users CROSS JOIN orders)",
        "SELECT 1 FROM orders JOIN users USING (password)",
    ],
)
def test_a_column_that_may_not_be_read_is_refused_however_it_is_reached(policy, sql):
    found = rule(policy, sql, relations=KNOWN)

    assert found in {"sql.column", "sql.star", "sql.no-column"}


@pytest.mark.parametrize("policy", COLUMNS, ids=["denied", "allowed"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, name FROM users",
        "SELECT count(*) FROM users",
        "SELECT o.* FROM users AS u JOIN orders AS o ON o.user_id = u.id",
        "SELECT * FROM (SELECT id FROM users) AS x",
        "SELECT lower(name) AS password FROM users",
        "SELECT x.password FROM (SELECT name AS password FROM users) AS x",
        "SELECT orders.lower FROM orders",
    ],
)
def test_columns_beside_those_that_may_not_be_read_can_be(policy, sql):
    assert policy.check(sql, "postgres", relations=KNOWN)


def test_a_star_is_refused_with_the_columns_to_name():
    with pytest.raises(SecurityError, match="name the columns: id, name"):
        COLUMNS[0].check("SELECT * FROM users", "postgres", relations=KNOWN)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT j.password FROM (users JOIN orders ON true) AS j",
        "SELECT j.* FROM (users JOIN orders ON true) AS j",
        "SELECT j FROM (users JOIN orders ON true) AS j",
        "SELECT j.c FROM (users JOIN orders ON true) AS j(a, b, c)",
        "SELECT j.password FROM ((users JOIN orders ON true)) AS j",
        "SELECT j.password FROM ((SELECT 1) AS one CROSS JOIN users) AS j",
        "SELECT j.password FROM (users) AS j",
    ],
)
def test_tables_in_brackets_have_no_name_under_which_columns_could_hide(sql, dialect):
    assert rule(SqlPolicy(), sql, dialect) == "sql.table"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_queries_in_brackets_have_a_name(dialect):
    assert text("SELECT x.a FROM ((SELECT 1 AS a)) AS x, (SELECT 2 AS b UNION SELECT 3) AS y", dialect)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT f.pg_read_file FROM unnest(array['/etc/passwd']) AS f",
        "SELECT unnest.pg_read_file FROM unnest(array['/etc/passwd'])",
        "SELECT f.pg_sleep FROM generate_series(1, 2) AS f",
        "SELECT f.pg_ls_dir FROM lower('/etc') AS f",
        "SELECT f.pg_read_file FROM t, LATERAL regexp_split_to_table('/etc/passwd', ',') AS f",
        "SELECT f.current_setting FROM cast('data_directory' AS text) AS f",
        'SELECT "F"."pg_sleep" FROM unnest(array[3]) AS "F"',
        "SELECT 1 FROM unnest(array[3]) AS f ORDER BY f.pg_sleep",
        "SELECT count(*) FILTER (WHERE f.pg_sleep IS NULL) FROM unnest(array[3]) AS f",
        "SELECT (SELECT f.pg_sleep) FROM unnest(array[3]) AS f",
        "SELECT pg_sleep.pg_sleep FROM unnest(array[3]) AS pg_sleep(x)",
        "SELECT pg_read_file.pg_read_file FROM json_array_elements_text('[\"/etc/passwd\"]') AS pg_read_file",
        "SELECT f.ordinality FROM unnest(array[3]) AS f",
        "SELECT f.pg_sleep FROM unnest(array[3]) AS f(x), (SELECT 1 FROM unnest(array[3]) AS f(pg_sleep)) AS y",
        "SELECT mine.mine FROM mine() AS mine",
        "SELECT elsewhere.pg_sleep FROM t",
    ],
)
def test_what_is_no_column_is_refused_as_postgresql_would_call_the_function_of_that_name(sql):
    assert rule(SqlPolicy(functions=["mine"]), sql) == "sql.no-column"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT f, f.f FROM unnest(array[1, 2]) AS f",
        "SELECT f.x, f.n FROM unnest(array[1, 2]) WITH ORDINALITY AS f(x, n)",
        "SELECT f.f, f.ordinality FROM generate_series(1, 2) WITH ORDINALITY AS f",
        "SELECT e.key, e.value FROM t, jsonb_each(t.j) AS e",
        "SELECT e.value FROM t CROSS JOIN LATERAL jsonb_array_elements_text(t.j) AS e",
        "SELECT mine.x FROM mine() AS mine(x)",
    ],
)
def test_columns_of_functions_that_stand_as_tables_can_be_named(sql):
    assert text(text(sql, policy=SqlPolicy(functions=["mine"])), policy=SqlPolicy(functions=["mine"]))


def test_a_star_of_what_is_not_in_from_is_refused():
    assert rule(SqlPolicy(), "SELECT old.* FROM t") == "sql.no-table"


def test_columns_denied_of_a_child_are_denied_of_its_parent():
    parent, child = TableName("public", "parent"), TableName("public", "child")
    relation = Relation(
        name=parent, columns=("id", "password"), reads=frozenset({Read(child)}), children=frozenset({child})
    )
    known = {TableName(None, "parent"): relation, parent: relation}

    for policy in (
        SqlPolicy(deny_columns=["child.password"]),
        SqlPolicy(tables=["parent"], deny_columns=["child.password"]),
    ):
        assert rule(policy, "SELECT password FROM parent", relations=known) == "sql.column"
        assert rule(policy, "SELECT p.password FROM parent AS p", relations=known) == "sql.column"
        assert rule(policy, "SELECT p FROM parent AS p", relations=known) == "sql.column"
        assert rule(policy, "SELECT * FROM parent", relations=known) == "sql.star"
        assert rule(policy, "SELECT p.* FROM parent AS p", relations=known) == "sql.star"
        assert policy.check("SELECT id FROM parent", "postgres", relations=known)


def test_without_the_databases_word_a_column_might_be_any_tables():
    assert rule(COLUMNS[1], "SELECT user_id FROM orders, users") == "sql.column"
    assert COLUMNS[1].check("SELECT orders.user_id FROM orders, users", "postgres")


def test_tables_are_executed_with_their_schemas_so_that_nothing_else_can_be_meant():
    checked = SqlPolicy().check("SELECT id FROM users AS u", "postgres", relations=KNOWN)

    assert checked.text == 'SELECT "id" FROM "public"."users" AS "u"'
    assert checked.tables == (TableName("public", "users"),)


def test_a_table_that_is_not_there_is_told_with_the_nearest():
    with pytest.raises(SecurityError, match=r"no table 'user'; did you mean 'users'.*sql\.no-table"):
        SqlPolicy().check('SELECT 1 FROM "user"', "postgres", relations=KNOWN)


# -- views -------------------------------------------------------------------------------------------------------------


def view(*reads: Read, **more: Any) -> dict[TableName, Relation]:
    name = TableName("public", "v")
    relation = Relation(name=name, kind="view", columns=("a",), reads=frozenset(reads), **more)
    return {TableName(None, "v"): relation, name: relation}


def test_a_view_may_show_only_what_may_be_read_unless_it_is_named():
    secret = view(Read(TableName("public", "secrets")))
    hidden = view(Read(TableName("public", "users"), "password"))

    assert rule(SqlPolicy(deny_tables=["secrets"]), "SELECT a FROM v", relations=secret) == "sql.view"
    assert rule(SqlPolicy(deny_columns=["users.password"]), "SELECT a FROM v", relations=hidden) == "sql.view"
    assert SqlPolicy(tables=["v"], deny_tables=["secrets"]).check("SELECT a FROM v", "postgres", relations=secret)


def test_a_table_of_another_server_has_to_be_named():
    remote = view(remote=frozenset({TableName("public", "far")}))

    assert rule(SqlPolicy(), "SELECT a FROM v", relations=remote) == "sql.remote"
    assert SqlPolicy(tables=["v"]).check("SELECT a FROM v", "postgres", relations=remote)


def test_what_a_virtual_table_shows_or_keeps_is_not_read():
    name = TableName("main", "notes")
    for kind, named in (("virtual table", "sql.table"), ("shadow table", None)):
        relation = Relation(name=name, kind=kind, columns=("a",))
        known = {"relations": {TableName(None, "notes"): relation, name: relation}, "homes": ("main",)}

        assert rule(SqlPolicy(), "SELECT a FROM notes", "sqlite", **known) in ("sql.table", "sql.view")
        assert not SqlPolicy().may_show(relation, "sqlite")
        if named is None:
            assert SqlPolicy(tables=["notes"]).check("SELECT a FROM notes", "sqlite", **known)
        else:
            assert rule(SqlPolicy(tables=["notes"]), "SELECT a FROM notes", "sqlite", **known) == named
            assert not SqlPolicy(tables=["notes"]).may_show(relation, "sqlite")


# -- writes ------------------------------------------------------------------------------------------------------------

WRITES = SqlPolicy(tables=["items", "log"], writes={"items": ["insert", "update"], "log": ["delete"]})


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("INSERT INTO items (id, name) VALUES (1, 'a')", "insert"),
        ("INSERT INTO items (id) SELECT id FROM log", "insert"),
        ("INSERT INTO items (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = 'x'", "insert"),
        ("UPDATE items SET name = 'b' WHERE id = 1 RETURNING id", "update"),
        ("DELETE FROM log WHERE id = 1", "delete"),
    ],
)
def test_writes_are_allowed_by_table_and_kind(sql, kind, dialect):
    checked = WRITES.check(sql, dialect)

    assert checked.kind == kind
    assert WRITES.check(checked.text, dialect).text == checked.text


@pytest.mark.parametrize(
    ("expected", "sql"),
    [
        ("sql.write", "DELETE FROM items WHERE id = 1"),
        ("sql.write", "UPDATE log SET a = 1 WHERE id = 1"),
        ("sql.table", "INSERT INTO other VALUES (1)"),
        ("sql.where", "UPDATE items SET name = 'x'"),
        ("sql.where", "UPDATE items SET name = 'x' WHERE 1 = 1"),
        ("sql.where", "DELETE FROM log"),
        ("sql.write", "WITH x AS (DELETE FROM log WHERE id = 1 RETURNING id) SELECT * FROM x"),
        ("sql.statement", "DROP TABLE items"),
        ("sql.statement", "TRUNCATE items"),
        ("sql.statement", "MERGE INTO items USING log ON true WHEN MATCHED THEN DELETE"),
    ],
)
def test_other_writes_are_refused(expected, sql):
    assert rule(WRITES, sql) == expected


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO users VALUES (9, 'x', 'mine')",
        "INSERT INTO users SELECT 9, 'x', 'mine'",
        "INSERT INTO users (id, password) VALUES (9, 'mine')",
        "UPDATE users SET password = 'mine' WHERE id = 1",
        "UPDATE users SET (name, password) = ('a', 'b') WHERE id = 1",
        "INSERT INTO users (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = excluded.password",
        "UPDATE users SET name = 'x' WHERE id = 1 RETURNING old.password",
        "UPDATE users SET name = 'x' WHERE id = 1 RETURNING new.*",
        "UPDATE items SET name = 'x' FROM users NATURAL JOIN (SELECT 'x' AS password) AS q WHERE items.id = 1",
    ],
)
def test_a_write_neither_writes_nor_shows_columns_that_may_not_be_touched(sql, dialect):
    writes = {"users": ["insert", "update"], "items": ["update"]}

    for policy in (
        SqlPolicy(writes=writes, deny_columns=["users.password"]),
        SqlPolicy(writes=writes, tables={"users": ["id", "name"], "items": None}),
    ):
        assert rule(policy, sql, dialect) in ("sql.column", "sql.star")
        assert policy.check("INSERT INTO users (id, name) VALUES (1, 'x')", dialect)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO users (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = excluded::text",
        "UPDATE users SET name = 'x' WHERE id = 1 RETURNING old",
        "UPDATE users SET name = 'x' WHERE id = 1 RETURNING to_json(new)",
    ],
)
def test_the_rows_that_a_write_changes_are_not_shown_whole(sql):
    policy = SqlPolicy(writes={"users": ["insert", "update"]}, deny_columns=["users.password"])

    assert rule(policy, sql) == "sql.column"


def test_an_upsert_needs_update_as_well():
    policy = SqlPolicy(writes={"items": ["insert"]})

    assert rule(policy, "INSERT INTO items (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 2") == "sql.write"
    assert policy.check("INSERT INTO items (id) VALUES (1) ON CONFLICT (id) DO NOTHING", "postgres")


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "sql", "params", "values"),
    [
        ("sqlite", "WITH x AS (SELECT ? AS a) SELECT ?, a FROM x LIMIT ? OFFSET ?", [1, 2, 3, 4], [1, 2, 3, 4]),
        ("sqlite", "SELECT :b, :a, :b", {"a": 1, "b": 2}, [2, 1]),
        ("sqlite", "SELECT '?', ?", ["x"], ["x"]),
        ("postgres", "SELECT $2, $1, $2", [1, 2], [1, 2]),
        ("postgres", "SELECT :b, :a, :b", {"a": 1, "b": 2}, [2, 1]),
        ("postgres", "SELECT 1", None, []),
        ("postgres", "SELECT 1", {}, []),
    ],
)
def test_parameters_are_bound_by_place_or_by_name(dialect, sql, params, values):
    assert bind(SqlPolicy().check(sql, dialect), params) == values


def test_a_plain_parameter_keeps_its_place_where_the_tree_has_another_order():
    checked = SqlPolicy().check("WITH x AS (SELECT ? AS a) SELECT ?, a FROM x LIMIT ?", "sqlite")

    assert checked.text == "WITH `x` AS (SELECT :p1 AS `a`) SELECT :p2, `a` FROM `x` LIMIT :p3"


@pytest.mark.parametrize(
    ("sql", "params", "says"),
    [
        ("SELECT :a", {}, "lacks 'a'"),
        ("SELECT :a", {"a": 1, "b": 2}, "has 'b', which the query does not"),
        ("SELECT :a", [1], "must be an object with a"),
        ("SELECT $1", {"a": 1}, "must be a list"),
        ("SELECT $1", [], "must have 1 values"),
        ("SELECT 1", [1], "must have 0 values"),
        ("SELECT $1", "x", "must be a list or an object"),
        ("SELECT $1", ["x" * 100_001], "over 100000 characters"),
    ],
)
def test_params_that_do_not_fit_are_told(sql, params, says):
    checked = SqlPolicy().check(sql, "postgres")

    with pytest.raises(InputValidationError, match="params") as raised:
        bind(checked, params)

    assert says in raised.value.message


# -- the second look ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rendered",
    [
        "SELECT 1; SELECT 2",
        "SELECT 1 -- x",
        "SELECT 1 /* x */",
        "SELECT E'x'",
        "SELECT $$x$$",
        'SELECT "f"(1)',
        'SELECT 1, "f"("a")',
        'SELECT "a"."f"("b")',
        "SELECT secrets",
        "SELECT 1 INTO x",
        "SELECT 1 FOR UPDATE",
        "SELECT 1 @@ 2",
        "SELECT 1\u00a0",
        "SELECT 1_0",
        "COPY",
        "SELECT EXCLUDE(1)",
        "SELECT * FROM WITHIN(1)",
    ],
)
def test_words_that_are_not_listed_do_not_pass_whatever_a_parser_thought(rendered):
    with pytest.raises(SecurityError):
        judge_words(rendered, "postgres", writes=False, recursive=False)


def test_names_of_columns_may_stand_in_brackets_where_columns_are_listed():
    listed = 'WITH "a"("x") AS (SELECT 1), "b"("y", "z") AS (SELECT 1, 2) SELECT * FROM "t" AS "u"("v")'

    assert judge_words(listed, "postgres", writes=False, recursive=False) == frozenset()


@given(st.text(alphabet="SELECT fromx'\"`$:;-/*1.e()[]|\\\n\u00e9", max_size=60))
def test_tokens_make_up_the_whole_text(text):
    try:
        found = list(tokens_of(text))
    except SecurityError:
        return

    assert "".join(token.text for token in found) == text


@given(st.text(max_size=200))
def test_any_text_is_refused_with_a_rule_or_has_a_stable_form(text):
    for dialect in DIALECTS:
        for statement in (text, f"SELECT '{text}'", f'SELECT a AS "{text}" FROM t'):
            try:
                checked = SqlPolicy().check(statement, dialect)
            except SecurityError:
                continue
            assert SqlPolicy().check(checked.text, dialect).text == checked.text


# -- the policy itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tables": "orders"}, r"write \['orders'\]"),
        ({"tables": ["a.b.c"]}, "names no table"),
        ({"tables": {"orders": "id"}}, "the columns of 'orders' are a list"),
        ({"tables": ["hr.*"]}, "only in deny_tables"),
        ({"deny_columns": ["password"]}, r"\*\.password"),
        ({"writes": {"t": ["drop"]}}, "insert, update, delete"),
        ({"writes": {"t": "insert"}}, "takes a list"),
        ({"functions": ["a.b"]}, "plain names"),
        ({"max_rows": 0}, "max_rows must be"),
        ({"max_depth": 1000}, "at most 60"),
        ({"timeout_s": 0}, "timeout_s must be"),
    ],
)
def test_a_policy_that_is_wrong_is_refused_when_it_is_made(wrong, says):
    with pytest.raises(ConfigurationError, match=says):
        SqlPolicy(**wrong)


def test_a_policy_is_a_value():
    assert SqlPolicy(tables=["a"]) == SqlPolicy(tables=["a"]) != SqlPolicy(tables=["b"])


def test_an_unknown_dialect_is_refused():
    with pytest.raises(ConfigurationError, match="'mysql' is not one of sqlite, postgres"):
        SqlPolicy().check("SELECT 1", "mysql")
