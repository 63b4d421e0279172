"""What a listed command answers that has no function yet."""

from pyetcd.cli.context import Context


def run(context: Context) -> None:
    """Fails, naming the command."""
    raise context.fail(1, f"{context.command.path()} is not implemented by pyetcd yet")
