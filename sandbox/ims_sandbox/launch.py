"""Becomes the program it is given, after asking the system to end it with its parent.

Run as a file: `python launch.py PARENT_PID PROGRAM ARGUMENTS…`. Linux alone can do this; elsewhere
a parent that is killed leaves its children, and only an orderly stop ends them.
"""

import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        # Only here and late: elsewhere there is no such call.
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent died before its child was ready to notice")
    os.execvp(program[0], program)  # noqa: S606  # this is what it is for


if __name__ == "__main__":
    main()
