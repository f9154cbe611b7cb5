"""Pretrained networks that others published and this suite measures with: the FID Inception-v3, DINOv2, and LPIPS.

`made` writes one as our own file, from wherever it can be had; `extractor` and `lpips_metric` build the networks from
such files. Nothing is fetched then, and nothing is ever unpickled but arrays.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import registry
from cm.checkpoints import native
from cm.errors import UserError, unknown
from cm.evaluation.extractors import Extractor
from cm.evaluation.pretrained import sources
from cm.utils import fetch, files

if TYPE_CHECKING:
    from torch import Tensor, nn

POOLINGS = ("max", "average")


def made(name: str, out: Path, source: Path | None = None) -> None:
    """Write the weights `name` (see `sources.KNOWN`) as safetensors, from the file `source` or from where they are.

    The description has `weights`, `source`, `source_sha256`, `tensors_sha256` (of the features' tensors, by name: two
    files that agree in it hold the same network), `logits` and `licence`.
    """
    registry.get("weights", name)
    raw = sources.found(name, source)
    module = _fitted(name, raw.state, raw.source)
    tensors = _unique(module.state_dict())
    native.save(out, tensors, _description(name, raw, tensors))


def cached(name: str) -> Path:
    """The file that `made` writes of the weights `name`, in the cache.

    It is made if it is not there, and anew if the file of their home, which may have more, has come to the cache since.
    """
    path, home = fetch.cache_folder() / "weights" / f"{name}.safetensors", registry.get("weights", name).at
    old = home.is_file() and path.is_file() and native.description(path)["source_sha256"] != files.sha256_of(home)
    if old or not path.is_file():
        made(name, path)
    return path


def digest(path: Path | str) -> str:
    """The digest of the features' tensors in a file that `made` wrote; the sha256 of any other model's file."""
    return native.description(path).get("tensors_sha256") or files.sha256_of(path)


def extractor(path: Path | str, resizer: str = "legacy_tensorflow") -> Extractor:
    """The features of the network in a file that `made` wrote, on images that `resizer` brings to its size.

    UserError for weights that give no features, and for a resizer that is none of theirs.
    """
    tensors, description = _load(path, [name for name, known in sources.KNOWN.items() if known.resizers])
    name = description["weights"]
    if resizer not in sources.KNOWN[name].resizers:
        raise unknown("resizer", resizer, sources.KNOWN[name].resizers, f"extractor {name}")
    network = _frozen(_network(name, resizer, logits=description["logits"]), tensors, path, "cpu")
    if name == "inception":
        network.fuse()
    preprocess = functools.partial(registry.get("resizer", resizer).host, size=network.size)
    return Extractor(name, network.width, preprocess, network, description["tensors_sha256"])


def lpips_metric(path: Path | str, *, pooling: str = "max", device: str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS of two batches of images [B, C, H, W] in [0, 1], [B], with the weights of a file that `made` wrote.

    `pooling`, for VGG16: `max` is LPIPS as it was trained, and what the paper's CIFAR-10 code does; `average` is what
    its ImageNet and LSUN code does. There are gradients to the images, and none to the weights.
    """
    tensors, description = _load(path, ("lpips-vgg16", "lpips-alexnet"))
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    if pooling == "average" and description["weights"] != "lpips-vgg16":
        raise UserError(f"{path} holds {description['weights']}: average pooling is for lpips-vgg16 only")
    from cm.evaluation.pretrained.modules import perceptual

    network = perceptual.network(description["weights"], pooling=pooling)
    network = _frozen(network, perceptual.with_aliases(tensors), path, device)
    return lambda a, b: network(a, b, normalize=True).flatten()


def _fitted(name: str, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """The network with weights as their makers name them."""
    from cm.evaluation.pretrained import names
    from cm.evaluation.pretrained.modules import perceptual

    if name in perceptual.NETS:
        module = perceptual.network(name)
        tensors = perceptual.with_aliases(names.backbone(state, module) | perceptual.heads(name))
    else:
        tensors = names.inception(state) if name == "inception" else dict(state)
        module = _network(name, sources.KNOWN[name].resizers[0], logits="fc.weight" in tensors)
    native.restore(module, tensors, source)
    return module


def _network(name: str, resizer: str, *, logits: bool) -> nn.Module:
    """A network of features, its weights not set, with the `device` half of the resizer."""
    resize = registry.get("resizer", resizer).device
    if name == "dinov2":
        from cm.evaluation.pretrained.modules import dinov2

        return dinov2.network(resize)
    from cm.evaluation.pretrained.modules import inception

    return inception.Inception(resize, centre=inception.CENTRES[resizer], logits=logits)


def _unique(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the second names of LPIPS's heads."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("lins.")}


def _description(name: str, raw: sources.Raw, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for key in sorted(set(tensors) - {"fc.weight"}):
        digest.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
    return {
        "weights": name,
        "source": raw.source,
        "source_sha256": raw.sha256,
        "tensors_sha256": digest.hexdigest(),
        "logits": "fc.weight" in tensors,
        "licence": sources.KNOWN[name].licence,
    }


def _load(path: Path | str, allowed: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, description = native.load(path)
    held = description.get("weights", "no pretrained weights")
    if held not in allowed:
        raise UserError(f"{path} holds {held}, not {' or '.join(allowed)}: `cm weights` makes such a file")
    return tensors, description


def _frozen(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str, device: str) -> nn.Module:
    import torch

    native.restore(module, tensors, path)
    return module.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
