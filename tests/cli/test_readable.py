"""-w yaml and --decode: what is in the answers, as a person and a YAML reader see it."""

import base64
import json
import os
import signal
import subprocess
import sys
from io import BytesIO
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pyetcd.cli.ctl.run import execute, run
from pyetcd.cli.printers import json as as_json
from pyetcd.cli.printers import yaml as as_yaml
from pyetcd.cli.printers.base import Display
from pyetcd.cli.printers.decoded import decoded, nested
from pyetcd.cli.printers.values import VALUES, Number
from pyetcd.cli.terminal import Streams, Terminal
from pyetcd.proto import kv_pb2 as kv
from pyetcd.proto import rpc_pb2 as rpc

PAIRS = {
    b"bin\xff": b"\xff\x00",
    b"json": b'{"b": [1, 2.50, "<x>"], "a": null}',
    b"many": b"one\ntwo\n",
    b"number": b"007",
    b"text": "ünï: 'quoted'".encode(),
    b"truth": b"true",
}


@pytest.fixture
def pairs(node):
    assert node("del", "", "--prefix")[2] == 0
    for key, value in PAIRS.items():
        shown = key.decode("utf-8", "surrogateescape")
        assert node("put", "--", shown, stdin=value)[2] == 0
    return node


def as_bytes(value: Any) -> bytes:
    """What a YAML reader makes of !!binary, and text."""
    return value if isinstance(value, bytes) else str(value).encode()


def test_yaml_gives_every_byte_back(pairs):
    found = yaml.safe_load(pairs.said("get", "", "--prefix", "-w", "yaml"))
    assert list(found) == ["header", "kvs", "count"]
    assert {as_bytes(row["key"]): as_bytes(row["value"]) for row in found["kvs"]} == PAIRS
    fields = ["key", "create_revision", "mod_revision", "version", "value"]
    assert all(list(row) == fields for row in found["kvs"])


def test_yaml_is_read_by_people(pairs):
    said = pairs.said("get", "", "--prefix", "-w", "yaml")
    assert said.startswith("---\nheader:\n  cluster_id: ")
    for line in (
        "- key: many",
        "  value: |\n    one\n    two",
        "  value: '007'",
        "  value: 'true'",
    ):
        assert f"\n{line}\n" in said
    assert "- key: !!binary |\n    YmluHg==\n".replace("YmluHg==", "Ymlu/w==") in said
    assert "  value: 'ünï: ''quoted'''\n" in said
    assert (
        pairs.said("get", "json", "-w", "yaml", "--hex").count("key: \\x6a\\x73\\x6f\\x6e\n") == 1
    )


def test_yaml_has_what_json_has(pairs):
    lease = pairs.said("lease", "grant", "100").split()[1]
    pairs.said("put", "leased", "x", f"--lease={lease}")
    undo = {
        "del a --prev-kv": "put a b",
        "user add u:p": "user delete u",
        "role add r": "role delete r",
    }
    for line in (
        "put a b --prev-kv",
        "put a b --prev-kv",
        "del a --prev-kv",
        f"lease timetolive {lease} --keys",
        f"lease keep-alive {lease} --once",
        "lease list",
        "member list",
        "alarm list",
        "user add u:p",
        "user list",
        "role add r",
        "role grant-permission r read k",
        "role get r",
        "role list",
        "auth status",
        "endpoint status",
        "endpoint health",
        "endpoint hashkv",
    ):
        words = line.split()
        said = json.loads(pairs.said(*words, "-w", "json"))
        if line in undo:
            pairs(*undo[line].split())
        documents = list(yaml.safe_load_all(pairs.said(*words, "-w", "yaml")))
        assert len(documents) == 1
        assert shape(said) <= shape(documents[0]), line
    for line in ("role delete r", "user delete u", f"lease revoke {lease}"):
        assert pairs.said(*line.split(), "-w", "yaml").startswith("---\nheader:\n  cluster_id: ")


def shape(value: Any, path: str = "") -> set[str]:
    """The paths of all fields."""
    if isinstance(value, dict):
        return {one for name in value for one in shape(value[name], f"{path}/{name}")}
    if isinstance(value, list):
        return {one for row in value for one in shape(row, f"{path}[]")}
    return {path}


def test_yaml_of_a_transaction(pairs):
    said = pairs.said("txn", "-w", "yaml", stdin=b'val("text") = "x"\n\n\nget json\ndel truth\n\n')
    found = yaml.safe_load(said)
    assert "succeeded" not in found
    [one, two] = found["responses"]
    assert one["Response"]["response_range"]["kvs"][0]["key"] == "json"
    assert two["Response"]["response_delete_range"]["deleted"] == 1


def test_yaml_of_a_snapshot(pairs, tmp_path):
    path = str(tmp_path / "snapshot")
    assert pairs("snapshot", "save", path)[2] == 0
    said = [pairs("snapshot", "status", path, "-w", format)[0] for format in ("json", "yaml")]
    assert yaml.safe_load(said[1]) == json.loads(said[0])
    assert list(json.loads(said[0])) == ["hash", "revision", "totalKey", "totalSize"]


def test_yaml_where_there_is_none(pairs):
    assert run(["get", "x", "-w", "yml"]) == (b"", b"Error: unsupported output format\n", 4)


def test_decode(pairs):
    said = pairs.said("get", "", "--prefix", "--decode")
    assert said.count("\n") == 1
    rows = json.loads(said)["kvs"]
    assert [row.get("value", row.get("value_base64")) for row in rows] == [
        "/wA=",
        {"b": [1, 2.5, "<x>"], "a": None},
        "one\ntwo\n",
        "007",
        "ünï: 'quoted'",
        "true",
    ]
    assert rows[0]["key_base64"] == base64.b64encode(b"bin\xff").decode()
    assert '"value":{"b":[1,2.50,"<x>"],"a":null}' in said
    assert pairs.said("get", "", "--prefix", "--decode", "-w", "json") == said
    shown = yaml.safe_load(pairs.said("get", "json", "--decode", "-w", "yaml"))
    assert shown["kvs"][0]["value"] == {"b": [1, 2.5, "<x>"], "a": None}
    assert pairs.said("get", "", "--prefix", "--decode=false") == pairs.said("get", "", "--prefix")


def test_decode_needs_a_format_that_can(pairs):
    text = b"Error: --decode is only for `--write-out=json` and `--write-out=yaml`\n"
    for format in ("table", "fields", "protobuf"):
        assert pairs("get", "text", "--decode", "-w", format) == (b"", text, 128)
        assert pairs("watch", "text", "--decode", "-w", format) == (b"", text, 128)
    text = b"Error: print-value-only is only for `--write-out=simple`\n"
    assert pairs("get", "text", "--decode", "--print-value-only") == (b"", text, 128)


def test_decode_is_indented_where_a_person_looks(pairs):
    out = BytesIO()
    streams = Streams(BytesIO(), out, BytesIO(), is_terminal=True)
    argv = [f"--endpoints={pairs.endpoint}", "get", "json", "--decode"]
    assert execute(argv, {}, streams) == 0
    assert b'\n      "value": {\n        "b": [\n          1,\n          2.50,' in out.getvalue()
    assert json.loads(out.getvalue()) == json.loads(pairs.said("get", "json", "--decode"))


def test_watch(pairs):
    first = pairs.revision() - len(PAIRS) + 1
    rows = []
    for flags in (("--decode",), ("-w", "yaml"), ("-i", "--decode"), ("-i",)):
        argv = [f"--endpoints={pairs.endpoint}", "watch", *flags]
        stdin = b""
        if "-i" in flags:
            line = f'watch "" --prefix --rev={first}' + (" --decode" if len(flags) == 1 else "")
            stdin = line.encode() + b"\n"
            argv = ["sh", "-c", f"(cat; sleep 30) | exec {sys.executable} -m pyetcd.cli.main ctl"]
            argv[2] += f" --endpoints={pairs.endpoint} watch {' '.join(flags)}"
        else:
            argv = [sys.executable, "-m", "pyetcd.cli.main", "ctl", *argv[:2]]
            argv += ["", "--prefix", f"--rev={first}", *flags]
        rows.append(until_one_answer(argv, stdin))
    decoded_rows = [json.loads(rows[0]), json.loads(rows[2]), json.loads(rows[3])]
    assert decoded_rows[0] == decoded_rows[1] == decoded_rows[2]
    events = decoded_rows[0]["Events"]
    assert [event["type"] for event in events] == ["PUT"] * len(PAIRS)
    assert events[0]["kv"]["value_base64"] == "/wA="
    assert events[1]["kv"]["value"] == {"b": [1, 2.5, "<x>"], "a": None}
    shown = yaml.safe_load(rows[1])
    assert [as_bytes(event["kv"]["value"]) for event in shown["Events"]] == list(PAIRS.values())


def until_one_answer(argv: list[str], stdin: bytes) -> bytes:
    """The output up to the last line of the first answer; then the process is interrupted."""
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, process_group=0) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(stdin)
        process.stdin.close()
        found = b""
        for line in process.stdout:
            found += line
            if line.startswith((b"{", b"Created")):
                break
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
    return found


# -- without a server --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    (
        "7",
        '"text"',
        "null",
        "{",
        "[1,]",
        "[NaN]",
        "[Infinity]",
        '{"a":1,"a":2}',
        '["\\ud800"]',
        "[" * 100_000,
        "{}x",
    ),
)
def test_what_is_no_json_stays_text(text: str):
    assert nested(text) == text


def test_digits_are_kept():
    text = '[1.10,1e400,-0,123456789012345678901234567890,"\\ud83d\\ude00"]'
    value = nested(text)
    assert as_json.readable(value) == text.replace("\\ud83d\\ude00", "😀")
    assert isinstance(value, list) and isinstance(value[0], Number)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.lists(JSON) | st.dictionaries(st.text(), JSON))
def test_nested_json_means_the_same(value: Any):
    text = json.dumps(value)
    assert json.loads(as_json.readable(nested(text))) == value
    assert json.loads(as_json.indented(nested(text))) == value


@settings(max_examples=40)
@given(st.binary(), st.binary())
def test_any_bytes(key: bytes, value: bytes):
    message = rpc.WatchResponse(
        events=[kv.Event(type=kv.Event.DELETE, kv=kv.KeyValue(key=key, value=value))]
    )
    plain = VALUES["watch"](message)
    display = Display("yaml", Terminal(Streams(BytesIO(), BytesIO(), BytesIO())), hexadecimal=False)
    [event] = yaml.safe_load(as_yaml.encode(display, plain))["Events"]
    assert event["type"] == "DELETE"
    assert as_bytes(event["kv"].get("key", "")) == key
    assert as_bytes(event["kv"].get("value", "")) == value
    [event] = json.loads(as_json.readable(decoded(plain)))["Events"]
    shown = event["kv"].get("key", "").encode() or base64.b64decode(
        event["kv"].get("key_base64", "")
    )
    assert shown == key


def test_nothing_is_loaded_that_is_not_needed(node):
    """A plain get loads neither yaml nor rich."""
    script = (
        "import sys\n"
        "from pyetcd.cli.ctl.run import run\n"
        f"assert run(['--endpoints={node.endpoint}', 'get', 'nokey'])[2] == 0\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert not loaded & {"yaml", "rich", "pyetcd.cli.printers.values", "pyetcd.cli.printers.json"}
