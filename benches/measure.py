"""Runs a command to its end and says what it cost.

A process inherits the peak memory of the one that started it, so the benchmark itself, which holds lists of many files,
must not start what it measures. This file run as a program does, with next to nothing in memory:
`measure.py LOG COMMAND...` prints the cost as JSON.
"""

import json
import os
import sys
import time


def main():
    log, *command = sys.argv[1:]
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        for number, file in enumerate((nothing, out, out)):
            os.dup2(file, number)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    wall = time.monotonic() - begin
    cost = {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}
    print(json.dumps({"code": os.waitstatus_to_exitcode(status), "cost": cost}))


def run(command, env, log):
    """The cost of `command`, a list of words: `wall` and `cpu` seconds (of all processors), and `peak`, the largest
    resident set of any of its processes in bytes. Its output goes to the file `log`; a failure ends the benchmark."""
    import subprocess

    words = [sys.executable, "-S", "-E", __file__, log, *command]
    answer = subprocess.run([str(word) for word in words], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    found = json.loads(answer.stdout)
    if found["code"] != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit {found['code']}, see {log}")
    return found["cost"]


def tree_size(folder):
    """Bytes of all files below a folder, or of one file."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
