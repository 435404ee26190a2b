"""What the server says of its streams and consumers, page by page."""

from typing import Any

from tieline.wire.connection import ApiError, Connection

__all__ = ["consumer_infos", "stream_infos"]

_STREAM_MISSING = 10059


async def stream_infos(connection: Connection) -> dict[str, dict[str, Any]]:
    """What the server knows of every stream of the account, by name; those without a leader do not answer."""
    found: dict[str, dict[str, Any]] = {}
    offset = 0  # counts those that do not answer too: by what was found alone, their page would be asked for for ever
    while True:
        answer = await connection.api("STREAM.LIST", {"offset": offset})
        page = answer.get("streams") or []
        found |= {info["config"]["name"]: info for info in page}
        offset += len(page) + len(answer.get("missing") or ())
        if not page or offset >= int(answer.get("total", 0)):
            return found


async def consumer_infos(connection: Connection, stream: str) -> list[dict[str, Any]]:
    """What the server knows of every consumer of a stream; empty where there is no such stream."""
    found: list[dict[str, Any]] = []
    while True:
        try:
            answer = await connection.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        except ApiError as error:
            if error.err_code == _STREAM_MISSING:
                return []
            raise
        page = answer.get("consumers") or []
        found += page
        if not page or len(found) >= int(answer.get("total", 0)):
            return found
