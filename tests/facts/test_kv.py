"""Revisions and keys: facts 1 to 9 and 13 to 20."""

from typing import Any


def test_fact_01_a_fresh_store(side: Any) -> None:
    """A fresh store is at revision 1, its first write is 2, and it was never compacted (-1)."""
    fresh = side.fresh()
    assert fresh.revision() == 1
    assert fresh("Maintenance.HashKV").compact_revision == -1
    assert fresh.put(b"k").header.revision == 2
    assert fresh("Maintenance.HashKV").compact_revision == -1
