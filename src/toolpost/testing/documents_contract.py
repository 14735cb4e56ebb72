"""DocumentsContract: what every Records promises about documents; a part of RecordsContract."""

from __future__ import annotations

import time
from typing import Any

import pytest

from toolpost.stores import Document, Records
from toolpost.testing.records_claims_contract import YEARS_S, at_once, refusal, said

DOCUMENT = Document("grant", "ann", 0, bytes(range(256)), tenant="acme", user_id="ann", state="open")


class DocumentsContract:
    """What Records promise about documents. A subclass has the fixture records, empty for each test, and age()."""

    age: Any

    def test_a_document_is_read_as_it_was_written(self, records: Records) -> None:
        version = said(records.put_document(DOCUMENT._replace(version=77, created_at=1.0, updated_at=2.0)))
        read = said(records.document("grant", "ann"))
        plain = Document("grant", "", 0, b"")
        said(records.put_document(plain))
        empty = said(records.document("grant", ""))

        assert version > 0
        assert read == DOCUMENT._replace(version=version, created_at=read.created_at, updated_at=read.updated_at)
        assert read.created_at == read.updated_at > 1e9
        assert empty == plain._replace(version=empty.version, created_at=empty.created_at, updated_at=empty.updated_at)
        assert isinstance(read.body, bytes)

    def test_a_document_that_is_not_there_is_none(self, records: Records) -> None:
        said(records.put_document(DOCUMENT))

        assert said(records.document("grant", "bob")) is None
        assert said(records.document("flow", "ann")) is None
        assert said(records.drop_document("flow", "ann")) is False

    def test_without_an_expectation_a_document_is_written_over(self, records: Records) -> None:
        first = said(records.put_document(DOCUMENT))
        born = said(records.document("grant", "ann")).created_at
        second = said(records.put_document(Document("grant", "ann", 0, b"2")))

        read = said(records.document("grant", "ann"))
        assert second > first
        assert (read.version, read.body, read.tenant, read.user_id, read.state) == (second, b"2", "", "", "")
        assert read.created_at == born <= read.updated_at

    def test_zero_writes_only_where_there_is_none(self, records: Records) -> None:
        first = said(records.put_document(DOCUMENT, 0))
        second = said(records.put_document(DOCUMENT._replace(body=b"2"), 0))

        assert (first > 0, second) == (True, 0)
        assert said(records.document("grant", "ann")).body == DOCUMENT.body

    def test_a_version_is_replaced_only_while_it_stands(self, records: Records) -> None:
        nothing = said(records.put_document(DOCUMENT, 5))
        first = said(records.put_document(DOCUMENT))
        second = said(records.put_document(DOCUMENT._replace(body=b"2"), first))
        late = said(records.put_document(DOCUMENT._replace(body=b"3"), first))

        read = said(records.document("grant", "ann"))
        assert (nothing, late) == (0, 0)
        assert (read.version, read.body) == (second, b"2")

    def test_a_document_is_dropped_and_by_version_only_while_that_stands(self, records: Records) -> None:
        first = said(records.put_document(DOCUMENT))
        second = said(records.put_document(DOCUMENT, first))

        dropped = [said(records.drop_document("grant", "ann", expect)) for expect in (first, second, second)]
        said(records.put_document(DOCUMENT))
        dropped += [said(records.drop_document("grant", "ann")) for _ in range(2)]

        assert dropped == [False, True, False, True, False]
        assert said(records.document("grant", "ann")) is None

    def test_a_version_never_comes_again(self, records: Records) -> None:
        versions = []
        for _ in range(3):
            versions.append(said(records.put_document(DOCUMENT, 0)))
            versions.append(said(records.put_document(DOCUMENT)))
            said(records.drop_document("grant", "ann"))

        assert versions == sorted(set(versions))

    def test_of_many_who_write_over_one_version_one_succeeds(self, records: Records) -> None:
        version = said(records.put_document(DOCUMENT))

        def write(number: int) -> Any:
            return lambda: records.put_document(DOCUMENT._replace(body=b"%d" % number), version)

        answers = at_once([write(number) for number in range(20)])
        [winner] = [number for number, answer in enumerate(answers) if answer]
        read = said(records.document("grant", "ann"))

        assert (read.version, read.body) == (answers[winner], b"%d" % winner)

    def test_of_many_who_make_a_document_one_succeeds(self, records: Records) -> None:
        answers = at_once([lambda: records.put_document(DOCUMENT, 0)] * 20)

        assert sorted(map(bool, answers)) == [False] * 19 + [True]

    def test_an_expired_document_is_none(self, records: Records) -> None:
        expires_at = said(self._now(records)) + 60.0
        version = said(records.put_document(DOCUMENT._replace(expires_at=expires_at)))
        before = said(records.document("grant", "ann"))
        self.age(records, YEARS_S)

        assert before.expires_at == pytest.approx(expires_at)
        assert said(records.document("grant", "ann")) is None
        assert said(records.documents("grant")) == []
        assert said(records.drop_document("grant", "ann")) is False
        assert said(records.put_document(DOCUMENT, version)) == 0
        again = said(records.put_document(DOCUMENT, 0))
        assert again > version
        assert said(records.document("grant", "ann")).version == again

    def test_what_is_written_over_an_expired_document_is_born_then(self, records: Records) -> None:
        said(records.put_document(DOCUMENT._replace(expires_at=said(self._now(records)) + 60.0)))
        self.age(records, YEARS_S)
        said(records.put_document(DOCUMENT))

        read = said(records.document("grant", "ann"))
        assert read.created_at == read.updated_at
        assert read.expires_at is None

    def test_expired_documents_are_swept_and_no_others(self, records: Records) -> None:
        soon = said(self._now(records)) + 60.0
        for number in range(5):
            said(records.put_document(Document("flow", f"{number}", 0, b"", expires_at=soon)))
        said(records.put_document(DOCUMENT))
        early = said(records.sweep())
        self.age(records, YEARS_S)
        some, rest, none = said(records.sweep(3)), said(records.sweep()), said(records.sweep())

        assert (early["documents"], some["documents"], none["documents"]) == (0, 3, 0)
        assert rest["documents"] <= 2  # the store may sweep by itself meanwhile
        assert said(records.document("grant", "ann")) is not None

    def test_documents_come_by_key_and_page_by_page(self, records: Records) -> None:
        keys = ["", "A", "Z", "a", "b1", "b10", "b2", "\u00e4", "\uffee", "\U0001f600"]
        for key in reversed(keys):
            said(records.put_document(Document("grant", key, 0, b"")))
        said(records.put_document(Document("grants", "a", 0, b"")))

        pages = []
        after = None
        while page := said(records.documents("grant", after=after, limit=3)):
            pages.append([one.key for one in page])
            after = page[-1].key

        assert [key for page in pages for key in page] == keys
        assert [len(page) for page in pages] == [3, 3, 3, 1]

    def test_documents_are_found_by_tenant_user_and_state(self, records: Records) -> None:
        for key, tenant, user_id, state in (("1", "a", "u", "x"), ("2", "a", "v", "x"), ("3", "b", "u", "y")):
            said(records.put_document(Document("grant", key, 0, b"", tenant, user_id, state)))

        def keys(**only: Any) -> list[str]:
            return [one.key for one in said(records.documents("grant", **only))]

        assert keys(tenant="a") == ["1", "2"]
        assert keys(user_id="u") == ["1", "3"]
        assert keys(state="x", user_id="v") == ["2"]
        assert keys(tenant="", state="x") == []
        assert keys() == ["1", "2", "3"]

    @pytest.mark.parametrize("name", ["kind", "key", "tenant", "user_id", "state"])
    @pytest.mark.parametrize("bad", ["a\0b", "\ud800"], ids=["nul", "surrogate"])
    def test_names_that_not_every_database_keeps_are_refused(self, records: Records, name: str, bad: str) -> None:
        said(records.put_document(DOCUMENT))
        given: dict[str, Any] = {name: bad}

        complaint = refusal(lambda: records.put_document(DOCUMENT._replace(**given)))
        if name in ("kind", "key"):
            place = {"kind": "grant", "key": "ann", **given}
            assert refusal(lambda: records.document(place["kind"], place["key"])) == complaint
            assert refusal(lambda: records.drop_document(place["kind"], place["key"])) == complaint
        else:
            assert refusal(lambda: records.documents("grant", **given)) == complaint

        assert complaint.startswith(f"{name} must be text without NUL and lone surrogates")
        assert len(said(records.documents("grant"))) == 1

    def _now(self, records: Records) -> float:
        """The store's time, as far as this can be seen."""
        said(records.put_document(Document("clock", "", 0, b"")))
        read = said(records.document("clock", ""))
        assert read is not None
        assert abs(read.updated_at - time.time()) < 1e10
        return float(read.updated_at)
