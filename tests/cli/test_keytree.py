"""`tree` against the real etcd and against pyetcd."""

import subprocess
import sys
from io import BytesIO

import pytest

from pyetcd.cli.ctl import pages
from pyetcd.cli.ctl.run import execute
from pyetcd.cli.terminal import Streams

KEYS = ("/a", "/a/b/c", "/a/b/d", "/a/bb", "/z/", "/z/y", "app/x", "apple", "b\udcff/x", "n\nl")


@pytest.fixture(scope="module")
def keys(node):
    node.said("del", "", "--prefix")
    typed = "".join(f'put "{key}" v\n' for key in KEYS if key.isprintable())
    node.said("txn", stdin=f"\n{typed}\n\n".encode())
    for key in KEYS:
        node.said("put", "--", key, "v")
    return node


WHOLE = """\
/
  a
  a/
    b/
      c
      d
    bb
  z/
    ""
    y
app/
  x
apple
"b\\xff/"
  x
"n\\nl"
"""


@pytest.fixture(params=(1, 2, 3, 1000))
def page(request, monkeypatch):
    """Keys in a page."""
    monkeypatch.setattr(pages, "PAGE_KEYS", request.param)


def test_whole(keys, page):
    assert keys.said("tree") == keys.said("tree", "") == keys.said("tree", "--depth=9") == WHOLE


def test_below_a_prefix(keys, page):
    assert keys.said("tree", "/a/b") == "/a/\n  b/\n    c\n    d\n  bb\n"
    assert keys.said("tree", "/a/b/") == "/a/b/\n  c\n  d\n"
    assert keys.said("tree", "app") == "app/\n  x\napple\n"
    assert keys.said("tree", "b") == '"b\\xff/"\n  x\n'
    assert keys.said("tree", "nothing") == ""


def test_depth(keys, page):
    assert keys.said("tree", "--depth=1") == (
        '/ (6 keys)\napp/ (1 key)\napple\n"b\\xff/" (1 key)\n"n\\nl"\n'
    )
    assert keys.said("tree", "/", "--depth=1") == "/\n  a\n  a/ (3 keys)\n  z/ (2 keys)\n"
    assert keys.said("tree", "/", "--depth=2") == (
        '/\n  a\n  a/\n    b/ (2 keys)\n    bb\n  z/\n    ""\n    y\n'
    )
    assert keys.said("tree", "/a", "--depth=1") == "/\n  a\n  a/ (3 keys)\n"


def test_keys_of_highest_bytes(keys, page):
    """Prefixes that have no end."""
    key = "\udcff\udcff/\udcff"
    keys.said("put", "--", key, "v")
    keys.said("put", "--", key + "/x", "v")
    shown = '"\\xff\\xff/"\n  "\\xff"\n  "\\xff/"\n    x\n'
    assert keys.said("tree", "\udcff\udcff") == shown
    assert keys.said("tree", "\udcff", "--depth=1") == '"\\xff\\xff/" (2 keys)\n'
    keys.said("del", "--prefix", "--", "\udcff")


def test_at_a_revision(keys, page):
    before = keys.revision()
    keys.said("put", "later", "v")
    assert keys.said("tree", f"--rev={before}") == WHOLE
    assert keys.said("tree", "l") == "later\n"
    keys.said("del", "later")
    text = b"Error: etcdserver: mvcc: required revision is a future revision\n"
    out, err, code = keys("tree", "--rev=1000000")
    assert (out, code) == (b"", 1) and err.endswith(text)


def test_colours_only_where_a_person_looks(keys):
    for env, code in (({}, b"\x1b[1;34mapp/\x1b[0m\n  x\napple\n"), ({"NO_COLOR": "1"}, None)):
        streams = Streams(BytesIO(), BytesIO(), BytesIO(), is_terminal=True)
        assert execute([f"--endpoints={keys.endpoint}", "tree", "app"], env, streams) == 0
        assert isinstance(streams.stdout, BytesIO)
        assert streams.stdout.getvalue() == code or code is None
    assert streams.stdout.getvalue() == b"app/\n  x\napple\n"


def test_wrong_arguments(keys):
    text = b"Error: tree command needs one argument as prefix at most\n"
    assert keys("tree", "a", "b") == (b"", text, 128)
    assert keys("tree", "--depth=-1") == (b"", b"Error: --depth must not be negative\n", 128)
    assert keys("tree", "--depth=x")[2] == 1
    for format in ("json", "yaml", "table", "fields", "protobuf"):
        text = f"Error: {format} not supported as output format\n".encode()
        assert keys("tree", "-w", format) == (b"", text, 4)


def test_closed_pipe(keys):
    command = f"{sys.executable} -m pyetcd.cli.main ctl --endpoints={keys.endpoint} tree | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"/\n", b"")
