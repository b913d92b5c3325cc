"""Runs a program with several command lines, each in a process; what it imports is imported once, which takes seconds.

A process imports the program, and forks once for each command line; what that printed stands before what they print.
"""

import json
import subprocess
import sys

_FORKS = """
import importlib, json, os, runpy, sys, tempfile

name, lines = sys.argv[1], json.loads(sys.argv[2])
program = importlib.import_module(name)
del sys.modules[name]  # it is run anew, as __main__
sys.stdout.flush()
done = []
for words in lines:
    files = [tempfile.TemporaryFile("w+") for _ in range(2)]
    pid = os.fork()
    if not pid:
        for number, file in zip((1, 2), files):
            os.dup2(file.fileno(), number)
        sys.argv = [program.__file__, *words]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        sys.exit()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for file in files:
        file.seek(0)
    done.append((status, *(file.read() for file in files)))
print(json.dumps(done))
"""


def run(name, *lines):
    """Runs `python -m name` with each of the lists of words: a list of `subprocess.CompletedProcess`."""
    command = [sys.executable, "-c", _FORKS, name, json.dumps(lines)]
    whole = subprocess.run(command, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    *printed, told = whole.stdout.splitlines(keepends=True)
    return [
        subprocess.CompletedProcess(words, status, "".join(printed) + stdout, whole.stderr + stderr)
        for words, (status, stdout, stderr) in zip(lines, json.loads(told), strict=True)
    ]
