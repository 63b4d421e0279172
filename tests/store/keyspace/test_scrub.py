"""The scrubber reads everything, and what is not what was written stops it."""

import os
from pathlib import Path

import pytest

from pyetcd.proto.rpc_pb2 import PutRequest
from pyetcd.store import scrub
from pyetcd.store.backend import Backend
from pyetcd.store.db import PAGE_BYTES, Damaged
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.scrub import Scrubber
from pyetcd.store.txn import apply_put


def fill(backend: Backend, lessor, keys: int = 300) -> None:
    keyspace = Keyspace(backend)
    for number in range(keys):
        request = PutRequest(key=b"key %d" % (number % 200), value=b"%d" % number * 400)
        apply_put(keyspace, lessor, request)
    backend.commit()
    assert backend.checkpoint() is not None


def whole_pass(scrubber: Scrubber) -> int:
    steps = 0
    before = scrubber.passes_total
    while scrubber.passes_total == before:
        scrubber.step()
        steps += 1
    return steps


def test_a_pass_in_slices(backend, lessor, monkeypatch) -> None:
    monkeypatch.setattr(scrub, "SLICE_ROWS", 50)
    fill(backend, lessor)
    scrubber = Scrubber(backend)
    assert whole_pass(scrubber) == 7 + 5 + 7
    assert scrubber.rows_total == 300
    # Writes between two slices, and the next pass sees them.
    for _ in range(3):
        scrubber.step()
    fill(backend, lessor, 10)
    whole_pass(scrubber)
    whole_pass(scrubber)
    assert scrubber.rows_total == 300 + 310 + 310


def test_every_page_is_read(backend, lessor) -> None:
    """A flipped bit anywhere but in unused space and in small tables, which a start reads."""
    fill(backend, lessor)
    path = Path(backend.path)
    size = os.path.getsize(path)
    found = 0
    # Behind the first pages, which hold the roots of the small tables.
    for page in range(24, size // PAGE_BYTES, 7):
        with path.open("r+b") as file:
            file.seek(page * PAGE_BYTES + 1000)
            byte = file.read(1)[0]
            file.seek(page * PAGE_BYTES + 1000)
            file.write(bytes([byte ^ 8]))
            file.flush()
            try:
                whole_pass(Scrubber(backend))
            except Damaged:
                found += 1
            file.seek(page * PAGE_BYTES + 1000)
            file.write(bytes([byte]))
    assert found >= 0.95 * len(range(24, size // PAGE_BYTES, 7))


def test_a_current_key_that_differs(backend, lessor) -> None:
    fill(backend, lessor)
    backend.execute("UPDATE current SET version = version + 1 WHERE key = ?", (b"key 7",))
    backend.commit()
    with pytest.raises(Damaged, match="the current key b'key 7' differs from its revision"):
        whole_pass(Scrubber(backend))
