"""Starts a run as several processes on this machine, as a cluster would, with simulated CPU devices.

    python launch/local.py --processes 2 --devices 4 -- --config configs/siglip_tp.py:scenes

Useful for trying out a multi-host job before paying for one. Kills all processes when one fails; Ctrl-C and SIGTERM
reach all of them. Exits with the first failing status; 75 (stopped and saved: run again to continue) is not a failure.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time

STOPPED = 75  # tfds_naturel.cli.STOPPED; this script runs without the package


def free_port() -> int:
    """A free TCP port on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=4, help="simulated devices per process")
    parser.add_argument("flags", nargs="+", help="flags for naturel_jax.main, after --")
    args = parser.parse_args()
    command = [sys.executable, "-m", "naturel_jax.main", *args.flags, f"--cpu_devices={args.devices}"]
    command += [f"--coordinator=127.0.0.1:{free_port()}", f"--processes={args.processes}"]
    running = [subprocess.Popen([*command, f"--process={i}"]) for i in range(args.processes)]

    def forward(number, _frame):
        for process in running:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, lambda number, frame: None)  # the terminal already sends it to every process
    while any(process.poll() is None for process in running):
        failed = [process.returncode for process in running if process.poll() not in (None, 0, STOPPED)]
        if failed:
            for process in running:
                process.kill()
            return failed[0]
        time.sleep(0.2)
    return max(process.returncode for process in running)


if __name__ == "__main__":
    sys.exit(main())
