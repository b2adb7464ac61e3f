"""A process that has imported everything and forks one for each command: importing is most of what a small one takes.

As a script it reads requests as JSON lines and answers each with the process's number, then with its exit status.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing.util
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def become(request: dict) -> None:
    """The command: its own session, environment, folder, arguments and outputs, as a new interpreter would have."""
    os.setsid()
    atexit._clear()  # what was imported before is the parent's to clean up, such as temporary folders
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    for number, path in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    script, *rest = request["argv"]
    status = 1
    try:
        if script == "-m":
            sys.path[0], sys.argv = request["cwd"], rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0], sys.argv = str(Path(script).resolve().parent), [script, *rest]
            runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        multiprocessing.util._exit_function()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    import detr.run
    import detr.sweeping.table
    import detr.weights.export  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            become(json.loads(line))
        print(child, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    main()
