"""Certificates made for a test, and members that use them."""

from pathlib import Path

import pytest
from certificates import Authority, Node


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(scope="session")
def authority_type() -> type[Authority]:
    return Authority


@pytest.fixture(scope="session")
def node_type() -> type[Node]:
    return Node
