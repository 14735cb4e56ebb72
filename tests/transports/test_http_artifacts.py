"""Files over HTTP: who gets them, in which parts, by which links, and what a browser may do with them."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from hypothesis import given, strategies as st

from tests.transports.gateway import Served, gateway
from toolpost import Caller, Tool, ToolContext, ToolExecutor, open_blobs
from toolpost.engine.registry import ToolRegistry
from toolpost.stores import Blobs
from toolpost.testing import executor_for
from toolpost.transports.http_artifacts import artifact_url, signed_link
from toolpost.transports.http_files import CHUNK, disposition, safe_media_type
from toolpost.transports.http_ranges import MAX_RANGES, Range, ranges_of
from toolpost.transports.http_routes import Door
from toolpost.worker.calls import OPERATE
from toolpost.worker.reports import KeptArtifact

OPEN = {"enable_security_checks": False}  # or files of these names and texts could not be asked for
KEY = "a-secret-key-of-some-length"
DATA = bytes(range(256)) * 4
LARGE = b"0123456789abcdef" * (CHUNK // 16) + b"and more"


@Tool(name="Files.Make", description="Make files.", register=False)
async def make(files: dict, ctx: ToolContext) -> Any:  # type: ignore[type-arg]
    for name, text in files.items():
        ctx.artifact(name, {"DATA": DATA, "LARGE": LARGE}.get(text, text.encode()))
    return {"made": len(files)}


@Tool(name="Files.Fail", description="Fail.", register=False)
async def fail() -> int:
    raise ValueError("it went wrong")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with gateway([make, fail], secret_key=KEY, **OPEN) as one:
        yield one


def made(served: Served, **files: str) -> dict[str, Any]:
    answer = served.client.post("/v1/tools/Files.Make/calls", json={"arguments": {"files": files}})
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def link(served: Served, name: str = "data.bin", text: str = "DATA") -> str:
    """A signed link to a file that was just made."""
    [artifact] = made(served, **{name: text})["artifacts"]
    url: str = artifact["url"]
    return url


def path_of(shown: dict[str, Any], name: str) -> str:
    return f"/v1/calls/{shown['call_id']}/artifacts/{quote(name)}"


# -- whole files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data.bin", "plots/ö ne.png", "a?b#c%d.txt", "deep/er/than.csv", "'\"<>&.txt"])
def test_a_file_of_a_call_is_had_by_its_path_and_by_its_link(served: Served, name: str) -> None:
    shown = made(served, **{name: "DATA"})

    by_path = served.client.get(path_of(shown, name))
    by_link = served.client.get(shown["artifacts"][0]["url"])

    assert urlsplit(shown["artifacts"][0]["url"]).path.startswith("/v1/artifacts/")
    for answer in (by_path, by_link):
        assert answer.status_code == 200, answer.text
        assert answer.content == DATA
        assert answer.headers["etag"] == f'"{hashlib.sha256(DATA).hexdigest()}"'
        assert answer.headers["content-length"] == str(len(DATA))
        assert answer.headers["accept-ranges"] == "bytes"
        assert "last-modified" not in answer.headers


def test_a_large_file_comes_in_chunks_and_whole(served: Served) -> None:
    with served.client.stream("GET", link(served, "large.bin", "LARGE")) as answer:
        parts = list(answer.iter_raw())

    assert b"".join(parts) == LARGE
    assert len(parts) > 1


def test_an_empty_file_is_a_file(served: Served) -> None:
    url = link(served, "empty.txt", "")

    assert served.client.get(url).content == b""
    assert served.client.get(url, headers={"range": "bytes=0-"}).status_code == 416
    assert served.client.get(url, headers={"range": "bytes=-5"}).status_code == 416


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=0-9"}])
def test_head_says_what_get_would_and_sends_nothing(served: Served, headers: dict[str, str]) -> None:
    url = link(served)

    head, get = served.client.head(url, headers=headers), served.client.get(url)

    same = ("etag", "content-length", "content-type", "content-disposition", "accept-ranges", "cache-control")
    assert head.status_code == 200
    assert head.content == b""
    assert [head.headers[name] for name in same[:5]] == [get.headers[name] for name in same[:5]]


def test_a_damaged_file_is_seen_to_be_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    url = link(served, "large.bin", "LARGE")
    get = served.executor.blobs.get

    def damaged(digest: str, start: int = 0, length: int | None = None) -> Any:
        data = get(digest, start, length)
        return b"X" * len(data) if start else data

    monkeypatch.setattr(served.executor.blobs, "get", damaged)

    with pytest.raises(httpx.RemoteProtocolError):
        served.client.get(url)


def test_a_file_that_is_no_longer_kept_is_not_there(served: Served) -> None:
    shown = made(served, **{"gone.txt": f"gone {time.time_ns()}"})
    served.executor.blobs.delete(shown["artifacts"][0]["digest"])

    for path in (path_of(shown, "gone.txt"), shown["artifacts"][0]["url"]):
        answer = served.client.get(path)
        assert answer.status_code == 404
        assert answer.json()["code"] == "not_found"


@pytest.fixture(params=["folder", "s3"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """Blobs that are elsewhere."""
    if request.param == "folder":
        return open_blobs(f"file://{tmp_path}")
    s3, bucket = request.getfixturevalue("s3"), request.getfixturevalue("s3_bucket")
    keys = f"{quote(s3.access_key, safe='')}:{quote(s3.secret_key, safe='')}@"
    return open_blobs(f"s3://{keys}{bucket}?endpoint={quote(s3.url, safe='')}&region={s3.region}")


def test_files_are_sent_from_every_kind_of_store(stored: Blobs) -> None:
    with ToolExecutor(blobs=stored, registry=ToolRegistry(), secret_key=KEY) as executor:
        with gateway([make], executor=executor) as served:
            shown = made(served, **{"large.bin": "LARGE"})
            url = shown["artifacts"][0]["url"]

            whole = served.client.get(url)
            part = served.client.get(url, headers={"range": f"bytes={CHUNK - 1}-{CHUNK}"})

    assert whole.content == LARGE
    assert part.content == LARGE[CHUNK - 1 : CHUNK + 1]


# -- conditions and ranges ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9", 0, 10),
        ("bytes=1000-", 1000, 1024),
        ("bytes=1000-99999999999999999999", 1000, 1024),
        ("bytes=-4", 1020, 1024),
        ("bytes=-99999", 0, 1024),
        ("BYTES = 5-6", 5, 7),
        ("bytes=, 5-6 ,", 5, 7),
        ("bytes=5-6, 5000-", 5, 7),
    ],
)
def test_a_range_of_bytes_is_sent_alone(served: Served, asked: str, start: int, end: int) -> None:
    answer = served.client.get(link(served), headers={"range": asked})

    assert answer.status_code == 206
    assert answer.content == DATA[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1024"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5000-6000", "bytes=-0", "bytes=1024-,-0"])
def test_a_range_that_is_not_there_is_refused_with_the_size(served: Served, asked: str) -> None:
    answer = served.client.get(link(served), headers={"range": asked})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */1024"
    assert answer.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=9-0",
        "bytes=a-b",
        "bytes=--1",
        "bytes=1-2-3",
        "bytes=",
        "bytes=,",
        "bytes",
        "lines=0-9",
        "bytes=0-9,x",
        b"bytes=\xd9\xa0-\xd9\xa9",  # digits, but Arabic ones
        "bytes=" + "0-0," * 17,
        "bytes=" + "0-," * 2,
        "bytes=" + "1" * 5000 + "-",
    ],
)
def test_what_is_no_range_or_too_much_of_them_has_all_sent_once(served: Served, asked: Any) -> None:
    answer = served.client.get(
        link(served), headers=[(b"range", asked if isinstance(asked, bytes) else asked.encode())]
    )

    assert answer.status_code == 200
    assert answer.content == DATA


def test_several_ranges_come_as_parts_of_one_answer(served: Served) -> None:
    answer = served.client.get(link(served), headers={"range": "bytes=0-1, 10-19, -3"})

    assert answer.status_code == 206
    assert "content-range" not in answer.headers
    head = f"content-type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = list(BytesParser(policy=HTTP).parsebytes(head + answer.content).iter_parts())
    assert [part["content-range"] for part in parts] == [
        "bytes 0-1/1024",
        "bytes 10-19/1024",
        "bytes 1021-1023/1024",
    ]
    assert [part.get_content_type() for part in parts] == ["application/octet-stream"] * 3
    assert all(part in answer.content for part in (DATA[:2], DATA[10:20], DATA[-3:]))
    assert len(answer.content) == int(answer.headers["content-length"])


def test_ranges_reach_over_chunks(served: Served) -> None:
    answer = served.client.get(
        link(served, "large.bin", "LARGE"), headers={"range": f"bytes={CHUNK - 3}-{CHUNK + 2}, 1-{CHUNK - 1000}"}
    )

    assert LARGE[CHUNK - 3 : CHUNK + 3] in answer.content
    assert LARGE[1 : CHUNK - 999] in answer.content


def test_who_has_it_is_sent_nothing(served: Served) -> None:
    url, etag = link(served), f'"{hashlib.sha256(DATA).hexdigest()}"'

    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = served.client.get(url, headers={"if-none-match": known, "range": "bytes=0-1"})
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == etag
    assert served.client.head(url, headers={"if-none-match": etag}).status_code == 304
    assert served.client.get(url, headers={"if-none-match": '"other"'}).status_code == 200


def test_who_thinks_it_is_another_is_told(served: Served) -> None:
    url, etag = link(served), f'"{hashlib.sha256(DATA).hexdigest()}"'

    assert served.client.get(url, headers={"if-match": '"other"'}).status_code == 412
    assert served.client.get(url, headers={"if-match": f"W/{etag}"}).status_code == 412
    assert served.client.get(url, headers={"if-match": f'"other", {etag}'}).status_code == 200
    assert served.client.get(url, headers={"if-match": "*"}).status_code == 200


def test_a_range_of_another_version_has_all_of_this_one_sent(served: Served) -> None:
    url, etag = link(served), f'"{hashlib.sha256(DATA).hexdigest()}"'

    for if_range, status in (
        (etag, 206),
        (f"W/{etag}", 200),
        ('"other"', 200),
        ("Sun, 15 Jun 2025 15:16:40 GMT", 200),
    ):
        answer = served.client.get(url, headers={"range": "bytes=0-1", "if-range": if_range})
        assert answer.status_code == status, if_range


@given(st.text("0123456789-, bytes=", max_size=40), st.integers(0, 50))
def test_whatever_is_asked_for_is_within_the_file_and_no_more_than_it(field: str, size: int) -> None:
    for text in (field, f"bytes={field}"):
        ranges = ranges_of(text, size)

        assert ranges is None or len(ranges) <= MAX_RANGES
        assert all(0 <= one.start < one.end <= size for one in ranges or ())
        assert sum(one.end - one.start for one in ranges or ()) <= size


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 50))
def test_a_range_is_what_python_slices(first: int, last: int, size: int) -> None:
    data = bytes(range(size))
    ranges = ranges_of(f"bytes={first}-{last}", size)

    if last < first:
        assert ranges is None
    else:
        expected = data[first : last + 1]
        assert b"".join(data[one.start : one.end] for one in ranges or ()) == expected
        assert ranges == ((Range(first, first + len(expected)),) if expected else ())


# -- who may -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Served, dict[str, dict[str, str]]]]:
    """A gateway that asks for keys, and keys of several callers."""
    with gateway([make, fail], listens_on="0.0.0.0", secret_key=KEY, **OPEN) as one:
        keys = {}
        for name, caller in {
            "alice": Caller(user_id="alice", tenant="acme"),
            "bob": Caller(user_id="bob", tenant="acme"),
            "other": Caller(user_id="alice", tenant="other"),
            "operator": Caller(user_id="root", tenant="acme", scopes=frozenset({OPERATE})),
            "stranger": Caller(user_id="root", tenant="other", scopes=frozenset({OPERATE})),
        }.items():
            key = one.executor.api_keys.create(user_id=caller.user_id, tenant=caller.tenant, scopes=caller.scopes)
            keys[name] = {"authorization": f"Bearer {key.secret}"}
        yield one, keys


@pytest.mark.parametrize(
    ("who", "status"), [("alice", 200), ("operator", 200), ("bob", 404), ("other", 404), ("stranger", 404), ("", 401)]
)
@pytest.mark.parametrize("what", ["artifacts/data.bin", "result"])
def test_a_calls_files_and_value_are_for_whoever_may_see_the_call(
    guarded: tuple[Served, dict[str, dict[str, str]]], who: str, status: int, what: str
) -> None:
    served, keys = guarded
    shown = served.client.post(
        "/v1/tools/Files.Make/calls", json={"arguments": {"files": {"data.bin": "DATA"}}}, headers=keys["alice"]
    ).json()

    answer = served.client.get(f"/v1/calls/{shown['call_id']}/{what}", headers=keys.get(who, {}))

    assert answer.status_code == status, answer.text


def test_a_link_is_for_whoever_has_it(guarded: tuple[Served, dict[str, dict[str, str]]]) -> None:
    served, keys = guarded
    shown = served.client.post(
        "/v1/tools/Files.Make/calls", json={"arguments": {"files": {"data.bin": "DATA"}}}, headers=keys["alice"]
    ).json()

    answer = served.client.get(shown["artifacts"][0]["url"])

    assert answer.content == DATA
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert re.fullmatch(r"private, max-age=\d+, immutable", answer.headers["cache-control"])


@pytest.mark.parametrize(
    "path",
    [
        "../../../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "..\\data.bin",
        "./data.bin",
        "data.bin/",
        "/data.bin",
        "DATA.BIN",
        "data.bin%00.png",
        "data.bin%0d%0ax-evil:%20yes",
        "%2e%2e/data.bin",
    ],
)
def test_a_name_is_the_files_name_and_no_path(served: Served, path: str) -> None:
    shown = made(served, **{"data.bin": "DATA"})
    line = f"GET /v1/calls/{shown['call_id']}/artifacts/{path} HTTP/1.1\r\nhost: 127.0.0.1:{served.port}\r\n"

    answer = served.exchange(f"{line}connection: close\r\n\r\n".encode())

    assert answer.split(b" ")[1] in (b"404", b"400"), answer
    assert b"x-evil" not in answer.partition(b"\r\n\r\n")[0].lower()
    assert DATA not in answer


# -- links -------------------------------------------------------------------------------------------------------------


def changed(url: str, **query: str) -> str:
    parts = urlsplit(url)
    pairs = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()} | query
    return f"{parts.path}?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs.items())


def test_a_link_that_was_changed_in_any_way_is_refused(served: Served) -> None:
    url = link(served)
    other = link(served, "other.txt", "another text")
    signature = parse_qs(urlsplit(url).query)["signature"][0]
    expires = parse_qs(urlsplit(url).query)["expires"][0]
    forged = [
        changed(url, name="evil.html"),
        changed(url, type="text/html"),
        changed(url, expires=str(int(expires) + 1)),
        changed(url, expires="99999999999999999999"),
        changed(url, expires=f"0{expires}"),
        changed(url, expires=f"{expires}.0"),
        changed(url, expires=f" {expires}"),
        changed(url, signature=signature[:-1]),
        changed(url, signature=""),
        changed(url, signature="é" * 43),
        changed(url, signature=signature.swapcase()),
        urlsplit(url).path,
        changed(url).replace(urlsplit(url).path, urlsplit(other).path),
        changed(url).replace("/v1/artifacts/", "/v1/artifacts/x"),
        urlsplit(url).path + "?" + urlsplit(other).query,
    ]

    # 0123 and 123 name one moment, so that one of these is the same link.
    answers = {one: served.client.get(one) for one in forged}

    good = changed(url, expires=f"0{expires}")
    assert answers.pop(good).status_code == 200
    assert {answer.status_code for answer in answers.values()} == {403}
    assert all(signature not in answer.text for answer in answers.values())
    assert served.client.get(changed(url)).status_code == 200


def test_a_link_is_over_when_its_time_is(served: Served) -> None:
    url = link(served)
    executor = served.executor
    before = executor.config.links_ttl
    executor.config.links_ttl = 0.001
    try:
        [artifact] = made(served, **{"soon.txt": "over"})["artifacts"]
    finally:
        executor.config.links_ttl = before

    answer = served.client.get(artifact["url"])

    assert answer.status_code == 410
    assert answer.json()["code"] == "link_expired"
    assert served.client.get(url).status_code == 200


def test_links_of_an_earlier_secret_key_are_good_while_it_is_named(served: Served) -> None:
    artifact = KeptArtifact(name="a.txt", digest="0" * 64, size=1, media_type="text/plain")
    with executor_for(secret_key="another-secret-key-of-some-length") as executor:
        made_there = Door(service=None, executor=executor)  # type: ignore[arg-type]
        url = signed_link(made_there, artifact)
    assert url is not None

    assert served.client.get(url).status_code == 403
    served.executor.config.secret_key_previous = "another-secret-key-of-some-length"  # type: ignore[assignment]
    try:
        assert served.client.get(url).status_code == 404  # the link is good, and nothing of that digest is kept
    finally:
        served.executor.config.secret_key_previous = None


def test_without_a_secret_key_files_are_had_by_their_calls(served: Served) -> None:
    artifact = KeptArtifact(name="plots/ö.png", digest="0" * 64, size=1, media_type="image/png")
    with executor_for() as executor:
        keyless = Door(service=None, executor=executor, base_url="https://tools.example")  # type: ignore[arg-type]

        assert signed_link(keyless, artifact) is None
        url = artifact_url(keyless, "call 1", artifact)

    assert url == "https://tools.example/v1/calls/call%201/artifacts/plots/%C3%B6.png"


def test_a_key_that_is_of_no_use_withholds_no_result(caplog: pytest.LogCaptureFixture) -> None:
    artifact = KeptArtifact(name="a.txt", digest="0" * 64, size=1)
    with executor_for(secret_key="too-short") as executor:
        url = artifact_url(Door(service=None, executor=executor), "call", artifact)  # type: ignore[arg-type]

    assert url == "/v1/calls/call/artifacts/a.txt"
    assert "no signed links" in caplog.text
    assert "too-short" not in caplog.text


# -- what a browser may do ---------------------------------------------------------------------------------------------

SCRIPTED = ["page.html", "page.htm", "page.xhtml", "image.svg", "feed.xml", "paper.pdf", "code.js", "x.swf", "plain"]


@pytest.mark.parametrize("name", SCRIPTED)
def test_what_could_run_in_a_browser_is_for_saving(served: Served, name: str) -> None:
    answer = served.client.get(link(served, name, "<script>alert(1)</script>"))

    assert answer.headers["content-disposition"].startswith("attachment; ")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["image.png", "photo.jpg", "notes.txt", "table.csv", "data.json", "clip.mp4"])
def test_what_only_shows_is_shown(served: Served, name: str) -> None:
    answer = served.client.get(link(served, name, "text"))

    assert answer.headers["content-disposition"].startswith("inline; ")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("media_type", "shown"),
    [
        ("image/png", "image/png"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("TEXT/Plain; charset=ISO-8859-1", "text/plain; charset=iso-8859-1"),
        ("text/html\r\nx-evil: yes", "application/octet-stream"),
        ("text/html; charset=utf-8; x=y", "application/octet-stream"),
        ("", "application/octet-stream"),
        ("*/*", "application/octet-stream"),
        ("image/png,text/html", "application/octet-stream"),
    ],
)
def test_a_media_type_is_one_or_bytes(media_type: str, shown: str) -> None:
    assert safe_media_type(media_type) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.txt", 'attachment; filename="a.txt"'),
        ("deep/er/a.txt", 'attachment; filename="a.txt"'),
        ("na\u00efve.txt", "attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt"),
        (
            'a".html"; x=".txt',
            "attachment; filename=\"a_.html__ x=_.txt\"; filename*=UTF-8''a%22.html%22%3B%20x%3D%22.txt",
        ),
        (
            "a\r\nset-cookie: x.txt",
            "attachment; filename=\"a__set-cookie_ x.txt\"; filename*=UTF-8''a__set-cookie%3A%20x.txt",
        ),
        ("..\\..\\a.txt", 'attachment; filename=".._.._a.txt"'),
        ("a%22.txt", "attachment; filename=\"a_22.txt\"; filename*=UTF-8''a%2522.txt"),
        ("", 'attachment; filename="artifact"'),
        ("x/", 'attachment; filename="artifact"'),
    ],
)
def test_a_name_in_a_header_is_nothing_but_a_name(name: str, shown: str) -> None:
    assert disposition(name, "text/html") == shown


@given(st.text(max_size=300))
def test_no_name_leaves_its_header(name: str) -> None:
    field = disposition(name, "image/png")

    assert re.fullmatch(
        r"inline; filename=\"[A-Za-z0-9 ._()+@=-]{1,200}\"(; filename\*=UTF-8''[A-Za-z0-9!#$&+.^_`|~%-]+)?", field
    )


# -- values ------------------------------------------------------------------------------------------------------------


def test_the_value_of_a_call_is_had_alone_and_in_ranges(served: Served) -> None:
    shown = made(served, a="1", b="2")
    path = f"/v1/calls/{shown['call_id']}/result"

    whole = served.client.get(path)
    part = served.client.get(path, headers={"range": "bytes=0-4", "if-range": whole.headers["etag"]})

    assert whole.json() == {"made": 2}
    assert whole.headers["content-type"] == "application/json"
    assert part.status_code == 206
    assert part.content == whole.content[:5]
    assert served.client.get(path, headers={"if-none-match": whole.headers["etag"]}).status_code == 304


def test_a_call_that_failed_has_its_problem_for_a_value(served: Served) -> None:
    call_id = served.client.post("/v1/tools/Files.Fail/calls", json={"arguments": {}}).json()["call_id"]

    answer = served.client.get(f"/v1/calls/{call_id}/result")

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.content)["code"] == "tool_failed"


def test_a_call_that_is_not_there_has_no_value(served: Served) -> None:
    assert served.client.get("/v1/calls/nothing/result").status_code == 404


def test_a_call_that_has_not_ended_has_no_value_yet() -> None:
    with gateway([make], works=False) as served:
        answer = served.client.post(
            "/v1/tools/Files.Make/calls", json={"arguments": {"files": {}}}, headers={"prefer": "respond-async"}
        )

        early = served.client.get(f"/v1/calls/{answer.json()['call_id']}/result")

    assert early.status_code == 409
    assert early.json()["code"] == "not_ended"
    assert early.headers["retry-after"] == "1"
