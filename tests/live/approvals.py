"""A pod whose agent waits for a person, and a process of it that ends as soon as it has the answer.

    python approvals.py URL

runs everything. The second attempt, which the answer woke, ends the process before the message is settled.
"""

import asyncio
import os
import sys

from tieline import Conversation, Host, Limits, Message, NoReply, Pod, Settings, connect
from tieline.settings import ConnectionSettings

__all__ = ["Sale", "Sold", "approvals"]


class Sale(Message, subject="call.intent.sale", redact={"phone"}):
    call_id: str
    phone: str = "+12065550100"


class Sold(Message, subject="call.intent.sold"):
    call_id: str
    approved: bool


def approvals(*, dies: bool = False) -> Pod:
    """The pod; ``dies``: in its second attempt."""
    pod = Pod("approvals", limits=Limits(ack_wait=1.0, first_retry=0.05, drain=0.5))

    @pod.tool(effect="read")
    async def lookup(phone: str) -> dict[str, str]:
        return {"phone": phone, "owner": "Ada"}

    @pod.agent
    async def selling(sale: Sale, call: Conversation) -> None:
        await call.tool(lookup, sale.phone)
        try:
            approved = await call.ask_human("Sell it?", expects=bool)
        except NoReply:
            approved = False
        if dies and call.attempt == 2:
            os._exit(13)
        await call.publish(Sold(call_id=sale.call_id, approved=approved))

    @pod.agent
    async def ledger(_: Sold, call: Conversation) -> None:
        await call.end()

    return pod


async def _main(url: str) -> None:
    pod = approvals(dies=True)
    async with connect(pod, settings=Settings(connection=ConnectionSettings(servers=(url,)))) as bus:
        await Host(bus, ["selling", "ledger", "tools"]).run()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
