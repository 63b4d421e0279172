"""Go's spelling of values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyetcd.proto.gotext import duration, parse_duration_ns, quote
from pyetcd.server.config_values import (
    parse_bool,
    parse_int,
    parse_uint,
    parse_url,
    parse_urls,
    split_host_port,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("12", 12), ("0x1F", 31), ("0b11", 3), ("0o17", 15), ("017", 15), ("1_000", 1000)],
)
def test_unsigned(text: str, value: int) -> None:
    assert parse_uint(text) == value


@pytest.mark.parametrize("text", ["", "-1", "+1", "08", "1.5", " 1", "1_", "_1", "abc", "٣"])
def test_not_unsigned(text: str) -> None:
    with pytest.raises(ValueError, match=r"^parse error$"):
        parse_uint(text)


def test_ranges() -> None:
    assert parse_uint(str(2**64 - 1)) == 2**64 - 1
    assert parse_int(str(-(2**63))) == -(2**63)
    assert parse_int("+5") == 5
    for text in (str(2**64), str(2**63)):
        with pytest.raises(ValueError, match="value out of range"):
            parse_int(text)


def test_booleans() -> None:
    assert all(parse_bool(text) for text in ("1", "t", "T", "TRUE", "true", "True"))
    assert not any(parse_bool(text) for text in ("0", "f", "F", "FALSE", "false", "False"))
    for text in ("", "yes", "tRUE", "2"):
        with pytest.raises(ValueError, match="parse error"):
            parse_bool(text)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("5s", 5 * 10**9),
        ("1.5ms", 1_500_000),
        ("-2h45m", -9900 * 10**9),
        (".5s", 500_000_000),
        ("1us", 1000),
        ("1µs", 1000),
        ("+3ns", 3),
    ],
)
def test_duration(text: str, ns: int) -> None:
    assert parse_duration_ns(text) == ns


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", 'time: invalid duration ""'),
        ("foo", 'time: invalid duration "foo"'),
        ("5", 'time: missing unit in duration "5"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        (".s", 'time: invalid duration ".s"'),
        ("9999999999h", 'time: invalid duration "9999999999h"'),
    ],
)
def test_not_a_duration(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}$"):
        parse_duration_ns(text)


@given(st.integers(-(2**62), 2**62))
def test_durations_are_read_back(ns: int) -> None:
    assert parse_duration_ns(duration(ns)) == ns


def test_durations_as_go_writes_them() -> None:
    shown = [duration(ns) for ns in (0, 1, 1100, 2_200_000, 10**9, 90 * 10**9, 7200 * 10**9)]
    assert shown == ["0s", "1ns", "1.1µs", "2.2ms", "1s", "1m30s", "2h0m0s"]


def test_quote() -> None:
    assert quote('a"b\\\n\x00é\u200b') == r'"a\"b\\\n\x00é\u200b"'


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://127.0.0.1:2379", "127.0.0.1", "2379"),
        ("https://[::1]:2379", "::1", "2379"),
        ("HTTP://a:1", "a", "1"),
        ("unix://localhost:1234", "localhost", "1234"),
        ("http://:80", "", "80"),
    ],
)
def test_url(text: str, host: str, port: str) -> None:
    url = parse_url(text)
    assert (url.host, url.port) == (host, port)
    assert parse_url(url.text) == url


def test_urls_are_sorted_and_trimmed() -> None:
    assert [str(url) for url in parse_urls("http://b:1, http://a:2")] == [
        "http://a:2",
        "http://b:1",
    ]


@given(st.text(max_size=30))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    for candidate in (text, f"http://{text}", f"http://{text}:1"):
        try:
            parse_url(candidate)
        except ValueError as error:
            assert str(error)


def test_split_host_port() -> None:
    assert split_host_port("a:1") == ("a", "1")
    assert split_host_port("[::1]:") == ("::1", "")
    for bad in ("a", "::1:1", "[::1]", "[::1]1", "a]:1", ""):
        assert split_host_port(bad) is None
