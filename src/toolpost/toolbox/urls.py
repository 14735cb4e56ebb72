"""Finds URLs in plain text, Markdown and HTML, in time that grows only as the text does."""

from __future__ import annotations

import functools
import heapq
import html
import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

WITH_HOST: Final = frozenset({"http", "https", "ftp", "ftps", "sftp", "ssh", "git", "ws", "wss"})
"""Schemes whose URLs name a host after '//'; those of others may go on at once, as mailto: does."""

MAX_LENGTH: Final = 8192
"""The longest URL that is given, in characters: what no server takes is no link."""


class _Spot(NamedTuple):
    """Where a URL is in the text."""

    start: int
    end: int
    url: str


def find_urls(text: str, schemes: frozenset[str], base_url: str | None = None) -> Iterator[str]:
    """Every URL with one of the schemes (in lower case), in the order of the text, as it is written there.

    The values of href and src in HTML tags and the targets of Markdown links are whole: entities are decoded, and where
    base_url is given relative ones are joined to it. In running text a URL ends before blanks, quotes, angle brackets,
    punctuation that ends a sentence and brackets that it did not open. Hosts and paths keep their letters.
    """
    end = 0
    for spot in heapq.merge(_links(text, schemes, base_url), _bare(text, schemes), key=attrgetter("start")):
        if spot.start >= end:
            end = spot.end
            yield spot.url


# -- links ------------------------------------------------------------------------------------------------------------

_ATTRIBUTE: Final = (
    r"(?<![\w.-])(?:href|src)\s*+=\s*+"
    r"""(?:"(?P<double>[^"]*+)"|'(?P<single>[^']*+)'|(?P<plain>[^\s"'<>`]++))"""
)
_TARGET: Final = r"\]\(\s*+(?:<(?P<angled>[^<>\n]*+)>|(?P<target>[^\s()<>]*+(?:\([^\s()<>]*+\)[^\s()<>]*+)*+))"
_LINK: Final = re.compile(f"{_ATTRIBUTE}|{_TARGET}", re.IGNORECASE)
_LINE_BREAKS: Final = re.compile(r"[\t\n\r]+")


def _links(text: str, schemes: frozenset[str], base_url: str | None) -> Iterator[_Spot]:
    """The targets that HTML attributes and Markdown links name."""
    resolved = functools.cache(lambda target: _resolved(target, schemes, base_url))  # pages repeat their links
    in_tag, before = False, 0
    for link in _LINK.finditer(text):
        in_tag, before = _is_in_tag(text, before, link.start(), in_tag), link.end()
        kind = str(link.lastgroup)
        if kind in ("angled", "target"):
            url = resolved(link[kind])
        elif in_tag:
            url = resolved(html.unescape(link[kind]))
        else:
            continue
        if url is not None:
            yield _Spot(link.start(kind), link.end(kind), url)


def _is_in_tag(text: str, start: int, end: int, in_tag: bool) -> bool:
    """Whether end lies within an HTML tag, when in_tag tells it of start."""
    opened, closed = text.rfind("<", start, end), text.rfind(">", start, end)
    if opened > closed:
        return text[opened + 1].isalpha()
    return in_tag and closed < 0


def _resolved(target: str, schemes: frozenset[str], base_url: str | None) -> str | None:
    """The whole URL of a link, None when it is no URL, of another scheme, or a place on its own page."""
    url = _LINE_BREAKS.sub("", target.strip()).replace(" ", "%20")
    if not url or url.startswith("#"):
        return None
    if base_url is not None:
        try:
            joined = urljoin(base_url, url)
        except ValueError:
            return None
        url = url if urlsplit(url).scheme else joined
    return url if _is_url(url, schemes) else None


# -- running text -----------------------------------------------------------------------------------------------------

# A URL in running text goes on to a blank, a quote, an angle bracket, something invisible or Chinese or Japanese
# punctuation; letters of all scripts belong to it.
_RUN: Final = re.compile(
    r"[^\s<>\"`\\^\x00-\x20\x7f-\xa0\xab\xbb\u200b\u200e\u200f\u2018-\u201f\u202a-\u202e\u2060-\u2069"
    r"\u3001-\u3003\u3008-\u3011\u3014-\u301f\ufeff\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f\uff3b\uff3d\uff5b\uff5d\ufffd]*+"
)
_CLOSES: Final = {")": "(", "]": "[", "}": "{"}
_ENTITY: Final = re.compile(r"&#?\w{1,31};\Z")
_TRAILING: Final = frozenset(".,:;!?'*_~|")


def _bare(text: str, schemes: frozenset[str]) -> Iterator[_Spot]:
    """The URLs that stand in the text itself."""
    begin = _beginning(schemes)
    stop = re.compile(rf"[()\[\]{{}}]|[,;|](?={begin})", re.IGNORECASE)
    begins = re.compile(rf"(?<![A-Za-z0-9])(?<![A-Za-z0-9][+.-]){begin}", re.IGNORECASE)
    is_url = functools.cache(lambda url: _is_url(url, schemes))
    at = run_end = 0
    while (found := begins.search(text, at)) is not None:
        start = found.start()
        if start >= run_end:  # a run is measured once, however many URLs it holds
            run_end = _run_end(text, found.end())
        at = _end(text, start, run_end, stop)
        end = _trimmed(text, start, at)
        at = max(at, found.end())
        url = text[start:end]
        if end > found.end() and is_url(url):
            yield _Spot(start, end, url)


def _beginning(schemes: frozenset[str]) -> str:
    with_host = "|".join(sorted(map(re.escape, schemes & WITH_HOST), key=len, reverse=True))
    others = "|".join(sorted(map(re.escape, schemes - WITH_HOST), key=len, reverse=True))
    ways = [f"(?:{with_host})://" if with_host else "", f"(?:{others}):" if others else ""]
    return "(?:" + "|".join(way for way in ways if way) + ")"


def _run_end(text: str, at: int) -> int:
    run = _RUN.match(text, at)
    return at if run is None else run.end()


def _end(text: str, start: int, run_end: int, stop: re.Pattern[str]) -> int:
    """Where a URL ends in its run: before a closing bracket that it did not open, or before the next URL of a list."""
    opened = {"(": 0, "[": 0, "{": 0}
    for found in stop.finditer(text, start, run_end):
        sign = found.group()
        if sign in opened:
            opened[sign] += 1
        elif sign not in _CLOSES or not opened[_CLOSES[sign]]:
            return found.start()
        else:
            opened[_CLOSES[sign]] -= 1
    return run_end


def _trimmed(text: str, start: int, end: int) -> int:
    """The end without punctuation that belongs to the sentence, as GitHub's Markdown has it (autolinks, extended)."""
    while end > start:
        last = text[end - 1]
        entity = _ENTITY.search(text, max(start, end - 34), end) if last == ";" else None
        if entity is not None:
            end = entity.start()
        elif last in _TRAILING or last in "([{":
            end -= 1
        else:
            break
    return end


def _is_url(url: str, schemes: frozenset[str]) -> bool:
    """Whether it is whole: a scheme that is wanted, and a host where there has to be one."""
    if len(url) > MAX_LENGTH:
        return False
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that hold no IPv6 address, or a host that only looks like one
        return False
    if parts.scheme not in schemes:
        return False
    if parts.scheme not in WITH_HOST:
        return len(url) > len(parts.scheme) + 1
    host = parts.hostname
    return host is not None and host.strip(".-_") != "" and not _NOT_IN_HOSTS.search(host)


_NOT_IN_HOSTS: Final = re.compile(r"[\s<>\"`\\^{}|,;!*'()]")
