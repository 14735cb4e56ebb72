"""Files as text: encodings by name, byte order marks, and parts that begin and end anywhere."""

import codecs
import encodings
from collections.abc import Iterable, Iterator
from tempfile import TemporaryFile

import pytest
from hypothesis import given, strategies as st

from toolpost import InputValidationError, ToolError
from toolpost.toolbox.decoding import CODECS, Part, codec_named, read_part


def part(content: bytes, codec: str, offset: int = 0, count: int = 1000) -> Part:
    with TemporaryFile() as file:
        file.write(content)
        file.flush()
        return read_part("file", file.fileno(), codec, offset, count)


def in_parts(content: bytes, codec: str, counts: Iterable[int], offset: int = 0) -> Iterator[str]:
    """The whole text from offset on, read again for each count of bytes at a time."""
    with TemporaryFile() as file:
        file.write(content)
        file.flush()
        for count in counts:
            text, at = "", offset
            while True:
                one = read_part("file", file.fileno(), codec, at, count)
                text += one.content
                if not one.more:
                    break
                assert one.start + one.taken > at
                at = one.start + one.taken
            yield text


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("utf-8", "utf_8"),
        ("UTF8", "utf_8"),
        ("utf-8-sig", "utf_8"),
        ("U8", "utf_8"),
        ("UTF-16LE", "utf_16_le"),
        ("latin1", "latin_1"),
        ("ISO-8859-1", "latin_1"),
        ("iso 8859-15", "iso8859_15"),
        ("Windows-1252", "cp1252"),
        ("us-ascii", "ascii"),
        ("Shift-JIS", "shift_jis"),
        ("gb18030", "gb18030"),
        ("koi8-r", "koi8_r"),
    ],
)
def test_encodings_are_known_by_their_usual_names(name: str, codec: str) -> None:
    assert codec_named(name) == codec


@pytest.mark.parametrize(
    "name",
    [
        "",
        "utf9",
        "zlib",
        "rot13",
        "hex",
        "idna",
        "punycode",
        "unicode_escape",
        "raw_unicode_escape",
        "utf-7",
        "undefined",
        "iso2022_jp",
        "hz",
        "mbcs",
        "os",
        "../os",
        "encodings.utf_8",
        "\x00",
        "x" * 10000,
        "ÜTF-8",
        "__init__",
    ],
)
def test_what_is_no_encoding_of_text_is_refused(name: str) -> None:
    with pytest.raises(InputValidationError, match="'encoding' must name an encoding") as caught:
        codec_named(name)

    assert len(str(caught.value)) < 400


def test_names_that_are_no_encodings_are_not_kept() -> None:
    before = len(encodings._cache)
    for number in range(100):
        with pytest.raises(InputValidationError):
            codec_named(f"no-such-{number}")

    assert len(encodings._cache) == before


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_every_encoding_reads_what_it_wrote_in_parts_of_any_size(codec: str) -> None:
    letters = "plain ascii, Grüße, Ελλάς, Привет, 日本語, 한국, 😀"
    text = "".join(letter for letter in letters if letter.encode(codec, "ignore"))

    for read in in_parts(text.encode(codec), codec, (4, 5, 6, 7, 64)):
        assert read == text


@pytest.mark.parametrize(
    ("content", "codec", "text"),
    [
        (codecs.BOM_UTF8 + b"abc", "utf_8", "abc"),
        (codecs.BOM_UTF8, "utf_8", ""),
        ("abc".encode("utf_16"), "utf_16", "abc"),
        (codecs.BOM_UTF16_BE + "abc".encode("utf_16_be"), "utf_16", "abc"),
        ("abc".encode("utf_16_le"), "utf_16", "abc"),
        (codecs.BOM_UTF16_BE + "abc".encode("utf_16_be"), "utf_16_be", "abc"),
        (codecs.BOM_UTF16_LE + "abc".encode("utf_16_le"), "utf_16_le", "abc"),
        (codecs.BOM_UTF32_BE + "abc".encode("utf_32_be"), "utf_32", "abc"),
        ("abc".encode("utf_32"), "utf_32", "abc"),
    ],
)
def test_a_byte_order_mark_decides_and_is_left_out(content: bytes, codec: str, text: str) -> None:
    assert part(content, codec).content == text


def test_a_byte_order_mark_holds_for_later_parts_too() -> None:
    content = codecs.BOM_UTF16_BE + "abcdef".encode("utf_16_be")

    assert part(content, "utf_16", offset=6).content == "cdef"
    assert part(content, "utf_16", offset=7) == Part("def", 8, 6, False)


def test_an_offset_within_a_character_moves_to_the_next() -> None:
    content = "a😀b".encode()

    assert [part(content, "utf_8", offset).content for offset in range(6)] == ["a😀b", "😀b", "b", "b", "b", "b"]
    assert [part(content, "utf_8", offset).start for offset in range(6)] == [0, 1, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("content", "codec", "says"),
    [
        (b"caf\xe9", "utf_8", "byte 3 is 0xe9; try 'cp1252' or 'latin-1', or 'base64'"),
        (b"caf\xc3\xa9", "ascii", "byte 3 is 0xc3; try 'utf-8' or 'cp1252', or 'base64'"),
        (b"cut \xe2\x82", "utf_8", "byte 4 is 0xe2"),
        ("Grüße".encode("utf_16"), "utf_8", "byte 0 is 0xff; it begins as utf-16 does, so read it with that encoding"),
        (codecs.BOM_UTF32_LE + b"\xff\xff\0\0", "utf_8", "it begins as utf-32 does"),
        (b"\x7fELF\0\0\0\xff", "utf_8", "byte 7 is 0xff; it looks like no text, so read it with encoding 'base64'"),
        (b"odd", "utf_16_le", "byte 2 is 0x64"),
        (b"\x00\xd8a\x00", "utf_16_le", "byte 0 is 0x00"),
        (b"\x81", "cp1252", "byte 0 is 0x81"),
        (b"\xed\xa0\x80", "utf_8", "byte 0 is 0xed"),
    ],
)
def test_bytes_that_are_not_in_the_encoding_are_told_with_place_and_advice(
    content: bytes, codec: str, says: str
) -> None:
    with pytest.raises(ToolError) as caught:
        part(content, codec)

    assert (caught.value.code, caught.value.retryable) == ("undecodable", False)
    assert says in str(caught.value)


def test_the_place_of_a_wrong_byte_counts_from_the_files_start() -> None:
    with pytest.raises(ToolError, match="byte 105 is 0xff"):
        part(b"x" * 105 + b"\xff", "utf_8", offset=100, count=50)


@given(text=st.text(), count=st.integers(min_value=4, max_value=20), offset=st.integers(min_value=0, max_value=60))
def test_reading_on_always_gets_to_the_end_and_misses_nothing(text: str, count: int, offset: int) -> None:
    content = text.encode()

    [read] = in_parts(content, "utf_8", [count], offset)

    rest = content[offset:]
    assert read.encode() == (rest.lstrip(bytes(range(0x80, 0xC0))) if offset else rest.removeprefix(codecs.BOM_UTF8))
