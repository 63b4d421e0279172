"""The disk's free space: writes of clients are refused before there is none left.

Strategy. Free space is looked at every tick and after every applied batch (one statvfs, 0.7 us).
Below the low mark the disk is full: the reserve (store/space.py) is given up, this member refuses
at once what adds to the keyspace, and raises its NOSPACE alarm through raft as the quota does, so
that all members refuse it. What gives space back goes on. Above the high mark the reserve is taken
again, and then the alarm is disarmed, if it was raised here and the quota is kept.

    low mark    one unit, and all that waits in the two -wal files, which may be new pages
    high mark   the low mark, the reserve and one unit more

Rules. The alarm is wanted as long as the disk is full: one that an operator disarms is raised
again. An alarm that was there before is not ours. One proposal is under way at a time.

Limits. Another program that takes the space faster than a tick meets the blocks ahead, then the
reserve. A disk that stays full after both are used up ends the process.
"""

from collections.abc import Callable
from typing import Final, Protocol

from google.protobuf.message import Message

from pyetcd.proto.errors import EtcdError
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import NOSPACE, AlarmRequest
from pyetcd.server.logs import get
from pyetcd.server.machine import StateMachine
from pyetcd.store import space
from pyetcd.store.space import Reserve

AGAIN_S: Final = 1.0  # between two proposals, and between two tries to take the reserve
SHARES: Final = (1 / 32, 1 / 8)  # of a unit
# Below these the -wal file of the keyspace is moved into the main file early.
TIGHT_UNITS: Final = 8


class Proposer(Protocol):
    def propose(
        self, request: InternalRaftRequest, done: Callable[[Message | EtcdError], None]
    ) -> None: ...


class SpaceWatch:
    """Whether this member's disk is full, and what follows from it."""

    def __init__(
        self,
        reserve: Reserve,
        *,
        machine: StateMachine,
        proposer: Proposer,
        monotonic_s: Callable[[], float],
    ) -> None:
        self.is_full = False
        self.full_total = 0
        self._reserve = reserve
        self._machine = machine
        self._proposer = proposer
        self._monotonic_s = monotonic_s
        self._member_id = machine.wal.member_id
        log, keyspace = machine.wal.path, machine.backend.path
        self._log_units: dict[str, float] = {
            f"{log}-wal": space.LOG_WAL_UNITS,
            f"{log}-shm": space.SHM_UNITS,
            log: space.MAIN_UNITS,
        }
        self._units = self._log_units | {
            f"{keyspace}-shm": space.SHM_UNITS,
            f"{keyspace}-wal": space.KEYSPACE_WAL_UNITS,
            keyspace: space.MAIN_UNITS,
        }
        self._full_units = self._units | {
            log: space.LOG_FULL_UNITS,
            keyspace: space.KEYSPACE_FULL_UNITS,
        }
        self._generation = machine.backend.generation
        self._proposing = False
        self._again_at_s = 0.0
        self._claimed = reserve.is_claimed
        # The log's commit, in its thread: the one writer that can try again.
        machine.wal.on_full = self._give_up
        self._given_up = False
        self._log = get("space")
        self.look()
        if not self.is_full and not self._claimed and not reserve.hold():
            self._fill(reserve.free_bytes())  # there is not even room for the reserve
        self._keep_ahead()

    def ticked(self) -> None:
        """Once per raft tick."""
        self.look()
        self._keep_ahead()
        if self.is_full or self._claimed:
            self._settle()

    def look(self) -> None:
        """Also after each applied batch."""
        reserve, machine = self._reserve, self._machine
        free_bytes = reserve.free_bytes()
        waiting_bytes = machine.backend.waiting_bytes + machine.wal.waiting_bytes
        low_bytes = reserve.unit_bytes + waiting_bytes
        machine.is_tight = free_bytes < TIGHT_UNITS * reserve.unit_bytes + 2 * waiting_bytes
        if free_bytes < low_bytes or self._given_up:
            if not self.is_full:
                self._fill(free_bytes)
            self._given_up = False

    def close(self) -> None:
        """In order: nothing is kept back of a stopped member, but the mark stays."""
        self._machine.wal.on_full = None
        self._reserve.forget()
        if self._reserve.is_held:
            self._reserve.remove()

    def _give_up(self) -> bool:
        """In the thread of the log. Also True once without anything to give: somebody may have
        made room meanwhile."""
        self._reserve.give_up()
        for path, units in self._log_units.items():
            self._reserve.keep_ahead(path, units)
        self._given_up = True
        return True

    def _fill(self, free_bytes: int) -> None:
        self.is_full = True
        self.full_total += 1
        reserve = self._reserve
        if self._has_alarm() and not self._claimed:
            reserve.remove()
        else:
            reserve.claim()
            self._claimed = True
        self._keep_ahead()  # before anything else: somebody is writing
        self._again_at_s = 0.0
        self._log.warn(
            "the disk is full: refusing writes until there is space again",
            free_bytes=free_bytes,
            path=reserve.path,
        )

    def _settle(self) -> None:
        """While something is to be done: at most once in AGAIN_S."""
        now_s = self._monotonic_s()
        if now_s < self._again_at_s or self._proposing:
            return
        self._again_at_s = now_s + AGAIN_S
        if self.is_full:
            if not self._is_over():
                if not self._has_alarm():
                    self._reserve.claim()
                    self._claimed = True
                    self._propose(AlarmRequest.ACTIVATE)
                return
            self.is_full = False
            self._log.info("there is space on the disk again")
        if self._claimed and self._has_alarm():
            if self._machine.applier.is_within_quota:
                self._propose(AlarmRequest.DEACTIVATE)
                return
            self._log.warn("alarm NOSPACE stays: the keyspace exceeds its quota")
        # Disarmed, by us or by an operator, or the quota's. Only now, for the reserve takes the
        # place of the mark, and that must outlive a crash.
        self._claimed = False
        if not self._reserve.hold():
            self._fill(self._reserve.free_bytes())

    def _is_over(self) -> bool:
        """Whether there is space for the reserve and for writes beside it."""
        reserve, machine = self._reserve, self._machine
        waiting_bytes = machine.backend.waiting_bytes + machine.wal.waiting_bytes
        return reserve.free_bytes() >= 2 * reserve.unit_bytes + reserve.size_bytes + waiting_bytes

    def _has_alarm(self) -> bool:
        return self._machine.alarms.has(self._member_id, NOSPACE)

    def _propose(self, action: "AlarmRequest.AlarmAction") -> None:
        self._proposing = True
        alarm = AlarmRequest(action=action, memberID=self._member_id, alarm=NOSPACE)

        def done(answer: Message | EtcdError) -> None:
            self._proposing = False
            if isinstance(answer, EtcdError):
                self._log.warn("could not change alarm NOSPACE, will try again", error=answer.text)

        self._proposer.propose(InternalRaftRequest(alarm=alarm), done)

    def _keep_ahead(self) -> None:
        if self._machine.backend.generation != self._generation:
            self._generation = self._machine.backend.generation
            self._reserve.forget()
        units = self._full_units if self.is_full else self._units
        # A little for each before one of them takes what there is.
        if self.is_full or self._machine.is_tight:
            for part in SHARES:
                for path, count in units.items():
                    self._reserve.keep_ahead(path, min(part, count))
        for path, count in units.items():
            self._reserve.keep_ahead(path, count)
