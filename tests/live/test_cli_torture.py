"""``tieline torture``: what it prints, and its exit codes."""

import json
from pathlib import Path

from command_line import tieline


async def test_the_command_tells_what_it_broke(tmp_path: Path) -> None:
    said = await tieline("torture", "stale-retry", "28", "--seed", "5", "--json", cwd=tmp_path)
    assert said.code == 0
    run, skipped = (json.loads(said.out))["faults"]
    assert (run["held"], run["acknowledged"], run["effects"] + run["dead"]) == (True, 40, 40)
    assert all(row["holds"] for row in run["sum"])
    assert "needs" in skipped["skipped"]
    assert (await tieline("torture", "28", cwd=tmp_path)).code == 1
    assert (await tieline("torture", "flood", cwd=tmp_path)).code == 2
    listed = await tieline("torture", "--list", cwd=tmp_path)
    assert (listed.code, "poison-crash" in listed.out) == (0, True)
