"""The composition root: the only place where names become objects."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn

from cm import __version__, registry
from cm.checkpoints import native
from cm.config import Protocol, Run, make_component
from cm.diffusion import sampling
from cm.diffusion.denoiser import Denoiser
from cm.diffusion.distances import LPIPS, Distance, feature_distance
from cm.diffusion.noise import KarrasNoise
from cm.errors import UserError
from cm.evaluation import pretrained
from cm.evaluation.extractors import Extractor
from cm.methods.base import Objective
from cm.training.trainer import Plan
from cm.utils import fetch, files, provenance


def plan(run: Run, *, data: Path, out: Path, keep: list[int], inputs: Mapping[str, Path], device: str) -> Plan:
    """Everything that training `run` needs. `inputs`: role (`teacher`, `perceptual`) to model file.

    Raises UserError, before anything expensive, for data or a checkpoint that is missing, damaged or does not fit.
    """
    objective_ = objective(run, inputs.get("perceptual"), device)
    images, labels = _training_data(run, data, objective_)
    torch.manual_seed(run.seed)
    description = run_description(run) | {"made_from": _sources(data, inputs)}
    student = model(description)
    teacher = _teacher(run, inputs, description, student)
    return Plan(
        name=run.name,
        seed=run.seed,
        objective=objective_,
        training=run.training,
        noise=run.noise,
        student=student,
        teacher=teacher,
        images=images,
        labels=labels,
        keep=sorted(set(keep)),
        out=out,
        description=description,
        device=device,
    )


def run_description(run: Run) -> dict[str, Any]:
    """What is stored beside the weights: enough to build the model again, and what made it."""
    return {
        "run": run.name,
        **run.describe(),
        "preconditioning": run.objective.preconditioning,
        "version": __version__,
        "commit": provenance.commit(),
    }


def _sources(data: Path, inputs: Mapping[str, Path]) -> dict[str, str]:
    """Digests of the training images, as their manifest has it, and of the models a run starts from."""
    manifest = files.read_json(data / "manifest.json")
    return {"images": manifest["splits"]["train"]["sha256"]} | {role: files.sha256_of(inputs[role]) for role in inputs}


def model(description: Mapping[str, Any]) -> nn.Module:
    """A network with random weights, preconditioned if its description says so: `(x, t, labels) -> x`."""
    network = _section("network", description).build()
    if description["preconditioning"] is None:
        return network
    scalings = registry.get("preconditioning", description["preconditioning"])
    noise = noise_of(description)
    return Denoiser(network, scalings, sigma_data=noise.sigma_data, sigma_min=noise.sigma_min)


def trained(path: Path | str, device: str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The model in a file, for evaluation, and its description."""
    tensors, description = model_file(path)
    module = model(description)
    native.restore(module, tensors, path)
    return sampling.placed(module, device).eval().requires_grad_(False), description


def released(run: Run, checkpoint: Path | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and description of a run that takes them from a checkpoint: a file, or the published one, fetched."""
    from cm import checkpoints

    about = run.released
    if checkpoint is None:
        name = run.training.released + PurePosixPath(urlparse(about.url).path).suffix
        checkpoint = fetch.fetched(about.url, sha256=about.sha256, size=about.size, name=name)
    tensors = checkpoints.import_checkpoint(checkpoint, run.network, weights=about.weights if about else "ema")
    origin = {"checkpoint": checkpoint.name} | ({"url": about.url, "licence": about.licence} if about else {})
    origin |= {"sha256": files.sha256_of(checkpoint)} if checkpoint.is_file() else {}
    description = run_description(run) | {"made_from": origin, "progress": 100}
    return {f"network.{name}": tensor for name, tensor in tensors.items()}, description


def model_file(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a model; UserError for the state of a training."""
    tensors, description = native.load(path)
    if "network" not in description:
        raise UserError(f"{path} is the state of a training that is not finished, not a model")
    return tensors, description


def samples(module: nn.Module, description: Mapping[str, Any], sampler: Any, **how: Any) -> np.ndarray:
    """uint8 images [count, H, W, C] of a trained model; `how`: the other arguments of `generate.images`."""
    classes = description["network"].get("classes", 0)
    about = {"noise": noise_of(description), "shape": image_shape(description), "classes": classes}
    return sampling.images(module, sampler, **about, **how)


def noise_of(description: Mapping[str, Any]) -> KarrasNoise:
    """The time grid of a model."""
    return _section("noise", description)


def image_shape(description: Mapping[str, Any]) -> tuple[int, int, int]:
    """[C, H, W] of the images that a model makes."""
    network = description["network"]
    return network["image_channels"], network["resolution"], network["resolution"]


def load_classifier(path: Path | str, shape: tuple[int, int, int], device: str = "cpu") -> tuple[Any, str]:
    """The classifier in a file, whose features and feature maps compare images, and the name of its run.

    Raises UserError for any other model, and for a classifier of images of another shape than `shape` (C, H, W).
    """
    module, description = trained(path, device)
    if not hasattr(module, "features"):
        raise UserError(f"{path} holds {description['run']}, which is not a classifier and has no features")
    if image_shape(description) != shape:
        raise UserError(f"{path} takes images of {list(image_shape(description))}, not of {list(shape)} (C, H, W)")
    return module, description["run"]


def load_extractor(protocol: Protocol, path: Path | None, shape: tuple[int, int, int]) -> Extractor:
    """The extractor of a protocol, for images of `shape` (C, H, W).

    `path`: the file of its pretrained weights or of its classifier; by default the pretrained weights in the cache,
    which are fetched if they are not there. Raises UserError for a file that holds another extractor than the
    protocol's.
    """
    if path is None and "/" in protocol.extractor:
        raise UserError(f"protocol {protocol.name}: its extractor is a classifier of this suite: give its model file")
    path = path or pretrained.ensure_cached(protocol.extractor)
    if "weights" in native.description(path):
        extractor = pretrained.load_extractor(path, resizer=protocol.resizer)
    else:
        extractor = _classifier_extractor(path, shape, protocol.resizer)
    if extractor.name != protocol.extractor:
        raise UserError(f"{path} holds {extractor.name}, protocol {protocol.name} compares {protocol.extractor}")
    return extractor


def _classifier_extractor(path: Path, shape: tuple[int, int, int], resizer: str) -> Extractor:
    module, name = load_classifier(path, shape)
    preprocess = functools.partial(registry.get("resizer", resizer).host, size=shape[-1])
    width = module.hidden.out_features
    return Extractor(name, width, preprocess, ClassifierFeatures(module), pretrained.digest(path))


class ClassifierFeatures(nn.Module):
    """The features and logits of a classifier, for images [B, C, H, W] with values in 0..255."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.features(x.float() / 127.5 - 1)


def objective(run: Run, perceptual: Path | str | None = None, device: str = "cpu") -> Objective:
    """The objective of a run, a perceptual distance with its network."""
    if not run.objective.needs_perceptual_network:
        return run.objective
    distance = run.objective.distance
    if perceptual is None:
        name = run.settings["distance"]
        raise UserError(f"{run.name}: distance '{name}' needs the model of its features (--perceptual)")
    shape = image_shape(run.describe())
    return dataclasses.replace(run.objective, distance=_perceptual_distance(distance, perceptual, shape, device))


def _perceptual_distance(lpips: LPIPS, path: Path | str, shape: tuple[int, int, int], device: str) -> Distance:
    """LPIPS with pretrained weights, or at the images' own size with the maps of a trained classifier."""
    if "weights" in native.description(path):
        return lpips.with_network(pretrained.load_lpips(path, pooling=lpips.pooling, device=device))
    backbone, _ = load_classifier(path, shape, device)
    own_size = dataclasses.replace(lpips, size=None)
    return own_size.with_network(feature_distance(lambda x: backbone.maps(2 * x - 1)))


def _section(name: str, description: Mapping[str, Any]) -> Any:
    """The network or the noise grid of a description."""
    return make_component(name, description[name], f"{description['run']}, {name}")


def _training_data(run: Run, data: Path, objective_: Objective) -> tuple[np.ndarray, np.ndarray | None]:
    images = files.read_images(data / "train" / "images.npy")
    network = run.network
    wanted = (network.resolution, network.resolution, network.image_channels)
    if images.shape[1:] != wanted:
        raise UserError(f"{data}: images are {list(images.shape[1:])}, the network of {run.name} takes {list(wanted)}")
    labelled = objective_.labelled or getattr(network, "classes", 0)
    return images, files.read_array(data / "train" / "labels.npy") if labelled else None


def _teacher(run: Run, inputs: Mapping[str, Path], description: dict, student: nn.Module) -> nn.Module | None:
    """The teacher, its weights copied into the student; None for a run without one."""
    if not run.objective.needs_teacher:
        return None
    if "teacher" not in inputs:
        raise UserError(f"{run.name}: needs the weights of its teacher (--teacher)")
    tensors, of_teacher = model_file(inputs["teacher"])
    if of_teacher["preconditioning"] != "edm":
        raise UserError(f"{inputs['teacher']} holds {of_teacher['run']}, which is not a diffusion model: no teacher")
    teacher = model(of_teacher)
    native.restore(teacher, tensors, inputs["teacher"])
    if run.objective.starts_from_teacher:
        native.restore(student, tensors, inputs["teacher"])
    return teacher
