"""Flags, environment and file to a Config; what is derived; what is noted for the log."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyetcd.server.config import OPTIONS, Config, ConfigError, EarlyExit, load
from pyetcd.server.config_help import document
from pyetcd.server.config_options import Effect, Kind
from pyetcd.server.config_tables import Options

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> str:
    path = folder / "conf.yml"
    path.write_text(text)
    return str(path)


def from_file(folder: Path, text: str) -> Config:
    return load(["--config-file", write(folder, text)], {})


def refusal(argv: list[str], env: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(argv, env or {})
    assert "\n" not in caught.value.text
    return caught.value


def noted(config: Config, msg: str) -> list[dict[str, object]]:
    return [dict(note.fields) for note in config.notes if note.msg == msg]


def test_defaults() -> None:
    config = load([], {})
    assert config.name == "default"
    assert config.data_dir == "default.etcd"
    assert config.member_dir == "default.etcd/member"
    assert [str(url) for url in config.listen_client_urls] == ["http://localhost:2379"]
    assert config.initial_cluster == "default=http://localhost:2380"
    assert config.quota_bytes == 2 * 1024**3
    assert config.election_ticks == 10
    assert config.request_timeout_s == 7.0
    assert config.watch_progress_interval_s == 600.0
    assert config.compaction_retention == 0
    assert config.pre_vote and config.is_new_cluster


def test_all_flags_of_etcd_are_known() -> None:
    """101 of 3.5.1 and 11 that came later; each has a variable, help and a YAML key or none."""
    assert len(OPTIONS) == 112
    keys = [option.yaml for option in OPTIONS.values() if option.yaml]
    assert len(keys) == len(set(keys))
    assert OPTIONS["max-txn-ops"].env == "ETCD_MAX_TXN_OPS"
    assert all(option.help for option in OPTIONS.values())


def test_forms_of_a_flag() -> None:
    config = load(["-name", "a", "--data-dir=x=y", "-pre-vote=false", "--enable-pprof"], {})
    assert (config.name, config.data_dir, config.pre_vote) == ("a", "x=y", False)
    assert config.enable_pprof
    assert load(["--name=a", "--name=b"], {}).name == "b"
    assert load(["--name", "-x", "--"], {}).name == "-x"
    assert load(["-v", "--force", "--snapshot=3"], {}).name == "default"


def test_help_and_version() -> None:
    for flag in ("-h", "--help"):
        with pytest.raises(EarlyExit) as caught:
            load([flag], {})
        assert caught.value.stderr.startswith("Usage:")
        assert all(f"\n  --{name} " in caught.value.stdout for name in OPTIONS)
    with pytest.raises(EarlyExit) as caught:
        load(["--version"], {})
    labels = [line.partition(": ")[0] for line in caught.value.stdout.splitlines()]
    assert labels == ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]


def test_environment() -> None:
    env = {"ETCD_MAX_TXN_OPS": "5", "ETCD_NAME": "", "ETCD_BOGUS": "secret", "ETCDCTL_API": "3"}
    config = load([], env)
    assert config.max_txn_ops == 5 and config.name == "default"
    assert noted(config, "unrecognized environment variable") == [
        {"environment_variable": "ETCD_NAME"},
        {"environment_variable": "ETCD_BOGUS"},
    ]
    assert refusal([], {"ETCD_MAX_TXN_OPS": "abc"}).text == (
        'invalid value "abc" for ETCD_MAX_TXN_OPS: parse error'
    )


def test_flag_and_variable_conflict() -> None:
    error = refusal(["--name", "a"], {"ETCD_NAME": "b"})
    assert error.exit_code == 1
    assert "ETCD_NAME" in error.text and "shadowed by corresponding command-line flag" in error.text


def test_file_wins_over_everything(tmp_path: Path) -> None:
    path = write(tmp_path, "name: infile\nmax-txn-ops: 7\n")
    for argv, env in (
        (["--config-file", path, "--name=flag"], {"ETCD_NAME": "env"}),
        ([], {"ETCD_CONFIG_FILE": path, "ETCD_MAX_TXN_OPS": "9"}),
    ):
        config = load(argv, env)
        assert (config.name, config.max_txn_ops, config.config_file) == ("infile", 7, path)
        assert config.initial_cluster == "infile=http://localhost:2380"


def test_tutorial_file(tmp_path: Path) -> None:
    config = from_file(
        tmp_path,
        """
name: etcd1
data-dir: ./etcd1/data
listen-client-urls: http://127.0.0.1:12379
advertise-client-urls: http://127.0.0.1:12379
listen-peer-urls: http://127.0.0.1:12380
initial-advertise-peer-urls: http://127.0.0.1:12380
initial-cluster: etcd1=http://127.0.0.1:12380,etcd2=http://127.0.0.1:22380,etcd3=http://127.0.0.1:32380
initial-cluster-token: etcd-cluster-1
initial-cluster-state: new
""",
    )
    assert config.name == "etcd1" and config.data_dir == "./etcd1/data"
    assert [url.port for url in config.listen_client_urls] == ["12379"]
    assert list(config.initial_urls()) == ["etcd1", "etcd2", "etcd3"]
    assert config.initial_cluster_token == "etcd-cluster-1"
    assert not noted(config, "unknown key is ignored")


def test_file_types(tmp_path: Path) -> None:
    config = from_file(
        tmp_path,
        """
grpc-keepalive-min-time: 2000000000
log-outputs: [stderr, stdout]
pre-vote: false
quota-backend-bytes: -1
cors: http://a:80,http://b:80
host-whitelist: a,b
auto-compaction-retention: "1"
wal-dir:
listen-metrics-urls: http://127.0.0.1:1,http://127.0.0.1:2
Max-Txn-Ops: 9
client-transport-security:
  trusted-ca-file: ca.pem
peer-transport-security:
  client-cert-auth: true
""",
    )
    assert config.grpc_keepalive_min_time_s == 2.0
    assert config.log_outputs == ("stderr", "stdout")
    assert not config.pre_vote and config.quota_bytes == config.quota_backend_bytes < 0
    assert config.cors == ("http://a:80", "http://b:80")
    assert config.compaction_retention == 3_600_000_000_000
    assert config.max_txn_ops == 9
    assert config.trusted_ca_file == "ca.pem" and config.peer_client_cert_auth
    assert len(config.listen_metrics_urls) == 2


@pytest.mark.parametrize("text", ["8.589934592e+09", "8589934592.0", "8589934592e0", "0x200000000"])
def test_whole_numbers_of_templates(tmp_path: Path, text: str) -> None:
    config = from_file(tmp_path, f"quota-backend-bytes: {text}\n")
    assert config.quota_backend_bytes == 8589934592


def test_periods_of_a_file_without_a_mode(tmp_path: Path) -> None:
    config = from_file(tmp_path, 'auto-compaction-retention: "1h"\n')
    assert config.compaction_retention == 3_600_000_000_000


def test_empty_file_means_defaults(tmp_path: Path) -> None:
    assert from_file(tmp_path, "").name == "default"
    assert from_file(tmp_path, "# nothing\n").listen_client_urls[0].port == "2379"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max-txn-ops: abc", 'line 1: max-txn-ops must be a whole number, not "abc"'),
        ("max-txn-ops: '5'", 'must be a whole number, not "5"'),
        ("max-txn-ops: 1.5", "must be a whole number, not 1.5"),
        ("max-txn-ops: 1e-2", "must be a whole number, not 0.01"),
        ("max-txn-ops: '1e2'", 'must be a whole number, not "1e2"'),
        ("max-txn-ops: 1e400", "must be a whole number, not inf"),
        ("name: 1e2", "name must be a text"),
        ("max-txn-ops: true", "must be a whole number, not true"),
        ("a: 1\nmax-txn-ops: -1", "line 2: max-txn-ops must be a whole number from 0 to"),
        ("pre-vote: 1", "pre-vote must be true or false, not 1"),
        ("grpc-keepalive-min-time: 5s", "whole number of nanoseconds (5s is 5000000000)"),
        ("log-outputs: stderr", "log-outputs must be a list of texts, such as [stderr]"),
        ("name: 5", 'name must be a text; in quotes it is one: "5", not 5'),
        ("listen-client-urls: [a]", "listen-client-urls must be a text, several values with"),
        ("client-transport-security: x", "client-transport-security must be a map of files"),
        ("proxy: foo", "proxy must be one of off, readonly, on"),
        ("- a", "expected lines of the form `key: value`"),
        ("just words", "expected lines of the form `key: value`"),
        ("a: [", "not YAML: line 1"),
        ("a: b: c", "not YAML: line 1"),
        ("a: *x", "not YAML"),
        ("\tname: x", "not YAML"),
        ("name: \x01", "not YAML"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path, text)
    error = refusal(["--config-file", path])
    assert error.exit_code == 1
    assert error.text.startswith(path) and problem in error.text


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.yml"
    text = refusal(["--config-file", str(missing)]).text
    assert text.startswith(f"open {missing}: no such file or directory")
    assert refusal(["--config-file", str(tmp_path)]).text.startswith(f"read {tmp_path}: is a dir")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(["--config-file", str(binary)]).text


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("listen-clients-urls", "listen-client-urls"),
        ("initial_cluster", "initial-cluster"),
        ("cert-file", "client-transport-security.cert-file"),
        ("zzz", ""),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path: Path, key: str, nearest: str) -> None:
    config = from_file(tmp_path, f"name: a\n{key}: x\n")
    (note,) = noted(config, "unknown key is ignored")
    assert (note["key"], note["nearest"], note["line"]) == (key, nearest, 2)


def test_key_that_only_a_flag_can_set(tmp_path: Path) -> None:
    config = from_file(tmp_path, "socket-reuse-port: true\n")
    assert not config.socket_reuse_port
    assert noted(config, "a key that only a flag can set is ignored")


def test_refusal_mentions_unknown_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "heartbeat-interval: 500\nelection-timout: 5000\n")
    text = refusal(["--config-file", path]).text
    assert text.startswith("--election-timeout[1000ms] should be at least as 5 times")
    assert text.endswith("; unknown keys in the file: election-timout (did you mean "
                         "election-timeout?)")  # fmt: skip


def test_repeated_key(tmp_path: Path) -> None:
    config = from_file(tmp_path, "name: a\nname: b\n")
    assert config.name == "b"
    assert noted(config, "a key appears twice; the last one counts")


def test_name_alone_makes_the_cluster() -> None:
    config = load(
        ["--name=a", "--initial-advertise-peer-urls=http://10.0.0.1:1,http://10.0.0.2:1"], {}
    )
    assert config.initial_cluster == "a=http://10.0.0.1:1,a=http://10.0.0.2:1"
    assert config.data_dir == "a.etcd"


def test_wildcard_listen_advertises_the_host() -> None:
    argv = ["--name=a", "--listen-peer-urls=http://0.0.0.0:77"]
    config = load(argv, {}, default_host=lambda: "10.1.2.3")
    assert [str(url) for url in config.initial_advertise_peer_urls] == ["http://10.1.2.3:77"]
    assert config.initial_cluster == "a=http://10.1.2.3:77"
    assert noted(config, "detected default host for advertise") == [{"host": "10.1.2.3"}]
    config = load(argv, {}, default_host=lambda: "")
    assert [str(url) for url in config.initial_advertise_peer_urls] == ["http://localhost:2380"]


def test_effects_are_noted() -> None:
    config = load(["--max-wals=3", "--pre-vote=false"], {})
    msg = "this option is accepted but has no effect in this version of pyetcd"
    assert noted(config, msg) == []
    later = [option.flag for option in OPTIONS.values() if option.effect is Effect.LATER]
    for flag in later:
        kind = OPTIONS[flag].kind
        value = {Kind.BOOL: "true", Kind.DURATION: "7s", Kind.CHOICES: "gone"}.get(kind, "x")
        assert noted(load([f"--{flag}={value}"], {}), msg) == [{"option": f"--{flag}"}]
    assert noted(config, "this option has no meaning in pyetcd and is ignored") == [
        {"option": "--max-wals"}
    ]


def test_stages_of_the_v2_store() -> None:
    for stage in ("write-only", "write-only-drop-data", "gone"):
        assert load([f"--v2-deprecation={stage}"], {}).v2_deprecation == stage
        text = refusal(["--enable-v2", f"--v2-deprecation={stage}"]).text
        assert text == f"--enable-v2 and --v2-deprecation={stage} are mutually exclusive"
    assert load(["--enable-v2", "--v2-deprecation=not-yet"], {}).enable_v2
    assert "takes one value" in refusal(["--v2-deprecation=not-yet,gone"]).text
    assert "invalid value" in refusal(["--v2-deprecation=write-only-skip-check"]).text
    emulated = "--experimental-enable-v2v3=/x"
    assert load([emulated], {}).experimental_enable_v2v3 == "/x"  # as in etcd, of no effect
    assert "is not supported" in refusal(["--enable-v2", emulated]).text


def test_what_cannot_be_ignored_is_refused() -> None:
    for option in OPTIONS.values():
        if option.effect is Effect.REFUSED:
            value = {"proxy": "on"}.get(option.flag, "http://x:1/y")
            argv = [f"--{option.flag}={value}"]
            assert f"--{option.flag} is not supported by this version" in refusal(argv).text
    tls = ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"]
    assert "TLS key/cert (--cert-file, --key-file) must be provided" in refusal(tls).text
    metrics = ["--listen-metrics-urls=https://127.0.0.1:1"]
    assert "must be provided for metrics secure url" in refusal(metrics).text
    http = ["--listen-client-http-urls=https://127.0.0.1:1"]
    assert "TLS key/cert (--cert-file, --key-file) must be provided" in refusal(http).text


def test_one_address_is_not_for_grpc_and_http() -> None:
    http = ["--listen-client-http-urls=http://localhost:2379"]
    assert refusal(http).text == (
        "cannot bind both --client-listen-urls and --client-listen-http-urls on the same url "
        "http://localhost:2379"
    )
    config = load(["--listen-client-http-urls=http://localhost:2381"], {})
    assert [url.text for url in config.client_urls] == [
        "http://localhost:2379",
        "http://localhost:2381",
    ]


def test_derived_numbers() -> None:
    config = load([], {})
    assert config.streams_max is None and config.compaction_batch_limit is None
    assert (config.batch_interval_s, config.batch_limit) == (0.1, 10_000)
    assert config.compaction_pause_s == 0.01 and config.lease_checkpoint_interval_s == 300.0
    argv = [
        "--max-concurrent-streams=0",
        "--backend-batch-interval=1s",
        "--backend-batch-limit=-5",
        "--experimental-compaction-batch-limit=-1",
        "--experimental-compaction-sleep-interval=1s",
        "--experimental-enable-lease-checkpoint=false",
    ]
    config = load(argv, {})
    assert config.streams_max == 2**32 - 1 and config.compaction_batch_limit == 1
    assert (config.batch_interval_s, config.batch_limit) == (1.0, -5)
    assert config.compaction_pause_s == 1.0 and config.lease_checkpoint_interval_s == 0.0


def test_warnings_about_sizes() -> None:
    config = load(["--quota-backend-bytes=9000000000", "--max-request-bytes=20000000"], {})
    assert noted(config, "quota exceeds the maximum value")
    assert noted(config, "exceeded recommended request limit")


def test_minimum_of_peer_timeouts() -> None:
    config = load(["--raft-read-timeout=1s"], {})
    assert config.raft_read_timeout_s == 5.0
    assert noted(config, "raft-read-timeout increased to minimum value: 5s")


def test_effects_are_true() -> None:
    """An option that claims an effect is read by code beyond its own reading."""
    derived = {
        "config_file": "read_file",
        "version": "version_text",
        "initial_cluster": "initial_urls",
        "initial_cluster_state": "is_new_cluster",
        "quota_backend_bytes": "quota_bytes",
        "metrics": "metrics_extensive",
        "logger": "_check_logging",
        "log_rotation_config_json": "Rotation.parse",
        "experimental_watch_progress_notify_interval_s": "watch_progress_interval_s",
        "experimental_compaction_batch_limit": "compaction_batch_limit",
        "experimental_compaction_sleep_interval_s": "compaction_pause_s",
        "experimental_enable_lease_checkpoint": "lease_checkpoint_interval_s",
        "backend_batch_interval_s": "batch_interval_s",
        "backend_batch_limit": "batch_limit",
        "max_concurrent_streams": "streams_max",
        "wal_dir": "log_dir",
        "experimental_initial_corrupt_check": "is_checked_at_start",
        "experimental_corrupt_check_time_s": "corrupt_check_s",
        "experimental_compact_hash_check_enabled": "compact_hash_check_s",
        "experimental_compact_hash_check_time_s": "compact_hash_check_s",
        "listen_client_http_urls": "client_urls",
        "socket_reuse_address": "SO_REUSEADDR",  # always set
    }
    sources = [
        path.read_text()
        for folder in ("server", "cli")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("config_tables.py", "config_options.py", "config_describe.py")
    ]
    code = "\n".join(sources)
    for field in dataclasses.fields(Options):
        if field.metadata["option"].effect is Effect.NOW:
            word = derived.get(field.name, f"config.{field.name}")
            assert len(re.findall(rf"\b{re.escape(word)}\b", code)) > 0, field.name


def test_document_is_current() -> None:
    """Made by `python -m pyetcd.server.config > docs/configuration.md`."""
    assert (ROOT / "docs" / "configuration.md").read_text() == document(list(OPTIONS.values()))


def test_loading_a_configuration_loads_no_server() -> None:
    """A mistake in a flag is answered fast: no raft, no SQLite, no gRPC."""
    script = (
        "import sys\nfrom pyetcd.server.config import load\nload([], {})\n"
        "assert not {'apsw', 'grpc', 'pyetcd.raft', 'pyetcd.store'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


@pytest.mark.parametrize(
    ("flag", "bytes", "words"),
    [
        (-5, -5, ["disabled backend quota"]),
        (0, 2 * 1024**3, ["enabled backend quota with default value"]),
        (4_000_000, 4_000_000, ["enabled backend quota"]),
        (9 * 10**9, 9 * 10**9, ["quota exceeds the maximum value", "enabled backend quota"]),
        (2**63 - 1, 2**63 - 1, ["quota exceeds the maximum value", "enabled backend quota"]),
    ],
)
def test_quotas(flag: int, bytes: int, words: list[str]) -> None:
    """As real etcd shows them in etcd_server_quota_backend_bytes and in its log."""
    config = load([f"--quota-backend-bytes={flag}"], {})
    assert config.quota_bytes == bytes
    notes = [note for note in config.notes if "quota" in note.msg]
    assert [note.msg for note in notes] == words
    assert all(dict(note.fields)["quota_size_bytes"] == bytes for note in notes)
