"""A dataset's survey as values for programs, as a page with pictures, and as advice."""

from __future__ import annotations

import base64
import html
import io
import shlex
from collections.abc import Sequence
from typing import Any

from PIL import Image

from vitrellis.data.duplicates import Group
from vitrellis.data.inspection.survey import Survey
from vitrellis.data.source import UNBALANCED

_OWN_LAYOUTS: tuple[str, ...] = ("folder", "lists", "table", "arrays", "huggingface", "lmdb")
_OWN_LAYOUTS += ("webdataset", "medmnist", "domainnet", "imagenet")  # without published recipes
_PHOTO_SIDE = 64  # of the recipe `photos`
_SMALL_CLASS = 10
_THUMBNAIL = 96


def suggestions(found: Survey) -> tuple[str | None, list[str]]:
    """The command to train with, and the reasons; None while training could not begin.

    Args:
        found: The survey.
    """
    advice: list[str] = []
    if found.unreadable:
        advice.append(
            f"remove or replace the {len(found.unreadable):,} files that cannot be read, or leave "
            "them out in training: data.on_bad_image=skip"
        )
    if any(group.crosses_splits for group in found.same):
        advice.append(
            "remove the images of the test and validation splits that are in the training split, "
            "too: figures on them say nothing about new images"
        )
    if any(group.has_several_labels for group in found.same):
        advice.append("decide on one label for each image that has several")
    if found.error is not None:
        reason = found.error.partition("\n")[0].rstrip(":")  # the rest names single images
        return None, [*advice, f"training cannot begin: {reason}"]
    words = ["vitrellis", "train"]
    if found.layout in _OWN_LAYOUTS:
        words += ["photos"]
    else:
        advice.append(f"published recipes for this dataset: vitrellis recipes {found.layout}")
        words += ["photos"]
    words.append(f"data.root={found.root}")
    if found.layout != "folder":
        words.append(f"data.source={found.layout}")
    words += [f"data.args.{key}={value}" for key, value in found.arguments.items()]
    words += _size(found, advice) + _balance(found, advice)
    _splits(found, advice)
    return " ".join(map(shlex.quote, words)), advice


def _size(found: Survey, advice: list[str]) -> list[str]:
    side = found.median_side
    if side is None:
        return []
    if side < _PHOTO_SIDE - 8:
        fitting = max(16, 4 * round(side / 4))
        advice.append(f"the images are small: input.img_size={fitting} is near their own size")
        return [f"input.img_size={fitting}"]
    if side >= 2 * _PHOTO_SIDE:
        advice.append(
            f"images are reduced to {_PHOTO_SIDE} pixels, from a median of {side}; if small things "
            "matter in them, input.img_size=96 or 128 sees more and takes 2 to 4 times as long"
        )
    return []


def _balance(found: Survey, advice: list[str]) -> list[str]:
    if found.imbalance is None or found.imbalance < UNBALANCED:
        return []
    advice.append(
        f"the largest class has {found.imbalance:.0f} times as many images as the smallest: "
        "balance=true makes all classes count the same"
    )
    return ["balance=true"]


def _splits(found: Survey, advice: list[str]) -> None:
    if "val" not in found.counts:
        advice.append(
            "there is no validation split: some of the training images will be set aside for one "
            "(data.val_fraction)"
        )
    if "test" not in found.counts:
        advice.append(
            "there is no test split: keep some images aside in test/, or use data.folds=5 "
            "data.fold=0, to know how good the model is on new images"
        )
    few = [
        found.class_names[k]
        for k, count in enumerate(found.counts["train"])
        if count < _SMALL_CLASS
    ]
    if few:
        names = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        advice.append(f"classes with fewer than {_SMALL_CLASS} training images: {names}")


def survey_values(found: Survey, command: str | None, advice: Sequence[str]) -> dict[str, Any]:
    """The survey as dictionaries, lists, strings and numbers.

    Args:
        found: The survey.
        command: The suggested command.
        advice: The reasons for it.
    """
    return {
        "root": str(found.root),
        "source": found.layout,
        "arguments": found.arguments,
        "classes": list(found.class_names),
        "counts": found.counts,
        "imbalance": found.imbalance,
        "channels": found.channels,
        "sizes": [
            {"height": height, "width": width, "images": count}
            for (height, width), count in found.sizes.most_common()
        ],
        "formats": dict(found.formats.most_common()),
        "unreadable": [{"path": str(o.path), "reason": o.error} for o in found.unreadable],
        "oddities": {kind: list(map(str, paths)) for kind, paths in found.oddities.items()},
        "same": [_group_values(group, found) for group in found.same],
        "alike": [_group_values(group, found) for group in found.alike],
        "notes": list(found.notes),
        "error": found.error,
        "advice": list(advice),
        "command": command,
    }


def _group_values(group: Group, found: Survey) -> dict[str, Any]:
    return {
        "crosses_splits": group.crosses_splits,
        "has_several_labels": group.has_several_labels,
        "images": [
            {"split": m.split, "name": m.name, "label": found.class_names[m.label]}
            for m in group.members
        ],
    }


def survey_page(found: Survey, command: str | None, advice: Sequence[str]) -> str:
    """The survey as one HTML file that needs no other.

    Args:
        found: The survey.
        command: The suggested command.
        advice: The reasons for it.
    """
    parts = [f"<h1>{_safe(found.root)}</h1>", f"<p>data.source={_safe(found.layout)}</p>"]
    parts.append("<ul>" + "".join(f"<li>{_safe(sentence)}" for sentence in advice) + "</ul>")
    if command is not None:
        parts.append(f"<pre>{_safe(command)}</pre>")
    if found.counts:
        parts.append(_class_table(found))
    for title, paths in found.oddities.items():
        parts.append(_file_list(f"Files: {title}", [str(path) for path in paths]))
    parts.append(_file_list("Files that cannot be read", [str(o.error) for o in found.unreadable]))
    parts.append(_gallery("The same image more than once", found.same, found))
    parts.append(_gallery("Images that look alike", found.alike, found))
    parts += [f"<p>Note: {_safe(note)}</p>" for note in found.notes]
    return _PAGE.format(title=_safe(found.root), body="\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }}
td, th {{ padding: .1rem .7rem .1rem 0; text-align: left }}
td.number {{ text-align: right }}
.bar {{ display: inline-block; height: .8em; background: #3b7dd8 }}
figure {{ display: inline-block; margin: .3rem; font-size: 12px; width: 11rem;
  overflow-wrap: anywhere; vertical-align: top }}
pre {{ background: #eee; padding: .7rem; white-space: pre-wrap }}
</style></head><body>
{body}
</body></html>
"""


def _class_table(found: Survey) -> str:
    train = found.counts["train"]
    rows = ["<tr><th>class" + "".join(f"<th>{name}" for name in found.counts)]
    for k in sorted(range(len(train)), key=lambda k: -train[k]):
        cells = "".join(f'<td class="number">{counts[k]:,}' for counts in found.counts.values())
        width = round(20 * train[k] / max(train), 2)
        bar = f'<td><span class="bar" style="width:{width}rem"></span>'
        rows.append(f"<tr><td>{_safe(found.class_names[k])}{cells}{bar}")
    return "<table>" + "\n".join(rows) + "</table>"


def _file_list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{_safe(line)}" for line in lines)
    return f"<h2>{_safe(title)} ({len(lines):,})</h2><ul>{items}</ul>"


def _gallery(title: str, groups: Sequence[Group], found: Survey) -> str:
    if not groups:
        return ""
    parts = [f"<h2>{title} ({len(groups):,} groups)</h2>"]
    worst_first = sorted(groups, key=lambda g: (not g.has_several_labels, not g.crosses_splits))
    for group in worst_first[:_GROUPS_SHOWN]:
        figures = (
            f"<figure>{_thumbnail(m.name)}<figcaption>{_safe(m.split)}, "
            f"{_safe(found.class_names[m.label])}<br>{_safe(m.name)}</figcaption></figure>"
            for m in group.members[:_MEMBERS_SHOWN]
        )
        parts.append("<div>" + "".join(figures) + "</div>")
    if len(groups) > _GROUPS_SHOWN:
        parts.append(f"<p>and {len(groups) - _GROUPS_SHOWN:,} more groups</p>")
    return "\n".join(parts)


_GROUPS_SHOWN = 50
_MEMBERS_SHOWN = 6


def _thumbnail(path: str) -> str:
    """A small picture as part of the page; nothing for images that do not lie in files."""
    try:
        with Image.open(path) as image:
            image.thumbnail((_THUMBNAIL, _THUMBNAIL))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG")
    except OSError:
        return ""
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{content}">'


def _safe(value: object) -> str:
    return html.escape(str(value))
