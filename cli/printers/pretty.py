"""What a person sees on a terminal who has asked for no format: the simple format with colours, and
tables where a line would be a row of numbers.

A kind that has no function here is shown as the simple format shows it. A single key keeps its two
lines, so that a value can be copied; of several keys a table shows the beginning of long values and
says how long they are. Bytes that would steer the terminal are shown as escapes.
"""

from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from pyetcd.cli.gotext import human_bytes
from pyetcd.cli.printers.base import (
    At,
    Display,
    Health,
    Named,
    SnapshotStatus,
    TimeToLive,
    hash_rows,
    member_rows,
    snapshot_cells,
    status_rows,
)
from pyetcd.cli.printers.person import console, shown
from pyetcd.proto import auth_pb2 as auth
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.keys import FROM_KEY, prefix_end

if TYPE_CHECKING:
    from rich.console import RenderableType

CELL_CHARS_MAX: Final = 500  # of a value in a table
WIDE_COLUMNS: Final = 105  # of a terminal that takes all there is of `endpoint status`
JSON_CHARS_MAX: Final = 100_000  # that are looked at for colours
_KEY, _GOOD, _BAD, _QUIET = "bold cyan", "green", "bold red", "dim"
_json = JSONHighlighter()


def _show(display: Display, *parts: "RenderableType") -> None:
    assert display.person is not None
    out = console(display.terminal, display.person)
    for part in parts:
        # A line is as long as it is: the terminal wraps it, and what is copied stays whole.
        out.print(part, soft_wrap=isinstance(part, Text))


def _width(display: Display) -> int:
    assert display.person is not None
    return console(display.terminal, display.person).width


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in columns:
        table.add_column(
            name, justify="right" if name in right else "left", overflow="fold", no_wrap=False
        )
    return table


def _name(display: Display, raw: bytes) -> Text:
    return Text(_bytes(display, raw), _KEY)


def _bytes(display: Display, raw: bytes) -> str:
    if display.hexadecimal:
        return "".join(f"\\x{byte:02x}" for byte in raw)
    return shown(raw)


def _value(display: Display, raw: bytes, chars_max: int = 0) -> Text:
    if not raw:
        return Text("(empty)", _QUIET)
    text = _bytes(display, raw)
    cut = text[:chars_max] if chars_max else text
    found = Text(cut)
    if cut.lstrip()[:1] in ("{", "[") and len(cut) <= JSON_CHARS_MAX:
        _json.highlight(found)
    if len(cut) < len(text):
        found.append(f" ... {human_bytes(len(raw))} in all", _QUIET)
    return found


def _pair(display: Display, pair: kv.KeyValue) -> None:
    _show(display, _name(display, pair.key), _value(display, pair.value))


def _pairs(display: Display, pairs: list[kv.KeyValue]) -> None:
    """One key as its lines, several as a table."""
    if len(pairs) == 1:
        _pair(display, pairs[0])
        return
    has_lease = any(pair.lease for pair in pairs)
    columns = ["Key", "Value", "Version", "Changed at"] + (["Lease"] if has_lease else [])
    table = _table(*columns, right=("Version", "Changed at"))
    for pair in pairs:
        value = _value(display, pair.value, CELL_CHARS_MAX)
        row = [_name(display, pair.key), value]
        row += [Text(str(pair.version)), Text(str(pair.mod_revision))]
        if has_lease:
            row.append(Text(f"{pair.lease:016x}" if pair.lease else ""))
        table.add_row(*row)
    _show(display, table)


def _get(display: Display, answer: rpc.RangeResponse) -> None:
    if display.keys_only:
        for pair in answer.kvs:
            _show(display, _name(display, pair.key))
    elif answer.kvs:
        _pairs(display, list(answer.kvs))
    if not answer.kvs:
        _show(display, Text("no key", _QUIET))
    elif answer.more or len(answer.kvs) > 1:
        shown_keys = f"{len(answer.kvs)} of {answer.count}" if answer.more else len(answer.kvs)
        _show(display, Text(f"{shown_keys} keys", _QUIET))


def _put(display: Display, answer: rpc.PutResponse) -> None:
    _show(display, Text("OK", _GOOD))
    if answer.HasField("prev_kv"):
        _pair(display, answer.prev_kv)


def _delete(display: Display, answer: rpc.DeleteRangeResponse) -> None:
    plural = "" if answer.deleted == 1 else "s"
    _show(display, Text(f"{answer.deleted} key{plural} deleted"))
    if answer.prev_kvs:
        _pairs(display, list(answer.prev_kvs))


def _txn(display: Display, answer: rpc.TxnResponse) -> None:
    _show(display, Text("SUCCESS", _GOOD) if answer.succeeded else Text("FAILURE", _BAD))
    for part in answer.responses:
        display.terminal.print("")
        if part.HasField("response_put"):
            _put(display, part.response_put)
        elif part.HasField("response_range"):
            _get(display, part.response_range)
        elif part.HasField("response_delete_range"):
            _delete(display, part.response_delete_range)


def _watch(display: Display, answer: rpc.WatchResponse) -> None:
    for event in answer.events:
        is_delete = event.type == kv.Event.DELETE
        at = Text(f"  revision {event.kv.mod_revision}", _QUIET)
        kind = Text("DELETE", _BAD) if is_delete else Text("PUT", _GOOD)
        _show(display, kind + at)
        if event.HasField("prev_kv"):
            before = Text("before: ", _QUIET) + _value(display, event.prev_kv.value)
            _show(display, before)
        _show(display, _name(display, event.kv.key))
        if not is_delete:
            _show(display, _value(display, event.kv.value))


def _time_to_live(display: Display, result: TimeToLive) -> None:
    answer = result.message
    line = Text(f"lease {answer.ID:016x} ", "bold")
    if answer.TTL == -1:
        _show(display, line.append("has expired", _BAD))
        return
    _show(display, line.append(f"{answer.TTL} s left of {answer.grantedTTL} s", _GOOD))
    if result.keys:
        for key in answer.keys:
            _show(display, _name(display, key))
        _show(display, Text(f"{len(answer.keys)} keys", _QUIET))


def _leases(display: Display, answer: rpc.LeaseLeasesResponse) -> None:
    for lease in answer.leases:
        _show(display, Text(f"{lease.ID:016x}", _KEY))
    plural = "" if len(answer.leases) == 1 else "s"
    _show(display, Text(f"{len(answer.leases)} lease{plural}", _QUIET))


def _member_list(display: Display, answer: rpc.MemberListResponse) -> None:
    table = _table("ID", "Name", "State", "Peer URLs", "Client URLs")
    for row, member in zip(member_rows(answer), answer.members, strict=True):
        state = Text(row[1], _GOOD if member.name else "yellow")
        if member.isLearner:
            state.append(", learner", "cyan")
        urls = (", ".join(member.peerURLs), ", ".join(member.clientURLs))
        table.add_row(Text(row[0], _KEY), *(Text(text) for text in (row[2],)), state, *urls)
    _show(display, table)


def _health(display: Display, results: list[Health]) -> None:
    table = _table("Endpoint", "Health", "Took", "Error", right=("Took",))
    for result in results:
        health = Text("healthy", _GOOD) if result.healthy else Text("unhealthy", _BAD)
        table.add_row(Text(result.endpoint, _KEY), health, result.took, Text(result.error))
    _show(display, table)


def _status(display: Display, answers: list[At[rpc.StatusResponse]]) -> None:
    figures: tuple[str, ...] = ("Size", "In Use", "Term", "Index", "Applied", "Revision")
    if _width(display) < WIDE_COLUMNS:
        figures = ("Size", "Term", "Index", "Revision")
    errors = ["Errors"] if any(answer.message.errors for answer in answers) else []
    table = _table("Endpoint", "ID", "Role", "Version", *figures, *errors, right=figures)
    for row, answer in zip(status_rows(answers), answers, strict=True):
        found = answer.message
        role = Text("follower")
        if found.leader == found.header.member_id:
            role = Text("leader", _GOOD)
        elif found.isLearner:
            role = Text("learner", "cyan")
        values = dict(zip(("Size", "Term", "Index", "Applied"), (row[3], *row[6:9]), strict=True))
        values |= {"In Use": human_bytes(found.dbSizeInUse)}
        values |= {"Revision": str(found.header.revision)}
        cells = [values[name] for name in figures]
        said = [Text(", ".join(found.errors), _BAD)] if errors else []
        table.add_row(Text(row[0], _KEY), row[1], role, row[2], *cells, *said)
    _show(display, table)


def _hash_kv(display: Display, answers: list[At[rpc.HashKVResponse]]) -> None:
    """Hashes that differ are yellow: the members may have been asked at different revisions."""
    table = _table("Endpoint", "Hash", "Revision", right=("Hash", "Revision"))
    same = len({(at.message.hash, at.message.compact_revision) for at in answers}) < 2
    for (endpoint, found), at in zip(hash_rows(answers), answers, strict=True):
        style = _GOOD if same else "yellow"
        table.add_row(Text(endpoint, _KEY), Text(found, style), str(at.message.header.revision))
    _show(display, table)


def _alarm(display: Display, answer: rpc.AlarmResponse) -> None:
    if not answer.alarms:
        _show(display, Text("no alarm", _QUIET))
        return
    table = _table("Member", "Alarm")
    for member in answer.alarms:
        name = rpc.AlarmType.Name(member.alarm)
        table.add_row(Text(f"{member.memberID:x}", _KEY), Text(name, _BAD))
    _show(display, table)


def _names(display: Display, names: list[str], what: str) -> None:
    for name in names:
        _show(display, Text(shown(name.encode("utf-8", "surrogateescape")), _KEY))
    plural = "" if len(names) == 1 else "s"
    _show(display, Text(f"{len(names)} {what}{plural}", _QUIET))


def _user_list(display: Display, answer: rpc.AuthUserListResponse) -> None:
    _names(display, list(answer.users), "user")


def _role_list(display: Display, answer: rpc.AuthRoleListResponse) -> None:
    _names(display, list(answer.roles), "role")


def _user_get(display: Display, named: Named[rpc.AuthUserGetResponse]) -> None:
    table = _table("User", "Roles")
    table.add_row(Text(named.names[0], _KEY), Text(", ".join(named.message.roles)))
    _show(display, table)


def _role_get(display: Display, named: Named[rpc.AuthRoleGetResponse]) -> None:
    _show(display, Text(f"Role {named.names[0]}", "bold"))
    table = _table("May", "Key", "Up to")
    for permission in named.message.perm:
        kind = auth.Permission.Type.Name(permission.permType).lower()
        table.add_row(kind, _name(display, permission.key), _up_to(display, permission))
    _show(display, table)


def _up_to(display: Display, permission: auth.Permission) -> Text:
    end = permission.range_end
    if not end:
        return Text("this key alone", _QUIET)
    if prefix_end(permission.key) == end:
        return Text("all with this prefix")
    return Text("the last key") if end == FROM_KEY else _name(display, end)


def _snapshot_status(display: Display, status: SnapshotStatus) -> None:
    columns = ("Hash", "Revision", "Keys", "Size")
    table = _table(*columns, right=columns)
    table.add_row(*snapshot_cells(status))
    _show(display, table)


PRINTERS: dict[str, Any] = {
    "get": _get,
    "put": _put,
    "delete": _delete,
    "txn": _txn,
    "watch": _watch,
    "time_to_live": _time_to_live,
    "leases": _leases,
    "member_list": _member_list,
    "health": _health,
    "status": _status,
    "hash_kv": _hash_kv,
    "alarm": _alarm,
    "user_list": _user_list,
    "user_get": _user_get,
    "role_list": _role_list,
    "role_get": _role_get,
    "snapshot_status": _snapshot_status,
}
