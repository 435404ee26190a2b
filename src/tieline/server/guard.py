"""Run as a script between us and nats-server: ties the server's life to ours, then becomes it (same pid).

Not a ``preexec_fn``, which may deadlock in a process with threads. Takes the parent's pid, the program, its arguments.
Standard library only, and started with ``-I -S``, so that it costs about 13 ms.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _become(parent: int, command: list[str]) -> None:
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent:  # it died before the request stood: no signal would ever come
        sys.exit("the process that started nats-server is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
