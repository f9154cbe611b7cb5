"""Pretrained networks that others published and this suite measures with: the FID Inception-v3, DINOv2, and LPIPS.

`write_weights` writes the weights of one as a file of this suite, from wherever they are available; `load_extractor`
and `load_lpips` build networks from such files, without fetching anything. Of pickles, only arrays are ever read.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cm import registry
from cm.checkpoints import descriptions, native
from cm.checkpoints.descriptions import PretrainedWeights
from cm.errors import UserError, unknown
from cm.evaluation.extractors import Extractor
from cm.evaluation.pretrained import sources
from cm.utils import fetch, files

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cm.diffusion.distances import Distance
    from cm.evaluation.pretrained.modules.dinov2 import DINOv2
    from cm.evaluation.pretrained.modules.inception import Inception

POOLINGS = ("max", "average")


def write_weights(name: str, out: Path, source: Path | None = None) -> None:
    """Write the weights `name` (see `sources.KNOWN`) as safetensors, from the file `source` or from where they are.

    Their description has `weights` (the name), `source`, `source_sha256`, `logits`, `licence` and `tensors_sha256`, the
    digest of the tensors by name, without those of the logits: two files that agree in it hold the same network. Raises
    UserError for an unknown name, and for weights that are unavailable or belong to another network.
    """
    registry.get("weights", name)
    raw = sources.find(name, source)
    module = _build_from_raw(name, raw)
    tensors = _drop_aliases(module.state_dict())
    native.save(out, tensors, _describe(name, raw, tensors))


def ensure_cached(name: str) -> Path:
    """The file that `write_weights` writes of the weights `name`, in the cache.

    It is written if it is not there, and written again if the publisher's file, which may have more tensors, has come
    to the cache since.
    """
    path = fetch.cache_folder() / "weights" / f"{name}.safetensors"
    published = registry.get("weights", name).cached_file
    if not path.is_file() or (published.is_file() and _source_digest(path) != files.sha256_of(published)):
        write_weights(name, path)
    return path


def digest(path: Path | str) -> str:
    """The digest by which scores record an extractor.

    It is `tensors_sha256` for a file that `write_weights` wrote, and the sha256 of the file for any other model.
    """
    description = native.description(path)
    if "weights" not in description:
        return files.sha256_of(path)
    return _identity(descriptions.check_weights(description, path), path)


def _identity(weights: PretrainedWeights, path: Path | str) -> str:
    return weights.tensors_sha256 or files.sha256_of(path)


def load_extractor(path: Path | str, resizer: str = "legacy_tensorflow", *, spatial: bool = False) -> Extractor:
    """The extractor in a file that `write_weights` wrote, for images that `resizer` brings to the network's size.

    `spatial`: whether it also returns spatial features, which of the known networks the Inception has.
    Raises UserError for weights that are not an extractor's, and for a resizer that the extractor does not take.
    """
    tensors, weights = _load(path, [name for name, known in sources.KNOWN.items() if known.resizers])
    name = weights.weights
    if resizer not in sources.KNOWN[name].resizers:
        raise unknown("resizer", resizer, sources.KNOWN[name].resizers, f"extractor {name}")
    network = _build_extractor(name, resizer, logits=weights.logits)
    _freeze(network, tensors, path, "cpu")
    if name == "inception":
        network.fuse()
        network.spatial = spatial
    preprocess = functools.partial(registry.get("resizer", resizer).host, size=network.size)
    return Extractor(name, network.width, preprocess, network, _identity(weights, path))


def load_lpips(path: Path | str, *, pooling: str = "max", precision: str = "float32", device: str = "cpu") -> Distance:
    """LPIPS with the weights of a file that `write_weights` wrote: a function of two batches of images.

    The images are [B, C, H, W] with values in [0, 1] and C = 3, or C = 1 for grey images, which are repeated to three
    channels; their sides have at least the `least_size` of `sources.Published`. The distances are [B]. Gradients reach
    the first images, not the second, nor the weights. `pooling`, for VGG16: `max` is LPIPS as it was trained, and what
    the paper's CIFAR-10 code uses; `average` is what its ImageNet and LSUN code uses. `precision`: that of the feature
    maps. Raises UserError for other weights, and for an unknown pooling.
    """
    tensors, weights = _load(path, ("lpips-vgg16", "lpips-alexnet"))
    name = weights.weights
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)
    if pooling == "average" and name != "lpips-vgg16":
        raise UserError(f"{path} holds {name}: average pooling is for lpips-vgg16 only")
    from cm.evaluation.pretrained.modules import perceptual

    network = perceptual.build(name, pooling=pooling)
    _freeze(network, perceptual.add_aliases(tensors), path, device)
    return perceptual.metric(network, precision)


def _build_from_raw(name: str, raw: sources.Raw) -> nn.Module:
    """The network with weights that have the names of their publisher."""
    from cm.evaluation.pretrained import names
    from cm.evaluation.pretrained.modules import perceptual

    module: nn.Module
    if name in perceptual.NETS:
        module = perceptual.build(name)
        own = names.rename_backbone(raw.state, module) | perceptual.read_heads(name)
        tensors = perceptual.add_aliases(own)
    else:
        tensors = names.rename_inception(raw.state) if name == "inception" else dict(raw.state)
        module = _build_extractor(name, sources.KNOWN[name].resizers[0], logits="fc.weight" in tensors)
    native.restore(module, tensors, raw.source)
    return module


def _build_extractor(name: str, resizer: str, *, logits: bool) -> Any:
    """The network of an extractor, whose weights are not set, with the `device` stage of the resizer."""
    resize = registry.get("resizer", resizer).device
    return _build_dinov2(resize) if name == "dinov2" else _build_inception(resize, resizer, logits=logits)


def _build_dinov2(resize: Callable[[Tensor, int], Tensor]) -> DINOv2:
    from cm.evaluation.pretrained.modules import dinov2

    return dinov2.build(resize)


def _build_inception(resize: Callable[[Tensor, int], Tensor], resizer: str, *, logits: bool) -> Inception:
    from cm.evaluation.pretrained.modules import inception

    return inception.Inception(resize, centre=inception.CENTRES[resizer], logits=logits)


def _drop_aliases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the second names that LPIPS has for its linear heads."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("lins.")}


def _describe(name: str, raw: sources.Raw, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
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


def _source_digest(path: Path) -> str:
    return descriptions.check_weights(native.description(path), path).source_sha256


def _load(path: Path | str, allowed: Sequence[str]) -> tuple[dict[str, Tensor], PretrainedWeights]:
    """The tensors and the description in a file; UserError if it has none of the allowed weights."""
    tensors, description = native.load(path)
    found = description.get("weights", "no pretrained weights")
    if found not in allowed:
        raise UserError(f"{path} holds {found}, not {' or '.join(allowed)}: `cm weights` writes such a file")
    return tensors, descriptions.check_weights(description, path)


def _freeze(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str, device: str) -> None:
    """Set the weights of a network, and prepare it for evaluation without gradients to them."""
    import torch

    native.restore(module, tensors, path)
    module.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
