"""A text as interpreters come to see it, within bounds; and the searches, which are quick because they ask little."""

import base64

import pytest
from hypothesis import given, settings, strategies as st

from toolpost.security import views
from toolpost.security.finders import PATTERNS, Finder, PlainFinder, finder, patterns_for
from toolpost.security.linear import linear
from toolpost.security.patterns import any_of, refuse, scattered, unless
from toolpost.security.rules import screen_text
from toolpost.security.views import MAX_ENCODED, OverEncodedError, normalised, without_comments

PIECES = st.sampled_from(
    [
        *[
            "'",
            '"',
            "<",
            ">",
            "(",
            ")",
            ";",
            "--",
            "/*",
            "*/",
            " ",
            "\n",
            "+",
            "=",
            "1",
            "a",
            "or ",
            "and ",
            "../",
            "\\",
        ],
        *["union select ", "drop table t", "script", "<svg ", "onload=", "alert(1)", "javascript:", "{{", "}}", "$("],
        *[
            "cat ",
            "/etc/passwd",
            "; ",
            "| ",
            "%27",
            "%253C",
            "&lt;",
            "&#60;",
            "\\x3c",
            "\\u003c",
            "+ADw-",
            "\uff1c",
            "é",
        ],
        *[
            "\0",
            "\u200b",
            "\u2032",
            "http://",
            "127.0.0.1",
            "0x2e",
            "%c0%ae",
            "document.cookie",
            "<?php ",
            "system('x')",
        ],
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@pytest.mark.parametrize(
    ("view", "bare"),
    [
        ("a/**/b", "a b"),
        ("a/* x * y **/b", "a b"),
        ("/*!50001union*/x", " union x"),
        ("a/*open", "a/*open"),
        ("a*/b", "a*/b"),
        ("a/*/b/*c*/d", "a d"),
        ("1#x\nand--y\n2=2#z", "1 and 2=2#z"),
        ("1#x", "1#x"),
        (" " * 10_000 + "#x\n", " " * 10_000 + "#x\n"),
    ],
)
def test_comments_become_spaces_but_for_those_left_open(view: str, bare: str) -> None:
    assert without_comments(view) == bare


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("%25252541", "A"),
        ("\\74script\\076", "<script>"),
        ("+ADw-script+AD4-", "<script>"),
        ("a+AB", "a+AB"),
        ("\u2032 or \u02bc", "' or '"),
        ("\u2215etc\u2216", "/etc\\"),
        ("\U0001d4f8\U0001d4fb", "or"),
        ("&ltscript&GT", "<script>"),
        ("&#0000060;&#x0003c;", "<<"),
        ("&#000x41;", "\0x41;".replace("\0", "")),
        ("&nosuch;", "&nosuch;"),
        ("100% of it; 50 %zz", "100% of it; 50 %zz"),
        ("中文\uff0c字符。", "中文,字符。"),
    ],
)
def test_the_last_view_is_wholly_decoded(text: str, last: str) -> None:
    assert normalised(text)[-1] == last


def test_characters_are_folded_alike_in_short_and_in_long_texts() -> None:
    short = "\uff21\u2460\U0001d4d0\xbd\u3000" + "中" + "".join(map(chr, range(0x2460, 0x24B0)))

    long = short * 100

    assert len(long) > 8_000
    assert normalised(long)[-1] == normalised(short)[-1] * 100


@pytest.mark.parametrize("piece", ["%41a", "&#65;a", "\\x41a", "+AEE-a", "\U0001d4d0a", "\u2460a"])
def test_more_encoded_characters_than_are_looked_at_are_refused(piece: str) -> None:
    assert screen_text(piece * 1_000, untrusted=True) is None

    finding = screen_text(piece * (MAX_ENCODED + 1), untrusted=True)

    assert finding is not None
    assert (finding.rule, finding.kind) == ("size.encoding", "size")


@pytest.mark.parametrize(("start", "most"), [("%", 8 * MAX_ENCODED), ("&#", MAX_ENCODED), ("\\u{", MAX_ENCODED)])
def test_too_many_starts_of_encoded_characters_are_refused_though_none_is_one(start: str, most: int) -> None:
    encoded = "%41 &#65; \\x41 "

    assert normalised(encoded + start * (most - 2))[-1].startswith("A A A ")
    with pytest.raises(OverEncodedError):
        normalised(encoded + start * (most + 1))


@pytest.mark.parametrize("start", ["%", "&#", "\\u{", "+A"])
def test_starts_of_encoded_characters_alone_are_no_matter_however_many(start: str) -> None:
    text = start * (10 * MAX_ENCODED)

    assert normalised(text) == [text]


def test_ampersands_escaped_however_often_are_decoded_one_level_at_a_time() -> None:
    assert normalised("a &amp;lt; b" * 3000)[1:] == ["a &lt; b" * 3000, "a < b" * 3000]
    assert normalised("&amp;lt;" * 3000 + "&#38;amp;")[1] == "&lt;" * 3000 + "&amp;"


def test_usual_entities_are_not_counted_when_few_more_pieces_may_come() -> None:
    text = "%41 " * (MAX_ENCODED - 10) + "&lt;" * 100

    assert normalised(text)[-1] == "A " * (MAX_ENCODED - 10) + "<" * 100


@pytest.mark.parametrize("beside", ["\xe9", "\u4e2d", "\U0001f600", "\uff21%c3%a9"])
def test_a_nul_is_dropped_beside_whatever_characters(beside: str) -> None:
    assert normalised(f"se\0lect {beside}")[-1].startswith("select ")
    assert normalised(f"se%00lect {beside}")[-1].startswith("select ")


def test_characters_made_by_decoding_are_folded_and_decoded_in_turn() -> None:
    wide = "".join(chr(code) for code in range(0xFF01, 0xFF5F))

    assert normalised("%EF%BC%85%34%31 \u4e2d")[-1] == "A \u4e2d"
    assert normalised("".join(f"\\u{ord(letter):04x}" for letter in wide))[-1] == bytes(range(33, 127)).decode()


@given(st.lists(st.sampled_from([*"ABCDHJQYZabfgw0249+/", "AG", "EA", "Db", "BhA"]), min_size=2, max_size=8))
def test_the_quick_search_misses_no_seven_bits(letters: list[str]) -> None:
    text = "+AE" + "".join(letters)
    piece = views._SEVEN_BITS.match(text)

    assert piece is not None
    if views._seven_bits(piece[1]) != piece[1]:
        assert normalised(f"a {text}")[1:]
        assert normalised(f"a {text}- b")[1:]


def test_what_many_texts_have_many_of_is_decoded_however_many_there_are() -> None:
    text = "\u4e2d\uff0c\u3000\u200b\u202f\u2026"

    assert normalised(text * 30_000)[-1] == "\u4e2d,  ..." * 30_000


def test_what_long_pieces_stand_for_is_not_kept() -> None:
    decoders = (views._percent, views._entity, views._escape, views._seven_bits)
    kept = [decoder.cache_info().currsize for decoder in decoders]

    for piece in ("%7a" * 100, f"&#{'0' * 100}122;", "\\u007a" * 100, f"+{'AHoAegB6' * 100}-"):
        assert normalised(piece)[-1] != piece

    assert [decoder.cache_info().currsize for decoder in decoders] == kept


@pytest.mark.parametrize("zeros", ["0" * 100, "0" * 10_000])
def test_no_number_of_zeros_is_too_many(zeros: str) -> None:
    assert normalised(f"&#{zeros}60;&#x{zeros}3c;\\u{{{zeros}3c}}")[-1] == "<<<"


def test_a_run_of_utf_7_is_decoded_however_long_it_is() -> None:
    encoded = base64.b64encode(("<script>" + "go();" * 200).encode("utf-16-be")).decode().rstrip("=")

    assert normalised(f"+{encoded}-")[-1] == "<script>" + "go();" * 200
    assert screen_text(f"+{encoded}-", untrusted=True) is not None


def test_a_pair_of_escapes_is_the_character_that_it_stands_for() -> None:
    assert normalised("\\ud835\\udcd0\\u0041\\ud800")[-1] == "AA"


def test_what_is_encoded_again_and_again_is_refused_and_sooner_when_it_is_long() -> None:
    def nested(times: int) -> str:
        return "%" + "25" * times + "41"

    with pytest.raises(OverEncodedError):
        normalised(nested(7))
    with pytest.raises(OverEncodedError):
        normalised(nested(3) + " " * 100_000)
    assert normalised(nested(3))[-1] == "A"
    assert normalised("%2541" + " " * 100_000)[-1].startswith("A")


def test_too_many_comments_are_refused() -> None:
    assert screen_text("/**/" * (MAX_ENCODED + 1), untrusted=True).rule == "size.encoding"  # type: ignore[union-attr]


# -- searches ----------------------------------------------------------------------------------------------------------


def test_the_dialect_is_that_of_ascii_and_of_both_cases() -> None:
    search = any_of([refuse("x.y", "text", 1, "", r"^a\b [^b]\w\d$", spaced=True)])

    assert [search(text) for text in ("A+\n\0c_7", "a +éX1", "a bx1", "ab cx1", "a cé1", "x a cx1")] == [
        *[True, True],
        *[False] * 4,
    ]


def test_letters_stand_apart_and_excluded_ends_are_left_alone() -> None:
    apart, differs = linear(scattered("abc")), linear(rf"\Ax{unless('void')}")

    assert [apart(text) for text in ("abc", "a\tb\nc", "a-bc")] == [True, True, False]
    assert [differs(text) for text in ("x", "xvo", "xvoice", "xvoid", "xvoid(", "xa")] == [
        True,
        True,
        True,
        *[False] * 2,
        True,
    ]


@given(TEXTS)
@settings(max_examples=300)
def test_what_is_passed_quickly_holds_nothing(text: str) -> None:
    for role, untrusted in (("text", False), ("text", True), ("document", False), ("html", False), ("path", False)):
        made = finder(role, "medium", untrusted)

        assert made is not None
        try:
            assert made.quick(text) or made.find(text) is None
        except OverEncodedError:
            assert made.quick(text)


@given(TEXTS)
@settings(max_examples=300)
def test_a_pattern_with_a_hint_is_found_with_it_only(text: str) -> None:
    for pattern in PATTERNS:
        if pattern.hint:
            assert any_of([pattern.hinted()])(text) or not any_of([pattern])(text), pattern.rule


@given(TEXTS, st.integers(0, 3))
@settings(max_examples=100)
def test_a_long_text_has_the_finding_of_a_short_one(text: str, line: int) -> None:
    made = Finder(patterns_for("text", "high", True))
    padding = "lorem ipsum dolor " * 800

    try:
        alone = {found.pattern.rule for found in made.findings(text + "\n")}
        padded = {found.pattern.rule for found in made.findings(text + "\n" + padding)}
    except OverEncodedError:
        return

    ends = {pattern.rule for pattern in made.patterns if isinstance(pattern.find, str) and "$" in pattern.find}
    assert alone - ends <= padded


def test_prose_and_pages_are_judged_as_documents_and_values_are_not() -> None:
    made = PlainFinder(patterns_for("text", "medium", False))
    attack = "' or '1'='1"

    judged = {
        text: made.find(text) is not None for text in (attack, f"ann{attack}", f"{attack}\n\n\n\n", f"{attack}" * 200)
    }
    about = [
        made.find(text)
        for text in (f"Please look at {attack}", f'<!DOCTYPE html><p title="{attack}">', f"ann and bob {attack}")
    ]

    assert list(judged.values()) == [True, True, True, True]  # all begin with it
    assert about == [None, None, None]
