"""What the keyspace costs, request by request: python tests/bench/keyspace.py [KEYS] [CACHE_KIB]

Prints microseconds an operation (or milliseconds where it says so); values of 256 B, one commit
per 1000 puts. Read the figures as ratios: the machine is shared.
"""

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pyetcd.proto import rpc_pb2 as pb
from pyetcd.store import backend as backend_module
from pyetcd.store.backend import Backend
from pyetcd.store.compact import CompactionJob, compact, hash_on
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.txn import apply_delete_range, apply_put, apply_range, apply_txn
from pyetcd.store.verify import verify

VALUE = random.Random(1).randbytes(256)


class NoLeases:
    def has(self, id: int) -> bool:
        return True

    def attach(self, id: int, key: bytes) -> None: ...

    def detach(self, id: int, key: bytes) -> None: ...


def each_us(label: str, calls: list[Callable[[], object]] | list[object], run: Callable) -> None:
    start = time.perf_counter()
    for call in calls:
        run(call)
    spent = time.perf_counter() - start
    print(f"{label:<44}{spent / len(calls) * 1e6:10.2f} us")


def once_ms(label: str, run: Callable[[], object]) -> None:
    best = min(_timed(run) for _ in range(3))
    print(f"{label:<44}{best * 1e3:10.2f} ms")


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(count: int, path: str) -> None:
    backend = Backend.open(path, create=True)
    keyspace = Keyspace(backend)
    leases = NoLeases()
    rng = random.Random(2)
    keys = [b"key/%012d" % number for number in range(count)]

    def put(request: pb.PutRequest) -> None:
        apply_put(keyspace, leases, request)
        if backend.pending > 1000:
            backend.set_applied(keyspace.revision, 1)
            backend.commit()

    each_us("put, new keys in order", [pb.PutRequest(key=k, value=VALUE) for k in keys], put)
    shuffled = rng.sample(keys, len(keys))
    each_us("put, over, random", [pb.PutRequest(key=k, value=VALUE) for k in shuffled], put)
    some = rng.sample(keys, min(20_000, count))
    hot = some[:100] * 100
    each_us("put, over, 100 hot keys", [pb.PutRequest(key=k, value=VALUE) for k in hot], put)
    wanted = [pb.PutRequest(key=k, value=VALUE, prev_kv=True) for k in hot]
    each_us("put with prev_kv, hot", wanted, put)

    def get(request: pb.RangeRequest) -> None:
        apply_range(keyspace, request).SerializeToString()

    each_us("get, random", [pb.RangeRequest(key=k) for k in some], get)
    each_us("get, hot", [pb.RangeRequest(key=k) for k in hot], get)
    old = keyspace.revision // 2
    each_us("get at an old revision", [pb.RangeRequest(key=k, revision=old) for k in some], get)
    once = pb.Compare(target=pb.Compare.VERSION, result=pb.Compare.GREATER, version=0)
    txns = []
    for key in hot:
        once.key = key
        op = pb.RequestOp(request_put=pb.PutRequest(key=key, value=VALUE))
        txns.append(pb.TxnRequest(compare=[once], success=[op]))
    each_us("txn: compare and put, hot", txns, lambda t: apply_txn(keyspace, leases, t))
    backend.commit()

    ten = {"key": keys[0], "range_end": keys[min(10_000, count - 1)]}
    once_ms("range of 10,000", lambda: get(pb.RangeRequest(**ten)))
    once_ms("range of 10,000, keys only", lambda: get(pb.RangeRequest(**ten, keys_only=True)))
    once_ms("range of 10,000 at an old revision", lambda: get(pb.RangeRequest(**ten, revision=old)))
    sort = {"sort_order": 2, "sort_target": 3}
    once_ms(
        "range of 10,000 by mod, first 10", lambda: get(pb.RangeRequest(**ten, **sort, limit=10))
    )
    everything = {"key": b"\x00", "range_end": b"\x00"}
    once_ms("first 10 of all", lambda: get(pb.RangeRequest(**everything, limit=10)))
    once_ms("count of all", lambda: get(pb.RangeRequest(**everything, count_only=True)))
    once_ms("open", lambda: _reopen(backend))

    keyspace = Keyspace(backend)
    reader = backend.reader()
    once_ms("HashKV", lambda: hash_on(reader, 0))
    once_ms("verify", lambda: verify(reader))
    reader.close()
    compact(keyspace, keyspace.revision)
    job, steps = CompactionJob(keyspace), []
    while True:
        start = time.perf_counter()
        more = job.step()
        steps.append(time.perf_counter() - start)
        backend.commit()
        if not more:
            break
    middle, most = sorted(steps)[len(steps) // 2] * 1e3, max(steps) * 1e3
    print(f"compaction: {job.deleted} rows in {len(steps)} steps, {sum(steps) * 1e3:.0f} ms")
    print(f"one step: {middle:.2f} ms in the middle, {most:.2f} ms at most")
    start = time.perf_counter()
    gone = apply_delete_range(keyspace, leases, pb.DeleteRangeRequest(**ten)).deleted
    spent = time.perf_counter() - start
    print(f"delete of {gone} keys: {spent / gone * 1e6:.2f} us each")
    start = time.perf_counter()
    backend.commit()
    print(f"commit of that: {(time.perf_counter() - start) * 1e3:.2f} ms")
    once_ms("checkpoint", backend.checkpoint)
    print(f"file: {backend.size_bytes / 1e6:.0f} MB, in use {backend.in_use_bytes / 1e6:.0f} MB")
    backend.close()


def _reopen(backend: Backend) -> Keyspace:
    backend.close()
    backend.reopen()
    return Keyspace(backend)


if __name__ == "__main__":
    if sys.argv[2:]:
        backend_module.CACHE_KIB = int(sys.argv[2])  # type: ignore[misc]
    directory = tempfile.mkdtemp()
    try:
        main(int(sys.argv[1]) if sys.argv[1:] else 50_000, str(Path(directory) / "kv.db"))
    finally:
        shutil.rmtree(directory)
