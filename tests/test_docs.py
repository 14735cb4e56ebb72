"""Every code block of the README and docs/ is executed; what a comment behind print() says must come out."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
NOT_HERE = {"make run", "make serve", "make test", "make bench"}  # what a newcomer types; CI itself runs on them

RUNNER = textwrap.dedent(
    '''
    """Runs the python blocks of a page in order, in one namespace, and compares what print() gives."""
    import ast, sys

    wrong = []
    with open(sys.argv[1], encoding="utf-8") as source_file:
        blocks = source_file.read().split("\\f")
    namespace = {"__name__": "__main__"}
    for block in blocks:
        first, _, source = block.partition("\\n")
        lines = source.splitlines()
        printed = {}

        def say(*values, sep=" ", **_):
            line = sys._getframe(1).f_lineno
            printed.setdefault(line, []).append(sep.join(str(v) for v in values))

        namespace["print"] = say
        exec(compile(source, f"block at line {first}", "exec"), namespace)
        for node in ast.walk(ast.parse(source)):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"):
                continue
            code, _, comment = lines[node.end_lineno - 1].partition("  # ")
            expected = [comment] if comment else []
            if not expected:
                for line in lines[node.end_lineno:]:
                    if not line.strip().startswith("# "):
                        break
                    expected.append(line.strip()[2:])
            if expected and printed.get(node.lineno, printed.get(node.end_lineno)) != expected:
                wrong.append(f"line {int(first) + node.end_lineno}: said {printed.get(node.lineno)}, not {expected}")
    sys.exit("\\n".join(wrong) or 0)
    '''
)


def skip_without_sandboxes():
    """A machine that has none skips their page; in CI it fails."""
    from toolpost import SandboxError, Sandboxes

    try:
        with Sandboxes() as sandboxes:
            sandboxes.start()
    except SandboxError as error:
        pytest.skip(error.message)


def blocks_of(page, language):
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start()].count("\n") + 1, m[2]) for m in BLOCK.finditer(text) if m[1] == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_python_block_runs_and_says_what_the_page_says(page, tmp_path):
    blocks = blocks_of(page, "python")
    if not blocks:
        return
    if page.name == "sandbox.md" and not os.environ.get("CI"):
        skip_without_sandboxes()
    script, source = tmp_path / "runner.py", tmp_path / "blocks.txt"
    script.write_text(RUNNER, encoding="utf-8")
    source.write_text("\f".join(f"{line}\n{body}" for line, body in blocks), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(source)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=55,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(240)  # the page of the command line starts some forty processes
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_shell_block_runs(page, tmp_path):
    for language in ("console", "sh", "bash"):
        for line, body in blocks_of(page, language):
            for command in commands_in(body, language):
                run_command(command, f"{page.name}:{line}", tmp_path)


def commands_in(body, language):
    for text in body.splitlines():
        if language == "console" and not text.startswith("$ "):
            continue
        command = text.removeprefix("$ ").split("  #")[0].strip()
        if command and not command.startswith("#"):
            yield command


def run_command(command, where, tmp_path):
    if command in NOT_HERE:
        return
    expected, _, plain = command.rpartition("!exit ")
    code = int(plain) if expected else 0
    argv = shlex.split((expected or command).strip(), comments=True)
    stdin = None
    if "|" in argv or "<" in argv or ">" in argv:
        argv, stdin = ["sh", "-c", command], None
    elif argv[0] == "toolpost":
        argv = [sys.executable, "-m", "toolpost", *argv[1:]]
    shim = tmp_path / "bin"
    shim.mkdir(exist_ok=True)
    (shim / "toolpost").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m toolpost "$@"\n')
    (shim / "toolpost").chmod(0o755)
    work = tmp_path / "work"
    if not work.exists():
        work.mkdir()
        (work / "examples").symlink_to(ROOT / "examples")
    env = {**os.environ, "PATH": f"{shim}:{os.environ['PATH']}"}
    done = subprocess.run(argv, cwd=work, env=env, input=stdin, capture_output=True, text=True, timeout=55)
    assert done.returncode in ({code} if code else {0, 4 if " run " in command else 0}), (
        f"{where}: {command} ended with {done.returncode}: {done.stderr[-2000:]}"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_data_block_is_well_formed(page):
    import json

    for _, body in blocks_of(page, "toml"):
        tomllib.loads(body)
    for _, body in blocks_of(page, "json"):
        json.loads(body)


def test_every_error_class_is_on_its_page():
    import toolpost
    from toolpost.calls.errors import ToolExecutionError

    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for name in toolpost.__all__:
        thing = getattr(toolpost, name)
        if isinstance(thing, type) and issubclass(thing, ToolExecutionError):
            assert f"`{name}`" in text, name


def test_every_stage_is_in_the_architecture_page():
    from toolpost.pipeline.compile import ORDER

    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    places = [text.index(f"| `{stage.__name__}` |") for stage in ORDER]
    assert places == sorted(places)


def test_every_link_to_a_file_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_part_of_the_sandbox_is_on_its_page():
    import inspect
    from dataclasses import fields

    from toolpost import Sandbox, Sandboxes, SandboxLimits, SandboxMount, SandboxNetwork, SandboxResult
    from toolpost.sandbox.backends import BUILT_IN, GROUP
    from toolpost.sandbox.outcome import Status
    from toolpost.sandbox.profile import Control

    text = text_of("sandbox.md")
    for kind in (Sandbox, SandboxLimits, SandboxNetwork):
        section = text.partition(f"| field of `{kind.__name__}` |")[2].partition("\n\n")[0]
        for field in fields(kind):
            assert re.search(rf"^\|[^|]*`{field.name}`[^|]*\|", section, re.M), f"{kind.__name__}.{field.name}"
    for field in fields(SandboxMount):
        assert f"{field.name}=" in text, field.name
    for option in list(inspect.signature(Sandboxes).parameters):
        assert option == "clock" or f"`{option}`" in text, option
    for control in Control:
        assert re.search(rf"^\|[^|]*`{control}`[^|]*\|", text, re.M), control
    for name in [*BUILT_IN, *Status.__args__, GROUP]:
        assert name == "cancelled" or f"`{name}`" in text, name
    assert {"enforced", "artifacts", "left_behind"} <= {field.name for field in fields(SandboxResult)}


POLICY_PAGES = {
    "Access": "access.md",
    "Approval": "approvals.md",
    "Egress": "egress.md",
    "OAuth": "oauth.md",
    "Timeout": "policies.md",
    "Screening": "policies.md",
    "Cache": "caching.md",
    "RateLimit": "limits.md",
    "Concurrency": "limits.md",
    "Exclusive": "limits.md",
    "Idempotency": "idempotency.md",
    "Breaker": "breakers.md",
    "Retry": "retries.md",
    "Price": "usage.md",
    "ToolUsage": "usage.md",
}


def text_of(page):
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(("policy", "page"), POLICY_PAGES.items())
def test_every_option_of_a_policy_is_on_its_page(policy, page):
    from dataclasses import fields

    import toolpost

    section = text_of(page)
    if page == "limits.md":  # three policies with options of the same names
        titles = {
            "RateLimit": "\n## Rate limits\n",
            "Concurrency": "\n## Concurrency\n",
            "Exclusive": "\n## Exclusive\n",
        }
        section = section.partition(titles[policy])[2].partition("\n## ")[0]
    in_a_table = page not in ("policies.md", "usage.md")
    for option in fields(getattr(toolpost, policy)):
        named = rf"^\|[^|]*`{option.name}`[^|]*\|" if in_a_table else rf"\b{option.name}\b"
        assert re.search(named, section, re.M), f"{policy}.{option.name} is not on {page}"


def test_every_kind_of_policy_has_a_page():
    from toolpost.authoring.policy import FIELDS

    assert {kind.__name__ for kind in FIELDS} - {"Hints"} <= POLICY_PAGES.keys()


def test_every_field_of_policies_is_in_the_overview():
    from dataclasses import fields

    from toolpost import Policies

    table = text_of("policies.md").partition("\n## ")[0]
    for field in fields(Policies):
        assert f"| `{field.name}` |" in table, field.name


def test_every_stage_has_its_reason_in_the_overview_of_policies():
    from toolpost.pipeline.compile import ORDER

    order = text_of("policies.md").partition("\n## The order\n")[2]
    places = [order.index(f"| `{stage.__name__}` |") for stage in ORDER]
    assert places == sorted(places)


def test_every_policy_that_asks_a_store_is_in_the_table_of_outages():
    from dataclasses import fields

    import toolpost

    table = text_of("policies.md").partition("\n## When a store is down\n")[2].partition("\n## ")[0]
    for policy in POLICY_PAGES:
        options = {option.name: option for option in fields(getattr(toolpost, policy))}
        if "when_down" in options:
            row = next((line for line in table.splitlines() if line.startswith(f"| `{policy}")), "")
            assert f"`{options['when_down'].default}`" in row, policy


def test_every_scheme_of_a_store_is_on_its_page():
    from toolpost import stores

    rows = {line.split("|")[1].strip(): line for line in text_of("stores.md").splitlines() if line.startswith("| ")}
    for row, schemes in (("State", stores._STATES), ("Records", stores._RECORDS), ("Blobs", stores._BLOBS)):
        for scheme in schemes:
            assert f"`{scheme}://" in rows[row], f"{scheme}:// is not among the back ends of {row}"


def test_every_extra_is_on_the_page_of_what_needs_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    pages = "stores writing-tools access oauth secrets sql serving mcp clients".split()
    text = "".join(text_of(f"{page}.md") for page in pages)
    for extra in extras:
        assert f"`toolpost[{extra}]`" in text, extra


def test_the_ready_policy_objects_are_on_their_pages():
    from toolpost import CircuitBreakerPolicyFactory, IdempotencyKeyGeneratorFactory, RetryPolicyFactory

    for page, made in (
        ("breakers.md", CircuitBreakerPolicyFactory._policies),
        ("retries.md", RetryPolicyFactory._policies),
        ("idempotency.md", IdempotencyKeyGeneratorFactory._generators),
    ):
        text = text_of(page)
        for thing in made.values():
            kind = thing if isinstance(thing, type) else type(thing)
            assert f"`{kind.__name__}" in text or f"{kind.__name__}(" in text, f"{kind.__name__} is not on {page}"


def test_every_kind_of_failure_is_explained():
    from toolpost.calls.policies import FAILURE_KINDS

    section = text_of("retries.md").partition("\n## Kinds of failure\n")[2]
    for kind in FAILURE_KINDS:
        assert f"| `{kind}` |" in section, kind


def test_every_commands_name_is_on_the_page_of_the_command_line():
    from toolpost.transports.cli import main

    def names(group, before=""):
        for name, command in group.commands.items():
            yield f"{before}{name}"
            if hasattr(command, "commands"):
                yield from names(command, f"{before}{name} ")

    text = text_of("cli.md")
    for name in names(main):
        assert f"toolpost {name}" in text or f"`{name}" in text, name
