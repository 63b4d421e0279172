"""One flipped bit in a file of a stopped member: harmless, repaired, or refused; never served.

By default a few flips a file. PYETCD_FLIPS=200 flips that many bytes in each file of both members,
the killed one and the one that was stopped: 1,400 in a minute.

A flip is harmless when everything that can be read is what it was: all keys at each revision, all
leases and members, HashKV. Most flips are judged within this process, through the code that a start
runs (look, reopen, verify); some by a real start, whose answers are then compared.

Limits. In the -wal file of a killed member's log, a flip within the last transaction looks like a
write that a power cut tore (store/walscan.py). It is dropped with a note, unless the keyspace has
applied it: counted here as torn. The log of a stopped member has no -wal file.
"""

import os
import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from pyetcd.server import datadir
from pyetcd.server.config import load
from pyetcd.store import compact, db
from pyetcd.store.db import ForeignFile, StorageFailure
from pyetcd.store.history import History
from pyetcd.store.lockfile import LockFile
from pyetcd.store.verify import verify
from pyetcd.store.walscan import scan_file

FLIPS = int(os.environ.get("PYETCD_FLIPS", "12"))
FILES = ("wal.db", "wal.db-wal", "kv.db", "kv.db-wal")
TABLES = ("leases", "members", "members_removed", "alarms", "auth_users", "auth_roles")


def fill(machine, node) -> None:
    run = [machine.pyetcd, "ctl", "--endpoints", node.endpoint]
    lease = machine.run(*run, "lease", "grant", "9999").stdout.split()[1]
    machine.run(*run, "put", "leased", "x", f"--lease={lease}")
    for number in range(6):
        machine.run(*run, "put", f"k{number % 4}", f"{number}" * 900)
    machine.run(*run, "del", "k0")
    machine.run(*run, "compaction", "3")


def state(data: datadir.DataDir) -> dict[str, object]:
    """All that can be read of a keyspace, and its log behind it."""
    backend, wal = data.backend, data.wal
    reader = backend.reader()
    try:
        assert verify(reader) == []
        found: dict[str, object] = {}
        for name in TABLES:
            query = f"SELECT * FROM {name}"
            found[name] = db.guarded(name, "read", lambda q=query: reader.execute(q).fetchall())
        history = History(reader)
        last = history.last_rev()
        found["revisions"] = history.since(0, last, limit=-1)
        found["now"] = history.rows(b"\0", b"\0")
        found["heads"] = history.heads(b"\0", b"\0")
        found["hash"] = compact.hash_on(reader, 0)
        found["applied"] = backend.log_mark
    finally:
        reader.close()
    found["log"] = wal.entries(wal.first_index(), wal.last_index() + 1, 1 << 30)
    found["hard state"] = wal.hard_state
    return found


def opened(folder: Path, argv: list[str]) -> dict[str, object]:
    config = load(argv, {})
    datadir.look(str(folder), config)
    data = datadir.reopen(str(folder), lock=LockFile.claim(str(folder / "member")))
    try:
        return state(data)
    finally:
        data.abandon()


def judge(folder: Path, argv: list[str], expected: dict[str, object]) -> str:
    """What became of the flip; an assertion if wrong data was found."""
    is_torn = scan_file(str(folder / "member" / "wal.db-wal")).frames_torn > 0
    try:
        found = opened(folder, argv)
    except (ForeignFile, StorageFailure) as error:
        text = str(error)
        assert text and "\n" not in text
        return "refused"
    if found == expected:
        return "harmless"
    if is_torn:
        assert found["log"] == expected["log"][:-1]  # this load writes one entry a transaction
        short = {name: found[name] for name in ("log", "hard state")}
        assert found == {**expected, **short}
        return "torn"
    # Behind is not wrong: what the keyspace forgot is in the log, which it is at the head of.
    assert found["log"] == expected["log"]
    assert found["hard state"] == expected["hard state"]
    assert found["applied"][0] < expected["applied"][0]
    known = {row[0]: row for row in expected["revisions"]}
    compacted = {row[0] for row in found["revisions"]} - set(known)
    rows = [row for row in found["revisions"] if row[0] not in compacted]
    assert all(known[row[0]] == row for row in rows)
    return "repaired"


@pytest.mark.timeout(120 + 3 * FLIPS)  # of four files, and beside other work
@pytest.mark.parametrize("ending", ["killed", "stopped"])
def test_flips(machine, ending):
    node = machine.single()
    fill(machine, node)
    node.signal(signal.SIGKILL if ending == "killed" else signal.SIGTERM)
    node.wait()
    argv = node.argv[2:]
    folder = machine.folder / node.name
    copy = machine.folder / "copy"
    argv_of_copy = [arg.replace(str(folder), str(copy)) for arg in argv]
    shutil.copytree(folder, copy)
    expected = opened(copy, argv_of_copy)
    rng = random.Random(f"{ending} {os.environ.get('PYETCD_FLIPS_SEED', '1')}")
    outcomes: Counter[tuple[str, str]] = Counter()
    for name in FILES:
        whole = (folder / "member" / name).read_bytes() if (
            folder / "member" / name).exists() else b""  # fmt: skip
        for _ in range(FLIPS if whole else 0):
            offset = rng.randrange(len(whole))
            bit = 1 << rng.randrange(8)
            shutil.rmtree(copy)
            shutil.copytree(folder, copy)
            spoilt = bytearray(whole)
            spoilt[offset] ^= bit
            (copy / "member" / name).write_bytes(spoilt)
            try:
                outcomes[name, judge(copy, argv_of_copy, expected)] += 1
            except BaseException as error:
                error.add_note(f"{name}, byte {offset}, bit {bit}")
                raise
    print(dict(outcomes))
    assert sum(outcomes.values()) >= 2 * FLIPS


@pytest.mark.parametrize("name", ["kv.db", "wal.db"])
def test_a_real_start_on_a_flip(machine, name):
    """In one line and without a trace, wherever in the start it is found."""
    node = machine.single()
    fill(machine, node)
    node.signal(signal.SIGTERM)
    node.wait()
    path = machine.folder / node.name / "member" / name
    spoilt = bytearray(path.read_bytes())
    pages = len(spoilt) // 4096
    for page in range(1, pages, max(1, pages // 3)):
        spoilt[page * 4096 + 2000] ^= 4
    path.write_bytes(spoilt)
    done = machine.run(*node.argv, check=False)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert name in line and "damage" in line
    assert "Traceback" not in done.stderr


def test_damage_met_while_running(machine):
    """The member stops with one line that says so; what it would have answered nobody gets."""
    node = machine.single()
    fill(machine, node)
    node.signal(signal.SIGTERM)
    node.wait()
    node.start().wait_healthy()  # a start checkpoints: the values are in the main file
    path = machine.folder / node.name / "member" / "kv.db"
    at = path.read_bytes().index(b"5" * 900) + 450
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"4")
    # A reader of its own, for the writer has the page in memory.
    argv = [machine.pyetcd, "ctl", "--endpoints", node.endpoint, "endpoint", "hashkv"]
    done = machine.run(*argv, check=False)
    assert done.returncode != 0 and done.stdout == ""
    assert node.wait() == 1
    line = node.log.splitlines()[-1]
    assert '"level":"fatal"' in line and "a page is damaged (its checksum is wrong)" in line
    assert "the disk failed: stopping at once" in line and "Traceback" not in node.log
