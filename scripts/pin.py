"""Pin every direct and transitive version in pyproject.toml, from what uv resolves.

``uv.lock`` would name registry hosts, so it stays out of git; ``[tool.uv] constraint-dependencies`` holds the same
versions instead. ``--check`` changes nothing and fails when the two differ.
"""

import re
import subprocess
import sys
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
BLOCK = re.compile(r"^constraint-dependencies = \[\n(?:  .*\n)*\]\n", re.MULTILINE)


def resolved() -> list[str]:
    """``name==version`` for everything that any extra or group of the workspace installs."""
    command = ["uv", "export", "--quiet", "--no-hashes", "--all-groups", "--all-extras", "--all-packages"]
    text = subprocess.run(
        [*command, "--no-emit-workspace", "--no-annotate", "--no-header"], check=True, capture_output=True, text=True
    ).stdout
    pins = {line.split(";")[0].strip() for line in text.splitlines() if "==" in line}
    return sorted(pins, key=str.lower)


def main() -> int:
    """Write the pins, or compare them with ``--check``."""
    text = PYPROJECT.read_text()
    rows = "".join(f'  "{pin}",\n' for pin in resolved())
    pinned = BLOCK.sub(lambda _: f"constraint-dependencies = [\n{rows}]\n", text, count=1)
    if "--check" in sys.argv[1:]:
        if pinned != text:
            print("pyproject.toml does not pin what uv resolves; run: uv run python scripts/pin.py")
            return 1
        return 0
    PYPROJECT.write_text(pinned)
    return 0


if __name__ == "__main__":
    sys.exit(main())
