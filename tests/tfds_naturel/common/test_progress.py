"""Progress in logs and on terminals."""

import io
import sys

from tfds_naturel.common import progress
from tfds_naturel.common.progress import Progress


def test_logs_get_lines(caplog, capfd, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0)
    with caplog.at_level("INFO", "tfds_naturel"), Progress(total=3, desc="images", unit="files") as bar:
        for _ in range(3):
            bar.update()
    assert [line.split(" [")[0] for line in caplog.messages][-1] == "images: 3 of 3"
    assert len(caplog.messages) <= 4 and capfd.readouterr().out == ""


def test_short_loops_get_one_line(caplog, capfd):
    with caplog.at_level("INFO", "tfds_naturel"):
        assert list(Progress(range(1000), "items")) == list(range(1000))
        list(Progress([], "nothing"))
    assert [line.split(" [")[0] for line in caplog.messages] == ["items: 1000 of 1000"]
    assert "\r" not in capfd.readouterr().err


def test_terminals_get_a_bar(caplog, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level("INFO", "tfds_naturel"):
        list(Progress(range(10), "items"))
    assert "\ritems: 100%" in terminal.getvalue() and not caplog.messages
