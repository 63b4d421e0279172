"""Data directories of every format there has ever been open in this version.

They are real members' (tests/fixtures/make_data.py); a copy is opened, upgraded if its schema is
an older one, and everything a client once saw is found again.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyetcd.proto.kv_pb2 import KeyValue
from pyetcd.proto.rpc_pb2 import RangeRequest
from pyetcd.server import datadir
from pyetcd.store import backend, db, logrows
from pyetcd.store.alarms import Alarms
from pyetcd.store.compact import hash_kv
from pyetcd.store.lease import Lessor
from pyetcd.store.lockfile import LockFile
from pyetcd.store.members import Members
from pyetcd.store.mvcc import Keyspace
from pyetcd.store.txn import apply_range

DATA = Path(__file__).resolve().parent.parent / "fixtures" / "data"
NAMES = ("fresh", "cluster", "killed")
FORMATS = sorted(path.name for path in DATA.iterdir())
CASES = [(format, name) for format in FORMATS for name in NAMES]


def facts_of(format: str, name: str) -> dict[str, Any]:
    facts = json.loads((DATA / format / "facts.json").read_text())
    found: dict[str, Any] = facts["directories"][name]
    return found


def unpack(format: str, name: str, folder: Path) -> Path:
    with tarfile.open(DATA / format / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    (folder / "member").chmod(0o700)
    return folder


@pytest.fixture(params=CASES, ids="/".join)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    format, name = request.param
    folder = unpack(format, name, tmp_path)
    data = datadir.reopen(str(folder), lock=LockFile.claim(str(folder / "member")))
    yield facts_of(format, name), data
    data.abandon()


def row_of(kv: KeyValue) -> list[Any]:
    numbers = (kv.create_revision, kv.mod_revision, kv.version, kv.lease)
    return [kv.key.hex(), kv.value.hex(), *numbers]


def test_all_that_a_client_saw_is_there(case: tuple[dict[str, Any], Any]) -> None:
    facts, data = case
    assert (data.wal.cluster_id, data.wal.member_id) == (facts["cluster_id"], facts["member_id"])
    keyspace = Keyspace(data.backend)
    assert keyspace.revision == facts["revision"]
    assert keyspace.compact_revision == facts["compact_revision"]
    hashed = hash_kv(keyspace, facts["revision"])
    assert hashed.hash == facts["hash"]
    lessor = Lessor(data.backend, lambda: 0.0)
    everything = RangeRequest(key=b"\0", range_end=b"\0")
    assert [row_of(kv) for kv in apply_range(keyspace, everything).kvs] == facts["keys"]
    assert sorted(lessor.ids()) == facts["leases"]
    for lease in facts["leases"]:
        assert lessor.keys(lease) == [b"leased/%x" % lease]
    members = [
        [each.id, each.name, list(each.peer_urls), list(each.client_urls), each.is_learner]
        for each in Members(data.backend).all()
    ]
    assert members == facts["members"]
    alarms = [[each.memberID, each.alarm] for each in Alarms(data.backend).get()]
    assert alarms == facts["alarms"]


def test_the_fixtures_hold_something() -> None:
    for format in FORMATS:
        cluster, killed = (facts_of(format, name) for name in ("cluster", "killed"))
        assert len(cluster["members"]) == 4 and any(each[4] for each in cluster["members"])
        assert cluster["alarms"]
        for facts in (cluster, killed):
            assert len(facts["keys"]) > 20 and len(facts["leases"]) == 2
            assert facts["compact_revision"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_member_left_its_side_files(name: str, tmp_path: Path) -> None:
    for format in FORMATS:
        member = unpack(format, name, tmp_path / format) / "member"
        sizes = [path.stat().st_size for path in member.glob("*-wal")]
        assert any(sizes) == (name == "killed")


def test_the_current_format_has_fixtures_and_each_older_one_a_way_here() -> None:
    log, keyspace = logrows.SCHEMA, backend.SCHEMA
    assert f"wal{log.version}-kv{keyspace.version}" in FORMATS, (
        "a schema was raised: run python tests/fixtures/make_data.py and commit what it makes"
    )
    for format in FORMATS:
        old_log, old_keyspace = (int(part.lstrip("walkv")) for part in format.split("-"))
        assert log.version_min <= old_log <= log.version, "Schema.upgrades lacks a step"
        assert keyspace.version_min <= old_keyspace <= keyspace.version, "... lacks a step"


# Of the text that makes the tables; the version is raised with it, and never without fixtures.
TABLES = {
    ("wal", 1): "166ebe6f9b75bd08",
    ("kv", 1): "14723194e1e43530",
    ("kv", 2): "51a0fae38dde7b77",
    ("kv", 3): "49153910e38e790e",
}


@pytest.mark.parametrize(
    ("name", "schema"), [("wal", logrows.SCHEMA), ("kv", backend.SCHEMA)], ids=("wal", "kv")
)
def test_tables_do_not_change_without_a_new_version(name: str, schema: db.Schema) -> None:
    found = hashlib.sha256(" ".join(schema.sql.split()).encode()).hexdigest()[:16]
    assert TABLES.get((name, schema.version)) == found, "raise the schema's version, not this"


def test_newer_files_are_refused_and_stay(tmp_path: Path) -> None:
    folder = unpack(FORMATS[-1], "fresh", tmp_path)
    for name, schema in (("wal.db", logrows.SCHEMA), ("kv.db", backend.SCHEMA)):
        path = folder / "member" / name
        content = bytearray(path.read_bytes())
        content[60:64] = (schema.version + 1).to_bytes(4, "big")
        path.write_bytes(content)
        with pytest.raises(db.ForeignFile, match="newer pyetcd") as caught:
            db.preflight(str(path), schema)
        assert "install that version" in str(caught.value) and "\n" not in str(caught.value)
        assert path.read_bytes() == content
