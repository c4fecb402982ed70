"""Executes a program that the kernel kills when the parent process dies.

Run as a file: `python launch.py PARENT_PID PROGRAM ARGUMENTS…`. This works only on Linux; elsewhere
the children of a killed parent keep running, and only a regular stop ends them.
"""

import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        # Imported here, because prctl exists only on Linux.
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent died before prctl took effect")
    os.execvp(program[0], program)  # noqa: S606  # the purpose of this program


if __name__ == "__main__":
    main()
