"""The Inception-v3 of 2015, whose features define FID, made of torch-fidelity's blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity import feature_extractor_inceptionv3 as blocks

CLASSES = 1008
SPATIAL_LAYER, SPATIAL_CHANNELS = "Mixed_6d", 7  # TensorFlow's `mixed_6`, of whose branch `conv` ADM takes 7 channels
CENTRES = {"legacy_tensorflow": 128.0, "legacy_pytorch": 127.5, "clean": 128.0}


class Inception(nn.Module):
    """Inception-2015-12-05. Its tensors have torch-fidelity's names, below `body.`, and `fc.weight`.

    `resize`: brings images [B, C, H, W] to 299 pixels per side. `centre`: the network takes (x - centre) / centre of
    images x in 0..255. `logits`: whether it has the last layer. `spatial`: whether it returns the spatial features of
    sFID too.
    """

    size, width = 299, 2048

    def __init__(
        self, resize: Callable[[Tensor, int], Tensor], *, centre: float, logits: bool, spatial: bool = False
    ) -> None:
        super().__init__()
        self.resize, self.centre, self.spatial = resize, centre, spatial
        self.body = nn.Sequential(_layers())
        self.fc = nn.Linear(self.width, CLASSES, bias=False) if logits else None

    def forward(self, images: Tensor) -> tuple[Tensor | None, ...]:
        """The pool features [B, 2048] and the logits [B, 1008] without bias, for images [B, C, H, W] in 0..255.

        The logits are None without the last layer. If they are wanted, the spatial features [B, 2023] follow, those of
        sFID (Nash et al. 2021) as ADM's evaluator has them: channels of each place, place by place.
        """
        centred = (self.resize(images, self.size) - self.centre) / self.centre
        x, spatial = centred.contiguous(memory_format=torch.channels_last), []
        for name, layer in self.body.named_children():
            if self.spatial and name == SPATIAL_LAYER:
                channels = layer.get_submodule("branch1x1")(x)[:, :SPATIAL_CHANNELS]
                spatial.append(channels.permute(0, 2, 3, 1).flatten(1))
            x = layer(x)
        features = x.flatten(1)
        return features, None if self.fc is None else self.fc(features), *spatial

    def fuse(self) -> None:
        """Merge batch norms into the convolutions before them: the same function in a tenth less time."""
        for layer in self.body.modules():
            if isinstance(layer, blocks.BasicConv2d):
                layer.conv, layer.bn = fuse_conv_bn_eval(layer.conv, layer.bn), nn.Identity()


class FullPrecisionPool(nn.AdaptiveAvgPool2d):
    """The mean over all places in float32, so that under autocast the features themselves are not rounded."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in any precision to float32 [B, C, 1, 1]."""
        return super().forward(x.float())


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
        AvgPool=FullPrecisionPool(output_size=(1, 1)),
    )
