"""Who compares hashes when, and who is blamed for other data."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from pyetcd.proto.errors import Compacted, EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import CORRUPT, HashKVResponse
from pyetcd.server.config import ConfigError, load
from pyetcd.server.corruption import CorruptionWatch, Found, ask_over, parse
from pyetcd.server.peer.client import Response, Unreachable


class World:
    """One member, and what its peers answer."""

    def __init__(self, *, every_s: float = 0.0, compact_every_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.is_leader = True
        self.newest = 9
        self.compacted = 5
        self.mine: Found | EtcdError = Found(1, 5, 9)
        self.peers: dict[int, Found] = {}
        self.members = 3
        self.is_alarmed = False
        self.hashed: list[int] = []
        self.asked: list[int] = []
        self.blamed: list[int] = []
        self.watch = CorruptionWatch(
            0xA,
            store=cast(Any, self),
            proposer=cast(Any, self),
            is_leader=lambda: self.is_leader,
            newest=lambda: self.newest,
            compacted=lambda: self.compacted,
            members=lambda: self.members,
            is_alarmed=lambda: self.is_alarmed,
            ask_peers=self.ask,
            loop=asyncio.get_running_loop(),
            monotonic_s=lambda: self.now_s,
            every_s=every_s,
            compact_every_s=compact_every_s,
        )

    def hash_kv(self, revision: int, done: Callable[[Any], None]) -> None:
        self.hashed.append(revision)
        if isinstance(self.mine, EtcdError):
            return done(self.mine)
        answer = HashKVResponse(hash=self.mine.hash, compact_revision=self.mine.compact_revision)
        answer.header.revision = self.mine.revision
        return done(answer)

    async def ask(self, revision: int) -> dict[int, Found]:
        self.asked.append(revision)
        return self.peers

    def propose(self, request: InternalRaftRequest, done: object) -> None:
        assert request.alarm.alarm == CORRUPT
        self.blamed.append(request.alarm.memberID)

    async def later(self, seconds: float) -> None:
        self.now_s += seconds
        self.watch.ticked()
        for _ in range(6):
            await asyncio.sleep(0)


def run(test: Callable[[], Any]) -> None:
    asyncio.run(test())


def test_the_leader_looks_at_its_times() -> None:
    async def test() -> None:
        world = World(every_s=10, compact_every_s=60)
        await world.later(9)
        assert world.hashed == []
        await world.later(1)
        assert (world.hashed, world.asked) == ([0], [9])
        world.is_leader = False
        await world.later(100)
        assert world.hashed == [0]
        world.is_leader = True
        await world.later(1)
        await world.later(1)
        assert world.hashed == [0, 0, 5]

    run(test)


def test_never() -> None:
    async def test() -> None:
        world = World()
        await world.later(1e9)
        assert not world.hashed

    run(test)


@pytest.mark.parametrize(
    ("peers", "blamed"),
    [
        ({0xB: Found(1, 5, 9), 0xC: Found(1, 5, 8)}, []),
        ({0xB: Found(1, 5, 9), 0xC: Found(2, 5, 9)}, [0xC]),
        ({0xB: Found(2, 5, 9), 0xC: Found(2, 5, 9)}, [0xA]),  # the leader itself
        ({0xB: Found(2, 5, 9), 0xC: Found(3, 5, 9)}, [0]),
        ({0xB: Found(2, 5, 9)}, [0]),  # one against one, and the third is silent
        ({0xB: Found(2, 6, 9), 0xC: Found(2, 4, 9)}, []),  # compacted otherwise: no judgement
        ({0xB: Found(2, 6, 9), 0xC: Found(2, 5, 9)}, [0]),
        ({}, []),
    ],
)
def test_who_is_blamed(peers: dict[int, Found], blamed: list[int]) -> None:
    async def test() -> None:
        for world in (World(every_s=1), World(compact_every_s=1)):
            world.peers = peers
            await world.later(1)
            assert world.blamed == blamed

    run(test)


def test_who_is_named_stays_so() -> None:
    """Later one of the others is down: the alarm that is set is not followed by one of nobody."""

    async def test() -> None:
        world = World(every_s=1)
        world.is_alarmed = True
        world.peers = {0xB: Found(2, 5, 9)}
        await world.later(1)
        assert world.blamed == []
        world.peers[0xC] = Found(1, 5, 9)
        await world.later(1)
        assert world.blamed == [0xB]

    run(test)


def test_a_compaction_is_looked_at_until_all_have_agreed() -> None:
    async def test() -> None:
        world = World(compact_every_s=1)
        world.peers = {0xB: Found(1, 5, 9)}
        await world.later(1)
        world.peers[0xC] = Found(7, 4, 9)  # behind
        await world.later(1)
        world.peers[0xC] = Found(1, 5, 9)
        await world.later(1)
        assert world.asked == [5, 5]
        await world.later(1)
        assert world.asked == [5, 5, 5]
        await world.later(100)
        assert world.asked == [5, 5, 5] and not world.blamed
        await world.later(100)
        world.compacted = 7  # but the hash is still of 5: compacted in between
        await world.later(100)
        assert world.hashed[-1] == 7 and world.asked == [5, 5, 5]
        world.mine = Found(1, 7, 9)
        world.peers = {0xB: Found(1, 7, 9), 0xC: Found(1, 7, 9)}
        await world.later(1)
        assert world.asked == [5, 5, 5, 7]

    run(test)


def test_a_hash_that_cannot_be_had() -> None:
    async def test() -> None:
        world = World(compact_every_s=1)
        world.mine = Compacted()
        await world.later(1)
        assert not world.asked
        world.mine = Found(1, 5, 9)
        await world.later(1)
        assert world.asked == [5]
        world.watch.stop()

    run(test)


def test_an_idle_cluster_is_not_hashed_again() -> None:
    async def test() -> None:
        world = World(every_s=1)
        world.peers = {0xB: Found(1, 5, 9)}
        await world.later(1)
        await world.later(1)  # one member did not answer: not yet agreed
        assert world.hashed == [0, 0]
        world.peers[0xC] = Found(1, 5, 9)
        for _ in range(3):
            await world.later(1)
        assert world.hashed == [0, 0, 0]
        world.newest = 10
        await world.later(1)
        assert world.hashed == [0, 0, 0, 0]
        world.newest = 9
        world.compacted = 7
        await world.later(1)
        assert len(world.hashed) == 5
        world.compacted = 5
        world.newest = 11
        world.mine = Found(1, 5, 11)
        world.peers[0xC] = Found(2, 5, 11)
        await world.later(1)
        await world.later(1)  # other data is no agreement
        assert len(world.hashed) == 7 and world.blamed

    run(test)


def test_before_a_start_alone() -> None:
    async def test() -> None:
        world = World()
        world.members = 1
        assert await world.watch.initial() == "" and not world.hashed

    run(test)


def test_before_a_start() -> None:
    async def test() -> None:
        world = World()
        world.mine = Compacted()
        failed = "a failed to fetch hash (etcdserver: mvcc: required revision has been compacted)"
        assert await world.watch.initial() == failed
        world.mine = Found(1, 5, 9)
        assert await world.watch.initial() == ""
        world.peers = {0xB: Found(2, 4, 9), 0xC: Found(1, 5, 20)}
        assert await world.watch.initial() == ""
        world.peers = {0xB: Found(2, 5, 9)}
        assert await world.watch.initial() == "a found data inconsistency with peers"
        world.peers[0xC] = Found(1, 5, 9)  # as most: the other one is to blame
        assert await world.watch.initial() == ""
        world.peers[0xC] = Found(2, 5, 9)
        assert await world.watch.initial() == "a found data inconsistency with peers"
        assert world.asked == [9] * 5 and not world.blamed

    run(test)


def test_asking() -> None:
    good = b'{"header":{"revision":9},"hash":1,"compact_revision":5}'
    answers = {"http://b": good, "http://c1": None, "http://c2": good, "http://d": b"[]"}

    class Client:
        async def request(self, method: str, url: str, path: str, **rest: Any) -> Response:
            assert (method, path, rest["body"]) == ("GET", "/members/hashkv", b'{"revision": 7}')
            assert rest["headers"]["X-Etcd-Cluster-ID"] == "c"
            body = answers.get(url)
            if body is None:
                raise Unreachable("down")
            status = 400 if url == "http://e" else 200
            return Response(status, {}, body)

    answers["http://e"] = b"mvcc: required revision is a future revision\n"
    peers = [(0xB, ["http://b"]), (0xC, ["http://c1", "http://c2"]), (0xD, ["http://d"]),
             (0xE, ["http://e"]), (0xF, [])]  # fmt: skip
    ask = ask_over(cast(Any, Client()), lambda: peers, 0xC, 1.0)
    found = Found(1, 5, 9)
    assert asyncio.run(cast(Any, ask(7))) == {0xB: found, 0xC: found}


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b"1", b'{"hash":"x"}', b'{"header":3}'])
def test_what_is_no_answer(body: bytes) -> None:
    assert parse(body) is None


def test_options() -> None:
    defaults, off = load([], {}), "--experimental-initial-corrupt-check=false"
    assert defaults.is_checked_at_start and defaults.corrupt_check_s == 3600.0
    assert not load([off], {}).is_checked_at_start
    assert load(["--experimental-corrupt-check-time=0"], {}).corrupt_check_s == 0
    assert load(["--experimental-corrupt-check-time=5s"], {}).corrupt_check_s == 5.0
    assert load([], {}).compact_hash_check_s == 60.0  # on by default
    assert load(["--experimental-compact-hash-check-enabled=false"], {}).compact_hash_check_s == 0
    assert load(["--experimental-compact-hash-check-time=5s"], {}).compact_hash_check_s == 5.0
    with pytest.raises(ConfigError, match=r"check-time must be >0 \(set to 0s\)"):
        load(["--experimental-compact-hash-check-time=0"], {})
