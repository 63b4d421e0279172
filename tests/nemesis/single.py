"""One real member, killed again and again; everything it had acknowledged must be there.

    python tests/nemesis/run.py --single 1000        until 1,000 SIGKILLs

Strategy. Writers put ever new keys; a lease is granted, used and revoked in each round; a watch
goes on over all kills, from the revision after the last one it saw. The kill comes at a random
moment: under load alone, or while a compaction, a defragmentation or a snapshot is under way, or
while the member starts (several times in a row, too). `--snapshot-count` is low, so that keyspace
checkpoints and cuts of the log are among the moments.

Checks after each restart. What was acknowledged is there with its value, revision and lease; what
was acknowledged as deleted or revoked is not; the watch has told every acknowledged write at its
revision, in order and once; and all that it has told, laid one over the other, is what is read.
"""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import grpc
from cluster import Api, Cluster

from pyetcd.proto import rpc_pb2 as rpc

WRITERS = 6
ROUNDS_KEPT = 4  # keys and leases of older rounds are deleted again
LEASE_TTL_S = 3600
READY_S_MAX = 30.0
FLAGS = ("--snapshot-count=300", "--experimental-snapshot-catchup-entries=50")
PREFIX = (b"w", b"x")
WORK = ("load", "load", "compaction", "defragmentation", "snapshot", "deletion")


def restart_times(values: list[float]) -> str:
    ordered = sorted(values)
    return (
        f"n {len(ordered)}, p50 {ordered[len(ordered) // 2]:.2f},"
        f" p99 {ordered[len(ordered) * 99 // 100]:.2f}, max {ordered[-1]:.2f} s"
    )


@dataclass
class Acknowledged:
    """What the member has promised. One writer at a time of each field."""

    puts: dict[bytes, tuple[bytes, int, int]] = field(default_factory=dict)  # value, rev, lease
    maybe_gone: set[bytes] = field(default_factory=set)  # a deletion without an answer
    gone: set[bytes] = field(default_factory=set)
    leases: set[int] = field(default_factory=set)
    maybe_revoked: set[int] = field(default_factory=set)
    revoked: set[int] = field(default_factory=set)


class Writer(threading.Thread):
    """Puts ever new keys until the member is gone."""

    def __init__(self, prefix: str, endpoint: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.puts: dict[bytes, tuple[bytes, int, int]] = {}
        self._prefix, self._endpoint, self._halt = prefix, endpoint, stop

    def run(self) -> None:
        api = Api(self._endpoint)
        sequence = 0
        while not self._halt.is_set():
            sequence += 1
            key = f"{self._prefix}.{sequence}".encode()
            try:
                answer = api.put(rpc.PutRequest(key=key, value=key * 5), timeout=5)
            except grpc.RpcError:
                break
            self.puts[key] = (key * 5, answer.header.revision, 0)
        api.close()


class Follower(threading.Thread):
    """One watch over all kills: always from the revision after the last one that it has seen."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.state: dict[bytes, tuple[bytes, int, int]] = {}
        self.told: dict[bytes, int] = {}  # puts since they were last looked at: key, revision
        self.revision = 0
        self.resumed = 0
        self.faults: list[str] = []
        self.lock = threading.Lock()
        self.halt = threading.Event()
        self._endpoint = endpoint

    def run(self) -> None:
        while not self.halt.is_set() and not self.faults:
            api = Api(self._endpoint)
            try:
                self._watch(api)
            except grpc.RpcError:
                time.sleep(0.02)
            finally:
                api.close()

    def _watch(self, api: Api) -> None:
        request = rpc.WatchRequest()
        create = request.create_request
        create.key, create.range_end = PREFIX
        create.start_revision = self.revision + 1
        requests: SimpleQueue[rpc.WatchRequest | None] = SimpleQueue()
        requests.put(request)
        stream = api.watch(iter(requests.get, None))
        try:
            for answer in stream:
                if answer.canceled:
                    self.faults.append(f"watch from {self.revision + 1}: {answer.cancel_reason}")
                    return
                self.resumed += answer.created
                with self.lock:
                    self._take(answer.events)
                if self.halt.is_set():
                    return
        finally:
            requests.put(None)
            stream.cancel()

    def _take(self, events) -> None:
        after = self.revision
        for event in events:
            kv = event.kv
            if kv.mod_revision <= after or kv.mod_revision < self.revision:
                self.faults.append(f"watch: revision {kv.mod_revision} after {self.revision}")
                return
            self.revision = kv.mod_revision
            if event.type:
                self.state.pop(kv.key, None)
            else:
                self.state[kv.key] = (kv.value, kv.mod_revision, kv.lease)
                self.told[kv.key] = kv.mod_revision


class Single:
    """The rounds; `faults` is what was violated."""

    def __init__(self, folder: Path, seed: int, flags: list[str]) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster(folder, 1, *FLAGS, *flags)
        self.node = self.cluster.nodes[0]
        self.follower = Follower(self.node.endpoint)
        self.promised = Acknowledged()
        self.faults: list[str] = []
        self.restart_s: list[float] = []
        self.kills: Counter[str] = Counter()
        self.acknowledged = self.looked_up = 0
        self.rounds = 0

    def run(self, kills: int) -> None:
        began_s = time.monotonic()
        self.cluster.start()
        self.follower.start()
        while self.node.kills < kills and not self.faults:
            self.rounds += 1
            self.load_and_kill()
            if not self.start_again():
                return
            self.check()
            if self.rounds % 50 == 0:
                print(f"{time.monotonic() - began_s:.0f} s: {self.summary()}", flush=True)
        self.follower.halt.set()

    def load_and_kill(self) -> None:
        stop = threading.Event()
        name = f"w{self.rounds:06}"
        writers = [Writer(f"{name}.{i}", self.node.endpoint, stop) for i in range(WRITERS)]
        kind = self.rng.choice(WORK)
        work = threading.Thread(target=self.work, args=(kind,), daemon=True)
        for writer in writers:
            writer.start()
        leased = threading.Thread(target=self.lease, args=(f"{name}.lease".encode(),), daemon=True)
        leased.start()
        time.sleep(self.rng.uniform(0.02, 0.5))
        work.start()
        time.sleep(self.rng.choice((0.003, 0.03, 0.1)) * self.rng.random())
        self.kills[kind] += work.is_alive() or kind == "load"
        self.node.kill()
        stop.set()
        for thread in (*writers, leased, work):
            thread.join(20)
            assert not thread.is_alive(), thread
        for writer in writers:
            self.promised.puts |= writer.puts
            self.acknowledged += len(writer.puts)

    def work(self, kind: str) -> None:
        api = self.node.api
        promised = self.promised
        try:
            if kind == "compaction":
                at = max(1, self.follower.revision - self.rng.randrange(20))
                api.compact(rpc.CompactionRequest(revision=at, physical=True), timeout=9)
            elif kind == "defragmentation":
                api.defragment(rpc.DefragmentRequest(), timeout=9)
            elif kind == "snapshot":
                for _ in api.snapshot(rpc.SnapshotRequest(), timeout=9):
                    pass
            elif kind == "deletion" and self.rounds > ROUNDS_KEPT:
                end = f"w{self.rounds - ROUNDS_KEPT:06}".encode()
                old = {key for key in list(promised.puts) if key < end}
                promised.maybe_gone |= old
                api.delete(rpc.DeleteRangeRequest(key=b"w", range_end=end), timeout=9)
                promised.gone |= old
        except grpc.RpcError:
            pass  # nothing is known of it

    def lease(self, key: bytes) -> None:
        """Grant one, use it, revoke another."""
        promised, api = self.promised, self.node.api
        try:
            lease = api.grant(rpc.LeaseGrantRequest(TTL=LEASE_TTL_S), timeout=5).ID
            promised.leases.add(lease)
            answer = api.put(rpc.PutRequest(key=key, value=b"leased", lease=lease), timeout=5)
            promised.puts[key] = (b"leased", answer.header.revision, lease)
            self.acknowledged += 2
            if len(promised.leases) > ROUNDS_KEPT:
                old = min(promised.leases - {lease})
                promised.maybe_revoked.add(old)
                promised.maybe_gone |= {k for k, v in list(promised.puts.items()) if v[2] == old}
                api.revoke(rpc.LeaseRevokeRequest(ID=old), timeout=5)
                promised.revoked.add(old)
                promised.gone |= {k for k, v in list(promised.puts.items()) if v[2] == old}
                self.acknowledged += 1
        except grpc.RpcError:
            pass

    def start_again(self) -> bool:
        for _ in range(self.rng.choice((0, 1, 1, 2, 3))):
            self.node.start()
            time.sleep(self.rng.uniform(0, 0.8))
            self.kills["start"] += 1
            self.node.kill()
        self.node.start()
        began_s = time.monotonic()
        while not self.node.serves():
            self.node.look()
            if not self.node.is_up or time.monotonic() > began_s + READY_S_MAX:
                self.faults.append(f"does not start after kill {self.node.kills}")
                return False
            time.sleep(0.01)
        self.restart_s.append(time.monotonic() - began_s)
        return True

    def check(self) -> None:
        node, promised, follower = self.node, self.promised, self.follower
        mark = b"w%06d.mark" % self.rounds
        last = node.api.put(rpc.PutRequest(key=mark, value=b"mark"), timeout=9).header.revision
        promised.puts[mark] = (b"mark", last, 0)
        request = rpc.RangeRequest(key=PREFIX[0], range_end=PREFIX[1], revision=last)
        got = node.api.range(request, timeout=60)
        there = {kv.key: (kv.value, kv.mod_revision, kv.lease) for kv in got.kvs}
        leases = {each.ID for each in node.api.leases(rpc.LeaseLeasesRequest(), timeout=9).leases}
        self.looked_up += len(promised.puts)
        say = self.faults.append
        for key, wanted in promised.puts.items():
            found = there.get(key)
            if key in promised.gone:
                if found is not None:
                    say(f"{key!r} was deleted and is {found}")
            elif found != wanted and not (found is None and key in promised.maybe_gone):
                say(f"{key!r} is {found}, not {wanted}")
        for lease in promised.leases - promised.maybe_revoked - leases:
            say(f"lease {lease:x} is gone")
        for lease in promised.revoked & leases:
            say(f"lease {lease:x} was revoked and is there")
        deadline_s = time.monotonic() + READY_S_MAX
        while follower.revision < last and not follower.faults:
            if time.monotonic() > deadline_s:
                say(f"the watch stands at {follower.revision}, not at {last}")
                return
            time.sleep(0.005)
        with follower.lock:
            if follower.state != there:
                odd = sorted(follower.state.items() ^ there.items())[:3]
                say(f"the watch tells another state at {last} than a read: {odd}")
            told, follower.told = follower.told, {}
        for key, revision in told.items():
            if key in promised.puts and promised.puts[key][1] != revision:
                say(f"the watch has told {key!r} at {revision}, not {promised.puts[key]}")
        self.faults += follower.faults
        # What may be gone is settled now: it is, or it stays promised.
        settled = {key for key in promised.maybe_gone if key not in there}
        promised.puts = {k: v for k, v in promised.puts.items() if k not in settled}
        promised.maybe_gone.clear()
        promised.gone.clear()
        promised.leases &= leases
        promised.maybe_revoked.clear()
        promised.revoked.clear()

    def summary(self) -> str:
        return (
            f"SIGKILLs {self.node.kills} in {self.rounds} rounds ({dict(self.kills)}), acknowledged"
            f" {self.acknowledged}, looked up {self.looked_up}, lost {len(self.faults)}, watch"
            f" resumed {self.follower.resumed} times; restart {restart_times(self.restart_s)};"
            f" {self.node.rss_mb_max} MB, {self.node.fds_max} files at most"
        )


def single(folder: Path, seed: int, kills: int, flags: list[str]) -> list[str]:
    """What was violated."""
    run = Single(folder, seed, flags)
    try:
        run.run(kills)
        if run.restart_s:
            print(run.summary())
        return run.faults[:20] + run.node.faults + run.node.bad_log_lines()[:20]
    finally:
        run.follower.halt.set()
        run.cluster.close()
