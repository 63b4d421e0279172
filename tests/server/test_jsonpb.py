"""Messages as JSON, beside protobuf's own converter; what Go would say of bad text."""

import json
import random

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor as F

from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.services import METHODS
from pyetcd.server.http import gojson, jsonpb

KINDS = sorted(
    {kind for method in METHODS.values() for kind in (method.request, method.response)},
    key=lambda kind: kind.DESCRIPTOR.full_name,
)


def scalar(draw, field):
    if field.type == F.TYPE_BYTES:
        return draw.randbytes(draw.randrange(5))
    if field.type == F.TYPE_STRING:
        return "".join(draw.choices('aé<>&"\\\n\u2028\U0001f600', k=draw.randrange(5)))
    if field.type == F.TYPE_BOOL:
        return draw.random() < 0.5
    if field.type == F.TYPE_ENUM:
        return draw.choice([value.number for value in field.enum_type.values])
    low, high = jsonpb._RANGES[field.type][1:]
    return draw.choice([low, high, 0, 1, draw.randint(low, high)])


def fill(draw, message, depth):
    for field in message.DESCRIPTOR.fields:
        if draw.random() < 0.4 or (field.message_type and depth == 0):
            continue
        name = field.name
        if field.is_repeated:
            rows = getattr(message, name)
            for _ in range(draw.randrange(3)):
                if field.message_type:
                    fill(draw, rows.add(), depth - 1)
                else:
                    rows.append(scalar(draw, field))
        elif field.message_type:
            getattr(message, name).SetInParent()
            fill(draw, getattr(message, name), depth - 1)
        else:
            setattr(message, name, scalar(draw, field))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DESCRIPTOR.full_name)
def test_like_protobufs_own(kind):
    draw = random.Random(1)
    for _ in range(30):
        message = kind()
        fill(draw, message, 3)
        text = jsonpb.encode(message)
        theirs = json_format.MessageToDict(message, preserving_proto_field_name=True)
        assert json.loads(text) == theirs
        assert jsonpb.decode(kind, text.encode()) == message
        camel = json_format.MessageToJson(message)
        assert jsonpb.decode(kind, camel.encode()) == message


def test_fields_are_declared_in_the_order_of_their_numbers():
    """As they are written: protobuf lists them by number, etcd writes them as declared."""
    for kind in KINDS:
        numbers = [field.number for field in kind.DESCRIPTOR.fields]
        assert numbers == sorted(numbers), kind.DESCRIPTOR.full_name


def test_python_and_the_words_agree_on_what_is_json():
    draw = random.Random(2)
    alphabet = [
        '"',
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "1",
        "0",
        "-",
        ".",
        "e",
        "true",
        "null",
        " ",
        "a",
        "u00e9",
    ]
    broken = 0
    for _ in range(20_000):
        text = "".join(draw.choices(alphabet, k=draw.randrange(1, 9)))
        try:
            json.loads(text, parse_constant=jsonpb._no_constant)
        except ValueError:
            broken += 1
            assert gojson.why_broken(text.encode(), whole=True), text
        else:
            assert gojson.why_broken(text.encode(), whole=True) == "", text
    assert broken > 1000


def test_what_nests_too_deeply_is_refused():
    for depth in (1_000, 20_000):
        body = b'{"success":[{"request_txn":' * depth + b"{}" + b"}]}" * depth
        with pytest.raises(jsonpb.Refused, match="exceeded max depth"):
            jsonpb.decode(rpc.TxnRequest, body)


def test_an_unknown_enum_is_written_as_its_number():
    assert jsonpb.encode(rpc.AlarmRequest(action=77)) == '{"action":77}'
