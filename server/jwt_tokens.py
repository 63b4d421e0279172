"""JWT tokens: signed by the member that authenticates, verified by any, stored nowhere.

The claims are etcd's: `username`, `revision` (of the auth store at that time) and `exp`. A token of
an older revision than the store's is refused by the checks that go by keys; its client
authenticates again.

Rules. The algorithm is the one of --auth-token, never what a token says of itself, and never
"none". A token without `exp` is refused. With a public key only, this member verifies and does not
sign.

Bound: CACHE_MAX verified tokens, so that a signature is checked once and not with each request;
then all are forgotten.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pyetcd.proto.errors import Code, InvalidAuthToken, RpcError
from pyetcd.proto.gotext import parse_duration_ns
from pyetcd.store.auth import Who

TTL_S: Final = 300.0
CACHE_MAX: Final = 10_000

_FAMILIES: Final = ("RS", "PS", "ES", "HS")
METHODS: Final = frozenset(
    [family + size for family in _FAMILIES for size in ("256", "384", "512")] + ["EdDSA"]
)
INVALID_OPTIONS: Final = "auth: invalid auth options"


class AuthTokenError(Exception):
    """--auth-token cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class JwtOptions:
    """What --auth-token said, with the contents of its files."""

    method: str
    public_key: bytes
    private_key: bytes
    ttl_s: float


class JwtTokens:
    """Signs and verifies with the keys of the configuration."""

    def __init__(self, options: JwtOptions, wall_s: Callable[[], float]) -> None:
        self._method = options.method
        self._ttl_s = options.ttl_s
        self._wall_s = wall_s
        self._sign_key, self._verify_key = _keys(options)
        self._verified: dict[str, tuple[Who, float]] = {}

    def sign(self, name: str, revision: int) -> str:
        """Raises RpcError when there is only a public key."""
        if self._sign_key is None:
            text = "auth: token signing attempted with verify-only key"
            raise RpcError(Code.UNKNOWN, text)
        import jwt

        claims = {
            "username": name,
            "revision": revision,
            "exp": int(self._wall_s() + self._ttl_s),
        }
        return jwt.encode(claims, self._sign_key, algorithm=self._method)

    def who(self, token: str) -> Who:
        """Raises InvalidAuthToken."""
        found = self._verified.get(token)
        if found is None:
            found = self._verify(token)
            if len(self._verified) >= CACHE_MAX:
                self._verified.clear()
            self._verified[token] = found
        who, expiry_s = found
        if self._wall_s() > expiry_s:
            del self._verified[token]
            raise InvalidAuthToken
        return who

    def _verify(self, token: str) -> tuple[Who, float]:
        import jwt

        try:
            claims = jwt.decode(
                token,
                self._verify_key,
                algorithms=[self._method],
                options={"require": ["exp"], "verify_exp": False},  # by our own clock, above
            )
        except (jwt.PyJWTError, ValueError):
            raise InvalidAuthToken from None
        found: list[Any] = [claims.get(key) for key in ("username", "revision", "exp")]
        name, revision, expiry_s = found
        if not isinstance(name, str) or not _is_number(revision) or not _is_number(expiry_s):
            raise InvalidAuthToken
        return Who(name, int(revision)), float(expiry_s)


def token_options(text: str) -> JwtOptions | None:
    """What --auth-token means: None for simple tokens. Raises AuthTokenError."""
    kind, *pairs = text.split(",")
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or "=" in value or key in options:
            raise AuthTokenError(INVALID_OPTIONS)
        options[key] = value
    if kind == "simple":
        return None
    if kind != "jwt":
        raise AuthTokenError(INVALID_OPTIONS)
    method = options.get("sign-method", "")
    if method not in METHODS:
        raise AuthTokenError(INVALID_OPTIONS)
    ttl_s = TTL_S
    if options.get("ttl"):
        try:
            ttl_s = parse_duration_ns(options["ttl"]) / 1e9
        except ValueError:
            raise AuthTokenError(INVALID_OPTIONS) from None
    made = JwtOptions(method, _read(options, "pub-key"), _read(options, "priv-key"), ttl_s)
    _keys(made)
    return made


def _read(options: dict[str, str], key: str) -> bytes:
    path = options.get(key, "")
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        raise AuthTokenError(INVALID_OPTIONS) from None


def _keys(options: JwtOptions) -> tuple[Any, Any]:
    """(to sign or None, to verify). Raises AuthTokenError."""
    private, public = options.private_key, options.public_key
    if options.method.startswith("HS"):
        if not private:
            raise AuthTokenError("auth: missing key data")
        return private, private
    if not private and not public:
        raise AuthTokenError("auth: missing key data")
    import jwt

    algorithm: Any = jwt.get_algorithm_by_name(options.method)
    try:
        sign_key = algorithm.prepare_key(private) if private else None
        given: Any = algorithm.prepare_key(public) if public else None
    except Exception as error:  # of several libraries: a file that holds no such key
        raise AuthTokenError(f"auth: {error}") from None
    if sign_key is None:
        if hasattr(given, "private_bytes"):
            given = given.public_key()
        return None, given
    if not hasattr(sign_key, "public_key"):
        raise AuthTokenError("auth: priv-key holds no private key")
    verify_key = sign_key.public_key()
    if given is not None and given != verify_key:
        raise AuthTokenError("auth: public and private keys don't match")
    return sign_key, verify_key


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
