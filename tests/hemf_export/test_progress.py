"""What the command line shows of the progress that libraries report: lines in a pipe, bars on a terminal."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from hemf_export.cli import console
from hemf_export.cli.progress import ConsoleProgress, duration
from hemf_export.files.progress import SILENT, Progress


def work(progress: Progress) -> None:
    with progress.task("Exporting", 2, "steps") as task:
        task.advance()
        with progress.task("Folding") as inner:
            inner.update(1, 3, "Folding norms")


def test_in_a_pipe_a_step_is_a_line_that_gets_its_time(capfd: pytest.CaptureFixture[str]):
    progress = ConsoleProgress()
    with progress.task("Exporting the graph"):
        assert capfd.readouterr().err == "Exporting the graph …", "seen before it is done"
    work(progress)
    assert re.fullmatch(r" 0\.\d s\nExporting … 0\.\d s\n", capfd.readouterr().err), "tasks within are not shown"


def test_what_is_said_meanwhile_has_a_line_of_its_own(capfd):
    progress = ConsoleProgress(lambda event: console.say(f"event {event}"))
    with progress.task("Training"):
        progress.event(1)
        progress.note("odd")
    err = capfd.readouterr().err
    assert re.fullmatch(r"Training …\nevent 1\nwarning: odd\nTraining … 0\.\d s\n", err)


def test_a_step_that_fails_ends_its_line_and_has_no_time(capfd):
    progress = ConsoleProgress()
    with pytest.raises(ValueError, match="broken"), progress.task("Exporting"), progress.task("Folding"):
        raise ValueError("broken")
    with progress.task("Writing"):
        pass
    assert re.fullmatch(r"Exporting …\nWriting … 0\.\d s\n", capfd.readouterr().err)


def test_names_out_of_files_steer_no_terminal(capfd):
    with ConsoleProgress().task("Reading \x1b[31m[bold]a\nb"):
        pass
    assert capfd.readouterr().err.startswith("Reading \\x1b[31m[bold]a\\nb … 0.")


def test_on_a_terminal_bars_go_and_a_long_step_leaves_a_line(monkeypatch, capfd):
    terminal = console._Talk(stderr=True, force_terminal=True, highlight=False, width=100)
    monkeypatch.setattr(console, "talk", terminal)
    monkeypatch.setattr("hemf_export.cli.progress._WORTH_A_LINE_S", 0.0)
    progress = ConsoleProgress(lambda event: console.say(f"event {event}"))
    for _ in range(2):
        with progress.task("Exporting", 2, "steps") as task:
            task.advance()
            with progress.task("Folding") as inner:
                inner.update(1, 3, "Folding norms")
                progress.event(7)
                progress._bars.refresh()
    err = capfd.readouterr().err
    assert "1/2 steps" in err
    assert "Folding norms" in err
    assert err.count("event 7") == 2
    assert len(re.findall(r"✓ Exporting.*0\.\d s", err)) == 2, "of outermost tasks alone"
    assert isinstance(terminal, Console)


def test_silence(capfd):
    work(SILENT)
    SILENT.note("odd")
    SILENT.event(1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (3.14, "3.1 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3725, "1 h 02 min"),
    ],
)
def test_times_as_people_read_them(seconds, text):
    assert duration(seconds) == text
