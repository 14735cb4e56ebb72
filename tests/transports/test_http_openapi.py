"""The OpenAPI document says of all routes what they take and answer, truly; and the page that reads it is its own."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from tests.services import Missing
from tests.services.node import node
from tests.transports.gateway import Served, gateway
from toolpost import Tool
from toolpost.transports import http_page
from toolpost.transports.http_openapi import example_of

METHODS = ("get", "post", "put", "patch", "delete")


@Tool(name="Math.Add", description="Add.", register=False)
async def add(a: int, b: int) -> int:
    return a + b


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with gateway([add]) as one:
        yield one


@pytest.fixture(scope="module")
def document(served: Served) -> Any:
    return served.client.get("/openapi.json").json()


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                yield path, method, methods[method]


class TestTheDocument:
    def test_it_is_openapi_3_1(self, document: Any) -> None:
        assert document["openapi"] == "3.1.0"
        assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []

    def test_every_reference_leads_somewhere(self, document: Any) -> None:
        for kind, name in set(re.findall(r'"\$ref": "#/components/(\w+)/(\w+)"', json.dumps(document))):
            assert name in document["components"][kind]

    def test_all_routes_are_in_it(self, served: Served, document: Any) -> None:
        told = {(method.upper(), path) for path, method, _ in operations(document)}

        assert told == {(route.method, re.sub(r":\w+}", "}", route.path)) for route in served.app.routes}

    def test_names_of_operations_are_their_own(self, document: Any) -> None:
        names = [operation["operationId"] for _, _, operation in operations(document)]

        assert len(names) == len(set(names))
        assert [name for name in names if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name)] == []

    def test_all_parameters_of_paths_are_said(self, document: Any) -> None:
        for path, _, operation in operations(document):
            said = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}

            assert said == set(re.findall(r"{(\w+)}", path)), path

    def test_all_groups_are_said(self, document: Any) -> None:
        used = {tag for _, _, operation in operations(document) for tag in operation["tags"]}

        assert {tag["name"] for tag in document["tags"]} == used

    def test_what_needs_a_key_says_so(self, served: Served, document: Any) -> None:
        public = {
            (route.method.lower(), re.sub(r":\w+}", "}", route.path)) for route in served.app.routes if route.public
        }

        for path, method, operation in operations(document):
            assert (operation["security"] == []) == ((method, path) in public), path
            assert ("401" in operation["responses"]) == ((method, path) not in public), path

    def test_schemas_are_schemas(self, document: Any) -> None:
        for name, schema in document["components"]["schemas"].items():
            assert jsonschema_rs.meta.is_valid({"$schema": document["jsonSchemaDialect"], **schema}), name

    def test_examples_are_what_they_are_examples_of(self, document: Any) -> None:
        for path, _, operation in operations(document):
            example = example_of(operation)
            if example is None:
                continue
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            whole = {**schema, "components": document["components"]}

            assert jsonschema_rs.validator_for(whole).is_valid(example), path

    def test_a_result_a_report_and_a_problem_are_as_it_says(self, served: Served, document: Any) -> None:
        def fits(name: str, value: Any) -> bool:
            schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
            return bool(jsonschema_rs.validator_for(schema).is_valid(value))

        made = served.client.post("/v1/tools/Math.Add/calls", json={"arguments": {"a": 1, "b": 2}})
        refused = served.client.post("/v1/tools/Math.Add/calls", json={"arguments": {"a": "x"}})
        call_id = made.headers["toolpost-call-id"]

        assert fits("CallResult", made.json())
        assert fits("CallReport", served.client.get(f"/v1/calls/{call_id}").json())
        assert fits("Problem", refused.json())
        assert fits("Tool", served.client.get("/v1/tools/Math.Add").json())
        assert not fits("CallReport", made.json())

    def test_it_is_sent_once_to_whoever_keeps_it(self, served: Served) -> None:
        first = served.client.get("/openapi.json")

        again = served.client.get("/openapi.json", headers={"if-none-match": first.headers["etag"]})

        assert (again.status_code, again.content) == (304, b"")

    def test_it_names_where_the_gateway_is_reached(self, served: Served, document: Any) -> None:
        assert document["servers"] == [{"url": served.url}]


class TestThePage:
    @pytest.mark.parametrize(
        ("path", "media_type"),
        [("/docs", "text/html"), ("/docs/page.js", "text/javascript"), ("/docs/page.css", "text/css")],
    )
    def test_its_files_are_served(self, served: Served, path: str, media_type: str) -> None:
        answer = served.client.get(path)

        assert answer.status_code == 200
        assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
        policy = answer.headers.get_list("content-security-policy")
        assert len(policy) == 1
        assert "script-src 'self'" in policy[0]
        assert "unsafe" not in policy[0]

    def test_it_loads_nothing_from_elsewhere_and_has_no_script_within(self, served: Served) -> None:
        page = served.client.get("/docs").text
        everything = page + served.client.get("/docs/page.js").text + served.client.get("/docs/page.css").text

        assert re.findall(r"https?://|//[a-z]+\.", everything) == []
        assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|javascript:", page) == []
        for name in re.findall(r'(?:src|href)="(/[^"]*)"', page):
            assert served.client.get(name).status_code == 200, name

    def test_it_writes_no_markup(self, served: Served) -> None:
        script = served.client.get("/docs/page.js").text

        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script) == []

    def test_every_input_has_a_label(self, served: Served) -> None:
        page = served.client.get("/docs").text

        assert set(re.findall(r'<input id="(\w+)"', page)) == set(re.findall(r'<label for="(\w+)"', page))
        assert '<html lang="en">' in page

    def test_its_script_shows_all_operations_and_tries_a_call(self, served: Served, document: Any) -> None:
        try:
            program = node((18, 0))
        except Missing as error:
            pytest.skip(str(error))
        script = Path(http_page.__file__).with_name("http_page.js")

        run = subprocess.run(
            [program, Path(__file__).with_name("page_dom.mjs"), served.url, script], capture_output=True, text=True
        )

        assert run.returncode == 0, run.stderr
        told = json.loads(run.stdout)
        assert told["operations"] == len(list(operations(document)))
        assert told["status"].startswith("200 OK application/json")
        assert told["answer"]["data"] == {"result": 3}
        assert {"approveCall", "runApprovedCall"} <= set(told["shown"])
        assert "listTools" not in told["shown"]
        assert told["unlabelled"] == 0
