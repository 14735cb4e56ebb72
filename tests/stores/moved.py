"""What there is of rows that an older schema had, once it was moved: the same in every database."""

from typing import Any

from toolpost.stores import Finish
from toolpost.stores.migrations import LATEST


def assert_moved(records: Any) -> None:
    """A call that is over and one that is open were there at schema 2; both are as they were, and go on."""
    assert records.schema_version() == 2
    over, still_open = records.task("over").wait(), records.tasks(state="queued").wait()
    assert (over.state, over.value, over.report, over.finished_at) == ("failed", b"1", None, 2.0)
    assert [row.task_id for row in still_open] == ["open"]
    assert [row.task_id for row in records.tasks(user_id="u", state="failed").wait()] == ["over"]
    assert records.schema_version() == LATEST
    assert records.drop_tasks(60.0).wait() == 1
    [work] = records.claim_tasks("me", 9, 30.0).wait()
    assert records.finish_task(Finish(task_id="open", fence=work.fence, state="succeeded", report=b"r")).wait() is True
    assert records.task("open").wait().report == b"r"
