"""The generated modules hold what protobuf's own builder gives them, with any implementation."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf.internal import builder

from pyetcd.proto import kv_pb2, raft_pb2, rpc_pb2, services


@pytest.mark.parametrize("module", [kv_pb2, raft_pb2, rpc_pb2])
def test_the_same_names(module: Any) -> None:
    expected: dict[str, Any] = {}
    builder.BuildMessageAndEnumDescriptors(module.DESCRIPTOR, expected)
    builder.BuildTopDescriptorsAndMessages(module.DESCRIPTOR, module.__name__, expected)
    for name, value in expected.items():
        ours = getattr(module, name)
        assert type(ours) is type(value), name
        if isinstance(value, type):
            assert ours.DESCRIPTOR is value.DESCRIPTOR
            assert (ours.__module__, ours.__qualname__) == (value.__module__, value.__qualname__)
            nested = {key for key in vars(value) if not key.startswith("__")}
            assert nested <= set(vars(ours)), name
        elif isinstance(value, int):
            assert ours == value


def test_the_pure_python_implementation() -> None:
    code = (
        "from pyetcd.proto import rpc_pb2 as rpc, services\n"
        "import json\n"
        "compare = rpc.Compare(result=rpc.Compare.CompareResult.Value('LESS'), key=b'k')\n"
        "print(json.dumps([compare.SerializeToString().hex(), len(services.METHODS)]))\n"
    )
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    compare = rpc_pb2.Compare(result=rpc_pb2.Compare.CompareResult.Value("LESS"), key=b"k")
    assert json.loads(done.stdout) == [compare.SerializeToString().hex(), len(services.METHODS)]
