"""state: after each entry every member has the same keyspace, and after a restart what it had then.

Strategy. A hash is chained over what the keyspace itself tells its listener: the changes of each
revision. It costs the same for a large keyspace as for a small one, so it is compared at every
applied index, together with the revision and the compact revision, and after the entries that
concern them the leases and the members. The first member to apply an entry sets what is right.

A restart or an installed snapshot goes on from the hash of its applied index. Whether the file
deserves that is judged by all of its rows against the model as of then, its leases and members.

Users and v2 keys are few: they are compared whole with the model, after each entry that changed
them and at each restart; their revision and index after every entry.
"""

import hashlib
from bisect import bisect_right
from typing import Any

from sim.auth_model import users_of
from sim.checks.log import History
from sim.checks.violation import Violation
from sim.model import Kv
from sim.v2_model import tree_of

from pyetcd.raft.types import Entry, EntryType
from pyetcd.store.history import SUB_BITS

State = tuple[bytes, int, int]  # the hash, the revision, the compact revision


class StateChecker:
    def __init__(self, history: History) -> None:
        self.history = history
        self.compared_total = 0
        self.restored_total = 0
        self._states: dict[int, State] = {}
        # What changes seldom: at which entries, and what it was from there on.
        self._leases: tuple[list[int], list[list[int]]] = ([], [])
        self._members: tuple[list[int], list[list[str]]] = ([], [])

    def applied(self, who: str, entry: Entry, state: State, machine: Any) -> None:
        index = entry.index
        self.compared_total += 1
        known = self._states.setdefault(index, state)
        if known != state:
            raise Violation("state", f"{who} has {_show(state)} at {index}, not {_show(known)}")
        self._check_users(who, index, machine)
        self._check_v2(who, index, machine)
        result = self.history.result_by_index[index]
        if entry.type is not EntryType.NORMAL or (result is None and entry.data):
            _agree(self._members, who, index, "members", members_of(machine))
        elif result is not None and result[0].startswith("lease"):
            _agree(self._leases, who, index, "leases", sorted(machine.lessor.ids()))

    def _check_users(self, who: str, index: int, machine: Any, *, is_whole: bool = False) -> None:
        model, auth = self.history.model.auth, machine.auth
        expected = model.at(index)
        found: Any = (auth.enabled, auth.revision)
        if found != (expected.enabled, expected.revision):
            raise Violation("users", f"{who} has {found} at {index}, not {expected}")
        if is_whole or model.changed(index):
            found = users_of(machine)
            if found != expected:
                raise Violation("users", f"{who} has {found} at {index}, not {expected}")

    def _check_v2(self, who: str, index: int, machine: Any, *, is_whole: bool = False) -> None:
        model = self.history.model.v2
        expected = model.at(index)
        if machine.v2.index != expected[0]:
            raise Violation(
                "v2", f"{who} has the v2 index {machine.v2.index} at {index}, not {expected[0]}"
            )
        if is_whole or model.changed(index):
            found = tree_of(machine)
            if found != expected:
                raise Violation("v2", f"{who} has {found} at {index}, not {expected}")

    def restored(self, who: str, machine: Any) -> bytes:
        """The hash to go on from, if the machine has what was there at its applied index."""
        index, keyspace = machine.applied_index, machine.keyspace
        if index == 0:
            return b""
        self.restored_total += 1
        history = self.history
        revision = history.revision_by_index.get(index)
        if revision is None:
            raise Violation("state", f"{who} comes back with {index} applied, nobody has")
        state = self._states.get(index)
        compacted = keyspace.compact_revision if state is None else state[2]
        if (keyspace.revision, keyspace.compact_revision) != (revision, compacted):
            raise Violation(
                "state",
                f"{who} comes back at {index} with revision {keyspace.revision}, compacted"
                f" {keyspace.compact_revision}: not {revision}, {compacted}",
            )
        self._check_users(who, index, machine, is_whole=True)
        self._check_v2(who, index, machine, is_whole=True)
        rows = keyspace.range(b"\0", b"\0").rows
        found = [Kv(r[1], r[2], r[3], r[0] >> SUB_BITS, r[4], r[5]) for r in rows]
        expected = history.model.range(b"\0", b"\0", revision)
        if found != expected:
            raise Violation("state", f"{who} comes back at {index} with {found}, not {expected}")
        for name, kept, shown in (
            ("leases", self._leases, sorted(machine.lessor.ids())),
            ("members", self._members, members_of(machine)),
        ):
            at = bisect_right(kept[0], index) - 1  # type: ignore[index]
            if at >= 0 and kept[1][at] != shown:  # type: ignore[index]
                raise Violation(
                    "state",
                    f"{who} comes back at {index} with the {name} {shown}, not {kept[1][at]}",  # type: ignore[index]
                )
        return b"%d" % index if state is None else state[0]


class Witness:
    """The listener of one keyspace, before the member's own: one run of one member."""

    wanted = True  # the changes are always built

    def __init__(self, checker: StateChecker, who: str, machine: Any) -> None:
        self._checker = checker
        self._who = who
        self._machine = machine
        self._listener: Any = None
        self._changes: list[Any] = []
        self._hash = checker.restored(who, machine)

    def on_write(self, revision: int, changes: list[Any]) -> None:
        self._changes.append((revision, changes))
        if self._listener.wanted:
            self._listener.on_write(revision, changes)

    def begin(self) -> None:
        """Before an entry is applied."""
        keyspace = self._machine.keyspace
        if keyspace.listener is not self:
            self._listener, keyspace.listener = keyspace.listener, self

    def applied(self, entry: Entry) -> None:
        if self._changes:
            text = repr(self._changes).encode()
            self._hash = hashlib.blake2b(self._hash + text, digest_size=16).digest()
            self._changes.clear()
        keyspace = self._machine.keyspace
        state = (self._hash, keyspace.revision, keyspace.compact_revision)
        self._checker.applied(self._who, entry, state, self._machine)

    def installed(self) -> None:
        self._changes.clear()
        self._hash = self._checker.restored(self._who, self._machine)


def members_of(machine: Any) -> list[str]:
    return sorted(map(str, machine.members.all()))


def _agree(kept: tuple[list[int], list[Any]], who: str, index: int, name: str, shown: Any) -> None:
    indexes, values = kept
    if not indexes or index > indexes[-1]:
        indexes.append(index)
        values.append(shown)
        return
    at = bisect_right(indexes, index) - 1
    if at >= 0 and values[at] != shown:
        raise Violation("state", f"{who} has the {name} {shown} at {index}, not {values[at]}")


def _show(state: State) -> str:
    return f"{state[0].hex()[:8]} revision {state[1]} compacted {state[2]}"
