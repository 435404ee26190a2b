"""The pod: its name, its own streams, and the defaults of its agents."""

from tieline import Limits, Pod, Stream

__all__ = ["pod"]

_HOUR = 3600.0

pod = Pod(
    "oneroof",
    version="1",
    data="ONEROOF_DATA",
    streams=(
        Stream(name="CALL_TURN", subjects=("call.turn.*",), max_age=_HOUR, description="what callers say"),
        Stream(name="CALL_ANSWER", subjects=("call.answer.*",), max_age=_HOUR, description="what came of intents"),
        Stream(name="CALL_SPEECH", subjects=("call.speech.*",), max_age=_HOUR, description="what the office says"),
    ),
    # Somebody is on the line: what fails is tried again within seconds, or is a dead letter.
    limits=Limits(concurrency=8, timeout=60.0, first_retry=0.5, longest_retry=2.0, drain=10.0, ack_wait=5.0),
)
