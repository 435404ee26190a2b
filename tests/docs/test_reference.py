"""The reference says what the code says: settings, errors, commands, streams, headers and facts."""

import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from pydantic.alias_generators import to_camel
from snippets import ROOT

from oneroof.main import main as oneroof
from tieline import Settings, errors, facts, headers
from tieline.cli.main import main as tieline
from tieline.server import ServerConfig
from tieline.settings import Limits, variables
from tieline.stream import Stream, default_streams

REFERENCE = ROOT / "docs" / "reference"
_MAINS = {"tieline": tieline, "oneroof": oneroof}
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \|", re.MULTILINE)


def rows(page: str, heading: str) -> dict[str, str]:
    """The first two columns of the table under a heading; code marks are taken off."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return {name: value.strip().strip("`") for name, value in _ROW.findall(section)}


def shown(value: object) -> str:
    """A default as the tables write it."""
    match value:
        case None:
            return "none"
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case "":
            return "empty"
        case tuple():
            return ",".join(map(str, value)) or "none"
    return str(value)


def test_every_environment_variable_with_its_default() -> None:
    settings = Settings()
    connection = [getattr(settings.connection, field.name) for field in fields(settings.connection)]
    publish = [getattr(settings.publish, field.name) for field in fields(settings.publish)]
    pager = [getattr(settings.pager, field.name) for field in fields(settings.pager)]
    defaults = [*connection, *publish, *pager, settings.audit, settings.large, settings.metrics_port]
    defaults += [settings.metrics_host, settings.health_port, settings.signatures, settings.signers, settings.model]
    defaults += [settings.journal_keep, settings.log, settings.log_format]
    expected = {name: shown(default) for name, default in zip(variables(), defaults, strict=True)}
    assert rows("settings.md", "Environment") == expected


@pytest.mark.parametrize(("heading", "kind"), [("Limits", Limits), ("Server", ServerConfig), ("Stream", Stream)])
def test_every_field_with_its_default(heading: str, kind: type[Limits | ServerConfig | Stream]) -> None:
    made: Limits | ServerConfig | Stream
    if kind is ServerConfig:
        made = ServerConfig(data=Path("x"))
    else:
        made = Limits() if kind is Limits else Stream(name="X", subjects=("x",))
    required = {"data", "name", "subjects"}
    names = [field.name for field in fields(kind)]
    expected = {name: "required" if name in required else shown(getattr(made, name)) for name in names}
    assert rows("settings.md", heading) == expected


def test_every_error() -> None:
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)`(?: \*)? \|", text, re.MULTILINE)) == set(errors.__all__) - {"first_of"}


@pytest.mark.parametrize("program", ["tieline", "oneroof"])
def test_every_command_and_option(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    commands = re.findall(r"^│ (\w+)  ", told(capsys, program), re.MULTILINE)
    assert commands
    for command in commands:
        section = text.partition(f"### {program} {command}\n")[2].partition("\n##")[0]
        assert section, f"{program} {command} has no section"
        options = set(re.findall(r"^│ (--[a-z-]+)", told(capsys, program, command), re.MULTILINE)) - {"--help"}
        missing = {option for option in options if f"`{option}" not in section}
        assert not missing, f"{program} {command}: {missing}"


def told(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The help of a command, from inside this process: a new one costs most of a second."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [*command, "--help"])
        assert _MAINS[command[0]]() == 0
    return capsys.readouterr().out


def test_every_stream_and_its_subjects() -> None:
    found = rows("wire.md", "Streams")
    expected = {stream.name: ", ".join(f"`{subject}`" for subject in stream.subjects) for stream in default_streams()}
    assert {name: f"`{subjects}`" for name, subjects in found.items()} == expected


def test_every_header() -> None:
    named = {value for name, value in vars(headers).items() if name.isupper()}
    text = (REFERENCE / "wire.md").read_text(encoding="utf-8").partition("## Headers\n")[2].partition("\n## ")[0]
    missing = {name for name in named if f"`{name}`" not in text}
    assert not missing


@pytest.mark.parametrize("kind", get_args(facts.Fact.__value__))
def test_every_fact_with_its_fields(kind: type[facts.Fact]) -> None:
    section = (REFERENCE / "wire.md").read_text(encoding="utf-8").partition(f"### {kind.__name__.lower()}\n")[2]
    expected = ["callId" if f.name == "conversation" else to_camel(f.name) for f in fields(kind)]
    assert re.findall(r"^\| `(\w+)` \|", section.partition("\n##")[0], re.MULTILINE) == expected
