"""Runs a command to its end and says what it cost."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass


@dataclass
class Cost:
    """Seconds on the clock and of all processors, and the largest resident set of any process of the command."""

    wall: float
    cpu: float
    peak: int


def run(command, env, log):
    """The cost of `command`, a list of words. Its output goes to the file `log`; a failure ends the benchmark."""
    with open(log, "ab") as out:
        begin = time.monotonic()
        child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - begin
    # Told to the object too, or it would wait for a process that is gone.
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit {child.returncode}, see {log}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def tree_size(folder):
    """Bytes of all files below a folder, or of one file."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
