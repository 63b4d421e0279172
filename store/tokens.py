"""Simple tokens: random letters that name a user for as long as they are used.

A token is `LETTERS.INDEX`: what the member that was asked drew at random, and the index of the log
entry by which every member learns of it. So a member that has not applied that entry yet knows
from the token itself that it has to wait. Tokens live in memory only, as in etcd: a restart or an
installed snapshot forgets them, and clients authenticate again. They are not signed.

Rules. Each use prolongs a token by its time to live. All of a user's are void once the password
changes or the user is deleted, and everybody's when authentication is switched off.

Bound: TOKENS_MAX, beyond which the one that was not used for the longest time goes.
"""

import re
from collections.abc import Callable
from typing import Final

TOKENS_MAX: Final = 200_000
_FORM: Final = re.compile(r"[^.]*\.([0-9]{1,20})", re.ASCII)


class SimpleTokens:
    """Who holds which token."""

    __slots__ = ("_clock", "_tokens", "_ttl_s")

    def __init__(self, clock: Callable[[], float], *, ttl_s: float) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        # In the order of last use, which is that of expiry.
        self._tokens: dict[str, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def assign(self, token: str, user: str) -> None:
        now_s = self._clock()
        self._tokens[token] = (user, now_s + self._ttl_s)
        for oldest, (_, expiry_s) in list(_first(self._tokens, 2)):
            if expiry_s <= now_s or len(self._tokens) > TOKENS_MAX:
                del self._tokens[oldest]

    def user(self, token: str) -> str | None:
        """Whose token it is; the use prolongs it."""
        found = self._tokens.pop(token, None)
        if found is None:
            return None
        now_s = self._clock()
        if found[1] <= now_s:
            return None
        self._tokens[token] = (found[0], now_s + self._ttl_s)
        return found[0]

    def forget_user(self, user: str) -> None:
        self._tokens = {t: held for t, held in self._tokens.items() if held[0] != user}

    def clear(self) -> None:
        self._tokens.clear()


def index_of(token: str) -> int | None:
    """The log index that a token names; None for what is no simple token."""
    match = _FORM.fullmatch(token)
    if match is None:
        return None
    index = int(match[1])
    return index if index < 1 << 64 else None


def _first(tokens: dict[str, tuple[str, float]], count: int) -> list[tuple[str, tuple[str, float]]]:
    found = []
    for item in tokens.items():
        found.append(item)
        if len(found) == count:
            break
    return found
