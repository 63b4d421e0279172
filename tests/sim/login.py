"""Who a client says it is, where there are users: the name in a certificate, a token that it has
fetched, or nobody. Operators are root, by their certificate."""

import random
from typing import Any

from sim.auth_model import FAILED, INVALID_TOKEN, NO_PASSWORD, NOT_ENABLED, OLD, USER_EMPTY

USERS = ("ann", "bob", "cyd", "root")


class Login:
    def __init__(self, world: Any, name: str, *, is_operator: bool) -> None:
        self._world = world
        self._rng: random.Random = world.rng_for(f"login {name}")
        self._is_operator = is_operator
        self._old_tokens: list[str] = []
        self._wants_token = False
        self.user = self.token = self.common_name = ""
        if is_operator:
            self.be_root()
        else:
            self._choose()

    def be_root(self) -> None:
        self._is_operator = True
        self._wants_token = False
        self.user, self.token, self.common_name = "root", "", "root"

    def _choose(self) -> None:
        rng = self._rng
        self.user = rng.choice(USERS)
        self.token = self.common_name = ""
        kind = rng.random()
        self._wants_token = kind < 0.5
        if 0.4 < kind < 0.9:  # some have both, and the token counts
            self.common_name = rng.choice(USERS)

    def instead(self, kind: str) -> str:
        """What the client does next."""
        rng = self._rng
        if self._is_operator:
            return kind
        if rng.random() < 0.03:
            self._choose()
        if self._old_tokens and rng.random() < 0.02:  # which may be void
            self.token = rng.choice(self._old_tokens)
        if self._wants_token and rng.random() < 0.8:
            return "authenticate"
        return "may_watch" if rng.random() < 0.05 else kind

    def password(self) -> str:
        """Mostly the last one that was asked for."""
        known = self._world.passwords.get(self.user, [])
        if not known or self._rng.random() < 0.1:
            return "wrong"
        return str(known[-1] if self._rng.random() < 0.7 else self._rng.choice(known))

    def answered(self, op: Any) -> None:
        if self._is_operator:
            return
        if op.kind == "authenticate" and not isinstance(op.answer, tuple):
            self.token, self.user = op.answer.token, op.request.name
            self._old_tokens = [*self._old_tokens[-5:], self.token]
            self._wants_token = False
        elif isinstance(op.answer, tuple):
            text = op.answer[1]
            if text in (INVALID_TOKEN[1], USER_EMPTY[1], OLD[1]) and not self.common_name:
                self._wants_token = True
            if text == INVALID_TOKEN[1] and op.token == self.token:
                self.token = ""
                self._wants_token = self._rng.random() < 0.9
            if text == NOT_ENABLED[1]:
                self._wants_token = False
            if text in (FAILED[1], NO_PASSWORD[1]) and self._rng.random() < 0.5:
                known = sorted(self._world.history.model.auth.now.users)
                self.user = self._rng.choice(known or USERS)
