"""How much memory OneRoof's idle processes take, how soon they are ready, and how long the library takes to import.

`tieline up oneroof` starts its server and nine processes on a fresh folder; the clock stops at its ``ready`` line.
Memory is the resident set (VmRSS) of each process a moment after that, with its share of what others hold too; PSS
counts what is shared once. Linux only.

    .venv/bin/python bench/footprint.py [--json] [--quick]
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rounds import lines, options, print_json

POD = "oneroof"
SETTLE = 2.0  # seconds from ready to the look at the memory


@dataclass(frozen=True, slots=True)
class Memory:
    """One idle process, in MB."""

    name: str
    rss: float
    pss: float


@dataclass(frozen=True, slots=True)
class Start:
    """One `tieline up`: seconds until it said ``ready``, and its processes then."""

    seconds: float
    processes: list[Memory]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Seconds are medians; the memory is of the last start."""

    ready_seconds: float
    slowest_ready_seconds: float
    import_seconds: float
    largest_agent_mb: float
    processes: list[Memory]


def memory(name: str, pid: int) -> Memory:
    """What the kernel says of a process."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text()

    def megabytes(field: str) -> float:
        match = re.search(rf"^{field}:\s+(\d+) kB$", told, re.MULTILINE)
        if match is None:
            raise ValueError(f"/proc/{pid}/smaps_rollup has no {field}")
        return int(match[1]) / 1024

    return Memory(name, megabytes("Rss"), megabytes("Pss"))


def start() -> Start:
    """Start everything once, look at it, and stop it."""
    with tempfile.TemporaryDirectory(prefix="tieline-bench-") as folder:
        command = [str(Path(sys.executable).with_name("tieline")), "up", POD, "--port", "0", "--data", folder, "--json"]
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as program:
            try:
                line = "" if program.stdout is None else program.stdout.readline()
                seconds = time.perf_counter() - began
                if '"ready"' not in line:
                    raise RuntimeError(
                        f"tieline up {POD} was not ready: {line or 'it said nothing; run it to see why'}"
                    )
                ready = json.loads(line)
                time.sleep(SETTLE)
                return Start(seconds, [memory(process["name"], process["pid"]) for process in ready["processes"]])
            finally:
                program.terminate()
                program.communicate()


def import_seconds() -> float:
    """What `import tieline` adds to starting Python."""

    def run(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    return run("import tieline") - run("pass")


def measure(starts: int) -> Footprint:
    done = [start() for _ in range(starts)]
    processes = done[-1].processes
    return Footprint(
        ready_seconds=statistics.median(one.seconds for one in done),
        slowest_ready_seconds=max(one.seconds for one in done),
        import_seconds=statistics.median(import_seconds() for _ in range(5)),
        largest_agent_mb=max(process.rss for process in processes),
        processes=processes,
    )


def table(found: Footprint) -> str:
    memories = [(process.name, f"{process.rss:.1f}", f"{process.pss:.1f}") for process in found.processes]
    times = [
        (f"tieline up {POD}: server and {len(found.processes)} processes ready, s", f"{found.ready_seconds:.2f}"),
        ("  the slowest start, s", f"{found.slowest_ready_seconds:.2f}"),
        ("import tieline, s", f"{found.import_seconds:.2f}"),
    ]
    return "\n".join(
        (
            lines("Idle processes", ("", "RSS MB *", "PSS MB *"), memories),
            lines("Starting", ("", "*"), times),
            "* on this machine, now",
        )
    )


def main() -> None:
    given = options("Memory of idle processes, and how soon they are ready.")
    found = measure(1 if given.quick else 5)
    if given.json:
        print_json(asdict(found))
    else:
        print(table(found))


if __name__ == "__main__":
    main()
