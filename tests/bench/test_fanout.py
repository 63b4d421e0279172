"""A short run of fanout.py, and that it sees each fault it is there for."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from pyetcd.proto.rpc_pb2 import WatchResponse

sys.path.insert(0, str(Path(__file__).parent))

import fanout

SCRIPT = Path(__file__).with_name("fanout.py")


def test_each_gets_every_event_in_order_and_once(tmp_path):
    arguments = ("--watchers=500", "--writes=100", "--streams=20", "--connections=4")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--program=pyetcd", f"--folder={tmp_path}", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "50,000 events" in done.stdout and "resident for each" in done.stdout
    assert not list(tmp_path.iterdir())


def response(header: int, *revisions: int, key: bytes = fanout.HOT, id: int = 1) -> bytes:
    made = WatchResponse(watch_id=id)
    made.header.revision, made.header.cluster_id = header, 1 << 60
    for revision in revisions:
        kv = made.events.add().kv
        kv.key, kv.mod_revision, kv.value = key, revision, fanout.value_of(revision - 7)
    return made.SerializeToString()


async def faults(*messages: bytes) -> list[str]:
    """Two watchers, created at revision 7, with the id 0 and 1."""
    run = fanout.Run(2, 3)
    stream = fanout.Stream([0, 1], keys=[fanout.own_key(0), fanout.HOT])
    for id in (0, 1):
        made = WatchResponse(watch_id=id, created=True)
        made.header.revision = 7
        message = made.SerializeToString()
        run.message(stream, message, 0, len(message))
    for message in messages:
        run.message(stream, b"frame" + message + b"next", 5, 5 + len(message))
    return run.faults


def test_a_run_as_it_should_be():
    own = fanout.own_key(0)
    sent = response(8, 8), response(10, 9, 10), response(8, 8, key=own, id=0)
    assert asyncio.run(faults(*sent)) == []


@pytest.mark.parametrize(
    "sent",
    [
        [response(9, 9)],  # 8 is missing
        [response(8, 8), response(8, 8)],  # twice
        [response(9, 8, 9), response(9, 9)],
        [response(10, 8, 10)],  # 9 is missing in the response
        [response(9, 9), response(9, 8)],  # the wrong way round
        [response(8, 8, key=fanout.own_key(0))],  # of another's key
        [response(7, 8)],  # ahead of its header
        [response(8, 8).replace(b"1", b"2")],  # another value
        [response(8) + WatchResponse(canceled=True).SerializeToString()],
    ],
    ids=str,
)
def test_a_fault_is_seen(sent):
    assert asyncio.run(faults(*sent))
