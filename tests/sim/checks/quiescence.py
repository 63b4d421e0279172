"""quiescence: at rest all members have the same state, hash, leases and members: the model's."""

from collections.abc import Sequence
from typing import Any

from sim.checks.log import History
from sim.checks.violation import Violation
from sim.model import Kv

from pyetcd.raft.codec import encode_conf_state
from pyetcd.store.compact import hash_kv


def state_of(member: Any) -> dict[str, object]:
    """Everything that members must agree on once they are quiet."""
    machine = member.process.machine
    machine.commit()
    keyspace = machine.keyspace
    hashed = hash_kv(keyspace, 0)
    return {
        "applied": machine.applied_index,
        "revision": keyspace.revision,
        "compacted": keyspace.compact_revision,
        "hash": hashed.hash,
        # Also what no reader sees: the rows that a finished compaction must have taken.
        "rows": machine.backend.query("SELECT count(*) FROM revisions")[0][0],
        "leases": {id: machine.lessor.keys(id) for id in sorted(machine.lessor.ids())},
        "members": sorted(map(str, machine.members.all())),
        "version": machine.members.version,
        "alarms": [str(alarm) for alarm in machine.alarms.get()],
        "conf": encode_conf_state(machine.conf_state),
    }


def check_equal(members: Sequence[Any], history: History) -> None:
    """At quiescence."""
    first, *others = members
    expected = state_of(first)
    for other in others:
        found = state_of(other)
        for name, value in expected.items():
            if found[name] != value:
                raise Violation(
                    "quiescence", f"{name}: {other.name} {found[name]}, {first.name} {value}"
                )
    if expected["applied"] != history.last_index:
        raise Violation("quiescence", f"applied {expected['applied']} of {history.last_index}")
    model = history.model
    for member in members:
        rows = member.process.machine.keyspace.range(b"\0", b"\0").rows
        found_kvs = [Kv(r[1], r[2], r[3], r[0] >> 23, r[4], r[5]) for r in rows]
        if found_kvs != [model.current[key] for key in sorted(model.current)]:
            raise Violation("quiescence", f"{member.name} holds {found_kvs}")
        if set(member.process.machine.lessor.ids()) != set(model.leases):
            raise Violation("quiescence", f"{member.name}: leases are not the model's")
        if (expected["revision"], expected["compacted"]) != (model.revision, model.compacted):
            raise Violation("quiescence", f"revision, compacted: {expected}")
