"""`toolpost screen`: what the rules of a role say of a text, and why; and which rules there are."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolpost.transports.cli_options import Command, ExitCode, Setup, pass_setup
from toolpost.transports.cli_show import say, write_json, write_table

if TYPE_CHECKING:
    from toolpost.security.rules import Screen

ROLES = "text document identifier path url sql html shell regex template".split()
LEVELS = "low medium high strict".split()
SHOWN_CHARS = 300
"""How much of a view is shown."""


@click.command(cls=Command)
@click.argument("text", required=False)
@click.option("--role", type=click.Choice(ROLES), default="text", show_default=True, help="What the text is for.")
@click.option("--level", type=click.Choice(LEVELS), help="The security level; that of the settings without it.")
@click.option("--untrusted", is_flag=True, help="The text goes somewhere dangerous, as @sanitize_input says.")
@click.option("--list", "listing", is_flag=True, help="List the rules that run for the role at the level.")
@click.option("--corpus", metavar="FILE", help='Texts as JSON lines, {"t": text}; count how many are refused, and why.')
@pass_setup
def screen(
    setup: Setup,
    text: str | None,
    role: str,
    level: str | None,
    untrusted: bool,
    listing: bool,
    corpus: str | None,
) -> int:
    """Say what the rules find in TEXT (- reads standard input, @FILE a file), and why; exit with 3 if it is refused."""
    if (text is not None) + listing + (corpus is not None) != 1:
        raise click.UsageError("give one of TEXT, --list and --corpus FILE")
    from toolpost.engine.rules import rules_named
    from toolpost.security.rules import Screen

    config = setup.load_config()
    if level is None:
        level = "strict" if config.sanitization_rules == "strict" else config.security_level
    extra = rules_named(config.rules)
    judge = Screen(role, level, untrusted=untrusted, extra=extra, private=config.egress_private)  # type: ignore[arg-type]
    if listing:
        return _list(setup, judge, untrusted)
    if corpus is not None:
        return _count(setup, judge, corpus)
    return _judge(setup, judge, _read(text or ""))


def _read(text: str) -> str:
    if text == "-":
        return sys.stdin.read()
    return Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text


def _judge(setup: Setup, judge: Screen, text: str) -> int:
    findings = judge.explain(text)
    refused = judge.check(text) is not None
    if setup.json:
        told = [{"rule": f.rule, "kind": f.kind, "why": f.why, "view": view[:SHOWN_CHARS]} for f, view in findings]
        write_json({"refused": refused, "role": judge.role, "level": judge.level, "findings": told}, setup.out)
    elif not findings:
        say(f"passes as {judge.role} at {judge.level}", setup.out)
    else:
        rows = [(f.rule, f.why, "as it came" if view == text else view[:SHOWN_CHARS]) for f, view in findings]
        say(f"refused as {judge.role} at {judge.level}", setup.out)
        write_table(("rule", "why", "seen in"), rows, setup.out)
    return ExitCode.REJECTED if refused else ExitCode.OK


def _list(setup: Setup, judge: Screen, untrusted: bool) -> int:
    from toolpost.security.finders import patterns_for

    rules: dict[str, str] = {}
    for pattern in patterns_for(judge.role, judge.level, untrusted):
        rules.setdefault(pattern.rule, pattern.why)
    if setup.json:
        write_json([{"rule": rule, "why": why} for rule, why in rules.items()], setup.out)
    else:
        write_table(("rule", "why"), list(rules.items()), setup.out)
    return ExitCode.OK


def _count(setup: Setup, judge: Screen, name: str) -> int:
    rules: Counter[str] = Counter()
    total = 0
    for text in _texts(name):
        total += 1
        finding = judge.check(text)
        if finding is not None:
            rules[finding.rule] += 1
    refused = rules.total()
    if setup.json:
        told: dict[str, Any] = {"texts": total, "refused": refused, "rules": dict(rules.most_common())}
        write_json({**told, "role": judge.role, "level": judge.level}, setup.out)
    else:
        share = f"{refused / total:.2%}" if total else "none"
        say(f"{refused} of {total} texts are refused as {judge.role} at {judge.level} ({share})", setup.out)
        if rules:
            write_table(("rule", "texts"), [(rule, str(n)) for rule, n in rules.most_common()], setup.out)
    return ExitCode.OK


def _texts(name: str) -> Iterator[str]:
    with open(name, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)["t"]
            except (ValueError, KeyError, TypeError):
                raise click.UsageError(f'{name}:{number} is no JSON object such as {{"t": "text"}}') from None
