"""The same mistakes, given to the real etcd: the same exit code and the same text first.

What etcd prints plainly must be equal; what it hides in a JSON log line must stand at the start of
our line, behind which may come what to do.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from pyetcd.server.config import ConfigError, load


class Verdict(Protocol):
    exit_code: int
    text: str


Judge = Callable[..., Verdict]

CLIENT = ["--listen-client-urls", "http://127.0.0.1:1", "--advertise-client-urls", "http://a:1"]

EQUAL = [
    ["--bogus"],
    ["-bogus=1"],
    ["--=x"],
    ["---name", "x"],
    ["--name"],
    ["--max-txn-ops", "08"],
    ["--max-txn-ops", "99999999999999999999"],
    ["--max-txn-ops", "-1"],
    ["--quota-backend-bytes", "9223372036854775808"],
    ["--backend-batch-interval", "5"],
    ["--pre-vote=maybe"],
    ["--pre-vote="],
    ["--initial-cluster-state", "foo"],
    ["--proxy", "foo"],
    ["--v2-deprecation", "foo"],
    ["--cors", "foo"],
    ["--cors="],
    ["--listen-client-urls", "127.0.0.1:2379"],
    ["--listen-client-urls", "localhost:2379"],
    ["--listen-client-urls", "http://127.0.0.1"],
    ["--listen-client-urls", "http://127.0.0.1:2379/"],
    ["--listen-client-urls", "http://127.0.0.1:2379,"],
    ["--listen-client-urls", "http://127.0.0.1:abc"],
    ["--listen-client-urls", "://"],
    ["--listen-client-urls", "http://[::1:2379"],
    ["--listen-client-urls", "http://[::1]2379"],
    ["--listen-client-urls", "http://::1:2379"],
    ["--listen-client-urls", "http://a b:2379"],
    ["--listen-client-urls", "ftp://127.0.0.1:2379"],
    ["--listen-client-urls", "http://%zz:2379"],
    ["--listen-client-urls", "http:127.0.0.1:2379"],
    ["--listen-client-urls", "http://\x01:1"],
    ["--listen-client-urls", "foo"],
    ["--advertise-client-urls", "http://a"],
]

STARTS_ALIKE = [
    ["extra"],
    ["--name", "x", "extra"],
    ["--listen-client-urls", "http://127.0.0.1:1"],
    ["--listen-client-urls", ""],
    ["--listen-client-urls", "http://example.com:1", "--advertise-client-urls", "http://a:1"],
    ["--listen-peer-urls", "http://:1"],
    ["--heartbeat-interval", "0"],
    ["--election-timeout", "0"],
    ["--heartbeat-interval", "300"],
    ["--election-timeout", "60000"],
    ["--initial-advertise-peer-urls", "http://:2380"],
    ["--advertise-client-urls", "http://:2379"],
    ["--initial-cluster", "a=http://a:1", "--discovery", "http://b"],
    ["--auto-compaction-mode", "foo"],
    [*CLIENT, "--listen-peer-urls=http://127.0.0.1:0", "--auto-compaction-retention", "foo"],
    [*CLIENT, "--listen-peer-urls=http://127.0.0.1:0", "--auto-compaction-retention", "1h5"],
    ["--logger", "capnslog"],
    ["--logger", "foo"],
    ["--log-outputs", "default,stderr"],
    ["--enable-log-rotation"],
    ["--config-file", "/nonexist"],
    ["--config-file", "/tmp"],
    ["--listen-client-urls=https://127.0.0.1:0", "--advertise-client-urls=https://a:1",
     "--listen-peer-urls=http://127.0.0.1:0"],
]  # fmt: skip

FILES = [
    "initial-cluster-state: foo",
    "listen-peer-urls: foo",
    "listen-client-urls: http://a",
    "initial-advertise-peer-urls: foo",
    "advertise-client-urls: foo",
    "listen-metrics-urls: foo",
    "heartbeat-interval: 0",
    "logger: foo",
    "discovery: a\ninitial-cluster: b",
    "auto-compaction-mode: foo",
]


def ours(argv: list[str], env: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(argv, env or {})
    return caught.value


@pytest.mark.parametrize("argv", EQUAL, ids=" ".join)
def test_texts_that_go_prints(judge: Judge, argv: list[str]) -> None:
    verdict, error = judge(*argv), ours(argv)
    assert (error.exit_code, error.text) == (verdict.exit_code, verdict.text)
    assert error.usage


@pytest.mark.parametrize("argv", STARTS_ALIKE, ids=" ".join)
def test_texts_that_etcd_logs(judge: Judge, argv: list[str]) -> None:
    verdict, error = judge(*argv), ours(argv)
    assert verdict.text and error.text.startswith(verdict.text)
    assert error.exit_code == verdict.exit_code == 1


@pytest.mark.parametrize("text", FILES)
def test_files(judge: Judge, tmp_path: Path, text: str) -> None:
    path = tmp_path / "conf.yml"
    path.write_text(text + "\n")
    verdict, error = judge("--config-file", str(path)), ours(["--config-file", str(path)])
    assert verdict.text and error.text.startswith(verdict.text)
    assert error.exit_code == verdict.exit_code == 1


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["--name", "a"], {"ETCD_NAME": "b"}),
        (["--name", "a"], {"ETCD_NAME": ""}),
        ([], {"ETCD_MAX_TXN_OPS": "abc"}),
        ([], {"ETCD_MAX_TXN_OPS": "abc", "ETCD_NAME": "x", "ETCD_PRE_VOTE": "maybe"}),
        ([], {"ETCD_LISTEN_CLIENT_URLS": "http://127.0.0.1:1"}),
        ([], {"ETCD_CONFIG_FILE": "/nonexist"}),
    ],
)
def test_environment(judge: Judge, argv: list[str], env: dict[str, str]) -> None:
    verdict, error = judge(*argv, env=env), ours(argv, env)
    assert verdict.text and verdict.text in error.text
    assert error.exit_code == verdict.exit_code == 1


@pytest.mark.parametrize(
    "text", ["default", "default=foo", "default=http://a", "default=http://a:1/"]
)
def test_initial_cluster(judge: Judge, text: str) -> None:
    argv = [*CLIENT, "--listen-peer-urls=http://127.0.0.1:0", "--initial-cluster", text]
    argv[1] = "http://127.0.0.1:0"
    verdict, config = judge(*argv), load(argv, {})
    with pytest.raises(ValueError) as caught:
        config.initial_urls()
    assert verdict.text and str(caught.value).startswith(verdict.text)
    assert verdict.exit_code == 1
