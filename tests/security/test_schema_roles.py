"""Roles that a JSON Schema says of parts of a parameter, and what judges those parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import pytest
from pydantic import AnyUrl, BaseModel, Field

from toolpost import Screening, SecurityError, Tool, ToolExecutor
from toolpost.calls.errors import ConfigurationError
from toolpost.pipeline.screen import screens_of

URI = {"type": "string", "format": "uri"}
INNER = "http://127.0.0.1/"


def judges(schema: dict[str, Any], **more: Any) -> Any:
    return screens_of({"properties": {"target": schema}, **more}, Screening(), "medium")["target"]


def rule_of(judge: Any, value: Any) -> str | None:
    finding = judge.check(value)
    return None if finding is None else finding.rule


@pytest.mark.parametrize(
    "schema",
    [
        URI,
        {"anyOf": [URI, {"type": "null"}]},
        {"oneOf": [URI, {"type": ["integer", "null"]}]},
        {"allOf": [{"minLength": 3}, URI]},
        {"type": "array", "items": URI},
        {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]}},
        {"$ref": "#/$defs/Place"},
        {"$ref": "#/$defs/Pla~1ce~0"},
        {"type": "string", "x-role": "url"},
        {"type": "array", "items": {"type": "string", "x-role": "url", "format": "path"}},
    ],
)
def test_a_role_is_found_where_the_schema_says_it(schema: dict[str, Any]) -> None:
    assert judges(schema, **{"$defs": {"Place": URI, "Pla/ce~": URI}}).role == "url"


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [URI, {"type": "string"}]},
        {"anyOf": [URI, {}]},
        {"anyOf": [URI, {"type": "string", "format": "path"}]},
        {"$ref": "#/$defs/Nothing"},
        {"$ref": "https://x.test/schema"},
        {"$ref": "#/$defs/Ring"},
    ],
)
def test_alternatives_that_differ_and_what_refers_to_nothing_say_no_role(schema: dict[str, Any]) -> None:
    assert judges(schema, **{"$defs": {"Ring": {"$ref": "#/$defs/Ring"}}}).role == "text"


FIELDS = {"type": "object", "properties": {"to": URI, "raw": {"type": "string", "x-role": "skip"}, "note": {}}}


@dataclasses.dataclass
class Sent:
    to: str
    note: str = ""


class Modelled(BaseModel, extra="allow"):
    to: str


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (FIELDS, {"to": INNER}),
        ({"type": "array", "items": FIELDS}, [{"to": "https://a.test/"}, {"to": INNER}]),
        ({"anyOf": [FIELDS, {"type": "null"}]}, {"to": INNER}),
        ({"type": "object", "properties": {"deep": FIELDS}}, {"deep": {"to": INNER}}),
        (FIELDS, Sent(to=INNER)),
        (FIELDS, Modelled(to=INNER)),
    ],
)
def test_a_field_is_judged_by_the_role_that_it_declares(schema: dict[str, Any], value: Any) -> None:
    assert rule_of(judges(schema), value) == "url.internal-host"


def test_the_rest_of_an_object_is_judged_by_the_role_of_its_parameter() -> None:
    judge = judges(FIELDS)
    attack = "x'; DROP TABLE t; --"

    assert rule_of(judge, {"to": "https://a.test/", "raw": attack, "note": "fine"}) is None
    assert rule_of(judge, {"note": attack}) == "sql.breakout-statement"
    assert rule_of(judge, {attack: 1}) == "sql.breakout-statement"
    assert (
        rule_of(judge, Modelled.model_validate({"to": "https://a.test/", "more": attack})) == "sql.breakout-statement"
    )
    assert rule_of(judge, [[{"note": attack}]]) == "sql.breakout-statement"
    assert rule_of(judge, attack) == "sql.breakout-statement"


def test_a_declared_role_of_the_parameter_holds_for_all_of_it() -> None:
    assert "target" not in screens_of({"properties": {"target": {**FIELDS, "x-role": "skip"}}}, Screening(), "medium")
    assert not screens_of({"properties": {"target": FIELDS}}, Screening(roles={"target": "skip"}), "medium")


def test_a_field_that_declares_a_role_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="'to': 'addres' is not a role"):
        judges({"properties": {"to": {"type": "string", "x-role": "addres"}}})


class Job(BaseModel):
    out: Optional[Path] = None  # noqa: UP045
    query: str = Field("", json_schema_extra={"x-role": "sql"})


def test_annotations_of_python_have_their_formats_roles() -> None:
    @Tool(name="Net.Get", register=False)
    def get(target: AnyUrl | None = None, places: list[Path] | None = None, job: Job | None = None) -> int:
        return 1

    with ToolExecutor() as executor:
        executor.add(get)
        ran = executor.call_sync("Net.Get", target="https://a.test/", job={"out": "a.txt", "query": "SELECT 1"})
        for arguments, rule in [
            ({"target": INNER}, "url.internal-host"),
            ({"places": ["/etc/hosts"]}, "path.server-file"),
            ({"job": {"out": "/etc/hosts"}}, "path.server-file"),
            ({"job": {"query": "SELECT 1; SELECT 2"}}, "sql.several-statements"),
        ]:
            with pytest.raises(SecurityError, match=rule.replace(".", r"\.")):
                executor.call_sync("Net.Get", **arguments)

    assert ran == 1


def test_the_names_of_undeclared_arguments_are_judged_and_not_repeated() -> None:
    @Tool(name="Any.Thing", register=False)
    def anything(**more: Any) -> int:
        return 1

    attack = "x'; DROP TABLE t; --"

    with ToolExecutor() as executor:
        executor.add(anything)
        with pytest.raises(SecurityError, match="breakout-statement") as refused:
            executor.call_sync("Any.Thing", **{attack: 1})
        assert executor.call_sync("Any.Thing", fine=1) == 1

    assert attack not in f"{refused.value} {refused.value.details}"
