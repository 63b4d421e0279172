"""From flags, environment and file to one frozen Config.

Precedence, as in etcd: with a configuration file (flag or ETCD_CONFIG_FILE) everything else is
ignored; without one a flag wins, then its variable, then the default; a flag and its variable both
set is an error. Mistakes raise ConfigError: one line, and the exit code etcd would have had (2 from
Go's flag package, 1 from everything after it). Nothing is created or opened here but the file.

The table of options is config_tables.py; what is checked is config_checks.py.
"""

import dataclasses
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyetcd.proto.gotext import parse_duration_ns, quote
from pyetcd.server.config_checks import refuse_unsupported, validate
from pyetcd.server.config_file import read_file
from pyetcd.server.config_help import document, help_text, usage_text
from pyetcd.server.config_options import ConfigError, Effect, Kind, Note, Option, env_name
from pyetcd.server.config_tables import IGNORED_FLAGS, Options
from pyetcd.server.config_values import (
    UINT32_MAX,
    Url,
    parse_url,
)
from pyetcd.server.version import version_text

__all__ = ["OPTIONS", "Config", "ConfigError", "EarlyExit", "Note", "Url", "load"]

_FIELDS = {
    f.metadata["option"].flag: f for f in dataclasses.fields(Options) if "option" in f.metadata
}
OPTIONS: Mapping[str, Option] = {flag: f.metadata["option"] for flag, f in _FIELDS.items()}

INITIAL_CLUSTER_DEFAULT = "default=http://localhost:2380"
QUOTA_BYTES_DEFAULT = 2 * 1024**3
QUOTA_BYTES_SOUND = 8 * 1024**3
REQUEST_BYTES_SOUND = 10 * 1024**2
PEER_TIMEOUT_S_MIN = 5.0
LEASE_CHECKPOINT_INTERVAL_S = 300.0  # etcd: defaultLeaseCheckpointInterval
# Members that are never compacted are compared, too. Every member reads all it has for that.
CORRUPT_CHECK_S = 3600.0


class EarlyExit(Exception):
    """--help or --version: print and end with 0."""

    def __init__(self, stdout: str, stderr: str = "") -> None:
        super().__init__(stdout)
        self.stdout = stdout
        self.stderr = stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Options):
    """The options with everything derived from them; `given` names the flags that were set."""

    given: frozenset[str] = frozenset()
    notes: tuple[Note, ...] = field(default=(), compare=False)

    @property
    def member_dir(self) -> str:
        return f"{self.data_dir}/member"

    @property
    def log_dir(self) -> str:
        """The folder that the log has to itself; "" when it lies beside the keyspace."""
        is_own = self.wal_dir and os.path.realpath(self.wal_dir) != os.path.realpath(
            self.member_dir
        )
        return self.wal_dir if is_own else ""

    @property
    def is_new_cluster(self) -> bool:
        return self.initial_cluster_state == "new"

    @property
    def election_ticks(self) -> int:
        """Heartbeat intervals in an election timeout; one tick is one heartbeat interval."""
        return self.election_timeout_ms // self.heartbeat_interval_ms

    @property
    def quota_bytes(self) -> int:
        """Below 0 there is no quota; never 0."""
        return self.quota_backend_bytes or QUOTA_BYTES_DEFAULT

    @property
    def batch_interval_s(self) -> float:
        return self.backend_batch_interval_s or 0.1

    @property
    def batch_limit(self) -> int:
        return self.backend_batch_limit or 10_000

    @property
    def client_urls(self) -> tuple[Url, ...]:
        """Where clients are listened for, whatever they speak."""
        return (*self.listen_client_urls, *self.listen_client_http_urls)

    @property
    def streams_max(self) -> int | None:
        """Of a connection; 0 is read as no limit, and None is for the listener's own."""
        if "max-concurrent-streams" not in self.given:
            return None
        return self.max_concurrent_streams or UINT32_MAX

    @property
    def compaction_batch_limit(self) -> int | None:
        """None: as many as a slice has time for."""
        limit = self.experimental_compaction_batch_limit
        return max(limit, 1) if limit else None

    @property
    def compaction_pause_s(self) -> float:
        return self.experimental_compaction_sleep_interval_s or 0.01

    @property
    def compact_hash_check_s(self) -> float:
        """0 for never; compactions are compared unless that was turned off."""
        off = "experimental-compact-hash-check-enabled" in self.given
        if off and not self.experimental_compact_hash_check_enabled:
            return 0.0
        return self.experimental_compact_hash_check_time_s

    @property
    def is_checked_at_start(self) -> bool:
        """Whether a member compares its data before it serves; it does unless that was turned
        off."""
        off = "experimental-initial-corrupt-check" in self.given
        return not off or self.experimental_initial_corrupt_check

    @property
    def corrupt_check_s(self) -> float:
        """0 for never; now and then unless an interval, or 0, was given."""
        if "experimental-corrupt-check-time" in self.given:
            return self.experimental_corrupt_check_time_s
        return CORRUPT_CHECK_S

    @property
    def lease_checkpoint_interval_s(self) -> float:
        """0 for none; they are on unless they were turned off."""
        off = "experimental-enable-lease-checkpoint" in self.given
        if off and not self.experimental_enable_lease_checkpoint:
            return 0.0
        return LEASE_CHECKPOINT_INTERVAL_S

    @property
    def watch_progress_interval_s(self) -> float:
        """Values below 100 ms are raised to it."""
        return max(self.experimental_watch_progress_notify_interval_s or 600.0, 0.1)

    @property
    def request_timeout_s(self) -> float:
        """How long a proposal may take: disk and two elections."""
        return 5.0 + 2 * self.election_timeout_ms / 1000

    @property
    def compaction_retention(self) -> int:
        """Nanoseconds (periodic) or revisions (revision); 0 keeps everything."""
        return parse_retention(self.auto_compaction_mode, self.auto_compaction_retention)

    @property
    def metrics_extensive(self) -> bool:
        return self.metrics == "extensive"

    def initial_urls(self) -> dict[str, list[str]]:
        """--initial-cluster by name: a name may repeat, empty parts are skipped. Raises ValueError.

        Only a member without data asks, as in etcd: a restart does not look at the flag.
        """
        members: dict[str, list[str]] = {}
        for part in self.initial_cluster.split(","):
            if part:
                name, _, url = part.partition("=")
                try:
                    text = parse_url(url.strip()).text
                except ValueError as error:
                    raise ValueError(
                        f"error setting up initial cluster: {error}; --initial-cluster is "
                        "name=url,name=url"
                    ) from None
                members.setdefault(name, []).append(text)
        return members


def load(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    default_host: Callable[[], str] | None = None,
) -> Config:
    """The one entry. Raises ConfigError, or EarlyExit for --help and --version."""
    found = parse_flags(argv)
    notes: list[Note] = []
    if found.pop("version", False):
        raise EarlyExit(version_text())
    path = str(found.get("config-file") or env.get("ETCD_CONFIG_FILE", ""))
    if path:
        found, notes = read_file(path, list(OPTIONS.values()))
        found = {flag: value for flag, value in found.items() if value is not None}
        notes.append(_note(
            "info",
            "loaded server configuration, other configuration command line flags and environment "
            "variables will be ignored if provided",
            path=path,
        ))  # fmt: skip
    else:
        _add_environment(found, env, notes)
    config = _build(found, path)
    try:
        validate(config)
        refuse_unsupported(config, _changed(config))
    except ConfigError as mistake:
        text = mistake.text + unknown_key_hint(notes)
        raise ConfigError(text, mistake.exit_code, usage=mistake.usage) from None
    config = _derive(config, notes, default_host or _default_host)
    return dataclasses.replace(config, notes=(*notes, *_effect_notes(config)))


def unknown_key_hint(notes: Iterable[Note]) -> str:
    """For the end of a refusal: a misspelt key of the file may well be why. "" without one."""
    hints = []
    for note in notes:
        if "nearest" in note.fields:
            nearest = note.fields["nearest"]
            meant = f" (did you mean {nearest}?)" if nearest else ""
            hints.append(f"{note.fields['key']}{meant}")
    return f"; unknown keys in the file: {', '.join(hints[:5])}" if hints else ""


# ---- flags, as Go's flag package reads them ----


def parse_flags(argv: Sequence[str]) -> dict[str, object]:
    """Values by flag name; the last one counts."""
    found: dict[str, object] = {}
    rest = list(argv)
    while rest and len(rest[0]) >= 2 and rest[0].startswith("-"):
        arg = rest.pop(0)
        if arg == "--":
            break
        name = arg[2:] if arg.startswith("--") else arg[1:]
        if not name or name[0] in "-=":
            raise _flag_error(f"bad flag syntax: {arg}")
        name, equals, value = name.partition("=")
        if name not in OPTIONS and name not in IGNORED_FLAGS:
            if name in ("help", "h"):
                raise EarlyExit(help_text(list(OPTIONS.values())), usage_text())
            raise _flag_error(f"flag provided but not defined: -{name}")
        if name in IGNORED_FLAGS:
            continue
        option = OPTIONS[name]
        if not equals and not option.is_bool:
            if not rest:
                raise _flag_error(f"flag needs an argument: -{name}")
            value = rest.pop(0)
        _set_flag(found, option, value if equals or not option.is_bool else "true")
    if rest:
        raise ConfigError(f"'{rest[0]}' is not a valid flag")
    return found


def _set_flag(found: dict[str, object], option: Option, value: str) -> None:
    try:
        parsed = _parse(option, value)
    except ValueError as error:
        what = "boolean value" if option.is_bool else "value"
        where = "for" if option.is_bool else "for flag"
        text = f"invalid {what} {quote(value)} {where} -{option.flag}: {error}"
        raise _flag_error(text) from None
    if parsed is not None or option.flag not in found:
        found[option.flag] = parsed


def _parse(option: Option, value: str) -> object:
    """None when the flag counts as set but keeps its value: an empty list of URLs."""
    return None if option.kind is Kind.URLS and not value else option.parse(value)


def _flag_error(text: str) -> ConfigError:
    return ConfigError(text, 2, usage=True)


# ---- environment ----


def _add_environment(found: dict[str, object], env: Mapping[str, str], notes: list[Note]) -> None:
    flags = {env_name(flag): flag for flag in (*OPTIONS, *IGNORED_FLAGS)}
    shadowed = {env_name(flag) for flag in found}
    problem = ""
    used = set()
    if env.get("ETCD_VERSION"):
        notes.append(_note("warn", "cannot set special environment variable", key="ETCD_VERSION"))
    for variable in sorted(flags, key=lambda one: flags[one]):
        value = env.get(variable, "")
        if not value or variable in shadowed or variable == "ETCD_VERSION":
            continue
        used.add(variable)
        flag = flags[variable]
        if flag in IGNORED_FLAGS:
            continue
        try:
            found[flag] = _parse(OPTIONS[flag], value)
        except ValueError as error:
            problem = f"invalid value {quote(value)} for {variable}: {error}"
            continue
        notes.append(_note(
            "info", "recognized and used environment variable",
            variable_name=variable, variable_value=value,
        ))  # fmt: skip
    for variable in env:
        if variable in shadowed:
            raise ConfigError(
                f"{variable}: conflicting environment variable is shadowed by corresponding "
                "command-line flag (either unset environment variable or disable flag))"
            )
        if variable.startswith("ETCD_") and variable not in used and variable != "ETCD_VERSION":
            # The value is left out of the log: it may be meant for another program, and secret.
            notes.append(
                _note("warn", "unrecognized environment variable", environment_variable=variable)
            )
    if problem:
        raise ConfigError(problem)


# ---- from values to a Config ----


def _build(found: Mapping[str, object], path: str) -> Config:
    values = {_FIELDS[flag].name: value for flag, value in found.items() if value is not None}
    values["given"] = frozenset(found)
    values["config_file"] = path
    if not path and "listen-client-urls" in found and "advertise-client-urls" not in found:
        values["advertise_client_urls"] = ()  # the default would advertise what is not listened on
    discovery = found.get("discovery") or found.get("discovery-srv")
    discovery = discovery or (not path and found.get("discovery-srv-name"))
    initial = found.get("initial-cluster", INITIAL_CLUSTER_DEFAULT)
    if discovery and (
        initial == INITIAL_CLUSTER_DEFAULT if path else "initial-cluster" not in found
    ):
        values["initial_cluster"] = ""
    return Config(**values)  # type: ignore[arg-type]  # each value was made by its field's parser


def _derive(config: Config, notes: list[Note], default_host: Callable[[], str]) -> Config:
    """What etcd fills in after reading: advertised host, initial cluster, data dir, minima."""
    new: dict[str, object] = {}
    advertise_peer = _advertised(
        config.listen_peer_urls, config.initial_advertise_peer_urls, "2380", default_host
    )
    advertise_client = _advertised(
        config.listen_client_urls, config.advertise_client_urls, "2379", default_host
    )
    used = {*advertise_peer, *advertise_client} - {
        *config.initial_advertise_peer_urls, *config.advertise_client_urls
    }  # fmt: skip
    if used:
        host = next(iter(used)).host
        notes.append(_note("info", "detected default host for advertise", host=host))
        new["initial_advertise_peer_urls"] = advertise_peer
        new["advertise_client_urls"] = advertise_client
    if config.name != "default" and config.initial_cluster == INITIAL_CLUSTER_DEFAULT:
        name = config.name or "default"
        new["initial_cluster"] = ",".join(f"{name}={url}" for url in advertise_peer)
    if not config.data_dir:
        new["data_dir"] = f"{config.name}.etcd"
        notes.append(
            _note("warn", "'data-dir' was empty; using default", data_dir=f"{config.name}.etcd")
        )
    if config.snapshot_count == 0:
        new["snapshot_count"] = 100_000
    for name in ("raft_read_timeout_s", "raft_write_timeout_s"):
        if getattr(config, name) < PEER_TIMEOUT_S_MIN:
            new[name] = PEER_TIMEOUT_S_MIN
            flag = name.removesuffix("_s").replace("_", "-")
            notes.append(_note("info", f"{flag} increased to minimum value: 5s"))
    _add_size_notes(config, notes)
    return dataclasses.replace(config, **new)  # type: ignore[arg-type]


def _add_size_notes(config: Config, notes: list[Note]) -> None:
    quota_bytes = config.quota_bytes
    if quota_bytes > QUOTA_BYTES_SOUND:
        notes.append(_note(
            "warn", "quota exceeds the maximum value",
            quota_size_bytes=quota_bytes, quota_maximum_size_bytes=QUOTA_BYTES_SOUND,
        ))  # fmt: skip
    words = "disabled backend quota" if quota_bytes < 0 else "enabled backend quota"
    if config.quota_backend_bytes == 0:
        words += " with default value"
    notes.append(_note("info", words, quota_size_bytes=quota_bytes))
    if config.max_request_bytes > REQUEST_BYTES_SOUND:
        notes.append(_note(
            "warn", "exceeded recommended request limit",
            max_request_bytes=config.max_request_bytes,
            recommended_request_bytes=REQUEST_BYTES_SOUND,
        ))  # fmt: skip


def _advertised(
    listen: tuple[Url, ...], advertise: tuple[Url, ...], port: str, host: Callable[[], str]
) -> tuple[Url, ...]:
    """Listening on 0.0.0.0 with the default advertise URL: advertise this machine's address."""
    default = f"http://localhost:{port}"
    if [url.text for url in advertise] != [default] or not listen or listen[0].host != "0.0.0.0":
        return advertise
    name = host()
    if not name:
        return advertise
    return (Url(f"http://{name}:{listen[0].port}", "http", name, listen[0].port),)


def _default_host() -> str:
    """The address of the default route, or "". Connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def parse_retention(mode: str, text: str) -> int:
    """--auto-compaction-retention. Raises ValueError with Go's text."""
    text = text or "0"
    if text.isascii() and text.lstrip("+").isdigit():
        number = int(text)
        return number if mode == "revision" else number * 3_600_000_000_000
    return parse_duration_ns(text)


def _changed(config: Config) -> list[Option]:
    """The given options whose value is not the default."""
    return [
        OPTIONS[flag]
        for flag in sorted(config.given)
        if getattr(config, _FIELDS[flag].name) != _FIELDS[flag].default
    ]


def _effect_notes(config: Config) -> list[Note]:
    texts = {
        Effect.LATER: "this option is accepted but has no effect in this version of pyetcd",
        Effect.NONE: "this option has no meaning in pyetcd and is ignored",
    }
    return [
        _note("warn" if option.effect is Effect.LATER else "info", texts[option.effect],
              option=f"--{option.flag}")
        for option in _changed(config)
        if option.effect in texts
    ]  # fmt: skip


def _note(level: str, msg: str, **fields: object) -> Note:
    return Note(level, msg, fields)


if __name__ == "__main__":
    print(document(list(OPTIONS.values())), end="")
