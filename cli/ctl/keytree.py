"""`tree`: keys by their parts between slashes, each level further to the right.

The keys come in the order of their bytes, so that all that lies below one folder comes together:
a line is printed as soon as its key is read, and nothing is kept but the folders that are open.
"""

from pyetcd.cli.context import Context
from pyetcd.cli.ctl.pages import Reader, Walk, check_shown, interval, name
from pyetcd.cli.terminal import BAD_ARGS

_INDENT = "  "
_BOLD, _PLAIN = "\x1b[1;34m", "\x1b[0m"


def tree(context: Context) -> None:
    """`tree`."""
    if len(context.args) > 1:
        raise context.fail(BAD_ARGS, "tree command needs one argument as prefix at most")
    depth = context.flags.integer("depth")
    if depth < 0:
        raise context.fail(BAD_ARGS, "--depth must not be negative")
    prefix = context.arg(0) if context.args else b""
    reader = Reader(context)
    check_shown(context, context.display(), "simple")
    key, range_end = interval(prefix)
    revision = max(context.flags.integer("rev"), 0) or reader.now(key, range_end)
    walk = Walk(reader, key, range_end, revision, keys_only=True)
    _show(context, walk, prefix[: prefix.rfind(b"/") + 1], depth)


def _show(context: Context, walk: Walk, root: bytes, depth: int) -> None:
    """Below the root, itself a folder; `depth` levels, 0 for all."""
    margin = 1 if root else 0
    is_coloured = context.is_terminal and not context.env.get("NO_COLOR")

    def line(level: int, text: str, *, is_folder: bool, behind: str = "") -> None:
        shown = f"{_BOLD}{text}{_PLAIN}" if is_coloured and is_folder else text
        context.print(_INDENT * (level + margin) + shown + behind)

    opened: list[bytes] | None = None
    for pair in walk:
        *folders, last = pair.key[len(root) :].split(b"/")
        is_cut = bool(depth) and len(folders) >= depth
        visible = folders[: depth - 1] if is_cut else folders
        if opened is None:
            if root:
                line(-1, name(root), is_folder=True)
            opened = []
        for level in range(_common(visible, opened), len(visible)):
            line(level, name(visible[level] + b"/"), is_folder=True)
        opened = visible
        if is_cut:
            folder = folders[depth - 1] + b"/"
            count = 1 + walk.pass_over(root + b"".join(one + b"/" for one in folders[:depth]))
            many = "" if count == 1 else "s"
            line(depth - 1, name(folder), is_folder=True, behind=f" ({count} key{many})")
        else:
            line(len(folders), name(last), is_folder=False)


def _common(left: list[bytes], right: list[bytes]) -> int:
    """How many of the first are the same."""
    pairs = zip(left, right, strict=False)
    return next(
        (at for at, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right))
    )
