"""A tool that asks for approval and writes down each run; as a program, many equal calls of it at one moment.

python -m tests.journeys.refunds RECORDS_URL: says "ready", waits for a line on standard input, makes its calls from
threads and tasks, and prints how each ended, as a JSON list of codes.
"""

import asyncio
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from toolpost import Approval, Tool, ToolExecutor, ToolRegistry, create_tool_call

AT_ONCE = 12


@Tool(name="Shop.Refund", register=False, approval=Approval(reason="money leaves", where={"amount": {"minimum": 100}}))
def refund(order: int, amount: float) -> dict:
    """Give money back."""
    with open(os.environ["EFFECTS"], "a") as effects:
        effects.write(f"{order} {amount:g}\n")
    if "HANGS" in os.environ and amount >= 100:
        threading.Event().wait()
    return {"order": order, "amount": amount}


TOOLS = [refund]


def code(result):
    return result.failure.code if result.failure else "ok"


def main(records_url):
    with (
        ToolExecutor(registry=ToolRegistry(), records_url=records_url) as executor,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        executor.add(TOOLS)
        calls = [create_tool_call("Shop.Refund", {"order": 1, "amount": 500}, user_id="ann") for _ in range(AT_ONCE)]
        executor.execute_sync(create_tool_call("Shop.Refund", {"order": 0, "amount": -1}, user_id="ann"))
        print("ready", flush=True)
        sys.stdin.readline()
        blocking = [pool.submit(executor.execute_sync, call) for call in calls]
        awaited = asyncio.run(executor.execute_tool_calls(calls, concurrency=AT_ONCE))
        print(json.dumps([code(result) for result in [*awaited, *(one.result() for one in blocking)]]))


if __name__ == "__main__":
    main(sys.argv[1])
