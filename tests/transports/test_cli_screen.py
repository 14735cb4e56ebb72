"""`toolpost screen`: verdicts, reasons, lists and rates."""

from pathlib import Path
from typing import get_args

import orjson

from tests.transports.cli_shop import invoke
from toolpost.security.roles import Level, Role
from toolpost.transports.cli_screen import LEVELS, ROLES


def screen(*arguments: str, **more: object) -> object:
    return invoke("screen", *arguments, tools=False, **more)


def test_the_choices_are_the_roles_and_levels_there_are() -> None:
    assert set(ROLES) == set(get_args(Role)) - {"skip"}
    assert list(get_args(Level)) == LEVELS


def test_a_text_that_passes_ends_with_0_and_one_that_is_refused_with_3() -> None:
    passed, refused = screen("O'Brien says hello"), screen("'; DROP TABLE users; --")

    assert (passed.exit_code, passed.stdout) == (0, "passes as text at medium\n")
    assert refused.exit_code == 3
    assert "sql.breakout-statement" in refused.stdout
    assert "as it came" in refused.stdout


def test_what_was_seen_only_decoded_is_shown_as_it_was_seen() -> None:
    told = orjson.loads(screen("docs/%2e%2e%2f%2e%2e/etc/passwd", "--role", "path", "--json").stdout)

    assert told["refused"] is True
    assert "docs/../../etc/passwd" in {finding["view"] for finding in told["findings"]}
    assert told["findings"][0]["why"]


def test_role_level_and_trust_decide() -> None:
    sql = "SELECT name FROM users; DROP TABLE old_users;"

    assert screen(sql).exit_code == 0
    assert screen(sql, "--untrusted").exit_code == 3
    assert screen(sql, "--level", "strict").exit_code == 3
    assert screen(sql, "--level", "strict", "--set", "security_level=low").exit_code == 3
    assert screen(sql, "--set", "security_level=strict").exit_code == 3
    assert screen("two words", "--role", "identifier").exit_code == 3


def test_an_address_that_the_settings_open_passes() -> None:
    assert screen("http://127.0.0.1:8080/", "--role", "url").exit_code == 3
    assert screen("http://127.0.0.1:8080/", "--role", "url", "--set", "egress_private=127.0.0.1:8080").exit_code == 0


def test_texts_come_from_files_and_standard_input(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("'; DROP TABLE users; --")

    assert screen(f"@{tmp_path}/text").exit_code == 3
    assert screen("-", stdin="'; DROP TABLE users; --").exit_code == 3
    assert screen(f"@{tmp_path}/nothing").exit_code == 2


def test_the_rules_of_a_role_are_listed_with_their_reasons() -> None:
    low, medium = screen("--list", "--level", "low", "--json"), screen("--list", "--role", "path", "--json")

    assert orjson.loads(low.stdout) == []
    listed = {row["rule"]: row["why"] for row in orjson.loads(medium.stdout)}
    assert "path.traversal" in listed
    assert all(listed.values())


def test_a_corpus_is_counted_by_rule(tmp_path: Path) -> None:
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text('{"t": "hello"}\n\n{"t": "\'; DROP TABLE users; --"}\n{"t": "fine, thanks"}\n')

    told = orjson.loads(screen("--corpus", str(corpus), "--json").stdout)
    said = screen("--corpus", str(corpus))

    assert (told["texts"], told["refused"], told["rules"]) == (3, 1, {"sql.breakout-statement": 1})
    assert said.stdout.startswith("1 of 3 texts are refused as text at medium (33.33%)\n")


def test_what_is_no_corpus_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"t": "hello"}\nhello\n')

    refused = screen("--corpus", f"{tmp_path}/texts.jsonl")

    assert refused.exit_code == 2
    assert "texts.jsonl:2 is no JSON object" in refused.stderr


def test_exactly_one_thing_can_be_asked() -> None:
    assert screen().exit_code == 2
    assert screen("text", "--list").exit_code == 2
