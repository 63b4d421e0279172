"""`pyetcd server [flags]`: read the configuration, start the log, run the member.

Rules. Whatever goes wrong, the user sees one plain line on standard error and an exit code, never a
traceback: 2 for a mistake in a flag's form (Go's flag package), 1 for everything else. Log lines
are held back until the member has started, so that this line stands alone. A member that was
stopped by a signal ends by that same signal (143 for SIGTERM, 130 for SIGINT in a shell), after
it has closed everything.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from pyetcd.cli.standard import ignore_signals
from pyetcd.server import logs
from pyetcd.server.config import Config, ConfigError, EarlyExit, load, unknown_key_hint
from pyetcd.server.config_describe import describe
from pyetcd.server.config_help import usage_text
from pyetcd.server.log_files import Rotation
from pyetcd.server.startup import StartupRefused, check_data_dir, check_wal_dir
from pyetcd.server.version import SERVER_VERSION, pyetcd_version

Runner = Callable[[Config], int]


def main(argv: Sequence[str]) -> int:
    """The exit code; does not return when a signal ended the member."""
    ignore_signals()
    status = _serve(argv, _run_member)
    if status > 128:
        _die_by(status - 128)
    return status


def _serve(argv: Sequence[str], run: Runner) -> int:
    try:
        config = load(argv, os.environ)
        check_data_dir(config.data_dir)
        if config.log_dir:
            check_wal_dir(config.log_dir)
        _start_log(config)
    except EarlyExit as shown:
        _print(shown.stderr)
        _print(shown.stdout, sys.stdout)
        return 0
    except ConfigError as mistake:
        _print(mistake.text + "\n" + (usage_text() if mistake.usage else ""))
        return mistake.exit_code
    except StartupRefused as refused:
        return _refuse(refused.text)
    except Exception as error:
        return _internal(error)
    try:
        return run(config)
    except StartupRefused as refused:
        return _refuse(refused.text + unknown_key_hint(config.notes))
    except KeyboardInterrupt:  # when the member has given its handler back
        return 128 + signal.SIGINT
    except Exception as error:
        return _internal(error)
    finally:
        logs.close()


def _start_log(config: Config) -> None:
    rotation = None
    if config.enable_log_rotation:
        rotation = Rotation.parse(config.log_rotation_config_json)
    try:
        level = config.log_level.lower() or "info"
        outputs = config.log_outputs or ("default",)
        logs.configure(level, outputs, rotation, held=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StartupRefused(f"open {error.filename}: {reason}; correct --log-outputs") from None
    logs.install_bridges()
    log = logs.get(__name__)
    log.info("Running: ", args=sys.argv)
    for note in config.notes:
        write = {"debug": log.debug, "info": log.info, "warn": log.warn}[note.level]
        write(note.msg, **note.fields)
    log.info(
        "starting an etcd server",
        etcd_version=SERVER_VERSION,
        pyetcd_version=pyetcd_version(),
        **describe(config),
    )


def _run_member(config: Config) -> int:
    # Imported late: a mistake in a flag is answered without loading the server.
    from pyetcd.cli import rejoin
    from pyetcd.server.member import run
    from pyetcd.store import failpoints
    from pyetcd.store.db import ForeignFile, StorageFailure

    if armed := os.environ.get("PYETCD_FAILPOINTS"):  # for tests only, see there
        try:
            failpoints.arm(armed, sleep=time.sleep)
        except ValueError as error:
            raise StartupRefused(f"PYETCD_FAILPOINTS: {error}") from error
        logs.get(__name__).warn("failpoints are armed: for tests only", failpoints=armed)
    try:
        return rejoin.serve(config, run)
    except (ForeignFile, StorageFailure) as error:
        raise StartupRefused(str(error)) from error


def _refuse(text: str) -> int:
    logs.close(drop_held=True)
    _print(" ".join(text.split("\n")) + "\n")
    return 1


def _internal(error: Exception) -> int:
    """A bug of ours: the details go to the log, the user gets one line."""
    name = type(error).__name__
    logs.get(__name__).fatal("internal error", error=f"{name}: {error}", trace=_trace(error))
    logs.close()
    first = str(error).split("\n", maxsplit=1)[0]
    _print(f"pyetcd: internal error: {name}: {first}; please report it with the log\n")
    return 1


def _trace(error: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _print(text: str, stream: TextIO | None = None) -> None:
    try:
        stream = stream or sys.stderr
        stream.write(text)
        stream.flush()
    except (OSError, ValueError, AttributeError):
        pass  # closed, or a reader that went away: the exit code still tells


def _die_by(number: int) -> None:
    """End by the signal itself, so that a shell or a supervisor sees what happened."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
