"""One run of a `ctl` command: its flags, its environment, its streams, its exit code.

Everything outside the process that a command touches is handed in, so that the tests run commands
in process exactly as a shell would. A command ends by returning, or by raising Exit.
"""

import time
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING

from pyetcd.cli import gotext
from pyetcd.cli.command import Command
from pyetcd.cli.flags import FlagSet
from pyetcd.cli.gotext import ParseFailure
from pyetcd.cli.terminal import (
    BAD_ARGS,
    BAD_CONNECTION,
    BAD_FEATURE,
    ERROR,
    Exit,
    Streams,
    Terminal,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pyetcd.cli.client import Client, Settings
    from pyetcd.cli.printers.base import Display

_SHADOWED = (
    "conflicting environment variable is shadowed by corresponding command-line flag"
    " (either unset environment variable or disable flag))"
)


class Context(Terminal):
    """What a command function gets."""

    def __init__(
        self,
        command: Command,
        flags: FlagSet,
        *,
        env: Mapping[str, str],
        streams: Streams,
        argv: list[str],
    ) -> None:
        self.command = command
        self.flags = flags
        self.args = flags.args
        self.env = env
        self.argv = argv  # the raw command line: watch looks for its "--"
        super().__init__(streams)
        self._clients: list[Client] = []
        self._deadline_ns = 0

    def nested(self, command: Command, flags: FlagSet) -> "Context":
        """The same run for a command inside the command: a request of a txn.

        Its stdin is empty: the lines of the txn are not the value of a put.
        """
        streams = Streams(BytesIO(), self._streams.stdout, self._streams.stderr)
        return Context(command, flags, env=self.env, streams=streams, argv=[])

    def arg_or_stdin(self, position: int) -> bytes:
        """An argument, or all of stdin in its place; empty when there is neither."""
        if position < len(self.args):
            return self.arg(position)
        return self.stdin.read()

    def arg(self, position: int) -> bytes:
        """An argument as the bytes that the shell gave."""
        return self.args[position].encode("utf-8", "surrogateescape")

    def start_timeout(self) -> None:
        """Starts the command's time (--command-timeout)."""
        self._deadline_ns = time.monotonic_ns() + self.flags.integer("command-timeout")

    def time_left_s(self) -> float | None:
        """Seconds until the command's time is over; None when it was not started."""
        if not self._deadline_ns:
            return None
        return max(0.0, (self._deadline_ns - time.monotonic_ns()) / 1e9)

    def client(self) -> "Client":
        """A client for all endpoints; reads the environment and checks the flags on the way."""
        settings = self.settings()
        return self.dial(settings.endpoints, settings)

    def settings(self) -> "Settings":
        """What the flags and the environment say, about the output too."""
        settings = self.connection_settings()
        self.check_format()
        return settings

    def connection_settings(self) -> "Settings":
        """What the flags and the environment say about the connection."""
        from pyetcd.cli.client import read_settings

        self.read_environment()
        if self.flags.boolean("debug"):
            for name, flag in self.command.inherited_flags().items():
                if flag.since and name not in self.flags.changed:
                    continue
                self.warn(f"{_variable(name)}={self.flags.shown(name)}")
        found = self._discovered()
        settings = read_settings(self, self.flags)
        if not found:
            return settings
        return settings._replace(endpoints=found)

    def _discovered(self) -> list[str]:
        """The endpoints that DNS names, in the place of --endpoints (--discovery-srv)."""
        domain = self.flags.text("discovery-srv")
        if not domain:
            return []
        from pyetcd.cli import srv

        name = self.flags.text("discovery-srv-name")
        try:
            found = srv.endpoints(domain, name, srv.name_servers())
        except srv.LookupFailure as failure:
            raise self.fail(ERROR, str(failure)) from None
        if not self.flags.boolean("insecure-discovery"):
            for endpoint in found:
                if endpoint.startswith("http://"):
                    quoted = gotext.quote(endpoint.encode())
                    self.warn(f"ignoring discovered insecure endpoint {quoted}")
            found = [endpoint for endpoint in found if not endpoint.startswith("http://")]
        return found

    def dial(self, endpoints: list[str], settings: "Settings") -> "Client":
        """A client for these endpoints. Exits when they, the files or the password do not do."""
        from pyetcd.cli.client import BadSettings, Client, ClientError

        try:
            client = Client(endpoints, settings, warn=self.warn)
        except BadSettings as failure:
            raise self.fail(failure.code, failure.text) from None
        self._clients.append(client)
        try:
            client.authenticate()
        except ClientError as failure:
            raise self.fail(BAD_CONNECTION, failure.text) from None
        return client

    def run_command(self, command: list[str], env: Mapping[bytes, bytes]) -> int:
        """Runs a program to its end on our stdout and stderr; raises OSError. Its exit code, or
        below zero the signal that ended it."""
        import subprocess

        try:
            streams = (self._streams.stdout.fileno(), self._streams.stderr.fileno())
        except OSError:  # no files: a run in process
            done = subprocess.run(
                command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
            self.write(done.stdout)
            self._streams.stderr.write(done.stderr)
            return done.returncode
        out, err = streams
        return subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False
        ).returncode

    def close(self) -> None:
        """Closes what the command opened."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def end_from_thread(self, code: int) -> None:
        """The command's end, found out beside the thread that waits for its input."""
        import os

        self.flush()
        os._exit(code)

    def check_format(self) -> None:
        """Exits when --write-out names no format."""
        known = ("simple", "fields", "json", "protobuf", "table", "yaml")
        if self.flags.text("write-out") not in known:
            raise self.fail(BAD_FEATURE, "unsupported output format")

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads stdout, on a terminal that can do more than a pipe."""
        return (
            super().is_terminal
            and not self.flags.boolean("plain")
            and self.env.get("TERM") != "dumb"
        )

    @property
    def is_for_person(self) -> bool:
        """Whether a person reads stdout, and has asked for no format."""
        return self.is_terminal and "write-out" not in self.flags.changed

    def waiting(self, title: str) -> "AbstractContextManager[object]":
        """What shows a person that something is going on, as long as the block lasts."""
        if not self.is_for_person:
            from contextlib import nullcontext

            return nullcontext()
        from pyetcd.cli.printers.person import waiting

        return waiting(self, self.env, title)

    def display(self) -> "Display":
        """The printer for --write-out."""
        from pyetcd.cli.printers.base import Display

        display = Display(
            self.flags.text("write-out"),
            self,
            hexadecimal=self.flags.boolean("hex"),
        )
        if self.is_for_person:
            display.person = self.env
        return display

    def read_environment(self) -> None:
        """Takes flags from ETCDCTL_ variables; one that a flag also sets ends the command.

        A value that the flag cannot read is ignored, as etcdctl does.
        """
        inherited = self.command.inherited_flags()
        silent = {"ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"}
        used = {name for name in silent if self.command.name == "watch" and self.env.get(name)}
        shadowed = {_variable(name) for name in inherited if name in self.flags.changed}
        for name in inherited:
            variable = _variable(name)
            value = self.env.get(variable, "")
            if variable in shadowed or not value:
                continue
            used.add(variable)
            try:
                self.flags.set(name, value)
            except ParseFailure:
                continue
        for variable, value in self.env.items():
            if variable in used:
                continue
            if variable in shadowed:
                self.warn(_log_line("fatal", "flag.go:85", _SHADOWED, variable))
                raise Exit(ERROR)
            if variable.startswith("ETCDCTL_"):
                message = "unrecognized environment variable"
                self.warn(_log_line("warn", "flag.go:93", message, f"{variable}={value}"))


def _variable(flag: str) -> str:
    return "ETCDCTL_" + flag.upper().replace("-", "_")


def _log_line(level: str, place: str, message: str, variable: str) -> str:
    stamp = repr(time.time_ns() // 1000 / 1e6)
    return (
        f'{{"level":"{level}","ts":{stamp},"caller":"flags/{place}","msg":"{message}",'
        f'"environment-variable":{_json(variable)}}}'
    )


def _json(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def hex_id(context: Context, text: str, label: str, *, signed: bool) -> int:
    """A lease or member id; exits when `text` is none."""
    try:
        return gotext.parse_int(text, 16, signed=signed)
    except ParseFailure as failure:
        raise context.fail(BAD_ARGS, f"{label} ({failure}), expecting ID in Hex") from None
