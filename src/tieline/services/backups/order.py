"""In which order streams are saved, so that whatever was acknowledged has its effects in a later snapshot."""

from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["in_order"]

_CHECKPOINTS = "ACCOUNTING"
_FACTS = "CALL_AUDIT"
_JOURNAL = "STEP"
_OBJECTS = "OBJ_"


def in_order(streams: Mapping[str, Mapping[str, Any]], consumed: Collection[str]) -> list[str]:
    """The names of ``streams`` (their configurations, by name) in the order to save them. ``consumed`` have durable
    consumers.

    A handler publishes, writes steps and dead letters, and then acknowledges. So the streams that it takes its messages
    from come before those that it writes to: a message that is done has left its traces there, and one that is pending
    finds its journal. Facts come before them, because they must not speak of messages that the snapshot of a stream
    does not have, and checkpoints of the sum first of all, because they say how far all others were read. A stream
    that copies from another comes before that one: the server copies the rest again. Objects come last: whatever
    refers to them is older. Restored are streams the other way round, so that work is there last.
    """
    left = sorted(streams, key=lambda name: (_rank(name, streams[name], name in consumed), name))
    found: list[str] = []
    while left:
        free = (one for one in left if not any(one in _sources(streams[other]) for other in left if other != one))
        found.append(next(free, left[0]))  # streams that copy from one another in a ring have no right order
        left.remove(found[-1])
    return found


def _rank(name: str, config: Mapping[str, Any], consumed: bool) -> int:
    if name == _CHECKPOINTS:
        return -1
    if name == _FACTS:
        return 0
    if name.startswith(_OBJECTS):
        return 4
    if consumed and name != _JOURNAL:
        return 1
    return 2 if _sources(config) else 3


def _sources(config: Mapping[str, Any]) -> set[str]:
    return {str(source["name"]) for source in config.get("sources") or ()}
