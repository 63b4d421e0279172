"""Tokens, passwords and who is let in, without a network."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcrypt
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pyetcd.proto import errors
from pyetcd.proto.errors import Code
from pyetcd.proto.raft_internal_pb2 import InternalRaftRequest
from pyetcd.proto.rpc_pb2 import (
    AuthenticateRequest,
    AuthenticateResponse,
    AuthUserAddRequest,
    AuthUserAddResponse,
    PutRequest,
    RangeRequest,
    WatchCreateRequest,
)
from pyetcd.proto.services import METHODS
from pyetcd.server.access import Access
from pyetcd.server.api.auth import LETTERS, AuthApi
from pyetcd.server.api.guard import LeaderGuard
from pyetcd.server.api.kv import KvApi
from pyetcd.server.api.rules import RULES, Rule, rule_of
from pyetcd.server.clock import seeded_rng
from pyetcd.server.early import WAITING_MAX
from pyetcd.server.jwt_tokens import (
    METHODS as JWT_METHODS,
)
from pyetcd.server.jwt_tokens import (
    AuthTokenError,
    JwtTokens,
    token_options,
)
from pyetcd.server.passwords import QUEUE_MAX, Passwords
from pyetcd.store.auth import NOBODY, AuthStore, Who
from pyetcd.store.backend import Backend
from pyetcd.store.lease import Lessor
from pyetcd.store.tokens import SimpleTokens

NOW_S = 1_800_000_000.0
SECRET = b"0123456789abcdef" * 4


class Call:
    """One call of either kind, as far as it is looked at here."""

    def __init__(self, common_name: str = "", **metadata: str) -> None:
        self.common_name = common_name
        self.metadata = metadata
        self.cancelled = False
        self.payload: bytes | None = None
        self.error: tuple[int, str] | None = None

    def reply(self, payload: bytes) -> None:
        assert self.payload is None and self.error is None
        self.payload = payload

    def fail(self, code: int, text: str) -> None:
        assert self.payload is None and self.error is None
        self.error = (code, text)


class World:
    """An auth store with root and ann, and everything that asks it."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.backend = Backend.open(str(path), create=True)
        self.auth = AuthStore(self.backend)
        self.now_s = 0.0
        self.tokens = SimpleTokens(lambda: self.now_s, ttl_s=300.0)
        self.applied_index = 10
        self.loop = asyncio.new_event_loop()
        options = {"jwt": None, "client_cert_auth": False} | options
        self.access = Access(
            self.auth,
            self.tokens,
            Lessor(self.backend, lambda: 0.0),
            applied_index=lambda: self.applied_index,
            loop=self.loop,
            **options,
        )
        for user in ("root", "ann"):
            self.auth.add_user(user, "", _hashed(b"pw"), no_password=False)
        self.auth.grant_role("root", "root")
        self.auth.enable()

    def who(self, **metadata: str) -> Who:
        return self.access.who(Call(**metadata))


def _hashed(password: bytes) -> str:
    return base64.b64encode(bcrypt.hashpw(password, bcrypt.gensalt(4, b"2a"))).decode()


@pytest.fixture
def make_world(tmp_path: Path) -> Any:
    made: list[World] = []

    def make(**options: Any) -> World:
        made.append(World(tmp_path / f"{len(made)}.db", **options))
        return made[-1]

    yield make
    for world in made:
        world.loop.close()
        world.backend.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


# -- rules


def test_every_method_has_a_rule_and_what_has_none_is_roots() -> None:
    assert set(RULES) == set(METHODS)
    assert rule_of("/etcdserverpb.Maintenance/ComesLater") is Rule.ROOT


# -- who


def test_a_name_comes_from_the_token(world: World) -> None:
    world.tokens.assign("letters.7", "ann")
    wanted = Who("ann", world.auth.revision)
    assert world.who(token="letters.7") == wanted
    assert world.who(authorization="letters.7") == wanted
    assert world.who(authorization="Bearer letters.7") == wanted  # 3.5.33
    assert world.who() is NOBODY
    for bad in ("", "letters.8", "letters", "Bearer"):
        with pytest.raises(errors.InvalidAuthToken):
            world.who(token=bad)
    with pytest.raises(errors.InvalidAuthToken):
        world.who(token="bad.1", authorization="letters.7")  # the first one counts


def test_item_51_a_certificate_names_who_brings_no_token(
    make_world: Callable[..., World],
) -> None:
    with_certificates = make_world(client_cert_auth=True)
    call = Call(common_name="ann")
    revision = with_certificates.auth.revision
    assert with_certificates.access.who(call) == Who("ann", revision)
    # A token goes before it, also one that is not good.
    with pytest.raises(errors.InvalidAuthToken):
        with_certificates.access.who(Call(common_name="ann", token="x.1"))
    # CVE-2018-16886: a gateway's certificate is not its client's.
    gateway = Call(common_name="ann", **{"grpcgateway-accept": "*/*"})
    assert with_certificates.access.who(gateway) is NOBODY
    assert with_certificates.access.who(Call(common_name="")) is NOBODY
    assert make_world().access.who(call) is NOBODY


# -- gates


def gated(world: World, path: str, served: list[Any]) -> Callable[[Call, Any], None]:
    def handler(call: Any, request: Any) -> None:
        served.append(request)

    guard = LeaderGuard(lambda: True, monotonic_s=lambda: 0.0, election_timeout_s=1.0)
    return guard.unary(handler, auth=world.auth, gated=world.access.gate(path, handler))


def test_while_auth_is_off_no_token_is_looked_at(world: World) -> None:
    """Item 50: 3.5.1 refuses a bad token also then, 3.5.10 does not."""
    world.auth.disable()
    served: list[Any] = []
    gated(world, "/etcdserverpb.KV/Compact", served)(Call(token="bad.1"), RangeRequest())
    assert len(served) == 1


def test_a_handler_is_not_reached_without_the_right(world: World) -> None:
    served: list[Any] = []
    handler = gated(world, "/etcdserverpb.KV/Compact", served)
    world.tokens.assign("ann.1", "ann")
    world.tokens.assign("root.1", "root")
    refused = []
    for metadata in ({}, {"token": "bad.1"}, {"token": "ann.1"}):
        call = Call(**metadata)
        handler(call, RangeRequest())
        refused.append(call.error)
    assert refused == [
        (error.code, error.text)
        for error in (errors.UserEmpty, errors.InvalidAuthToken, errors.PermissionDenied)
    ]
    assert served == []
    handler(Call(token="root.1"), RangeRequest())
    assert len(served) == 1


def test_a_token_whose_entry_is_not_applied_yet_is_waited_for(world: World) -> None:
    """A client may take its token to a member that is behind."""
    served: list[Any] = []
    handler = gated(world, "/etcdserverpb.Cluster/MemberList", served)
    call = Call(token="early.11")

    async def run() -> None:
        handler(call, RangeRequest())
        await asyncio.sleep(0.03)
        assert served == [] and call.error is None
        world.applied_index = 11
        world.tokens.assign("early.11", "ann")
        await asyncio.sleep(0.03)
        assert len(served) == 1

    world.loop.run_until_complete(run())


def test_who_waits_for_a_token_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyetcd.server.early.WAITING_MAX", 2)
    monkeypatch.setattr("pyetcd.server.early.WAIT_MAX_S", 0.05)
    assert WAITING_MAX == 1000
    served: list[Any] = []
    handler = gated(world, "/etcdserverpb.Cluster/MemberList", served)
    refusal = (Code.UNAUTHENTICATED, "etcdserver: invalid auth token")

    async def run() -> None:
        calls = [Call(token=f"forged.{1 << 60}") for _ in range(3)]
        for call in calls:
            handler(call, RangeRequest())
        assert [call.error is None for call in calls] == [True, True, False]
        calls[0].cancelled = True
        await asyncio.sleep(0.1)
        assert [call.error for call in calls] == [refusal] * 3
        for _ in range(3):  # there is room again, and nothing is kept of those before
            again = Call(token=f"forged.{1 << 60}")
            handler(again, RangeRequest())
            assert again.error is None
            await asyncio.sleep(0.1)
            assert again.error == refusal
        waits = world.access._applied
        assert len(waits) == 0 and len(waits._by_index) <= 5
        assert served == []

    world.loop.run_until_complete(run())


def test_why_a_watch_is_refused(world: World) -> None:
    """3.5.6: each reason with its own text. And CVE-2026-73499: "from key" is not one key."""
    refusal = world.access.refusal_of_watch
    world.tokens.assign("ann.1", "ann")
    request = WatchCreateRequest(key=b"k")
    denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    assert refusal(Call(token="ann.1"), request) == denied
    assert (
        refusal(Call(), request)
        == "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
    )
    assert (
        refusal(Call(token="bad.1"), request)
        == "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    )
    world.auth.add_role("r")
    from pyetcd.proto.auth_pb2 import Permission

    world.auth.grant_permission("r", Permission(permType=Permission.READ, key=b"k"))
    world.auth.grant_role("ann", "r")
    assert refusal(Call(token="ann.1"), request) == ""
    from_key = WatchCreateRequest(key=b"k", range_end=b"\0")
    assert refusal(Call(token="ann.1"), from_key) == denied
    world.auth.disable()
    assert refusal(Call(token="bad.1"), from_key) == ""


def test_who_may_not_write_does_not_raise_the_alarm_of_a_full_store(world: World) -> None:
    """In etcd anybody can, with a put that would not fit."""
    alarms: list[str] = []

    class Full:
        def fits(self, request: InternalRaftRequest) -> bool:
            return False

        def raise_nospace(self, then: Callable[[], None]) -> None:
            alarms.append("NOSPACE")
            then()

    nothing: Any = None
    api = KvApi(
        headers=nothing,
        proposer=nothing,
        reads=nothing,
        store=nothing,
        quota=Full(),
        txn_ops_max=128,
        access=world.access,
    )
    world.tokens.assign("ann.1", "ann")
    world.tokens.assign("root.1", "root")
    said = []
    for metadata in ({}, {"token": "ann.1"}, {"token": "root.1"}):
        call = Call(**metadata)
        api.put(call, PutRequest(key=b"k"))  # type: ignore[arg-type]
        said.append((call.error and call.error[1], len(alarms)))
    assert said == [
        (errors.UserEmpty.text, 0),
        (errors.PermissionDenied.text, 0),
        (errors.NoSpace.text, 1),
    ]


def test_an_answer_made_while_rights_changed_is_not_given(world: World) -> None:
    answers: list[Any] = []
    done = world.access.stable(answers.append)
    done("first")
    world.auth.add_role("new")
    done("second")
    assert answers[0] == "first" and isinstance(answers[1], errors.AuthOldRevision)


# -- passwords


class Jobs:
    """Workers whose jobs run when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []

    def run(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.waiting.append((job, done))

    def step(self) -> None:
        job, done = self.waiting.pop(0)
        done(job())


def test_one_hash_at_a_time_and_a_bounded_queue() -> None:
    jobs = Jobs()
    answers: list[Any] = []
    passwords = Passwords(jobs.run, cost=4)
    for _ in range(QUEUE_MAX + 2):
        passwords.hash("pw", answers.append)
    assert len(jobs.waiting) == 1
    (full,) = answers
    assert isinstance(full, errors.TooManyRequests)
    jobs.step()
    assert len(jobs.waiting) == 1
    assert bcrypt.checkpw(b"pw", base64.b64decode(answers[1]))
    assert base64.b64decode(answers[1]).startswith(b"$2a$04$")


@pytest.mark.parametrize("cost", [0, 3, 32, 1000])
def test_a_cost_that_bcrypt_does_not_know(cost: int) -> None:
    assert Passwords(Jobs().run, cost=cost).cost == 10


def test_passwords_are_compared_as_bcrypt_does() -> None:
    jobs = Jobs()
    passwords = Passwords(jobs.run, cost=4)
    long = "x" * 72
    hashed = bcrypt.hashpw(long.encode(), bcrypt.gensalt(4))

    def verify(password: str, against: bytes | None) -> Any:
        answers: list[Any] = []
        passwords.verify(password, against, answers.append)
        jobs.step()
        return answers[0]

    assert verify(long, hashed) is True
    assert verify(long + "more", hashed) is True  # of a hash that etcd 3.5.1 made
    assert verify("y", hashed) is False
    assert verify("", b"") is False and verify("garbage", b"garbage") is False
    nul = bcrypt.hashpw(b"a\0b", bcrypt.gensalt(4))
    assert verify("a\0b", nul) is True and verify("a", nul) is False
    refused: list[Any] = []
    passwords.hash(long + "x", refused.append)
    assert refused[0].text == "bcrypt: password length exceeds 72 bytes"


def test_an_unknown_user_takes_as_much_work(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real = bcrypt.checkpw

    def checkpw(password: bytes, hashed: bytes) -> bool:
        compared.append(hashed)
        return real(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    jobs = Jobs()
    answers: list[Any] = []
    passwords = Passwords(jobs.run, cost=4)
    for hashed in (None, b"", bcrypt.hashpw(b"other", bcrypt.gensalt(4, b"2a"))):
        passwords.verify("nobody", hashed, answers.append)
        jobs.step()
    assert answers == [False, False, False]
    assert len([h for h in compared if h.startswith(b"$2a$04$")]) == 3


# -- the service


class Api:
    """AuthApi over a world; what is proposed is applied by the test."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.proposed: list[tuple[InternalRaftRequest, Callable[[Any], None]]] = []
        self.jobs = Jobs()

        class Header:
            cluster_id = member_id = raft_term = 1

            def fill(self, header: Any) -> None:
                header.revision = 1

        class Reads:
            def wait(self, done: Callable[[Any], None]) -> None:
                done(None)

        self.api = AuthApi(
            headers=Header(),  # type: ignore[arg-type]
            proposer=self,
            reads=Reads(),  # type: ignore[arg-type]
            access=world.access,
            passwords=Passwords(self.jobs.run, cost=4),
            rng=seeded_rng(1),
        )

    def propose(self, request: InternalRaftRequest, done: Callable[[Any], None]) -> None:
        self.proposed.append((request, done))


def test_no_password_is_proposed(world: World) -> None:
    """CVE-2021-28235: neither in an entry nor left in the request."""
    world.tokens.assign("root.1", "root")
    api = Api(world)
    request = AuthUserAddRequest(name="new", password="s3cret")
    call = Call(token="root.1")
    api.api.user_add(call, request)  # type: ignore[arg-type]
    assert "s3cret" not in str(request) and api.proposed == []
    api.jobs.step()
    ((proposal, done),) = api.proposed
    assert "s3cret" not in str(proposal)
    assert bcrypt.checkpw(b"s3cret", base64.b64decode(proposal.auth_user_add.hashedPassword))
    assert (proposal.header.username, proposal.header.auth_revision) == (
        "root",
        world.auth.revision,
    )
    done(AuthUserAddResponse())
    assert call.payload is not None
    login = AuthenticateRequest(name="ann", password="s3cret")
    api.api.authenticate(Call(), login)  # type: ignore[arg-type]
    assert "s3cret" not in str(login)


def test_a_password_is_compared_again_when_users_have_changed(world: World) -> None:
    api, call = Api(world), Call()
    request = AuthenticateRequest(name="ann", password="pw")
    api.api.authenticate(call, request)  # type: ignore[arg-type]
    api.jobs.step()
    proposal, done = api.proposed.pop()
    letters = proposal.authenticate.simple_token
    assert len(letters) == 16 and set(letters) <= set(LETTERS)
    assert not proposal.header.username and not proposal.authenticate.password
    world.auth.change_password("ann", "", _hashed(b"new"))
    done(AuthenticateResponse(token=f"{letters}.11"))
    assert call.payload is None and call.error is None
    api.jobs.step()  # the old password, against the new hash
    assert call.error == (errors.AuthFailed.code, errors.AuthFailed.text)
    assert api.proposed == []


# -- JWT


def keys(kind: str, folder: Path) -> tuple[str, str]:
    """Paths of a private and a public key file."""
    made: Any
    if kind in ("RS", "PS"):
        made = rsa.generate_private_key(65537, 2048)
    elif kind == "Ed":
        made = ed25519.Ed25519PrivateKey.generate()
    else:
        curves: dict[str, Any] = {
            "ES256": ec.SECP256R1,
            "ES384": ec.SECP384R1,
            "ES512": ec.SECP521R1,
        }
        made = ec.generate_private_key(curves[kind]())
    private = folder / f"{kind}.key"
    private.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public = folder / f"{kind}.pub"
    public.write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return str(private), str(public)


def tokens_of(text: str, wall_s: Callable[[], float] = lambda: NOW_S) -> JwtTokens:
    options = token_options(text)
    assert options is not None
    return JwtTokens(options, wall_s)


@pytest.mark.parametrize("method", sorted(JWT_METHODS))
def test_a_token_of_each_algorithm(method: str, tmp_path: Path) -> None:
    if method.startswith("HS"):
        (tmp_path / "secret").write_bytes(SECRET)
        private = public = str(tmp_path / "secret")
    else:
        kind = method if method.startswith("ES") else method[:2]
        private, public = keys(kind, tmp_path)
    signer = tokens_of(f"jwt,priv-key={private},sign-method={method}")
    token = signer.sign("ann", 7)
    assert signer.who(token) == Who("ann", 7)
    assert json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["alg"] == method
    if not method.startswith("HS"):
        verifier = tokens_of(f"jwt,pub-key={public},sign-method={method},ttl=10m")
        assert verifier.who(token) == Who("ann", 7)
        with pytest.raises(errors.EtcdError, match="verify-only key"):
            verifier.sign("ann", 7)
        both = tokens_of(f"jwt,pub-key={public},priv-key={private},sign-method={method}")
        assert both.who(token) == Who("ann", 7)


def test_a_token_runs_out_and_is_verified_once(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    now_s = [NOW_S]
    tokens = tokens_of(f"jwt,priv-key={tmp_path}/secret,sign-method=HS256,ttl=2m", lambda: now_s[0])
    token = tokens.sign("ann", 7)
    for after_s in (0, 60, 119):
        now_s[0] = NOW_S + after_s
        assert tokens.who(token) == Who("ann", 7)
    now_s[0] = NOW_S + 121
    for _ in range(2):
        with pytest.raises(errors.InvalidAuthToken):
            tokens.who(token)


def test_a_token_does_not_choose_how_it_is_verified(tmp_path: Path) -> None:
    private, public = keys("RS", tmp_path)
    tokens = tokens_of(f"jwt,priv-key={private},sign-method=RS256")
    claims: dict[str, Any] = {"username": "root", "revision": 7, "exp": NOW_S + 60}
    key = Path(private).read_bytes()

    def unsigned(header: dict[str, str]) -> str:
        parts = [json.dumps(part).encode() for part in (header, claims)]
        return ".".join(base64.urlsafe_b64encode(p).decode().rstrip("=") for p in parts) + "."

    assert tokens.who(jwt.encode(claims, key, "RS256")) == Who("root", 7)
    import hashlib
    import hmac

    head = unsigned({"alg": "HS256"}).rstrip(".")
    digest = hmac.new(Path(public).read_bytes(), head.encode(), hashlib.sha256).digest()
    for forged in (
        unsigned({"alg": "none"}),
        f"{head}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}",
        jwt.encode(claims, key, "PS256"),
        jwt.encode({**claims, "username": 7}, key, "RS256"),
        jwt.encode({**claims, "revision": "7"}, key, "RS256"),
        jwt.encode({"username": "root", "revision": 7}, key, "RS256"),  # for ever
        jwt.encode(claims, Path(keys("RS", tmp_path)[0]).read_bytes(), "RS256"),
        "x",
        "",
        "a.b.c",
    ):
        with pytest.raises(errors.InvalidAuthToken):
            tokens.who(forged)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unknown",
        "jwt",
        "jwt,sign-method=RS256",
        "jwt,sign-method=none",
        "jwt,sign-method=XX256,priv-key=K",
        "jwt,sign-method=RS256,priv-key=/nowhere",
        "jwt,sign-method=HS256",
        "jwt,sign-method",
        "jwt,sign-method=HS256=x",
        "jwt,sign-method=HS256,sign-method=HS256,priv-key=K",
        "jwt,sign-method=HS256,priv-key=K,ttl=soon",
        "jwt,sign-method=RS256,priv-key=K",
        "simple,x",
    ],
)
def test_options_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(SECRET)
    with pytest.raises(AuthTokenError, match=r"^auth: "):
        token_options(text.replace("priv-key=K", f"priv-key={tmp_path}/key"))


def test_simple_is_the_default_and_takes_no_options() -> None:
    assert token_options("simple") is None


def test_keys_that_do_not_belong_together(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    private, _ = keys("RS", tmp_path)
    _, public = keys("RS", tmp_path / "other")
    with pytest.raises(AuthTokenError, match="don't match"):
        token_options(f"jwt,pub-key={public},priv-key={private},sign-method=RS256")


def test_a_jwt_of_an_older_revision(make_world: Callable[..., World], tmp_path: Path) -> None:
    """Item 49: Unknown `auth: revision in header is old` in 3.5.1, mapped later; so its client
    knows that it should authenticate again."""
    (tmp_path / "secret").write_bytes(SECRET)
    tokens = tokens_of(f"jwt,priv-key={tmp_path}/secret,sign-method=HS256")
    world = make_world(jwt=tokens)
    call = Call(token=tokens.sign("root", world.auth.revision))
    world.access.permit_range(call, RangeRequest(key=b"k"))
    world.auth.add_role("new")
    with pytest.raises(errors.AuthOldRevision):
        world.access.permit_range(call, RangeRequest(key=b"k"))
