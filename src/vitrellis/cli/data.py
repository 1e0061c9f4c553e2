"""`vitrellis data`: downloads images, looks at them before anything is trained, and packs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitrellis.cli.console import (
    Quiet,
    console,
    help_of,
    new_table,
    print_json,
    print_line,
    print_table,
    progress_console,
)
from vitrellis.cli.download import download
from vitrellis.cli.shared_options import JsonOption, output_file, output_place
from vitrellis.errors import UsageError, VitrellisError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitrellis.data.duplicates import Group
    from vitrellis.data.inspection.survey import Survey

_BAR = 24  # characters of the longest bar
_EXAMPLES = 3
_CLASSES_SHOWN = 40

_Path = Annotated[Path, typer.Argument(metavar="PATH", help="The folder or file of a dataset.")]
_Source = Annotated[
    str | None, typer.Option(help="The layout (data.source), if it is not recognised.")
]
_Arguments = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="KEY=VALUE", help="An argument of the layout (data.args)."),
]

data = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
"""The command and its sub-commands."""


def _about() -> None:
    """Download images, look at them before anything is trained on them, and pack them.

    Examples:
      vitrellis data download cifar100
      vitrellis data inspect ~/my-photos
      vitrellis data pack ~/my-photos my-photos.lmdb
      vitrellis data verify my-photos.lmdb
    """


def inspect(
    path: _Path,
    source: _Source = None,
    argument: _Arguments = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with pictures into this file.", callback=output_file),
    ] = None,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Say what a dataset holds, what is wrong with it, and which command to type.

    Every file is decoded whole, so damage anywhere in it is found. Images that are the same, or
    look alike by their perceptual hashes, are listed where they are in several splits or have
    several labels. The exit code is 1 if training could not begin.

    Examples:
      vitrellis data inspect ~/my-photos
      vitrellis data inspect ~/my-photos --html report.html
      vitrellis data inspect pets/labels.csv --arg label_column=breed
    """
    from vitrellis.data.inspection.survey import survey
    from vitrellis.data.sources import recognized
    from vitrellis.report.survey_report import suggestions, survey_page, survey_values
    from vitrellis.runs.atomic import atomic_write
    from vitrellis.training.display import reading

    root = path.expanduser()
    layout = source or _only(recognized(root), root)
    progress = progress_console(quiet=quiet)
    found = survey(layout, root, _arguments(argument or []), lambda title: reading(progress, title))
    command, advice = suggestions(found)
    if html is not None:
        page = survey_page(found, command, advice)
        atomic_write(html, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    if as_json:
        print_json(survey_values(found, command, advice))
    else:
        _print(found)
        _print_advice(command, advice)
    if found.error is None:
        return
    if as_json or "\n" in found.error:  # the advice has its first line, and this names the images
        raise VitrellisError(found.error)
    raise typer.Exit(1)


def pack(
    path: _Path,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A file FILE.lmdb, or a folder for tar shards.",
            callback=output_place,
        ),
    ],
    source: _Source = None,
    argument: _Arguments = None,
    size: Annotated[
        int | None,
        typer.Option(min=8, help="Shrink images whose shorter side is longer, in pixels."),
    ] = None,
    shard_mb: Annotated[
        int, typer.Option(min=1, help="About how many megabytes a tar shard becomes.")
    ] = 500,
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Pack a dataset into one LMDB file, or into tar shards.

    A name that ends with .lmdb makes one file, and any other name a folder of shards, as
    WebDataset reads them. Encoded images are kept byte for byte, unless --size shrinks them, so a
    run on the packed set sees the same images in the same order. A pack that was interrupted
    continues with the same command.

    Examples:
      vitrellis data pack ~/my-photos my-photos.lmdb
      vitrellis data pack ~/imagenet imagenet-shards --source imagenet --size 256
      vitrellis train photos data.source=lmdb data.root=my-photos.lmdb
    """
    from vitrellis.data.packing.pack import pack as pack_source
    from vitrellis.data.sources import load_source, recognized
    from vitrellis.training.display import reading

    root = path.expanduser()
    layout = source or _only(recognized(root), root)
    loaded = load_source(layout, root, args=_arguments(argument or []))
    is_lmdb = out.suffix == ".lmdb"
    with reading(progress_console(quiet=quiet), "packing") as progress:
        packed = pack_source(
            loaded,
            out,
            form="lmdb" if is_lmdb else "tar",
            size=size,
            shard_bytes=1_000_000 * shard_mb,
            progress=progress,
        )
    kind = "lmdb" if is_lmdb else "webdataset"
    command = f"vitrellis train photos data.source={kind} data.root={out}"
    if as_json:
        counts = {"images": packed.images, "kept": packed.kept, "bytes": packed.num_bytes}
        print_json({"out": str(out), "source": kind, **counts, "command": command})
        return
    kept = f" ({packed.kept:,} of them packed by an earlier attempt)" if packed.kept else ""
    print_line(f"{packed.images:,} images{kept}, {packed.num_bytes / 1e6:,.1f} MB: {out}")
    print_line(f"Train with:  {command}")


def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="What `data pack` wrote.")],
    as_json: JsonOption = False,
    quiet: Quiet = False,
) -> None:
    """Read every image of a packed dataset, and compare it with its checksum.

    Examples:
      vitrellis data verify my-photos.lmdb
    """
    from vitrellis.data.packing.pack import verify as verify_packed
    from vitrellis.training.display import reading

    with reading(progress_console(quiet=quiet), "verifying") as progress:
        count = verify_packed(path.expanduser(), progress)
    if as_json:
        print_json({"path": str(path), "images": count})
        return
    print_line(f"{path}: all {count:,} images are as they were packed")


def _only(layouts: Sequence[str], root: Path) -> str:
    if len(layouts) > 1:
        raise UsageError(f"{root} looks like {' and like '.join(layouts)}; say which by --source")
    return layouts[0]


def _arguments(words: Sequence[str]) -> dict[str, Any]:
    from vitrellis.recipe.yaml import parse_value

    arguments = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise UsageError(f"--arg {word}: should be KEY=VALUE, such as label_column=breed")
        arguments[key.removeprefix("data.args.")] = parse_value(value, f"--arg {key}")
    return arguments


def _print(found: Survey) -> None:
    images = {name: sum(counts) for name, counts in found.counts.items()}
    total = sum(images.values()) or sum(found.sizes.values())
    print_line(f"{found.root}  (data.source={found.layout})")
    if images:
        split = ", ".join(f"{count:,} {name}" for name, count in images.items())
        print_line(f"  images    {split}; {len(found.class_names):,} classes")
    else:
        print_line(f"  images    {total:,} that can be read")
    if found.sizes:
        print_line(f"  sizes     {_sizes(found)}")
    if found.formats:
        formats = ", ".join(f"{count:,} {name}" for name, count in found.formats.most_common())
        print_line(f"  formats   {formats}")
    if found.channels is not None:
        kind = {1: "grey", 3: "colour"}.get(found.channels, f"{found.channels} channels")
        print_line(f"  channels  {kind}")
    if found.counts:
        console.print()
        _print_classes(found)
    _print_problems(found)


def _sizes(found: Survey) -> str:
    heights, widths = zip(*found.sizes, strict=True)
    if len(found.sizes) == 1:
        return f"all {heights[0]} x {widths[0]} (height x width)"
    return (
        f"heights {min(heights)} to {max(heights)}, widths {min(widths)} to {max(widths)}, "
        f"median of the shorter side {found.median_side} pixels"
    )


def _print_classes(found: Survey) -> None:
    train = found.counts["train"]
    largest = max(train)
    order = sorted(range(len(train)), key=lambda k: -train[k])
    shown = order
    if len(order) > _CLASSES_SHOWN:
        shown = order[: _CLASSES_SHOWN // 2] + order[-_CLASSES_SHOWN // 2 :]
    table = new_table("class", *(f">{name}" for name in found.counts), "")
    for k in shown:
        counts = (f"{by_class[k]:,}" for by_class in found.counts.values())
        bar = "\N{FULL BLOCK}" * max(1, round(_BAR * train[k] / largest))
        table.add_row(found.class_names[k], *counts, bar)
    print_table(table)
    if len(shown) < len(order):
        print_line(f"  ({len(order) - len(shown):,} classes between these are not shown)")


def _print_problems(found: Survey) -> None:
    across = [group for group in found.same if group.crosses_splits]
    conflicts = [group for group in found.same if group.has_several_labels]
    within = [group for group in found.same if group not in across and group not in conflicts]
    near = [group for group in found.alike if group.crosses_splits]
    other_near = [group for group in found.alike if group not in near]
    lists: dict[str, list[str]] = {
        "files that cannot be read": [str(one.error) for one in found.unreadable],
        "the same image in several splits": [_described(group, found) for group in across],
        "the same image with several labels": [_described(group, found) for group in conflicts],
        "the same image several times": [_described(group, found) for group in within],
        "images in several splits that look alike": [_described(group, found) for group in near],
        "images in one split that look alike": [_described(group, found) for group in other_near],
    }
    for kind, paths in found.oddities.items():
        lists[f"files, {kind}"] = list(map(str, paths))
    for note in found.notes:
        print_line(f"  note: {note}")
    for title, entries in lists.items():
        if entries:
            console.print()
            print_line(f"{title}: {len(entries):,}")
            for entry in entries[:_EXAMPLES]:
                print_line(f"  {entry}")
            if len(entries) > _EXAMPLES:
                print_line(
                    f"  and {len(entries) - _EXAMPLES:,} more (all of them: --json, or --html)"
                )


def _described(group: Group, found: Survey) -> str:
    """The members of a group, each with its split and its class."""
    names = [
        f"{member.name} ({member.split}, {found.class_names[member.label]})"
        for member in group.members[:_EXAMPLES]
    ]
    more = len(group.members) - len(names)
    return " = ".join(names) + (f" and {more} more" if more else "")


def _print_advice(command: str | None, advice: Sequence[str]) -> None:
    console.print()
    for sentence in advice:
        print_line(f"- {sentence}")
    if command is not None:
        print_line(f"Train with:  {command}")


data.callback(help=help_of(_about))(_about)
data.command("download", help=help_of(download))(download)
data.command("inspect", help=help_of(inspect))(inspect)
data.command("pack", help=help_of(pack))(pack)
data.command("verify", help=help_of(verify))(verify)
