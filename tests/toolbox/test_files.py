"""The FileSystem tools: what they give, and that nothing outside the allowed directories ever comes out."""

import base64
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from toolpost import ConfigurationError, SecurityError, ToolCall, ToolResult, create_tool_call, export_tool
from toolpost.testing import executor_for
from toolpost.toolbox import file_tools, files
from toolpost.toolbox.beneath import open_beneath
from toolpost.toolbox.files import FileSystem

Run = Callable[..., ToolResult]
READ, LIST, INFO = "FileSystem.ReadFile", "FileSystem.ListDirectory", "FileSystem.GetFileInfo"


def code(result: ToolResult) -> str | None:
    return None if result.failure is None else result.failure.code


def read(path: str) -> ToolCall:
    return create_tool_call(READ, {"path": path})


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_whole(run: Run, inside: Path) -> None:
    result = run(READ, path="docs/guide.md")

    assert result.data == {
        "path": "docs/guide.md",
        "allowed_directory": str(inside),
        "content": "# Guide",
        "encoding": "utf-8",
        "size": 7,
        "offset": 0,
        "bytes": 7,
        "truncated": False,
        "next_offset": None,
    }


def test_a_large_file_is_read_in_parts_that_join(run: Run, inside: Path) -> None:
    text = "añ€😀\n" * 1000
    (inside / "large.txt").write_text(text)

    parts, offset = [], 0
    while offset is not None:
        result = run(READ, path="large.txt", offset=offset, max_bytes=1001)
        parts.append(result.data["content"])
        assert result.data["truncated"] is (result.data["next_offset"] is not None)
        offset = result.data["next_offset"]

    assert "".join(parts) == text
    assert len(parts) > 10


def test_the_tools_own_limit_holds_for_every_read(inside: Path) -> None:
    (inside / "large.txt").write_text("x" * 100)

    with executor_for(file_tools([inside], max_bytes=40)) as executor:
        whole = executor.execute_sync(read("large.txt"))
        more = executor.execute_sync(create_tool_call(READ, {"path": "large.txt", "max_bytes": 41}))

    assert (len(whole.data["content"]), whole.data["truncated"], whole.data["next_offset"]) == (40, True, 40)
    assert whole.data["size"] == 100
    assert more.failure is not None
    assert more.failure.details["errors"][0]["path"] == "/max_bytes"


def test_reading_past_the_end_gives_nothing_and_says_so(run: Run) -> None:
    result = run(READ, path="notes.txt", offset=1000)

    assert (result.data["content"], result.data["truncated"], result.data["size"]) == ("", False, 6)


def test_an_empty_file_is_empty_text(run: Run, inside: Path) -> None:
    (inside / "empty").touch()

    assert run(READ, path="empty").data["content"] == ""


def test_bytes_come_as_base64_in_parts_that_join(run: Run, inside: Path) -> None:
    blob = bytes(range(256))
    (inside / "blob").write_bytes(blob)

    first = run(READ, path="blob", encoding="base64", max_bytes=100)
    rest = run(READ, path="blob", encoding="Base64", offset=first.data["next_offset"])

    assert base64.b64decode(first.data["content"] + rest.data["content"]) == blob
    assert first.data["bytes"] == 99


def test_an_unknown_encoding_is_refused_with_the_nearest_and_examples(run: Run) -> None:
    result = run(READ, path="notes.txt", encoding="utf9")

    assert code(result) == "invalid_input"
    assert result.failure is not None
    [problem] = result.failure.details["errors"]
    assert (problem["path"], problem["got"]) == ("/encoding", "'utf9'")
    assert "did you mean 'utf-8'?" in problem["msg"]
    assert "latin-1" in problem["expected"]


def test_text_in_another_encoding_is_a_failure_that_says_where_and_what_to_try(run: Run, inside: Path) -> None:
    (inside / "menu.txt").write_bytes("Café".encode("latin-1"))

    failed = run(READ, path="menu.txt")
    mended = run(READ, path="menu.txt", encoding="cp1252")

    assert (failed.status, code(failed)) == ("failed", "undecodable")
    assert failed.error == (
        "'menu.txt' is not utf-8: byte 3 is 0xe9; try 'cp1252' or 'latin-1', or 'base64' for the bytes themselves"
    )
    assert failed.failure is not None
    assert failed.failure.details == {"offset": 3}
    assert mended.data["content"] == "Café"


@pytest.mark.parametrize("name", ["nothing.txt", "docs/nothing/x", "notes.txt/x", "x" * 300])
def test_a_file_that_is_not_there_is_a_failure_that_says_where_was_looked(run: Run, inside: Path, name: str) -> None:
    result = run(READ, path=name)

    assert (result.status, code(result), result.metadata["retryable"]) == ("failed", "not_found", False)
    assert name[:200] in str(result.error)


def test_a_directory_is_not_read(run: Run) -> None:
    result = run(READ, path="docs")

    assert code(result) == "not_a_file"
    assert "FileSystem.ListDirectory" in str(result.error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_told_from_one_that_is_missing(run: Run, inside: Path) -> None:
    (inside / "notes.txt").chmod(0)

    assert code(run(READ, path="notes.txt")) == "permission_denied"


# -- where files may lie ----------------------------------------------------------------------------------------------

ATTACKS = [
    "../outside/secret.txt",
    "docs/../../outside/secret.txt",
    "docs/deep/../../../outside/secret.txt",
    "./../inside/../outside/secret.txt",
    "..",
    "../",
    "../../../../../../../../etc/hostname",
    "/etc/passwd",
    "/etc/hostname",
    "//etc/hostname",
    "/proc/self/environ",
    "/proc/self/cwd/pyproject.toml",
    "/dev/stdin",
    "{outside}/secret.txt",
    "{inside}/../outside/secret.txt",
    "{inside}/docs/../../outside/secret.txt",
    "{inside}-twin/secret.txt",
    "link",
    "absolute-link",
    "folder/secret.txt",
    "folder/../outside/secret.txt",
    "docs/chain",
    "environ",
    "root/etc/hostname",
]


@pytest.fixture
def trap(inside: Path, outside: Path) -> None:
    """Links in the allowed directory that lead out of it, and a neighbour whose name begins alike."""
    (inside / "link").symlink_to("../outside/secret.txt")
    (inside / "absolute-link").symlink_to(outside / "secret.txt")
    (inside / "folder").symlink_to("../outside")
    (inside / "docs" / "chain").symlink_to("../link")
    (inside / "environ").symlink_to("/proc/self/environ")
    (inside / "root").symlink_to("/proc/self/root")
    (inside.parent / "inside-twin").mkdir()
    (inside.parent / "inside-twin" / "secret.txt").write_text("outside")


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("tool", [READ, LIST, INFO])
def test_no_path_leads_out(run: Run, trap: None, inside: Path, outside: Path, tool: str, attack: str) -> None:
    path = attack.format(inside=inside, outside=outside)

    result = run(tool, path=path)

    assert (result.status, code(result), result.status_code) == ("rejected", "screened", 403)
    assert repr(path) in str(result.error)
    assert str(inside) in str(result.error)
    assert result.failure is not None
    assert result.failure.details["rule"] == "path.outside"


@pytest.mark.parametrize(
    "attack",
    [
        "%2e%2e/outside/secret.txt",
        "..%2foutside%2fsecret.txt",
        "..\\outside\\secret.txt",
        "....//outside/secret.txt",
        "\uff0e\uff0e/outside/secret.txt",
        "~/secret.txt",
        "file:///etc/hostname",
        "$HOME/secret.txt",
        "\\x2e\\x2e/outside",
        "..\u2215outside\u2215secret.txt",
        "notes.txt%00.png",
        "\\xc0\\xae\\xc0\\xae/outside/secret.txt",
    ],
)
def test_a_path_in_disguise_names_no_file(run: Run, trap: None, attack: str) -> None:
    for tool in (READ, LIST, INFO):
        assert code(run(tool, path=attack)) == "not_found"


@pytest.mark.parametrize("path", ["notes.txt\0", "\0", "docs\0/../../outside/secret.txt", "\ud800", "notes.txt\udce9"])
def test_text_that_is_no_path_is_an_invalid_argument(run: Run, path: str) -> None:
    assert code(run(READ, path=path)) == "invalid_input"


@pytest.mark.parametrize(
    "path",
    [
        "notes.txt",
        "./notes.txt",
        "docs/../notes.txt",
        "docs//..//notes.txt",
        "{inside}/notes.txt",
        "{inside}//docs/../notes.txt",
        "here",
        "there/../notes.txt",
        "there/up",
    ],
)
def test_innocent_paths_pass(run: Run, inside: Path, path: str) -> None:
    (inside / "here").symlink_to("notes.txt")
    (inside / "there").symlink_to("docs")
    (inside / "docs" / "up").symlink_to("../notes.txt")

    assert run(READ, path=path.format(inside=inside)).data["content"] == "inside"


@pytest.mark.parametrize(
    "name",
    [
        "..notes",
        "notes..txt",
        "...",
        "a b.txt",
        "O'Brien & Söhne.txt",
        "~notes",
        "50%.txt",
        "%2e%2e",
        "-rf",
        "日本.txt",
        "back\\slash",
        "caf\\xe9.txt",
        "semi;colon",
        "star*",
        "con",
        "new\nline",
    ],
)
def test_innocent_names_are_listed_and_read(run: Run, inside: Path, name: str) -> None:
    (inside / "docs" / "deep" / name).write_text("plain")

    listed = run(LIST, path="docs/deep").data["entries"]

    assert name in [entry["name"] for entry in listed]
    assert run(READ, path=f"docs/deep/{name}").data["content"] == "plain"


def test_the_screening_stage_refuses_climbing_paths_before_the_tool_runs(inside: Path) -> None:
    with executor_for(file_tools([inside])) as executor:
        result = executor.execute_sync(read("../outside/secret.txt"))

    assert (code(result), result.metadata["outcome"]) == ("screened", "not_run")


def test_without_allowed_directories_every_call_is_refused_and_says_how_to_allow() -> None:
    with executor_for(file_tools([])) as executor:
        results = [executor.execute_sync(create_tool_call(tool, {"path": "x"})) for tool in (READ, LIST, INFO)]

    for result in results:
        assert (result.status, code(result)) == ("rejected", "screened")
        assert "allowed_directories" in str(result.error)
        assert "TOOL_EXECUTOR_ALLOWED_DIRECTORIES" in str(result.error)


def test_a_relative_path_is_looked_for_in_each_allowed_directory(inside: Path, outside: Path) -> None:
    (inside / "escapes").symlink_to("../outside/secret.txt")
    (outside / "escapes").write_text("plain")

    with executor_for(file_tools([inside, outside])) as executor:
        first = executor.execute_sync(read("notes.txt"))
        second = executor.execute_sync(read("secret.txt"))
        plain = executor.execute_sync(read("escapes"))
        absolute = executor.execute_sync(read(str(outside / "notes.txt")))

    assert (first.data["content"], first.data["allowed_directory"]) == ("inside", str(inside))
    assert (second.data["content"], second.data["allowed_directory"]) == ("outside", str(outside))
    assert plain.data["content"] == "plain"
    assert absolute.data["allowed_directory"] == str(outside)


def test_an_allowed_directory_may_be_given_through_a_link_and_keeps_both_names(inside: Path) -> None:
    alias = inside.with_name("alias")
    alias.symlink_to(inside)

    with executor_for(file_tools([alias])) as executor:
        results = [executor.execute_sync(read(str(name / "notes.txt"))) for name in (alias, inside)]

    assert [result.data["content"] for result in results] == ["inside", "inside"]


def test_an_allowed_directory_exchanged_for_a_link_is_no_longer_looked_into(inside: Path, outside: Path) -> None:
    with executor_for(file_tools([inside])) as executor:
        inside.rename(inside.with_name("moved"))
        inside.symlink_to(outside)

        result = executor.execute_sync(read("secret.txt"))

    assert code(result) == "not_found"


def test_an_allowed_directory_may_come_later(tmp_path: Path) -> None:
    later = tmp_path / "later"

    with executor_for(file_tools([later])) as executor:
        before = executor.execute_sync(read("notes.txt"))
        later.mkdir()
        (later / "notes.txt").write_text("here")
        after = executor.execute_sync(read("notes.txt"))

    assert code(before) == "not_found"
    assert after.data["content"] == "here"


def test_a_link_swapped_in_during_reads_never_shows_what_is_outside(inside: Path, outside: Path) -> None:
    [tool, *_] = file_tools([inside])
    assert tool.function is not None
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            for target in ("docs", "../outside"):
                (inside / "next").symlink_to(target)
                (inside / "next").replace(inside / "door")

    (outside / "guide.md").write_text("outside")
    (inside / "door").symlink_to("docs")
    flipping = threading.Thread(target=flip)
    flipping.start()
    seen: set[str] = set()
    try:
        for turn in range(20_000):
            try:
                seen.add(tool.function("door/guide.md")["content"])
            except SecurityError as exc:
                seen.add(exc.code)
            if turn > 2000 and {"# Guide", "screened"} <= seen:
                break
    finally:
        stop.set()
        flipping.join()

    assert seen == {"# Guide", "screened"}  # both, or the race was not run


# -- what may be read -------------------------------------------------------------------------------------------------


def test_a_fifo_is_refused_at_once_and_its_writer_sleeps_on(run: Run, inside: Path) -> None:
    os.mkfifo(inside / "fifo")

    result = run(READ, path="fifo")

    assert (code(result), result.error) == ("screened", "'fifo' is a fifo, and only files are read")
    with pytest.raises(OSError, match="No such device"):  # nobody had opened it for reading
        os.open(inside / "fifo", os.O_WRONLY | os.O_NONBLOCK)


def test_a_fifo_that_takes_a_files_place_between_look_and_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, inside: Path
) -> None:
    looked = open_beneath

    def exchanging(directory: int, path: bytes, flags: int) -> object:
        opened = looked(directory, path, flags)
        (inside / "notes.txt").unlink(missing_ok=True)
        if not (inside / "notes.txt").exists():
            os.mkfifo(inside / "notes.txt")
        return opened

    monkeypatch.setattr(files, "open_beneath", exchanging)

    with executor_for(file_tools([inside])) as executor:
        result = executor.execute_sync(read("notes.txt"))

    assert result.error == "'notes.txt' is a fifo, and only files are read"


def test_a_socket_is_refused(run: Run, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inside)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")

        result = run(READ, path="socket")

    assert result.error == "'socket' is a socket, and only files are read"


@pytest.mark.parametrize("path", ["null", "zero", "random", "tty"])
def test_devices_are_refused(path: str) -> None:
    with executor_for(file_tools(["/dev"])) as executor:
        result = executor.execute_sync(read(path))

    assert result.error == f"{path!r} is a device, and only files are read"


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "proc/self/environ", "/proc/self/mem", "/sys/kernel/uevent_seqnum"]
)
def test_doors_into_the_kernel_are_refused_even_where_everything_is_allowed(path: str) -> None:
    with executor_for(file_tools(["/"]), enable_security_checks=False) as executor:
        result = executor.execute_sync(read(path))
        listed = executor.execute_sync(create_tool_call(LIST, {"path": "/proc/self"}))

    assert code(result) == "screened"
    assert "door into the kernel" in str(result.error)
    assert "door into the kernel" in str(listed.error)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("a.txt", True),
        ("A.TXT", True),
        ("b.tar.gz", True),
        ("to-text", True),
        ("c.key", False),
        ("c.txt.key", False),
        ("plain", False),
        ("d.gz", False),
        ("looks-like.txt", False),
    ],
)
def test_only_files_with_an_allowed_extension_are_read(inside: Path, path: str, allowed: bool) -> None:
    for name in ("a.txt", "A.TXT", "b.tar.gz", "c.key", "c.txt.key", "plain", "d.gz"):
        (inside / name).write_text("content")
    (inside / "to-text").symlink_to("a.txt")
    (inside / "looks-like.txt").symlink_to("c.key")

    with executor_for(file_tools([inside], extensions=["TXT", ".tar.gz"])) as executor:
        result = executor.execute_sync(read(path))

    assert result.success is allowed
    if not allowed:
        assert (code(result), result.failure and result.failure.details["rule"]) == ("screened", "path.extension")
        assert "allowed are .txt, .tar.gz" in str(result.error)


# -- telling ----------------------------------------------------------------------------------------------------------


def test_a_files_info_is_its_targets(run: Run, inside: Path) -> None:
    (inside / "docs" / "guide.md").chmod(0o640)
    os.utime(inside / "docs" / "guide.md", (1_700_000_000, 1_700_000_000))
    (inside / "link.md").symlink_to("docs/guide.md")

    assert run(INFO, path="link.md").data == {
        "path": "link.md",
        "allowed_directory": str(inside),
        "name": "link.md",
        "type": "file",
        "size": 7,
        "modified": "2023-11-14T22:13:20+00:00",
        "permissions": "rw-r-----",
        "media_type": run(INFO, path="docs/guide.md").data["media_type"],
    }


def test_info_tells_directories_and_special_files_apart(run: Run, inside: Path) -> None:
    os.mkfifo(inside / "fifo")

    found = {path: run(INFO, path=path).data for path in ("docs", "docs/", ".", "fifo", str(inside))}

    assert [(one["name"], one["type"], one["size"]) for one in found.values()] == [
        ("docs", "directory", None),
        ("docs", "directory", None),
        (".", "directory", None),
        ("fifo", "fifo", None),
        ("inside", "directory", None),
    ]


def test_a_media_type_is_told_by_the_extension(run: Run, inside: Path) -> None:
    (inside / "table.csv").touch()

    assert run(INFO, path="table.csv").data["media_type"] == "text/csv"


@pytest.mark.parametrize("modified", [-(10**10), 10**11, 2**33])
def test_times_that_no_calendar_has_are_null_or_told(run: Run, inside: Path, modified: int) -> None:
    try:
        os.utime(inside / "notes.txt", (modified, modified))
    except OverflowError:
        pytest.skip("the file system keeps no such times")

    assert run(INFO, path="notes.txt").success


# -- declaring --------------------------------------------------------------------------------------------------------


def test_the_tools_tell_models_what_they_take_give_and_touch(inside: Path) -> None:
    tools = {tool.name: export_tool(tool, "mcp") for tool in file_tools([inside], max_bytes=5000)}

    assert list(tools) == [READ, LIST, INFO]
    for tool in tools.values():
        assert tool["annotations"]["readOnlyHint"] is True
        assert tool["annotations"]["openWorldHint"] is False
        assert tool["outputSchema"]["additionalProperties"] is False
        assert "each allowed directory" in tool["inputSchema"]["properties"]["path"]["description"]
        assert str(inside) not in str(tool)  # a definition is the same on every machine
    assert tools[READ]["inputSchema"]["properties"]["max_bytes"]["maximum"] == 5000
    assert tools[LIST]["inputSchema"]["required"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"allowed_directories": "/data"}, "write ['/data']"),
        ({"allowed_directories": Path("/data")}, "write ['/data']"),
        ({"allowed_directories": [""]}, "an allowed directory is a path, got ''"),
        ({"allowed_directories": [b"/data"]}, "an allowed directory is a path, got b'/data'"),
        ({"allowed_directories": [], "max_bytes": 3}, "max_bytes must be a whole number, 4 or more, got 3"),
        ({"allowed_directories": [], "max_bytes": True}, "max_bytes must be a whole number, 4 or more, got True"),
        ({"allowed_directories": [], "extensions": ".txt"}, "write ['.txt']"),
        ({"allowed_directories": [], "extensions": [""]}, "extensions holds an empty one"),
    ],
)
def test_a_wrong_setting_is_refused_when_the_tools_are_made(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        file_tools(**arguments)  # type: ignore[arg-type]

    assert says in str(caught.value)


def test_the_tools_run_in_worker_processes(inside: Path) -> None:
    with executor_for(file_tools([inside]), thread_pool_type="process") as executor:
        read_result = executor.execute_sync(read("notes.txt"))
        listed = executor.execute_sync(create_tool_call(LIST, {}))
        refused = executor.execute_sync(create_tool_call(READ, {"path": "/etc/hostname"}))

    assert read_result.data["content"] == "inside"
    assert listed.data["count"] == 2
    assert code(refused) == "screened"


def test_calls_leave_no_handle_open(run: Run, trap: None) -> None:
    calls = [(READ, "notes.txt"), (READ, "link"), (READ, "docs"), (LIST, "docs"), (INFO, "x"), (READ, "/etc/hostname")]
    for tool, path in calls:
        run(tool, path=path)
    before = len(os.listdir("/proc/self/fd"))

    for tool, path in calls * 20:
        run(tool, path=path)

    assert len(os.listdir("/proc/self/fd")) == before


def test_the_operations_can_be_used_without_an_executor(inside: Path) -> None:
    [tool, *_] = file_tools([inside])

    assert tool.function is not None
    assert isinstance(tool.function.__self__, FileSystem)  # type: ignore[attr-defined]
    assert tool.function("notes.txt")["content"] == "inside"
