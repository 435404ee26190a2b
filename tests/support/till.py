"""A pod for executors that die: its tool's first run ends with its process, after the effect and before the record."""

import os

from tieline import Limits, Pod, ToolRun

__all__ = ["till"]

till = Pod("till", limits=Limits(ack_wait=1.0, first_retry=0.05, drain=0.2))


@till.tool(effect="once")
async def charge(run: ToolRun, cents: int) -> str:
    path = os.environ["TILL_NOTES"]
    first = not os.path.exists(path)  # noqa: ASYNC240, PTH110 - a look at a local file
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, f"{run.key}\n".encode())
    os.close(descriptor)
    if first:
        os._exit(13)
    return run.key if cents else ""
