"""The guard by its rules: who may reach what, with a resolver of the test's own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from tests.security.egress_forms import NAMES_FOR_RESOLVER, urls
from toolpost import ConfigurationError, Egress, EgressDeniedError, EgressGuard, ToolExecutor
from toolpost.security.egress import Reach

FORMS = [(kind, url) for kind, url in urls() if kind != "name" and "LOCALHOST" not in url]


def resolver(names: dict[str, list[str]]) -> Any:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if host not in names:
            raise OSError("not known")
        return names[host]

    return resolve


def rule_of(reach: Reach, url: str) -> str:
    with pytest.raises(EgressDeniedError) as refused:
        reach.target(url)
    assert refused.value.outcome == "not_run"
    return str(refused.value.details["rule"])


async def rule_at(reach: Reach, host: str, port: int = 80) -> str:
    with pytest.raises(EgressDeniedError) as refused:
        await reach.addresses(host, port)
    return str(refused.value.details["rule"])


# what is refused whatever the name service says


@pytest.mark.parametrize(("kind", "url"), FORMS, ids=[ascii(url)[:60] for _, url in FORMS])
def test_no_form_of_an_address_gets_past_the_checks_that_ask_nobody(kind: str, url: str) -> None:
    reach = EgressGuard(ports=(80, 443, 8123)).reach()

    rule = rule_of(reach, url.replace("{p}", "8123"))

    assert rule in {
        "egress.url",
        "egress.scheme",
        "egress.credentials",
        "egress.host-form",
        "egress.port",
        "egress.private-address",
    }


@pytest.mark.parametrize(
    "rest",
    [
        *("/a b", "/a\tb", "/a\r\nHost: x", "/a\\b", "/?q=a b", "/#\x00", "/\x7f", "/\x85", "/\u2028", "/\u200b"),
        *("/\ufeff", "/\u3000", "/\ud800", "/" + "a" * 8200),
    ],
)
def test_what_parsers_strip_or_take_for_something_else_is_refused_behind_the_host_too(rest: str) -> None:
    assert rule_of(EgressGuard().reach(), f"http://example.com{rest}") == "egress.url"


def test_there_are_forms_enough() -> None:
    assert len({url for _, url in FORMS}) >= 270


@pytest.mark.parametrize("host", sorted(NAMES_FOR_RESOLVER))
async def test_a_name_is_refused_for_one_address_that_is_not_public(host: str) -> None:
    reach = EgressGuard(resolve=resolver(NAMES_FOR_RESOLVER)).reach()
    assert reach.target(f"http://{host}/").host == host  # nothing is wrong with the name

    assert await rule_at(reach, host) == "egress.private-address"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST"])
async def test_the_systems_own_names_for_this_machine_are_refused(host: str) -> None:
    assert await rule_at(EgressGuard().reach(), host.lower()) == "egress.private-address"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/",
        "HTTPS://Example.COM:443/a/b?c=d#e",
        "http://xn--bcher-kva.example/",
        "http://bücher.example/ä?ö=ü",
        "http://93.184.216.34/",
        "http://[2606:2800:220:1:248:1893:25c8:1946]/",
        "http://[2606:2800:220:1:0248:1893:25c8:1946]:443/",
        "http://a-b.c_d.example:80/?q=a%20b",
        "https://127.0.0.1.nip.io/",
        "https://example.com/a@b:c",
        "https://example.com?x=y",
        "https://1password.example/",
    ],
)
def test_ordinary_urls_pass(url: str) -> None:
    target = EgressGuard().reach().target(url)

    assert target.host == target.host.lower()
    assert target.url.isascii() or "ä" in url


async def test_public_addresses_pass_as_they_came() -> None:
    names = {"two.test": ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"], "nat64.test": ["64:ff9b::5db8:d822"]}
    reach = EgressGuard(resolve=resolver(names)).reach()

    assert await reach.addresses("two.test", 80) == names["two.test"]
    assert await reach.addresses("nat64.test", 443) == names["nat64.test"]


async def test_a_name_that_cannot_be_resolved_is_not_denied() -> None:
    reach = EgressGuard(resolve=resolver({"empty.test": []})).reach()

    for host in ("nowhere.test", "empty.test"):
        with pytest.raises(OSError, match=r"known|no address"):
            await reach.addresses(host, 80)


async def test_a_refusal_does_not_tell_what_the_name_resolved_to_but_the_log_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reach = EgressGuard(resolve=resolver({"inner.test": ["10.20.30.40"]})).reach()

    with caplog.at_level(logging.WARNING, "toolpost.egress"), pytest.raises(EgressDeniedError) as refused:
        await reach.addresses("inner.test", 80)

    assert "10.20" not in f"{refused.value} {refused.value.details}"
    assert refused.value.details == {"rule": "egress.private-address", "host": "inner.test", "port": 80}
    assert "10.20.30.40" in caplog.text


def test_a_refusal_never_has_path_query_or_password() -> None:
    reach = EgressGuard(hosts=("ok.test",)).reach()

    for url in ("https://u:hunter2@ok.test/p?q=hunter2", "https://no.test/hunter2?hunter2", "hunter2://x/hunter2 x"):
        with pytest.raises(EgressDeniedError) as refused:
            reach.target(url)
        assert "hunter2" not in f"{refused.value.message} {refused.value.details}".replace("'hunter2'", "")


# lists of hosts and ports


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("api.good.test", True),
        ("deep.api.good.test", True),
        ("good.test", False),
        ("evilgood.test", False),
        ("good.test.evil.test", False),
        ("exact.test", True),
        ("www.exact.test", False),
        ("EXACT.test", True),
        ("exact.test.evil", False),
        ("93.184.216.34", True),
        ("93.184.216.35", False),
    ],
)
def test_only_the_hosts_of_the_settings_are_reached(host: str, allowed: bool) -> None:
    reach = EgressGuard(hosts=("*.GOOD.test", "exact.test", "93.184.216.34")).reach()

    if allowed:
        assert reach.target(f"https://{host}/").host == host.lower()
    else:
        assert rule_of(reach, f"https://{host}/") == "egress.host"


def test_a_policy_narrows_what_the_settings_allow_and_widens_nothing() -> None:
    guard = EgressGuard(hosts=("*.good.test",), ports=(80, 443))
    reach = guard.reach(Egress(hosts=("api.good.test", "evil.test"), ports=(443, 22)))

    assert reach.target("https://api.good.test/")
    assert rule_of(reach, "https://other.good.test/") == "egress.host"
    assert rule_of(reach, "https://evil.test/") == "egress.host"
    assert rule_of(reach, "http://api.good.test/") == "egress.port"
    assert rule_of(reach, "https://api.good.test:22/") == "egress.port"
    assert guard.reach().target("http://other.good.test/")


def test_ports_are_by_list() -> None:
    reach = EgressGuard(ports=(443, 8443)).reach()

    assert reach.target("https://a.test:8443/").port == 8443
    for url in ("http://a.test/", "https://a.test:22/", "https://a.test:6379/"):
        assert rule_of(reach, url) == "egress.port"


# what is opened though it is not public


async def test_an_address_is_opened_by_a_network_whatever_name_leads_there() -> None:
    guard = EgressGuard(resolve=resolver({"in.test": ["10.1.2.3"], "out.test": ["10.9.9.9"]}))
    reach = guard.reach(Egress(private=("10.1.0.0/16",)))

    assert reach.target("http://10.1.2.3/")
    assert await reach.addresses("in.test", 80) == ["10.1.2.3"]
    assert await rule_at(reach, "out.test") == "egress.private-address"
    assert rule_of(reach, "http://10.2.0.1/") == "egress.private-address"
    assert rule_of(guard.reach(), "http://10.1.2.3/") == "egress.private-address"


async def test_a_name_opens_its_own_addresses_for_nobody_else() -> None:
    names = {"db.internal": ["10.0.0.1"], "rebound.test": ["10.0.0.1"], "api.inner.test": ["192.168.1.1"]}
    guard = EgressGuard(resolve=resolver(names))
    reach = guard.reach(Egress(private=("db.internal", "*.inner.test")))

    assert await reach.addresses("db.internal", 80) == ["10.0.0.1"]
    assert await reach.addresses("api.inner.test", 443) == ["192.168.1.1"]
    assert await rule_at(reach, "rebound.test") == "egress.private-address"
    assert rule_of(reach, "http://10.0.0.1/") == "egress.private-address"
    assert await rule_at(guard.reach(), "db.internal") == "egress.private-address"


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "0.0.0.0", "fe80::1"]
)
async def test_neither_a_name_nor_a_wide_network_opens_what_clouds_keep_for_themselves(address: str) -> None:
    everything = ("0.0.0.0/0", "::/0", "fd00::/8", "100.64.0.0/10", "trusted.test", "*.trusted.test")
    reach = EgressGuard(resolve=resolver({"trusted.test": [address]}), private=everything).reach()

    assert await rule_at(reach, "trusted.test") == "egress.private-address"
    host = f"[{address}]" if ":" in address else address
    assert rule_of(reach, f"http://{host}/") == "egress.private-address"


def test_metadata_is_opened_by_its_own_address() -> None:
    reach = EgressGuard().reach(Egress(private=("169.254.169.254",)))

    assert reach.target("http://169.254.169.254/")
    assert rule_of(reach, "http://169.254.169.253/") == "egress.private-address"


@pytest.mark.parametrize("form", ["::ffff:127.0.0.1", "::127.0.0.1", "2002:7f00:1::1", "64:ff9b::7f00:1", "0.0.0.0"])
async def test_no_entry_opens_an_address_written_in_another_one(form: str) -> None:
    entries = (form, "127.0.0.0/8", "::/0", "x.test")
    reach = EgressGuard(resolve=resolver({"x.test": [form]}), private=entries).reach()

    assert await rule_at(reach, "x.test") == "egress.private-address"


async def test_an_entry_with_a_port_opens_that_port_there_and_no_other() -> None:
    names = {"in.test": ["10.0.0.1"], "out.test": ["93.184.216.34"]}
    guard = EgressGuard(resolve=resolver(names))
    reach = guard.reach(Egress(private=("127.0.0.1:8080", "[::1]:9090", "10.0.0.0/8:5000", "any.test:*")))

    assert reach.target("http://127.0.0.1:8080/")
    assert reach.target("http://[::1]:9090/")
    assert reach.target("http://any.test:12345/")
    assert await reach.addresses("in.test", 5000) == ["10.0.0.1"]
    assert rule_of(reach, "http://127.0.0.1/") == "egress.private-address"
    assert rule_of(reach, "http://127.0.0.1:8081/") == "egress.private-address"
    assert rule_of(reach, "http://93.184.216.34:8080/") == "egress.port"
    assert await rule_at(reach, "in.test", 80) == "egress.private-address"
    assert await rule_at(reach, "out.test", 5000) == "egress.port"


def test_an_entry_without_a_port_leaves_ports_to_the_lists() -> None:
    reach = EgressGuard().reach(Egress(private=("127.0.0.1",)))

    assert reach.target("http://127.0.0.1/")
    assert rule_of(reach, "http://127.0.0.1:6379/") == "egress.port"


def test_where_the_settings_name_hosts_no_policy_opens_another() -> None:
    guard = EgressGuard(hosts=("api.test",))
    reach = guard.reach(Egress(private=("127.0.0.1:*", "db.internal")))

    assert rule_of(reach, "http://127.0.0.1:8080/") == "egress.host"
    assert rule_of(reach, "http://db.internal/") == "egress.host"


async def test_urls_of_the_settings_are_reached_wherever_they_are_and_no_others_that_are_not_public() -> None:
    names = {"issuer.internal": ["10.0.0.9"], "keys.test": ["93.184.216.34"], "bad.test": ["10.0.0.9"]}
    guard = EgressGuard(hosts=("tools.test",), ports=(443,), resolve=resolver(names))
    reach = guard.at("http://issuer.internal:4000/path", "http://127.0.0.1:5000", "http://[::1]:5001/")

    assert await reach.addresses("issuer.internal", 4000) == ["10.0.0.9"]
    assert await reach.addresses("keys.test", 443) == ["93.184.216.34"]
    assert reach.target("http://127.0.0.1:5000/x")
    assert reach.target("http://[::1]:5001/x")
    assert await rule_at(reach, "bad.test", 443) == "egress.private-address"
    assert rule_of(reach, "http://127.0.0.1:5001/") == "egress.private-address"
    with pytest.raises(ConfigurationError):
        guard.at("http://u:hunter2@x.test/")


# what is declared wrongly


@pytest.mark.parametrize(
    "entry",
    ["", "*", "*.", "http://x.test", "x.test:80", "x test", "10.0.0.0/8", "ümlaut.test", "127.1", "x.test.", 7, None],
)
def test_hosts_that_are_none_are_refused_at_declaration(entry: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Egress\.hosts: an entry must be a host"):
        Egress(hosts=(entry,))
    with pytest.raises(ConfigurationError, match="egress_allowed_hosts"):
        EgressGuard(hosts=(entry,))


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "10.0.0.0/33",
        "10.0.0.1/8",
        "127.1",
        "x.test:0",
        "x.test:65536",
        "x.test:",
        "::1%lo",
        "[::1",
        "x:y:z",
        7,
    ],
)
def test_openings_that_are_none_are_refused_at_declaration(entry: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Egress\.private: an entry must be a network"):
        Egress(private=(entry,))
    with pytest.raises(ConfigurationError, match="egress_private"):
        EgressGuard(private=(entry,))


@pytest.mark.parametrize("ports", [(0,), (65536,), ("80",), (True,), 80, "80"])
def test_ports_that_are_none_are_refused_at_declaration(ports: Any) -> None:
    with pytest.raises(ConfigurationError, match="Egress: ports must be"):
        Egress(ports=ports)


@pytest.mark.parametrize("proxy", ["ftp://p.test", "http://", "http://[::1", "http://p.test:x"])
def test_a_proxy_that_is_none_is_refused(proxy: str) -> None:
    with pytest.raises(ConfigurationError, match="egress_proxy"):
        EgressGuard(proxy=proxy)


def test_a_proxy_does_not_show_its_password() -> None:
    guard = EgressGuard(proxy="http://me:hunter2@proxy.test:3128")

    assert guard.proxy is not None
    assert guard.proxy.password == "hunter2"
    assert "hunter2" not in repr(guard.proxy)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("egress_allowed_hosts", ("http://x.test",)),
        ("egress_private", ("10.0.0.1/8",)),
        ("egress_allowed_ports", (0,)),
        ("egress_proxy", "socks5://x.test:1080"),
    ],
)
def test_settings_that_make_no_guard_are_refused_and_the_old_ones_hold(setting: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=setting):
        ToolExecutor(**{setting: value})
    with ToolExecutor(egress_private=("10.0.0.1",)) as executor:
        before = getattr(executor.config, setting)
        with pytest.raises(ConfigurationError, match=setting):
            setattr(executor.config, setting, value)
        assert getattr(executor.config, setting) == before


def test_the_password_of_a_proxy_is_a_secret_setting() -> None:
    with ToolExecutor(egress_proxy="http://me:hunter2@proxy.test:3128") as executor:
        assert "hunter2" not in repr(executor.config)
        assert executor._guards.egress.proxy is not None
        assert executor._guards.egress.proxy.password == "hunter2"
