"""What a member knows of itself and tells: status, health, versions, leadership, quota."""

import asyncio
from collections.abc import Callable, Sequence

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import AlarmMember, HashKVResponse, HashResponse
from pyetcd.raft.rawnode import RawNode, Status
from pyetcd.server.loop import Driver
from pyetcd.server.machine import StateMachine
from pyetcd.server.membership import Membership
from pyetcd.server.reads import LinearizableReads
from pyetcd.server.space import SpaceWatch
from pyetcd.server.turns import Turns
from pyetcd.server.version import SERVER_VERSION
from pyetcd.store.apply import adds

DEFRAGMENT_PAGES = 256  # given back in one slice: 1 MiB, some milliseconds


class Facts:
    """Answers for the maintenance and lease services, the quota and the HTTP side."""

    server_version = SERVER_VERSION
    space: SpaceWatch | None = None  # of the disk; none is looked at without it
    is_log_lost = False  # a learner in the place of a member whose log was lost

    def __init__(
        self,
        member_id: int,
        *,
        node: RawNode,
        machine: StateMachine,
        membership: Membership,
        turns: Turns,
        reads: LinearizableReads,
        driver: Driver,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.member_id = member_id
        self._node = node
        self._machine = machine
        self._membership = membership
        self._turns = turns
        self._reads = reads
        self._driver = driver
        self._loop = loop
        self.defragmenting = 0  # under way
        # Each is told when a defragmentation begins, and the seconds it took when it has ended.
        self.defragment_hooks: list[Callable[[float | None], object]] = []

    # Raft

    @property
    def leader(self) -> int:
        return self._node.leader

    @property
    def has_leader(self) -> bool:
        return self._node.leader != 0

    @property
    def is_leader(self) -> bool:
        return self._node.is_leader

    @property
    def is_learner(self) -> bool:
        member = self._machine.members.get(self.member_id)
        return member is not None and member.is_learner

    @property
    def is_disk_stalled(self) -> bool:
        """A write of the log has taken longer than an election timeout, and is not over."""
        return self._driver.is_disk_stalled

    @property
    def committed_index(self) -> int:
        return self._node.commit

    @property
    def applied_index(self) -> int:
        return self._machine.applied_index

    def leader_peer_urls(self) -> Sequence[str]:
        leader = self._machine.members.get(self._node.leader)
        return () if leader is None else leader.peer_urls

    def move_leader(self, target: int, done: Callable[[EtcdError | None], None]) -> None:
        self._membership.move_leader(target, done)

    # The keyspace

    @property
    def db_size_bytes(self) -> int:
        return self._machine.backend.size_bytes

    @property
    def db_size_in_use_bytes(self) -> int:
        return self._machine.backend.in_use_bytes

    @property
    def alarms(self) -> list[AlarmMember]:
        return self._machine.alarms.get()

    def hash_kv(self, revision: int, done: Callable[[HashKVResponse | EtcdError], None]) -> None:
        self._machine.hash_kv(revision, done)

    def hash(self, done: Callable[[HashResponse | EtcdError], None]) -> None:
        self._machine.hash(done)

    def defragment(self, done: Callable[[], None]) -> None:
        """Give free pages back, a slice at a time: nobody waits for it but the caller."""
        began_s = self._loop.time()
        self.defragmenting += 1
        for hook in self.defragment_hooks:
            hook(None)

        def ended() -> None:
            self.defragmenting -= 1
            for hook in self.defragment_hooks:
                hook(self._loop.time() - began_s)
            done()

        self._defragment_on(ended)

    def _defragment_on(self, ended: Callable[[], None]) -> None:
        if self._machine.defragment_step(DEFRAGMENT_PAGES):
            self._loop.call_later(0.001, self._defragment_on, ended)
        else:
            ended()

    # The quota, asked before a write is proposed

    def fits(self, request: InternalRaftRequest) -> bool:
        space = self.space
        if space is not None and space.is_full and adds(request):
            return False
        return self._machine.applier.fits(request)

    def raise_nospace(self, then: Callable[[], None]) -> None:
        if self.space is not None and self.space.is_full:
            return then()  # who found that out has raised it, or is about to
        return self._turns.alarm_nospace(then)

    # Versions

    @property
    def cluster_version(self) -> str:
        """`not_decided` until the cluster has agreed on one."""
        return self._machine.members.version or "not_decided"

    @property
    def downgrade_target(self) -> str | None:
        """The version to which the cluster is being downgraded."""
        found = self._machine.members.downgrade
        return found.target_version if found.enabled else None

    def raft_status(self) -> Status:
        return self._node.status()

    def serializable_read(self) -> EtcdError | None:
        try:
            self._machine.keyspace.range(b"\0")
        except EtcdError as error:
            return error
        return None

    def linearizable_read(self, done: Callable[[EtcdError | None], None]) -> None:
        self._reads.wait(done)
