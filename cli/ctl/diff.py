"""`diff`: what was added, changed and deleted between two revisions.

Two walks over the keys, without their values, one at each revision, go side by side; a key whose
last change is the same at both is passed over. Values are read only of the keys that differ,
BATCH_KEYS of them with one request. So a million keys of which ten differ cost the reading of two
million keys in pages, ten values, and the memory of a page.

A key that was written again with the same value and the same lease is no difference.
"""

import difflib
from collections.abc import Iterable, Iterator

from pyetcd.cli import client as calls
from pyetcd.cli.context import Context
from pyetcd.cli.ctl.kv import decoding
from pyetcd.cli.ctl.pages import Reader, Walk, check_shown, interval, revision_of
from pyetcd.cli.gotext import quote
from pyetcd.cli.printers.base import Display
from pyetcd.cli.terminal import BAD_ARGS
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc

BATCH_KEYS = 32  # of values up to 1.5 MiB, two each
LINES_MAX, LINE_BYTES_MAX = 2000, 100_000  # of a text that is compared line by line
_COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}
_PLAIN = "\x1b[0m"

Change = tuple[kv.KeyValue | None, kv.KeyValue | None]  # before and after


def diff(context: Context) -> None:
    """`diff`."""
    if not 2 <= len(context.args) <= 3:
        text = "diff command needs two revisions and an optional argument as prefix"
        raise context.fail(BAD_ARGS, text)
    revisions = [revision_of(context, text) for text in context.args[:2]]
    prefix = context.arg(2) if len(context.args) > 2 else b""
    reader = Reader(context)
    display = decoding(context)
    check_shown(context, display, "simple", "json", "yaml")
    key, range_end = interval(prefix)
    if 0 in revisions:
        now = reader.now(key, range_end)
        revisions = [revision or now for revision in revisions]
    walks = [Walk(reader, key, range_end, at, keys_only=True) for at in revisions]
    changes = _with_values(reader, _differing(*walks), revisions[0], revisions[1])
    if display.format == "simple":
        _show_text(context, changes, revisions)
    else:
        _show_rows(display, changes, revisions)


def _differing(before: Iterator[kv.KeyValue], after: Iterator[kv.KeyValue]) -> Iterator[Change]:
    """Both in the order of their keys; what is the same in both is left out."""
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old.key < new.key):
            yield old, None
            old = next(before, None)
        elif old is None or new.key < old.key:
            yield None, new
            new = next(after, None)
        else:
            if old.mod_revision != new.mod_revision:
                yield old, new
            old, new = next(before, None), next(after, None)


def _with_values(
    reader: Reader, changes: Iterable[Change], before: int, after: int
) -> Iterator[Change]:
    batch: list[Change] = []
    for change in changes:
        batch.append(change)
        if len(batch) == BATCH_KEYS:
            yield from _read(reader, batch, before, after)
            batch = []
    if batch:
        yield from _read(reader, batch, before, after)


def _read(reader: Reader, batch: list[Change], before: int, after: int) -> Iterator[Change]:
    """The values of both sides, with one transaction that only reads."""
    request = rpc.TxnRequest()
    for sides in batch:
        for side, revision in zip(sides, (before, after), strict=True):
            if side is not None:
                request.success.add().request_range.CopyFrom(
                    rpc.RangeRequest(key=side.key, revision=revision)
                )
    answers = iter(reader.call(calls.READ_TXN, request).responses)
    for sides in batch:
        old, new = (
            next(answers).response_range.kvs[0] if side is not None else None for side in sides
        )
        if old is None or new is None or (old.value, old.lease) != (new.value, new.lease):
            yield old, new


def _show_rows(display: Display, changes: Iterable[Change], revisions: list[int]) -> None:
    from pyetcd.cli.printers.growing import Growing
    from pyetcd.cli.printers.values import Value, message

    growing = Growing(display, {"from": revisions[0], "to": revisions[1]}, "changes")
    for old, new in changes:
        row: dict[str, Value] = {"type": "changed"}
        if old is None:
            row["type"] = "added"
        else:
            row["old"] = message(old)
        if new is None:
            row["type"] = "deleted"
        else:
            row["new"] = message(new)
        growing.add(row)
    growing.end()


def _show_text(context: Context, changes: Iterable[Change], revisions: list[int]) -> None:
    is_coloured = context.is_terminal and not context.env.get("NO_COLOR")

    def line(text: str) -> None:
        colour = _COLOURS.get(text[:1], "") if is_coloured else ""
        context.print(f"{colour}{text}{_PLAIN}" if colour else text)

    is_first = True
    for old, new in changes:
        if is_first:
            line(f"--- revision {revisions[0]}")
            line(f"+++ revision {revisions[1]}")
            is_first = False
        for text in _lines(old, new):
            line(text)


def _lines(old: kv.KeyValue | None, new: kv.KeyValue | None) -> Iterator[str]:
    hunks = _hunks(old, new) if old is not None and new is not None else []
    if hunks:
        yield from hunks
        return
    for sign, side in (("-", old), ("+", new)):
        if side is not None:
            lease = f" lease={side.lease:x}" if side.lease else ""
            yield f"{sign}{quote(side.key)} = {quote(side.value)}{lease}"


def _hunks(old: kv.KeyValue, new: kv.KeyValue) -> list[str]:
    """The lines that differ, where both values are texts of several lines; else nothing."""
    if old.lease != new.lease or max(len(old.value), len(new.value)) > LINE_BYTES_MAX:
        return []
    try:
        texts = [side.value.decode().split("\n") for side in (old, new)]
    except UnicodeDecodeError:
        return []
    if min(map(len, texts)) < 2 or max(map(len, texts)) > LINES_MAX:
        return []
    if not all(line.replace("\t", " ").isprintable() for text in texts for line in text):
        return []
    _, _, *rows = difflib.unified_diff(texts[0], texts[1], lineterm="")
    label = f"{quote(old.key)} "
    return [row.replace("@@ ", f"@@ {label}", 1) if row[:2] == "@@" else row for row in rows]
