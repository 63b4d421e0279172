"""snapshot save; and status and restore, which have moved to etcdutl and are its own here too.

The stream is written to FILE.part, which becomes FILE when it is whole, its SHA-256 is right and it
is on the disk: whatever goes wrong, no half a file has the name that was asked for, and an older
file of that name stays.
"""

import hashlib
import json
import os
import stat
import time
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from pyetcd.cli.context import Context
from pyetcd.cli.gotext import human_bytes
from pyetcd.cli.terminal import BAD_ARGS, INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyetcd.cli import client as calls
    from pyetcd.proto import rpc_pb2 as rpc

TRAILER_BYTES: Final = 32
SECTOR_BYTES: Final = 512
_UNITS: Final = ((60, 1, "second"), (3600, 60, "minute"), (86400, 3600, "hour"))


class _Interrupted(Exception):
    """Nothing was saved; the text says why."""


def save(context: Context) -> None:
    """`snapshot save`."""
    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "snapshot save expects one argument")
    settings = context.connection_settings()
    path = context.args[0]
    part = f"{path}.part"
    if len(settings.endpoints) != 1:
        shown = " ".join(settings.endpoints)
        text = f"snapshot must be requested to one selected node, not multiple [{shown}]"
        raise context.fail(INTERRUPTED, text)
    if "command-timeout" in context.flags.changed:
        context.start_timeout()
    client = context.dial(settings.endpoints, settings)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        text = f"could not open {part} (open {part}: {_reason(error)})"
        raise context.fail(INTERRUPTED, text) from None
    try:
        _info(context, "snapshot/v3_snapshot.go:68", "created temporary db file", path=part)
        try:
            _fetch(context, client, settings.endpoints[0], descriptor)
        finally:
            os.close(descriptor)
        try:
            os.rename(part, path)
        except OSError as error:
            reason = "file exists" if _is_folder(path) else _reason(error)  # Go's words
            text = f"could not rename {part} to {path} (rename {part} {path}: {reason})"
            raise _Interrupted(text) from None
        _sync_folder(path)
    except _Interrupted as failure:
        _remove(part)
        raise context.fail(INTERRUPTED, str(failure)) from None
    except BaseException:  # also ^C in a shell: no half file stays
        _remove(part)
        raise
    _info(context, "snapshot/v3_snapshot.go:100", "saved", path=path)
    context.print(f"Snapshot saved at {path}")


def _fetch(context: Context, client: "calls.Client", endpoint: str, descriptor: int) -> None:
    """The stream into the file, fsynced and checked."""
    import grpc

    began_s = time.monotonic()
    stream, first = _opened(context, client, endpoint)
    digest, size_bytes, tail = hashlib.sha256(), 0, b""
    try:
        for answer in _watched(context, chain(first, stream)):
            # The last 32 bytes of all are the digest of the rest.
            tail += answer.blob
            size_bytes += len(answer.blob)
            digest.update(tail[:-TRAILER_BYTES])
            tail = tail[-TRAILER_BYTES:]
            _write(descriptor, answer.blob)
    except grpc.RpcError as failure:
        raise _Interrupted(client.translate(failure).text) from None
    _info(context, "v3/maintenance.go:219", "completed snapshot read; closing", logger="client")
    if size_bytes % SECTOR_BYTES != TRAILER_BYTES:
        raise _Interrupted(f"sha256 checksum not found [bytes: {size_bytes}]")
    if tail != digest.digest():
        raise _Interrupted(f"expected sha256 {_bytes(tail)}, got {_bytes(digest.digest())}")
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise _Interrupted(f"sync: {_reason(error)}") from None
    _info(
        context,
        "snapshot/v3_snapshot.go:91",
        "fetched snapshot",
        endpoint=endpoint,
        size=human_bytes(size_bytes),
        took=_ago(int(time.monotonic() - began_s)),
    )


def _opened(
    context: Context, client: "calls.Client", endpoint: str
) -> "tuple[Iterator[rpc.SnapshotResponse], list[rpc.SnapshotResponse]]":
    """The stream, and its first answer: until that is there, nobody knows of a stream."""
    import grpc

    from pyetcd.cli import client as calls
    from pyetcd.proto import rpc_pb2 as rpc

    first: list[rpc.SnapshotResponse] = []
    failed = None
    stream: Iterator[rpc.SnapshotResponse] = iter(())
    try:
        timeout_s = context.time_left_s()
        request = rpc.SnapshotRequest()
        stream = iter(client.server_stream(calls.SNAPSHOT, request, timeout_s=timeout_s))
        first = list(islice(stream, 1))
    except grpc.RpcError as failure:
        failed = client.translate(failure)
    except calls.ClientError as failure:
        failed = failure
    if failed is not None and failed.description.startswith("latest balancer error"):
        error = f"rpc error: code = {failed.code} desc = {failed.description}"
        text = "streamer failed to create ClientStream"
        place = "v3/retry_interceptor.go:135"
        _log(context, "error", place, text, logger="client", error=error)
        raise _Interrupted(failed.text)
    opened = "opened snapshot stream; downloading"
    _info(context, "v3/maintenance.go:211", opened, logger="client")
    _info(context, "snapshot/v3_snapshot.go:76", "fetching snapshot", endpoint=endpoint)
    if failed is not None:
        raise _Interrupted(failed.text)
    return stream, first


def _watched(
    context: Context, answers: "Iterable[rpc.SnapshotResponse]"
) -> "Iterator[rpc.SnapshotResponse]":
    """The answers; a person sees how far they are."""
    if not context.is_for_person:
        yield from answers
        return
    from pyetcd.cli.printers.person import Bar

    done_bytes = 0
    with Bar(context, context.env, "snapshot") as bar:
        for answer in answers:
            done_bytes += len(answer.blob)
            bar.show(done_bytes, done_bytes + answer.remaining_bytes)
            yield answer


def _write(descriptor: int, blob: bytes) -> None:
    view = memoryview(blob)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise _Interrupted(f"write: {_reason(error)}") from None


def _bytes(raw: bytes) -> str:
    return "[" + " ".join(str(byte) for byte in raw) + "]"


def _ago(seconds: int) -> str:
    """humanize.Time of a moment that long ago."""
    if seconds < 1:
        return "now"
    for below, unit, name in _UNITS:
        if seconds < below:
            count = seconds // unit
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "a day ago"


def _sync_folder(path: str) -> None:
    """A rename is durable only then; a folder that may not be read keeps its name anyway."""
    try:
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _remove(part: str) -> None:
    try:
        os.unlink(part)
    except OSError:
        pass


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _info(context: Context, caller: str, message: str, **fields: str) -> None:
    _log(context, "info", caller, message, **fields)


def _log(context: Context, level: str, caller: str, message: str, **fields: str) -> None:
    line: dict[str, object] = {"level": level, "ts": round(time.time(), 7)}
    if "logger" in fields:
        line["logger"] = fields.pop("logger")
    line |= {"caller": caller, "msg": message, **fields}
    context.warn(json.dumps(line, separators=(",", ":"), ensure_ascii=False))


def status(context: Context) -> None:
    """`snapshot status`."""
    from pyetcd.cli.utl.snapshot import show_status

    context.warn("Deprecated: Use `etcdutl snapshot status` instead.\n")
    show_status(context, context.flags, context.args)


def restore(context: Context) -> None:
    """`snapshot restore`."""
    from pyetcd.cli.utl.snapshot import restore_with

    context.warn("Deprecated: Use `etcdutl snapshot restore` instead.\n")
    restore_with(context, context.flags, context.args)
