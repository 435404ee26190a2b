"""`tieline calls`: what people see of conversations, and how they answer and cancel."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from approvals import Sale, approvals
from command_line import tieline
from support.office import Office, at_work, settings

from tieline.services.timeline import timeline
from tieline.testing import Server, eventually

_POD = """
from approvals import approvals

pod = approvals()
other = type(pod)("other")
"""
_ODD = "a call / ü"


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    (tmp_path / "approvals.py").write_text(Path(__file__).with_name("approvals.py").read_text())
    (tmp_path / "shop.py").write_text(_POD)
    return tmp_path


@pytest.fixture
async def office(nats_server: Server) -> AsyncIterator[Office]:
    """Two conversations that wait for a person."""
    async with at_work(approvals(), settings(nats_server.url, audit=True)) as office:
        for conversation in ("c1", _ODD):
            await office.bus.publish(Sale(call_id=conversation))
            await until(office, conversation, "parked")
        yield office


async def until(office: Office, conversation: str, outcome: str) -> None:
    """A delivery of the conversation is settled so."""

    async def settled() -> bool:
        found = await timeline(office.bus.connection, conversation)
        return found is not None and any(entry.told.get("outcome") == outcome for entry in found.entries)

    await eventually(settled, what=f"{conversation} to be {outcome}")


@pytest.mark.usefixtures("office")
async def test_what_waits_is_listed(folder: Path, nats_url: str) -> None:
    table = await tieline("calls", "ls", "--waiting", cwd=folder, url=nats_url)
    assert table.code == 0
    [title, columns, *rows] = [line.split() for line in table.out.splitlines() if line]
    assert title == ["conversations"]
    assert columns[:3] == ["conversation", "state", "last"]
    assert {row[0] for row in rows} == {"c1", "a"}
    assert all(row[-2:] == ["Sell", "it?"] and "waiting" in row for row in rows)

    one = (await tieline("calls", "ls", "shop", "--limit", "1", "--json", cwd=folder, url=nats_url)).json
    assert (one["id"], one["state"], one["published"], one["agents"]) == (
        _ODD,
        "waiting",
        1,
        ["selling", "tool-lookup"],
    )
    [question] = one["questions"]
    assert (question["text"], question["schema"], question["until"]) == ("Sell it?", {"type": "boolean"}, None)

    other = await tieline("calls", "ls", "shop:other", cwd=folder, url=nats_url)
    assert (other.code, other.out) == (0, "no conversations\n")
    since = await tieline("calls", "ls", "--since", "soon", cwd=folder, url=nats_url)
    assert since.code == 2
    assert "--since 'soon' is not understood; give a time such as" in since.err
    everything = await tieline("calls", "ls", "--since", "10m", cwd=folder, url=nats_url)
    assert "c1" in everything.out


@pytest.mark.usefixtures("office")
async def test_a_timeline_for_people_and_for_scripts(folder: Path, nats_url: str) -> None:
    shown = await tieline("calls", "show", _ODD, cwd=folder, url=nats_url)
    assert shown.code == 0
    first, _, *rows = shown.out.splitlines()
    assert first.startswith(f"{_ODD}: waiting, since ")
    assert rows[0].split()[:4] == ["0.000", "s", "(outside)", "published"]
    assert any('tool lookup → {"phone": "(redacted)", "owner": "Ada"}' in row for row in rows)
    assert rows[-1] == f"waits for a person: Sell it?  (tieline calls answer {_ODD} …, true or false)"
    assert "+1206" not in shown.out

    lines = await tieline("calls", "show", "c1", "--json", cwd=folder, url=nats_url)
    assert [word for word in lines.out.splitlines() if '"kind": "asked"' in word]
    missing = await tieline("calls", "show", "nobody", cwd=folder, url=nats_url)
    assert (missing.code, missing.out) == (1, "")
    assert missing.err.startswith("error: nothing is known of conversation nobody")


async def test_a_question_is_answered_once(office: Office, folder: Path, nats_url: str) -> None:
    wrong = await tieline("calls", "answer", "c1", "maybe", cwd=folder, url=nats_url)
    assert (wrong.code, wrong.err) == (
        1,
        "error: invalid answer 'maybe': it is not a boolean, expected true or false\n",
    )
    answered = await tieline("calls", "answer", "c1", "true", cwd=folder, url=nats_url)
    assert answered.code == 0
    assert answered.out.startswith("Sell it?: answered true by ")
    await until(office, "c1", "done")

    again = await tieline("calls", "answer", "c1", "false", cwd=folder, url=nats_url)
    assert again.code == 1
    assert "c1 has no open question; the last one was 'Sell it?', answered true by " in again.err
    nothing = await tieline("calls", "answer", "c9", "true", cwd=folder, url=nats_url)
    assert (nothing.code, nothing.err.splitlines()[1:]) == (1, [f"  {_ODD}  Sell it?"])
    beyond = await tieline("calls", "answer", _ODD, "true", "--question", "2", cwd=folder, url=nats_url)
    assert (beyond.code, beyond.err.splitlines()[1:]) == (1, ["  1  Sell it?"])
    neither = await tieline("calls", "answer", "c1", cwd=folder, url=nats_url)
    assert (neither.code, neither.err) == (2, "error: give either a VALUE or --refuse REASON\n")


async def test_an_answer_may_be_refused(office: Office, folder: Path, nats_url: str) -> None:
    refused = await tieline(
        "calls", "answer", _ODD, "--refuse", "not today", "--question", "1", "--json", cwd=folder, url=nats_url
    )
    told = refused.json
    assert (told["id"], told["ok"], told["cause"], told["reason"]) == (_ODD, False, "refused", "not today")
    await until(office, _ODD, "done")
    found = await timeline(office.bus.connection, _ODD)
    assert found is not None
    [sold] = [
        entry
        for entry in found.entries
        if entry.told.get("subject") == "call.intent.sold" and entry.kind == "published"
    ]
    assert sold.told["payload"] == {"callId": _ODD, "approved": False}


async def test_a_conversation_is_cancelled_once_and_then_answers_nobody(
    office: Office, folder: Path, nats_url: str
) -> None:
    cancelled = await tieline("calls", "cancel", _ODD, "--reason", "enough", cwd=folder, url=nats_url)
    assert cancelled.code == 0
    assert cancelled.out.endswith("; 1 parked messages brought back to be refused\n")
    await until(office, _ODD, "dead")
    again = (await tieline("calls", "cancel", _ODD, "--reason", "more", "--json", cwd=folder, url=nats_url)).json
    assert (again["reason"], again["broughtBack"]) == ("enough", 0)
    late = await tieline("calls", "answer", _ODD, "true", cwd=folder, url=nats_url)
    assert late.code == 1
    assert f"{_ODD} was cancelled by " in late.err
    listed = await tieline("calls", "ls", cwd=folder, url=nats_url)
    [row] = [line for line in listed.out.splitlines() if line.startswith(_ODD)]
    assert row.removeprefix(_ODD).split()[0] == "cancelled"
