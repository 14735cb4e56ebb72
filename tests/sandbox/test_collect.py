"""Whether there is anything to collect at all."""

from __future__ import annotations

from pathlib import Path

from toolpost.sandbox.collect import empty


def test_a_folder_is_empty_only_where_it_can_be_seen_to_be(tmp_path: Path) -> None:
    assert empty(str(tmp_path))
    (tmp_path / ".hidden").touch()
    assert not empty(str(tmp_path))
    assert not empty(str(tmp_path / "missing")), "what cannot be read must be looked at, and told of"
