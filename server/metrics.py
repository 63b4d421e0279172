"""Counting: etcd's metrics as plain numbers, read when somebody scrapes.

Strategy. The hot path only adds to plain integers (`metrics.counters.put += 1`, `stats.started +=
1`): no lock, no label lookup, no object. What already is a number elsewhere is not counted twice:
`bind` names a function that is asked at a scrape. A prometheus_client collector turns all of it
into families, and `render` into text.

    counters             slots of `Counters`: hot counters, one per unlabelled metric counted here
    bind(name, read)     any unlabelled counter or gauge whose value lives elsewhere
    vector(name)         labelled counters and gauges: `.inc(labels)`, `.set(labels, value)`
    histogram(name, ...) `.observe(value)`; keep the object, do not look it up on the hot path
    grpc[path]           one `MethodStats` per RPC of the six etcd services and the health service

Rules. All of it belongs to the loop's thread. Names, types, labels and buckets are the table's
(metrics_tables.py); a name that is not there is a bug. Label values come from members, methods and
versions, never from what a client may choose freely; VECTOR_MAX holds even so.

`render` does not use prometheus_client's own text, which appends _total to every counter's name.
"""

import os
import resource
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from pyetcd.proto.errors import Code
from pyetcd.proto.services import METHODS, Kind
from pyetcd.server.metrics_tables import COUNTER, GAUGE, GRPC_BUCKETS, HISTOGRAM, ROWS, Row

VECTOR_MAX = 1000  # label sets of one metric; beyond it a new set is not counted
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


@dataclass(slots=True)
class Counters:
    """Hot counters. Each name is the metric's, without what `_COUNTER_NAMES` adds."""

    lease_granted: int = 0
    lease_renewed: int = 0
    lease_revoked: int = 0
    lease_expired: int = 0
    compaction_keys: int = 0
    watch_events: int = 0
    range: int = 0
    put: int = 0
    delete: int = 0
    txn: int = 0
    put_bytes: int = 0
    health_success: int = 0
    health_failures: int = 0
    heartbeat_send_failures: int = 0
    leader_changes_seen: int = 0
    learner_promote_successes: int = 0
    proposals_failed: int = 0
    read_indexes_failed: int = 0
    slow_read_indexes: int = 0
    slow_apply: int = 0


_COUNTER_NAMES = {
    "lease_granted": "etcd_debugging_lease_granted_total",
    "lease_renewed": "etcd_debugging_lease_renewed_total",
    "lease_revoked": "etcd_debugging_lease_revoked_total",
    "lease_expired": "etcd_debugging_server_lease_expired_total",
    "compaction_keys": "etcd_debugging_mvcc_db_compaction_keys_total",
    "watch_events": "etcd_debugging_mvcc_events_total",
    "range": "etcd_mvcc_range_total",
    "put": "etcd_mvcc_put_total",
    "delete": "etcd_mvcc_delete_total",
    "txn": "etcd_mvcc_txn_total",
    "put_bytes": "etcd_debugging_mvcc_total_put_size_in_bytes",
    "health_success": "etcd_server_health_success",
    "health_failures": "etcd_server_health_failures",
    "heartbeat_send_failures": "etcd_server_heartbeat_send_failures_total",
    "leader_changes_seen": "etcd_server_leader_changes_seen_total",
    "learner_promote_successes": "etcd_server_learner_promote_successes",
    "proposals_failed": "etcd_server_proposals_failed_total",
    "read_indexes_failed": "etcd_server_read_indexes_failed_total",
    "slow_read_indexes": "etcd_server_slow_read_indexes_total",
    "slow_apply": "etcd_server_slow_apply_total",
}
assert set(_COUNTER_NAMES) == {field.name for field in fields(Counters)}


class Histogram:
    """Counts per bucket, not yet summed up: an observation is one bisect and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_many(self, value: float, count: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    def take(self, counts: Sequence[int], total: float) -> None:
        """What was counted elsewhere, by the same bounds."""
        self.counts[:] = counts
        self.total = total


class Vector:
    """A labelled counter or gauge; starts empty, as etcd's do."""

    __slots__ = ("_label_count", "values")

    def __init__(self, row: Row) -> None:
        self._label_count = len(row.labels)
        self.values: dict[Labels, float] = {}

    def inc(self, labels: Labels, by: float = 1) -> None:
        if self._has_room(labels):
            self.values[labels] = self.values.get(labels, 0) + by

    def set(self, labels: Labels, value: float) -> None:
        if self._has_room(labels):
            self.values[labels] = value

    def remove(self, labels: Labels) -> None:
        self.values.pop(labels, None)

    def _has_room(self, labels: Labels) -> bool:
        assert len(labels) == self._label_count, labels
        return labels in self.values or len(self.values) < VECTOR_MAX


class MethodStats:
    """One RPC, copied from where it is counted. `handled` is indexed by the gRPC code."""

    __slots__ = ("handled", "handling", "labels", "received", "sent", "started")

    def __init__(self, labels: Labels, *, extensive: bool) -> None:
        self.labels = labels  # method, service, type
        self.started = 0
        self.received = 0
        self.sent = 0
        self.handled = [0] * len(Code)
        self.handling = Histogram(GRPC_BUCKETS) if extensive else None


class Metrics:
    """Everything that is counted in one member."""

    def __init__(self, *, extensive: bool = False) -> None:
        self.counters = Counters()
        self.grpc = _grpc_stats(extensive=extensive)
        self.extensive = extensive
        self.scrapes: dict[int, int] = {200: 0, 500: 0, 503: 0}
        self.scrapes_inflight = 0
        # Called before each scrape, for what can only be copied (feeds.py).
        self.refresh: Callable[[], None] = lambda: None
        self._read: dict[str, Callable[[], float]] = {}
        self._vectors = {
            row.name: Vector(row) for row in ROWS.values() if row.labels and row.kind != HISTOGRAM
        }
        self._histograms: dict[str, dict[Labels, Histogram]] = {
            row.name: {} if row.labels else {(): Histogram(row.buckets)}
            for row in ROWS.values()
            if row.kind == HISTOGRAM
        }
        for attribute, name in _COUNTER_NAMES.items():
            self._read[name] = partial(getattr, self.counters, attribute)
        self._read["etcd_debugging_mvcc_range_total"] = lambda: self.counters.range
        self._process = ProcessCollector(registry=None)
        self._runtime = _runtime_collectors()

    def bind(self, name: str, read: Callable[[], float]) -> None:
        """The value of this unlabelled counter or gauge is `read()` at each scrape."""
        row = ROWS[name]
        assert not row.labels and row.kind != HISTOGRAM, name
        self._read[name] = read

    def vector(self, name: str) -> Vector:
        return self._vectors[name]

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Made when first asked for, if it has labels."""
        row, series = ROWS[name], self._histograms[name]
        assert len(labels) == len(row.labels), name
        found = series.get(labels)
        if found is None:
            found = Histogram(row.buckets)
            if len(series) < VECTOR_MAX:
                series[labels] = found
        return found

    # ---- reading ----

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's collector interface."""
        self.refresh()
        for row in ROWS.values():
            yield self._family(row)
        yield from self._grpc_families()
        yield from self._process_families()
        yield from self._scrape_families()

    def render(self) -> bytes:
        """The text of /metrics, sorted by name."""
        found = sorted((_full_name(one), one) for one in self._with_samples())
        return "".join(_family_text(name, one) for name, one in found).encode()

    def _with_samples(self) -> Iterator[Metric]:
        return (family for family in self.collect() if family.samples)

    def _family(self, row: Row) -> Metric:
        family = Metric(row.name, row.help, row.kind)
        if row.kind == HISTOGRAM:
            for labels, histogram in sorted(self._histograms[row.name].items()):
                _add_histogram(family, dict(zip(row.labels, labels, strict=True)), histogram)
        elif row.labels:
            for labels, value in sorted(self._vectors[row.name].values.items()):
                family.add_sample(row.name, dict(zip(row.labels, labels, strict=True)), value)
        else:
            family.add_sample(row.name, {}, self._value(row.name))
        return family

    def _value(self, name: str) -> float:
        if name in self._read:
            return self._read[name]()
        if name == "os_fd_limit":
            return file_limit()
        if name == "os_fd_used":
            return _open_files()
        return 0.0

    def _grpc_families(self) -> Iterator[Metric]:
        handled = Metric("grpc_server_handled_total", "Calls finished, by code.", COUNTER)
        handling = Metric("grpc_server_handling_seconds", "Time that calls took.", HISTOGRAM)
        received = Metric("grpc_server_msg_received_total", "Messages received.", COUNTER)
        sent = Metric("grpc_server_msg_sent_total", "Messages sent.", COUNTER)
        started = Metric("grpc_server_started_total", "Calls begun.", COUNTER)
        for stats in self.grpc.values():
            names = ("grpc_method", "grpc_service", "grpc_type")
            labels = dict(zip(names, stats.labels, strict=True))
            for code in Code:
                coded = {"grpc_code": _code_name(code), **labels}
                handled.add_sample(handled.name, coded, stats.handled[code])
            if stats.handling is not None:
                _add_histogram(handling, labels, stats.handling)
            received.add_sample(received.name, labels, stats.received)
            sent.add_sample(sent.name, labels, stats.sent)
            started.add_sample(started.name, labels, stats.started)
        yield from (handled, handling, received, sent, started)

    def _process_families(self) -> Iterator[Metric]:
        yield from self._process.collect()
        for collector in self._runtime:
            yield from collector.collect()
        threads = Metric("python_threads", "Threads of this process.", GAUGE)
        threads.add_sample("python_threads", {}, threading.active_count())
        yield threads
        name = "process_virtual_memory_max_bytes"
        family = Metric(name, "Most virtual memory in bytes.", GAUGE)
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        unlimited = limit == resource.RLIM_INFINITY
        family.add_sample(name, {}, float((1 << 64) - 1 if unlimited else limit))
        yield family

    def _scrape_families(self) -> Iterator[Metric]:
        name = "promhttp_metric_handler_requests_in_flight"
        inflight = Metric(name, "Scrapes being answered.", GAUGE)
        inflight.add_sample(name, {}, self.scrapes_inflight)
        name = "promhttp_metric_handler_requests_total"
        total = Metric(name, "Scrapes by HTTP status.", COUNTER)
        for status, count in sorted(self.scrapes.items()):
            total.add_sample(name, {"code": str(status)}, count)
        yield from (inflight, total)


def _runtime_collectors() -> list[Collector]:
    """Python's own, in the place of Go's."""
    own = CollectorRegistry()
    return [PlatformCollector(registry=own), GCCollector(registry=own)]


def _grpc_stats(*, extensive: bool) -> dict[str, MethodStats]:
    """All methods that etcd counts: its own services and health, not Lock and Election."""
    found = {}
    for path, method in METHODS.items():
        service, _, name = path[1:].partition("/")
        counted = service.startswith("etcdserverpb.") or service == "grpc.health.v1.Health"
        if counted and path != "/etcdserverpb.KV/RangeStream":  # not in 3.5
            kind = Kind.SERVER_STREAM if name == "Watch" and "Health" in service else method.kind
            found[path] = MethodStats((name, service, kind.value), extensive=extensive)
    return dict(sorted(found.items(), key=lambda item: item[1].labels))


def _code_name(code: Code) -> str:
    """grpc-go's names: NotFound, and OK."""
    if code == Code.OK:
        return "OK"
    return "".join(part.capitalize() for part in code.name.split("_")).replace(
        "Cancelled", "Canceled"
    )


def _add_histogram(family: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    count = 0
    for bound, bucket in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        count += bucket
        family.add_sample(family.name + "_bucket", {**labels, "le": go_float(bound)}, count)
    family.add_sample(family.name + "_sum", labels, histogram.total)
    family.add_sample(family.name + "_count", labels, count)


def _full_name(family: Metric) -> str:
    """Families of prometheus_client drop the _total of a counter; ours never do."""
    first = str(family.samples[0].name)
    return first if family.type == COUNTER else str(family.name)


def _family_text(name: str, family: Metric) -> str:
    lines = [f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n"]
    for sample in family.samples:
        value = go_float(sample.value)
        lines.append(f"{sample.name}{_labels_text(sample.labels.items())} {value}\n")
    return "".join(lines)


def go_float(value: float) -> str:
    """strconv.FormatFloat(value, 'g', -1, 64): the shortest digits, an exponent from 1e+06 on."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"inf": "+Inf", "-inf": "-Inf"}.get(str(value), "NaN")
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(float(value))).normalize().as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    point = len(text) + exponent - 1  # the exponent of the first digit
    minus = "-" if sign else ""
    if point < -4 or point >= 6:
        rest = f".{text[1:]}" if len(text) > 1 else ""
        return f"{minus}{text[0]}{rest}e{'-' if point < 0 else '+'}{abs(point):02d}"
    if exponent >= 0:
        return minus + text + "0" * exponent
    if point < 0:
        return f"{minus}0.{'0' * (-point - 1)}{text}"
    return f"{minus}{text[: point + 1]}.{text[point + 1 :]}"


def _labels_text(labels: Iterable[tuple[str, str]]) -> str:
    # Sorted by name, but `le` last: as Go's client library writes them.
    ordered = sorted(labels, key=lambda item: (item[0] == "le", item[0]))
    if not ordered:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in ordered) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def file_limit() -> int:
    """Most open files of this process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def resident_bytes_max() -> int:
    """The most memory this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _open_files() -> float:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0.0
