"""What a broken promise raises."""


class Violation(AssertionError):
    """A promise was broken; `check` is the name of the check that saw it."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check
