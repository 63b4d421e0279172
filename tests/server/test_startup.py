"""A start is refused in one line, and nothing is created or changed."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pyetcd.server.config import Config, load
from pyetcd.server.config_values import parse_url
from pyetcd.server.startup import (
    StartupRefused,
    bind,
    bind_all,
    bind_member,
    check_data_dir,
    notify_ready,
)


def tree(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mode) for path in folder.rglob("*"))


def refusal(do: Callable[[], object]) -> str:
    with pytest.raises(StartupRefused) as caught:
        do()
    assert "\n" not in caught.value.text
    return caught.value.text


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """os.access as somebody who is not root: by the owner's bits of the mode."""

    def access(path: str, mode: int) -> bool:
        bits = stat.S_IMODE(os.stat(path).st_mode) >> 6
        return bits & mode == mode

    monkeypatch.setattr(os, "access", access)


def test_good_places(tmp_path: Path) -> None:
    check_data_dir(str(tmp_path))
    check_data_dir(str(tmp_path / "a" / "b" / "c"))
    (tmp_path / "member").mkdir()
    check_data_dir(str(tmp_path))
    assert tree(tmp_path) == [(str(tmp_path / "member"), (tmp_path / "member").stat().st_mode)]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    before = tree(tmp_path)
    assert "not a directory" in refusal(lambda: check_data_dir(str(tmp_path / "file")))
    assert "not a directory" in refusal(lambda: check_data_dir(str(tmp_path / "file" / "x")))
    (tmp_path / "member").write_text("x")
    assert "not a directory" in refusal(lambda: check_data_dir(str(tmp_path)))
    (tmp_path / "member").unlink()
    assert tree(tmp_path) == before


def test_no_permission(tmp_path: Path, nobody: None) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert "permission denied" in refusal(lambda: check_data_dir(str(closed)))
    text = refusal(lambda: check_data_dir(str(closed / "new")))
    assert text.startswith(f"mkdir {closed / 'new'}: permission denied")
    member = tmp_path / "open" / "member"
    member.mkdir(parents=True)
    member.chmod(0o500)
    assert "permission denied" in refusal(lambda: check_data_dir(str(tmp_path / "open")))


def test_two_kinds_of_data(tmp_path: Path) -> None:
    (tmp_path / "member").mkdir()
    (tmp_path / "proxy").mkdir()
    text = refusal(lambda: check_data_dir(str(tmp_path)))
    assert "invalid datadir; both member and proxy directories exist" in text


def test_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none")
    assert "a link to nothing" in refusal(lambda: check_data_dir(str(tmp_path / "link")))


def test_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        urls = [parse_url("http://127.0.0.1:0"), parse_url(f"http://127.0.0.1:{port}")]
        text = refusal(lambda: bind_all("listen-client-urls", urls))
    assert text.startswith(f"listen tcp 127.0.0.1:{port}: bind: address already in use")
    assert "--listen-client-urls" in text


def test_address_of_another_machine() -> None:
    url = parse_url("http://192.0.2.1:2379")
    text = refusal(lambda: bind("listen-peer-urls", url, reuse_port=False, reuse_address=False))
    assert text.startswith("listen tcp 192.0.2.1:2379: bind: cannot assign requested address")


def test_localhost_and_wildcard() -> None:
    urls = [parse_url("http://localhost:0"), parse_url("http://0.0.0.0:0")]
    bound = bind_all("listen-client-urls", urls)
    try:
        assert bound[0].socket.getsockname()[0] == "127.0.0.1"
        port = bound[1].socket.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
    finally:
        for one in bound:
            one.socket.close()


def test_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = parse_url("unix://localhost:77")
    for _ in range(2):  # the second time over what the first left behind
        bind("listen-client-urls", url, reuse_port=False, reuse_address=False).close()
    assert (tmp_path / "localhost:77").is_socket()
    (tmp_path / "localhost:77").unlink()
    (tmp_path / "localhost:77").write_text("a file of the user")
    text = refusal(lambda: bind("x", url, reuse_port=False, reuse_address=False))
    assert text.startswith("listen unix localhost:77: bind: address already in use")


def test_a_refused_start_leaves_no_unix_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    urls = [parse_url(f"unix://localhost:{number}") for number in (77, 78)]
    (tmp_path / "localhost:78").write_text("a file of the user")
    assert "address already in use" in refusal(lambda: bind_all("listen-client-urls", urls))
    assert os.listdir(tmp_path) == ["localhost:78"]


def test_client_urls_given_twice(free_ports: Callable[[int], list[int]]) -> None:
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))

    def config(*clients: str) -> Config:
        argv = [f"--listen-client-urls={','.join(clients)}", f"--advertise-client-urls={client}"]
        return load([*argv, f"--listen-peer-urls={peer}", "--auto-tls"], {})

    sockets = bind_member(config(client, client))
    assert [bound.url.text for bound in sockets.clients] == [client]
    sockets.close()
    both = config(client, client.replace("http", "https"))
    assert "address already in use" in refusal(lambda: bind_member(both))


def test_systemd_is_told(tmp_path: Path) -> None:
    notify_ready({})
    notify_ready({"NOTIFY_SOCKET": str(tmp_path / "none")})
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        notify_ready({"NOTIFY_SOCKET": path})
        assert receiver.recv(100) == b"READY=1"
