"""The checks, in the order of how fast they fail: format, lint, pinned versions, strict types."""

import subprocess
import sys

CHECKS = (
    ("format", ["ruff", "format", "--check", "--quiet", "."]),
    ("lint", ["ruff", "check", "--quiet", "."]),
    ("pins", [sys.executable, "scripts/pin.py", "--check"]),
    ("types", ["mypy"]),
)


def main() -> int:
    """Run all checks, so that one run shows everything; the exit code counts those that failed."""
    failed = 0
    for name, command in CHECKS:
        print(f"── {name}", flush=True)
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
