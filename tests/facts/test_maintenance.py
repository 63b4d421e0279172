"""What the other tests of facts 60 to 63 leave: which bytes are hashed, snapshots as files, who
names no version, a lock's lease."""

import json
import time
from pathlib import Path
from typing import Any

import google_crc32c

from pyetcd.store.boltfile import open_bolt

WAIT_S = 20.0
BUCKETS = b"alarm auth authRoles authUsers cluster key lease members members_removed meta".split()


def until(condition: Any, what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


# 60 and 61: what is hashed, and what is in a snapshot


def crc_of(buckets: dict[bytes, list[Any]], *, skip: bool) -> int:
    """Over the names of all buckets and their pairs; `skip` leaves out where the log is."""
    pieces: list[bytes] = []
    for name, pairs in buckets.items():
        pieces.append(name)
        for key, value in pairs:
            if not (skip and name == b"meta" and key in (b"consistent_index", b"term")):
                pieces += (key, value)
    return int(google_crc32c.value(b"".join(pieces)))


def shown(side: Any, machine: Any, saved: Path) -> dict[str, Any]:
    """What `snapshot status` shows."""
    utl = [machine.etcdutl] if side.is_etcd else [machine.pyetcd, "utl"]
    done = machine.run(*utl, "snapshot", "status", str(saved), "-w", "json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_files(side: Any, machine: Any) -> None:
    fresh = side.fresh()
    for number in range(40):
        fresh("KV.Put", key=b"k%02d" % (number % 30), value=bytes(2000))
    fresh("Lease.LeaseGrant", TTL=600)
    fresh("Auth.UserAdd", name="user", options={"no_password": True})
    fresh("KV.Compact", revision=10, physical=True)
    before = fresh("Maintenance.Hash").hash
    pieces = list(fresh.raw("Maintenance.Snapshot"))
    assert not any(piece.HasField("header") for piece in pieces)
    # An entry that changes nothing moves the index alone.
    assert fresh("KV.DeleteRange", key=b"nothing").deleted == 0
    assert fresh("Maintenance.Hash").hash == before
    saved = machine.folder / "saved.db"
    saved.write_bytes(b"".join(piece.blob for piece in pieces))
    assert saved.stat().st_size % 512 == 32
    status = shown(fresh, machine, saved)
    assert status["revision"] == fresh.revision()
    if not fresh.is_etcd:
        assert status["totalKey"] >= 30
        return
    with open_bolt(str(saved)) as file:
        buckets = {name: list(pairs) for name, pairs in file.buckets()}
    assert list(buckets) == BUCKETS
    assert before == crc_of(buckets, skip=True)
    assert status["hash"] == crc_of(buckets, skip=False)
    assert status["totalKey"] == sum(len(pairs) for pairs in buckets.values())


def test_fact_60_the_bytes_of_the_hash(side: Any, machine: Any) -> None:
    """Names of all buckets and their pairs but for the applied index and term; `snapshot status`
    leaves nothing out. pyetcd has tables instead (docs/differences.md: Hash), (docs/differences.md:
    `snapshot status` of pyetcd's snapshot). The keys that it shows, of fact 61, are all pairs, and
    what is saved is whole blocks and a digest, without headers."""
    check_files(side, machine)


# 62: metadata


def test_fact_62_who_names_no_version(side: Any) -> None:
    """Is counted as `unknown`."""
    name = 'etcd_server_client_requests_total{client_api_version="unknown",type="unary"}'
    before = side.metric(name) if side.get(b"k").count == 0 else 0.0
    side.get(b"k", metadata=[("client-api-version", "3.5")])
    assert side.metric(name) == before
    side.get(b"k")
    assert side.metric(name) == before + 1


# 63: locks


def test_fact_63_leases_of_locks(side: Any) -> None:
    """In hex without zeros before it, a negative one with its sign; the one that the server makes
    for a lock without a lease is not renewed."""
    bare = side("Lock.Lock", name=side.key(b"bare"))
    assert side("Lock.Lock", name=side.key(b"small"), lease=granted(side, 0xA)).key == side.key(
        b"small/a"
    )
    negative = -0x10 - abs(hash(side.prefix)) % 1000
    held = side("Lock.Lock", name=side.key(b"minus"), lease=granted(side, negative))
    assert held.key == side.key(b"minus/%x" % negative)
    own = side("KV.Range", key=bare.key).kvs[0].lease
    until(lambda: side("Lease.LeaseTimeToLive", ID=own).TTL <= 58, "a second to go by")
    for id in (0xA, negative, own):
        side("Lease.LeaseRevoke", ID=id)
    assert side.get_all().count == 0


def granted(side: Any, id: int) -> int:
    return int(side("Lease.LeaseGrant", TTL=600, ID=id).ID)
