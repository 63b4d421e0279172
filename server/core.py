"""The heart of a member: raft, log, state machine and everything that turns between them.

No socket, no thread and no signal: what a member touches the outside with is handed in
(`Surroundings`), so that a process (member.py) and the simulator build the very same parts in the
very same order. Read `Core.__init__` for who knows whom.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import Message

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.raft.rawnode import Config as RaftConfig
from pyetcd.raft.rawnode import RawNode
from pyetcd.server import datadir
from pyetcd.server.access import Access
from pyetcd.server.api.auth import AuthApi
from pyetcd.server.api.base import Headers
from pyetcd.server.api.cluster import ClusterApi, Forward
from pyetcd.server.api.concurrency import ElectionApi, LockApi
from pyetcd.server.api.guard import LeaderGuard
from pyetcd.server.api.kv import KvApi
from pyetcd.server.api.large import RangeStreamApi, SnapshotApi
from pyetcd.server.api.lease import LeaseApi, Post
from pyetcd.server.api.local import Local
from pyetcd.server.api.maintenance import MaintenanceApi
from pyetcd.server.api.times import TimesApi
from pyetcd.server.api.watch import WatchApi
from pyetcd.server.chores import COMPACT_PAUSE_S, Chores
from pyetcd.server.clock import Clock, Rng
from pyetcd.server.compactor import Compactor
from pyetcd.server.datadir import DataDir
from pyetcd.server.facts import Facts
from pyetcd.server.http.v2base import V2Base
from pyetcd.server.http.v2members import V2Api
from pyetcd.server.http.v2stats import V2Stats
from pyetcd.server.jwt_tokens import JwtOptions, JwtTokens
from pyetcd.server.loop import SLOW_APPLY_S, Commits, Driver, TickListener
from pyetcd.server.machine import (
    COMMIT_CHANGES_MAX,
    COMMIT_INTERVAL_S,
    TOKEN_TTL_S,
    StateMachine,
    load_conf_state,
)
from pyetcd.server.membership import Membership
from pyetcd.server.passwords import COST_DEFAULT, Passwords
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.propose import Proposer, RequestIds
from pyetcd.server.reads import LinearizableReads
from pyetcd.server.replica import Machine, Replica
from pyetcd.server.space import SpaceWatch
from pyetcd.server.turns import Turns
from pyetcd.server.workers import Workers
from pyetcd.store.lease import CHECKPOINT_INTERVAL_S, ttl_min_s
from pyetcd.store.members import Member as Peer
from pyetcd.store.space import Reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The numbers of a Config that the core goes by."""

    tick_s: float
    election_ticks: int
    pre_vote: bool
    message_bytes_max: int
    committed_bytes_max: int
    uncommitted_bytes_max: int
    inflight_max: int
    inflight_bytes_max: int
    snapshot_count: int
    catchup_entries: int
    quota_bytes: int
    request_timeout_s: float
    request_bytes_max: int
    txn_ops_max: int
    progress_interval_s: float
    strict_reconfig_check: bool
    jwt: JwtOptions | None = None
    token_ttl_s: float = TOKEN_TTL_S
    bcrypt_cost: int = COST_DEFAULT
    client_cert_auth: bool = False
    compaction_period_s: float = 0.0  # of automatic compaction, by age or by count; 0 for none
    compaction_revisions: int = 0
    commit_interval_s: float = COMMIT_INTERVAL_S  # of the keyspace, by time and by size
    commit_changes_max: int = COMMIT_CHANGES_MAX
    compact_rows_max: int | None = None  # in a slice of the physical compaction, then it rests
    compact_pause_s: float = COMPACT_PAUSE_S
    lease_checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S  # 0 for none
    slow_apply_s: float = SLOW_APPLY_S
    ids_salt: int = 0  # see propose.RequestIds; random in a process

    @property
    def election_timeout_s(self) -> float:
        return self.election_ticks * self.tick_s

    @property
    def lease_ttl_min_s(self) -> int:
        return ttl_min_s(election_ticks=self.election_ticks, tick_ms=round(self.tick_s * 1000))


class Surroundings(Protocol):
    """What a core is put into: a process, or a simulated one."""

    loop: asyncio.AbstractEventLoop
    clock: Clock
    rng: Rng
    workers: Workers

    def make_transport(self, membership: Membership) -> PeerTransport:
        """The way to the peers; made once."""

    def commits(self) -> Commits | None:
        """What runs the log's commits; None for a thread."""

    def watched(self, machine: StateMachine) -> Machine:
        """The machine as the replica shall see it: itself, or with somebody looking on."""

    def proposing(self, proposer: Proposer) -> Proposer:
        """The proposer as the services shall see it."""

    async def common_version(self) -> str:
        """The cluster version that all members can run; empty while one of them is silent."""

    def post(self, url: str, body: bytes) -> Awaitable[tuple[int, bytes]]:
        """Ask another member over its peer port; status 0 when it does not answer."""

    def forward_promotion(self, facts: Facts) -> Forward | None:
        """Asks the leader to promote a learner; None for who must ask the leader itself."""

    def removed(self) -> None:
        """This member is no longer one."""

    def fatal(self, error: BaseException) -> None:
        """Nothing may be answered any more."""


class Core:
    """Raft over the log, the state machine over the keyspace, and who asks them."""

    def __init__(self, data: DataDir, tuning: Tuning, around: Surroundings) -> None:
        self.tuning = tuning
        self.id = data.wal.member_id
        self.cluster_id = data.wal.cluster_id
        self.loop = loop = around.loop
        self.space: SpaceWatch | None = None
        self.v2_base: V2Base | None = None  # of a member that serves the v2 API
        self.listeners: list[TickListener] = []  # further ones, for `start`
        clock = around.clock
        self._monotonic_s = clock.monotonic_s
        self._wall_s = clock.wall_s
        self.workers = around.workers
        datadir.settle(data, load_conf_state(data.backend))
        self.machine = StateMachine(
            data.backend,
            data.wal,
            member_id=self.id,
            monotonic_s=clock.monotonic_s,
            wall_s=clock.wall_s,
            lease_ttl_min_s=tuning.lease_ttl_min_s,
            quota_bytes=tuning.quota_bytes,
            snapshot_count=tuning.snapshot_count,
            catchup_entries=tuning.catchup_entries,
            run=self.workers.run,
            quiesce=self.workers.quiesce,
            token_ttl_s=tuning.token_ttl_s,
            commit_interval_s=tuning.commit_interval_s,
            commit_changes_max=tuning.commit_changes_max,
            lease_checkpoint_interval_s=tuning.lease_checkpoint_interval_s,
        )
        self.node = node = _node(data, tuning, around.rng)
        self.membership = Membership(
            member_id=self.id,
            members=self.machine.members,
            clock=clock,
            timeout_s=tuning.request_timeout_s,
            strict_reconfig_check=tuning.strict_reconfig_check,
            removed=around.removed,
        )
        self.transport = around.make_transport(self.membership)
        self.turns = Turns(
            member_id=self.id,
            machine=self.machine,
            membership=self.membership,
            transport=self.transport,
            workers=self.workers,
            loop=loop,
        )
        self.replica = Replica(
            node=node,
            wal=data.wal,
            machine=around.watched(self.machine),
            transport=self.transport,
            observer=self.turns,
            applied_index=data.backend.applied_index,
        )
        self.driver = Driver(
            self.replica,
            loop=loop,
            tick_s=tuning.tick_s,
            held_ticks=tuning.election_ticks,
            fatal=around.fatal,
            thread=around.commits(),
            slow_apply_s=tuning.slow_apply_s,
        )
        ids = RequestIds(self.id, clock.wall_s(), salt=tuning.ids_salt)
        self.proposer = Proposer(
            self.driver,
            ids,
            monotonic_s=clock.monotonic_s,
            request_bytes_max=tuning.request_bytes_max,
            timeout_s=tuning.request_timeout_s,
            election_timeout_s=tuning.election_timeout_s,
        )
        self.reads = LinearizableReads(
            self.driver,
            next_id=ids.next,
            monotonic_s=clock.monotonic_s,
            timeout_s=tuning.request_timeout_s,
        )
        self.chores = Chores(
            node=node,
            machine=self.machine,
            proposer=self.proposer,
            reads=self.reads,
            loop=loop,
            monotonic_s=clock.monotonic_s,
            election_timeout_s=tuning.election_timeout_s,
            versions=around.common_version,
            kv_path=data.backend.path,
            compact_rows_max=tuning.compact_rows_max,
            compact_pause_s=tuning.compact_pause_s,
        )
        self.compactor = Compactor(
            node=node,
            proposer=self.proposer,
            revision=lambda: self.machine.revision,
            monotonic_s=clock.monotonic_s,
            period_s=tuning.compaction_period_s,
            revisions=tuning.compaction_revisions,
        )
        self.driver.bind(self.reads)
        self.membership.bind(self.driver, self.proposer, self.transport)
        self.turns.bind(
            driver=self.driver, proposer=self.proposer, reads=self.reads, chores=self.chores
        )
        self.guard = LeaderGuard(
            lambda: node.leader != 0,
            monotonic_s=clock.monotonic_s,
            election_timeout_s=tuning.election_timeout_s,
        )
        self.facts = Facts(
            self.id,
            node=node,
            machine=self.machine,
            membership=self.membership,
            turns=self.turns,
            reads=self.reads,
            driver=self.driver,
            loop=loop,
        )
        self.guard.is_learner = lambda: self.facts.is_learner
        self.access = Access(
            self.machine.auth,
            self.machine.tokens,
            self.machine.lessor,
            jwt=None if tuning.jwt is None else JwtTokens(tuning.jwt, clock.wall_s),
            client_cert_auth=tuning.client_cert_auth,
            applied_index=lambda: self.facts.applied_index,
            loop=loop,
        )
        self.services = Services(self, around)

    def v2_api(self) -> V2Api:
        """The handlers of the v2 API, for a member that serves it."""
        base = self.v2_base = V2Base(
            self.machine.v2,
            proposer=self.services.proposer,
            raft=self.node,
            cluster_id=self.cluster_id,
            wall_s=self._wall_s,
            loop=self.loop,
            is_full=lambda: self.space is not None and self.space.is_full,
        )
        return V2Api(
            base,
            Passwords(self.workers.run, cost=COST_DEFAULT),
            certified=self.tuning.client_cert_auth,
            local=self.services.local,
            members=self.machine.members,
            stats=V2Stats(
                base,
                members=self.machine.members,
                member_id=self.id,
                role=self.facts,
                links=lambda: self.transport.counters,
                loop_s=self.loop.time,
                leader_since_s=lambda: self.turns.leader_since_s,
            ),
        )

    def watch_space(self, reserve: Reserve) -> None:
        """Before `start`, for a member on a disk that can be full."""
        self.space = SpaceWatch(
            reserve,
            machine=self.machine,
            proposer=self.proposer,
            monotonic_s=self._monotonic_s,
        )
        self.facts.space = self.turns.space = self.space

    def meet(self, known_peers: Sequence[Peer]) -> None:
        """Know the peers: those of the plan, before the log tells of them, and the members."""
        for peer in known_peers:
            self.transport.add_peer(peer.id, peer.peer_urls)
        if len(self.machine.members):
            self.membership.changed()

    def start(self) -> None:
        """Begin to tick."""
        listeners: list[TickListener] = [
            self.chores,
            self.membership,
            self.guard,
            self.compactor,
            *self.listeners,
        ]
        if self.space is not None:
            listeners.insert(0, self.space)  # before the chores commit
        self.driver.start(listeners)
        self.chores.compact_soon()

    def publish(
        self, name: str, client_urls: Sequence[str], done: Callable[[Message | EtcdError], None]
    ) -> None:
        """Tell the cluster this member's name and client URLs."""
        request = InternalRaftRequest()
        change = request.cluster_member_attr_set
        change.member_ID = self.id
        change.member_attributes.name = name
        change.member_attributes.client_urls.extend(client_urls)
        self.proposer.propose(request, done)


class Services:
    """The handlers behind the RPCs."""

    def __init__(self, core: Core, around: Surroundings) -> None:
        tuning, machine, facts = core.tuning, core.machine, core.facts
        node = core.node
        headers = Headers(core.cluster_id, core.id, node, lambda: machine.revision)
        self.proposer = proposer = around.proposing(core.proposer)
        post: Post = around.post
        access = core.access
        self.kv = KvApi(
            headers=headers,
            proposer=proposer,
            reads=core.reads,
            store=machine,
            quota=facts,
            txn_ops_max=tuning.txn_ops_max,
            access=access,
        )
        self.watch = WatchApi(
            machine.hub,
            headers,
            guard=core.guard,
            loop=core.loop,
            fatal=around.fatal,
            request_bytes_max=tuning.request_bytes_max,
            progress_interval_s=tuning.progress_interval_s,
            authorize=access.refusal_of_watch,
        )
        self.lease = LeaseApi(
            headers=headers,
            proposer=proposer,
            reads=core.reads,
            lessor=machine.lessor,
            leadership=facts,
            guard=core.guard,
            quota=facts,
            post=post,
            loop=core.loop,
            timeout_s=tuning.request_timeout_s,
            access=access,
        )
        self.cluster = ClusterApi(
            headers=headers,
            reads=core.reads,
            members=machine.members,
            configurer=core.membership,
            forward=around.forward_promotion(facts),
        )
        self.maintenance = MaintenanceApi(headers=headers, proposer=proposer, member=facts)
        self.times = TimesApi(headers=headers, times=machine.times)
        self.snapshot = SnapshotApi(machine, core.loop)
        self.range_stream = RangeStreamApi(
            headers=headers,
            reads=core.reads,
            store=machine,
            loop=core.loop,
            chunk_bytes=tuning.request_bytes_max,
            access=access,
        )
        self.auth = AuthApi(
            headers=headers,
            proposer=proposer,
            reads=core.reads,
            access=access,
            passwords=Passwords(core.workers.run, cost=tuning.bcrypt_cost),
            rng=around.rng,
        )
        self.local = Local(core.loop)
        self.lock = LockApi(self.local)
        self.election = ElectionApi(self.local)


def _node(data: DataDir, tuning: Tuning, rng: Rng) -> RawNode:
    return RawNode(
        RaftConfig(
            id=data.wal.member_id,
            storage=data.wal,
            rng=rng,
            election_ticks=tuning.election_ticks,
            applied=data.backend.applied_index,
            message_bytes_max=tuning.message_bytes_max,
            committed_bytes_max=tuning.committed_bytes_max,
            uncommitted_bytes_max=tuning.uncommitted_bytes_max,
            inflight_max=tuning.inflight_max,
            inflight_bytes_max=tuning.inflight_bytes_max,
            pre_vote=tuning.pre_vote,
            # It leads on until it stops: see member.REMOVED_STOP_S.
            step_down_on_removal=False,
        )
    )
