"""Hashes, snapshots, metadata, locks and elections: facts 59 to 63."""

import hashlib
import threading
import time
import urllib.request
from typing import Any

import google_crc32c

from pyetcd.proto import kv_pb2 as kv

COMPACTED = (11, "etcdserver: mvcc: required revision has been compacted")
BLOB_BYTES = 32 * 1024


def pair(main: int, sub: int, value: kv.KeyValue, *, is_tombstone: bool = False) -> bytes:
    """A pair of bbolt's bucket "key"."""
    key = main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big") + b"t" * is_tombstone
    return key + value.SerializeToString()


def crc(pairs: list[bytes]) -> int:
    return int(google_crc32c.value(b"key" + b"".join(pairs)))


def test_fact_59_what_hash_kv_hashes(side: Any) -> None:
    """CRC-32C of the bucket's name and of every pair up to the revision; of what is compacted only
    what a later read needs."""
    fresh = side.fresh()
    first = fresh("KV.Put", key=b"a", value=b"1")
    assert first.header.revision == 2
    fresh("KV.Put", key=b"b", value=b"2")
    fresh("KV.Put", key=b"a", value=b"3")
    fresh("KV.DeleteRange", key=b"b")
    a1 = kv.KeyValue(key=b"a", create_revision=2, mod_revision=2, version=1, value=b"1")
    b1 = kv.KeyValue(key=b"b", create_revision=3, mod_revision=3, version=1, value=b"2")
    a2 = kv.KeyValue(key=b"a", create_revision=2, mod_revision=4, version=2, value=b"3")
    gone = kv.KeyValue(key=b"b")
    pairs = [pair(2, 0, a1), pair(3, 0, b1), pair(4, 0, a2), pair(5, 0, gone, is_tombstone=True)]
    # The first revision is a pair of no key: it is not written.
    for revision in (3, 4, 5):
        answer = fresh("Maintenance.HashKV", revision=revision)
        assert answer.hash == crc(pairs[: revision - 1]), revision
        assert answer.compact_revision == -1 and answer.header.revision == 5
    assert fresh("Maintenance.HashKV").hash == crc(pairs)
    fresh("KV.Compact", revision=3, physical=True)
    assert fresh("Maintenance.HashKV", revision=2) == COMPACTED
    fresh("KV.Compact", revision=4, physical=True)
    answer = fresh("Maintenance.HashKV", revision=5)
    assert answer.compact_revision == 4
    # Of what lies at or below the compacted revision: what is still read at the asked one.
    assert answer.hash == crc([pairs[2], pairs[3]])
    assert fresh("Maintenance.HashKV", revision=5).hash == answer.hash
    future = fresh("Maintenance.HashKV", revision=99)
    assert future == (11, "etcdserver: mvcc: required revision is a future revision")


def test_fact_59_at_the_compacted_revision(side: Any) -> None:
    """Refused by 3.5.1, answered here (docs/differences.md: HashKV at the compact revision)."""
    fresh = side.fresh()
    fresh("KV.Put", key=b"a")
    fresh("KV.Put", key=b"b")
    before = fresh("Maintenance.HashKV", revision=3).hash
    fresh("KV.Compact", revision=3, physical=True)
    answer = fresh("Maintenance.HashKV", revision=3)
    assert answer == COMPACTED if fresh.is_etcd else answer.hash == before


def test_fact_60_the_hash_of_everything(side: Any) -> None:
    """It changes with every write, also of what is no key, and stays while nothing is written;
    its bytes are those of the member's own files (docs/differences.md: Hash)."""
    fresh = side.fresh()
    hashes = [fresh("Maintenance.Hash").hash]
    assert fresh("Maintenance.Hash").hash == hashes[0]
    fresh("KV.Put", key=b"a")
    hashes.append(fresh("Maintenance.Hash").hash)
    fresh("Lease.LeaseGrant", TTL=60, ID=1)
    hashes.append(fresh("Maintenance.Hash").hash)
    fresh("Auth.UserAdd", name="u", password="p")
    hashes.append(fresh("Maintenance.Hash").hash)
    assert len(set(hashes)) == 4
    assert fresh("Maintenance.Hash").header.revision == 2


def test_fact_61_a_snapshot(side: Any) -> None:
    """Blobs of 32 KiB that count down what remains, then the digest of all of them."""
    fresh = side.fresh()
    for number in range(20):
        fresh("KV.Put", key=b"%d" % number, value=b"x" * 10_000)
    answers = list(fresh.raw("Maintenance.Snapshot"))
    *blobs, last = answers
    assert {len(each.blob) for each in blobs[:-1]} == {BLOB_BYTES}
    assert 0 < len(blobs[-1].blob) <= BLOB_BYTES
    size = sum(len(each.blob) for each in blobs)
    left = size
    for each in blobs:
        left -= len(each.blob)
        assert each.remaining_bytes == left
    digest = hashlib.sha256(b"".join(each.blob for each in blobs)).digest()
    assert (last.blob, last.remaining_bytes) == (digest, 0)
    assert size % 512 == 0  # so a saved file, with its digest, leaves 32


def test_fact_62_the_version_of_a_client(side: Any) -> None:
    """Its metadata is a label of the count of requests; the other keys are looked at by the facts
    of tokens and of streams that want a leader."""
    for version in ("3.5", "3.5", "3.4"):
        side("KV.Range", key=b"k", metadata=[("client-api-version", version)])
    with urllib.request.urlopen(f"http://{side.endpoint}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    name = "etcd_server_client_requests_total"
    for version in ("3.5", "3.4"):
        assert f'{name}{{client_api_version="{version}",type="unary"}}' in text, version


def test_fact_63_the_key_of_a_lock(side: Any) -> None:
    """Its name and the lease in hexadecimal; without a lease it gets one of a minute."""
    name = side.prefix + b"lock"
    lease = side("Lease.LeaseGrant", TTL=60).ID
    held = side("Lock.Lock", name=name, lease=lease)
    assert held.key == name + b"/%x" % lease
    (found,) = side("KV.Range", key=held.key).kvs
    assert (found.lease, found.value) == (lease, b"")
    assert side("Lock.Unlock", key=held.key).header.revision > held.header.revision
    assert side("Lock.Unlock", key=held.key).header.revision  # no error, though it is gone
    own = side("Lock.Lock", name=name)
    (found,) = side("KV.Range", key=own.key).kvs
    assert own.key == name + b"/%x" % found.lease
    assert side("Lease.LeaseTimeToLive", ID=found.lease).grantedTTL == 60
    side("Lease.LeaseRevoke", ID=found.lease)
    side("Lease.LeaseRevoke", ID=lease)


def test_fact_63_who_holds_a_lock(side: Any) -> None:
    """The oldest key under the name: the next one has it when that goes."""
    name = side.prefix + b"lock"
    leases = [side("Lease.LeaseGrant", TTL=60).ID for _ in range(2)]
    first = side("Lock.Lock", name=name, lease=leases[0])
    second: list[Any] = []
    waiting = threading.Thread(
        target=lambda: second.append(side("Lock.Lock", name=name, lease=leases[1]))
    )
    waiting.start()
    prefix = name + b"/"
    deadline_s = time.monotonic() + 20
    while side("KV.Range", key=prefix, range_end=prefix[:-1] + b"0").count < 2:
        assert time.monotonic() < deadline_s
    assert not second
    side("Lock.Unlock", key=first.key)
    waiting.join(20)
    assert second[0].key == name + b"/%x" % leases[1]
    for lease in leases:
        side("Lease.LeaseRevoke", ID=lease)


def test_fact_63_elections(side: Any) -> None:
    """Of the same form; who asks for a leader where nobody stands, or names none, is refused."""
    name = side.prefix + b"election"
    assert side("Election.Leader", name=name) == (2, "election: no leader")
    for method in ("Election.Proclaim", "Election.Resign"):
        assert side(method) == (2, '"leader" field must be provided')
    lease = side("Lease.LeaseGrant", TTL=60).ID
    leader = side("Election.Campaign", name=name, lease=lease, value=b"v").leader
    assert leader.key == name + b"/%x" % lease and leader.lease == lease
    assert side("Election.Leader", name=name).kv.value == b"v"
    side("Election.Proclaim", leader=leader, value=b"w")
    assert side("Election.Leader", name=name).kv.value == b"w"
    side("Election.Resign", leader=leader)
    assert side("Election.Leader", name=name) == (2, "election: no leader")
    side("Lease.LeaseRevoke", ID=lease)
