"""``tieline size``: how much disk, memory and how many nodes a pod needs for what it is to do."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from tieline.cli.options import JsonOption, PodArgument
from tieline.cli.printing import age, console, print_json, table
from tieline.cli.printing import size as bytes_of
from tieline.errors import BadSettings
from tieline.messages import seconds
from tieline.pod import Pod
from tieline.services.reference import load_pod
from tieline.services.sizing import Load, Sizing, budget, disk_for, remedies, sized

__all__ = ["size"]

_INTENTS = "CALL_INTENT"
_REPLICAS = (1, 3, 5)
_RATE = "Messages a second; CALL_INTENT's unless named. Repeatable. Without it: what the pod expects."


def size(
    pod: PodArgument,
    rate: Annotated[list[str] | None, typer.Option("--rate", metavar="[STREAM=]N", help=_RATE)] = None,
    payload: Annotated[int, typer.Option("--bytes", min=1, help="Of a payload.")] = 512,
    ages: Annotated[
        list[str] | None,
        typer.Option("--age", metavar="STREAM=TIME", help="Another age than the pod's: STEP=720h. Repeatable."),
    ] = None,
    replicas: Annotated[int, typer.Option("--replicas", help="Copies of each stream: 1, 3 or 5.")] = 3,
    tools: Annotated[float, typer.Option("--tools", min=0, help="Tool calls of each message.")] = 1.0,
    steps: Annotated[float, typer.Option("--steps", min=0, help="Other steps of each message.")] = 1.0,
    answer: Annotated[int, typer.Option("--answer", min=0, help="Bytes of a tool's arguments, and of a result.")] = 128,
    dead: Annotated[float, typer.Option("--dead", min=0, max=1, help="Share of messages that end dead.")] = 0.001,
    conversation: Annotated[float, typer.Option(min=0.01, help="Messages of one conversation.")] = 5.0,
    json: JsonOption = False,
) -> int:
    """Plan disk, memory and nodes. Needs no server. Exit 1 where a stream would be full before its messages are old.

    Without --rate: the disk budget of everything that the pod stores, for the work that its `expects` names.
    """
    declared = load_pod(pod)
    if not rate:
        return _show_budget(declared, json)
    if replicas not in _REPLICAS:
        raise BadSettings(f"--replicas {replicas}: a stream has 1, 3 or 5 copies")
    load = Load(
        rates=_by_stream("--rate", rate, declared, _number, _INTENTS),
        size=payload,
        tools=tools,
        steps=steps,
        answer=answer,
        dead=dead,
        conversation=conversation,
        ages=_by_stream("--age", ages or [], declared, seconds),
    )
    found = sized(declared, load, replicas)
    problems = list(remedies(found))
    if json:
        print_json({**asdict(found), "remedies": problems})
    else:
        _show(declared, found, problems)
    return int(bool(problems))


def _show_budget(pod: Pod, as_json: bool) -> int:
    rows = budget(pod)
    disk = disk_for(rows)
    if as_json:
        print_json({"expects": asdict(pod.expects), "rows": [asdict(row) for row in rows], "disk": disk})
        return 0
    shown = [
        (row.name, bytes_of(row.planned), "no limit" if row.bound is None else bytes_of(row.bound), row.what)
        for row in rows
    ]
    planned, bound = sum(row.planned for row in rows), sum(row.bound or row.planned for row in rows)
    shown.append(("all", bytes_of(planned), bytes_of(bound), ""))
    expects = pod.expects
    out = console()
    work = f"{expects.conversations_per_day:,.0f} conversations a day, {expects.messages:g} messages each"
    title = f"pod {pod.name}: disk for {work}"
    out.print(table(title, ("stores", ">expected", ">at most", "what"), shown))
    out.print(
        f"Each server that holds a copy needs {bytes_of(disk)} of disk: everything at its limit, and a quarter free. "
        "A server with less gets smaller limits, in proportion. More or less work: Pod(expects=Expected(…))"
    )
    return 0


def _by_stream(
    option: str, given: Sequence[str], pod: Pod, read: Callable[[str], float], default: str = ""
) -> dict[str, float]:
    """``STREAM=VALUE``, or a value alone for the ``default``. `BadSettings` names what is not understood."""
    found: dict[str, float] = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        stream = name if equals else default
        if stream not in pod.streams:
            raise BadSettings(f"{option} {text!r}: pod {pod.name} has no stream {stream!r}; write STREAM=VALUE")
        try:
            found[stream] = read(value)
        except ValueError as error:
            raise BadSettings(f"{option} {text!r} is not understood: {error}") from error
        if not 0 <= found[stream] < float("inf"):
            raise BadSettings(f"{option} {text!r}: it must be a number from 0 up")
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def _show(pod: Pod, found: Sizing, problems: Sequence[str]) -> None:
    rows = [
        (n.stream, f"{n.per_second:,.3g}", age(n.max_age), f"{n.messages:,}", bytes_of(n.wanted), bytes_of(n.max_bytes))
        for n in found.needs
    ]
    columns = ("stream", ">stored/s", ">age", ">messages", ">bytes", ">max bytes")
    out = console()
    out.print(table(f"pod {pod.name}, when its streams have reached their ages", columns, rows))
    each = "" if found.replicas == 1 else "each "
    facts = [
        ("nodes", f"{found.replicas}"),
        ("disk", f"{each}{bytes_of(found.disk)}, a quarter of it free"),
        ("memory", f"{each}{bytes_of(found.memory)}"),
        ("fsyncs a second", f"{each}up to {found.writes:,.0f} with sync: always; fewer where messages come together"),
        ("cores", f"{found.cores:,.2g} busy on the node that leads; give it twice that, and one at least"),
    ]
    out.print(table("\nneeded", ("", ""), facts))
    for problem in problems:
        out.print(f"[yellow]{problem}[/yellow]")
