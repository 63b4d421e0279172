"""Each fact has a test that bears its number: test_fact_07_headers_inside_a_transaction."""

import re
from pathlib import Path

NUMBERS = range(1, 65)
WRITTEN = range(1, 35)  # grows


def test_every_fact_has_a_test() -> None:
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        found |= {int(n) for n in re.findall(r"^def test_fact_(\d\d)_", path.read_text(), re.M)}
    assert found <= set(NUMBERS)
    missing = sorted(set(WRITTEN) - found)
    assert missing == []
