"""Peer URLs as a client may send them."""

import pytest

from pyetcd.server.api.cluster import peer_urls


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "http://",
        "http://a",
        "http://a:b",
        "http://[::1",
        "ftp://a:1",
        "http://a:1/path",
        "http://a b:1",
    ],
)
def test_what_is_no_peer_url(url):
    assert peer_urls([url]) is None


def test_good_ones_are_sorted():
    assert peer_urls(["http://b:2", "http://a:1"]) == ("http://a:1", "http://b:2")
    assert peer_urls([]) is None
