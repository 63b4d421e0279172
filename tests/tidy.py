"""House rules as code: pytest runs them; `python tests/tidy.py` prints our row of numbers.

Enforced: imports go one way and in no circle, pure zones import nothing impure, the packages of
pyproject.toml are the folders there are. Printed, not enforced: sizes, comments, types, assertions.
"""

import ast
import graphlib
import io
import statistics
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["proto", "raft", "store", "server", "cli"]  # imports may only look left
IMPURE = {"asyncio", "socket", "ssl", "time", "random", "threading", "logging", "secrets", "uuid"}
PURE = {
    "raft": IMPURE | {"os", "sqlite3", "apsw"},
    "store": IMPURE,
    "server/wire": IMPURE | {"os"},
    "server/replica.py": IMPURE | {"os"},
    "server/peer/codec.py": IMPURE | {"os"},
}
# `pyetcd ctl` must start fast: it may load neither the server's layers nor what they need.
CTL_BANNED = {"raft", "store", "server"}
FILE_LINES, FUNCTION_LINES = 500, 70


def sources(root: Path = ROOT) -> Iterator[tuple[str, str, ast.Module]]:
    for layer in LAYERS:
        for path in sorted((root / layer).rglob("*.py")):
            if not path.stem.endswith("_pb2"):
                text = path.read_text()
                yield path.relative_to(root).as_posix(), text, ast.parse(text)


def module_of(name: str) -> str:
    return "pyetcd." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module if node.level == 0 else "RELATIVE"
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def import_faults(name: str, target: str) -> Iterator[str]:
    layer, (top, *rest) = name.split("/")[0], target.split(".")
    if top in (*LAYERS, "RELATIVE"):
        yield "import as pyetcd.<layer>: anything else can load a second copy"
    if top == "pyetcd" and LAYERS.index(rest[0]) > LAYERS.index(layer):
        yield f"{layer} may not import {rest[0]}"
    if top == "pyetcd" and name.startswith(("cli/ctl", "cli/printers")) and rest[0] in CTL_BANNED:
        yield f"ctl may not import {rest[0]}"
    for zone, banned in PURE.items():
        if name.startswith(zone) and top in banned:
            yield f"{zone} is pure: inject {top}"


def test_imports_go_one_way() -> None:
    files = list(sources())
    known = {module_of(name) for name, _, _ in files}
    graph: dict[str, set[str]] = {}
    faults = []
    for name, _, tree in files:
        needs = graph.setdefault(module_of(name), set())
        for target, line in imports(tree):
            faults += [f"{name}:{line}: {fault}" for fault in import_faults(name, target)]
            needs |= {target, target.rpartition(".")[0]} & known - {module_of(name)}
    assert not faults, "\n".join(faults)
    graphlib.TopologicalSorter(graph).prepare()  # a circle raises CycleError, which names it


def test_packages_are_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        module_of(path.parent.relative_to(ROOT).as_posix() + "/__init__.py")
        for layer in LAYERS
        for path in (ROOT / layer).rglob("__init__.py")
    }
    assert set(listed) == folders


def test_every_module_says_what_it_is() -> None:
    assert not [name for name, text, tree in sources() if text and not ast.get_docstring(tree)]


def functions(tree: ast.AST) -> list[tuple[str, int, bool]]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        (node.name, (node.end_lineno or 0) - node.lineno + 1, node.returns is not None)
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    ]


def report() -> str:
    """Our row of the comparison table: files, lines, sizes, comments, typed, assertions."""
    file_lines, function_lines, comments, lines, asserts, typed = [], [], 0, 0, 0, 0
    for _, text, tree in sources():
        file_lines.append(text.count("\n"))
        found = functions(tree)
        function_lines += [size for _, size, _ in found]
        typed += sum(has_type for _, _, has_type in found)
        asserts += sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
        lines += sum(bool(line.strip()) for line in text.splitlines())
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments += sum(token.type == tokenize.COMMENT for token in tokens)
    sizes, count = sorted(function_lines), len(function_lines)
    cells = (
        f"{len(file_lines)} files",
        f"{sum(file_lines)} lines",
        f"file median {statistics.median(file_lines):.0f} max {max(file_lines)}",
        f"function median {statistics.median(sizes):.0f} p99 {sizes[int(count * 0.99)]}"
        f" max {sizes[-1]}",
        f"comments {comments / lines:.0%}",
        f"typed {typed / count:.0%}",
        f"asserts per function {asserts / count:.2f}",
    )
    return " | ".join(cells)


def large() -> Iterator[str]:
    for name, text, tree in sources():
        if text.count("\n") > FILE_LINES:
            yield f"{name}: {text.count(chr(10))} lines"
        for function, size, _ in functions(tree):
            if size > FUNCTION_LINES:
                yield f"{name}: {function} is {size} lines"


if __name__ == "__main__":
    print(report(), *large(), sep="\n")
    sys.exit(0)
