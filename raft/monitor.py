"""The invariants of invariants.py over a whole run, at a cost that does not grow with it.

Strategy. Every log that was ever shown is a path in one trie: a place stands for an entry and all
that lies before it, so two logs are equal up to an index exactly if they are at the same place
there. A step adds places only for the entries that are new; every comparison of logs is then one
of two ints, and what was compacted, overwritten or lost in a crash is not forgotten.

    log of 1    1 1 2 2      places  1 2 3 4
    log of 2    1 1 3        places  1 2 5          equal up to 2, as the places tell
    committed   1 1          places  1 2            what anybody ever committed

Rules:
- `step` takes the view of the one node that changed. Nothing else can have changed, so the checks
  concern that node and what depends on it: the leaders, and the quorums.
- It sees everything that invariants.check sees (tests compare them), and more, for it has a
  memory: two leaders of one term at different times, two entries with one index and term of
  which one is gone, a committed entry that nobody holds any more, or no longer on a disk.
- A window may begin anywhere in the log: what lies before is as it was, or else was committed.

Limit. Memory grows with the number of different entries: this is for tests.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, NoReturn

from pyetcd.raft.confchange import Configuration
from pyetcd.raft.invariants import (
    InvariantBroken,
    NodeView,
    commit_grows,
    role_follows_term,
    term_grows,
    vote_sticks,
)
from pyetcd.raft.types import Entry, EntryType, Role

STEPS: Final = (term_grows, vote_sticks, commit_grows, role_follows_term)
EVERYTHING: Final = 2**63


class _Node:
    """What is known of one node. path[i] is the place of its log's entry i, path[0] the root."""

    __slots__ = ("agrees", "path", "rank", "stored", "view")

    def __init__(self) -> None:
        self.view: NodeView | None = None
        self.path: list[int] = [0]
        self.rank = (0, 0)  # term and index of its last entry: what votes are given by
        self.agrees = 0  # up to here its log is the committed one
        self.stored = 0  # and up to here on its disk


class Monitor:
    """All nodes that ever were members, crashed ones as they would come back from their disk."""

    def __init__(self) -> None:
        self.steps_total = 0
        self.entries_total = 0
        # Nodes whose disk is damaged: nobody can say what it still holds, and they will not vote.
        self.excused: set[int] = set()
        self._nodes: dict[int, _Node] = {}
        # The trie: places are numbered, the root is 0.
        self._places: dict[tuple[int, int, int, bytes], int] = {}
        self._terms: list[int] = [0]
        self._by_index_and_term: dict[tuple[int, int], int] = {(0, 0): 0}
        self._conf_changes: dict[int, None] = {}  # places of entries that are not NORMAL
        # What anybody ever committed, with the terms of the entries and of whoever showed it first.
        self._committed: list[int] = [0]
        self._committed_terms: list[int] = [0]
        self._shown_terms: list[int] = [0]
        self._committed_conf_changes: list[int] = []  # indexes
        self._leader_of_term: dict[int, int] = {}
        self._leaders: dict[int, _Node] = {}
        self._applied = -1  # the most that anybody has applied, and the configuration there
        self._conf = Configuration()

    @property
    def views(self) -> dict[int, NodeView]:
        return {id: node.view for id, node in self._nodes.items() if node.view is not None}

    @property
    def commit(self) -> int:
        """The newest entry that anybody ever committed."""
        return len(self._committed) - 1

    def stored(self, id: int) -> int:
        """Up to where this node's disk has the committed log."""
        node = self._nodes.get(id)
        return node.stored if node is not None else 0

    def step(self, now: NodeView, *, after_crash: bool = False) -> None:
        """One node has become this. After a crash it owes nothing to what it was."""
        self.steps_total += 1
        node = self._nodes.setdefault(now.id, _Node())
        then = None if after_crash else node.view
        kept = self._follow(node, now)
        if then is not None and then is not now:
            _check_step(then, now, kept)
        node.view = now
        node.rank = (self._terms[node.path[-1]], len(node.path) - 1)
        is_leading = now.role is Role.LEADER
        if is_leading:
            leader_id = self._leader_of_term.setdefault(now.term, now.id)
            if leader_id != now.id:
                detail = f"{leader_id} and {now.id} lead term {now.term}"
                _broken("more_than_one_leader_inv", detail)
            self._leaders[now.id] = node
        else:
            self._leaders.pop(now.id, None)
        has_grown = self._check_committed(node, now)
        node.agrees = self._agreement(node.path)
        node.stored = min(node.agrees, now.durable)
        if has_grown:
            for other in self._nodes.values():
                if other is not node and other.view is not None:
                    other.agrees = self._agreement(other.path)
                    other.stored = min(other.agrees, other.view.durable)
        if now.applied > self._applied:
            self._applied, self._conf = now.applied, now.conf
        if now.applied > now.durable:
            detail = f"{now.id} applied {now.applied} but stored only {now.durable}"
            _broken("committed_is_durable_inv", detail)
        self._check_votes(node, now)
        for leader in self._leaders.values():
            if leader is node or has_grown:
                self._check_complete(leader)
            self._check_leader(leader)
            self._check_ahead_of_leader(leader, node)
        self._check_quorums()

    # Logs

    def _follow(self, node: _Node, now: NodeView) -> int:
        """Make its path that of the log shown; up to where the log is as it was."""
        path, then, log = node.path, node.view, now.log
        if then is not None and log is then.log and now.first == then.first:
            return then.last
        base = now.first - 1
        if base < len(path) and self._terms[path[base]] == now.prev_term:
            at = -1 if then is None else now.first - then.first
            if then is not None and 0 <= at <= len(then.log):
                overlap = len(then.log) - at
                old, new = then.log, log
                if at:
                    old = old[at:]
                if overlap != len(log):
                    new = log[:overlap]
                if old == new:  # nearly always: nothing has changed but the end
                    if overlap < len(log):
                        self._walk(now, path, log[overlap:] if overlap else log)
                    return then.last
            old_path, path = path, path[: now.first]
        elif base < len(self._committed) and self._terms[self._committed[base]] == now.prev_term:
            old_path, path = path, self._committed[: now.first]  # a snapshot
        else:
            detail = f"{now.id}'s log begins after {base} of term {now.prev_term}"
            _broken("log_inv", f"{detail}, which nobody has committed")
        self._walk(now, path, log)
        node.path = path
        return _common(old_path, path)

    def _walk(self, now: NodeView, path: list[int], entries: Sequence[Entry]) -> None:
        """Lengthen the path by these entries."""
        places, terms = self._places, self._terms
        place = path[-1]
        for entry in entries:
            term = entry.term
            key = (place, term, int(entry.type), entry.data)
            found = places.get(key)
            if found is None:
                found = len(terms)
                index = len(path)
                known = self._by_index_and_term.setdefault((index, term), found)
                if known != found:
                    detail = f"{now.id} has another entry, or another past, at {index} of {term}"
                    _broken("log_matching_inv", detail)
                if term < terms[place] or entry.index != index:
                    detail = f"{now.id} has {entry.index} of term {term} at {index}"
                    _broken("log_matching_inv", f"{detail}, after term {terms[place]}")
                places[key] = found
                terms.append(term)
                if entry.type is not EntryType.NORMAL:
                    self._conf_changes[found] = None
                self.entries_total += 1
            path.append(found)
            place = found

    def _agreement(self, path: list[int]) -> int:
        """The last index up to which it is the committed log."""
        committed = self._committed
        last = min(len(path), len(committed)) - 1
        return last if path[last] == committed[last] else _common(path, committed)

    # The present state

    def _check_committed(self, node: _Node, now: NodeView) -> bool:
        """log_inv: one log is committed, for ever. True if it has grown."""
        committed, path = self._committed, node.path
        commit = min(now.commit, len(path) - 1)
        upto = min(commit, len(committed) - 1)
        if path[upto] != committed[upto]:
            first = _common(path, committed) + 1
            detail = f"{now.id} committed {first} of term {self._terms[path[first]]}"
            _broken("log_inv", f"{detail}, not of term {self._terms[committed[first]]} as before")
        if commit == upto:
            return False
        for index in range(upto + 1, commit + 1):
            place = path[index]
            committed.append(place)
            self._committed_terms.append(self._terms[place])
            self._shown_terms.append(max(now.term, self._shown_terms[-1]))
            if place in self._conf_changes:
                self._committed_conf_changes.append(index)
        return True

    def _check_votes(self, node: _Node, now: NodeView) -> None:
        """more_up_to_date_correct_inv, for this node as a candidate and as a voter."""
        mine, agrees, commit = node.rank, node.agrees, now.commit
        for other in self._nodes.values():
            view = other.view
            assert view is not None
            if agrees < view.commit and mine >= other.rank:
                candidate, voter = now, view
            elif other.agrees < commit and other.rank >= mine:
                candidate, voter = view, now
            else:
                continue
            detail = f"{candidate.id} could win {voter.id}'s vote but lacks its committed entries"
            _broken("more_up_to_date_correct_inv", detail)

    def _check_complete(self, leader: _Node) -> None:
        """leader_completeness_inv. It concerns entries of earlier terms that were committed before
        its own term or in it: a leader that was replaced and has not heard of it may lack what
        its successors committed."""
        view = leader.view
        assert view is not None
        older = bisect_left(self._committed_terms, view.term) - 1
        upto = min(older, bisect_right(self._shown_terms, view.term) - 1)
        if leader.agrees < upto:
            detail = f"leader {view.id} lacks what was committed up to {upto}"
            _broken("leader_completeness_inv", detail)

    def _check_leader(self, leader: _Node) -> None:
        """committed_is_durable_inv of a leader."""
        view = leader.view
        assert view is not None
        if view.commit > self._secured(view.conf, durable=True):
            detail = f"what leader {view.id} committed up to {view.commit} is not durable"
            _broken("committed_is_durable_inv", detail)

    def _check_ahead_of_leader(self, leader: _Node, changed: _Node) -> None:
        """election_safety_inv: nobody has an entry of its term that it has not."""
        others = self._nodes.values() if leader is changed else (changed,)
        assert leader.view is not None
        term = leader.view.term
        own = self._last_of_term(leader.path, term)
        for other in others:
            if other is not leader and self._last_of_term(other.path, term) > own:
                assert other.view is not None
                detail = f"{other.view.id} has more of term {term} than its leader {leader.view.id}"
                _broken("election_safety_inv", detail)

    def _last_of_term(self, path: list[int], term: int) -> int:
        """The last index with this term, 0 if none: terms only grow along a log."""
        terms = self._terms
        last = len(path) - 1
        found = terms[path[last]]
        if found > term:
            last = bisect_right(path, term, key=terms.__getitem__) - 1
            found = terms[path[last]]
        return last if found == term else 0

    def _check_quorums(self) -> None:
        """quorum_log_inv, and the same for disks: nothing committed can be lost."""
        newest: NodeView | None = None
        for each in self._nodes.values():
            view = each.view
            assert view is not None
            if newest is None or view.applied > newest.applied:
                newest = view
        assert newest is not None
        upto = self._secured(newest.conf, durable=False)
        for node in self._nodes.values():
            view = node.view
            assert view is not None
            if view.commit <= upto or view.conf != newest.conf:
                continue
            # A newer configuration may be committed that nobody has applied yet: members that
            # lag know of entries that others have committed under it.
            if not self._conf_changes_between(newest.applied, view.commit):
                detail = f"what {view.id} committed up to {view.commit} is missing"
                _broken("quorum_log_inv", f"{detail} from a quorum")
        upto = self._secured(self._conf, durable=True)
        if self.commit > upto and not self._conf_changes_between(self._applied, self.commit):
            stored = {id: node.stored for id, node in self._nodes.items()}
            detail = f"{self.commit} was committed, and disks have the log up to {stored}"
            _broken("committed_is_durable_inv", detail)

    def _conf_changes_between(self, after: int, upto: int) -> bool:
        changes = self._committed_conf_changes
        return bisect_right(changes, after) < bisect_right(changes, upto)

    def _secured(self, conf: Configuration, *, durable: bool) -> int:
        """Up to where no quorum can be formed without somebody who has the committed log."""
        best = -1
        for half in (conf.voters, conf.outgoing):
            if half:
                held = []
                for id in half:
                    node = self._nodes.get(id)
                    if id in self.excused:
                        held.append(EVERYTHING)
                    else:
                        held.append(0 if node is None else node.stored if durable else node.agrees)
                held.sort()
                # Of n voters a quorum leaves (n - 1) // 2 out: one more must have it.
                best = max(best, held[len(held) // 2])
        return best if best >= 0 else EVERYTHING


def _check_step(then: NodeView, now: NodeView, kept: int) -> None:
    for step in STEPS:
        for fault in step(then, now):
            _broken(step.__name__, fault)
    if now.last < then.commit and now.start == then.start:
        _broken("committed_stays", f"{now.id} lost entries it had committed")
    if kept < min(then.commit, now.last):
        _broken("committed_stays", f"{now.id} changed an entry it had committed")
    same_leadership = then.term == now.term and then.role is now.role is Role.LEADER
    if same_leadership and (now.last < then.last or kept < then.last):
        _broken("leader_appends_only", f"leader {now.id} changed its log in term {now.term}")


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The last index of the common beginning of two paths: once apart they never meet again."""
    low, high = 0, min(len(one), len(other)) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if one[middle] == other[middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _broken(name: str, detail: str) -> NoReturn:
    raise InvariantBroken(f"{name}: {detail}")


__all__ = ["InvariantBroken", "Monitor"]
