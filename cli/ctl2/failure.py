"""Why a request has no answer, and when a command's time is over."""

import time
from typing import Final

_FOREVER_S: Final = 1e8  # what waits for longer is not told apart


class Failure(Exception):
    """No answer. `connection` when nobody was reached, as etcdctl counts it."""

    def __init__(self, text: str, *, connection: bool = False) -> None:
        super().__init__(text)
        self.connection = connection


class DeadlineExceeded(Failure):
    """The command's time is over."""

    def __init__(self) -> None:
        super().__init__("context deadline exceeded", connection=True)


class Deadline:
    """When a command's time is over; None for never."""

    def __init__(self, timeout_s: float | None) -> None:
        self._end_s = None
        if timeout_s is not None:
            self._end_s = time.monotonic() + min(timeout_s, _FOREVER_S)

    def left_s(self) -> float | None:
        """Seconds that are left, not below 0; None for no limit."""
        return None if self._end_s is None else max(0.0, self._end_s - time.monotonic())


NEVER: Final = Deadline(None)
