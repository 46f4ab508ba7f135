"""A loader of images that never ends, for the tests of what measures loaders."""

import fcntl
import os
import time
from pathlib import Path


def read(lock: Path) -> int:
    """Holds ``lock`` together with a child, and waits for it."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if (pid := os.fork()) == 0:
            time.sleep(600)
            os._exit(0)
        os.waitpid(pid, 0)
    return 1
