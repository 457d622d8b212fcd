"""The network: the paper's ResNet of nine layers, under the parameter names of torchvision's ResNet.

One basic block a stage ([1, 1, 1, 1]), 64-128-256-512 channels (a `width` other than 64 scales them), group norm for
every batch norm, Mish for every ReLU, adaptive average pooling, one linear layer. Nothing is computed in place, and no
module mixes the images of a batch, so that the gradient of a single image is well defined.
"""

import math
from typing import Final

from torch import Tensor, nn

from dpdt.base.vocabulary import LABELS

__all__ = ["ResNet9"]

PAPER_GROUPS: Final = 32


def num_groups(width: int) -> int:
    """Groups of every group norm: the paper's 32 for its width of 64, and in proportion for smaller widths.

    So a group has as many channels (2, 4, 8 and 16 over the stages) as in the paper; with 32 groups of a narrow network
    a group of two channels would, on small images, know little but a sign.

    >>> num_groups(64), num_groups(16), num_groups(128)
    (32, 8, 32)
    """
    return width // 2 if width < 2 * PAPER_GROUPS else math.gcd(PAPER_GROUPS, width)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.GroupNorm(groups, channels)
        self.act1 = nn.Mish()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.GroupNorm(groups, channels)
        self.act2 = nn.Mish()
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.GroupNorm(groups, channels)
            )
            if stride != 1 or in_channels != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) to (n, channels, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act2(y + shortcut)  # type: ignore[no-any-return]


class ResNet9(nn.Module):
    """Gray images to one logit a label.

    Args:
        width: Channels of the first stage; the paper's is 64.
        in_channels: 1, or 3 to repeat the gray channel as published weights expect.
        num_outputs: Logits an image.
    """

    def __init__(self, *, width: int = 64, in_channels: int = 1, num_outputs: int = len(LABELS)) -> None:
        super().__init__()
        groups = num_groups(width)
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.GroupNorm(groups, width)
        self.act1 = nn.Mish()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(width, width, stride=1, groups=groups))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, stride=2, groups=groups))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, stride=2, groups=groups))
        self.layer4 = nn.Sequential(BasicBlock(4 * width, 8 * width, stride=2, groups=groups))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as torchvision's ResNet starts
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of gray images.

        Args:
            x: float32 in 0..1, shape (n, 1, size, size).

        Returns:
            float32, shape (n, outputs), in the order of the study's labels.
        """
        if self.in_channels != 1:
            x = x.expand(-1, self.in_channels, -1, -1)
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))  # type: ignore[no-any-return]
