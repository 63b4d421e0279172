"""Tables with etcdctl's own ASCII borders, to the byte. Those for a person are in pretty.py.

The form is that of tablewriter 0.0.5: headers in capitals and centred, cells to the right,
a cell wider than 30 columns wrapped at its spaces so that the lines are evenly long.
"""

from pyetcd.cli.printers.base import (
    At,
    Display,
    Health,
    SnapshotHash,
    SnapshotStatus,
    hash_rows,
    member_rows,
    snapshot_cells,
    snapshot_hash_cells,
    status_rows,
)
from pyetcd.cli.printers.cluster import HEADER, View, cells, headline
from pyetcd.proto import rpc_pb2 as rpc

WRAP_COLUMNS = 30
_PENALTY = 100_000  # for a line that is too long


def _table(display: Display, header: list[str], rows: list[list[str]]) -> None:
    for line in _render(header, rows):
        display.terminal.print(line)


def _render(header: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[_wrap(cell) for cell in row] for row in rows]
    titles = [name.upper() for name in header]
    widths = [
        max([len(title), *(len(line) for row in cells for line in row[column])])
        for column, title in enumerate(titles)
    ]
    border = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [border, _row([_center(*pair) for pair in zip(titles, widths, strict=True)]), border]
    for row in cells:
        for at in range(max(len(cell) for cell in row)):
            texts = [cell[at] if at < len(cell) else "" for cell in row]
            lines.append(_row([text.rjust(w) for text, w in zip(texts, widths, strict=True)]))
    return [*lines, border]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _center(text: str, width: int) -> str:
    left = (width - len(text)) // 2
    return " " * left + text.ljust(width - left)


def _wrap(cell: str) -> list[str]:
    """Breaks a cell so that the squares of what is left free on each line sum up to the least."""
    words = cell.split()
    if len(cell) <= WRAP_COLUMNS or len(words) < 2:
        return [cell]
    limit = max(WRAP_COLUMNS, *(len(word) for word in words))
    count = len(words)
    cost, cut = [0] * (count + 1), [count] * (count + 1)
    for first in range(count - 1, -1, -1):
        if len(" ".join(words[first:])) <= limit:
            continue
        choices = []
        for after in range(first + 1, count):
            free = limit - len(" ".join(words[first:after]))
            choices.append((free * free + cost[after] + (_PENALTY if free < 0 else 0), after))
        if choices:
            cost[first], cut[first] = min(choices)
    lines, at = [], 0
    while at < count:
        lines.append(" ".join(words[at : cut[at]]))
        at = cut[at]
    return lines


def _member_list(display: Display, answer: rpc.MemberListResponse) -> None:
    header = ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"]
    _table(display, header, member_rows(answer))


def _health(display: Display, results: list[Health]) -> None:
    rows = [[r.endpoint, str(r.healthy).lower(), r.took, r.error] for r in results]
    _table(display, ["Endpoint", "Health", "Took", "Error"], rows)


def _status(display: Display, answers: list[At[rpc.StatusResponse]]) -> None:
    header = ["Endpoint", "ID", "Version", "DB Size", "Is Leader", "Is Learner"]
    header += ["Raft Term", "Raft Index", "Raft Applied Index", "Errors"]
    _table(display, header, status_rows(answers))


def _hash_kv(display: Display, answers: list[At[rpc.HashKVResponse]]) -> None:
    _table(display, ["Endpoint", "Hash"], hash_rows(answers))


def _snapshot_status(display: Display, status: SnapshotStatus) -> None:
    header = ["Hash", "Revision", "Total Keys", "Total Size"]
    _table(display, header, [snapshot_cells(status)])


def _snapshot_hash(display: Display, found: SnapshotHash) -> None:
    header = ["Hash", "Hash Revision", "Compact Revision"]
    _table(display, header, [snapshot_hash_cells(found)])


def show_top(display: Display, view: View) -> None:
    """`top`, which the simple format shows in the same way."""
    display.terminal.print(headline(view))
    _table(display, list(HEADER), [cells(member) for member in view.members])


PRINTERS = {
    "top": show_top,
    "member_list": _member_list,
    "health": _health,
    "status": _status,
    "hash_kv": _hash_kv,
    "snapshot_status": _snapshot_status,
    "snapshot_hash": _snapshot_hash,
}
