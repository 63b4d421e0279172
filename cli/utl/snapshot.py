"""snapshot status, restore and save."""

import os

from pyetcd.cli.flags import FlagSet
from pyetcd.cli.gotext import quote
from pyetcd.cli.printers.base import Display, SnapshotStatus
from pyetcd.cli.terminal import BAD_ARGS, BAD_FEATURE, ERROR, Terminal
from pyetcd.cli.utl.logline import tell
from pyetcd.cli.utl.run import Run

FORMATS = ("simple", "fields", "json", "protobuf", "table", "yaml")


def save(terminal: Run) -> None:
    """`snapshot save`, which is etcdctl's."""
    text = "In order to download snapshot use: `etcdctl snapshot save ...`"
    raise terminal.fail(BAD_ARGS, text)


def status(terminal: Run) -> None:
    """`snapshot status`."""
    show_status(terminal, terminal.flags, terminal.args)


def show_status(terminal: Terminal, flags: FlagSet, args: list[str]) -> None:
    """For utl and for ctl."""
    if len(args) != 1:
        raise terminal.fail(BAD_ARGS, "snapshot status requires exactly one argument")
    display = display_of(terminal, flags)
    from pyetcd.server import offline
    from pyetcd.store import db, snapfile
    from pyetcd.store.snapshot import SnapshotFailed

    path = args[0]
    try:
        os.stat(path)
    except OSError as error:
        raise terminal.fail(ERROR, f"stat {path}: {snapfile.go_reason(error)}") from None
    try:
        if snapfile.kind_of(path) is snapfile.Kind.BOLT:
            from pyetcd.store import boltfile

            snapfile.check_trailer(path)
            found = boltfile.status(path)
        else:
            with offline.locked_beside(path):
                found = snapfile.status(path)
    except (SnapshotFailed, db.ForeignFile) as failure:
        raise terminal.fail(ERROR, str(failure)) from None
    shown = SnapshotStatus(found.hash, found.revision, found.keys, found.size_bytes)
    display.show("snapshot_status", shown)


def display_of(terminal: Terminal, flags: FlagSet) -> Display:
    """The printer for --write-out; exits when it names no format."""
    format = flags.text("write-out")
    if format not in FORMATS:
        raise terminal.fail(BAD_FEATURE, "unsupported output format")
    return Display(format, terminal, hexadecimal=False)


def restore(terminal: Run) -> None:
    """`snapshot restore`."""
    flags = terminal.flags
    restore_with(
        terminal,
        flags,
        terminal.args,
        bump=flags.integer("bump-revision"),
        mark=flags.boolean("mark-compacted"),
    )


def restore_with(
    terminal: Terminal, flags: FlagSet, args: list[str], *, bump: int = 0, mark: bool = False
) -> None:
    """For utl and for ctl."""
    if len(args) != 1:
        raise terminal.fail(BAD_ARGS, "snapshot restore requires exactly one argument")
    if bool(bump) != mark:
        raise terminal.fail(BAD_ARGS, "--mark-compacted required if --revision-bump > 0")
    from pyetcd.server import restore
    from pyetcd.store.backend import MAIN_MAX

    if bump > MAIN_MAX // 2:
        raise terminal.fail(BAD_ARGS, f"--bump-revision may be at most {MAIN_MAX // 2}")
    data_dir = flags.text("data-dir") or flags.text("name") + ".etcd"
    wanted = restore.Flags(
        name=flags.text("name"),
        peer_urls=flags.text("initial-advertise-peer-urls"),
        initial_cluster=flags.text("initial-cluster"),
        token=flags.text("initial-cluster-token"),
        data_dir=data_dir,
        bump_revision=bump,
    )
    wal_dir = flags.text("wal-dir")
    try:
        made = restore.plan(wanted)
        restore.check_empty(data_dir)
    except restore.RestoreRefused as refusal:
        raise terminal.fail(ERROR, str(refusal)) from None
    if wal_dir:
        if os.path.lexists(wal_dir):
            raise terminal.fail(ERROR, f"wal-dir {quote(os.fsencode(wal_dir))} exists")
        terminal.warn("Note: the log of pyetcd lies in the data directory; --wal-dir is not used.")
    fields: dict[str, object] = {
        "path": args[0],
        "wal-dir": os.path.join(data_dir, "member"),
        "data-dir": data_dir,
        "snap-dir": os.path.join(data_dir, "member"),
    }
    tell(terminal, "snapshot/v3_snapshot.go:251", "restoring snapshot", fields)
    fill = restore.fill_from(args[0], skip_hash_check=flags.boolean("skip-hash-check"))
    try:
        restore.restore(wanted, made, fill, lambda *line: tell(terminal, *line))
    except restore.RestoreRefused as refusal:
        raise terminal.fail(ERROR, str(refusal)) from None
    tell(terminal, "snapshot/v3_snapshot.go:272", "restored snapshot", fields)
