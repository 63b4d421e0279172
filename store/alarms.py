"""Alarms: which member has raised NOSPACE or CORRUPT, and what every member refuses then.

Alarms are raised and disarmed by log entries, so all members refuse the same entries. The gates
follow from the set of alarms alone. Real etcd swaps its applier at each change instead: there the
last alarm raised decides, disarming one lifts the gate of the other, and a restart may decide
differently. Here CORRUPT is looked at first, and each gate stands while its alarm does.
"""

from typing import Final

from pyetcd.proto.rpc_pb2 import CORRUPT, NONE, NOSPACE, AlarmMember, AlarmType, TxnRequest
from pyetcd.store.backend import Backend
from pyetcd.store.db import signed, unsigned

_NAMES: Final[dict[int, str]] = {int(NOSPACE): "NOSPACE", int(CORRUPT): "CORRUPT"}
KINDS: Final[dict[int, AlarmType]] = {int(NOSPACE): NOSPACE, int(CORRUPT): CORRUPT}

# What one request may add to the file, roughly, as etcd's quota estimates it (quota.go).
KEY_OVERHEAD_BYTES: Final = 256
LEASE_COST_BYTES: Final = 64


class Alarms:
    """The alarms that are set. `nospace` and `corrupt` are plain attributes: each put asks."""

    __slots__ = ("_backend", "_set", "corrupt", "nospace")

    def __init__(self, backend: Backend) -> None:
        self.nospace = False
        self.corrupt = False
        self.reload(backend)

    def reload(self, backend: Backend) -> None:
        """Take what the backend holds: at start, and after a snapshot was installed."""
        self._backend = backend
        self._set: set[tuple[int, int]] = set()
        for member_id, alarm in backend.query("SELECT member_id, alarm FROM alarms"):
            assert isinstance(member_id, int), member_id
            assert isinstance(alarm, int), alarm
            self._set.add((unsigned(member_id), alarm))
        self._recompute()

    def get(self, alarm: int = NONE) -> list[AlarmMember]:
        """Those of one type, or all for NONE; by type, then member."""
        found = sorted((kind, id) for id, kind in self._set if alarm in (NONE, kind))
        return [AlarmMember(memberID=id, alarm=KINDS[kind]) for kind, id in found]

    def has(self, member_id: int, alarm: int) -> bool:
        """Whether this member has set it."""
        return (member_id, alarm) in self._set

    def activate(self, member_id: int, alarm: int) -> list[AlarmMember]:
        """The alarm, also when it was set already; nothing for NONE, nor for a type that nobody
        knows (at which etcd stops every member)."""
        if alarm not in KINDS:
            return []
        if (member_id, alarm) not in self._set:
            self._set.add((member_id, alarm))
            self._backend.execute(
                "INSERT OR REPLACE INTO alarms (member_id, alarm) VALUES (?, ?)",
                (signed(member_id), alarm),
            )
            self._recompute()
        return [AlarmMember(memberID=member_id, alarm=KINDS[alarm])]

    def deactivate(self, member_id: int, alarm: int) -> list[AlarmMember]:
        """The alarm that was set, or nothing."""
        if (member_id, alarm) not in self._set:
            return []
        self._set.remove((member_id, alarm))
        self._backend.execute(
            "DELETE FROM alarms WHERE member_id = ? AND alarm = ?", (signed(member_id), alarm)
        )
        self._recompute()
        return [AlarmMember(memberID=member_id, alarm=KINDS[alarm])]

    def describe(self) -> list[str]:
        """The lines of StatusResponse.errors, with etcd's trailing space."""
        return [f"memberID:{found.memberID} alarm:{_NAMES[found.alarm]} " for found in self.get()]

    def _recompute(self) -> None:
        self.nospace = any(kind == NOSPACE for _, kind in self._set)
        self.corrupt = any(kind == CORRUPT for _, kind in self._set)


def put_cost_bytes(key: bytes, value: bytes) -> int:
    return KEY_OVERHEAD_BYTES + len(key) + len(value)


def txn_cost_bytes(request: TxnRequest) -> int:
    """The dearer branch; 0 for a transaction that puts nothing. Nested transactions count, as
    from etcd 3.5.33 on: in 3.5.1 they passed every gate."""
    costs = [0, 0]
    for branch, ops in enumerate((request.success, request.failure)):
        for op in ops:
            kind = op.WhichOneof("request")
            if kind == "request_put":
                costs[branch] += put_cost_bytes(op.request_put.key, op.request_put.value)
            elif kind == "request_txn":
                costs[branch] += txn_cost_bytes(op.request_txn)
    return max(costs)
