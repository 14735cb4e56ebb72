"""Rows of an audit log that do not follow from the row before, and what that says: altered, put in, moved, copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from toolpost.stores.documents import link

MOST: Final = 300
"""Rows that are looked into; those beyond are counted."""
MOST_COMPARED: Final = 40
"""So few suspects are each compared with all others in every place."""
FARTHEST: Final = 2000
SEARCHES: Final = 20
"""How far rows may have been moved together to be found out, and how often that is tried."""


class Row(Protocol):
    """A row of the log."""

    @property
    def seq(self) -> int: ...
    @property
    def body(self) -> bytes: ...
    @property
    def hash(self) -> bytes: ...


class Suspect(NamedTuple):
    """A row that does not follow: before is the hash of the row that stands before it now."""

    row: Row
    before: bytes
    key: bytes
    offset: int


class Suspects:
    """Collects rows that do not follow, while a log is read; then says of each what was done."""

    def __init__(self) -> None:
        self.found: list[Suspect] = []
        self.further = 0
        self._offset = 0
        self._searches = SEARCHES
        self._doubtful = 0
        self._inserted: dict[int, int] = {}
        """First suspect of a run that was put in -> the row behind it, which follows from the row before the run."""

    def after_gap(self, row: Row) -> None:
        """A row behind others that are missing: nobody can say whether it follows."""
        self._doubtful = 0

    def look_at(self, row: Row, before: bytes, key: bytes) -> int:
        """Take a row in; by how much it, and those behind it, were found to have been moved up (or down: negative)."""
        if link(before, row.seq - self._offset, row.body, key) == row.hash:
            self._doubtful = 0
            return 0
        if self._searches and _is_time(self._doubtful):
            self._searches -= 1
            offset = self._moved_by(row, before, key)
            if offset is not None:
                shift, self._offset = offset - self._offset, offset
                self._doubtful = 0
                self._clear(row.seq - 1, shift)
                return shift
        self._doubtful += 1
        if len(self.found) < MOST:
            self.found.append(Suspect(row, before, key, self._offset))
        else:
            self.further += 1
        return 0

    def _moved_by(self, row: Row, before: bytes, key: bytes) -> int | None:
        for distance in range(1, FARTHEST + 1):
            for offset in (self._offset + distance, self._offset - distance):
                if row.seq > offset and link(before, row.seq - offset, row.body, key) == row.hash:
                    return offset
        return None

    def _clear(self, seq: int, shift: int) -> None:
        """Suspects up to seq that were only moved are as they were."""
        while self.found and self.found[-1].row.seq == seq and _follows(self.found[-1], None, self._offset):
            self.found.pop()
            seq -= 1
        if not self.found or self.found[-1].row.seq != seq:
            return
        last = self.found[-1]
        if shift < 0:  # what it followed was taken, so that nobody can say more of it
            self.found.pop()
            return
        run = [suspect for suspect in self.found if last.row.seq - shift <= suspect.row.seq < last.row.seq]
        if run and link(run[0].before, last.row.seq - self._offset, last.row.body, last.key) == last.row.hash:
            self.found.pop()
            self._inserted.update((suspect.row.seq, last.row.seq) for suspect in run)

    def clear_first(self, seq: int, before: bytes) -> None:
        """The row at seq follows from before, if it does: it was the note of what is before it that was changed."""
        self.found = [
            suspect
            for suspect in self.found
            if suspect.row.seq != seq or link(before, seq, suspect.row.body, suspect.key) != suspect.row.hash
        ]

    # -- what was done ------------------------------------------------------------------------------------------------

    def judged(self, copies: Mapping[bytes, Sequence[int]]) -> Iterator[tuple[Suspect, str, str]]:
        """Of each suspect that is not as it was: what was done, in a word and in a sentence.

        copies: of each suspect's hash all rows of the log that have it.
        """
        by_seq = {suspect.row.seq: suspect for suspect in self.found}
        hashes = self._altered_hashes(by_seq)
        innocent = {seq + 1 for seq in hashes}
        moved = self._moved([s for s in self.found if s.row.seq not in hashes and s.row.seq not in innocent])
        true = {old: by_seq[now].row.hash for now, old in moved.items()}
        for suspect in self.found:
            seq, row = suspect.row.seq, suspect.row
            others = [other for other in copies.get(row.hash, ()) if other != seq]
            if seq in moved:
                yield suspect, "moved", f"row {seq} was written as row {moved[seq]}: rows were put into another order"
            elif seq in innocent or (seq - 1 in true and _follows(suspect, true[seq - 1])):
                continue
            elif seq in hashes:
                yield suspect, "hash", f"the hash of row {seq} was altered; its body is as it was"
            elif others:
                yield suspect, "duplicate", f"row {seq} is a copy of row {others[0]}"
            elif seq in self._inserted:
                yield suspect, "inserted", f"row {seq} was put in between, and those behind it moved up"
            else:
                yield suspect, "altered", f"row {seq} was altered or put in: its body and its hash do not fit together"

    @staticmethod
    def _altered_hashes(by_seq: Mapping[int, Suspect]) -> set[int]:
        """Rows whose body gives the hash that the row behind them was linked to."""
        found: set[int] = set()
        for seq, suspect in by_seq.items():
            behind = by_seq.get(seq + 1)
            if behind is not None and seq - 1 not in found:
                true = link(suspect.before, seq - suspect.offset, suspect.row.body, suspect.key)
                if _follows(behind, true):
                    found.add(seq)
        return found

    @staticmethod
    def _moved(suspects: Sequence[Suspect]) -> dict[int, int]:
        """Where rows stand now -> where they were written."""
        moved: dict[int, int] = {}
        few = len(suspects) <= MOST_COMPARED
        for suspect in suspects:
            for place in suspects:
                if place is suspect:
                    continue
                befores = [place.before, *((other.row.hash for other in suspects) if few else ())]
                if any(_fits(suspect, place, before) for before in befores):
                    moved[suspect.row.seq] = place.row.seq
                    break
        return moved


def _is_time(doubtful: int) -> bool:
    """Whether to look if rows were moved, behind so many that do not follow: ever more seldom."""
    return 0 < doubtful < 5 or (doubtful >= 8 and doubtful & (doubtful - 1) == 0)


def _follows(suspect: Suspect, before: bytes | None, offset: int | None = None) -> bool:
    """Whether a row follows from a hash (None: from the row before it) at its place, or one so far from it."""
    row, before = suspect.row, suspect.before if before is None else before
    seq = row.seq - (suspect.offset if offset is None else offset)
    return seq > 0 and link(before, seq, row.body, suspect.key) == row.hash


def _fits(suspect: Suspect, place: Suspect, before: bytes) -> bool:
    return link(before, place.row.seq - place.offset, suspect.row.body, suspect.key) == suspect.row.hash
