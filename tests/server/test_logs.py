"""The log: shape of a line, levels, a slow output, files, what comes through other doors."""

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyetcd.server import logs
from pyetcd.server.log_files import RotatingFile, Rotation, StreamOutput


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    hooks = sys.excepthook, threading.excepthook
    yield
    logs.close()
    logs.set_level("info")
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks


def lines(path: Path) -> list[dict[str, object]]:
    assert logs.flush()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_shape_of_a_line() -> None:
    line = logs.format_line(
        logs.INFO, 1767366245.9994, "server/member.py:12", "hello", {"local_member_id": "a", "n": 1}
    )
    assert line == (
        b'{"level":"info","ts":"2026-01-02T15:04:05.999Z","caller":"server/member.py:12",'
        b'"msg":"hello","local-member-id":"a","n":1}\n'
    )


def test_values_that_json_lacks() -> None:
    fields = {"error": ValueError("x"), "data": b"\xffa", "set": {2, 1}, "none": None}
    line = json.loads(logs.format_line(logs.WARN, 0, "a", "é\n", fields))
    assert (line["error"], line["data"], line["set"], line["none"]) == ("x", "\\xffa", [1, 2], None)
    assert line["msg"] == "é\n" and line["ts"] == "1970-01-01T00:00:00.000Z"


def test_long_line_is_cut() -> None:
    line = logs.format_line(logs.INFO, 0, "a", "m", {"x": "y" * 100_000})
    assert len(line) < 2000 and json.loads(line)["cut-bytes"] > 100_000


def test_levels_and_caller(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.configure("warn", [str(path)])
    log = logs.get("part")
    log.debug("no")
    log.info("no")
    log.bind(member="1").warn("yes", n=1)
    log.error("yes")
    log.fatal("yes")
    found = lines(path)
    assert [line["level"] for line in found] == ["warn", "error", "fatal"]
    assert found[0]["logger"] == "part" and found[0]["member"] == "1"
    assert str(found[0]["caller"]).startswith("server/test_logs.py:")
    assert list(found[2])[-1] == "stacktrace"


def test_full_buffer_drops_info_first_and_never_blocks() -> None:
    reader, writer = os.pipe()
    output = StreamOutput(writer, owned=True)
    before = logs.dropped()
    held = logs._Writer([output], held=True)
    for _ in range(logs.LINES_MAX + 5):
        held.put(logs.INFO, b"i\n")
    for _ in range(logs.LINES_RESERVE + 5):
        held.put(logs.ERROR, b"e\n")
    assert logs.dropped() - before == 10
    taken: list[bytes] = []

    def take() -> None:
        with os.fdopen(reader, "rb") as source:
            taken.append(source.read())

    thread = threading.Thread(target=take)
    thread.start()
    held.close(10, drop_held=False)
    thread.join(10)
    text = taken[0]
    assert text.count(b"i\n") == logs.LINES_MAX and text.count(b"e\n") == logs.LINES_RESERVE
    assert b'"msg":"dropped log lines","count":10' in text


def test_held_lines_are_dropped_from_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", ["default"], held=True)
    logs.get().info("one")
    logs.close(drop_held=True)
    assert capfd.readouterr().err == ""
    logs.configure("info", ["default"], held=True)
    logs.get().info("two")
    logs.release()
    logs.close()
    assert '"msg":"two"' in capfd.readouterr().err


def test_before_configure_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.get().info("early")
    assert json.loads(capsys.readouterr().err)["msg"] == "early"


def test_output_that_fails_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = StreamOutput(writer, owned=True)
    output.write(b"x")
    output.close()


def test_unwritable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        logs.configure("info", [str(tmp_path / "no" / "log")])


def test_files_by_url_and_for_others_to_read(tmp_path: Path) -> None:
    for number, form in enumerate(("{}", "file://{}", "file://localhost{}")):
        path = tmp_path / str(number)
        mask = os.umask(0o022)
        try:
            logs.configure("info", [form.format(path)])
        finally:
            os.umask(mask)
        logs.get("part").info("said")
        assert [line["msg"] for line in lines(path)] == ["said"]
        assert path.stat().st_mode & 0o777 == 0o644


def test_other_doors(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.configure("info", [str(path)])
    logs.install_bridges()
    logging.getLogger("lib").warning("from %s", "logging")
    logging.getLogger("lib").debug("no")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    logs.loop_exception_handler(None, {"message": "lost", "exception": KeyError("k")})
    thread = threading.Thread(target=lambda: 1 // 0)
    thread.start()
    thread.join()
    sys.excepthook(ValueError, ValueError("v"), None)
    found = lines(path)
    assert found[0]["msg"] == "from logging"
    assert found[0]["logger"] == "lib"
    assert "DeprecationWarning: old" in str(found[1]["msg"])
    assert found[2]["error"] == "KeyError: 'k'"
    assert "ZeroDivisionError" in str(found[3]["error"])
    assert found[4]["error"] == "ValueError: v"


def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    file = RotatingFile(str(path), Rotation(size_mib_max=1, backups_max=1, compress=True))
    for _ in range(3):
        file.write(b"x" * 1024 * 700)
    file.close()
    backups = list(tmp_path.glob("log-*.txt.gz"))
    assert len(backups) == 1 and path.stat().st_size == 1024 * 700


@pytest.mark.parametrize("text", ["{", "[]", '{"maxsize": "1"}', '{"compress": 1}'])
def test_bad_rotation(text: str) -> None:
    with pytest.raises(ValueError, match="log rotation config"):
        Rotation.parse(text)
