"""What a seed draws: the sizes and times of a cluster, its load, its bounds, and its faults."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sim.faults import FAULTS
from sim.network import NetworkOptions
from sim.workload import MIXES

from pyetcd.server import machine as machine_module
from pyetcd.store import compact as compact_module
from pyetcd.store import streams, tail, wal, watch

SHARE = 0.25  # of the seeds that have users, and of those that have v2 keys
V2_BYTES = 1 << 20  # what v2 keys and their history need beside the quota
AUTH_BYTES = 64 << 10

EMPTY_BYTES = 69_632  # of a keyspace file without keys
MEMBERS_BYTES = 32 << 10  # what members that come and go leave in the v2 tree and its history


@dataclass
class Shape:
    """What the seed has drawn."""

    members: int
    tick_s: float
    election_ticks: int
    pre_vote: bool
    snapshot_count: int
    catchup_entries: int
    request_timeout_s: float
    client_timeout_s: float
    message_bytes_max: int
    committed_bytes_max: int
    commit_s: tuple[float, float]
    job_s: tuple[float, float]
    network: NetworkOptions
    clients: int
    watchers: int
    keys: int
    think_s: float
    large_values: float
    chaos_s: float
    fault_every_s: float
    faults: tuple[str, ...]
    wal_checkpoint_frames: int
    wal_cut_slice: int
    kv_wal_bytes: int
    tail_entries: int
    compact_rows: int
    membership: bool
    watch_replies: int
    mix: str  # of requests, by its name in workload.MIXES
    caretaker: bool
    compactor: bool
    quota_bytes: int
    drift: float  # by how much a member's clock may go wrong, either way
    disaster: bool  # all but one are lost for good at the end
    inflight_max: int  # appends on their way to one follower
    # Drawn from generators of their own; seeds without them run as if there were none.
    auth: bool = field(default=False, repr=False)  # users, roles, permissions
    v2: bool = field(default=False, repr=False)

    @classmethod
    def draw(cls, rng: random.Random) -> "Shape":
        election_ticks = rng.choice((5, 10, 10))
        tick_s = rng.choice((0.03, 0.1, 0.1))
        # A disk or network slower than this has no leader even without faults.
        timeout_s = min(1.0, election_ticks * tick_s)
        lossy = rng.random() < 0.5
        members = rng.choice((1, 3, 3, 3, 5))
        membership = rng.random() < 0.35
        large_values = rng.choice((0.0, 0.0, 0.1))
        faulty = rng.choice((0.1, 0.3, 0.6))  # few kinds meet each other differently than many
        shape = cls(
            members=members,
            tick_s=tick_s,
            election_ticks=election_ticks,
            pre_vote=rng.random() < 0.8,
            snapshot_count=rng.choice((10, 50, 100, 1000)),
            catchup_entries=rng.choice((1, 5, 20, 100)),
            request_timeout_s=5 + 2 * election_ticks * tick_s,
            client_timeout_s=rng.choice((1.0, 8.0)),
            message_bytes_max=rng.choice((0, 1000, 512 * 1024)),
            committed_bytes_max=rng.choice((0, 1000, 4 << 20)),
            commit_s=(0.0002, timeout_s * rng.choice((0.002, 0.02, 0.2))),
            job_s=(0.0005, rng.choice((0.005, 0.1, 1.0))),
            network=NetworkOptions(
                loss=rng.choice((0.01, 0.1)) if lossy else 0.0,
                duplication=rng.choice((0.0, 0.02, 0.2)),
                reordering=rng.choice((0.0, 0.02, 0.2)),
                delay_s=(0.0002, timeout_s * rng.choice((0.005, 0.05, 0.25))),
                encoded=rng.random() < 0.3,
            ),
            clients=rng.randint(2, 6),
            watchers=rng.randint(1, 4),
            keys=rng.randint(3, 12),
            think_s=rng.choice((0.01, 0.05, 0.2)),
            large_values=large_values,
            chaos_s=rng.choice((10.0, 20.0, 40.0)),
            fault_every_s=rng.choice((0.5, 1.5, 4.0)),
            faults=tuple(f for f in FAULTS if rng.random() < faulty),
            wal_checkpoint_frames=rng.choice((10, 50, 2000)),
            wal_cut_slice=rng.choice((7, 1000)),
            kv_wal_bytes=rng.choice((100_000, 64 << 20)),
            tail_entries=rng.choice((16, 100, 10_000)),
            compact_rows=rng.choice((3, 200)),
            membership=membership,
            watch_replies=rng.choice((4, 1024)),
            mix=rng.choice(("All", *MIXES)),
            caretaker=rng.random() < 0.4,
            compactor=rng.random() < 0.2,
            quota_bytes=EMPTY_BYTES
            + MEMBERS_BYTES
            + (rng.randint(2, 8) << (16 if large_values else 12))
            if rng.random() < 0.15
            else 2 << 30,
            drift=rng.choice((0.0, 0.0, 0.01, 0.05)),
            disaster=members > 1 and not membership and rng.random() < 0.06,
            inflight_max=rng.choice((2, 16, 512)),
        )
        shape.network.is_late = rng.random() < 0.5
        if shape.message_bytes_max == 0:
            # An entry a message: each that comes late lets all behind it be sent again.
            shape.inflight_max = min(shape.inflight_max, 16)
        return shape


KINDS = ("auth", "v2")


def has(kind: str, seed: int) -> bool:
    """Whether a seed has this kind of traffic."""
    assert kind in KINDS
    return random.Random(f"{seed}/{kind}").random() < SHARE


@contextmanager
def tuned(shape: Shape) -> Iterator[None]:
    """Bounds of production modules, small enough to be met in a short run."""
    values: list[tuple[Any, str, int]] = [
        (wal, "CHECKPOINT_FRAMES", shape.wal_checkpoint_frames),
        (wal, "CUT_SLICE", shape.wal_cut_slice),
        (tail, "ENTRIES_MAX", shape.tail_entries),
        (machine_module, "WAL_BYTES_MAX", shape.kv_wal_bytes),
        (compact_module, "STEP_ROWS", shape.compact_rows),
        (streams, "REPLIES_MAX", shape.watch_replies),
        (watch, "REVISIONS_MAX", 10 if shape.watch_replies < 100 else 1000),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in values]
    for module, name, value in values:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
