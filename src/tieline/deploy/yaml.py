"""Data as YAML for people: in the order it was written, long texts as blocks."""

from collections.abc import Iterable
from typing import Any

from tieline.errors import BadSettings

__all__ = ["documents"]


def documents(found: Iterable[object], header: str) -> str:
    """One YAML document each, after ``header`` as comments. `BadSettings` where PyYAML is not installed."""
    try:
        import yaml
    except ImportError as error:
        raise BadSettings("rendering needs PyYAML, which is not installed; install tieline[deploy]") from error

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, _: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    said = yaml.dump_all(found, Dumper=Dumper, sort_keys=False, width=110, allow_unicode=True)
    return "".join(f"# {line}\n" for line in header.splitlines()) + said
