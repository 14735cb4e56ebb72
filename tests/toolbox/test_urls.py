"""URLs in running text, Markdown and HTML: where each begins and ends, and that no text takes long."""

import time

import pytest
from hypothesis import given, strategies as st

from toolpost.toolbox.urls import MAX_LENGTH, find_urls

WEB = frozenset({"http", "https"})


def urls(text: str, *schemes: str, base: str | None = None) -> list[str]:
    return list(find_urls(text, frozenset(schemes) or WEB, base))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See https://example.com.", ["https://example.com"]),
        ("https://a.com, https://b.com; https://c.com!", ["https://a.com", "https://b.com", "https://c.com"]),
        ("(see https://example.com/a)", ["https://example.com/a"]),
        ("https://en.example.org/wiki/Tea_(drink)", ["https://en.example.org/wiki/Tea_(drink)"]),
        ("(https://en.example.org/wiki/Tea_(drink).)", ["https://en.example.org/wiki/Tea_(drink)"]),
        ("[https://a.com]{https://b.com}", ["https://a.com", "https://b.com"]),
        ("<https://a.com/x?y=1&z=2>", ["https://a.com/x?y=1&z=2"]),
        ("\"https://a.com\" 'https://b.com' `https://c.com`", ["https://a.com", "https://b.com", "https://c.com"]),
        ("\u201chttps://a.com\u201d \xabhttps://b.com\xbb", ["https://a.com", "https://b.com"]),
        ("**https://a.com** _https://b.com_ ~~https://c.com~~", ["https://a.com", "https://b.com", "https://c.com"]),
        ("https://a.com/x_y_z*", ["https://a.com/x_y_z"]),
        ("https://a.com/?q=a,b;c!d", ["https://a.com/?q=a,b;c!d"]),
        ("https://a.com,https://b.com|https://c.com", ["https://a.com", "https://b.com", "https://c.com"]),
        ("| https://a.com | https://b.com |", ["https://a.com", "https://b.com"]),
        ("&lt;https://a.com/x?a=1&amp;b=2&gt;", ["https://a.com/x?a=1&amp;b=2"]),
        ("HTTPS://A.com/X", ["HTTPS://A.com/X"]),
        ("https://user:word@a.com:8080/p?q#f", ["https://user:word@a.com:8080/p?q#f"]),
        ("http://[::1]:8080/x http://127.0.0.1", ["http://[::1]:8080/x", "http://127.0.0.1"]),
        ("https://web.example/2020/https://a.com/", ["https://web.example/2020/https://a.com/"]),
        ("view-source:https://a.com url=https://b.com", ["https://a.com", "https://b.com"]),
        ("line one https://a.com\r\nhttps://b.com\ttab", ["https://a.com", "https://b.com"]),
        ('{"u":"https://a.com","v":"https:\\/\\/b.com"}', ["https://a.com"]),
        ("zero\u200bhttps://a.com/x\u200bwidth", ["https://a.com/x"]),
    ],
)
def test_a_url_in_running_text_ends_where_a_reader_would_end_it(text: str, expected: list[str]) -> None:
    assert urls(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://münchen.example/straße?q=ü#ß", ["https://münchen.example/straße?q=ü#ß"]),
        ("请看https://例え.jp/パス\uff0c然后https://b.cn。", ["https://例え.jp/パス", "https://b.cn"]),
        ("\uff08https://a.cn/x\uff09「https://b.jp」", ["https://a.cn/x", "https://b.jp"]),
        ("https://пример.рф/путь.", ["https://пример.рф/путь"]),
        ("https://xn--mnchen-3ya.example/", ["https://xn--mnchen-3ya.example/"]),
        ("😀https://a.com/😀", ["https://a.com/😀"]),
    ],
)
def test_letters_of_all_scripts_are_kept(text: str, expected: list[str]) -> None:
    assert urls(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http",
        "http://",
        "https:// a.com",
        "https://.",
        "https://...",
        "http://-",
        "https:a.com",
        "http:/a.com",
        "www.example.com",
        "example.com/x",
        "a@b.com",
        "ftp://a.com",
        "xhttps://a.com",
        "git+https://a.com",
        "http://[bad",
        "http://[zz]/",
        "https://?q",
        "https://#f",
        "https:///path",
        "http://*.a.com",
        "http://a℀.com",
        "https://" + "a" * MAX_LENGTH,
    ],
)
def test_what_is_no_whole_url_is_left_out(text: str) -> None:
    assert urls(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](https://a.com/x)[b](https://b.com)", ["https://a.com/x", "https://b.com"]),
        ('[a](https://a.com/p_(q)_r "title")', ["https://a.com/p_(q)_r"]),
        ("[a](<https://a.com/with space>)", ["https://a.com/with%20space"]),
        ("![i](https://a.com/i.png)](https://b.com)", ["https://a.com/i.png", "https://b.com"]),
        ("[https://text.com](https://target.com)", ["https://text.com", "https://target.com"]),
        ("[x]: https://a.com/ref 'title'", ["https://a.com/ref"]),
        ("[a](https://a.com/_end_)", ["https://a.com/_end_"]),
        ("[a](#here) [b](/root) [c](mailto:x@y.z)", []),
    ],
)
def test_markdown_links_are_taken_whole(text: str, expected: list[str]) -> None:
    assert urls(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<a href="https://a.com/?x=1&amp;y=2">t</a>', ["https://a.com/?x=1&y=2"]),
        ("<A class=b HREF = 'https://a.com/x y'>t</A>", ["https://a.com/x%20y"]),
        ("<a href=https://a.com/?x=1>t</a>", ["https://a.com/?x=1"]),
        ('<img alt="" src="https://a.com/i.png"/>', ["https://a.com/i.png"]),
        ('<a href="https://a.com/end.">t</a>', ["https://a.com/end."]),
        ('<a href=" https://a.com/\n x ">', ["https://a.com/%20x"]),
        ("<a\nhref='https://a.com'\nsrc='https://b.com'>", ["https://a.com", "https://b.com"]),
        ('<a href="https://a.com">https://a.com</a>', ["https://a.com", "https://a.com"]),
        ('<use xlink:href="https://a.com/#i"/>', ["https://a.com/#i"]),
        ("<a href=\"javascript:open('https://a.com')\">", ["https://a.com"]),
        ('<a href="&#104;ttps://a.com">', ["https://a.com"]),
        ('<p>set href="/x" here</p> location.src = "/y"', []),
        ('<a href="/x">', []),
    ],
)
def test_attributes_of_html_tags_are_taken_whole(text: str, expected: list[str]) -> None:
    assert urls(text) == expected


def test_relative_links_are_joined_to_the_base() -> None:
    text = (
        '<a href="/root"> <a href="next?p=2"> <a href="//cdn.example/x"> <img src=../i.png> <a href="#here">'
        '<a href="mailto:x@y.z"> <a href=""> <a href="javascript:0"> [m](rel/ative)'
        '<script>location.href = "/no"</script>'
    )

    assert urls(text, base="https://a.com/docs/page") == [
        "https://a.com/root",
        "https://a.com/docs/next?p=2",
        "https://cdn.example/x",
        "https://a.com/i.png",
        "https://a.com/docs/rel/ative",
    ]


def test_only_the_schemes_asked_for_are_found() -> None:
    text = "https://a.com ftp://b.com mailto:c@d.com urn:isbn:1 tel:+123, <a href='mailto:e@f.com'>"

    assert urls(text, "ftp") == ["ftp://b.com"]
    assert urls(text, "mailto", "tel") == ["mailto:c@d.com", "tel:+123", "mailto:e@f.com"]
    assert urls(text, "urn", "https") == ["https://a.com", "urn:isbn:1"]
    assert urls(text, "h.*") == []


@given(text=st.text(alphabet=st.sampled_from(list("https://a.b()[]<>\"' \n&;=,._|")) | st.characters()))
def test_every_url_found_stands_in_the_text_and_is_found_again_alone(text: str) -> None:
    for url in urls(text + " https://end.example"):
        assert urls(f"<{url}>") == [url] or url not in text


HOSTILE = [
    "https://a)",
    "https://x(",
    "https://x)[",
    "https://",
    "href='",
    "href=\"'",
    '<a href="x" ',
    '<a "',
    "](",
    "](<",
]
HOSTILE += [
    "](x(",
    "](x)(",
    "((((",
    "href    ",
    "&gt;",
    "https://a.b;&gt;",
    "https://a.b,https://c.d,",
    "<",
    "[",
    "'",
    "<a ",
]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("base", [None, "https://base.example/"])
def test_a_large_hostile_text_is_searched_in_linear_time(unit: str, base: str | None) -> None:
    text = unit * (300_000 // len(unit))
    started = time.process_time()

    for _ in find_urls(text, WEB, base):
        pass

    assert time.process_time() - started < 10  # half a second on a quiet machine; quadratic time would be minutes


@pytest.mark.parametrize("tail", ["x", ")", "(", ".", "&a;", "*", "%", "[", "/", "\u3042", "|", ",", "@"])
def test_one_very_long_url_is_measured_in_linear_time(tail: str) -> None:
    started = time.process_time()

    urls("https://a.example/" + tail * 300_000)

    assert time.process_time() - started < 10
