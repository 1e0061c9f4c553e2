"""The CIFAR ResNets: small CNNs for small images, the teachers of locality guidance.

Paper: He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2,
https://arxiv.org/abs/1512.03385. Depth 6n + 2: a 3x3 stem and three stages of n basic blocks.

Original code: github.com/lkhl/tiny-transformers (1x1-convolution shortcuts, the default here),
github.com/kaidic/LDAM-DRW and github.com/val-iisc/DeiT-LT (`shortcut="pad"`, `cosine=True`), and
github.com/dvlab-research/Parametric-Contrastive-Learning (`shortcut="pad"`, `weight_init="paco"`).
Initial weights are those of the code that a network comes from.

How we differ: any number of input channels, any image size and any stride of the stem; timm's
conventions throughout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from vitrellis.models.support.timm_contract import Grid, TimmClassifier

Shortcut = Literal["conv", "pad"]
WeightInit = Literal["tiny-transformers", "ldam", "paco"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_chans: Channels of the input.
        out_chans: Channels of the output.
        stride: The stride of the first convolution.
        shortcut: "conv": 1x1 convolution and batch norm where the shape changes; "pad": every
            second row and column, and zero channels on both sides (option A of the paper).
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chans)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chans)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_chans != out_chans:
            self.shortcut = (
                PadShortcut(stride, out_chans - in_chans)
                if shortcut == "pad"
                else nn.Sequential(
                    nn.Conv2d(in_chans, out_chans, 1, stride, bias=False),
                    nn.BatchNorm2d(out_chans),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in, H, W)` to `(B, out, H / stride, W / stride)`, rounded up."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class PadShortcut(nn.Module):
    """Subsampling and zero channels, half of them before and half after: no parameters.

    Args:
        stride: Keeps every `stride`-th row and column.
        extra: Channels to add.
    """

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, C + extra, H / stride, W / stride)`."""
        before = self.extra // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, before, self.extra - before))


class CosineClassifier(nn.Module):
    """Logits are cosines between the feature and each class: in [-1, 1], to be scaled by the loss.

    Args:
        in_features: Width of the feature.
        out_features: Number of classes.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.init_weights()

    def init_weights(self) -> None:
        """Each class is a vector of length 1, in a random direction (of a cube, as published)."""
        with torch.no_grad():
            self.weight.uniform_(-1, 1).renorm_(2, 0, 1e-5).mul_(1e5)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in)` to `(B, out)`."""
        return F.linear(F.normalize(x), F.normalize(self.weight))


class CifarResNet(TimmClassifier):
    """A ResNet of depth 6n + 2.

    Args:
        depth: 8, 14, 20, 32, 44, 56, 110, ...
        num_classes: 0 for none.
        in_chans: Image channels.
        widths: Channels of the three stages.
        stem_width: Channels before them, those of the first stage by default. The distillation
            papers' "x4" networks have 32 before 64, 128 and 256.
        shortcut: "conv" or "pad", as in `BasicBlock`.
        cosine: Use a cosine classifier, without bias.
        weight_init: The code whose initial weights these are; see `init_weights`. By default it is
            "ldam" for the long-tail papers' network, `shortcut="pad"`, and otherwise
            "tiny-transformers".
        stem_stride: The stride of the stem; 2 sees twice the side at the cost of the original.
        drop_rate: Dropout before the classifier.
        global_pool: timm's name of the pooling, "avg" by default; "" for none.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        stem_width: int | None = None,
        shortcut: Shortcut = "conv",
        cosine: bool = False,
        weight_init: WeightInit | None = None,
        stem_stride: int = 1,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__(num_classes, in_chans, widths[-1])
        if depth % 6 != 2:
            raise ValueError(f"depth: {depth} is not 6n + 2")
        if weight_init is None:
            weight_init = "ldam" if shortcut == "pad" else "tiny-transformers"
        if weight_init not in get_args(WeightInit):
            names = ", ".join(get_args(WeightInit))
            raise ValueError(f"weight_init: {weight_init!r} is not one of {names}")
        self.weight_init = weight_init
        self.cosine = cosine
        self.drop_rate = drop_rate
        width = widths[0] if stem_width is None else stem_width
        self.conv1 = nn.Conv2d(in_chans, width, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = nn.ModuleList()
        for number, out_width in enumerate(widths):
            stride = 1 if number == 0 else 2
            blocks = [BasicBlock(width, out_width, stride, shortcut)]
            blocks += [
                BasicBlock(out_width, out_width, 1, shortcut) for _ in range((depth - 2) // 6 - 1)
            ]
            self.stages.append(nn.Sequential(*blocks))
            self.feature_info.append(
                {
                    "num_chs": out_width,
                    "reduction": stem_stride * 2**number,
                    "module": f"stages.{number}",
                }
            )
            width = out_width
        self.norm = nn.Identity()  # the last block ends in a ReLU
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.fc = self._classifier(num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Initial weights by `weight_init`.

        Convolutions are Kaiming normal, over the outputs ("tiny-transformers") or over the inputs
        ("ldam", "paco"). A linear classifier is normal 0.01 with bias 0 ("tiny-transformers"),
        Kaiming normal with torch's bias ("ldam"), or all as torch's ("paco").
        """
        over: Literal["fan_out", "fan_in"] = "fan_in"
        if self.weight_init == "tiny-transformers":
            over = "fan_out"
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode=over, nonlinearity="relu")
        if isinstance(self.fc, nn.Linear) and self.weight_init == "tiny-transformers":
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)
        elif isinstance(self.fc, nn.Linear) and self.weight_init == "ldam":
            nn.init.kaiming_normal_(self.fc.weight)

    def block_outputs(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """`(B, in_chans, H, W)` to each stage's `(B, C, H / stride, W / stride)`, rounded up."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.run_block(stage, x)
            yield x, (x.shape[-2], x.shape[-1])

    def feature_map(self, output: Tensor, grid: Grid) -> Tensor:
        """The output of a stage, which is a map already."""
        del grid
        return output

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """`(B, num_features, H, W)` to `(B, num_classes)`, or `(B, num_features)`."""
        x = self.global_pool(x)
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer, for other classes."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.fc = self._classifier(num_classes)

    def no_weight_decay(self) -> set[str]:
        """Nothing beyond biases and one-dimensional parameters."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Groups of parameters from input to output, for layer-wise learning rates."""
        return {
            "stem": r"^conv1|bn1",
            "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)",
        }

    def _classifier(self, num_classes: int) -> nn.Module:
        if num_classes == 0:
            return nn.Identity()
        if self.cosine:
            return CosineClassifier(self.num_features, num_classes)
        return nn.Linear(self.num_features, num_classes)


default_cfgs = generate_default_cfgs(
    {
        f"cifar_resnet{depth}": {
            "num_classes": 100,
            "input_size": (3, 32, 32),
            "min_input_size": (3, 16, 16),
            "pool_size": (8, 8),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "first_conv": "conv1",
            "classifier": "fc",
        }
        for depth in (8, 14, 20, 32, 44, 56, 110)
    }
)


def _create(name: str, depth: int, pretrained: bool, kwargs: dict[str, Any]) -> CifarResNet:
    model = build_model_with_cfg(CifarResNet, name, pretrained, **({"depth": depth} | kwargs))
    assert isinstance(model, CifarResNet)
    return model


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """One block a stage: for tests and very small images."""
    return _create("cifar_resnet8", 8, pretrained, kwargs)


@register_model
def cifar_resnet14(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Two blocks a stage: the demo's teacher."""
    return _create("cifar_resnet14", 14, pretrained, kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Three blocks a stage."""
    return _create("cifar_resnet20", 20, pretrained, kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Five blocks a stage: with `shortcut="pad"`, the long-tail papers' network."""
    return _create("cifar_resnet32", 32, pretrained, kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Seven blocks a stage."""
    return _create("cifar_resnet44", 44, pretrained, kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Nine blocks a stage: the teacher of locality guidance, 861,620 parameters at 100 classes."""
    return _create("cifar_resnet56", 56, pretrained, kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """Eighteen blocks a stage."""
    return _create("cifar_resnet110", 110, pretrained, kwargs)
