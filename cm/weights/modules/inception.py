"""The Inception-v3 of 2015 that FID is measured with, from torch-fidelity's blocks and its resize."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as blocks
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as tensorflow_resize

SIZE = 299
UNITS, CLASSES = 2048, 1008


class Inception(nn.Module):
    """Inception-2015-12-05; its tensors have torch-fidelity's names, below `body.`, and `fc.weight`."""

    def __init__(self, *, logits: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_layers())
        self.fc = nn.Linear(UNITS, CLASSES, bias=False) if logits else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pool features [B, 2048], and logits [B, 1008] without bias, of images [B, 1 or 3, H, W] in 0..255.

        Without the weights of the logits these are None. Images are resized as TensorFlow 1 did; grey is repeated.
        """
        resized = tensorflow_resize(images.float(), size=(SIZE, SIZE), align_corners=False)
        coloured = resized.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        units = self.body((coloured - 128) / 128).flatten(1)
        return units, None if self.fc is None else self.fc(units)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same of 8-bit images x in [-1, 1], whose values 2 u / 255 - 1 become the integers u again."""
        return self(((x + 1) * 127.5).round())


def _layers() -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        Conv2d_1a_3x3=blocks.BasicConv2d(3, 32, kernel_size=3, stride=2),
        Conv2d_2a_3x3=blocks.BasicConv2d(32, 32, kernel_size=3),
        Conv2d_2b_3x3=blocks.BasicConv2d(32, 64, kernel_size=3, padding=1),
        MaxPool_1=nn.MaxPool2d(kernel_size=3, stride=2),
        Conv2d_3b_1x1=blocks.BasicConv2d(64, 80, kernel_size=1),
        Conv2d_4a_3x3=blocks.BasicConv2d(80, 192, kernel_size=3),
        MaxPool_2=nn.MaxPool2d(kernel_size=3, stride=2),
        Mixed_5b=blocks.InceptionA(192, pool_features=32),
        Mixed_5c=blocks.InceptionA(256, pool_features=64),
        Mixed_5d=blocks.InceptionA(288, pool_features=64),
        Mixed_6a=blocks.InceptionB(288),
        Mixed_6b=blocks.InceptionC(768, channels_7x7=128),
        Mixed_6c=blocks.InceptionC(768, channels_7x7=160),
        Mixed_6d=blocks.InceptionC(768, channels_7x7=160),
        Mixed_6e=blocks.InceptionC(768, channels_7x7=192),
        Mixed_7a=blocks.InceptionD(768),
        Mixed_7b=blocks.InceptionE_1(1280),
        Mixed_7c=blocks.InceptionE_2(2048),
        AvgPool=nn.AdaptiveAvgPool2d(output_size=(1, 1)),
    )
