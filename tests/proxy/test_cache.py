"""The proxy's cache of reads."""

import pytest

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import Compacted
from pyetcd.server.proxy.cache import ANSWER_BYTES_MAX, Cache


def read(key: bytes, end: bytes = b"", revision: int = 0, **more: bool) -> rpc.RangeRequest:
    return rpc.RangeRequest(key=key, range_end=end, revision=revision, **more)  # type: ignore[arg-type]


def keep(cache: Cache, request: rpc.RangeRequest, answer: bytes = b"x", token: str = "") -> None:
    cache.end(cache.begin(token, request), answer)


def kept(cache: Cache, request: rpc.RangeRequest, token: str = "") -> bytes | None:
    request.serializable = True
    return cache.get(token, request)


def test_a_linearizable_answer_serves_serializable_reads() -> None:
    cache = Cache()
    keep(cache, read(b"a"), b"1")
    assert kept(cache, read(b"a")) == b"1" and kept(cache, read(b"a", keys_only=True)) is None
    assert (cache.hits, cache.misses, len(cache)) == (1, 1, 1)


def test_writes_empty_what_they_touch() -> None:
    cache = Cache()
    requests = [read(b"a"), read(b"b"), read(b"a", b"c"), read(b"a", b"\0"), read(b"x", b"y")]
    for request in requests:
        keep(cache, request)
    cache.invalidate(b"b", b"")
    assert [kept(cache, one) is not None for one in requests] == [True, False, False, False, True]
    cache.invalidate(b"a", b"\0")
    assert len(cache) == 0 and cache.size_bytes == 0 and not cache._by_interval


def test_the_past_stays_until_it_is_compacted() -> None:
    cache = Cache()
    keep(cache, read(b"a", revision=5), b"then")
    cache.invalidate(b"a", b"")
    assert kept(cache, read(b"a", revision=5)) == b"then"
    cache.compact(5)
    assert kept(cache, read(b"a", revision=5)) == b"then"
    cache.compact(6)
    with pytest.raises(Compacted):
        kept(cache, read(b"a", revision=5))
    assert len(cache) == 0
    keep(cache, read(b"a", revision=5))
    keep(cache, read(b"a"), b"now")
    assert len(cache) == 1 and kept(cache, read(b"a")) == b"now"


def test_a_read_that_a_write_overtook_is_not_kept() -> None:
    cache = Cache()
    pending = cache.begin("", read(b"a", b"c"))
    other = cache.begin("", read(b"x"))
    cache.invalidate(b"b", b"")
    cache.end(pending, b"old")
    cache.end(other, b"new")
    assert kept(cache, read(b"a", b"c")) is None and kept(cache, read(b"x")) == b"new"
    failed = cache.begin("", read(b"z"))
    cache.end(failed, None)
    assert kept(cache, read(b"z")) is None and not cache._pending


def test_an_answer_is_for_its_token() -> None:
    cache = Cache()
    keep(cache, read(b"a"), b"secret", token="root.1")
    assert kept(cache, read(b"a")) is None and kept(cache, read(b"a"), "other.2") is None
    assert kept(cache, read(b"a"), "root.1") == b"secret"
    pending = cache.begin("", read(b"b"))
    cache.clear()
    cache.end(pending, b"x")
    assert len(cache) == 0


def test_bounds() -> None:
    cache = Cache(entries_max=2)
    for key in (b"a", b"b"):
        keep(cache, read(key))
    assert kept(cache, read(b"a"))  # used last
    keep(cache, read(b"c"))
    assert kept(cache, read(b"b")) is None and kept(cache, read(b"a")) and len(cache) == 2
    keep(cache, read(b"d"), bytes(ANSWER_BYTES_MAX + 1))
    assert kept(cache, read(b"d")) is None
    small = Cache(bytes_max=10)
    keep(small, read(b"a"), bytes(6))
    keep(small, read(b"b"), bytes(6))
    assert len(small) == 1 and small.size_bytes == 6
