"""The modules that the raft tests share: cluster.py and transcript.py, as fixtures."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    """By path: the tests are no package, and nothing here should be importable by accident."""
    full = f"raft_tests_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[full] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture(scope="session")
def sim() -> ModuleType:
    return _load("cluster")


@pytest.fixture(scope="session")
def transcript() -> ModuleType:
    return _load("transcript")
