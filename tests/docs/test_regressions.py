"""Every test that docs/regressions.md names is there, and no row is without one."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(
    r"^\| (\d+) \| (.*) \| (.*) \|$", (ROOT / "docs/regressions.md").read_text(), re.M
)
NAMED = [named for *_, tests in ROWS for named in re.findall(r"`([^`]+)`", tests)]


@cache
def defined_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_bug_has_its_row() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 34))
    for number, _, tests in ROWS:
        assert "::" in tests or tests == "with auth", number


@pytest.mark.parametrize("named", NAMED)
def test_it_is_there(named: str) -> None:
    path, _, name = named.partition("::")
    function, _, case = name.partition("[")
    assert function.startswith("test_") and function in defined_in(path)
    if case:  # of the transcripts, which are files
        data = (ROOT / path).with_name("testdata") / f"{case.removesuffix(']')}.txt"
        assert data.is_file()
