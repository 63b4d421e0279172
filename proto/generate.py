"""Writes the `*_pb2.py` and `*_pb2.pyi` files from the `.proto` files beside it.

Run as `python -m pyetcd.proto.generate`; needs grpcio-tools (in the test extra). The result is
committed; tests/proto/test_generated.py proves that it is current.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# protoc writes modules for the default pool; ours live in one of their own (see pool.py) and are
# built by builder.py.
OWN = (
    (
        "from google.protobuf import descriptor_pool as _descriptor_pool",
        "from pyetcd.proto.pool import POOL as _POOL",
    ),
    ("_descriptor_pool.Default()", "_POOL"),
    (
        "from google.protobuf.internal import builder as _builder",
        "from pyetcd.proto import builder as _builder",
    ),
    ("from google.protobuf import symbol_database as _symbol_database\n", ""),
    ("_sym_db = _symbol_database.Default()\n", ""),
)


def generate() -> dict[str, str]:
    """File name -> content for every generated file."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in" / "pyetcd" / "proto"
        target = Path(folder) / "out"
        source.mkdir(parents=True)
        target.mkdir()
        names = sorted(path.name for path in HERE.glob("*.proto"))
        for name in names:
            shutil.copy(HERE / name, source / name)
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{Path(folder) / 'in'}"]
        command += [f"--python_out={target}", f"--pyi_out={target}"]
        subprocess.run(command + [f"pyetcd/proto/{name}" for name in names], check=True)
        written = sorted((target / "pyetcd" / "proto").iterdir())
        return {path.name: _with_own_pool(path.read_text()) for path in written}


def _with_own_pool(text: str) -> str:
    for theirs, ours in OWN:
        text = text.replace(theirs, ours)
    return text


if __name__ == "__main__":
    for name, content in generate().items():
        (HERE / name).write_text(content)
        print(name)
