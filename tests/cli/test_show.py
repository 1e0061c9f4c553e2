from __future__ import annotations

import json
from pathlib import Path

from tests.cli.command import assert_one_error, run_apart, run_here, vitrellis


def test_blocks_are_shown_and_drawn(place: Path) -> None:
    words = ["show", "blocks", "runs/x", "--images", "40", "--plot", "b.png"]
    lines = run_apart(*words, cwd=place).out.splitlines()
    assert lines[0] == "runs/x: 40 images"
    assert [line.split()[0] for line in lines[2:]] == ["0", "1", "2", "3"]
    assert (place / "b.png").read_bytes().startswith(b"\x89PNG")
    (place / "b.png").unlink()


def test_blocks_as_json(place: Path) -> None:
    out = run_here("show", "blocks", "runs/x", "--images", "40", "--json", cwd=place).out
    shown = json.loads(out)
    assert shown["images"] == 40
    for row in shown["blocks"]:
        assert 0 < row["nearest"] <= row["distance"] <= row["farthest"] < 40
        assert 1 <= row["rank"] <= row["width"]
        assert 1 <= row["components"] <= row["width"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    assert_one_error(vitrellis("show", "blocks", "nothing", cwd=tmp_path), 1, "does not exist")
