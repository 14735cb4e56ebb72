"""The official JSON-Schema-Test-Suite's draft 2020-12, run through JsonSchema; one test for each of its files."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.json_schema_suite import installed_suite
from toolpost.authoring.jsonschema import JsonSchema
from toolpost.calls.errors import SchemaError

# The suite's files as of its copy that requirements/json-schema-suite.txt pins; a test below says so when they change.
FILES = (
    "additionalProperties", "allOf", "anchor", "anyOf", "boolean_schema", "const", "contains", "content", "default",
    "defs", "dependentRequired", "dependentSchemas", "dynamicRef", "enum", "exclusiveMaximum", "exclusiveMinimum",
    "format", "if-then-else", "infinite-loop-detection", "items", "maxContains", "maxItems", "maxLength",
    "maxProperties", "maximum", "minContains", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "not",
    "oneOf", "pattern", "patternProperties", "prefixItems", "properties", "propertyNames", "ref", "refRemote",
    "required", "type", "unevaluatedItems", "unevaluatedProperties", "uniqueItems", "vocabulary",
)  # fmt: skip
FORMATS = (
    "date", "date-time", "duration", "email", "hostname", "idn-email", "idn-hostname", "ipv4", "ipv6", "iri",
    "iri-reference", "json-pointer", "regex", "relative-json-pointer", "time", "uri", "uri-reference", "uri-template",
    "uuid",
)  # fmt: skip


Record = Callable[[str, object], None]


class Case(NamedTuple):
    """One test of the suite: where it stands, the schema, the instance, and whether the instance fits."""

    name: str
    schema: Any
    instance: Any
    fits: bool


def required() -> Path:
    return installed_suite() / "tests" / "draft2020-12"


def cases(file: Path) -> Iterator[list[Case]]:
    """The cases of one file, grouped by schema."""
    for group in json.loads(file.read_text()):
        where = f"{file.name}: {group['description']}"
        yield [Case(f"{where}: {t['description']}", group["schema"], t["data"], t["valid"]) for t in group["tests"]]


@cache
def remotes(root: Path) -> dict[str, Any]:
    """The documents that the suite's references name, under the address it expects them at."""
    return {
        f"http://localhost:1234/{file.relative_to(root / 'remotes').as_posix()}": json.loads(file.read_text())
        for file in (root / "remotes").rglob("*.json")
    }


def wrong_cases(file: Path, *, assert_formats: bool = False) -> list[str]:
    """The names of the cases in which is_valid, or problems, answers otherwise than the suite."""
    wrong: list[str] = []
    for group in cases(file):
        try:
            schema = JsonSchema(group[0].schema, resources=remotes(installed_suite()), assert_formats=assert_formats)
        except SchemaError as error:
            wrong += [f"{case.name}: {error}" for case in group]
            continue
        for case in group:
            answers = (schema.is_valid(case.instance), not schema.problems(case.instance))
            if answers != (case.fits, case.fits):
                wrong.append(case.name)
    return wrong


@pytest.mark.parametrize("name", FILES)
def test_every_required_case_is_answered_as_the_suite_has_it(name: str) -> None:
    assert wrong_cases(required() / f"{name}.json") == []


def test_all_files_of_the_suite_are_run_and_hold_over_1200_cases(record_property: Record) -> None:
    files = sorted(required().glob("*.json"))
    count = sum(len(group) for file in files for group in cases(file))

    record_property("json_schema_2020_12_required_cases", count)
    print(f"JSON-Schema-Test-Suite, draft 2020-12, required: {count} cases in {len(files)} files")

    assert sorted(file.stem for file in files) == sorted(FILES)
    assert count > 1200


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_is_asserted_is_checked_as_the_suite_has_it(name: str) -> None:
    assert wrong_cases(required() / "optional" / "format" / f"{name}.json", assert_formats=True) == []


def test_the_figures_of_the_optional_cases_are_told(record_property: Record) -> None:
    files = sorted((required() / "optional").glob("*.json"))
    count = sum(len(group) for file in files for group in cases(file))
    wrong = [name for file in files for name in wrong_cases(file, assert_formats=file.stem == "format-assertion")]

    record_property("json_schema_2020_12_optional_wrong", wrong)
    print(
        f"JSON-Schema-Test-Suite, draft 2020-12, optional: {count - len(wrong)} of {count}; not these:",
        *wrong,
        sep="\n  ",
    )

    assert len(wrong) <= 3, wrong
