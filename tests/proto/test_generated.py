"""The committed protobuf code is what protoc makes of the committed .proto files."""

import re
from pathlib import Path

from pyetcd.proto.generate import HERE, generate

SERIALIZED = re.compile(r"AddSerializedFile\((b'.*')\)")


def test_generated_code_is_current() -> None:
    # Compared by descriptor: the lines around it change with the release of protoc.
    for name, text in generate().items():
        if name.endswith("_pb2.py"):
            committed = (HERE / name).read_text()
            assert SERIALIZED.findall(committed) == SERIALIZED.findall(text), name


def test_every_proto_file_has_its_modules() -> None:
    for path in Path(HERE).glob("*.proto"):
        assert (HERE / f"{path.stem}_pb2.py").exists()
        assert (HERE / f"{path.stem}_pb2.pyi").exists()
