"""defrag, hashkv and backup: what works on the files of a member that does not run.

Each takes the lock of the data directory for as long as it works, and is refused while a member (or
another of these commands) has it. etcdutl waits for the member instead, without an end.
"""

import time

from pyetcd.cli.gotext import human_bytes
from pyetcd.cli.printers.base import SnapshotHash
from pyetcd.cli.terminal import BAD_ARGS, ERROR, Terminal
from pyetcd.cli.utl.logline import tell
from pyetcd.cli.utl.run import Run
from pyetcd.cli.utl.snapshot import display_of
from pyetcd.proto.errors import EtcdError
from pyetcd.server import offline, restore
from pyetcd.store import db, snapfile
from pyetcd.store.snapshot import SnapshotFailed


def defrag(terminal: Run) -> None:
    """`defrag --data-dir`."""
    defragment(terminal, terminal.flags.text("data-dir"))


def defragment(terminal: Terminal, data_dir: str) -> None:
    """For utl and for ctl."""
    began_s = time.monotonic()
    try:
        with offline.stopped_member(data_dir) as kv:
            done = offline.defragment(
                kv,
                lambda size, used: tell(
                    terminal,
                    "backend/backend.go:481",
                    "defragmenting",
                    {"path": kv, **_sizes(size, used)},
                ),
            )
    except offline.Refused as refusal:
        text = f"Failed to defragment etcd data[{data_dir}] ({refusal})"
        raise terminal.fail(ERROR, text) from None
    fields: dict[str, object] = {
        "path": kv,
        "current-db-size-bytes-diff": done.size_bytes - done.size_bytes_before,
        **_sizes(done.size_bytes, done.in_use_bytes),
        "took": round(time.monotonic() - began_s, 9),
    }
    tell(terminal, "backend/backend.go:539", "finished defragmenting directory", fields)


def _sizes(size: int, used: int) -> dict[str, object]:
    return {
        "current-db-size-bytes": size,
        "current-db-size": human_bytes(size),
        "current-db-size-in-use-bytes": used,
        "current-db-size-in-use": human_bytes(used),
    }


def hash_kv(terminal: Run) -> None:
    """`hashkv <file>`: a snapshot, or the kv.db of a stopped member."""
    display = display_of(terminal, terminal.flags)
    path, revision = terminal.args[0], terminal.flags.integer("rev")
    try:
        if snapfile.kind_of(path) is snapfile.Kind.BOLT:
            found = offline.hash_kv_of_etcd(path, revision)
        else:
            with offline.locked_beside(path):
                found = snapfile.hash_kv(path, revision)
    except (SnapshotFailed, db.ForeignFile) as failure:
        raise terminal.fail(ERROR, str(failure)) from None
    except EtcdError as refusal:  # compacted, or of the future
        raise terminal.fail(ERROR, refusal.text.replace("etcdserver: ", "")) from None
    shown = SnapshotHash(found.hash, found.revision, found.compact_revision)
    display.show("snapshot_hash", shown)


def backup(terminal: Run) -> None:
    """`backup`."""
    flags = terminal.flags
    if not flags.boolean("with-v3"):
        raise terminal.fail(BAD_ARGS, "there is nothing to back up without the v3 backend data")
    unused = [name for name in ("wal-dir", "backup-wal-dir") if flags.text(name)]
    back_up(terminal, flags.text("data-dir"), flags.text("backup-dir"), unused=unused)


def back_up(terminal: Terminal, data_dir: str, backup_dir: str, *, unused: list[str]) -> None:
    """For utl and for ctl's v2 command. `unused`: flags that were given and mean nothing here."""
    for name in unused:
        terminal.warn(f"Note: the log of pyetcd lies in the data directory; --{name} is unused.")
    try:
        restore.check_empty(backup_dir)
        with offline.stopped_member(data_dir):
            offline.backup(data_dir, backup_dir)
    except (offline.Refused, restore.RestoreRefused) as refusal:
        raise terminal.fail(ERROR, str(refusal)) from None
    text = "Trimming membership information from the backend..."
    tell(terminal, "membership/store.go:141", text, {})
