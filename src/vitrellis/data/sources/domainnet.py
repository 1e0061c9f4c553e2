"""DomainNet: 345 classes in six domains, from the published text lists.

Peng et al., "Moment matching for multi-source domain adaptation", ICCV 2019
(https://arxiv.org/abs/1812.01754); the cleaned version of its page. DHVT trains on one domain at a
time, and its code expects the images in class folders, which the source `folder` reads.
"""

from __future__ import annotations

from pathlib import Path

from vitrellis.data.source import Source, root_folder
from vitrellis.data.sources.lists import load_lists
from vitrellis.data.sources.published_counts import differing_counts
from vitrellis.errors import UsageError, unknown_name

COUNTS = {
    "clipart": {"train": 33_525, "test": 14_604},
    "infograph": {"train": 36_023, "test": 15_582},
    "painting": {"train": 50_416, "test": 21_850},
    "quickdraw": {"train": 120_750, "test": 51_750},
    "real": {"train": 120_906, "test": 52_041},
    "sketch": {"train": 48_212, "test": 20_916},
}
"""The numbers of images of each domain, from the lists of the dataset's page."""


_CONTENTS = "the images of a domain, and its two text lists, such as clipart_train.txt"


def load_domainnet(
    root: Path | None,
    channels: int | None = None,
    *,
    domain: str | None = None,
    lists: str | None = None,
) -> Source:
    """One domain of DomainNet.

    Args:
        root: The folder of the domain's images (`clipart/`) and, unless `lists` says otherwise, of
            `clipart_train.txt` and `clipart_test.txt`.
        channels: 1 to make the images grey; None or 3 for colour.
        domain: One of clipart, infograph, painting, quickdraw, real and sketch.
        lists: The folder of the text files, if it is not `root`.

    Raises:
        UsageError: If the domain is not given or not known.
        VitrellisError: If a text file is missing or damaged, or an image is missing.
    """
    root_folder(root, "domainnet", _CONTENTS)
    if domain is None:
        raise UsageError(f"data.args.domain: not given; DomainNet has {', '.join(COUNTS)}")
    if domain not in COUNTS:
        raise unknown_name("domain (data.args.domain)", str(domain), COUNTS)
    source = load_lists(root, channels, lists=lists, domain=domain)
    notes = differing_counts(f"DomainNet, {domain}", source.splits, COUNTS[domain])
    return Source(
        "domainnet", source.class_names, source.train, source.val, source.test, notes=notes
    )


LAYOUTS = {"domainnet": load_domainnet}
RECOGNIZED_BY = {
    "domainnet": lambda root: any((root / f"{domain}_train.txt").is_file() for domain in COUNTS)
}
