"""The Lease handlers of a leader and a follower that forwards to it (SURFACE 8.4)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pyetcd.proto import errors
from pyetcd.proto.errors import EtcdError
from pyetcd.proto.lease_pb2 import LeaseInternalRequest, LeaseInternalResponse
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from pyetcd.raft.types import Entry
from pyetcd.server.api import lease as lease_module
from pyetcd.server.api.base import Headers
from pyetcd.server.api.guard import LeaderGuard
from pyetcd.server.api.lease import LeaseApi
from pyetcd.store.alarms import Alarms
from pyetcd.store.apply import Applier
from pyetcd.store.auth import AuthStore
from pyetcd.store.backend import Backend
from pyetcd.store.lease import Lessor
from pyetcd.store.members import Members
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.tokens import SimpleTokens
from pyetcd.store.v2 import V2Store
from pyetcd.store.watch import WatchHub


class Call:
    """One unary call, as the handler sees it."""

    def __init__(self) -> None:
        self.payload: bytes | None = None
        self.error: tuple[int, str] | None = None

    def reply(self, payload: bytes) -> None:
        self.payload = payload

    def fail(self, code: int, text: str) -> None:
        self.error = (code, text)


class Stream:
    def __init__(self, ids: Sequence[int]) -> None:
        self.metadata: dict[str, str] = {}
        self.ids = ids
        self.answers: list[LeaseKeepAliveResponse] = []

    async def __aiter__(self) -> AsyncIterator[LeaseKeepAliveRequest]:
        for id in self.ids:
            yield LeaseKeepAliveRequest(ID=id)

    def send(self, payload: bytes) -> None:
        self.answers.append(LeaseKeepAliveResponse.FromString(payload))

    async def drain(self) -> None:
        return None


class Reads:
    """Linearizable at once, or the error that was set."""

    def __init__(self) -> None:
        self.error: EtcdError | None = None

    def wait(self, done: Callable[[EtcdError | None], None]) -> None:
        done(self.error)


class Term:
    term = 4


class Member:
    """One member's handlers over its own store; entries go to every member of `log`."""

    def __init__(self, path: Path, log: "list[Member]") -> None:
        self.backend = Backend.open(str(path), create=True)
        self.keyspace = Keyspace(self.backend)
        self.now_s = 100.0
        self.lessor = Lessor(self.backend, lambda: self.now_s)
        self.applier = Applier(
            keyspace=self.keyspace,
            lessor=self.lessor,
            members=Members(self.backend),
            alarms=Alarms(self.backend),
            hub=WatchHub(self.keyspace),
            auth=AuthStore(self.backend),
            tokens=SimpleTokens(lambda: self.now_s, ttl_s=300.0),
            v2=V2Store(self.backend, lambda: 0),
        )
        self.is_leader = False
        self.leader: Member | None = None
        self.reads = Reads()
        self.log = log
        self.proposed: list[InternalRaftRequest] = []
        self.id = 1 << 63  # auto ids must still come out positive
        self.posts: list[str] = []
        self.broken: list[tuple[int, bytes]] = []
        log.append(self)

    def start(self, timeout_s: float) -> None:
        self.api = LeaseApi(
            headers=Headers(9, 8, Term(), lambda: self.keyspace.revision),
            proposer=self,
            reads=self.reads,  # type: ignore[arg-type]
            lessor=self.lessor,
            leadership=self,
            guard=LeaderGuard(lambda: True, monotonic_s=lambda: 0.0, election_timeout_s=1.0),
            post=self.post,
            loop=asyncio.get_running_loop(),
            timeout_s=timeout_s,
        )

    def next_id(self) -> int:
        self.id += 1
        return self.id

    def propose(self, request: InternalRaftRequest, done: Callable[[Any], None]) -> None:
        request.header.ID = 1
        self.proposed.append(request)
        entry = Entry(1, 1, data=request.SerializeToString())
        answers = {id(member): member.applier.apply(entry).answer for member in self.log}
        asyncio.get_running_loop().call_soon(done, answers[id(self)])

    def leader_peer_urls(self) -> Sequence[str]:
        return ["http://dead:1", "http://leader:1"] if self.leader is not None else []

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        self.posts.append(url)
        if self.broken:
            return self.broken.pop(0)
        if url.startswith("http://dead:1"):
            return 0, b""
        assert self.leader is not None
        return await self.leader.api.handle_leases(url.removeprefix("http://leader:1"), body)

    async def keep_alive(self, *ids: int) -> list[LeaseKeepAliveResponse]:
        stream = Stream(ids)
        await self.api.lease_keep_alive(stream)  # type: ignore[arg-type]
        return stream.answers

    async def call(self, method: str, request: Any, kind: Any) -> Any:
        call = Call()
        getattr(self.api, method)(call, request)
        while call.payload is None and call.error is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return kind.FromString(call.payload) if call.payload is not None else call.error

    async def grant(self, id: int, ttl_s: int = 60) -> Any:
        request = LeaseGrantRequest(ID=id, TTL=ttl_s)
        return await self.call("lease_grant", request, LeaseGrantResponse)

    async def time_to_live(self, id: int, *, keys: bool = False) -> Any:
        request = LeaseTimeToLiveRequest(ID=id, keys=keys)
        return await self.call("lease_time_to_live", request, LeaseTimeToLiveResponse)


Test = Callable[[Member, Member], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    monkeypatch.setattr(lease_module, "FORWARD_PAUSE_S", 0.001)
    log: list[Member] = []
    leader, follower = Member(tmp_path / "1.db", log), Member(tmp_path / "2.db", log)
    leader.is_leader = True
    leader.lessor.promote(0)
    follower.leader = leader

    def go(test: Test, timeout_s: float = 5.0) -> None:
        async def main() -> None:
            leader.start(timeout_s)
            follower.start(timeout_s)
            await test(leader, follower)

        asyncio.run(main())

    yield go
    for member in log:
        member.backend.close()


def test_item_37_grant_picks_a_positive_id(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        picked = await leader.grant(0)
        assert picked.ID == 1 and picked.TTL == 60
        assert (picked.header.cluster_id, picked.header.member_id) == (9, 8)
        assert (picked.header.raft_term, picked.header.revision) == (4, 1)
        assert await leader.grant(1) == (9, "etcdserver: lease already exists")
        assert await leader.grant(5, 9_000_000_001) == (11, "etcdserver: too large lease TTL")

    run(test)


def test_item_38_missing_leases(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        for member in (leader, follower):
            (kept,) = await member.keep_alive(404)
            assert (kept.ID, kept.TTL, kept.header.revision) == (404, 0, 1)
            found = await member.time_to_live(404)
            assert (found.ID, found.TTL, found.grantedTTL, found.header.member_id) == (
                404, -1, 0, 8,
            )  # fmt: skip
            request = LeaseRevokeRequest(ID=404)
            assert await member.call("lease_revoke", request, LeaseRevokeResponse) == (
                5,
                "etcdserver: requested lease not found",
            )

    run(test)


def test_items_38_39_both_ask_the_leader(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        await follower.grant(7)
        txn = leader.keyspace.begin(leader.lessor)
        txn.put(b"b", b"", 7)
        txn.put(b"a", b"", 7)
        txn.end()
        leader.now_s += 10.5
        for member in (leader, follower):
            found = await member.time_to_live(7, keys=True)
            assert (found.TTL, found.grantedTTL, list(found.keys)) == (49, 60, [b"a", b"b"])
            assert (found.header.member_id, found.header.revision) == (
                8,
                member.keyspace.revision,
            )
            assert list((await member.time_to_live(7)).keys) == []
        (kept,) = await follower.keep_alive(7)
        assert kept.TTL == 60 and kept.header.cluster_id == 9
        assert (await leader.time_to_live(7)).TTL == 60
        assert set(follower.posts) == {
            "http://dead:1/leases",
            "http://leader:1/leases",
            "http://dead:1/leases/internal",
            "http://leader:1/leases/internal",
        }

    run(test)


def test_item_39_leases_are_listed_locally(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        await leader.grant(3, 30)
        await leader.grant(4, 10)
        follower.leader = None
        for member, ids in ((leader, [4, 3]), (follower, [3, 4])):
            listed = await member.call("lease_leases", LeaseLeasesRequest(), LeaseLeasesResponse)
            assert [lease.ID for lease in listed.leases] == ids
            assert listed.header.member_id == 8

    run(test)


def test_item_64_without_a_leader_keep_alive_says_so(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        follower.leader = None
        with pytest.raises(errors.NoLeader):
            await follower.keep_alive(1)
        assert await follower.time_to_live(1) == (14, "etcdserver: no leader")

    run(test, timeout_s=0.02)


def test_a_leader_that_does_not_answer_is_a_timeout(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        follower.broken = [(0, b"")] * 10_000
        with pytest.raises(errors.Timeout):
            await follower.keep_alive(1)

    run(test, timeout_s=0.02)


def test_item_64_a_leader_that_goes_away_meanwhile(run: Callable[..., None]) -> None:
    """What counts is whether there is one at the end (etcd: waitLeader)."""

    async def test(leader: Member, follower: Member) -> None:
        real = follower.post

        async def post(url: str, body: bytes) -> tuple[int, bytes]:
            follower.leader = None
            follower.broken = [(0, b"")]
            return await real(url, body)

        follower.api._post = post
        with pytest.raises(errors.NoLeader):
            await follower.keep_alive(1)
        follower.leader = leader
        assert await follower.time_to_live(1) == (14, "etcdserver: no leader")

    run(test, timeout_s=0.02)


def test_strange_answers_are_tried_again(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        await leader.grant(7)
        follower.broken = [(500, b"x"), (408, b"x"), (200, b"\xff"), (302, b""), (400, b"x")]
        (kept,) = await follower.keep_alive(7)
        assert kept.TTL == 60

    run(test)


def test_row_22_a_leader_proves_that_it_leads(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        await leader.grant(7)
        leader.reads.error = errors.LeaderChanged()
        with pytest.raises(errors.LeaderChanged):
            await leader.keep_alive(7)
        assert await leader.time_to_live(7) == (14, "etcdserver: leader changed")

    run(test)


def test_row_23_an_expired_lease_is_answered_once_it_is_settled(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        await leader.grant(7, 5)
        leader.now_s += 6
        asked = [asyncio.create_task(member.keep_alive(7)) for member in (leader, follower)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(task.done() for task in asked)
        await leader.call("lease_revoke", LeaseRevokeRequest(ID=7), LeaseRevokeResponse)
        for task in asked:
            (kept,) = await task
            assert kept.TTL == 0

    run(test)


def test_a_caller_that_goes_away_leaves_nothing_behind(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        await leader.grant(7, 5)
        leader.now_s += 6
        task = asyncio.create_task(leader.keep_alive(7))
        for _ in range(10):
            await asyncio.sleep(0)
        assert leader.lessor._waiting
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not leader.lessor._waiting

    run(test)


def test_item_42_a_renewal_first_forgets_the_checkpoint(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        await leader.grant(7, 3600)
        for member in (leader, follower):
            member.lessor.checkpoint(7, 900)
        await follower.keep_alive(7)
        await follower.keep_alive(7)
        resets = [r for r in leader.proposed if r.HasField("lease_checkpoint")]
        assert len(resets) == 1
        follower.lessor.promote(0)
        lease = follower.lessor.get(7)
        assert lease is not None and follower.lessor.remaining_s(lease) == 3600

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/leases", b"\xff", 400, b"error unmarshalling request\n"),
        ("/leases/internal", b"\xff", 400, b"error unmarshalling request\n"),
        ("/leases/other", b"", 400, b'unknown request path "/leases/other"\n'),
        ("/leases", bytes(65537), 413, b"request body too large\n"),
        ("/leases", b"\x08\x05", 404, b"lease not found\n"),
        ("/leases/internal", b"\x0a\x02\x08\x05", 404, b"lease not found\n"),
    ],
)
def test_refusals_to_peers(
    run: Callable[..., None], path: str, body: bytes, status: int, text: bytes
) -> None:
    async def test(leader: Member, follower: Member) -> None:
        assert await leader.api.handle_leases(path, body) == (status, text)

    run(test)


def test_a_follower_refuses_forwarded_questions(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        refusal = b"not a primary lessor\n"
        assert await follower.api.handle_leases("/leases", b"\x08\x05") == (400, refusal)
        body = LeaseInternalRequest().SerializeToString()
        assert await follower.api.handle_leases("/leases/internal", body) == (500, refusal)

    run(test)


def test_the_answer_to_a_peer_is_etcds(run: Callable[..., None]) -> None:
    async def test(leader: Member, follower: Member) -> None:
        await leader.grant(7)
        kept = await leader.api.handle_leases("/leases", b"\x08\x07")
        assert kept == (200, b"\x10\x07\x18\x3c")  # no header, as etcd's
        status, body = await leader.api.handle_leases("/leases/internal", b"\x0a\x02\x08\x07")
        assert status == 200
        answer = LeaseInternalResponse.FromString(body).LeaseTimeToLiveResponse
        assert (answer.HasField("header"), answer.ID, answer.TTL) == (True, 7, 60)

    run(test)


def test_a_peer_hears_of_a_read_that_takes_too_long(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "APPLY_TIMEOUT_S", 0.01)

    async def test(leader: Member, follower: Member) -> None:
        leader.reads.wait = lambda done: None  # type: ignore[method-assign]
        status, _ = await leader.api.handle_leases("/leases/internal", b"\x0a\x02\x08\x07")
        assert status == 408

    run(test)


def test_item_43_a_full_store_refuses_a_grant_before_raft(run: Callable[..., None]) -> None:
    class Full:
        def fits(self, request: InternalRaftRequest) -> bool:
            return not request.HasField("lease_grant")

        def raise_nospace(self, then: Callable[[], None]) -> None:
            then()

    async def test(leader: Member, follower: Member) -> None:
        leader.api._quota = Full()
        assert await leader.grant(3) == (8, "etcdserver: mvcc: database space exceeded")
        assert leader.proposed == []

    run(test)
