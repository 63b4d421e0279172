"""Open SQLite: the pragmas and their reasons, one writer, readers, schema version, refusals.

Strategy. Every connection to a file of ours is opened here, so that a pragma is written once and
its reason stands beside it. A file is looked at with plain reads (`_preflight`) before SQLite sees
it: SQLite recovers and overwrites what it opens, a refusal must leave everything as it was.
A new file is built under another name and renamed, so a file that exists is a complete one.

Rules.
1. One connection per file writes AND checkpoints (two doing so is what the WAL-reset bug of
   SQLite 3.7.0 to 3.51.2 needs; sqlite.org/wal.html#walresetbug). All others are read-only: a
   read-only connection cannot checkpoint.
2. Nobody checkpoints by accident: wal_autocheckpoint is 0 and closing does not checkpoint, for a
   checkpoint after a failed fsync would carry lost pages into the main file.
3. Any SQLite error on a writer is final (`StorageFailure`). Linux drops dirty pages whose fsync
   failed and reports success the next time, and SQLite believes it. And SQLITE_FULL inside a
   transaction rolls all of it back: the next statement would commit on its own. So: no retry,
   the process ends, and the next one writes the -wal file again before it trusts what it reads
   there (`_write_again`). Two exceptions, both for a full disk (`DiskFull`): a checkpoint may be
   tried again, for the frames stay where they are; and the log, which knows all that it has
   staged, stages it once more (wal.py).
4. Every page ends in a checksum that is verified whenever the page is read from the file
   (sqlite.org/cksumvfs.html; the extension comes with apsw): of 60 flipped bits SQLite alone
   noticed 2 and served 47. A wrong one is `Damaged`. It costs nothing that
   could be measured: 6 us for a commit of one row of 256 B, with and without.

Limits. A local filesystem (WAL mode shares memory; lockfile.py refuses NFS and SMB). `vfs` names
a registered SQLite VFS for a simulated disk; the plain-file steps are left out then.
"""

import errno
import os
import stat
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import apsw
from apsw import sqlite_extra

SQLITE_MAGIC: Final = b"SQLite format 3\x00"
HEADER_BYTES: Final = 100
PAGE_BYTES: Final = 4096
PAGE_CHECKSUM_BYTES: Final = 8  # at the end of each page; the header's byte 20 says so

# How long one statement may wait for a lock. Within our own rules nobody ever holds one for long;
# this is for a person who has the file open in another tool.
BUSY_TIMEOUT_MS: Final = 1000

# The -wal file is cut back to this size when SQLite restarts it, so that one large burst does not
# keep its disk space for ever. Below it the file is overwritten in place: an fdatasync that does
# not have to write a new file length is the cheaper one.
WAL_FILE_BYTES_MAX: Final = 64 << 20
_COPY_BYTES: Final = 1 << 20

_T = TypeVar("_T")
SqlValue = None | int | float | bytes | str
Row = tuple[str, tuple[SqlValue, ...]]  # a statement and its bindings


class StorageFailure(Exception):
    """The disk or SQLite failed us; what was committed last is unknown. The process must end."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Damaged(StorageFailure):
    """The file's content is not what was written: the disk answered, with the wrong bytes."""


class DiskFull(StorageFailure):
    """SQLITE_FULL: the disk had no room for a write, and SQLite has rolled all of it back."""


class ForeignFile(Exception):
    """A file that is not ours to open. Nothing was changed. One line: what is wrong, what to do."""

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path = path
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Schema:
    """What a file must say it is. `sql` creates the tables of `version` in an empty file.

    `upgrades` leads older files up to it, a version each; the last one makes `version` of the one
    before. A file as old as the first one starts from is upgraded when it is opened for writing.
    """

    application_id: int
    version: int
    sql: str
    upgrades: tuple[str, ...] = ()
    # Lets defragmentation give pages back in slices (PRAGMA incremental_vacuum). It has to be
    # chosen before the first table exists and costs one pointer-map page in about a thousand.
    incremental_vacuum: bool = False

    @property
    def version_min(self) -> int:
        """The oldest one that can be upgraded."""
        return self.version - len(self.upgrades)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint did. `complete`: every frame is in the main file and fsynced."""

    wal_frames: int
    moved_frames: int

    @property
    def complete(self) -> bool:
        return self.wal_frames == self.moved_frames


def open_writer(
    path: str,
    *,
    schema: Schema,
    full_sync: bool,
    create: bool = True,
    cache_kib: int = 8192,
    vfs: str | None = None,
) -> apsw.Connection:
    """The one connection that writes and checkpoints. `full_sync`: each commit is one fdatasync.

    Without `full_sync` a commit survives a killed process, but only a checkpoint survives a power
    cut: the file is then consistent, and behind.
    """
    path = os.fspath(path)
    require_sound_sqlite()
    require_page_checksums()
    if not _exists(path, vfs):
        if not create:
            raise ForeignFile(path, "no such file", "check the data directory")
        create_file(path, schema=schema, vfs=vfs)
    if vfs is None:
        preflight(path, schema)
        _write_again(path + "-wal")
    flags = apsw.SQLITE_OPEN_READWRITE
    connection = guarded(path, "open", lambda: apsw.Connection(path, flags, vfs))
    try:
        guarded(path, "open", lambda: _set_up_writer(connection, full_sync, cache_kib))
        _require_schema(path, connection, schema)
        _upgrade(path, connection, schema)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: str, *, cache_kib: int = 2048, vfs: str | None = None) -> apsw.Connection:
    """A read-only connection; the file's writer must be open. Keep its transactions short: a
    reader that holds a snapshot keeps every later frame in the -wal file."""
    path = os.fspath(path)
    flags = apsw.SQLITE_OPEN_READONLY
    connection = guarded(path, "open", lambda: apsw.Connection(path, flags, vfs))
    try:
        guarded(path, "open", lambda: _set_up(connection, cache_kib))
    except BaseException:
        connection.close()
        raise
    return connection


def open_alone(path: str) -> apsw.Connection:
    """Read-only, and without regard to locks and side files: the main file as it stands."""
    uri = f"file:{urllib.parse.quote(os.path.abspath(path))}?immutable=1"
    return apsw.Connection(uri, apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def open_checkpointer(path: str, *, vfs: str | None = None) -> apsw.Connection:
    """A second read-write connection that only ever checkpoints, so that a thread can fsync while
    the writer writes; the writer must be open. Sound from the SQLite on that `open_writer` asks
    for. No preflight: closing a plain file descriptor would drop the writer's POSIX locks."""
    path = os.fspath(path)
    flags = apsw.SQLITE_OPEN_READWRITE
    connection = guarded(path, "open", lambda: apsw.Connection(path, flags, vfs))
    try:
        guarded(path, "open", lambda: _set_up_writer(connection, True, 2048))
    except BaseException:
        connection.close()
        raise
    return connection


def forgo_fsync(connection: apsw.Connection) -> None:
    """--unsafe-no-fsync: no commit and no checkpoint of this connection waits for the disk. Its
    frames still reach the kernel, so a killed process loses nothing."""
    connection.pragma("synchronous", "off")
    _must_be(connection.pragma("synchronous"), 0, "synchronous")


def create_file(
    path: str,
    *,
    schema: Schema,
    rows: Sequence[Row] = (),
    vfs: str | None = None,
) -> None:
    """A new file with the schema and the first `rows`, whole or not there at all."""
    path = os.fspath(path)
    require_page_checksums()
    if vfs is not None:
        guarded(path, "create", lambda: _build(path, schema, rows, vfs))
        return
    assert not os.path.lexists(path), path
    for suffix in ("-wal", "-journal"):
        # SQLite would replay it into the new file: never start beside the remains of another.
        if os.path.exists(path + suffix) and os.path.getsize(path + suffix):
            remedy = f"restore the missing file, or remove {os.path.basename(path)}{suffix} too"
            raise ForeignFile(path, f"is missing, but its {suffix} file exists", remedy)
    building = path + ".new"
    for leftover in (building, building + "-wal", building + "-shm", building + "-journal"):
        remove_if_exists(leftover)
    try:
        # SQLite gives -wal and -shm the mode of the main file, so this settles all three.
        os.close(os.open(building, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        guarded(path, "create", lambda: _build(building, schema, rows, None))
        fsync_file(building)
        os.rename(building, path)
        fsync_dir(os.path.dirname(path) or ".")
    except OSError as error:
        raise StorageFailure(f"{path}: create failed: {os_reason(error)}") from error


def checkpoint(
    connection: apsw.Connection, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE
) -> Checkpoint:
    """Move committed pages into the main file and fsync it; the writer's connection only.

    PASSIVE never waits, and leaves frames behind while a reader needs them. TRUNCATE also empties
    the -wal file; readers still busy after the busy timeout make it a plain passive one.
    """
    assert not connection.in_transaction, "a checkpoint inside a transaction"
    path = connection.filename
    try:
        frames, moved = connection.wal_checkpoint(mode=mode)
    except apsw.BusyError:
        frames, moved = guarded(path, "checkpoint", connection.wal_checkpoint)
    except apsw.Error as error:
        raise failure(path, "checkpoint", error) from error
    # Before the first frame ever written SQLite answers -1, -1.
    return Checkpoint(wal_frames=max(frames, 0), moved_frames=max(moved, 0))


def quick_check(connection: apsw.Connection) -> None:
    """SQLite's own structure check, without the indexes. Reads the whole file: about 1 s a GB."""
    path = connection.filename
    rows = guarded(path, "check", lambda: list(connection.execute("PRAGMA quick_check(1)")))
    if rows != [("ok",)]:
        found = " ".join(str(rows[0][0])[:200].split())
        raise Damaged(f"{path}: quick_check found damage: {found}")


def guarded(path: str, doing: str, call: Callable[[], _T]) -> _T:
    """Run `call`, an apsw error becoming a StorageFailure. Not for the hot path."""
    try:
        return call()
    except apsw.Error as error:
        raise failure(path, doing, error) from error


def failure(
    path: str, doing: str, error: apsw.Error, connection: apsw.Connection | None = None
) -> StorageFailure:
    """One line that names SQLite's result code and, given the connection, the system's errno."""
    misuse = (apsw.ThreadingViolationError, apsw.MisuseError, apsw.SQLError, apsw.BindingsError)
    assert not isinstance(error, misuse), f"{doing}: {error}"  # our bug, not the disk's
    code = getattr(error, "extendedresult", 0)
    name = str(apsw.mapping_extended_result_codes.get(code) or apsw.mapping_result_codes.get(code))
    if code == 0:
        name = type(error).__name__
    number = connection.system_errno if connection is not None else 0
    system = f" ({errno.errorcode.get(number, number)})" if number else ""
    if code == apsw.SQLITE_IOERR_DATA:
        return Damaged(f"{path}: {doing} failed: a page is damaged (its checksum is wrong)")
    kind: type[StorageFailure] = StorageFailure
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        kind = Damaged
    elif isinstance(error, apsw.FullError):
        kind = DiskFull
    return kind(f"{path}: {doing} failed: {name}{system}: {error}")


def signed(value: int) -> int:
    """uint64 -> the int64 that SQLite stores: cluster, member and lease ids use all 64 bits."""
    assert 0 <= value < 1 << 64, value
    return value - (1 << 64) if value >= 1 << 63 else value


def unsigned(value: int) -> int:
    """The reverse of `signed`."""
    assert -(1 << 63) <= value < 1 << 63, value
    return value + (1 << 64) if value < 0 else value


def require_sound_sqlite(version: str | None = None) -> None:
    """Refuse a SQLite that can lose committed pages in a WAL reset (fixed in 3.51.3, and in
    3.44.6 and 3.50.7)."""
    version = version or apsw.sqlite_lib_version()
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    number = (major, minor, patch)
    backported = {(3, 44): 6, (3, 50): 7}.get((major, minor))
    fixed = number >= (3, 51, 3) or (backported is not None and patch >= backported)
    if not fixed:
        raise StorageFailure(
            f"SQLite {version} can lose commits (its WAL-reset bug); install apsw 3.51.3 or later"
        )


def require_page_checksums() -> None:
    """Refuse an apsw that came without the extension (a build of one's own)."""
    if _PAGE_CHECKSUMS_MISSING:
        reason = f"this apsw has no page checksums (cksumvfs: {_PAGE_CHECKSUMS_MISSING})"
        raise StorageFailure(f"{reason}; install its wheel from PyPI")


def _load_page_checksums() -> str:
    """Make SQLite write and verify them, in this process, for every file that has room for them;
    files of another origin are read as ever. What is wrong, if it cannot."""
    try:
        connection = apsw.Connection(":memory:")
        try:
            sqlite_extra.load(connection, "cksumvfs")
        finally:
            connection.close()
    except (LookupError, sqlite_extra.NotAvailable, apsw.Error) as error:
        return str(error) or type(error).__name__
    return ""


# At import, before anybody can register a VFS of his own as the default: the layer of checksums
# goes on top of the default of this moment, and must not outlive it.
_PAGE_CHECKSUMS_MISSING: Final = _load_page_checksums()


def preflight(path: str, schema: Schema) -> None:
    """Refuse, from the file's first 100 bytes, whatever is not ours. SQLite must not have the file
    open in this process: closing a plain descriptor of it drops SQLite's POSIX locks."""
    header = _read_header(path)
    if header[: len(SQLITE_MAGIC)] != SQLITE_MAGIC or len(header) < HEADER_BYTES:
        reason = "is empty" if not header else "is not a SQLite database"
        raise ForeignFile(path, reason, "this is not a pyetcd data directory, or it is damaged")
    side_bytes = os.path.getsize(path + "-wal") if os.path.exists(path + "-wal") else 0
    if header[18:20] not in (b"\1\1", b"\2\2") or (header[18] == 1 and side_bytes):
        # SQLite would delete a -wal file that the header does not speak of.
        raise ForeignFile(path, "has a damaged header", "restore a snapshot")
    # Offsets: sqlite.org/fileformat2.html section 1.3. The header in the main file is the true
    # one, for the tables are made before the file goes into WAL mode.
    _require_identity(
        path,
        schema,
        application_id=int.from_bytes(header[68:72], "big", signed=True),
        version=int.from_bytes(header[60:64], "big", signed=True),
    )
    if header[20] != PAGE_CHECKSUM_BYTES:  # no page would be verified
        raise ForeignFile(path, "has a damaged header", "restore a snapshot")
    if os.path.getsize(path) < PAGE_BYTES:  # files are made whole, and never shrink below this
        raise ForeignFile(path, "is cut short", "restore a snapshot")


def remove_if_exists(path: str) -> bool:
    """Whether there was something to remove."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageFailure(f"{path}: remove failed: {os_reason(error)}") from error
    return True


def fsync_file(path: str) -> None:
    """The file's bytes and length are on the disk afterwards."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_again(path: str) -> None:
    """What the -wal file reads as is on the disk afterwards.

    The process before may have ended because its fsync failed. Then the file may read well from the
    page cache and not be on the disk, and no fsync would tell: only written again, the pages count
    as not yet on the disk. A checkpoint that believed them would tear the main file in a power cut.
    64 MiB, the most that usually is there, take 0.05 to 0.2 s.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageFailure(f"{path}: open failed: {os_reason(error)}") from error
    try:
        at = 0
        while data := os.pread(descriptor, _COPY_BYTES, at):
            at += os.pwrite(descriptor, data, at)
        os.fsync(descriptor)
    except OSError as error:
        # A filesystem that never writes in place needs space for it, and a start must not.
        if error.errno != errno.ENOSPC:
            raise StorageFailure(f"{path}: write failed: {os_reason(error)}") from error
    finally:
        os.close(descriptor)


def fsync_dir(path: str) -> None:
    """The directory's names are on the disk afterwards: a rename is durable only then."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def os_reason(error: OSError) -> str:
    """`No space left on device`, and the file if the error knows one."""
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")


def _exists(path: str, vfs: str | None) -> bool:
    if vfs is None:
        return os.path.lexists(path)
    try:
        apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE, vfs).close()
    except apsw.CantOpenError:
        return False
    return True


def _read_header(path: str) -> bytes:
    mine = "check the data directory and its owner"
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
            raise ForeignFile(path, kind, mine)
        with open(path, "rb") as file:
            return file.read(HEADER_BYTES)
    except OSError as error:
        raise ForeignFile(path, f"cannot be read: {error.strerror}", mine) from error


def _require_schema(path: str, connection: apsw.Connection, schema: Schema) -> None:
    _require_identity(
        path,
        schema,
        application_id=int(connection.pragma("application_id")),
        version=int(connection.pragma("user_version")),
    )


def _require_identity(path: str, schema: Schema, *, application_id: int, version: int) -> None:
    if application_id != schema.application_id:
        reason = f"belongs to another program (application id {application_id:#x})"
        raise ForeignFile(path, reason, "check the data directory")
    if version > schema.version:
        reason = (
            f"was written by a newer pyetcd (schema {version}, this one knows {schema.version})"
        )
        raise ForeignFile(path, reason, "install that version or restore a snapshot")
    if version < schema.version_min:
        reason = f"has schema {version}, this pyetcd needs {schema.version}"
        raise ForeignFile(path, reason, "there is no upgrade from it; restore a snapshot")


def _upgrade(path: str, connection: apsw.Connection, schema: Schema) -> None:
    """All steps in one transaction, in the main file before anything else is written: a killed
    upgrade is as if it had not begun, and preflight() of an older pyetcd sees the version."""

    def run() -> None:
        version = int(connection.pragma("user_version"))
        if version == schema.version:
            return
        # A -wal generation of its own before and after: what walscan.py asks for.
        checkpoint(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        connection.execute("BEGIN IMMEDIATE")
        try:
            for sql in schema.upgrades[version - schema.version_min :]:
                connection.execute(sql)
            connection.pragma("user_version", schema.version)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        checkpoint(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)

    guarded(path, "upgrade", run)


def _build(path: str, schema: Schema, rows: Sequence[Row], vfs: str | None) -> None:
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(path, flags, vfs)
    try:
        if vfs is None:  # a simulated disk has no layer of checksums below it
            connection.reserve_bytes(reserve=PAGE_CHECKSUM_BYTES)  # before all else
        connection.pragma("page_size", PAGE_BYTES)
        if schema.incremental_vacuum:
            connection.pragma("auto_vacuum", "incremental")
        connection.pragma("synchronous", "full")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(schema.sql)
        for statement, bindings in rows:
            connection.execute(statement, bindings)
        connection.pragma("application_id", schema.application_id)
        connection.pragma("user_version", schema.version)
        connection.execute("COMMIT")
        # Only now: identity and tables are in the main file, where preflight() reads them.
        _must_be(connection.pragma("journal_mode", "wal"), "wal", "journal_mode")
    finally:
        connection.close()


def _set_up_writer(connection: apsw.Connection, full_sync: bool, cache_kib: int) -> None:
    # Rule 2. The owner checkpoints by hand before it closes, if nothing failed. First, for what is
    # refused below must be left as it is.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    _set_up(connection, cache_kib)
    _must_be(connection.pragma("journal_mode", "wal"), "wal", "journal_mode")
    # The promise itself, so it is read back: FULL is one fdatasync per commit, NORMAL none.
    connection.pragma("synchronous", "full" if full_sync else "normal")
    _must_be(connection.pragma("synchronous"), 2 if full_sync else 1, "synchronous")
    connection.pragma("fullfsync", True)  # macOS: fsync alone does not reach the platter
    connection.pragma("checkpoint_fullfsync", True)
    connection.pragma("journal_size_limit", WAL_FILE_BYTES_MAX)
    # Debian builds turn it on; overwriting every freed page with zeros is write amplification.
    connection.pragma("secure_delete", False)
    connection.pragma("temp_store", "memory")
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)


def _set_up(connection: apsw.Connection, cache_kib: int) -> None:
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    connection.wal_autocheckpoint(0)
    # An I/O error in mapped memory is a SIGBUS instead of an error, and a stale mapping has
    # corrupted files together with the WAL-reset bug.
    connection.pragma("mmap_size", 0)
    connection.pragma("cache_size", -cache_kib)
    # Else the planner looks at the value of a bound LIMIT, and prepares the statement anew each
    # time it is bound: 4.7 us instead of 1.7 for reading one key.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.pragma("cell_size_check", True)  # damaged pages are found earlier
    connection.pragma("trusted_schema", False)


def _must_be(found: object, wanted: object, pragma: str) -> None:
    if found != wanted:
        raise StorageFailure(f"PRAGMA {pragma} is {found!r} although {wanted!r} was asked for")
