"""A command ends with its exit code, whatever its libraries still have running."""

import os
import signal
import subprocess
import sys

import pytest

from naturel_jax.reproduce import __main__ as reproduce
from tfds_naturel.audit import __main__ as audit
from tfds_naturel.common.errors import UserError
from tfds_naturel.open_images import fetch
from tfds_naturel.release import __main__ as release

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
# A thread that waits for something that never comes, as Orbax's do if a save fails.
MAIN = """
import atexit, sys, threading, time
from etils import epath
from tfds_naturel.common import cli
from tfds_naturel.common.errors import Stopped, Unavailable, UserError
atexit.register(print, "closed")
def main(arguments):
    threading.Thread(target=time.sleep, args=(600,)).start()
    raise {error}
cli.run(main)
"""


def test_a_long_value_leaves_the_file_and_the_fix_in_the_message():
    text = str(UserError(f"my.json: field 'a' is {'x' * 100_000}\0; expected a number"))
    assert text.startswith("my.json: field 'a' is xxx") and text.endswith(r"xxx\x00; expected a number")
    assert len(text) < 1600 and " more characters] " in text


def test_addresses_in_memory_are_left_out_of_a_message():
    text = str(UserError(f"x: found {object()!r}; expected a number"))
    assert text == "x: found <object object>; expected a number"


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        ("OSError(28, 'No space left on device', 'x')", 2, "error: [Errno 28] No space left on device: 'x'"),
        ("UserError('not a flag')", 2, "error: not a flag"),
        ("OSError(36, 'File name too long', 'x' * 9999)", 2, f"{'x' * 499}'"),
        ("KeyboardInterrupt", 130, ""),
        ("TypeError('a bug')", 1, "TypeError: a bug"),
        ("ImportError('cannot import name')", 1, "ImportError: cannot import name"),
        ("epath.Path('https://host/run')", 2, "error: a path is at https://, which is not read or written"),
        ("ImportError('Please install gcsfs')", 2, "error: Please install gcsfs: run `pip install gcsfs`"),
        (
            r"UnicodeEncodeError('utf-8', 'da\udcff', 2, 3, 'surrogates not allowed')",
            2,
            r"the name 'da\udcff' is not UTF-8; rename it",
        ),
        ("Unavailable('gs://b: the store failed')", 75, "gs://b: the store failed"),
        (
            r"FileNotFoundError('run:\x1b]0;x\x07\x1b[2J\nanother line')",
            2,
            "error: run:\ufffd]0;x\ufffd\ufffd[2J another line",
        ),
        (r"Unavailable('the store says \x1b[2J\nno')", 75, "the store says \ufffd[2J no"),
    ],
)
def test_failed_command_does_not_wait_for_threads(error, code, last):
    command = [sys.executable, "-c", MAIN.format(error=error)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code and done.stdout == "closed\n"
    assert done.stderr.strip().endswith(last)
    assert ("Traceback" in done.stderr) == (code == 1)


# What XLA's and TensorStore's destructors do now and then: they free what their threads still use.
ABORTS = """
import atexit, ctypes, threading, time
from tfds_naturel.common import cli
from tfds_naturel.common.errors import Stopped
libc = ctypes.CDLL(None)
libc.__cxa_atexit(libc.abort, None, None)
atexit.register(print, "closed")
def main(arguments):
    threading.Thread(target=lambda: [time.sleep(0.5), print("saved")]).start()
    {last}
cli.run(main)
"""
STOPS = "raise Stopped('stopped')"


@pytest.mark.parametrize(("last", "code", "error"), [("return", 0, ""), (STOPS, 75, "-c: stopped")])
def test_destructors_of_libraries_do_not_change_the_exit_code(last, code, error):
    """Threads that save are waited for, and exit handlers run, as ever."""
    command = [sys.executable, "-c", ABORTS.format(last=last)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (code, "saved\nclosed\n", error)


def test_ctrl_c_in_the_garbage_collector_is_not_lost():
    """JAX has a callback there, and Python ignores what one raises."""
    code = """
import gc, signal, sys, time
from tfds_naturel.common import cli
def collecting(phase, info):
    gc.callbacks.clear()
    signal.raise_signal(signal.SIGINT)
def main(arguments):
    gc.callbacks.append(collecting)
    gc.collect()
    time.sleep(30)
cli.run(main)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=_with_ctrl_c, timeout=25)
    assert (done.returncode, done.stderr) == (130, "")


def _with_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it


def test_flags_that_need_a_disk_say_so(capsys):
    for main, flag, others in (
        (audit.main, "--out", ()),
        (fetch.main, "--out", ("full",)),
        (release.main, "--out", ("--dataset=x", "--licence=x")),
        (reproduce.main, "--workdir", ()),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([flag, "gs://bucket/x", *others])
        assert f"argument {flag}: 'gs://bucket/x' is not on a disk; expected a path" in capsys.readouterr().err


def test_a_name_that_the_terminal_has_no_letters_for_is_printed():
    """Of another alphabet, or of a file that is not called in UTF-8."""
    code = r"from tfds_naturel.common import cli; cli.run(lambda _: print('\u202e \u03b1 \udcff'))"
    for encoding, shown in (("ascii", rb"\u202e \u03b1 \udcff"), ("utf-8", "\u202e \u03b1 ".encode() + rb"\udcff")):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, env=environment)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, shown, b"")


@pytest.mark.parametrize(
    ("main", "code"),
    [
        ("lambda _: [print(x, flush=True) for x in range(1 << 20)]", 141),
        ("lambda _: print('left in the buffer')", 0),
        ("argparse.ArgumentParser(prog='x').parse_args", 0),
    ],
)
def test_output_that_nobody_reads_is_no_error(main, code):
    """As with ``| head``."""
    program = f"import argparse; from tfds_naturel.common import cli; input(); cli.run({main}, ['--help'])"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", program], **pipes, env=BUFFERED) as command:
        command.stdout.close()
        assert command.communicate(b"\n", 60)[1] == b"" and command.returncode == code


def test_output_that_cannot_be_written_does_not_change_the_exit_code():
    """``closed`` stays in the buffer until the process ends, and the device is full."""
    command = [sys.executable, "-c", MAIN.format(error="UserError('not a flag')")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=BUFFERED)
    assert done.returncode == 2 and done.stderr.strip().endswith("error: not a flag")


def test_output_that_cannot_be_written_is_an_error_of_a_command_that_was_done():
    command = [sys.executable, "-c", "from tfds_naturel.common import cli; cli.run(lambda _: print('in the buffer'))"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=BUFFERED)
    assert done.returncode == 2
    assert done.stderr == "-c: error: what it printed is not complete: [Errno 28] No space left on device\n"
