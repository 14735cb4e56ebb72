"""What safe_html leaves runs nothing, loads nothing and sends nothing, however it is parsed."""

import subprocess
import sys
from html.parser import HTMLParser

import html5lib
import pytest
from hypothesis import given, strategies as st

from tests.corpora import items
from toolpost import ConfigurationError
from toolpost.security.markup import ATTRIBUTES, SCHEMES, TAGS, escape_html, safe_html

HTML = "{http://www.w3.org/1999/xhtml}"


def wrong_in(page):
    """What a browser would see in a page beyond the allow-list: parsed by HTML's own rules, as a part of a body."""
    tree = html5lib.parse(f"<!doctype html><body>{page}</body>", namespaceHTMLElements=True)
    for element in tree.find(f"{HTML}body").iter():
        if not isinstance(element.tag, str):
            yield "comment"
            continue
        if not element.tag.startswith(HTML):
            yield f"foreign element {element.tag}"
        tag = element.tag.removeprefix(HTML)
        if tag not in TAGS | {"body"} | {"colgroup"}:
            yield f"element {tag}"
        for name, value in element.attrib.items():
            if name not in ATTRIBUTES.get(tag, frozenset()) and (tag, name) != ("a", "rel"):
                yield f"attribute {name} of {tag}"
            if name == "href" and value.strip().lower().partition(":")[0] not in SCHEMES:
                yield f"address {value}"


class Plain(HTMLParser):
    """The same question to a parser of another kind."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.wrong = []

    def handle_starttag(self, tag, attrs):
        if tag not in TAGS or any(name.startswith("on") or name == "style" for name, _ in attrs):
            self.wrong.append((tag, attrs))

    def handle_comment(self, data):
        self.wrong.append(("comment", data))


def assert_safe(text):
    clean = safe_html(text)
    assert list(wrong_in(clean)) == [], (text, clean)
    parser = Plain()
    parser.feed(clean)
    parser.close()
    assert parser.wrong == [], (text, clean)
    once = clean.replace("\r", "\n")  # which every parser reads for it
    assert safe_html(once) == once, "what is clean stays as it is: no mutation on a second parse"


def test_no_attack_of_the_corpora_survives():
    attacks = items("mal_xss_*")

    for text in attacks:
        assert_safe(text)

    assert len(attacks) > 1000


def test_the_check_sees_what_must_not_survive():
    for text in ("<script>1</script>", "<b onclick=x>", "<a href=javascript:x>", "<svg><g/></svg>", "<p style=x>"):
        assert list(wrong_in(text)) != []


@given(st.text(st.sampled_from("<>/=\"' abipstyleonclickhrefjavascript:&#;-!\\\n\0svgmath"), max_size=80))
def test_nothing_put_together_from_their_pieces_does(text):
    assert_safe(text)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain < text & more", "plain &lt; text &amp; more"),
        ("<p>One <em>two</em></p><!-- three -->", "<p>One <em>two</em></p>"),
        ("<script>alert(1)</script>kept", "kept"),
        ("<form>kept</form>", "kept"),
        ('<img src="https://x.example/pixel">kept', "kept"),
        ('<a href="/relative">kept</a>', '<a rel="noopener noreferrer nofollow">kept</a>'),
        (
            '<a href="https://x.example/?a=1&b=2" onclick="x" target="_blank">kept</a>',
            '<a href="https://x.example/?a=1&amp;b=2" rel="noopener noreferrer nofollow">kept</a>',
        ),
    ],
)
def test_what_is_left(text, clean):
    assert safe_html(text) == clean


def test_the_author_may_allow_less_or_more():
    assert safe_html("<b>x</b><i>y</i>", tags=["b"]) == "<b>x</b>y"
    clean = safe_html('<img src="https://x/y.png" alt="z">', tags={*TAGS, "img"}, attributes={"img": ["src", "alt"]})
    assert clean == '<img src="https://x/y.png" alt="z">'


@pytest.mark.parametrize(
    "options",
    [
        {"tags": ["b", "script"]},
        {"tags": ["svg"]},
        {"attributes": {"b": ["onclick"]}},
        {"attributes": {"p": ["style"]}},
        {"schemes": ["javascript"]},
        {"schemes": ["data"]},
    ],
)
def test_what_runs_code_cannot_be_allowed(options):
    with pytest.raises(ConfigurationError, match="cannot allow"):
        safe_html("x", **options)


@given(st.text(max_size=60))
def test_escaped_text_reads_as_it_was(text):
    text = text.replace("\r", "").replace("\x0c", "")
    escaped = escape_html(text)

    assert not set(escaped) & set("<>\"'\0")
    parsed = html5lib.parseFragment(f'<p title="{escaped}">{escaped}</p>', namespaceHTMLElements=False)[0]
    expected = text.replace("\0", "\ufffd")
    assert [*parsed] == []
    assert (parsed.text or "", parsed.get("title")) == (expected, expected)


def test_a_missing_package_is_named():
    code = "import sys; sys.modules['nh3'] = None; from toolpost import safe_html; safe_html('x')"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "install toolpost[html]" in done.stderr


def test_the_attribute_that_it_writes_itself_cannot_be_allowed():
    with pytest.raises(ConfigurationError, match="rel"):
        safe_html("<a>x</a>", attributes={"a": {"href", "REL"}})
