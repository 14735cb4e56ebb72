"""AuditContract: what every Records promises about the chain of the audit log; a part of RecordsContract."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from toolpost.stores import AuditHead, AuditRow, Records
from toolpost.stores.documents import GENESIS, link
from toolpost.testing.records_claims_contract import at_once, said, told

KEY = b"a key of the chain"


def chain(bodies: Sequence[bytes], key: bytes = b"", seq: int = 0, before: bytes = GENESIS) -> list[AuditRow]:
    """The rows that a store must hold after these were added to it."""
    rows = []
    for number, body in enumerate(bodies, seq + 1):
        before = link(before, number, body, key)
        rows.append(AuditRow(number, body, before))
    return rows


class AuditContract:
    """What Records promise about the audit chain. A subclass has the fixture records, empty for each test."""

    def test_an_empty_chain_begins_at_genesis(self, records: Records) -> None:
        assert said(records.audit_head()) == AuditHead(0, GENESIS, 0, GENESIS)
        assert said(records.audit_rows()) == []
        assert said(records.append_audit([])) == AuditHead(0, GENESIS, 0, GENESIS)
        assert said(records.rotate_audit(5)) == 0

    def test_rows_are_linked_in_the_order_in_which_they_were_added(self, records: Records) -> None:
        bodies = [b"one", b"", bytes(range(256)), b"x" * 1_000_000]
        first = said(records.append_audit(bodies[:1]))
        second = said(records.append_audit(bodies[1:]))

        rows = said(records.audit_rows())
        assert rows == chain(bodies)
        assert all(isinstance(row.body, bytes) and isinstance(row.hash, bytes) for row in rows)
        assert first == AuditHead(1, rows[0].hash, 0, GENESIS)
        assert second == said(records.audit_head()) == AuditHead(4, rows[3].hash, 0, GENESIS)

    def test_a_key_makes_other_hashes_row_by_row(self, records: Records) -> None:
        said(records.append_audit([b"1", b"2"], KEY))
        said(records.append_audit([b"3"]))
        said(records.append_audit([b"4"], b"another"))

        one, two = chain([b"1", b"2"], KEY)
        [three] = chain([b"3"], b"", 2, two.hash)
        [four] = chain([b"4"], b"another", 3, three.hash)
        assert said(records.audit_rows()) == [one, two, three, four]
        assert one != chain([b"1"])[0]

    def test_rows_come_page_by_page(self, records: Records) -> None:
        said(records.append_audit([b"%d" % number for number in range(10)]))

        pages = [[row.seq for row in said(records.audit_rows(after, 4))] for after in (0, 4, 8, 10, 99)]

        assert pages == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10], [], []]

    async def test_rows_of_many_at_once_share_one_chain_and_stay_together(self, records: Records) -> None:
        async def add(number: int) -> AuditHead:
            head: AuditHead = await told(records.append_audit([b"%d.%d" % (number, part) for part in range(3)], KEY))
            return head

        heads = await asyncio.gather(*map(add, range(200)))
        rows = await told(records.audit_rows(0, 1000))

        assert rows == chain([row.body for row in rows], KEY)
        assert sorted(head.seq for head in heads) == list(range(3, 603, 3))
        for number, head in enumerate(heads):
            mine = rows[head.seq - 3 : head.seq]
            assert [row.body for row in mine] == [b"%d.%d" % (number, part) for part in range(3)]
            assert head.hash == mine[-1].hash

    def test_threads_share_one_chain(self, records: Records) -> None:
        at_once([lambda: records.append_audit([b"row"])] * 20)

        assert said(records.audit_rows()) == chain([b"row"] * 20)

    def test_rotation_takes_the_oldest_rows_and_remembers_where_it_stopped(self, records: Records) -> None:
        said(records.append_audit([b"%d" % number for number in range(10)], KEY))
        rows = said(records.audit_rows())

        taken = [said(records.rotate_audit(through)) for through in (4, 3, 4, 6)]
        said(records.append_audit([b"more"], KEY))

        assert taken == [4, 0, 0, 2]
        assert said(records.audit_rows())[:4] == rows[6:]
        assert said(records.audit_rows(0, 2)) == rows[6:8]
        assert said(records.audit_rows(7, 2)) == rows[7:9]
        head = said(records.audit_head())
        assert head[2:] == (6, rows[5].hash)
        assert said(records.audit_rows())[4:] == chain([b"more"], KEY, 10, rows[9].hash)
        assert head.seq == 11

    def test_rotation_of_all_rows_goes_on_with_the_same_chain(self, records: Records) -> None:
        said(records.append_audit([b"1", b"2"]))
        last = said(records.audit_rows())[-1]

        taken = said(records.rotate_audit(99))
        emptied = said(records.audit_head())
        said(records.append_audit([b"3"]))

        assert taken == 2
        assert emptied == AuditHead(2, last.hash, 2, last.hash)
        assert said(records.audit_rows()) == chain([b"3"], b"", 2, last.hash)
