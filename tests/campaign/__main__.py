"""Faults by the thousand, with a report: `make campaign`, or `python -m tests.campaign --help`.

Each kind of fault runs in a process of its own, one after the other, so that a crash of a library
ends that kind alone. A trial depends on its number and the seed, and on nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.campaign.findings import Findings
from tests.campaign.inputs import INPUTS
from tests.campaign.writes import COMMANDS, FAULTS, campaign, loaded_shim
from tests.data.sources import test_fuzzed
from tests.data.sources.tiny_layouts import LAYOUTS
from tests.runs import test_damage

TRIALS = {"recipes": 2000, "commands": 1500, "pictures": 3000, "archives": 40, "flips": 2000}
"""Trials of each kind for a share of 1; of archives, for each layout."""


def writes(folder: Path, share: float, seed: int) -> list[Findings]:
    """Kills and full disks at operations that write: all of them for a share of 1."""
    found = []
    with loaded_shim(folder) as shim:
        for name in COMMANDS:
            for fault in FAULTS:
                found.append(campaign(shim, folder, name, fault, share, seed))
                _say(found[-1])
    return found


def archives(folder: Path, share: float, seed: int) -> list[Findings]:
    """Damaged datasets in every layout: folders, lists, tables, archives, databases."""
    del folder
    found = Findings("damaged datasets")
    for name in LAYOUTS:
        for number in range(seed, seed + max(1, round(share * TRIALS["archives"]))):
            wrong = test_fuzzed.case(name, number)
            found.ends["wrong" if wrong else "read, or refused"] += 1
            if wrong:
                found.wrong.append(f"{name}, seed {number}: {wrong}")
    _say(found)
    return [found]


def flips(folder: Path, share: float, seed: int) -> list[Findings]:
    """Changed bytes in the files of a run and of a store of features."""
    whole = folder / "whole"
    whole.mkdir()
    test_damage.write_whole(whole)
    found = Findings("changed bytes in the files of a run")
    trials = max(1, round(share * TRIALS["flips"]))
    try:
        found.ends.update(test_damage.damage(whole, folder / "copy", trials, seed))
    except AssertionError as error:
        found.ends["wrong"] += 1
        found.wrong.append(str(error))
    _say(found)
    return [found]


def _inputs(kind: str) -> Callable[[Path, float, int], list[Findings]]:
    def run(folder: Path, share: float, seed: int) -> list[Findings]:
        found = INPUTS[kind](folder, max(1, round(share * TRIALS[kind])), seed)
        _say(found)
        return [found]

    return run


KINDS: dict[str, Callable[[Path, float, int], list[Findings]]] = {
    "writes": writes,
    "flips": flips,
    "archives": archives,
    **{kind: _inputs(kind) for kind in INPUTS},
}


def main() -> int:
    """Runs the kinds that are asked for; the exit code is 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="by default all")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the faults")
    parser.add_argument("--share", type=float, default=1.0, help="the share of all trials")
    chosen = parser.parse_args()
    if len(chosen.kinds) == 1:
        folder = Path(tempfile.mkdtemp(prefix="campaign-"))
        try:
            found = KINDS[chosen.kinds[0]](folder, chosen.share, chosen.seed)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return int(any(each.wrong for each in found))
    codes = []
    for kind in chosen.kinds or KINDS:
        began = time.monotonic()
        options = ["--seed", str(chosen.seed), "--share", str(chosen.share)]
        ended = subprocess.run(
            [sys.executable, "-m", "tests.campaign", kind, *options], check=False
        )
        codes.append(ended.returncode)
        if ended.returncode not in (0, 1):
            print(f"{kind}: crashed with {ended.returncode}")  # noqa: T201
        print(f"{kind}: {time.monotonic() - began:,.0f} s", flush=True)  # noqa: T201
    return int(any(codes))


def _say(found: Findings) -> None:
    for line in (str(found), *(f"  {wrong}" for wrong in found.wrong)):
        print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
