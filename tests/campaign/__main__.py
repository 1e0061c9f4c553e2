"""Faults by the thousand, with a report: `make campaign`, or `python -m tests.campaign --help`.

Each kind of fault runs in a process of its own, so that a crash of a library ends that kind alone.
A trial depends on its number and the seed, and on nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.campaign.findings import Findings
from tests.campaign.inputs import INPUTS
from tests.campaign.writes import COMMANDS, campaign, loaded_shim
from tests.data.sources import test_fuzzed
from tests.data.sources.tiny_layouts import LAYOUTS
from tests.runs import test_damage

Kind = Callable[[Path, float, int], Findings]
"""Makes trials in an empty folder: a share of all, drawn by a seed."""
TRIALS = {"recipes": 2000, "commands": 1500, "pictures": 3000, "archives": 40, "flips": 2000}
"""Trials of each kind for a share of 1; of archives, for each layout."""


def _writes(name: str) -> Kind:
    """Kills and full disks at the writes of a command: at all of them for a share of 1."""

    def run(folder: Path, share: float, seed: int) -> Findings:
        with loaded_shim(folder) as shim:
            return campaign(shim, folder, name, share, seed)

    return run


def archives(folder: Path, share: float, seed: int) -> Findings:
    """Damaged datasets in every layout: folders, lists, tables, archives, databases."""
    del folder
    found = Findings("damaged datasets")
    for name in LAYOUTS:
        for number in range(seed, seed + max(1, round(share * TRIALS["archives"]))):
            wrong = test_fuzzed.case(name, number)
            found.ends["wrong" if wrong else "read, or refused"] += 1
            if wrong:
                found.wrong.append(f"{name}, seed {number}: {wrong}")
    return found


def flips(folder: Path, share: float, seed: int) -> Findings:
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
    return found


def _inputs(kind: str) -> Kind:
    def run(folder: Path, share: float, seed: int) -> Findings:
        return INPUTS[kind](folder, max(1, round(share * TRIALS[kind])), seed)

    return run


KINDS: dict[str, Kind] = {
    **{f"writes-{name}": _writes(name) for name in COMMANDS},
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
    parser.add_argument("--jobs", type=int, default=2, help="kinds at the same time")
    chosen = parser.parse_args()
    if len(chosen.kinds) == 1:
        return int(_run_here(chosen.kinds[0], chosen.share, chosen.seed))
    options = ["--seed", str(chosen.seed), "--share", str(chosen.share)]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        codes = pool.map(lambda kind: _run_apart(kind, options), chosen.kinds or KINDS)
        return int(any(codes))


def _run_here(kind: str, share: float, seed: int) -> bool:
    """Runs one kind in this process, and says whether anything was wrong."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    try:
        found = KINDS[kind](folder, share, seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [f"{found}; {time.monotonic() - began:,.0f} s", *(f"  {each}" for each in found.wrong)]
    print("\n".join(lines), flush=True)  # noqa: T201
    return bool(found.wrong)


def _run_apart(kind: str, options: list[str]) -> int:
    """Runs one kind in a process of its own, and returns its exit code."""
    words = [sys.executable, "-m", "tests.campaign", kind, *options]
    code = subprocess.run(words, check=False).returncode
    if code not in (0, 1):
        print(f"{kind}: crashed with {code}", flush=True)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
