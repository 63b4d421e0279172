"""The pure parts of the client: Go's text forms, the flag parser, the list of calls."""

import pytest

from pyetcd.cli import client, gotext
from pyetcd.cli.ctl.txn_text import _scan
from pyetcd.cli.gotext import ParseFailure
from pyetcd.cli.printers import table
from pyetcd.proto.services import METHODS


@pytest.mark.parametrize(
    ("raw", "quoted"),
    [
        (b"plain", '"plain"'),
        (b'a"b\\', '"a\\"b\\\\"'),
        (b"\x00\x07\n\t\x7f", '"\\x00\\a\\n\\t\\x7f"'),
        (b"\xff\xc3\xa9", '"\\xffé"'),
        ("\u200b\u00a0".encode(), '"\\u200b\\u00a0"'),
        ("\U0001f600".encode(), '"\U0001f600"'),
    ],
)
def test_quote_and_back(raw, quoted):
    assert gotext.quote(raw) == quoted
    assert gotext.unquote(quoted).encode("utf-8", "surrogateescape") == raw


@pytest.mark.parametrize("text", ['"a', '"\\q"', '"\\x1"', '"\\777"', "a", '"a"b"', '"\\ud800"'])
def test_unquote_refuses(text):
    with pytest.raises(ParseFailure):
        gotext.unquote(text)


@pytest.mark.parametrize(
    ("text", "base", "value"),
    [
        ("0x1f", 0, 31),
        ("0b11", 0, 3),
        ("017", 0, 15),
        ("-5", 0, -5),
        ("1_000", 0, 1000),
        ("ff", 16, 255),
        ("7fffffffffffffff", 16, (1 << 63) - 1),
        ("+3", 10, 3),
        ("0", 0, 0),
    ],
)
def test_parse_int(text, base, value):
    assert gotext.parse_int(text, base) == value


@pytest.mark.parametrize(
    "text", ["", "-", "0x", "1.5", " 1", "1 ", "١", "_1", "8000000000000000", "0x1"]
)
def test_parse_int_refuses(text):
    with pytest.raises(ParseFailure):
        gotext.parse_int(text, 16)


@pytest.mark.parametrize(
    ("text", "value_ns", "shown"),
    [
        ("5s", 5 * 10**9, "5s"),
        ("1m30s", 90 * 10**9, "1m30s"),
        ("1.5h", 5400 * 10**9, "1h30m0s"),
        ("100ms", 10**8, "100ms"),
        ("1500us", 1_500_000, "1.5ms"),
        ("-2s", -2 * 10**9, "-2s"),
        ("0", 0, "0s"),
        ("954361ns", 954361, "954.361µs"),
    ],
)
def test_duration(text, value_ns, shown):
    assert gotext.parse_duration_ns(text) == value_ns
    assert gotext.duration(value_ns) == shown


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "1..2s", "5s5"])
def test_duration_refuses(text):
    with pytest.raises(ParseFailure):
        gotext.parse_duration_ns(text)


def test_human_bytes():
    sizes = (0, 9, 10, 999, 1000, 20480, 9_940_000, 24_600_000, 2 * 10**9)
    shown = ["0 B", "9 B", "10 B", "999 B", "1.0 kB", "20 kB", "9.9 MB", "25 MB", "2.0 GB"]
    assert [gotext.human_bytes(size) for size in sizes] == shown


def test_columns():
    """A column ends where a line has no tab for it; its width counts in whole tabs."""
    assert gotext.align_tabs("\ta\tx\n\tlonger than 8\ty\nz\n\tb\tc") == (
        "\ta\t\tx\n\tlonger than 8\ty\nz\n\tb\tc"
    )


def test_wrapped_cell():
    """Words are spread evenly, not greedily."""
    text = "etcdserver: the quick brown fox jumps over the lazy dog"
    assert table._wrap(text) == ["etcdserver: the quick brown", "fox jumps over the lazy dog"]
    assert table._wrap("x" * 50) == ["x" * 50]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('k1") = "v1"', []),
        ('"k1") = "v1"', ["k1", "=", "v1"]),
        ('"k1")= "v1"', ["k1"]),
        ('"k1") = v1', ["k1", "="]),
        ("`k1`) = `v1`", ["k1", "=", "v1"]),
        ('"k\\"1") != "a b" more', ['k"1', "!=", "a b"]),
    ],
)
def test_compare_is_read_as_by_sscanf(text, read):
    assert _scan(text) == read


def test_calls_are_in_the_method_table():
    calls = [call for call in vars(client).values() if isinstance(call, client.Rpc)]
    assert len(calls) >= 20
    for call in calls:
        assert METHODS[call.path].response is call.response
