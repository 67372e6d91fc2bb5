"""Standard output and error as users have them: other encodings, a full disk, closed, with nobody who reads."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hemf_export import cli
from hemf_export.cli import console, streams

ENCODINGS = ("latin-1", "cp1252", "ascii", "cp437", "shift_jis", "iso8859-15", "koi8-r", "gb2312", "utf-8", "utf-16-le")
SIGNS = "… – — → × ✓ ✗ ± ≤ µ ━ █ é ß 中 \u202e \udc80 \x1b[31m"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch):
    """Run something with standard streams of an encoding: its answer, and what stands on both."""

    def call(encoding: str, run):
        pair = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", pair[0])
        monkeypatch.setattr(sys, "stderr", pair[1])
        answer = run()
        for stream in pair:
            stream.flush()
        return answer, *(stream.buffer.getvalue().decode(encoding) for stream in pair)

    return call


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["info", "hemf-nano"]])
def test_commands_print_in_any_encoding(printed, encoding, arguments):
    code, out, err = printed(encoding, lambda: cli.run(arguments))
    assert code == (1 if arguments[-1] == "hemf-nano" else 0), err
    assert "hemf" in out + err
    if arguments == ["--help"]:
        assert ("→" in out) == encoding.startswith(("utf", "gb", "shift"))


def test_a_table_in_a_windows_code_page(printed):
    code, out, _ = printed("cp437", lambda: cli.run(["info", "hemf-tiny"]))
    assert code == 0
    assert "hemf-tiny, 7 classes, 224 x 224" in out


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_sign_can_be_said_shown_and_put_into_a_table(printed, encoding):
    def show():
        with streams.guarded():
            console.say(SIGNS)
            console.warn(SIGNS)
            console.facts(SIGNS, [(SIGNS, SIGNS)])
            console.table(SIGNS, [SIGNS, SIGNS], [(SIGNS, SIGNS)])
            console.next_command("hemf-export", Path(SIGNS))
            console.print_json({SIGNS: SIGNS})

    _, out, err = printed(encoding, show)
    for text in (out, err):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert json.loads(out[out.index("{\n") :]) == {SIGNS: SIGNS}, "JSON is what it was, in any encoding"
    if encoding == "utf-8":
        assert "… – — → × ✓ ✗" in out
    if encoding == "ascii":
        assert "... - - -> x ok [x]" in out


@pytest.mark.parametrize("extra", [[], ["--json"]], ids=["table", "json"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_a_full_disk_behind_stdout_is_exit_1(monkeypatch, capfd, extra):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.run(["info", "hemf-tiny", *extra]) == 1
    err = capfd.readouterr().err
    assert "Can't write to standard output: No space left on device." in err
    assert "defect" not in err
    assert "Traceback" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_a_full_stderr_stops_nothing(monkeypatch, capfd):
    with suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert cli.run(["--version"]) == 0
        assert cli.run(["info", "hemf-nano", "--json"]) == 1
    out = capfd.readouterr().out
    assert "version" in out
    assert json.loads(out[out.index('{"') :])["exit_code"] == 1


def test_who_reads_may_leave(monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.run(["train", "--help"]) == 0
    assert capfd.readouterr().err.count("error") == 0


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize(
    ("closed", "code", "told"),
    [
        (">&-", 1, "Can't write to standard output"),
        (">&- 2>&-", 1, ""),
        ("<&- 2>&-", 0, ""),
        (">/dev/full 2>/dev/full", 1, ""),
        (">/dev/full", 1, "No space left"),
    ],
)
def test_closed_streams_end_with_a_code_and_no_traceback(closed, code, told):
    line = f'"{sys.executable}" -m hemf_export --help {closed}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "how", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_locale_that_is_not_utf8(how):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONIO"))}
    command = [sys.executable, "-m", "hemf_export", "--help"]
    done = subprocess.run(command, capture_output=True, env={**environment, **how}, check=False)
    assert done.returncode == 0, done.stderr
    assert b"-> RUN/best.onnx" in done.stdout
    assert done.stdout.isascii()


def test_files_are_read_and_written_as_utf8():
    """A file of ours is UTF-8, whatever the locale: no text is opened without saying so."""
    root = Path(cli.__file__).parents[2]
    wrong = []
    for room in ("train", "calibration", "engines", "hemf_export"):
        for path in (root / room).rglob("*.py"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                opens = any(word in line for word in ("read_text(", "write_text(", 'open(path, "w"', "text=True"))
                if opens and "encoding=" not in line and "def " not in line:
                    wrong.append(f"{path.relative_to(root)}:{number}: {line.strip()}")
    assert not wrong
