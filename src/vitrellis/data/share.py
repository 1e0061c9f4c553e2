"""The part of a batch that one process makes: which images, which views, and what is mixed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitrellis.data.crop_store import ViewRequest
from vitrellis.data.randomness import child_keys


@dataclass(frozen=True)
class Share:
    """The part of a batch that one process makes; all tensors are on the CPU.

    Attributes:
        indices: `(b,)` numbers of the images.
        keys: `(b,)` keys of the samples.
        size: Images in the whole batch.
        rows: `(m,)` positions of the samples that are mixed.
        partners: `(m,)` numbers of the images that they are mixed with.
        partner_keys: `(m,)` keys of the partners' views.
        places: `(m,)` places of the partners among the images that are read.
        further: Numbers of the partners that are not among `indices`, each once.
    """

    indices: Tensor
    keys: Tensor
    size: int
    rows: Tensor
    partners: Tensor
    partner_keys: Tensor
    places: Tensor
    further: Tensor

    @property
    def second_keys(self) -> Tensor:
        """`(b,)` keys of the second views."""
        return child_keys(self.keys, "second-view")

    def request(self, with_second_views: bool) -> ViewRequest:
        """The images to read, `indices` and then `further`, and the views to show of them."""
        return ViewRequest(
            images=torch.cat([self.indices, self.further]),
            places=torch.cat([torch.arange(len(self.indices)), self.places]),
            keys=torch.cat([self.keys, self.partner_keys]),
            second_keys=self.second_keys if with_second_views else self.keys[:0],
        )
