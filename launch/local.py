"""Starts a run as several processes on this machine, like a cluster, with simulated CPU devices.

    python launch/local.py --processes 2 --devices 4 -- --config configs/siglip_tp.py:scenes

Use it to try out a multi-host job before paying for one. Ctrl-C and SIGTERM are passed on to all processes, which
stop and save; a second one kills them. When a process fails, the others are killed. Exits with the status of the first
that failed; 75 (stopped and saved: run again to continue) is not a failure.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time

STOPPED = 75  # tfds_naturel.common.cli.STOPPED; this script runs without the package


def free_port() -> int:
    """A free TCP port on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def watch(running: list[subprocess.Popen]) -> int:
    """Waits for the processes; returns the exit status for all of them."""
    received: list[int] = []

    def forward(number, _frame):
        received.append(number)
        for process in running:
            process.send_signal(number if len(received) == 1 else signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    while any(process.poll() is None for process in running):
        failed = [process.returncode for process in running if process.poll() not in (None, 0, STOPPED)]
        if failed:
            for process in running:
                process.kill()
            return exit_status(failed[0])
        time.sleep(0.2)
    statuses = [exit_status(process.returncode) for process in running]
    return next((status for status in statuses if status not in (0, STOPPED)), max(statuses))


def exit_status(code: int) -> int:
    """The exit status that a shell reports: 128 + number for a process killed by a signal."""
    return code if code >= 0 else 128 - code


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=4, help="simulated devices per process")
    parser.add_argument("flags", nargs="+", help="flags for naturel_jax.main, after --")
    args = parser.parse_args()
    command = [sys.executable, "-m", "naturel_jax.main", *args.flags, f"--cpu_devices={args.devices}"]
    command += [f"--coordinator=127.0.0.1:{free_port()}", f"--processes={args.processes}"]
    # In process groups of their own, since the terminal would send Ctrl-C to them as well.
    return watch([subprocess.Popen([*command, f"--process={i}"], process_group=0) for i in range(args.processes)])


if __name__ == "__main__":
    sys.exit(main())
