"""backup: a copy of the files of a stopped member, as `pyetcd utl backup` makes it."""

from pyetcd.cli.ctl2.context import Context


def backup(context: Context) -> None:
    """`backup --data-dir --backup-dir`"""
    from pyetcd.cli.utl.offline import back_up

    flags = context.flags
    if not flags.boolean("with-v3"):
        context.warn("Note: the keys of both APIs lie in one file; those of v3 are copied, too.")
    unused = [name for name in ("wal-dir", "backup-wal-dir") if flags.text(name)]
    back_up(context, flags.text("data-dir"), flags.text("backup-dir"), unused=unused)
