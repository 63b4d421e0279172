"""What etcd promises, in the dumbest way: a dict, a list of versions per key, a list of events.

The model applies the committed log once, in order; members, clients and watchers are compared with
it. It shares no code with the store. Only what the workload sends is known here. Users and the v2
store have models of their own (auth_model.py, v2_model.py), which are parts of this one.
"""

import re
from bisect import bisect_right
from typing import Any, NamedTuple

from sim.auth_model import AuthModel, result_of_auth
from sim.v2_model import V2Model, result_of_event

PUT, DELETE = 0, 1
ACTIVATE, DEACTIVATE, NOSPACE = 1, 2, 1


class Kv(NamedTuple):
    key: bytes
    value: bytes
    create: int
    mod: int
    version: int
    lease: int


class Event(NamedTuple):
    type: int
    key: bytes
    kv: Kv | None  # of a put
    previous: Kv | None


LEASE_NOT_FOUND = ("error", "etcdserver: requested lease not found")
LEASE_EXISTS = ("error", "etcdserver: lease already exists")
NO_SPACE = ("error", "etcdserver: mvcc: database space exceeded")
COMPACTED = ("error", "etcdserver: mvcc: required revision has been compacted")
FUTURE = ("error", "etcdserver: mvcc: required revision is a future revision")

Result = tuple[Any, ...]


class Model:
    def __init__(self, lease_ttl_min_s: int) -> None:
        self.revision = 1
        self.compacted = -1
        self.current: dict[bytes, Kv] = {}
        self.history: dict[bytes, tuple[list[int], list[Kv | None]]] = {}
        self.events: dict[int, list[Event]] = {}
        self.leases: dict[int, int] = {}
        self.nospace: dict[int, None] = {}  # members that have raised the alarm
        self.auth = AuthModel()
        self.v2 = V2Model()
        self._ttl_min_s = lease_ttl_min_s
        self._changes: list[Event] = []

    def apply(self, request: Any, index: int = 0) -> Result | None:
        """The answer to the entry at that index; None for kinds that are not modelled."""
        self.auth.note(request, index)
        refusal = self.auth.refusal(request, self)
        if refusal is not None:
            return refusal
        if request.HasField("v2"):
            result = self.v2.apply(request.v2)
        else:
            result = self._apply(request) or self.auth.apply(request, index)
        self.v2.keep(index)
        return result

    def member_changed(self, kind: int, id: int, index: int) -> None:
        self.v2.member_changed(kind, id)
        self.v2.keep(index)

    def _apply(self, request: Any) -> Result | None:
        if request.HasField("cluster_member_attr_set"):
            self.v2.attributes_set(request.cluster_member_attr_set.member_ID)
            return None
        if request.HasField("cluster_version_set"):
            self.v2.version_set()
            return None
        if request.HasField("alarm"):
            return self._alarm(request.alarm)
        for kind in ("put", "delete_range", "txn", "compaction", "lease_grant", "lease_revoke"):
            if request.HasField(kind):
                self._changes = []
                result: Result = getattr(self, f"_{kind}")(getattr(request, kind))
                if self._changes:
                    self.revision += 1
                    self.events[self.revision] = self._changes
                return result
        return None

    # Reading

    def at(self, key: bytes, revision: int) -> Kv | None:
        revisions, versions = self.history.get(key, ([], []))
        found = bisect_right(revisions, revision)
        return versions[found - 1] if found else None

    def range(self, key: bytes, end: bytes, revision: int) -> list[Kv]:
        found = (self.at(k, revision) for k in sorted(self.history) if inside(k, key, end))
        return [kv for kv in found if kv is not None]

    # Writing

    def _set(self, key: bytes, kv: Kv | None) -> None:
        revision = self.revision + 1
        revisions, versions = self.history.setdefault(key, ([], []))
        revisions.append(revision)
        versions.append(kv)
        previous = self.current.get(key)
        self._changes.append(Event(DELETE if kv is None else PUT, key, kv, previous))
        if kv is None:
            del self.current[key]
        else:
            self.current[key] = kv

    def _header(self) -> int:
        return self.revision + bool(self._changes)

    def _alarm(self, request: Any) -> None:
        if request.alarm == NOSPACE and request.action == ACTIVATE:
            self.nospace[request.memberID] = None
        elif request.alarm == NOSPACE and request.action == DEACTIVATE:
            self.nospace.pop(request.memberID, None)

    def _put(self, request: Any) -> Result:
        if self.nospace:
            return NO_SPACE
        if request.lease and request.lease not in self.leases:
            return LEASE_NOT_FOUND
        previous = self.current.get(request.key)
        revision = self.revision + 1
        self._set(
            request.key,
            Kv(
                request.key,
                request.value,
                previous.create if previous else revision,
                revision,
                previous.version + 1 if previous else 1,
                request.lease,
            ),
        )
        return ("put", revision, previous if request.prev_kv else None)

    def _delete_range(self, request: Any) -> Result:
        gone = [self.current[k] for k in sorted(self.current)
                if inside(k, request.key, request.range_end)]  # fmt: skip
        for kv in gone:
            self._set(kv.key, None)
        shown = tuple(gone) if request.prev_kv else ()
        return ("delete", self._header(), len(gone), shown)

    def _range(self, request: Any) -> Result:
        found = [self.current[k] for k in sorted(self.current)
                 if inside(k, request.key, request.range_end)]  # fmt: skip
        return ("range", self._header(), tuple(found), len(found))

    def _txn(self, request: Any) -> Result:
        both = (*request.success, *request.failure)
        if self.nospace and any(each.HasField("request_put") for each in both):
            return NO_SPACE
        current = self.current
        succeeded = all(
            self._holds(compare, current.get(compare.key)) for compare in request.compare
        )
        operations = request.success if succeeded else request.failure
        for operation in operations:
            lease = operation.request_put.lease
            if lease and lease not in self.leases:
                return LEASE_NOT_FOUND
        results = []
        for operation in operations:
            kind = operation.WhichOneof("request")
            method = getattr(self, "_" + kind.removeprefix("request_"))
            results.append(method(getattr(operation, kind)))
        # The header of an inner answer is not looked at.
        inner = tuple((result[0], *result[2:]) for result in results)
        return ("txn", self._header(), succeeded, inner)

    def read_txn(self, request: Any, revision: int) -> Result:
        """A transaction without writes, as of a revision."""
        succeeded = all(
            self._holds(compare, self.at(compare.key, revision)) for compare in request.compare
        )
        inner = []
        for operation in request.success if succeeded else request.failure:
            each = operation.request_range
            found = self.range(each.key, each.range_end, revision)
            inner.append(("range", tuple(found), len(found)))
        return ("txn", revision, succeeded, tuple(inner))

    def _holds(self, compare: Any, kv: Kv | None) -> bool:
        target = compare.WhichOneof("target_union")
        if target == "value":
            if kv is None:
                return False
            found, wanted = kv.value, compare.value
        else:
            field = {"version": "version", "mod_revision": "mod", "create_revision": "create"}
            found = getattr(kv, field[target]) if kv else 0
            wanted = getattr(compare, target)
        return bool((found == wanted, found > wanted, found < wanted, found != wanted)[
            compare.result
        ])  # fmt: skip

    def _compaction(self, request: Any) -> Result:
        if request.revision <= self.compacted:
            return COMPACTED
        if request.revision > self.revision:
            return FUTURE
        self.compacted = request.revision
        return ("compaction",)

    def _lease_grant(self, request: Any) -> Result:
        if self.nospace:
            return NO_SPACE
        if request.ID in self.leases:
            return LEASE_EXISTS
        self.leases[request.ID] = max(request.TTL, self._ttl_min_s)
        return ("lease_grant", request.ID, self.leases[request.ID])

    def _lease_revoke(self, request: Any) -> Result:
        if request.ID not in self.leases:
            return LEASE_NOT_FOUND
        for key in sorted(k for k, kv in self.current.items() if kv.lease == request.ID):
            self._set(key, None)
        del self.leases[request.ID]
        return ("lease_revoke", self._header())


def inside(key: bytes, first: bytes, end: bytes) -> bool:
    if not end:
        return key == first
    return key >= first and (end == b"\0" or key < end)


def kv_of(kv: Any) -> Kv:
    return Kv(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def result_of(response: Any) -> Result | None:
    """An rpc response, or an event of the v2 store, in the model's words."""
    kind = type(response).__name__.removesuffix("Response")
    if kind == "Event":
        return result_of_event(response)
    if kind.startswith("Auth"):
        return result_of_auth(re.sub("(?<!^)([A-Z])", r"_\1", kind).lower(), response)
    header = response.header.revision
    if kind == "Put":
        return ("put", header, kv_of(response.prev_kv) if response.HasField("prev_kv") else None)
    if kind == "DeleteRange":
        return ("delete", header, response.deleted, tuple(map(kv_of, response.prev_kvs)))
    if kind == "Range":
        return ("range", header, tuple(map(kv_of, response.kvs)), response.count)
    if kind == "Txn":
        inner = []
        for each in response.responses:
            found = result_of(getattr(each, str(each.WhichOneof("response"))))
            assert found is not None
            inner.append((found[0], *found[2:]))
        return ("txn", header, response.succeeded, tuple(inner))
    if kind == "Compaction":
        return ("compaction",)
    if kind == "LeaseGrant":
        return ("lease_grant", response.ID, response.TTL)
    if kind == "LeaseRevoke":
        return ("lease_revoke", header)
    return None
