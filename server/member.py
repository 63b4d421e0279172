"""The composition root: one member built from its Config, started, run and stopped in order.

Everything else receives what it needs in its constructor; here it is decided what that is. Read
`Member.__init__` for who knows whom, `start` and `stop` for what must come before what.

Rules. Sockets are bound and the start is planned before anything is created on disk. Clients are
served once this member has published itself through the log, as in etcd: until then connections
wait in the backlog. A failed disk, a lost log or a bug of ours ends the process at once, without
the orderly stop: what is in memory may no longer be true.
"""

import asyncio
import gc
import os
import signal
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.message import Message

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.raft.rawnode import Config as RaftConfig
from pyetcd.raft.rawnode import RawNode
from pyetcd.raft.types import LogLost
from pyetcd.server import datadir, logs
from pyetcd.server.api.base import Headers
from pyetcd.server.api.guard import LeaderGuard
from pyetcd.server.bootstrap import BootstrapError, InitialCluster, Plan, plan_start
from pyetcd.server.chores import Chores
from pyetcd.server.clock import SystemClock, system_rng
from pyetcd.server.config import Config
from pyetcd.server.datadir import DataDir
from pyetcd.server.facts import Facts
from pyetcd.server.feeds import feed
from pyetcd.server.forced import go_on_alone
from pyetcd.server.loop import Driver
from pyetcd.server.machine import StateMachine, load_conf_state
from pyetcd.server.membership import Membership
from pyetcd.server.metrics import Metrics
from pyetcd.server.peer.client import HttpClient
from pyetcd.server.peer.handshake import Identity
from pyetcd.server.peer.survey import fetch_versions
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.propose import Proposer, RequestIds
from pyetcd.server.reads import LinearizableReads
from pyetcd.server.replica import Replica
from pyetcd.server.serving import Serving
from pyetcd.server.startup import Bound, StartupRefused, bind_all, notify_ready
from pyetcd.server.turns import Turns
from pyetcd.server.version import SERVER_VERSION, pyetcd_version
from pyetcd.server.workers import Workers
from pyetcd.store import members
from pyetcd.store.db import ForeignFile, StorageFailure
from pyetcd.store.lease import ttl_min_s
from pyetcd.store.lockfile import LockFile

STOP_GRACE_S = 2.0  # for requests that are under way when the process is told to stop
# A removed member goes on for this long (etcd: stopWithDelay). Its word that the removal is
# committed may be lost the first time, and of a cluster of two nobody else could ever find it out.
REMOVED_STOP_S = 1.0
PUBLISH_AGAIN_S = 1.0
PUBLISH_RETRY_S = 0.1
HURRY_PAUSE_S = 0.05
HURRY_TRIES = 100  # five seconds, as etcd waits for its peers
DISK_EXIT = 1
# etcd's raft limits (server/etcdserver/raft.go: maxSizePerMsg, maxInflightMsgs).
MESSAGE_BYTES_MAX = 512 * 1024
INFLIGHT_MAX = 512
INFLIGHT_BYTES_MAX = 64 << 20
COMMITTED_BYTES_MAX = 4 << 20
UNCOMMITTED_BYTES_MAX = 256 << 20


def run(config: Config) -> int:
    """Serve until a signal, a removal or a failure; the exit status, 128 + number for a signal.

    Raises StartupRefused when the member cannot start; then nothing was created or changed.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(config))


async def _main(config: Config) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 128 + number)
    member = await Member.open(config, end)
    loop.set_exception_handler(member.on_loop_error)
    await member.start()
    logs.release()
    status = await ended
    await member.stop()
    return status


def _bind(config: Config) -> tuple[list[Bound], list[Bound]]:
    """Listening sockets for clients and peers; all of them, or StartupRefused and none."""
    reuse_port = config.socket_reuse_port
    clients = bind_all("listen-client-urls", config.listen_client_urls, reuse_port=reuse_port)
    try:
        peers = bind_all("listen-peer-urls", config.listen_peer_urls, reuse_port=reuse_port)
    except BaseException:
        _close(clients)
        raise
    return clients, peers


def _close(sockets: list[Bound]) -> None:
    for bound in sockets:
        bound.socket.close()


async def _open_data(config: Config, peer_client: HttpClient) -> tuple[DataDir, Plan | None]:
    """The data directory, as it was or made new after the start was planned."""
    path = config.data_dir
    try:
        if datadir.has_member(path):
            datadir.look(path, config)
            data = datadir.reopen(path, lock=LockFile.claim(config.member_dir))
            if config.force_new_cluster:
                _force_new_cluster(config, data)
            return data, None
        datadir.refuse_foreign(path)
        initial = InitialCluster(
            name=config.name,
            urls_by_name={n: tuple(sorted(u)) for n, u in config.initial_urls().items()},
            token=config.initial_cluster_token,
            advertised=tuple(url.text for url in config.initial_advertise_peer_urls),
            is_new=config.is_new_cluster,
        )
        plan = await plan_start(initial, peer_client)
        lock = LockFile.claim(config.member_dir)
        return datadir.create(path, plan=plan, token=config.initial_cluster_token, lock=lock), plan
    except (ForeignFile, BootstrapError, StorageFailure, ValueError) as error:
        raise StartupRefused(str(error)) from error


def _force_new_cluster(config: Config, data: DataDir) -> None:
    try:
        removed = go_on_alone(data, [url.text for url in config.initial_advertise_peer_urls])
    except BaseException:
        data.abandon()
        raise
    logs.get("member").warn(
        "forcing restart member as the only one of its cluster; remove --force-new-cluster now",
        cluster_id=f"{data.wal.cluster_id:x}",
        local_member_id=f"{data.wal.member_id:x}",
        removed_member_ids=[f"{id:x}" for id in removed],
        commit_index=data.wal.hard_state.commit,
    )


def _build_machine(
    config: Config, data: DataDir, workers: Workers, clock: SystemClock
) -> StateMachine:
    datadir.settle(data, load_conf_state(data.backend))
    return StateMachine(
        data.backend,
        data.wal,
        member_id=data.wal.member_id,
        monotonic_s=clock.monotonic_s,
        lease_ttl_min_s=ttl_min_s(
            election_ticks=config.election_ticks, tick_ms=config.heartbeat_interval_ms
        ),
        quota_bytes=config.quota_bytes,
        snapshot_count=config.snapshot_count,
        catchup_entries=config.experimental_snapshot_catchup_entries,
        run=workers.run,
        quiesce=workers.quiesce,
    )


def _build_node(config: Config, data: DataDir) -> RawNode:
    return RawNode(
        RaftConfig(
            id=data.wal.member_id,
            storage=data.wal,
            rng=system_rng(),
            election_ticks=config.election_ticks,
            applied=data.backend.applied_index,
            message_bytes_max=MESSAGE_BYTES_MAX,
            committed_bytes_max=COMMITTED_BYTES_MAX,
            uncommitted_bytes_max=UNCOMMITTED_BYTES_MAX,
            inflight_max=INFLIGHT_MAX,
            inflight_bytes_max=INFLIGHT_BYTES_MAX,
            pre_vote=config.pre_vote,
            # It leads on until it stops: see REMOVED_STOP_S.
            step_down_on_removal=False,
        )
    )


def _identity(config: Config, data: DataDir) -> Identity:
    urls = tuple(url.text for url in config.initial_advertise_peer_urls)
    return Identity(data.wal.member_id, data.wal.cluster_id, urls, pyetcd_version())


def _answer(future: "asyncio.Future[Message | EtcdError]", answer: Message | EtcdError) -> None:
    if not future.done():
        future.set_result(answer)


class Member:
    """One running member."""

    @classmethod
    async def open(cls, config: Config, end: Callable[[int], None]) -> "Member":
        """Bind, plan, open the data directory, build; nothing runs yet."""
        clients, peers = _bind(config)
        dial_s = 1 + config.election_timeout_ms / 1000
        peer_client = HttpClient(dial_timeout_s=dial_s)
        try:
            data, plan = await _open_data(config, peer_client)
        except BaseException:
            _close(clients + peers)
            raise
        finally:
            peer_client.close()
        try:
            return cls(config, data, plan, clients, peers, end)
        except LogLost as error:
            _close(clients + peers)
            data.abandon()
            raise StartupRefused(
                f"{config.data_dir}: the log has lost entries that were acknowledged"
                f" ({error.detail}); remove this member from the cluster, empty its data directory"
                " and add it again"
            ) from error

    def __init__(
        self,
        config: Config,
        data: DataDir,
        plan: Plan | None,
        clients: list[Bound],
        peers: list[Bound],
        end: Callable[[int], None],
    ) -> None:
        self.config = config
        self.id = data.wal.member_id
        self.cluster_id = data.wal.cluster_id
        self._data = data
        self._end = end
        self._is_removed = False
        self._log = logs.get("member")
        self._loop = loop = asyncio.get_running_loop()
        clock = SystemClock()
        tick_s = config.heartbeat_interval_ms / 1000
        timeout_s = config.request_timeout_s
        self.workers = Workers(loop, self.fatal)
        self.machine = _build_machine(config, data, self.workers, clock)
        node = _build_node(config, data)
        self.membership = Membership(
            member_id=self.id,
            members=self.machine.members,
            clock=clock,
            timeout_s=timeout_s,
            strict_reconfig_check=config.strict_reconfig_check,
            removed=self._removed,
        )
        self.transport = PeerTransport(
            _identity(config, data),
            self.membership,
            installer=datadir.KeyspaceInstaller(data.backend.path),
            dial_timeout_s=1 + config.election_timeout_ms / 1000,
        )
        self.turns = Turns(
            member_id=self.id,
            machine=self.machine,
            membership=self.membership,
            transport=self.transport,
            workers=self.workers,
            loop=loop,
        )
        replica = Replica(
            node=node,
            wal=data.wal,
            machine=self.machine,
            transport=self.transport,
            observer=self.turns,
            applied_index=data.backend.applied_index,
        )
        self.driver = Driver(
            replica,
            loop=loop,
            tick_s=tick_s,
            held_ticks=config.election_ticks,
            fatal=self.fatal,
        )
        ids = RequestIds(self.id, clock.wall_s())
        self.proposer = Proposer(
            self.driver,
            ids,
            monotonic_s=clock.monotonic_s,
            request_bytes_max=config.max_request_bytes,
            timeout_s=timeout_s,
        )
        self.reads = LinearizableReads(
            self.driver, next_id=ids.next, monotonic_s=clock.monotonic_s, timeout_s=timeout_s
        )
        self.chores = Chores(
            node=node,
            machine=self.machine,
            proposer=self.proposer,
            reads=self.reads,
            loop=loop,
            monotonic_s=clock.monotonic_s,
            election_timeout_s=config.election_timeout_ms / 1000,
            versions=self._common_version,
            kv_path=data.backend.path,
        )
        self.driver.bind(self.reads)
        self.membership.bind(self.driver, self.proposer, self.transport)
        self.turns.bind(
            driver=self.driver, proposer=self.proposer, reads=self.reads, chores=self.chores
        )
        self.guard = LeaderGuard(
            lambda: node.leader != 0,
            monotonic_s=clock.monotonic_s,
            election_timeout_s=config.election_timeout_ms / 1000,
        )
        facts = Facts(
            self.id,
            node=node,
            machine=self.machine,
            membership=self.membership,
            turns=self.turns,
            reads=self.reads,
            loop=loop,
        )
        metrics = Metrics(extensive=config.metrics_extensive)
        self.serving = Serving(
            config,
            clients,
            peers,
            headers=Headers(self.cluster_id, self.id, node, lambda: self.machine.revision),
            facts=facts,
            guard=self.guard,
            machine=self.machine,
            proposer=self.proposer,
            reads=self.reads,
            membership=self.membership,
            transport=self.transport,
            metrics=metrics,
            loop=loop,
            fatal=self.fatal,
            bug=self.bug,
        )
        feed(
            metrics,
            facts=facts,
            driver=self.driver,
            machine=self.machine,
            proposer=self.proposer,
            reads=self.reads,
            chores=self.chores,
            turns=self.turns,
            quota_bytes=config.quota_bytes,
            client_listener=self.serving.client_listener,
            transport=self.transport,
        )
        self._known_peers = plan.peers if plan is not None else []
        self._publishing: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None

    # Life

    async def start(self) -> None:
        """Peers first, then raft, then clients once this member has published itself."""
        for note in self._data.notes:
            self._log.warn(note)
        self._log.info(
            "starting member",
            local_member_id=f"{self.id:x}",
            cluster_id=f"{self.cluster_id:x}",
            applied_index=self.machine.applied_index,
            revision=self.machine.revision,
        )
        await self.transport.start()
        for peer in self._known_peers:
            self.transport.add_peer(peer.id, peer.peer_urls)
        if len(self.machine.members):
            self.membership.changed()
        await self.serving.start_peers()
        self.driver.start([self.chores, self.membership, self.guard])
        if self.config.initial_election_tick_advance:
            self._starting = self._loop.create_task(self._hurry_election())
        self.chores.compact_soon()
        self._publishing = self._loop.create_task(self._publish())
        # What start-up made stays for good: the collector need not look at it again. Gen 2 then
        # runs seldom enough that its pauses stay far below a heartbeat.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    async def _hurry_election(self) -> None:
        """Skip most of the first election timeout: at once when alone, else once a peer answers
        (etcd: adjustTicks). The last tick is left, so that a leader there is can speak up."""
        if len(self.machine.members.voters()) > 1 or self._known_peers:
            for _ in range(HURRY_TRIES):
                if any(self.transport.is_active(id) for id in self.transport.peer_ids):
                    break
                await asyncio.sleep(HURRY_PAUSE_S)
            else:
                return
        if not self.driver.has_leader:
            self.driver.advance_ticks(self.config.election_ticks - 1)

    async def _publish(self) -> None:
        """Tell the cluster this member's name and client URLs, then serve clients."""
        urls = [url.text for url in self.config.advertise_client_urls]
        while True:
            request = InternalRaftRequest()
            change = request.cluster_member_attr_set
            change.member_ID = self.id
            change.member_attributes.name = self.config.name
            change.member_attributes.client_urls.extend(urls)
            answered: asyncio.Future[Message | EtcdError] = self._loop.create_future()
            self.proposer.propose(request, partial(_answer, answered))
            # Said again soon, for it may be said twice: one that went to a dying leader would
            # keep clients waiting for the whole request timeout.
            await asyncio.wait([answered], timeout=PUBLISH_AGAIN_S)
            if answered.done() and not isinstance(answered.result(), EtcdError):
                break
            answered.cancel()
            await asyncio.sleep(PUBLISH_RETRY_S)
        self._log.info(
            "published local member to cluster through raft",
            local_member_id=f"{self.id:x}",
            local_member_name=self.config.name,
            client_urls=urls,
        )
        await self.serving.start_clients()
        self._log.info("ready to serve client requests")
        notify_ready(os.environ)

    async def stop(self) -> None:
        """Hand over the lead, answer what is under way, close everything."""
        self._log.info("stopping member", local_member_id=f"{self.id:x}")
        for task in (self._starting, self._publishing):
            if task is not None:
                task.cancel()
        handed: asyncio.Future[EtcdError | None] = self._loop.create_future()
        self.membership.hand_over(lambda error: None if handed.done() else handed.set_result(error))
        await handed
        await self.serving.stop(STOP_GRACE_S)
        self.proposer.stop()
        self.reads.stop()
        self.chores.stop()
        await self.driver.stop()
        await self.transport.stop()
        self.workers.stop()
        self.machine.close()
        self._data.wal.close()
        self._data.close()
        self._log.info("stopped member", local_member_id=f"{self.id:x}")

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody caught, in a callback or a task."""
        error = context.get("exception")
        if isinstance(error, (StorageFailure, LogLost, AssertionError)):
            self.fatal(error)
        logs.loop_exception_handler(loop, context)

    def bug(self, error: BaseException) -> None:
        """A handler failed. What it read may be broken only if the disk or an assertion says so;
        any other exception has cost its caller the connection, and costs nobody else anything."""
        if isinstance(error, (StorageFailure, LogLost, AssertionError)):
            self.fatal(error)
        self._log.error(
            "internal error in a handler",
            error=f"{type(error).__name__}: {error}",
            trace="".join(traceback.format_exception(error)),
        )

    def fatal(self, error: BaseException) -> None:
        """The disk has failed, the log is lost, or we have a bug: nothing may be answered any more.

        What was acknowledged is in the log; what was not may or may not be, and nobody is told.
        """
        if isinstance(error, StorageFailure):
            self._log.fatal("the disk failed: stopping at once", error=error.reason)
        elif isinstance(error, LogLost):
            self._log.fatal(
                "this member has lost acknowledged log entries and must not vote: remove it from "
                "the cluster, empty its data directory and add it again",
                error=error.detail,
            )
        else:
            self._log.fatal(
                "internal error: stopping at once",
                error=f"{type(error).__name__}: {error}",
                trace="".join(traceback.format_exception(error)),
            )
        logs.flush(1.0)
        os._exit(DISK_EXIT)

    def _removed(self) -> None:
        if self._is_removed:
            return
        self._is_removed = True
        self._log.warn(
            "the member has been permanently removed from the cluster; the data-dir used by this "
            "member must be removed",
            local_member_id=f"{self.id:x}",
            data_dir=self.config.data_dir,
        )
        self._loop.call_later(REMOVED_STOP_S, self._end, 0)

    async def _common_version(self) -> str:
        """The cluster version that all members can run; empty while one of them is silent."""
        found: list[str | None] = [SERVER_VERSION]
        for member in self.machine.members.all():
            if member.id != self.id:
                versions = await fetch_versions(self.transport.client, member.peer_urls)
                found.append(versions.server if versions is not None else None)
        return members.decide_cluster_version(found)
