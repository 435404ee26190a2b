"""Subjects are built and parsed here and nowhere else."""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Final

from tieline.errors import BadDeclaration

__all__ = [
    "AUDIT",
    "FACTS",
    "accounting",
    "as_filter",
    "audit",
    "cancellations",
    "cancelled",
    "cancelled_copy",
    "check_filter",
    "check_template",
    "conversation_token",
    "covers",
    "dead_letter",
    "dead_letter_parts",
    "due",
    "fill",
    "ingress",
    "ingress_parts",
    "is_step",
    "key_of",
    "named_by",
    "nudge",
    "object_chunks",
    "object_meta",
    "overlaps",
    "partial",
    "placeholders",
    "present",
    "rate",
    "redrive",
    "schedule",
    "schedules",
    "state",
    "step",
    "step_filter",
    "step_sibling",
    "steps_in",
    "steps_of",
    "steps_of_conversation",
    "token",
    "tool_call",
    "tool_result",
    "unreadable",
]

_PLAIN = re.compile(r"(?!b_)[A-Za-z0-9_-]{1,64}\Z")
_HASHED = re.compile(r"b_[0-9a-f]{64}\Z")
_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_STEP_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_LITERAL_TOKEN = re.compile(r"[^\s.*>{}]+\Z")
AUDIT: Final = "call.audit"  # records for the accountant that belong to no conversation
FACTS: Final = "call.audit.*"  # matches the facts of all conversations
EVERYBODY: Final = "all"  # in place of an agent, in records for all of them; no agent may be called so
_LONGEST_DEAD = 3_500  # characters of a subject in that of its dead letter
_LONGEST = 64  # characters of a token; SHA-256 tokens are 66, so the two forms cannot meet


def token(identifier: str) -> str:
    """``identifier`` as one subject token. Different identifiers give different tokens.

    ``[A-Za-z0-9_-]`` up to 64 characters pass as they are unless they begin with ``b_``. Others become ``b_`` and
    base64url, or ``b_`` and a SHA-256 in hex where that would be longer than 64 characters. A SHA-256 token stays
    itself: who knows only the token means the same conversation as who knows the name.
    """
    if _PLAIN.match(identifier) or _HASHED.match(identifier):
        return identifier
    data = identifier.encode("utf-8", "surrogatepass")
    encoded = "b_" + base64.urlsafe_b64encode(data).decode().rstrip("=")
    if len(encoded) <= _LONGEST:
        return encoded
    return "b_" + hashlib.sha256(data).hexdigest()


def named_by(text: str) -> str | None:
    """The identifier that a token stands for, as far as the token tells; None for what is no token at all."""
    if _PLAIN.match(text) or _HASHED.match(text):
        return text
    if not text.startswith("b_"):
        return None
    try:
        encoded = text[2:]
        name = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("utf-8", "surrogatepass")
    except ValueError:
        return None
    return name if token(name) == text else None


def placeholders(template: str) -> tuple[str, ...]:
    """The field names in ``call.answer.{call_id}``, in order."""
    return tuple(_PLACEHOLDER.findall(template))


def fill(template: str, values: Mapping[str, str]) -> str:
    """The subject of one message: each ``{field}`` becomes the token of its value."""
    return _PLACEHOLDER.sub(lambda match: token(values[match.group(1)]), template)


def as_filter(template: str) -> str:
    """The least filter that gets every message of a template: each ``{field}`` becomes ``*``."""
    return _PLACEHOLDER.sub("*", template)


def check_template(template: str) -> str:
    """``template`` itself, or `BadDeclaration` when its messages could not be published."""
    for part in template.split("."):
        if not (_PLACEHOLDER.fullmatch(part) or _LITERAL_TOKEN.match(part)):
            raise BadDeclaration(
                f"subject {template!r}: the token {part!r} cannot be published to; "
                "use letters, digits, '-' and '_', or a {field} of the message as a whole token"
            )
    return template


def check_filter(subject: str) -> str:
    """``subject`` itself, or `BadDeclaration` when it is not a NATS filter (``>`` only as the last token)."""
    parts = subject.split(".")
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        if not (_LITERAL_TOKEN.match(part) or part == "*" or (part == ">" and last)):
            raise BadDeclaration(f"filter {subject!r}: the token {part!r} is not allowed there")
    return subject


def covers(wide: str, narrow: str) -> bool:
    """True when every subject that ``narrow`` matches is matched by ``wide``. A plain subject is its own filter."""
    wide_parts, narrow_parts = wide.split("."), narrow.split(".")
    for at, part in enumerate(wide_parts):
        if part == ">":
            return len(narrow_parts) > at
        if at >= len(narrow_parts) or narrow_parts[at] == ">":
            return False
        if part not in ("*", narrow_parts[at]):
            return False
    return len(wide_parts) == len(narrow_parts)


def overlaps(one: str, other: str) -> bool:
    """True when at least one subject is matched by both filters."""
    ones, others = one.split("."), other.split(".")
    for left, right in zip(ones, others, strict=False):
        if ">" in (left, right):
            return True
        if "*" not in (left, right) and left != right:
            return False
    if len(ones) == len(others):
        return True
    longer = ones if len(ones) > len(others) else others
    shorter = others if longer is ones else ones
    return shorter[-1] == ">" and len(longer) > len(shorter)


def dead_letter(agent: str, cause: str, subject: str) -> str:
    """Where a message of ``subject`` goes when ``agent`` will not get it again. With wildcards: a filter.

    The server counts messages by subject: so it knows how many there are of each agent and cause. A subject that is
    too long to have something before it is cut; the letter itself has all of it.
    """
    return f"DLQ.{agent}.{cause}.{subject[:_LONGEST_DEAD]}".rstrip(".")


def dead_letter_parts(subject: str) -> tuple[str, str, str]:
    """The agent, the cause and the original subject in a dead letter's; empty where somebody else named it."""
    _, agent, cause, original, *_ = [*subject.split(".", 3), "", "", ""]
    return agent, cause, original


def ingress(guest: str, subject: str) -> str:
    """Where what a guest publishes to ``subject`` arrives, for the gateway. With wildcards: a filter."""
    return f"ingress.{guest}.{subject}"


def ingress_parts(subject: str) -> tuple[str, str]:
    """The guest, and the subject it published to."""
    _, guest, original, *_ = [*subject.split(".", 2), "", ""]
    return guest, original


def redrive(stream: str, agent: str) -> str:
    """Where a dead letter is sent again so that only ``agent`` sees it."""
    return f"redrive.{stream.lower()}.{agent}"


def step(agent: str, conversation: str, kind: str, key: str) -> str:
    """Where one journal record lives. ``kind`` and ``key`` are tokens already."""
    return f"step.{agent}.{token(conversation)}.{kind}.{key}"


def step_filter(agent: str, kind: str) -> str:
    """What matches every record of one kind that an agent's steps have."""
    return f"step.{agent}.*.{kind}.*"


def steps_of(agent: str) -> str:
    """The filter of everything in one agent's journal."""
    return f"step.{agent}.>"


def steps_in(agent: str, conversation: str) -> str:
    """What matches every record that an agent has of a conversation."""
    return f"step.{agent}.{token(conversation)}.*.*"


def steps_of_conversation(conversation_token: str) -> str:
    """What matches every record of a conversation that is named by its token."""
    return f"step.*.{conversation_token}.*.*"


def conversation_token(step_subject: str) -> str:
    """The token of the conversation that a record of the journal belongs to; empty for what is no record."""
    parts = step_subject.split(".")
    return parts[2] if len(parts) == 5 else ""


def step_sibling(subject: str, kind: str) -> str:
    """The record of another kind that belongs to the same step: its park record, its question."""
    parts = subject.split(".")
    return ".".join([*parts[:3], kind, parts[4]])


def cancelled(conversation: str) -> str:
    """Where it is recorded, for every agent, that a conversation is cancelled."""
    return step(EVERYBODY, conversation, "cancel", "cancelled")


def cancellations() -> str:
    """What matches the cancel records of all conversations."""
    return step_filter(EVERYBODY, "cancel")


def cancelled_copy(conversation: str) -> str:
    """Where the cancel record of a conversation, named by its token, is once more: for every process to read."""
    return f"cancelled.{conversation}"


def key_of(user: str) -> str:
    """Where the JWT of a user is, by its public key, for those who check its signatures."""
    return f"key.{user}"


def state(conversation: str) -> str:
    """Where the state of a conversation is kept."""
    return f"state.{token(conversation)}"


def is_step(subject: str) -> bool:
    """Whether ``subject`` is one that the journal stores and a tool's result may be written to."""
    parts = subject.split(".")
    return len(parts) == 5 and parts[0] == "step" and all(_STEP_TOKEN.match(part) for part in parts)


def nudge(subject: str) -> str:
    """Where the server repeats what it stored at the step ``subject``, for those who wait for it now."""
    return f"nudge.{subject}"


def due(subject: str) -> str:
    """Where the server puts a delayed message of ``subject`` when its time has come, for its stream to source."""
    return f"due.{subject}"


def schedule(msg_id: str) -> str:
    """Where a delayed message waits."""
    return f"schedule.{token(msg_id)}"


def schedules() -> str:
    """What matches all delayed messages that wait."""
    return "schedule.*"


def tool_call(tool: str) -> str:
    """Where the calls of one tool are published."""
    return f"tool.call.{tool}"


def object_chunks(bucket: str, key: str) -> str:
    """Where the parts of an object are stored, in order (ADR-20)."""
    return f"$O.{bucket}.C.{key}"


def object_meta(bucket: str, name: str) -> str:
    """Where an object says what it is (ADR-20)."""
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode('utf-8', 'surrogatepass')).decode()}"


def present(pod: str, agent: str, version: str) -> str:
    """Where the processes that run ``agent`` in that version of the pod answer."""
    return f"tieline.present.{pod}.{agent}.{token(version)}"


def rate(tool: str) -> str:
    """Where the time of a tool's next free call is kept."""
    return f"rate.{tool}"


def partial(conversation: str) -> str:
    """Where the text of a conversation is heard while a model still produces it; no stream stores it."""
    return f"partial.{token(conversation)}"


def tool_result(conversation: str) -> str:
    """Where any listener finds the tool results of a conversation."""
    return f"tool.result.{token(conversation)}"


def audit(conversation: str) -> str:
    """Where the facts of a conversation are published."""
    return f"call.audit.{token(conversation)}"


def unreadable(kind: str) -> str:
    """Where processes note records of one kind that they could not read. Begins like no conversation's token."""
    return f"call.audit.!{kind.replace(' ', '-')}"


def accounting(pod: str, part: int = 0) -> str:
    """Where a pod's accountant keeps its checkpoint; ``part`` is for what does not fit into the first message."""
    return f"accounting.{pod}.{part}" if part else f"accounting.{pod}"
