"""Metrics: names, types, labels and buckets are those of an idle etcd; counting is cheap."""

import re
import urllib.request
from typing import Protocol

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from pyetcd.server.metrics import Histogram, Metrics, go_float
from pyetcd.server.metrics_tables import COUNTER, GAUGE, HISTOGRAM, ROWS


class Etcd(Protocol):
    client_port: int


# Series that etcd has when idle and pyetcd has not: its v2 store at work, and Go itself.
# Of one side only: Go's runtime and v2 there, what etcd does not measure here.
ONE_SIDE = re.compile(r"etcd_debugging_store_(reads|writes)_total|go_|pyetcd_|python_")


def idle() -> Metrics:
    """As a member sets it up."""
    metrics = Metrics(extensive=True)
    metrics.vector("etcd_cluster_version").set(("3.5",), 1)
    metrics.vector("etcd_server_version").set(("3.5.1",), 1)
    metrics.vector("etcd_server_id").set(("1",), 1)
    metrics.vector("etcd_server_go_version").set(("x",), 1)
    metrics.histogram("etcd_server_apply_duration_seconds", "v2", "PUT", "true").observe(0.001)
    return metrics


def series(text: str) -> set[str]:
    """Names with labels, without values; ids and versions made equal."""
    names = {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    names = {re.sub(r'(server_id|server_go_version)="[^"]*"', r"\1", name) for name in names}
    return {name for name in names if not ONE_SIDE.match(name)}


def types(text: str) -> dict[str, str]:
    found = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    return {name: kind for name, kind in found if not ONE_SIDE.match(name)}


def test_same_series_as_an_idle_etcd(real_etcd: Etcd) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{real_etcd.client_port}/metrics") as answer:
        theirs = answer.read().decode()
    ours = idle().render().decode()
    assert types(ours) == types(theirs)
    assert series(ours) == series(theirs)


def test_table() -> None:
    kinds = [row.kind for name, row in ROWS.items() if not name.startswith("pyetcd_")]
    counts = (kinds.count(COUNTER), kinds.count(GAUGE), kinds.count(HISTOGRAM))
    assert counts == (46, 37, 24)


def test_text_is_sorted_and_can_be_parsed() -> None:
    text = idle().render().decode()
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert names == sorted(names)
    assert len(list(text_string_to_metric_families(text))) == len(names)


def test_collector_of_prometheus_client() -> None:
    metrics = idle()
    metrics.counters.put = 3
    registry = CollectorRegistry()
    registry.register(metrics)
    assert registry.get_sample_value("etcd_mvcc_put_total") == 3


def test_counting() -> None:
    metrics = Metrics()
    metrics.counters.range += 2
    metrics.bind("etcd_server_is_leader", lambda: 1)
    metrics.vector("etcd_network_peer_sent_bytes_total").inc(("a",), 5)
    metrics.vector("etcd_network_peer_sent_bytes_total").inc(("a",), 6)
    stats = metrics.grpc["/etcdserverpb.KV/Put"]
    stats.started += 1
    stats.handled[5] += 1
    text = metrics.render().decode().splitlines()
    assert "etcd_mvcc_range_total 2" in text
    assert "etcd_debugging_mvcc_range_total 2" in text
    assert "etcd_server_is_leader 1" in text
    assert 'etcd_network_peer_sent_bytes_total{To="a"} 11' in text
    assert (
        'grpc_server_handled_total{grpc_code="NotFound",grpc_method="Put",'
        'grpc_service="etcdserverpb.KV",grpc_type="unary"} 1'
    ) in text
    assert not any(line.startswith("grpc_server_handling_seconds") for line in text)


def test_histogram_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1] and histogram.total == 8.0


def test_vectors_are_bounded() -> None:
    vector = Metrics().vector("etcd_network_peer_sent_bytes_total")
    for number in range(2000):
        vector.inc((str(number),))
    assert len(vector.values) == 1000
    vector.inc(("0",))
    assert vector.values["0",] == 2


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    metrics.vector("etcd_server_id").set(('a"\\\n',), 1)
    assert 'etcd_server_id{server_id="a\\"\\\\\\n"} 1' in metrics.render().decode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1, "1"), (-1.5, "-1.5"), (100000, "100000"), (1e6, "1e+06"), (0.001, "0.001"),
        (2147483648, "2.147483648e+09"), (0.0001, "0.0001"), (0.00001, "1e-05"), (10.25, "10.25"),
        (float("inf"), "+Inf"), (float("nan"), "NaN"), (1048576, "1.048576e+06"),
        (2.0**64 - 1, "1.8446744073709552e+19"),
    ],
)  # fmt: skip
def test_numbers_as_go_writes_them(value: float, text: str) -> None:
    assert go_float(value) == text
