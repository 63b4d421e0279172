"""The composition root: one member built from its Config, started, run and stopped in order.

A member is its core (core.py: who knows whom), the sockets around it, and the process it lives in.
Read `start` and `stop` for what must come before what.

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
from pyetcd.raft.types import LogLost
from pyetcd.server import datadir, logs
from pyetcd.server.api.cluster import Forward
from pyetcd.server.bootstrap import BootstrapError, InitialCluster, Plan, plan_start
from pyetcd.server.clock import Clock, SystemClock, system_rng
from pyetcd.server.config import Config
from pyetcd.server.core import Core, Tuning
from pyetcd.server.datadir import DataDir, Locks
from pyetcd.server.facts import Facts
from pyetcd.server.feeds import feed
from pyetcd.server.forced import go_on_alone
from pyetcd.server.loop import Commits
from pyetcd.server.machine import StateMachine
from pyetcd.server.membership import Membership
from pyetcd.server.metrics import Metrics
from pyetcd.server.peer.client import HttpClient, Unreachable
from pyetcd.server.peer.handshake import Identity
from pyetcd.server.peer.streams import Timeouts
from pyetcd.server.peer.survey import fetch_versions
from pyetcd.server.peer.transport import PeerTransport
from pyetcd.server.prepare import corruption_watch, prepare, tuning_of
from pyetcd.server.promotion import Promotion
from pyetcd.server.propose import Proposer
from pyetcd.server.replica import Machine
from pyetcd.server.secure import MemberTls
from pyetcd.server.serving import Serving
from pyetcd.server.startup import (
    LogWasLost,
    Sockets,
    StartupRefused,
    bind_member,
    lock_memory,
    notify_ready,
)
from pyetcd.server.version import SERVER_VERSION, pyetcd_version
from pyetcd.server.workers import Workers
from pyetcd.store import members
from pyetcd.store.db import ForeignFile, StorageFailure
from pyetcd.store.space import Reserve, make_room
from pyetcd.store.walscan import LogDamaged

STOP_GRACE_S = 2.0  # for requests that are under way when the process is told to stop
# A removed member goes on for this long (etcd: stopWithDelay). Its word that the removal is
# committed may be lost the first time, and of a cluster of two nobody else could ever find it out.
REMOVED_STOP_S = 1.0
PUBLISH_AGAIN_S = 1.0
PUBLISH_RETRY_S = 0.1
PROMOTE_AGAIN_S = 0.5
HURRY_PAUSE_S = 0.05
HURRY_TRIES = 100  # five seconds, as etcd waits for its peers
DISK_EXIT = 1
LEASE_POST_BYTES_MAX = 64 * 1024


def run(config: Config, rejoined: Callable[[], None] | None = None, *, promote: bool = True) -> int:
    """Serve until a signal, a removal or a failure; the exit status, 128 + number for a signal.

    With `rejoined`, a learner that has replaced a member whose log was lost: it asks to be promoted
    and calls back when it was; with promote=False it stays one and calls back once it serves.

    Raises StartupRefused when the member cannot start; then nothing was created or changed.
    LogWasLost also later, when the leader knows of entries that this member once had.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(config, rejoined, promote=promote))


async def _main(config: Config, rejoined: Callable[[], None] | None, *, promote: bool) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    if config.experimental_memory_mlock:
        lock_memory()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 128 + number)
    member = await Member.open(config, end)
    loop.set_exception_handler(member.on_loop_error)
    try:
        await member.start(rejoined, promote=promote)
    except StartupRefused:
        await member.abandon()
        raise
    logs.release()
    status = await ended
    if member.lost is not None:
        await member.abandon()
        text = _lost_text(config, member.lost)
        raise _log_was_lost(config, text, is_in_files=False) from member.lost
    await member.stop()
    return status


async def _open_data(config: Config, peer_client: HttpClient) -> tuple[DataDir, Plan | None]:
    """The data directory, as it was or made new after the start was planned."""
    path, wal_dir = config.data_dir, config.log_dir
    try:
        if datadir.has_member(path, wal_dir):
            if make_room(config.member_dir):
                logs.get("member").warn("the disk is full: gave up the reserve to start")
            datadir.look(path, config)
            lock = Locks(config.member_dir, wal_dir)
            data = datadir.reopen(path, lock=lock, wal_dir=wal_dir)
            if config.force_new_cluster:
                _force_new_cluster(config, data)
            return data, None
        datadir.refuse_foreign(path, wal_dir)
        initial = InitialCluster(
            name=config.name,
            urls_by_name={n: tuple(sorted(u)) for n, u in config.initial_urls().items()},
            token=config.initial_cluster_token,
            advertised=tuple(url.text for url in config.initial_advertise_peer_urls),
            is_new=config.is_new_cluster,
        )
        plan = await plan_start(initial, peer_client)
        lock = Locks(config.member_dir, wal_dir)
        token = config.initial_cluster_token
        return datadir.create(path, plan=plan, token=token, lock=lock, wal_dir=wal_dir), plan
    except LogDamaged as error:
        raise _log_was_lost(config, str(error), is_in_files=True) from error
    except (ForeignFile, BootstrapError, StorageFailure, ValueError) as error:
        raise StartupRefused(str(error)) from error


def _log_was_lost(config: Config, text: str, *, is_in_files: bool) -> StartupRefused:
    """With who may help, if the files can say it. A member is removed in the name of this one: so
    the files and the flags must mean the same member."""
    try:
        id, found = datadir.known_members(config.data_dir, config.log_dir)
    except (ForeignFile, StorageFailure, ValueError, KeyError, TypeError, AssertionError):
        return StartupRefused(text)
    mine = next((member for member in found if member.id == id), None)
    flagged = {url.text for url in config.initial_advertise_peer_urls}
    if mine is None or set(mine.peer_urls) != flagged:
        return StartupRefused(text)
    return LogWasLost(
        text,
        member_id=id,
        is_learner=mine.is_learner,
        peer_urls=mine.peer_urls,
        client_urls=[url for member in found if member.id != id for url in member.client_urls],
        is_in_files=is_in_files,
    )


def _force_new_cluster(config: Config, data: DataDir) -> None:
    try:
        removed = go_on_alone(data, [url.text for url in config.initial_advertise_peer_urls])
    except BaseException:  # whatever ended the start, the files are let go
        data.abandon()
        raise
    logs.get("member").warn(
        "forcing restart member as the only one of its cluster; remove --force-new-cluster now",
        cluster_id=f"{data.wal.cluster_id:x}",
        local_member_id=f"{data.wal.member_id:x}",
        removed_member_ids=[f"{id:x}" for id in removed],
        commit_index=data.wal.hard_state.commit,
    )


def _lost_text(config: Config, error: LogLost) -> str:
    return (
        f"{config.data_dir}: the log has lost entries that were acknowledged ({error.detail});"
        " remove this member from the cluster, empty its data directory and add it again"
    )


def _identity(config: Config, data: DataDir) -> Identity:
    urls = tuple(url.text for url in config.initial_advertise_peer_urls)
    return Identity(data.wal.member_id, data.wal.cluster_id, urls, pyetcd_version())


def _answer(future: "asyncio.Future[Any]", answer: object) -> None:
    if not future.done():
        future.set_result(answer)


class Member:
    """One running member."""

    @classmethod
    async def open(cls, config: Config, end: Callable[[int], None]) -> "Member":
        """Bind, plan, open the data directory, build; nothing runs yet."""
        tuning = tuning_of(config)
        tls = MemberTls(config)
        sockets = bind_member(config)
        dial_s = 1 + config.election_timeout_ms / 1000
        peer_client = HttpClient(ssl_context=tls.to_peers, dial_timeout_s=dial_s)
        try:
            data, plan = await _open_data(config, peer_client)
        except BaseException:  # also a cancelled start: its ports are free again
            sockets.close()
            raise
        finally:
            peer_client.close()
        try:
            prepare(config, data)
            return cls(config, tuning, tls, data, plan, sockets, end)
        except LogLost as error:
            sockets.close()
            data.abandon()
            raise _log_was_lost(config, _lost_text(config, error), is_in_files=True) from error
        except StartupRefused:
            sockets.close()
            data.abandon()
            raise

    def __init__(
        self,
        config: Config,
        tuning: Tuning,
        tls: MemberTls,
        data: DataDir,
        plan: Plan | None,
        sockets: Sockets,
        end: Callable[[int], None],
    ) -> None:
        self.config = config
        self._tls = tls
        self.id = data.wal.member_id
        self.cluster_id = data.wal.cluster_id
        self._data = data
        self._end = end
        self._is_removed = False
        self.lost: LogLost | None = None
        self._log = logs.get("member")
        self.loop = loop = asyncio.get_running_loop()
        self.clock: Clock = SystemClock()
        self.rng = system_rng()
        self.workers = Workers(loop, self.fatal)
        self.core = core = Core(data, tuning, self)
        core.watch_space(Reserve(config.member_dir))
        core.listeners.append(tls.renewal(self.clock.monotonic_s))
        self.corruption = corruption_watch(config, core, self.clock)
        core.listeners.append(self.corruption)
        metrics = Metrics(extensive=config.metrics_extensive)
        self.serving = Serving(config, sockets, core=core, tls=tls, metrics=metrics, bug=self.bug)
        feed(metrics, core, client_listener=self.serving.client_listener)
        self._known_peers = plan.peers if plan is not None else []
        self._is_new = plan is not None
        self._publishing: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._rejoining: asyncio.Task[None] | None = None

    # Life

    async def start(
        self, rejoined: Callable[[], None] | None = None, *, promote: bool = True
    ) -> None:
        """Peers first, then raft, then clients once this member has published itself."""
        for note in self._data.notes:
            self._log.warn(note)
        self._log.info(
            "starting member",
            local_member_id=f"{self.id:x}",
            cluster_id=f"{self.cluster_id:x}",
            applied_index=self.core.machine.applied_index,
            revision=self.core.machine.revision,
        )
        await self.core.transport.start()
        self.core.meet(self._known_peers)
        await self.serving.start_first()
        if self.config.is_checked_at_start and rejoined is None and not self._is_new:
            reason = await self.corruption.initial()
            if reason:
                remedy = "remove this member, empty its data directory and add it again"
                raise StartupRefused(f"{reason}; {remedy}")
        self.core.start()
        if self.core.access.auth.enabled and self.core.access.jwt is None:
            self._log.warn("simple token is not cryptographically signed")
        if self.config.initial_election_tick_advance:
            self._starting = self.loop.create_task(self._hurry_election())
        self._publishing = self.loop.create_task(self._publish())
        if rejoined is not None:
            self.core.facts.is_log_lost = True
            self._rejoining = self.loop.create_task(self._rejoin(rejoined, promote=promote))
        # What start-up made stays for good: the collector need not look at it again. Gen 2 then
        # runs seldom enough that its pauses stay far below a heartbeat.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    async def _hurry_election(self) -> None:
        """Skip most of the first election timeout: at once when alone, else once a peer answers
        (etcd: adjustTicks). The last tick is left, so that a leader there is can speak up."""
        transport, driver = self.core.transport, self.core.driver
        if len(self.core.machine.members.voters()) > 1 or self._known_peers:
            for _ in range(HURRY_TRIES):
                if any(transport.is_active(id) for id in transport.peer_ids):
                    break
                await asyncio.sleep(HURRY_PAUSE_S)
            else:
                return
        if not driver.has_leader:
            driver.advance_ticks(self.config.election_ticks - 1)

    async def _publish(self) -> None:
        """Tell the cluster this member's name and client URLs, then serve clients."""
        urls = [url.text for url in self.config.advertise_client_urls]
        while True:
            answered: asyncio.Future[Message | EtcdError] = self.loop.create_future()
            self.core.publish(self.config.name, urls, partial(_answer, answered))
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

    async def _rejoin(self, rejoined: Callable[[], None], *, promote: bool) -> None:
        """Be promoted once this learner has caught up, which the leader decides."""
        assert self._publishing is not None
        await self._publishing
        ask = self.forward_promotion(self.core.facts)
        while promote:
            me = self.core.machine.members.get(self.id)
            if me is not None and not me.is_learner:
                break
            answered: asyncio.Future[Any] = self.loop.create_future()
            ask(self.id, partial(_answer, answered))
            await answered
            await asyncio.sleep(PROMOTE_AGAIN_S)
        self.core.facts.is_log_lost = False
        rejoined()

    async def abandon(self) -> None:
        """After the log was found to be lost: close everything, and promise nothing more."""
        self._cancel_tasks()
        await self.serving.stop(0.0)
        await self.core.transport.stop()
        self.workers.stop()
        self.core.driver.join()
        self._data.abandon()

    def _cancel_tasks(self) -> None:
        self.corruption.stop()
        for task in (self._starting, self._publishing, self._rejoining):
            if task is not None:
                task.cancel()

    async def stop(self) -> None:
        """Hand over the lead, answer what is under way, close everything."""
        self._log.info("stopping member", local_member_id=f"{self.id:x}")
        self._cancel_tasks()
        handed: asyncio.Future[EtcdError | None] = self.loop.create_future()
        core = self.core
        core.membership.hand_over(lambda error: None if handed.done() else handed.set_result(error))
        await handed
        await self.serving.stop(STOP_GRACE_S)
        core.proposer.stop()
        core.reads.stop()
        core.chores.stop()
        await core.driver.stop()
        await core.transport.stop()
        self.workers.stop()
        core.machine.close()
        self._data.wal.close()
        if core.space is not None:
            core.space.close()
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
            self._log.error(
                "this member has lost acknowledged log entries and must not vote",
                error=error.detail,
            )
            self.core.driver.halt()
            self.lost = error
            return self._end(DISK_EXIT)
        else:
            self._log.fatal(
                "internal error: stopping at once",
                error=f"{type(error).__name__}: {error}",
                trace="".join(traceback.format_exception(error)),
            )
        logs.flush(1.0)
        os._exit(DISK_EXIT)

    def removed(self) -> None:
        if self._is_removed:
            return
        self._is_removed = True
        self._log.warn(
            "the member has been permanently removed from the cluster; the data-dir used by this "
            "member must be removed",
            local_member_id=f"{self.id:x}",
            data_dir=self.config.data_dir,
        )
        self.loop.call_later(REMOVED_STOP_S, self._end, 0)

    # What the core is put into (core.Surroundings)

    def make_transport(self, membership: Membership) -> PeerTransport:
        self._transport = PeerTransport(
            _identity(self.config, self._data),
            membership,
            installer=datadir.KeyspaceInstaller(self._data.backend.path),
            ssl_context=self._tls.to_peers,
            admission=self._tls.peer_admission,
            dial_timeout_s=1 + self.config.election_timeout_ms / 1000,
            timeouts=Timeouts(self.config.raft_read_timeout_s, self.config.raft_write_timeout_s),
        )
        return self._transport

    def commits(self) -> Commits | None:
        return None

    def watched(self, machine: StateMachine) -> Machine:
        return machine

    def proposing(self, proposer: Proposer) -> Proposer:
        return proposer

    async def common_version(self) -> str:
        found: list[str | None] = [SERVER_VERSION]
        for member in self.core.machine.members.all():
            if member.id != self.id:
                versions = await fetch_versions(self.core.transport.client, member.peer_urls)
                found.append(versions.server if versions is not None else None)
        return members.decide_cluster_version(found)

    def forward_promotion(self, facts: Facts) -> Forward:
        return Promotion(
            self._transport.client,
            facts.leader_peer_urls,
            loop=self.loop,
            timeout_s=self.config.request_timeout_s,
        ).ask

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        base, slash, path = url.partition("/leases")
        try:
            answer = await self.core.transport.client.request(
                "POST",
                base,
                slash + path,
                headers={"Content-Type": "application/protobuf"},
                timeout_s=1.0,
                body=body,
                body_bytes_max=LEASE_POST_BYTES_MAX,
            )
        except (Unreachable, OSError):
            return 0, b""
        return answer.status, answer.body
