"""Holds the house to its plan: who may import whom, no cycles, two folder levels, an exact public face."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Container, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "toolpost"

# Room -> the rooms it may import besides itself. `toolpost` is the root, that is, the public names.
ROOMS = {
    "calls": "",
    "authoring": "calls",
    "stores": "calls",
    "security": "calls stores",
    "telemetry": "calls stores",
    "sandbox": "calls",
    "runners": "calls security sandbox",
    "pipeline": "calls stores security telemetry runners",
    "engine": "calls authoring stores security telemetry sandbox runners pipeline",
    "toolbox": "toolpost",
    "console": "",
    "worker": "calls stores security telemetry engine",
    "clients": "calls toolpost",
    "transports": "calls stores security telemetry engine console worker clients",
}
ROOMS["testing"] = " ".join(["toolpost", "errors", *ROOMS])
# The root's own files, by the same rule: the face leads everywhere, the two others have one purpose each.
ROOT_FILES = {"toolpost": " ".join(ROOMS), "__main__": "transports", "errors": "calls"}
# What a program that only calls tools must not pay for: the command line, servers and their clients.
HEAVY = {"click", "httpx", "mcp", "rich", "starlette", "uvicorn"}
# What only tools and settings that ask for it have loaded.
WHEN_USED = {"asyncpg", "authlib", "cedarpy", "cryptography", "joserfc", "jsonschema_rs", "keyring", "nh3", "psycopg"}
WHEN_USED |= {"re2", "redis", "sqlglot"}


def violations(package: Path) -> list[str]:
    """Every way in which the sources of a package called toolpost break the plan; empty when they keep it."""
    files = {module_name(package, path): path for path in sorted(package.rglob("*.py"))}
    found = list(misplaced(package))
    needs: dict[str, set[str]] = {module: set() for module in files}
    for module, path in files.items():
        room = room_of(module)
        allowed = (ROOMS | ROOT_FILES).get(room, "").split()
        for target, line, at_import in imports(ast.parse(path.read_text()), module, path, files):
            if room_of(target) not in (room, *allowed):
                where, names = path.relative_to(package), ", ".join(allowed) or "nothing of ours"
                found.append(f"{where}:{line} imports {target}, but {room} may import only {names}")
            if at_import and target != module:
                needs[module].add(target)
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        found.append("import cycle: " + " -> ".join(reversed(error.args[1])))
    return found


def misplaced(package: Path) -> Iterator[str]:
    """Folders that are no room or lie too deep, and files of the root that belong into a room."""
    for path in sorted(package.rglob("*")):
        parts = path.relative_to(package).parts
        if "__pycache__" in parts:
            continue
        if path.is_dir() and len(parts) > 1:
            yield f"{'/'.join(parts)} is a third folder level; a room holds files only"
        elif path.is_dir() and parts[0] not in ROOMS:
            yield f"{parts[0]} is not a room; the rooms are {', '.join(ROOMS)}"
        elif len(parts) == 1 and path.suffix == ".py" and room_of(module_name(package, path)) not in ROOT_FILES:
            yield f"{parts[0]} is not for the root; it belongs into a room"


def module_name(package: Path, path: Path) -> str:
    """calls/call.py -> toolpost.calls.call; calls/__init__.py -> toolpost.calls."""
    parts = ("toolpost", *path.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """toolpost.calls.call -> calls; toolpost, the root, is a room of its own."""
    return module.split(".")[:2][-1]


def imports(tree: ast.Module, module: str, path: Path, modules: Container[str]) -> Iterator[tuple[str, int, bool]]:
    """Every import of ours at run time as (module, line, whether importing the file does it)."""
    base = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node, at_import in runtime_nodes(tree, True):
        for name in imported_names(node, base):
            if name.split(".")[0] == "toolpost":
                yield module_behind(name, modules), node.lineno, at_import


def runtime_nodes(node: ast.AST, at_import: bool) -> Iterator[tuple[ast.stmt | ast.expr, bool]]:
    """All nodes but those under `if TYPE_CHECKING`, each with whether importing the file runs it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            child = ast.Module(body=child.orelse, type_ignores=[])
        if isinstance(child, ast.stmt | ast.expr):
            yield child, at_import
        is_body = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from runtime_nodes(child, at_import and not is_body)


def imported_names(node: ast.AST, base: str) -> list[str]:
    """The dotted names a node imports: `from x import y` gives x.y, import_module("x") gives x."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=source, names=names, level=level):
            start = base.split(".")[: base.count(".") + 2 - level] if level else []
            return [".".join([*start, *filter(None, [source]), alias.name]) for alias in names]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def module_behind(name: str, modules: Container[str]) -> str:
    """toolpost.calls.call.ToolCall -> toolpost.calls.call; the public name toolpost.ToolCall -> toolpost."""
    while name not in modules and name.count(".") > 1:
        name = name.rpartition(".")[0]
    return name if name in modules or room_of(name) in ROOMS else "toolpost"


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after one statement."""
    script = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def expected_face(exports: dict[str, str], unstarred: frozenset[str]) -> list[str]:
    """What __all__ must be: the names that load on first use, without those that would shadow a builtin."""
    return sorted(set(exports) - unstarred)


def test_every_import_keeps_to_the_plan() -> None:
    assert violations(PACKAGE) == []


def test_the_public_face_is_exactly_what_loads_on_first_use() -> None:
    toolpost = importlib.import_module("toolpost")

    assert toolpost.__all__ == expected_face(toolpost._EXPORTS, toolpost._UNSTARRED)
    assert set(toolpost._EXPORTS) >= toolpost._UNSTARRED


def test_every_public_name_can_be_had() -> None:
    toolpost = importlib.import_module("toolpost")

    missing = [name for name in toolpost._EXPORTS if not hasattr(toolpost, name)]

    assert missing == []


def test_importing_toolpost_loads_no_command_line_and_no_server() -> None:
    assert loaded_by("import toolpost") & HEAVY == set()


def test_an_executor_that_asks_for_nothing_loads_no_optional_package() -> None:
    assert loaded_by("from toolpost import ToolExecutor; ToolExecutor()") & (HEAVY | WHEN_USED) == set()


# The checker itself, on made-up trees: it must catch each breach and let pass what the plan allows.


def write(root: Path, sources: dict[str, str]) -> Path:
    """Write a package called toolpost, file name -> text, and return its folder."""
    for name, text in sources.items():
        path = root / "toolpost" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "toolpost"


@pytest.mark.parametrize(
    "statement",
    [
        "import toolpost.engine.executor",
        "from toolpost import engine",
        "from toolpost.engine import ToolExecutor",
        "from toolpost.engine.executor import ToolExecutor",
        "from ..engine.executor import ToolExecutor",
        "def run() -> None:\n    from toolpost.engine import ToolExecutor",
        "class Call:\n    import toolpost.engine",
        "if not TYPE_CHECKING:\n    import toolpost.engine",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import toolpost.engine",
        "importlib.import_module('toolpost.engine')",
    ],
)
def test_an_import_of_a_higher_room_is_refused_however_it_is_written(tmp_path: Path, statement: str) -> None:
    package = write(tmp_path, {"calls/call.py": statement, "engine/executor.py": ""})

    [found] = violations(package)

    assert found.startswith("calls/call.py:")
    assert "imports toolpost.engine" in found
    assert found.endswith("but calls may import only nothing of ours")


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("calls/call.py", "from toolpost.calls.errors import ToolError"),
        ("calls/call.py", "from .errors import ToolError"),
        ("calls/call.py", "if TYPE_CHECKING:\n    from toolpost.engine import ToolExecutor"),
        ("calls/call.py", "import typing\nif typing.TYPE_CHECKING:\n    import toolpost.engine"),
        ("calls/call.py", "import json\nimport toolpostal"),
        ("security/rules.py", "from toolpost.stores import State"),
        ("engine/executor.py", "from toolpost.pipeline.compile import compile"),
        ("toolbox/web.py", "from toolpost import Tool"),
        ("testing/kit.py", "from toolpost import Tool\nfrom toolpost.engine import ToolExecutor"),
        ("errors.py", "from toolpost.calls.errors import ToolError"),
        ("__main__.py", "from toolpost.transports.cli import main"),
        ("__init__.py", "from toolpost.engine import ToolExecutor"),
    ],
)
def test_an_import_within_the_plan_passes(tmp_path: Path, file: str, statement: str) -> None:
    package = write(tmp_path, {"calls/errors.py": "", file: statement})

    assert violations(package) == []


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("stores/memory.py", "from toolpost.authoring import BaseTool"),  # neighbours
        ("calls/call.py", "from toolpost import Tool"),  # the public face is above every room
        ("toolbox/web.py", "from toolpost.engine import ToolExecutor"),  # a stranger has public names only
        ("transports/cli.py", "from toolpost.pipeline import compile"),
        ("engine/executor.py", "from toolpost.testing import FakeClock"),
        ("errors.py", "from toolpost.engine import ToolExecutor"),
        ("__main__.py", "from toolpost.engine import ToolExecutor"),
    ],
)
def test_an_import_outside_the_plan_is_refused(tmp_path: Path, file: str, statement: str) -> None:
    package = write(tmp_path, {file: statement})

    assert [found.split(":")[0] for found in violations(package)] == [file]


def test_a_cycle_of_imports_is_refused_and_shown(tmp_path: Path) -> None:
    package = write(
        tmp_path,
        {
            "calls/call.py": "from toolpost.calls.result import ToolResult",
            "calls/result.py": "from toolpost.calls import ToolCall",
            "calls/__init__.py": "from toolpost.calls.call import ToolCall",
        },
    )

    [found] = violations(package)

    start, *others = found.removeprefix("import cycle: ").split(" -> ")
    importers = {"toolpost.calls": "call", "toolpost.calls.call": "result", "toolpost.calls.result": "calls"}
    assert [importers[module] for module in (start, *others[:-1])] == [room.split(".")[-1] for room in others]
    assert others[-1] == start


def test_an_import_inside_a_function_makes_no_cycle(tmp_path: Path) -> None:
    late = "def late() -> None:\n    import toolpost.calls.call"
    package = write(tmp_path, {"calls/call.py": "import toolpost.calls.result", "calls/result.py": late})

    assert violations(package) == []


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("stores/sql/tables.py", "stores/sql is a third folder level"),
        ("utils/text.py", "utils is not a room"),
        ("helpers.py", "helpers.py is not for the root"),
    ],
)
def test_a_file_in_the_wrong_place_is_refused(tmp_path: Path, file: str, complaint: str) -> None:
    package = write(tmp_path, {file: ""})

    [found] = violations(package)

    assert found.startswith(complaint)


def test_every_room_is_known_before_it_is_built(tmp_path: Path) -> None:
    package = write(tmp_path, {f"{room}/__init__.py": "" for room in ROOMS})

    assert len(ROOMS) == 15
    assert violations(package) == []


def test_the_face_is_sorted_and_leaves_out_what_shadows_a_builtin() -> None:
    exports = {"ToolCall": "calls.call", "TimeoutError": "errors", "BaseTool": "authoring.base"}

    assert expected_face(exports, frozenset({"TimeoutError"})) == ["BaseTool", "ToolCall"]


def test_a_heavy_import_is_noticed() -> None:
    assert "click" in loaded_by("import click")
