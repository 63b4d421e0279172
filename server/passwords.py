"""Password hashes, in a thread and one at a time.

bcrypt takes 50 ms at the default cost on purpose. A queue of its own keeps a flood of logins from
taking every worker thread away from checkpoints and long reads.

Rules. A user that does not exist costs as much as a wrong password, so that time does not tell
names. Of a password only the first 72 bytes count when it is compared (so does bcrypt); a new one
that is longer is refused, as from etcd 3.5.8 on.

Bound: QUEUE_MAX waiting; beyond it "too many requests".
"""

import base64
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pyetcd.proto.errors import Code, EtcdError, RpcError, TooManyRequests

BYTES_MAX: Final = 72
COST_MIN: Final = 4
COST_MAX: Final = 31
COST_DEFAULT: Final = 10
QUEUE_MAX: Final = 1024

# (job, done) -> None, as Workers.run.
Run = Callable[[Callable[[], Any], Callable[[Any], None]], None]


class Passwords:
    """Hashes and compares; answers by callback, in the loop."""

    def __init__(self, run: Run, *, cost: int) -> None:
        self._run = run
        # etcd takes the default for a cost that bcrypt does not know.
        self.cost = cost if COST_MIN <= cost <= COST_MAX else COST_DEFAULT
        self._queue: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self._is_busy = False
        self._dummy = b""

    def hash(self, password: str, done: Callable[[str | EtcdError], None]) -> None:
        """The hash as it stands in a request: bcrypt's text in base64."""
        plain = password.encode()
        if len(plain) > BYTES_MAX:
            return done(RpcError(Code.UNKNOWN, "bcrypt: password length exceeds 72 bytes"))

        def job() -> str:
            return base64.b64encode(self._hash(plain)).decode()

        return self._submit(job, done)

    def verify(
        self, password: str, hashed: bytes | None, done: Callable[[bool | EtcdError], None]
    ) -> None:
        """Whether the hash is that of the password; None is never, and takes as long."""
        plain = password.encode()[:BYTES_MAX]

        def job() -> bool:
            import bcrypt

            if not self._dummy:
                self._dummy = self._hash(b"nobody")
            try:
                found = bcrypt.checkpw(plain, self._dummy if hashed is None else hashed)
            except ValueError:  # no hash at all: an empty password, or one set from outside
                bcrypt.checkpw(plain, self._dummy)
                return False
            return found and hashed is not None

        self._submit(job, done)

    def _hash(self, plain: bytes) -> bytes:
        import bcrypt  # when it is needed: a member without users does not load it

        return bcrypt.hashpw(plain, bcrypt.gensalt(self.cost, b"2a"))

    def _submit(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        if len(self._queue) >= QUEUE_MAX:
            return done(TooManyRequests())
        self._queue.append((job, done))
        return self._next()

    def _next(self) -> None:
        if self._is_busy or not self._queue:
            return
        self._is_busy = True
        job, done = self._queue.popleft()

        def ended(answer: Any) -> None:
            self._is_busy = False
            self._next()
            done(answer)

        self._run(job, ended)
