"""A process that forks while it uses its stores: python -m tests.faults.forking '{"folder": …, "settings": …, …}'

tools are pairs: the name of the gate that holds up its bodies, and tool_of's fields. before, held, child and after are
calls as pairs (tool, order): made before the fork; under way in the parent's threads while it forks; made by the child
at once, with the executor that it inherited; made by the parent at the same time.
"""

import json
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults.effects import Effects
from tests.faults.fleet import until
from tests.faults.shop import tool_of
from tests.faults.worker import told
from toolpost import ToolExecutor, ToolRegistry, create_tool_call

Calls = Sequence[tuple[str, str]]
DEADLINE_S = 12.0


def answer(effects: Effects, executor: ToolExecutor, who: str, tool: str, order: str) -> None:
    """Make one call and leave a line of how it ended."""
    call = {"tool": tool, "arguments": {"order": order}}
    result = executor.execute_sync(create_tool_call(tool, call["arguments"], deadline_s=DEADLINE_S))
    effects.note("answer", who=who, tool=tool, **told(call, result, 0.0))


def under_way(effects: Effects, executor: ToolExecutor, who: str, calls: Calls) -> list[threading.Thread]:
    """Threads that make the calls."""
    threads = [threading.Thread(target=answer, args=(effects, executor, who, *call)) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def ended(threads: Sequence[threading.Thread]) -> None:
    """Wait for them."""
    for thread in threads:
        thread.join()


def main(said: dict[str, Any]) -> None:
    """Fork once; the parent and the child go on at the same time."""
    effects = Effects(Path(said["folder"]))
    executor = ToolExecutor(registry=ToolRegistry(), **said["settings"])
    for process, tool in said["tools"]:
        executor.add(tool_of(effects, process, **tool))
    ended(under_way(effects, executor, "parent", said["before"]))
    held = under_way(effects, executor, "parent", said["held"])
    until(lambda: all(effects.seen("begin", tool=tool, order=order) for tool, order in said["held"]))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ended(under_way(effects, executor, "child", said["child"]))
            executor.close()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    ended([*under_way(effects, executor, "parent", said["after"]), *held])
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    executor.close()
    sys.exit(code)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
