"""Salts of passwords drawn from the seed, so that a seed is one run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LETTERS = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@contextmanager
def salted(world: Any) -> Iterator[None]:
    if not world.shape.auth:
        yield
        return
    import bcrypt

    rng, real = world.rng_for("salts"), bcrypt.gensalt

    def gensalt(rounds: int = 12, prefix: bytes = b"2b") -> bytes:
        # The last letter holds two bits of the sixteen bytes.
        salt = "".join(rng.choice(_LETTERS) for _ in range(21)) + rng.choice(".Oeu")
        return b"$%s$%02d$%s" % (prefix, rounds, salt.encode())

    bcrypt.gensalt = gensalt
    try:
        yield
    finally:
        bcrypt.gensalt = real
