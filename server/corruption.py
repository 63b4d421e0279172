"""Whether the members still have the same data: their hashes compared, CORRUPT raised when not.

Strategy. Three looks, as etcd's (etcdserver/corrupt.go); all hashes are HashKV, made in threads.
- `initial`: a member that starts again compares its own with what its peers answer at its revision,
  and does not start with other data (--experimental-initial-corrupt-check). A new one has none.
  With most members on its side it starts: one bad member must not keep the good ones away.
- every --experimental-corrupt-check-time the leader hashes the newest revision, unless all members
  agreed on it the last time: an idle cluster pays nothing.
- after a compaction the leader hashes the compact revision, which is equally old everywhere
  (--experimental-compact-hash-check-enabled), until all members have agreed on it; less and less
  often while one of them cannot say, as an etcd before 3.5.10 or who is down.

Rules. Hashes are comparable between members with the same compact revision only; who does not
answer, is behind or has compacted further is not judged. Who is in the minority is named in the
alarm; without a majority nobody is, and the alarm is of member 0, as in etcd 3.5.

Limits. One look at a time; a look that takes longer than its interval delays the next one.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import CORRUPT, AlarmRequest, HashKVResponse
from pyetcd.server.logs import get
from pyetcd.server.peer.client import HttpClient, Unreachable

HASH_PATH: Final = "/members/hashkv"
ANSWER_BYTES_MAX: Final = 4096
TRIES_MAX: Final = 6  # then every 64 intervals


@dataclass(frozen=True, slots=True)
class Found:
    """One member's hash at the revision that was asked for."""

    hash: int
    compact_revision: int
    revision: int  # the member's newest


# Asks the peers for their hashes at a revision; those that could not say are left out.
AskPeers = Callable[[int], Awaitable[dict[int, Found]]]


class Proposer(Protocol):
    def propose(
        self, request: InternalRaftRequest, done: Callable[[Message | EtcdError], None]
    ) -> None: ...


class Store(Protocol):
    """What is hashed."""

    def hash_kv(
        self, revision: int, done: Callable[[HashKVResponse | EtcdError], None]
    ) -> None: ...


class CorruptionWatch:
    """Called after every raft tick."""

    def __init__(
        self,
        member_id: int,
        *,
        store: Store,
        proposer: Proposer,
        is_leader: Callable[[], bool],
        newest: Callable[[], int],
        compacted: Callable[[], int],
        members: Callable[[], int],
        is_alarmed: Callable[[], bool],
        ask_peers: AskPeers,
        loop: asyncio.AbstractEventLoop,
        monotonic_s: Callable[[], float],
        every_s: float,
        compact_every_s: float,
    ) -> None:
        """0 seconds are never. `newest`: the current revision; `compacted`: the compact one, whose
        rows are gone; `members`: how many there are; `is_alarmed`: whether CORRUPT is set."""
        self._member_id = member_id
        self._store = store
        self._proposer = proposer
        self._is_leader = is_leader
        self._newest = newest
        self._compacted = compacted
        self._members = members
        self._is_alarmed = is_alarmed
        self._ask_peers = ask_peers
        self._loop = loop
        self._monotonic_s = monotonic_s
        self._every_s = every_s
        self._compact_every_s = compact_every_s
        now_s = monotonic_s()
        self._newest_at_s = now_s + every_s
        self._compact_at_s = now_s + compact_every_s
        self._checked_revision = 0
        self._checked_newest = (0, 0)  # the newest and the compact revision of an agreement
        self._tried_revision = self._tries = 0
        self._looking: asyncio.Task[None] | None = None
        self._log = get("corruption")

    def ticked(self) -> None:
        if not self._is_leader() or self._looking is not None:
            return
        now_s = self._monotonic_s()
        revision = self._compacted()
        if revision != self._tried_revision:
            self._tried_revision, self._tries = revision, 0
            self._compact_at_s = min(self._compact_at_s, now_s + self._compact_every_s)
        if self._every_s and now_s >= self._newest_at_s:
            self._newest_at_s = now_s + self._every_s
            if (self._newest(), revision) == self._checked_newest:
                return
            self._look(self._compare_newest())
        elif self._compact_every_s and now_s >= self._compact_at_s:
            self._compact_at_s = now_s + self._compact_every_s * 2**self._tries
            if revision > self._checked_revision:
                self._tries = min(self._tries + 1, TRIES_MAX)
                self._look(self._compare_compacted())

    def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    async def initial(self) -> str:
        """Why this member must not start; empty when nothing speaks against it."""
        if self._members() <= 1:
            return ""
        id_text = f"{self._member_id:x}"
        self._log.info("starting initial corruption check", local_member_id=id_text)
        try:
            mine = await self._own_hash(0)
        except EtcdError as error:
            return f"{id_text} failed to fetch hash ({error.text})"
        peers = await self._ask_peers(mine.revision)
        others = _differing(mine, peers)
        for id in others:
            self._tell("found different hash values from remote peer", mine, id, peers[id])
        blamed = _to_blame(self._member_id, mine, peers, self._members()) if others else []
        if 0 in blamed or self._member_id in blamed:
            return f"{id_text} found data inconsistency with peers"
        if others:
            self._log.warn("most members have this data; starting", local_member_id=id_text)
            return ""
        self._log.info(
            "initial corruption checking passed; no corruption",
            local_member_id=id_text,
            number_of_peers_checked=len(_comparable(mine, peers)),
        )
        return ""

    def _look(self, work: "asyncio._CoroutineLike[None]") -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._looking = task
        task.add_done_callback(self._looked)

    def _looked(self, task: "asyncio.Task[None]") -> None:
        self._looking = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, EtcdError):
            self._log.warn("failed to compare hashes", error=error.text)
        elif error is not None:
            raise error

    async def _compare_newest(self) -> None:
        mine = await self._own_hash(0)
        peers = await self._ask_peers(mine.revision)
        alarmed = self._judge(mine, peers)
        if not alarmed and len(_comparable(mine, peers)) + 1 >= self._members():
            self._checked_newest = (mine.revision, mine.compact_revision)
        self._log.info("finished peer corruption check", number_of_peers_checked=len(peers))

    async def _compare_compacted(self) -> None:
        revision = self._compacted()
        mine = await self._own_hash(revision)
        if mine.compact_revision != revision:
            return  # compacted again meanwhile: next time
        peers = await self._ask_peers(revision)
        if self._judge(mine, peers):
            return
        checked = _comparable(mine, peers)
        if len(checked) + 1 >= self._members():
            self._checked_revision = revision
            self._log.info(
                "finished compaction hash check",
                compact_revision=revision,
                number_of_peers_checked=len(checked),
            )

    def _judge(self, mine: Found, peers: dict[int, Found]) -> bool:
        """Whether somebody has other data; then the alarm is raised."""
        others = _differing(mine, peers)
        if not others:
            return False
        for id in others:
            self._tell("same compact revision then hashes must match", mine, id, peers[id])
        blamed = _to_blame(self._member_id, mine, peers, self._members())
        if blamed == [0] and self._is_alarmed():
            return True  # an alarm that names nobody adds nothing to one that may
        for id in blamed:
            request = InternalRaftRequest()
            request.alarm.action = AlarmRequest.ACTIVATE
            request.alarm.alarm = CORRUPT
            request.alarm.memberID = id
            self._proposer.propose(request, _ignore)
        return True

    def _tell(self, msg: str, mine: Found, id: int, theirs: Found) -> None:
        self._log.error(
            msg,
            local_member_id=f"{self._member_id:x}",
            local_member_revision=mine.revision,
            local_member_compact_revision=mine.compact_revision,
            local_member_hash=mine.hash,
            remote_peer_id=f"{id:x}",
            remote_peer_revision=theirs.revision,
            remote_peer_compact_revision=theirs.compact_revision,
            remote_peer_hash=theirs.hash,
        )

    async def _own_hash(self, revision: int) -> Found:
        answered: asyncio.Future[Found] = self._loop.create_future()

        def done(answer: HashKVResponse | EtcdError) -> None:
            if answered.done():
                return
            if isinstance(answer, EtcdError):
                answered.set_exception(answer)
            else:
                newest = answer.header.revision
                answered.set_result(Found(answer.hash, answer.compact_revision, newest))

        self._store.hash_kv(revision, done)
        return await answered


def _comparable(mine: Found, peers: dict[int, Found]) -> dict[int, Found]:
    return {id: e for id, e in peers.items() if e.compact_revision == mine.compact_revision}


def _differing(mine: Found, peers: dict[int, Found]) -> list[int]:
    return sorted(id for id, e in _comparable(mine, peers).items() if e.hash != mine.hash)


def _to_blame(member_id: int, mine: Found, peers: dict[int, Found], members: int) -> list[int]:
    """Who does not have what most members have; 0 when that cannot be said."""
    everyone = _comparable(mine, {member_id: mine, **peers})
    comparable = {id: found.hash for id, found in everyone.items()}
    hash, count = Counter(comparable.values()).most_common(1)[0]
    if count <= members // 2:
        return [0]
    return sorted(id for id, other in comparable.items() if other != hash)


def ask_over(
    client: HttpClient,
    peers: Callable[[], Sequence[tuple[int, Sequence[str]]]],
    cluster_id: int,
    timeout_s: float,
) -> AskPeers:
    """By GET /members/hashkv, each peer at the first of its URLs that answers."""
    headers = {"Content-Type": "application/json", "X-Etcd-Cluster-ID": f"{cluster_id:x}"}

    async def ask(urls: Sequence[str], body: bytes) -> Found | None:
        for url in urls:
            try:
                answer = await client.request(
                    "GET",
                    url,
                    HASH_PATH,
                    headers=headers,
                    timeout_s=timeout_s,
                    body=body,
                    body_bytes_max=ANSWER_BYTES_MAX,
                )
            except (Unreachable, OSError) as error:
                get("corruption").warn("failed hash kv request", address=url, error=str(error))
                continue
            if answer.status == 200:
                return parse(answer.body)
            text = answer.body[:200].decode(errors="replace").strip()
            get("corruption").warn("failed hash kv request", address=url, error=text)
        return None

    async def ask_all(revision: int) -> dict[int, Found]:
        body = json.dumps({"revision": revision}).encode()
        asked = peers()
        answers = await asyncio.gather(*(ask(urls, body) for _, urls in asked))
        pairs = zip((id for id, _ in asked), answers, strict=True)
        return {id: found for id, found in pairs if found is not None}

    return ask_all


def parse(body: bytes) -> Found | None:
    """Etcd's JSON, in which what is zero is left out; None if it is something else."""
    try:
        fields: Any = json.loads(body)
        return Found(
            int(fields.get("hash", 0)),
            int(fields.get("compact_revision", 0)),
            int((fields.get("header") or {}).get("revision", 0)),
        )
    except (ValueError, TypeError, AttributeError):
        return None


def _ignore(answer: Message | EtcdError) -> None:
    """The next look sees whether it worked."""
