"""host:port as Go reads it."""

import socket

import pytest

from pyetcd.server.proxy import addresses
from pyetcd.server.proxy.addresses import BadAddress


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:1", "127.0.0.1", "1"),
        (":1", "", "1"),
        ("a:", "a", ""),
        ("[::1]:2", "::1", "2"),
        ("[]:2", "", "2"),
        ("a:http", "a", "http"),
    ],
)
def test_split(text: str, host: str, port: str) -> None:
    assert addresses.split(text) == (host, port)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a", "address a: missing port in address"),
        ("", "address : missing port in address"),
        ("::1:2", "address ::1:2: too many colons in address"),
        ("[::1", "address [::1: missing ']' in address"),
        ("[::1]", "address [::1]: missing port in address"),
        ("[::1]:2:3", "address [::1]:2:3: too many colons in address"),
    ],
)
def test_no_address(text: str, fault: str) -> None:
    with pytest.raises(BadAddress) as caught:
        addresses.split(text)
    assert str(caught.value) == fault


def test_without_scheme() -> None:
    texts = ["http://a:1", "https://a:1/x", "a:1", "unix://x", "http://u@a:1", "http://[::1"]
    stripped = [addresses.without_scheme(text) for text in texts]
    assert stripped == ["a:1", "a:1", "a:1", "x", "a:1", "http://[::1"]


def test_number() -> None:
    assert [addresses.number(text) for text in ("12", "12x", "x", "")] == [12, 12, 0, 0]


def test_listen() -> None:
    with addresses.listen("127.0.0.1:0") as made:
        port = made.getsockname()[1]
        with pytest.raises(BadAddress) as caught:
            addresses.listen(f"127.0.0.1:{port}")
    assert str(caught.value) == f"listen tcp 127.0.0.1:{port}: bind: address already in use"
    for text, fault in {
        "x": "listen tcp: address x: missing port in address",
        "127.0.0.1:70000": "listen tcp: address 70000: invalid port",
    }.items():
        with pytest.raises(BadAddress) as caught:
            addresses.listen(text)
        assert str(caught.value) == fault
    with addresses.listen(":0") as made:
        assert made.family in (socket.AF_INET6, socket.AF_INET)
