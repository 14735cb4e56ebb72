"""The registry: one tool a name and version, replaced only when asked, found even when misspelt."""

import importlib
import sys
import textwrap

import pytest

from toolpost import ConfigurationError, DuplicateToolError, PluginError, Tool, ToolNotFoundError, ToolRegistry


def definition(name, version="1.0.0", description="", tags=()):
    return Tool(name=name, version=version, description=description, tags=tags, register=False)(
        lambda: None
    ).tool_definition


@pytest.fixture
def registry():
    return ToolRegistry()


def test_a_name_that_is_taken_is_refused_with_the_way_out(registry):
    registry.register_tool(definition("Math.Add"))

    with pytest.raises(DuplicateToolError, match=r"'Math\.Add'.*replace=True"):
        registry.register_tool(definition("Math.Add"))


def test_replacing_is_explicit(registry):
    registry.register_tool(definition("Math.Add", description="old"))
    registry.register_tool(definition("Math.Add", description="new"), replace=True)

    assert registry.get_tool("Math.Add").description == "new"


def test_the_same_definition_twice_is_no_conflict(registry):
    one = definition("Math.Add")
    registry.register_tool(one)
    registry.register_tool(one)

    assert registry.list_tools() == ["Math.Add"]


def test_a_name_stands_for_its_newest_version(registry):
    for version in ("1.9.0", "1.10.0", "2.0.0-rc1"):
        registry.register_tool(definition("Math.Add", version))

    assert registry.get_tool("Math.Add").version == "2.0.0-rc1"
    assert registry.get_tool("Math.Add@1.9.0").version == "1.9.0"
    registry.register_tool(definition("Math.Add", "2.0.0"))
    assert registry.get_tool("Math.Add").version == "2.0.0"
    assert registry.versions("Math.Add") == ["1.9.0", "1.10.0", "2.0.0-rc1", "2.0.0"]


def test_a_version_that_is_not_there_names_those_that_are(registry):
    registry.register_tool(definition("Math.Add", "1.0.0"))

    with pytest.raises(ToolNotFoundError, match=r"no version '3\.0'; there are 1\.0\.0"):
        registry.get_tool("Math.Add", "3.0")


@pytest.mark.parametrize("misspelt", ["Math.Ad", "math.add", "MathAdd", "Math_Add"])
def test_a_misspelt_name_is_answered_with_what_was_meant(registry, misspelt):
    registry.register_tool(definition("Math.Add"))

    with pytest.raises(ToolNotFoundError, match=r"did you mean 'Math\.Add'\?"):
        registry.get_tool(misspelt)


def test_a_name_near_nothing_is_answered_with_what_there_is(registry):
    registry.register_tool(definition("Math.Add"))

    with pytest.raises(ToolNotFoundError, match=r"not found in registry; there are Math\.Add"):
        registry.get_tool("Weather")


def test_what_is_not_here_is_looked_up_in_the_parent(registry):
    registry.register_tool(definition("Math.Add", "1.0.0"))
    child = ToolRegistry(parent=registry)
    before = child.revision
    child.register_tool(definition("Math.Add", "2.0.0"))

    assert child.get_tool("Math.Add").version == "2.0.0"
    assert child.get_tool("Math.Add@1.0.0").version == "1.0.0"
    assert registry.versions("Math.Add") == ["1.0.0"]
    assert child.revision > before


def test_removing_takes_one_version_or_all(registry):
    for version in ("1.0.0", "2.0.0"):
        registry.register_tool(definition("Math.Add", version))
    registry.unregister_tool("Math.Add@2.0.0")
    assert registry.versions("Math.Add") == ["1.0.0"]

    registry.unregister_tool("Math.Add")
    assert registry.list_tools() == []
    with pytest.raises(ToolNotFoundError):
        registry.unregister_tool("Math.Add")


def test_only_definitions_are_taken(registry):
    with pytest.raises(ConfigurationError, match="takes ToolDefinitions"):
        registry.register_tool(lambda: None)


def test_schemas_are_exported_with_name_description_and_input_schema(registry):
    registry.register_tool(definition("Math.Add", description="Adds."))

    (exported,) = registry.export_all_schemas()

    assert exported["name"] == "Math.Add"
    assert exported["input_schema"]["type"] == "object"


def test_search_ranks_names_before_descriptions_and_rare_words_higher(registry):
    registry.register_tool(definition("Web.Fetch", description="Get a page from the web"))
    registry.register_tool(definition("FileSystem.ReadFile", description="Read a file", tags=("disk",)))
    registry.register_tool(definition("Math.Add", description="Add numbers, not a file"))

    assert [d.name for d in registry.search("read file")] == ["FileSystem.ReadFile", "Math.Add"]
    assert [d.name for d in registry.search("disk")] == ["FileSystem.ReadFile"]
    assert registry.search("the of a") == []
    assert registry.search("zebra") == []
    assert len(registry.search("file web add", limit=2)) == 2


class TestReload:
    @pytest.fixture
    def module(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        path = tmp_path / "reloadable_tools.py"

        def write(body):
            path.write_text("from toolpost import Tool, get_tool_registry\n" + textwrap.dedent(body), encoding="utf-8")
            importlib.invalidate_caches()

        yield write
        sys.modules.pop("reloadable_tools", None)
        from toolpost import get_tool_registry

        for name in list(get_tool_registry().list_tools()):
            if name.startswith("Reloadable."):
                get_tool_registry().unregister_tool(name)

    def test_a_module_is_taken_over_with_what_it_declares_now(self, module):
        from toolpost import get_tool_registry

        module("""
            @Tool(name="Reloadable.One")
            def one(): return 1
            @Tool(name="Reloadable.Gone")
            def gone(): return 0
        """)
        assert get_tool_registry().reload("reloadable_tools") == ["Reloadable.Gone", "Reloadable.One"]
        module("""
            @Tool(name="Reloadable.One")
            def one(): return 11
            @Tool(name="Reloadable.Two")
            def two(): return 2
        """)

        names = get_tool_registry().reload("reloadable_tools")

        assert names == ["Reloadable.One", "Reloadable.Two"]
        assert get_tool_registry().get_tool("Reloadable.One").function() == 11
        with pytest.raises(ToolNotFoundError):
            get_tool_registry().get_tool("Reloadable.Gone")

    def test_a_module_that_fails_changes_nothing(self, module):
        from toolpost import get_tool_registry

        module("""
            @Tool(name="Reloadable.One")
            def one(): return 1
        """)
        get_tool_registry().reload("reloadable_tools")
        module("""
            @Tool(name="Reloadable.Half")
            def half(): return 0
            raise RuntimeError("broken")
        """)

        with pytest.raises(PluginError, match=r"broken.*nothing changed"):
            get_tool_registry().reload("reloadable_tools")

        assert get_tool_registry().get_tool("Reloadable.One").function() == 1
        assert "Reloadable.Half" not in get_tool_registry().list_tools()

    def test_an_executor_runs_the_reloaded_code_on_the_next_call(self, module):
        from toolpost import ToolExecutor, get_tool_registry

        module("""
            @Tool(name="Reloadable.One")
            def one(): return 1
        """)
        get_tool_registry().reload("reloadable_tools")
        with ToolExecutor() as executor:
            assert executor.call_sync("Reloadable.One") == 1
            module("""
                @Tool(name="Reloadable.One")
                def one(): return 2
            """)
            get_tool_registry().reload("reloadable_tools")

            assert executor.call_sync("Reloadable.One") == 2
