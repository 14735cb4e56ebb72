"""The State that processes share, against real servers: the contract, round trips, and every way it can be cut off."""

import asyncio
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from tests.services.redis import Redis
from tests.stores.stepped_redis import SteppedRedis
from toolpost.calls.errors import ConfigurationError, StoreUnavailableError
from toolpost.stores import CircuitRules, ClaimAsk, open_state
from toolpost.stores.redis import RedisState
from toolpost.stores.redis_link import RedisLink
from toolpost.testing import FakeClock
from toolpost.testing.state_contract import StateContract

RULES = CircuitRules(2, 10.0, 1)


def ask(key="k", **changes):
    fields = {"fingerprint": None, "owner": "me", "lease_s": 30.0, "ttl_s": 60.0}
    return ClaimAsk(key, **(fields | changes))


def ask_server(url, *commands):
    link = RedisLink(url, timeout_s=5.0)
    try:
        return link.exchange(commands)
    finally:
        link.close()


class TestRedisState(StateContract):
    unit_s = 10.0

    @pytest.fixture
    def state(self, redis_url):
        state = SteppedRedis(redis_url)
        yield state
        state.close()

    @pytest.fixture
    def advance(self, state):
        return state.advance


@pytest.fixture
def state(redis_url):
    state = open_state(redis_url, prefix="p")
    yield state
    state.close()


def everything(state):
    """One of each operation, asked at once."""
    mark = state.marks(["t"]).wait()
    return [
        state.take([("a", 1.0, 5.0), ("b", 1.0, 5.0)]),
        state.enter("p", "h", 3, 30.0),
        state.put("v", b"v", 30.0, 0.0, {"t": mark[0]}),
        state.get("v", ["t"]),
        state.void(["t", "u"]),
        state.delete("v"),
        state.admit("c", RULES),
        state.report("c", RULES, False),
        state.circuit("c"),
        state.force("d", "open"),
        state.claim(ask()),
        state.renew([("k", 1)], 30.0),
        state.finish("k", 1, "done", b"", 30.0),
        state.release("k", 1),
        state.lookup("k"),
        state.forget("k"),
        state.unsettled(),
        state.leave("p", "h"),
        state.ping(),
    ]


# round trips


def test_each_operation_is_one_round_trip(state):
    state.ping().wait()
    for act in (
        lambda: state.take([("a", 1.0, 5.0), ("b", 1.0, 5.0)]),
        lambda: state.claim(ask()),
        lambda: state.put("k", b"v", 30.0, 5.0),
        lambda: state.get("k"),
        lambda: state.admit("c", RULES),
        lambda: state.report("c", RULES, False),
        lambda: state.unsettled(),
    ):
        before = state.batches
        act().wait()

        assert state.batches == before + 1


class Held(RedisState):
    """The real thing, whose thread waits at a gate before each batch."""

    def __init__(self, url):
        self.gate = threading.Event()
        self.arrived = threading.Event()
        super().__init__(url, prefix="p")

    def _flush(self, pendings):
        self.arrived.set()
        self.gate.wait()
        super()._flush(pendings)


def test_what_is_asked_meanwhile_is_one_round_trip_together(redis_url):
    state = Held(redis_url)
    first = state.ping()
    state.arrived.wait()
    others = [state.take([(f"user {n}", 1.0, 1.0)]) for n in range(100)]
    state.gate.set()

    assert [other.wait() for other in others] == [(0.0, -1)] * 100
    first.wait()
    assert state.batches == 2
    state.close()


def test_limit_once_and_cache_asked_together_are_one_round_trip(redis_url):
    state = Held(redis_url)
    asked = [state.take([("user", 1.0, 5.0)]), state.claim(ask()), state.get("k")]
    state.gate.set()

    taken, claim, value = [pending.wait() for pending in asked]

    assert (taken, claim.state, value) == ((0.0, -1), "granted", None)
    assert state.batches <= 2  # the thread may have left with the first before the others were asked
    state.close()


# what is left in the server


def test_every_key_is_under_the_prefix_in_one_slot_of_a_cluster(state, redis_url):
    for pending in everything(state):
        pending.wait()
    state.put("v", b"v", 30.0).wait()

    [keys] = ask_server(redis_url, (b"KEYS", b"*"))

    assert len(keys) > 5
    assert {key[:4] for key in keys} == {b"{p}:"}


def test_what_may_be_forgotten_expires_and_what_may_not_does_not(state, redis_url):
    state.take([("b", 0.1, 2.0)]).wait()
    state.enter("s", "h", 1, 30.0).wait()
    state.put("v", b"v", 20.0, 10.0).wait()
    for key, end in {"flight": None, "unknown": "unknown", "done": "done", "failed": "failed"}.items():
        claim = state.claim(ask(key)).wait()
        if end:
            state.finish(key, claim.fence, end, b"r", 30.0).wait()
    state.report("failing", RULES, False).wait()
    state.report("well", RULES, True).wait()

    names = [b"bucket:b", b"place:s", b"value:v", b"claim:flight", b"claim:unknown", b"claim:done", b"claim:failed"]
    names += [b"circuit:failing", b"circuit:well"]
    lives = dict(zip(names, ask_server(redis_url, *[(b"PTTL", b"{p}:" + name) for name in names]), strict=True))

    assert lives.pop(b"claim:flight") == lives.pop(b"claim:unknown") == -1
    assert lives.pop(b"circuit:well") == -2
    assert 86_000_000 < lives.pop(b"circuit:failing") <= 86_400_000
    assert 9_000 < lives.pop(b"bucket:b") <= 10_001
    assert all(25_000 < life <= 30_001 for life in lives.values())


def test_a_claim_taken_again_loses_its_expiry(state, redis_url):
    first = state.claim(ask()).wait()
    state.finish("k", first.fence, "failed", b"r", 30.0).wait()
    state.claim(ask()).wait()

    assert ask_server(redis_url, (b"PTTL", b"{p}:claim:k")) == [-1]


def test_a_mark_that_the_server_lost_makes_misses_and_never_brings_back_what_was_void(state, redis_url):
    [mark] = state.marks(["t"]).wait()
    state.put("k", b"v", 30.0, 0.0, {"t": mark}).wait()
    ask_server(redis_url, (b"DEL", b"{p}:tag:t"))

    assert state.get("k", ["t"]).wait() is None
    assert not state.put("k", b"v", 30.0, 0.0, {"t": mark}).wait()
    assert state.marks(["t"]).wait() != [mark]


def test_a_mark_lives_as_long_as_what_was_kept_under_it(state, redis_url):
    [mark] = state.marks(["t"]).wait()
    state.put("k", b"v", 20 * 86_400.0, 0.0, {"t": mark}).wait()
    [long] = ask_server(redis_url, (b"PTTL", b"{p}:tag:t"))
    state.put("l", b"v", 1.0, 0.0, {"t": mark}).wait()
    [still] = ask_server(redis_url, (b"PTTL", b"{p}:tag:t"))

    assert min(long, still) > 19.9 * 86_400_000


def test_asking_for_a_mark_lengthens_its_life(state, redis_url):
    state.marks(["t"]).wait()
    ask_server(redis_url, (b"PEXPIRE", b"{p}:tag:t", 60_000))
    state.marks(["t"]).wait()

    assert ask_server(redis_url, (b"PTTL", b"{p}:tag:t"))[0] > 80_000_000


def test_a_claim_that_is_over_leaves_nothing_in_the_set_of_open_ones(state, redis_url):
    done, released = state.claim(ask("done")).wait(), state.claim(ask("released")).wait()
    told = state.claim(ask("told")).wait()
    state.finish("done", done.fence, "done", None, 30.0).wait()
    state.release("released", released.fence).wait()
    state.finish("told", told.fence, "unknown", None, 30.0).wait()
    open_ones = ask_server(redis_url, (b"ZRANGE", b"{p}:open", 0, -1))
    state.forget("told").wait()

    assert open_ones == [[b"told"]]
    assert ask_server(redis_url, (b"ZCARD", b"{p}:open")) == [0]


def test_fences_grow_even_over_the_loss_of_all_data(state, redis_url):
    before = state.claim(ask()).wait().fence
    ask_server(redis_url, (b"FLUSHALL",))

    assert state.claim(ask()).wait().fence > before
    assert not state.finish("k", before, "done", b"", 30.0).wait()


def test_a_claim_deleted_by_hand_leaves_the_list_of_the_unsettled(redis_url):
    state = SteppedRedis(redis_url)
    for key in ("a", "b", "c"):
        state.claim(ask(key, lease_s=10.0)).wait()
        state.advance(1)
    state.advance(20)
    ask_server(redis_url, (b"DEL", f"{{{state.prefix}}}:claim:a".encode()))

    assert [claim.key for claim in state.unsettled(1).wait()] == ["b"]
    [left] = ask_server(redis_url, (b"ZCARD", f"{{{state.prefix}}}:open".encode()))
    assert left == 2
    state.close()


def test_time_is_the_servers_own_and_only_the_tests_clock_replaces_it(state, redis_url):
    [now] = ask_server(redis_url, (b"TIME",))
    claim = state.claim(ask()).wait()
    stepped = SteppedRedis(redis_url)
    lines = [(a, b) for a, b in zip(*(s._sources["claim"][1].splitlines() for s in (state, stepped)), strict=True)]

    assert 0 <= claim.began_at - int(now[0]) < 60
    assert [a for a, b in lines if a != b] == ["local time = redis.call('TIME')"]
    stepped.close()


def test_clearing_many_values_goes_in_steps(state, redis_url):
    for pending in [state.put(f"a:{n}", b"v", 60.0) for n in range(3_000)]:
        pending.wait()
    state.put("b:1", b"v", 60.0).wait()
    before = state.batches

    assert state.clear("a:").wait() == 3_000
    assert state.get("b:1").wait() is not None
    assert state.batches == before + 1


# errors of one operation


def test_an_operation_that_the_server_refuses_fails_alone(redis_url):
    state = Held(redis_url)
    ask_server(redis_url, (b"SET", b"{p}:place:broken", b"not a sorted set"))
    asked = [state.take([("b", 1.0, 1.0)]), state.enter("broken", "h", 1, 1.0), state.enter("well", "h", 1, 1.0)]
    state.gate.set()

    assert asked[0].wait() == (0.0, -1)
    assert asked[2].wait() == 0.0
    with pytest.raises(StoreUnavailableError, match="refused enter: WRONGTYPE"):
        asked[1].wait()
    assert state.ping().wait() is None
    state.close()


def test_a_full_server_refuses_writes_and_leaves_claims_as_they_are(own_redis):
    state = open_state(own_redis.url)
    failed = state.claim(ask("failed")).wait()
    state.finish("failed", failed.fence, "failed", b"why", 600.0).wait()
    held = state.claim(ask("held")).wait()
    ask_server(own_redis.url, (b"CONFIG", b"SET", b"maxmemory", 1))

    for write in (state.claim(ask("failed")), state.claim(ask("new")), state.put("k", b"v", 60.0)):
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            write.wait()
    with pytest.raises(StoreUnavailableError, match="maxmemory"):
        state.finish("held", held.fence, "done", b"r", 60.0).wait()

    assert state.lookup("failed").wait().result == b"why"
    assert state.lookup("new").wait() is None
    assert state.lookup("held").wait().state == "in_flight"
    assert state.release("held", held.fence).wait()
    state.close()


def test_scripts_that_the_server_was_told_to_forget_are_loaded_again(state, redis_url):
    state.take([("b", 1.0, 5.0)]).wait()
    ask_server(redis_url, (b"SCRIPT", b"FLUSH"))

    asked = [state.take([("b", 0.001, 5.0)]) for _ in range(6)]

    assert [pending.wait()[1] for pending in asked].count(-1) == 4


# a server that is not there


def test_a_server_that_restarts_is_found_again_and_the_claims_with_it(own_redis):
    clock = FakeClock()
    state = open_state(own_redis.url, clock=clock)
    claim = state.claim(ask()).wait()
    own_redis.kill()

    with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{own_redis.port}/0 cannot be reached") as caught:
        state.ping().wait()
    assert caught.value.__cause__ is not None
    own_redis.restart()
    with pytest.raises(StoreUnavailableError):  # the pause
        state.ping().wait()
    clock.advance(10)

    assert state.finish("k", claim.fence, "done", b"r", 60.0).wait()
    assert state.lookup("k").wait().result == b"r"
    state.close()


def test_a_connection_that_the_server_closed_meanwhile_fails_nobody(state, redis_url):
    state.ping().wait()
    ask_server(redis_url, (b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"))

    assert state.take([("b", 1.0, 1.0)]).wait() == (0.0, -1)


def test_a_frozen_server_is_unavailable_after_the_timeout_which_takes_a_while(own_redis):
    clock = FakeClock()
    state = RedisState(own_redis.url, clock=clock, timeout_s=0.3)
    state.ping().wait()
    own_redis.freeze()

    for _ in range(2):  # in the middle of a connection, and while connecting
        with pytest.raises(StoreUnavailableError, match="cannot be reached: Timeout"):
            state.ping().wait(timeout_s=20)
        clock.advance(10)
    own_redis.thaw()

    assert state.ping().wait() is None
    state.close()


def test_a_peer_that_answers_a_byte_now_and_then_is_cut_off_which_takes_a_while():
    """The peer is no Redis: a socket that keeps each read alive without ever ending a reply."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def drip():
            peer, _ = listener.accept()
            with peer:
                while not over.wait(0.02):
                    try:
                        peer.sendall(b"+")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        state = RedisState(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", timeout_s=0.1)

        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            state.ping().wait(timeout_s=20)

        over.set()
        thread.join()
        state.close()


def test_a_server_that_only_reads_serves_nobody_until_it_writes_again(own_redis):
    clock = FakeClock()
    state = open_state(own_redis.url, clock=clock)
    state.ping().wait()
    ask_server(own_redis.url, (b"REPLICAOF", b"127.0.0.1", 1))

    with pytest.raises(StoreUnavailableError, match="read only"):
        state.take([("b", 1.0, 1.0)]).wait()
    ask_server(own_redis.url, (b"REPLICAOF", b"NO", b"ONE"))
    clock.advance(10)

    assert state.take([("b", 1.0, 1.0)]).wait() == (0.0, -1)
    state.close()


def test_replies_that_came_before_the_connection_broke_count():
    """The peer is no Redis: it answers two commands of a batch, then hangs up."""
    import socket

    batches = []

    def answer(listener):
        peer, _ = listener.accept()
        with peer, peer.makefile("rb") as asked:
            for reply in (b"$40\r\n" + b"0" * 40, *[b":7", b":8"]):
                while b"SCRIPT" in (name := command(asked)):
                    peer.sendall(b"$40\r\n" + b"0" * 40 + b"\r\n")
                batches.append(name)
                if reply[:1] == b":":
                    peer.sendall(reply + b"\r\n")
                else:
                    peer.sendall(b"+PONG\r\n")
            command(asked)

    def command(asked):
        words = []
        for _ in range(int(asked.readline()[1:])):
            words.append(asked.read(int(asked.readline()[1:]) + 2)[:-2])
        return words[0]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        state = RedisState(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", timeout_s=5.0)
        state.ping().wait(timeout_s=20)
        go, flush = threading.Event(), state._batcher._flush
        state._batcher._flush = lambda batch: (go.wait(20), flush(batch))
        asked = [state.delete(key) for key in "abc"]
        go.set()

        outcomes = []
        for pending in asked:
            try:
                outcomes.append(pending.wait(timeout_s=20))
            except StoreUnavailableError:
                outcomes.append("unavailable")
        state.close()
        thread.join()

    assert outcomes == [True, True, "unavailable"]


def test_clearing_says_when_the_server_is_gone(own_redis):
    state = open_state(own_redis.url)
    own_redis.kill()

    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        state.clear().wait()
    state.close()


def test_no_password_is_ever_shown(own_redis):
    ask_server(own_redis.url, (b"CONFIG", b"SET", b"requirepass", b"right"))
    right = open_state(own_redis.url.replace("redis://", "redis://:right@"))
    wrong = open_state(own_redis.url.replace("redis://", "redis://:hunter2@"))

    assert right.ping().wait() is None
    with pytest.raises(StoreUnavailableError, match="cannot be reached") as caught:
        wrong.ping().wait()
    assert "hunter2" not in str(caught.value) + str(caught.value.__cause__) + wrong.url
    right.close()
    wrong.close()


def test_a_server_that_quotes_the_login_it_does_not_know_shows_no_password():
    """The peer is no Redis: it answers as one whose AUTH was renamed."""
    import socket

    def refuse(listener):
        peer, _ = listener.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"-ERR unknown command `AUTH`, with args beginning with: `hunter2`, \r\n")
            peer.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        state = RedisState(f"redis://:hunter2@127.0.0.1:{listener.getsockname()[1]}/0", timeout_s=5.0)
        with pytest.raises(StoreUnavailableError, match="unknown command `AUTH`") as caught:
            state.ping().wait(timeout_s=20)
        state.close()
        thread.join()

    assert "hunter2" not in str(caught.value)


def test_closing_answers_what_was_asked_and_refuses_what_is_asked_later(redis_url):
    state = open_state(redis_url)
    asked = [state.take([("b", 1.0, 1000.0)]) for _ in range(200)]
    state.close()

    assert {pending.wait() for pending in asked} == {(0.0, -1)}
    with pytest.raises(StoreUnavailableError, match="closed"):
        state.ping().wait()


# many who ask


def test_two_hundred_threads_and_as_many_tasks_get_one_claim(redis_url):
    states = [open_state(redis_url, prefix="p") for _ in range(2)]

    async def claim(n):
        return (await states[n % 2].claim(ask())).state

    async def tasks():
        return await asyncio.gather(*[claim(n) for n in range(100)])

    found = []
    threads = [threading.Thread(target=lambda: found.extend(asyncio.run(tasks()))) for _ in range(2)]
    threads += [
        threading.Thread(target=lambda n=n: found.append(states[n % 2].claim(ask()).wait().state)) for n in range(200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found) == ["granted"] + ["in_flight"] * 399
    for state in states:
        state.close()


CLAIM_ALL = """
import sys
from toolpost.stores import ClaimAsk, open_state
state = open_state(sys.argv[1], prefix="p")
asked = [state.claim(ClaimAsk(str(n), None, sys.argv[2], 60.0, 60.0)) for n in range(300)]
print(*[n for n, pending in enumerate(asked) if pending.wait().state == "granted"])
state.close()
"""


def test_four_processes_share_claims_without_a_double(redis_url):
    command = [sys.executable, "-c", CLAIM_ALL, redis_url]
    processes = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(4)]

    granted = [int(key) for process in processes for key in process.communicate(timeout=50)[0].split()]

    assert sorted(granted) == list(range(300))


def test_a_forked_child_has_a_connection_of_its_own(state):
    state.take([("before", 1.0, 1.0)]).wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads, which is just what is tested
        child = os.fork()
    if child == 0:
        granted = [state.take([("child", 0.001, 50.0)]).wait(timeout_s=10) == (0.0, -1) for _ in range(50)]
        state.close()
        os._exit(0 if all(granted) else 1)
    parent = [state.take([("parent", 0.001, 50.0)]).wait() for _ in range(50)]

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert parent == [(0.0, -1)] * 50
    assert state.take([("child", 0.001, 50.0)]).wait()[1] == 0


class ClusterNode(Redis):
    """A cluster of one node: it refuses commands and scripts whose keys are not in one slot."""

    def command(self, folder: Path) -> list[str]:
        return [*super().command(folder), "--cluster-enabled", "yes"]


@pytest.mark.usefixtures("redis_url")  # which knows what to do where there is no Redis
def test_every_operation_works_on_a_node_of_a_cluster():
    with ClusterNode() as node:
        ask_server(node.url, (b"CLUSTER", b"ADDSLOTSRANGE", 0, 16383))
        while b"cluster_state:ok" not in ask_server(node.url, (b"CLUSTER", b"INFO"))[0]:
            pass
        state = open_state(node.url)

        for pending in everything(state):
            pending.wait()

        assert state.clear().wait() == 0
        state.close()


# urls


@pytest.mark.parametrize(
    ("url", "prefix", "message"),
    [
        ("redis://localhost:6379/0", "a{b}", "without braces"),
        ("redis://localhost:6379/0", "", "must be a name"),
        ("redis://localhost:port/0", "p", "is no URL of a Redis server"),
        ("redis://:secret@localhost:6379/0?no_such_option=1", "p", "option that redis-py does not know"),
    ],
)
def test_a_url_or_prefix_that_cannot_be_is_refused_at_once(url, prefix, message):
    with pytest.raises(ConfigurationError, match=message):
        open_state(url, prefix=prefix)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("toolpost.stores.redis")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.exceptions", None)

    with pytest.raises(ConfigurationError, match=r"install toolpost\[redis\]"):
        open_state("redis://localhost")
