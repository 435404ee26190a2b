"""Labels: bounded by what the server's consumers and streams are, never by what a fact says of itself.

Anybody in the account may write to the audit's subjects, and subjects name conversations. So a label is one of the
names below, or one that says that it is none of them.
"""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from tieline import subjects
from tieline.facts import Ending, Light
from tieline.outcomes import CauseKind
from tieline.services.accounting.books import BEFORE, NOBODY
from tieline.services.accounting.unseen import UNSEEN

__all__ = ["CAUSES", "KINDS", "OTHER", "OUTCOMES", "OUTSIDE", "STATES", "Known", "Models", "pod_of"]

OTHER = "(other)"
OUTSIDE = "(outside)"  # published by no agent
CAUSES = frozenset({*get_args(CauseKind.__value__), "exhausted", "terminated"})  # the last two by foreign consumers
KINDS = frozenset({"ask", "human", "model", "sleep", "state", "step", "tool"})
STATES = frozenset(get_args(Light.__value__))
OUTCOMES = frozenset(get_args(Ending.__value__))

_MODELS = 32  # names of models at once; answers name them, and a provider has a few
_LONGEST_MODEL = 64
_REMEMBERED = 4_096  # subjects whose type is remembered: those of conversations come and go
_REDRIVE = "redrive."


def pod_of(consumer: Mapping[str, Any]) -> str | None:
    """The pod that made a consumer; None for those of others."""
    made_by = (consumer["config"].get("metadata") or {}).get("tieline.pod")
    return made_by if isinstance(made_by, str) else None


class Known:
    """What labels may say, as of one reading of the server. With ``only``, facts of other pods are nobody's."""

    def __init__(
        self, streams: Mapping[str, Mapping[str, Any]], consumers: Iterable[Mapping[str, Any]], only: str | None
    ) -> None:
        self.only = only
        self._pods: dict[str, str] = {}
        self._filters: dict[str, list[str]] = {name: [] for name in streams}
        self._names: set[str] = set()
        self._types: dict[tuple[str, str], str] = {}
        for consumer in consumers:
            self._names.add(consumer["name"])
            pod, config = pod_of(consumer), consumer["config"]
            if pod is None or only not in (None, pod):
                continue
            self._pods[consumer["name"]] = pod
            filters = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
            self._filters[consumer["stream_name"]] += [each for each in filters if not each.startswith(_REDRIVE)]
        for name, info in streams.items():  # last: a message that no agent takes has its stream's subject
            self._filters[name] += info["config"].get("subjects") or []

    @property
    def pods(self) -> tuple[str, ...]:
        """Their names, sorted."""
        return tuple(sorted({*self._pods.values(), *([self.only] if self.only else [])}))

    def knows(self, by: str) -> bool:
        """Whether ``by`` is an agent or a tool (``tool-<name>``) of the pods."""
        return by in self._pods

    def takes(self, by: str) -> bool:
        """Whether a fact by ``by`` is to be counted; also what is published from outside, by nobody."""
        return self.only is None or not by or by in self._pods

    def who(self, by: str) -> tuple[str, str]:
        """The labels ``pod`` and ``agent``."""
        return (self._pods[by], by) if by in self._pods else ("", OTHER if by else OUTSIDE)

    def consumer(self, name: str) -> tuple[str, str]:
        """The labels ``pod`` and ``agent`` of a durable consumer, also of one that is not Tieline's."""
        return (self._pods.get(name, ""), name) if name in self._names else ("", OTHER)

    def account(self, agent: str, stream: str) -> tuple[str, str]:
        """The labels ``agent`` and ``stream`` of a row of the sum."""
        named = agent if agent in self._names or agent in (NOBODY, UNSEEN, BEFORE) else OTHER
        return named, stream if self.keeps(stream) else OTHER

    def keeps(self, stream: str) -> bool:
        """Whether it is one of the streams that were read."""
        return stream in self._filters

    def subject(self, stream: str, subject: str) -> str:
        """The label ``subject``: the filter that takes it, without the conversation that may be named in it."""
        key = (stream, subject)
        found = self._types.get(key)
        if found is None:
            filters = self._filters.get(stream, ())
            found = next((wide for wide in filters if subjects.covers(wide, subject)), OTHER)
            if len(self._types) >= _REMEMBERED:
                self._types.clear()
            self._types[key] = found
        return found

    def tool(self, name: str) -> str:
        """The label ``tool`` of a tool by its name."""
        return name if f"tool-{name}" in self._pods else OTHER


class Models:
    """The label ``model``: the first few names that were heard."""

    def __init__(self) -> None:
        self._heard: set[str] = set()

    def label(self, name: str) -> str:
        """The name, or that it is one too many."""
        if name not in self._heard:
            if len(self._heard) >= _MODELS or len(name) > _LONGEST_MODEL or not name.isprintable() or " " in name:
                return OTHER
            self._heard.add(name)
        return name
