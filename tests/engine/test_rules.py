"""Screening rules of installed packages are in force when the settings name them, and only then."""

import os
import subprocess
import sys
import textwrap

import pytest

from toolpost import ConfigurationError, SecurityError
from toolpost.testing import executor_for

PLUGIN = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project]
        name = "NAME-rules"
        version = "1"
        [project.entry-points."toolpost.rules"]
        shouting = "NAME_rules:loud"
        broken = "NAME_rules:nothing_here"
        number = "NAME_rules:SEVEN"
        raising = "NAME_rules:raising"
        [tool.hatch.build.targets.wheel]
        packages = ["NAME_rules"]
    """,
    "NAME_rules/__init__.py": """
        SEVEN = 7

        def loud(value, role):
            return "it shouts; write it in small letters" if value.isupper() and role == "text" else None

        def raising(value, role):
            raise RuntimeError("this rule is broken")
    """,
    "use.py": """
        import sys
        from toolpost import Tool, ToolExecutionError, create_tool_call
        from toolpost.testing import executor_for

        @Tool(name="Shop.Say", register=False)
        def say(text: str, id: str = "") -> str:
            return text

        try:
            with executor_for(say, rules=sys.argv[1].split(",") if sys.argv[1] else []) as executor:
                for arguments in ({"text": "HELLO"}, {"text": "hello"}, {"text": "x", "id": "ABC"}):
                    result = executor.execute_sync(create_tool_call("Shop.Say", arguments))
                    print(result.failure.details.get("rule", result.failure.code) if result.failure else "ok")
        except ToolExecutionError as error:
            print(f"{type(error).__name__}: {error}")
    """,
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Runs use.py beside installed distributions, with these rules in force; what it prints."""
    folder = tmp_path_factory.mktemp("rules")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    for owner in ("shop", "other"):
        for name, text in PLUGIN.items():
            path = folder / owner / name.replace("NAME", owner)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).replace("NAME", owner))
        subprocess.run([*pip, "--target", folder / f"{owner}-there", folder / owner], check=True, capture_output=True)

    def run(rules: str, *owners: str) -> list[str]:
        there = os.pathsep.join(str(folder / f"{owner}-there") for owner in owners)
        done = subprocess.run(
            [sys.executable, folder / "shop" / "use.py", rules],
            env={**os.environ, "PYTHONPATH": there},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    return run


def test_a_rule_is_in_force_only_when_it_is_named(said):
    assert said("", "shop") == ["ok", "ok", "ok"]
    assert said("shouting", "shop") == ["plugin.shouting", "ok", "ok"]


def test_a_rule_that_breaks_refuses(said):
    assert said("raising", "shop") == ["engine_error"] * 3


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ("broken", "PluginError: rule 'broken' could not be loaded (AttributeError: "),
        ("number", "PluginError: rule 'number' must be a function (value, role), got 7"),
        ("shoutin", "ConfigurationError: rules names 'shoutin', which is no entry point of toolpost.rules; "),
    ],
)
def test_what_is_no_rule_is_refused_when_the_executor_is_made(said, rules, why):
    (line,) = said(rules, "shop")

    assert line.startswith(why)


def test_a_near_name_is_told(said):
    assert said("shoutin", "shop")[0].endswith("did you mean 'shouting'?")


def test_a_name_that_two_packages_have_is_refused(said):
    assert said("shouting", "shop", "other") == [
        "ConfigurationError: rules names 'shouting', which several packages have: other-rules, shop-rules; "
        "remove all but one"
    ]


def test_a_rule_that_is_not_there_is_refused_at_a_change_and_the_old_ones_stay():
    with executor_for() as executor:
        with pytest.raises(ConfigurationError, match="nowhere"):
            executor.config.rules = ("nowhere",)

        assert executor.config.rules == ()


def test_arguments_screened_by_hand_may_name_what_the_operator_opened():
    with executor_for(egress_private=["127.0.0.1:8080"]) as executor:
        executor.screen_arguments({"url": "http://127.0.0.1:8080/"})
        with pytest.raises(SecurityError):
            executor.screen_arguments({"url": "http://127.0.0.2/"})
