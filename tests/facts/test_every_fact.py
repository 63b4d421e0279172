"""Each fact has a test that bears its number: test_fact_07_headers_inside_a_transaction.

Where pyetcd differs on purpose a test asserts both behaviours and names the row of
docs/differences.md.
"""

import re
from pathlib import Path

NUMBERS = range(1, 65)


def test_every_fact_has_a_test() -> None:
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        found |= {int(n) for n in re.findall(r"^def test_fact_(\d\d)_", path.read_text(), re.M)}
    assert sorted(found) == list(NUMBERS)


def test_the_differences_that_are_named_are_rows() -> None:
    folder = Path(__file__).parent
    rows = (folder.parent.parent / "docs" / "differences.md").read_text()
    named = set()
    for path in folder.glob("test_*.py"):
        text = re.sub(r"\s+", " ", path.read_text())
        named |= set(re.findall(r"\(docs/differences\.md: ([^)]+)\)", text))
    assert len(named) >= 5
    assert {row for row in named if f"| {row} |" not in rows} == set()
