"""Identifiers, paths and addresses by their form: what is not of it is refused, and what people use is."""

import pytest

from toolpost import Egress, SecurityError, Tool, ToolExecutor
from toolpost.security.rules import Screen, screen_text


@pytest.mark.parametrize(
    "value",
    [
        *[
            "",
            "user 42",
            "O'Neil/7",
            "key=value",
            "../x",
            "a/../b",
            "a//b",
            "/etc/passwd",
            "-rf",
            "--help",
            "a b",
            "a;id",
        ],
        *[
            "$where",
            "1 OR 1=1",
            "1=1",
            "a|id",
            "x|auth0",
            "a%20b",
            "<b>",
            "a\nb",
            "a\0b",
            "\uff33\uff25\uff2c",
            "a\u202eb",
            "x" * 257,
        ],
        *[
            "https://x.test/a",
            "http:0x7f000001",
            "data:text",
            "javascript:x",
            "0x2e0x2e0x2f",
            ".hidden",
            "a.",
            "a,",
            ",a",
        ],
        *["{id}", "[1]", "a*", "a?b", "a&b", "`a`", "a\\b", '"a"', "(1)", "1--", "a@@b", "\ud800"],
    ],
)
def test_what_is_no_identifier_is_refused(value: str) -> None:
    finding = screen_text(value, role="identifier")

    assert finding is not None
    assert finding.kind in ("identifier", "size")


@pytest.mark.parametrize(
    "url",
    [
        *[
            "https://example.com",
            "HTTP://Example.com:8080/a?b=c#d",
            "https://xn--mnchen-3ya.de/",
            "example.com/a",
            "a.test:80/x",
        ],
        *[
            "https://8.8.8.8/",
            "https://[2606:4700::1111]/x",
            "wss://a.test/s",
            "/a/b?c",
            "./a",
            "../a",
            "?q=1",
            "#top",
            "",
        ],
        *[
            "mailto:ann@example.com",
            "tel:+49301234",
            "urn:isbn:9",
            "s3://bucket/a/b.csv",
            "https://a.test/x y",
            " https://a.test ",
        ],
        *["https://example.com/?next=http://127.0.0.1/", "https://localhost.example.com/", "https://10.example.com/"],
    ],
)
def test_an_ordinary_address_passes(url: str) -> None:
    assert screen_text(url, role="url") is None


@pytest.mark.parametrize(
    "host",
    [
        *[
            "localhost",
            "127.0.0.1",
            "127.1",
            "0",
            "0.0.0.0",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
        ],
        *[
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[fe80::1]",
        ],
        *[
            "[fc00::1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fe80::1%25eth0]",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
            "ⓛocalhost",
        ],
        *[
            "db",
            "metadata.google.internal",
            "a.local",
            "x.localhost",
            "127.0.0.1.nip.io",
            "10-0-0-1.sslip.io",
            "localtest.me",
        ],
        *[
            "localhost.",
            "127.0.0.1.",
            "user@example.com",
            "example.com@127.0.0.1",
            "example.com\\@127.0.0.1",
            "exa mple.com",
            "%6c",
        ],
        *["example.com:0", "example.com:99999", "example.com:", "a..b", "-a.test", "", "a.test\t", "127.0.0.1:80"],
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https", "ws"])
def test_an_address_that_leads_inside_or_reads_in_two_ways_is_refused(scheme: str, host: str) -> None:
    assert screen_text(f"{scheme}://{host}/path", role="url") is not None


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://a.test/_x",
        "ftp://a.test/",
        "ldap://a.test",
        "jar:http://a.test!/",
        "javascript:x()",
        "data:text/html,x",
        "//127.0.0.1/",
        "\\\\a.test\\x",
        "http:/a.test",
        "http:a.test",
        "word",
        "http://",
        "{x}",
        "a b",
    ],
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    assert screen_text(url, role="url") is not None


@pytest.mark.parametrize(
    ("private", "url", "passes"),
    [
        ("localhost", "http://localhost:3000/", True),
        ("127.0.0.1:8080", "http://127.0.0.1:8080/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://192.168.0.1/", False),
        ("*.internal", "http://api.internal/", True),
        ("*.internal", "http://internal/", False),
        ("fd00::/8", "http://[fd12::1]/", True),
        ("localhost", "http://localhost@127.0.0.1/", False),
    ],
)
def test_what_egress_opens_passes(private: str, url: str, passes: bool) -> None:
    assert (Screen("url", "medium", private=[private]).check(url) is None) is passes


def test_the_egress_policy_of_a_tool_opens_addresses_of_its_parameters() -> None:
    @Tool(name="Net.Open", egress=Egress(private=("localhost",)), register=False)
    def opened(url: str) -> str:
        return url

    @Tool(name="Net.Shut", register=False)
    def shut(url: str) -> str:
        return url

    with ToolExecutor() as executor:
        executor.add([opened, shut])

        assert executor.call_sync("Net.Open", url="http://localhost:3000/") == "http://localhost:3000/"
        with pytest.raises(SecurityError, match=r"url\.internal-host"):
            executor.call_sync("Net.Shut", url="http://localhost:3000/")


@pytest.mark.parametrize(
    "path",
    [
        *[
            "",
            "a.txt",
            "a/b/c.py",
            "./a",
            "docs/read me (1) [final].md",
            "src/[...slug]/page.tsx",
            "./...",
            "a..b",
            "..hidden",
        ],
        *[
            "/home/ann/x.csv",
            "/tmp/a",
            "/var/data/x",
            "/var/www/html/a.html",
            "/dev/null",
            "/usr/share/dict/words",
            "/root/project/a",
        ],
        *[
            "C:\\Users\\Ann\\a.txt",
            "D:/data/x",
            "~/a",
            "s3://bucket/a.csv",
            "a%20b",
            "caf%C3%A9",
            "café/ñ",
            "50%.txt",
            "a&b=c,d",
        ],
        *[
            "src/**/*.py",
            "node_modules/@scope/x",
            "A$B.class",
            "#notes#",
            "12:30.txt",
            "etc/config.yaml",
            "my.ssh.notes",
        ],
    ],
)
def test_an_ordinary_path_passes(path: str) -> None:
    assert screen_text(path, role="path") is None


@pytest.mark.parametrize(
    "path",
    [
        *[
            "/etc/hosts",
            "/etc/apache2/x.conf",
            "/proc/1/environ",
            "/sys/kernel",
            "/var/log/x",
            "/var/lib/mysql/x",
            "/usr/lib/x.so",
        ],
        *[
            "/boot/x",
            "/root/.bashrc",
            "C:\\Windows\\x",
            "c:/program files/x",
            "/logs/access.log",
            "etc/shadow",
            "a/.ssh/config",
        ],
        *[
            "file:///a",
            "http://a.test/x",
            "php://input",
            "a;b",
            "a|b",
            "a<b",
            'a"b',
            "`a`",
            "a\nb",
            "a\u202eb",
            "a%00",
            "a%0a",
        ],
        *[
            "a/%2e%2e/b",
            "%252e%252e/b",
            "..%c0%af",
            "\uff0e\uff0e/a",
            "....//a",
            ".../a/b",
            "??/a",
            "a/.\\/b",
            "\\\\host\\share\\a",
        ],
        *["0x2e0x2e0x2fa", "..2fetc", "Li4vLi4vZXRjL3Bhc3N3ZA==", "x" * 4097, "\\\\?\\C:\\a", "a::$DATA"],
    ],
)
def test_a_path_out_of_the_folder_or_to_what_the_system_keeps_is_refused(path: str) -> None:
    assert screen_text(path, role="path") is not None
