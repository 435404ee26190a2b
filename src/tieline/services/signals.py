"""What SIGTERM, SIGINT and SIGHUP mean to a process of ours: the first asks, the second insists."""

import asyncio
import signal

__all__ = ["StopSignals"]


class StopSignals:
    """The stop signals of this process, from now on. For the main thread, in a running event loop.

    ``asked`` is set by the first signal: stop taking, finish what runs. ``insisted`` is set by the second: stop now.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # nohup wants it ignored
                loop.add_signal_handler(signum, self._heard)

    def _heard(self) -> None:
        (self.insisted if self.asked.is_set() else self.asked).set()
