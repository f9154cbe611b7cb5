"""FLOPs and weights of the networks of LPIPS, from their layers: importing torchvision for it would take a second."""

from __future__ import annotations

from cm.errors import unknown

Layer = tuple[int, int, int, int]  # width, kernel, stride and padding of a convolution; a width of 0 is a pool

_POOL, _WIDE_POOL = (0, 2, 2, 0), (0, 3, 2, 0)
_VGG16 = [*[(64, 3, 1, 1)] * 2, _POOL, *[(128, 3, 1, 1)] * 2, _POOL, *[(256, 3, 1, 1)] * 3, _POOL]
_VGG16 += [*[(512, 3, 1, 1)] * 3, _POOL, *[(512, 3, 1, 1)] * 3]
_ALEXNET = [(64, 11, 4, 2), _WIDE_POOL, (192, 5, 1, 2), _WIDE_POOL, (384, 3, 1, 1), *[(256, 3, 1, 1)] * 2]
LAYERS: dict[str, list[Layer]] = {"lpips-vgg16": _VGG16, "lpips-alexnet": _ALEXNET}


def flops(name: str, size: int) -> int:
    """FLOPs of the convolutions of a network for one RGB image of `size` x `size` pixels.

    A convolution of kernel k from C to D channels costs 2 k^2 C D per pixel of its result. Raises UserError for an
    unknown network.
    """
    total, channels = 0, 3
    for width, kernel, stride, padding in _layers(name):
        size = (size + 2 * padding - kernel) // stride + 1
        total += 2 * kernel**2 * channels * width * size**2
        channels = width or channels
    return total


def parameters(name: str) -> int:
    """The number of weights of the convolutions of a network. Raises UserError for an unknown network."""
    total, channels = 0, 3
    for width, kernel, _, _ in _layers(name):
        total += (kernel**2 * channels + 1) * width
        channels = width or channels
    return total


def _layers(name: str) -> list[Layer]:
    if name not in LAYERS:
        raise unknown("network of a perceptual distance", name, LAYERS)
    return LAYERS[name]
