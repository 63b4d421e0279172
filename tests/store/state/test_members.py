"""Membership: ids, JSON contexts, refusals, persistence (SURFACE 8.7)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyetcd.proto import errors
from pyetcd.raft.types import ConfChange, ConfChangeType
from pyetcd.store.backend import Backend
from pyetcd.store.members import (
    Downgrade,
    Health,
    Member,
    Members,
    check_add,
    check_learner_ready,
    check_promote,
    check_remove,
    cluster_id,
    decide_cluster_version,
    decode_context,
    encode_member,
    encode_promotion,
    initial_members,
    is_valid_version_change,
    member_id,
    parse_version,
)

ADD, REMOVE, UPDATE, LEARNER = (
    ConfChangeType.ADD_NODE,
    ConfChangeType.REMOVE_NODE,
    ConfChangeType.UPDATE_NODE,
    ConfChangeType.ADD_LEARNER_NODE,
)
BIG = (1 << 64) - 5


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    backend = Backend.open(str(tmp_path / "kv.db"), create=True)
    yield backend
    if backend.is_open:
        backend.close()


def add(member: Member) -> ConfChange:
    kind = LEARNER if member.is_learner else ADD
    return ConfChange(kind, member.id, encode_member(member))


def url(n: int) -> str:
    return f"http://10.0.0.{n}:2380"


def test_item_54_ids_of_the_verified_example() -> None:
    id = member_id(["http://127.0.0.1:24032"], "tok")
    assert f"{id:x}" == "1110940bc63c88be"
    assert f"{cluster_id([id]):x}" == "ee6fa18dc3001814"


def test_item_54_order_of_urls_and_ids_does_not_matter() -> None:
    assert member_id(["b", "a"], "t") == member_id(["a", "b"], "t")
    assert cluster_id([3, 1, 2]) == cluster_id([1, 2, 3])


def test_item_54_the_second_of_adding_is_part_of_a_runtime_id() -> None:
    first = member_id([url(1)], "", unix_seconds=1_700_000_000)
    assert first == member_id([url(1)], "", unix_seconds=1_700_000_000)
    assert first != member_id([url(1)], "", unix_seconds=1_700_000_001)
    assert first == member_id([url(1) + "1700000000"], "")


def test_initial_members_are_sorted_and_may_not_coincide() -> None:
    members = initial_members({"a": [url(1)], "b": [url(2)]}, "tok")
    assert [m.id for m in members] == sorted(m.id for m in members)
    assert {m.name for m in members} == {"a", "b"}
    with pytest.raises(ValueError, match="member exists with identical ID"):
        initial_members({"a": [url(1)], "b": [url(1)]}, "tok")


def test_context_is_the_json_that_go_writes() -> None:
    assert encode_member(Member(5, (url(1),))) == b'{"id":5,"peerURLs":["http://10.0.0.1:2380"]}'
    full = Member(BIG, ("http://h/?a=<1>&b",), True, "n", ("http://c:2379",))
    assert encode_member(full) == (
        b'{"id":18446744073709551611,"peerURLs":["http://h/?a=\\u003c1\\u003e\\u0026b"],'
        b'"isLearner":true,"name":"n","clientURLs":["http://c:2379"]}'
    )
    assert encode_promotion(7) == b'{"id":7,"peerURLs":null,"isPromote":true}'
    assert decode_context(encode_member(full)) == (full, False)
    assert decode_context(encode_promotion(7)) == (Member(7), True)


def test_members_persist_with_ids_of_all_64_bits(backend: Backend) -> None:
    members = Members(backend)
    members.set_cluster_id(BIG)
    members.apply_conf_change(add(Member(BIG, (url(1),), name="a")))
    members.apply_conf_change(add(Member(2, (url(2),), is_learner=True)))
    members.set_attributes(2, name="b", client_urls=["http://c:2379"])
    members.apply_conf_change(add(Member(3, (url(3),))))
    members.apply_conf_change(ConfChange(REMOVE, 3))
    members.set_version("3.5.0")
    members.set_downgrade(enabled=True, target_version="3.4.0")
    backend.commit()
    again = Members(backend)
    assert (
        again.all()
        == members.all()
        == [
            Member(2, (url(2),), True, "b", ("http://c:2379",)),
            Member(BIG, (url(1),), False, "a"),
        ]
    )
    assert (again.cluster_id, again.version) == (BIG, "3.5.0")
    assert again.downgrade == Downgrade(True, "3.4.0")
    assert again.is_removed(3) and again.removed_ids() == [3]
    assert len(again) == 2 and [m.id for m in again.voters()] == [BIG]


def test_item_55_a_removed_id_is_never_used_again(backend: Backend) -> None:
    members = Members(backend)
    members.apply_conf_change(add(Member(1, (url(1),))))
    members.apply_conf_change(ConfChange(REMOVE, 1))
    for change in (add(Member(1, (url(9),))), ConfChange(REMOVE, 1), ConfChange(UPDATE, 1)):
        with pytest.raises(errors.MemberNotFound):
            members.apply_conf_change(change)


def test_item_55_refusals_of_adding(backend: Backend) -> None:
    members = Members(backend)
    members.apply_conf_change(add(Member(1, (url(1),))))
    with pytest.raises(errors.MemberExist):
        members.validate(add(Member(1, (url(2),))))
    with pytest.raises(errors.PeerURLExist):
        members.validate(add(Member(2, (url(2), url(1)))))
    members.apply_conf_change(add(Member(3, (url(3),), is_learner=True)))
    with pytest.raises(errors.TooManyLearners):
        members.validate(add(Member(4, (url(4),), is_learner=True)))
    members.validate(add(Member(4, (url(4),))))


def test_item_55_removing_and_updating_need_the_member(backend: Backend) -> None:
    members = Members(backend)
    members.apply_conf_change(add(Member(1, (url(1),))))
    members.apply_conf_change(add(Member(2, (url(2),))))
    for kind in (REMOVE, UPDATE):
        with pytest.raises(errors.MemberNotFound):
            members.validate(ConfChange(kind, 8, encode_member(Member(8, (url(8),)))))
    with pytest.raises(errors.PeerURLExist):
        members.validate(ConfChange(UPDATE, 2, encode_member(Member(2, (url(1),)))))
    members.apply_conf_change(ConfChange(UPDATE, 2, encode_member(Member(2, (url(2), url(5))))))
    member = members.get(2)
    assert member is not None and member.peer_urls == (url(2), url(5))


def test_item_55_promotion(backend: Backend) -> None:
    members = Members(backend)
    members.apply_conf_change(add(Member(1, (url(1),))))
    members.apply_conf_change(add(Member(2, (url(2),), is_learner=True)))
    with pytest.raises(errors.MemberNotFound):
        members.validate(ConfChange(ADD, 3, encode_promotion(3)))
    with pytest.raises(errors.MemberNotLearner):
        members.validate(ConfChange(ADD, 1, encode_promotion(1)))
    members.apply_conf_change(ConfChange(ADD, 2, encode_promotion(2)))
    assert members.get(2) == Member(2, (url(2),))


def test_update_does_not_promote_a_learner(backend: Backend) -> None:
    """etcd PR 21736: the context of an update has no isLearner."""
    members = Members(backend)
    members.apply_conf_change(add(Member(2, (url(2),), is_learner=True)))
    members.apply_conf_change(ConfChange(UPDATE, 2, encode_member(Member(2, (url(3),)))))
    assert members.get(2) == Member(2, (url(3),), is_learner=True)


def test_a_refused_change_changes_nothing(backend: Backend) -> None:
    members = Members(backend)
    members.apply_conf_change(add(Member(1, (url(1),))))
    with pytest.raises(errors.PeerURLExist):
        members.apply_conf_change(add(Member(2, (url(1),))))
    assert [m.id for m in members.all()] == [1]
    assert [m.id for m in Members(backend).all()] == [1]


def test_attributes_of_an_unknown_member_are_passed_over(backend: Backend) -> None:
    members = Members(backend)
    members.set_attributes(9, name="x", client_urls=[])
    assert len(members) == 0


def test_replace_all_forgets_members_and_removed_ids(backend: Backend) -> None:
    members = Members(backend)
    members.apply_conf_change(add(Member(1, (url(1),))))
    members.apply_conf_change(ConfChange(REMOVE, 1))
    members.replace_all([Member(4, (url(4),), name="d")])
    again = Members(backend)
    assert [m.id for m in again.all()] == [4] and not again.is_removed(1)


def test_the_cluster_id_never_changes(backend: Backend) -> None:
    members = Members(backend)
    members.set_cluster_id(5)
    members.set_cluster_id(5)
    with pytest.raises(AssertionError):
        members.set_cluster_id(6)


def voters(*started: bool) -> list[Member]:
    return [Member(i + 1, (url(i + 1),), name="m" if up else "") for i, up in enumerate(started)]


def health(*steady: int, active: frozenset[int] | None = None) -> Health:
    return Health(
        1, active=frozenset(steady) if active is None else active, steady=frozenset(steady)
    )


@pytest.mark.parametrize(
    ("started", "steady", "refusal"),
    [
        ((True,), (), None),  # one member may always grow
        ((True, True), (2,), None),
        ((True, False), (), errors.MemberNotEnoughStarted),
        ((True, True, True), (2, 3), None),
        ((True, True, True), (2,), errors.Unhealthy),  # quorum of 4 is 3
        ((True, True, False), (2, 3), errors.MemberNotEnoughStarted),
        ((True,) * 5, (2, 3, 4), None),  # one of five down: still four of six
        ((True,) * 5, (2, 3), errors.Unhealthy),
    ],
)
def test_item_55_strict_check_of_adding(
    started: tuple[bool, ...], steady: tuple[int, ...], refusal: type[Exception] | None
) -> None:
    def check() -> None:
        check_add(voters(*started), is_learner=False, health=health(*steady))

    if refusal is None:
        check()
    else:
        with pytest.raises(refusal):
            check()


def test_item_55_a_learner_needs_no_started_quorum() -> None:
    check_add(voters(True, False), is_learner=True, health=health(2))


@pytest.mark.parametrize(
    ("started", "id", "steady", "active", "refusal"),
    [
        ((True, True, True), 3, (2, 3), (2, 3), None),
        ((True, True, True), 3, (2,), (2,), None),  # a dead member may go
        ((True, True, True), 2, (2,), (2,), errors.Unhealthy),
        ((True, True, True), 1, (2,), (2,), errors.Unhealthy),
        ((True, True, False), 2, (2,), (2,), errors.MemberNotEnoughStarted),
        ((True, False), 2, (), (), None),
        ((True,), 1, (), (), errors.MemberNotEnoughStarted),
    ],
)
def test_item_55_strict_check_of_removing(
    started: tuple[bool, ...],
    id: int,
    steady: tuple[int, ...],
    active: tuple[int, ...],
    refusal: type[Exception] | None,
) -> None:
    facts = health(*steady, active=frozenset(active))
    if refusal is None:
        check_remove(voters(*started), id, learners=(), health=facts)
    else:
        with pytest.raises(refusal):
            check_remove(voters(*started), id, learners=(), health=facts)


def test_item_55_a_learner_may_always_be_removed() -> None:
    check_remove(voters(True, False, False), 9, learners=(9,), health=health())


def test_item_55_promotion_counts_the_learner_as_started() -> None:
    check_promote(voters(True))
    check_promote(voters(True, True))
    with pytest.raises(errors.MemberNotEnoughStarted):
        check_promote(voters(True, False, False))


def test_item_55_a_learner_is_ready_at_nine_tenths() -> None:
    check_learner_ready(2, {1: 100, 2: 90}, leader_id=1)
    with pytest.raises(errors.LearnerNotReady):
        check_learner_ready(2, {1: 100, 2: 89}, leader_id=1)
    with pytest.raises(errors.MemberNotFound):
        check_learner_ready(3, {1: 100, 2: 100}, leader_id=1)
    with pytest.raises(errors.LearnerNotReady):  # the leader itself was just removed
        check_learner_ready(2, {2: 100}, leader_id=1)


def test_item_58_versions() -> None:
    assert parse_version("3.4") == (3, 4, 0)
    assert parse_version("3.5.12-rc.1+git") == (3, 5, 12)
    for bad in ("", "3", "3.x", "3.5.1.2"):
        with pytest.raises(ValueError, match="version"):
            parse_version(bad)
    assert decide_cluster_version(["3.5.9", "3.4.23", "3.5.1"]) == "3.4.0"
    assert decide_cluster_version(["3.5.9", None]) == ""
    assert decide_cluster_version([]) == ""
    assert is_valid_version_change("3.0.0", "3.5.0")
    assert is_valid_version_change("3.5.0", "3.4.0")
    assert not is_valid_version_change("3.5.0", "3.5.0")
    assert not is_valid_version_change("3.5.0", "3.3.0")
    assert not is_valid_version_change("3.5.0", "4.0.0")


def test_rows_are_readable_json(backend: Backend) -> None:
    members = Members(backend)
    members.apply_conf_change(add(Member(1, (url(1),), name="a")))
    (row,) = backend.query("SELECT data FROM members")
    assert json.loads(row[0])["name"] == "a"  # type: ignore[arg-type]
