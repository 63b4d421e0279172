"""raft: the invariants (raft/monitor.py) after every step that changed anything.

Among them: what was committed is on the disks of a quorum at any later moment, which is looked at
again whenever a member crashed, with or without power.
"""

from typing import Any

from sim.checks.violation import Violation

from pyetcd.raft.confchange import restore
from pyetcd.raft.invariants import InvariantBroken, NodeView, check
from pyetcd.raft.log import RaftLog
from pyetcd.raft.monitor import Monitor
from pyetcd.raft.rawnode import RawNode
from pyetcd.raft.types import Entry, Role
from pyetcd.store.wal import Wal

NO_LIMIT = 2**62


class RaftChecker:
    """Makes a view of a member whenever what it shows of raft is another than before.

    With `reference` every step is also judged by raft/invariants.py, which looks at everything
    anew: slower, and never of another opinion (`python tests/sim --reference`).
    """

    reference = False

    def __init__(self) -> None:
        self.monitor = Monitor()
        self._views: dict[int, NodeView] = {}
        self._seen: dict[int, tuple[Any, ...]] = {}
        self._votes: dict[int, tuple[int, int]] = {}  # the last term and vote told to others

    @property
    def checks_total(self) -> int:
        return self.monitor.steps_total

    def step(self, id: int, node: RawNode, start: int) -> bool:
        """After each turn of a member; False when nothing has changed."""
        raft = node.raft
        log = raft.log
        unstable = log.unstable
        # What a log has changes only together with one of these.
        log_seen = (
            start, log.offset, len(unstable), unstable[-1].term if unstable else 0,
            log.unstable_snapshot,
        )  # fmt: skip
        seen = (
            log_seen, raft.term, raft.vote, raft.role, log.committed, log.applied, raft.conf
        )  # fmt: skip
        before = self._seen.get(id)
        if before == seen:
            return False
        then = self._views.get(id)
        if then is not None and before is not None and before[0] == log_seen:
            first, prev_term, window = then.first, then.prev_term, then.log
        else:
            floor = min([view.commit for view in self._views.values()], default=0)
            first = log.first_index
            first = max(first, min(floor, log.committed, log.last_index) - 16)
            prev_term, window = log.term(first - 1), self._window(log, first)
        self._seen[id] = seen  # not before: the window may be damaged
        durable = log.offset - 1
        if log.unstable_snapshot is not None:  # on the disk is still what was there before
            # (or an earlier snapshot, when two came quickly)
            durable = max(self.monitor.stored(id), log.storage.first_index() - 1)
        now = NodeView(
            id, raft.term, raft.vote, raft.role, log.committed, log.applied, first,
            prev_term, window, durable, raft.conf, start,
        )  # fmt: skip
        self._views[id] = now
        if then is not None and then.role is now.role is Role.LEADER and then.term == now.term:
            self._counted(then, now)
        self._check(now, {} if then is None else {id: then}, after_crash=False)
        return True

    def _counted(self, then: NodeView, now: NodeView) -> None:
        """A leader counts copies of entries of its own term only (thesis 3.6.2)."""
        if then.start == now.start and then.commit < now.commit:
            at = now.commit - now.first
            term = now.log[at].term if 0 <= at < len(now.log) else now.term
            if term != now.term:
                raise Violation(
                    "raft",
                    f"leader {now.id:x} of term {now.term} counts {now.commit}, of term {term}",
                )

    def damaged(self, id: int) -> None:
        """Its disk cannot be read any more."""
        self.monitor.excused.add(id)

    def voted(self, id: int, term: int, vote: int) -> None:
        """Others were told so: from here on it must be on the disk (thesis 3.8)."""
        self._votes[id] = (term, vote)

    def _window(self, log: RaftLog, first: int) -> list[Entry]:
        """From here to the end."""
        found: list[Entry] = []
        while first < log.offset:  # storage may answer in pieces
            piece = log.storage.entries(first, log.offset, NO_LIMIT)
            found += piece
            first += len(piece)
        return found + log.unstable[first - log.offset :]

    def _check(self, now: NodeView, before: dict[int, NodeView], *, after_crash: bool) -> None:
        try:
            if self.reference:
                check(self._views, before)
            self.monitor.step(now, after_crash=after_crash)
        except InvariantBroken as error:
            raise Violation("raft", str(error)) from error

    def crashed(self, id: int, wal: Wal, start: int) -> None:
        """It counts on with what its disk holds."""
        self.monitor.excused.discard(id)
        state, conf_state = wal.initial_state()
        first, last = wal.first_index(), wal.last_index()
        entries: list[Entry] = []
        while first + len(entries) <= last:
            entries += wal.entries(first + len(entries), last + 1, NO_LIMIT)
        then = self._views.get(id)
        conf = then.conf if then is not None else restore(conf_state)
        ghost = NodeView(
            id, state.term, state.vote, Role.FOLLOWER, state.commit, 0, first,
            wal.term(first - 1), entries, last, conf, -start,
        )  # fmt: skip
        self._seen.pop(id, None)
        term, vote = self._votes.get(id, (0, 0))
        if state.term < term or (state.term == term and state.vote != vote):
            raise Violation(
                "raft",
                f"{id:x} voted for {vote:x} in term {term},"
                f" its disk says {state.vote:x} in term {state.term}",
            )
        self._views[id] = ghost
        self._check(ghost, {}, after_crash=True)
