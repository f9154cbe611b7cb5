"""The composition root: the only place where names become objects."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cm import __version__, registry
from cm.checkpoints import descriptions, native
from cm.config import Protocol, Run, make_component
from cm.config.layout import Layout
from cm.config.sections import Precision
from cm.data import prepared
from cm.diffusion import sampling
from cm.diffusion.denoiser import Denoiser
from cm.diffusion.distances import LPIPS
from cm.diffusion.noise import KarrasNoise
from cm.diffusion.perceptual import FeatureDistance, PerceptualDistance
from cm.diffusion.precision import check_precision
from cm.errors import UserError
from cm.evaluation import pretrained
from cm.evaluation.extractors import Extractor
from cm.evaluation.metrics import needs_spatial_features
from cm.methods.base import Objective
from cm.training.plan import Plan
from cm.utils import fetch, files, provenance


def plan_training(run: Run, *, data: Path, out: Path, keep: list[int], inputs: Mapping[str, Path], device: str) -> Plan:
    """The plan of a training: the objective, the networks and the images of a run.

    `data`: a prepared data set. `keep`: percentages of training at which models are written to the folder `out`.
    `inputs`: role (`teacher`, `perceptual`) to model file. Raises UserError, before anything expensive, for data or a
    model that is missing, damaged or does not fit the run, and for a precision that the device does not have.
    """
    check_precision([device], run.training.precision)
    objective = build_objective(run, inputs.get("perceptual"), device)
    images, labels = _read_training_data(run, data, objective)
    torch.manual_seed(run.seed)
    description = run_description(run) | {"made_from": _digest_inputs(data, inputs)}
    student = build_model(description | {"preconditioning": run.objective.preconditioning})
    teacher = _load_teacher(run, inputs, student)
    return Plan(
        name=run.name,
        seed=run.seed,
        objective=objective,
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
    """What a model file says of its weights: enough to build the model again, and how they came about."""
    return {
        "run": run.name,
        **run.describe(),
        "preconditioning": run.objective.sampling_preconditioning,
        "version": __version__,
        "commit": provenance.commit(),
    }


def _digest_inputs(data: Path, inputs: Mapping[str, Path]) -> dict[str, str]:
    """The sha256 of the training images, from their manifest, and of the models that a run starts from."""
    return {"images": prepared.read_record(data).sha256} | {role: files.sha256_of(inputs[role]) for role in inputs}


def build_noise(description: Mapping[str, Any]) -> KarrasNoise:
    """The noise grid of a model."""
    return _build_section("noise", description)


def image_shape(description: Mapping[str, Any]) -> tuple[int, int, int]:
    """The shape (C, H, W) of the images of a model."""
    network = description["network"]
    return network["image_channels"], network["resolution"], network["resolution"]


def _build_section(name: str, description: Mapping[str, Any]) -> Any:
    """The network or the noise grid of a description."""
    return make_component(name, description[name], f"{description['run']}, {name}")


def build_model(description: Mapping[str, Any]) -> nn.Module:
    """A model with random weights: a denoiser `(x, t, labels) -> x`, or a bare network without preconditioning."""
    network = _build_section("network", description).build()
    if description["preconditioning"] is None:
        return network
    coefficients = registry.get("preconditioning", description["preconditioning"])
    noise = build_noise(description)
    return Denoiser(network, coefficients, sigma_data=noise.sigma_data, sigma_min=noise.sigma_min)


def read_model(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description in a model file.

    Raises UserError for the state of an unfinished training, and for a file whose description is not that of a model of
    this version of the suite.
    """
    tensors, description = native.load(path)
    descriptions.check_model(description, path)
    return tensors, description


def load_model(path: Path | str, device: str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The model in a file, in evaluation mode and without gradients, and its description.

    Raises UserError for a file that is missing, damaged or holds no model.
    """
    tensors, description = read_model(path)
    module = _restore_model(tensors, description, path)
    return sampling.to_device(module, device).eval().requires_grad_(False), description


def _restore_model(tensors: Mapping[str, Tensor], description: Mapping[str, Any], path: Path | str) -> nn.Module:
    """The model of a description with the tensors of the file `path`.

    They are compared with those of the model before it takes any memory, which is only then what the file has. Raises
    UserError for a description that no model can have, and for tensors of another model.
    """
    try:
        with torch.device("meta"):
            expected = build_model(description).state_dict()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} describes a network that cannot be built: {str(error).splitlines()[0]}") from None
    native.compare(expected, tensors, path)
    module = build_model(description)
    native.restore(module, tensors, path)
    return module


def import_released(run: Run, checkpoint: Path | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the description of a run that takes its weights from a checkpoint.

    `checkpoint`: a file or folder; by default the published checkpoint of the run, which is fetched. Raises UserError
    for one that cannot be fetched, is damaged or holds another network.
    """
    from cm import checkpoints

    entry = run.released
    checkpoint = checkpoint or _fetch_released(run)
    tensors = checkpoints.import_checkpoint(checkpoint, run.network, weights=entry.weights if entry else "ema")
    origin = {"checkpoint": checkpoint.name} | ({"url": entry.url, "licence": entry.licence} if entry else {})
    origin |= {"sha256": files.sha256_of(checkpoint)} if checkpoint.is_file() else {}
    description = run_description(run) | {"made_from": origin, "progress": 100}
    return {f"network.{name}": tensor for name, tensor in tensors.items()}, description


def _fetch_released(run: Run) -> Path:
    """The published checkpoint of a run, in the cache."""
    entry = run.released
    if entry is None:
        raise UserError(f"{run.name} names no published checkpoint")
    return fetch.fetch_file(entry.url, sha256=entry.sha256, size=entry.size)


def sample_images(
    module: nn.Module, description: Mapping[str, Any], sampler: Any, out: np.ndarray | None = None, **settings: Any
) -> np.ndarray:
    """Samples uint8 [count, H, W, C] of a model; `settings`: those of `SamplingSettings` that no model has."""
    classes = description["network"].get("classes", 0)
    noise, shape = build_noise(description), image_shape(description)
    how = sampling.SamplingSettings(noise=noise, shape=shape, classes=classes, **settings)
    return sampling.images(module, sampler, how, out)


def load_classifier(path: Path | str, shape: tuple[int, int, int], device: str = "cpu") -> tuple[Any, str]:
    """The classifier in a file, whose features and feature maps compare images, and the name of its run.

    Raises UserError for any other model, and for a classifier of images of another shape than `shape` (C, H, W).
    """
    module, description = load_model(path, device)
    if not hasattr(module, "features"):
        raise UserError(f"{path} holds {description['run']}, which is not a classifier and has no features")
    if image_shape(description) != shape:
        raise UserError(f"{path} takes images of {list(image_shape(description))}, not of {list(shape)} (C, H, W)")
    return module, description["run"]


def load_extractor(protocol: Protocol, path: Path | None, shape: tuple[int, int, int]) -> Extractor:
    """The extractor of a protocol, for images of `shape` (C, H, W).

    `path`: the file of its pretrained weights or of its classifier; by default the pretrained weights in the cache,
    which are fetched if they are not there, or the classifier in results/. Raises UserError for a classifier that is
    not there, and for a file that holds another extractor than the protocol's.
    """
    path = path or _find_extractor(protocol)
    if "weights" in native.description(path):
        spatial = needs_spatial_features(protocol.metrics)
        extractor = pretrained.load_extractor(path, resizer=protocol.resizer, spatial=spatial)
    else:
        extractor = _classifier_extractor(path, shape, protocol.resizer)
    if extractor.name != protocol.extractor:
        raise UserError(f"{path} holds {extractor.name}, protocol {protocol.name} compares {protocol.extractor}")
    return dataclasses.replace(extractor, precision=protocol.precision)


def _find_extractor(protocol: Protocol) -> Path:
    if "/" not in protocol.extractor:
        return pretrained.ensure_cached(protocol.extractor)
    path = Path(Layout().model(protocol.extractor, 100))
    if not path.is_file():
        raise UserError(
            f"protocol {protocol.name}: its extractor is a classifier of this suite, and there is no {path}: train it "
            "with snakemake, or give its model file"
        )
    return path


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


def build_objective(run: Run, perceptual: Path | str | None = None, device: str = "cpu") -> Objective:
    """The objective of a run; a perceptual distance gets its network from the model file `perceptual`.

    The network of the distance is compiled if those of the training are. Raises UserError for a perceptual distance
    without such a file, for a file that does not fit, for images that are too small for the network, for a precision
    that the device does not have, and for a distance in float16 whose gradients no loss scaling protects.
    """
    if not run.objective.needs_perceptual_network:
        return run.objective
    if perceptual is None:
        name = run.settings["distance"]
        raise UserError(f"{run.name}: distance '{name}' needs the model of its features (--perceptual)")
    _check_precision(run, device)
    distance = _perceptual_distance(run, perceptual, device)
    compiled = distance.compile(run.training.compile_mode) if run.training.compile else distance
    return dataclasses.replace(run.objective, distance=compiled)


def _check_precision(run: Run, device: str) -> None:
    """UserError for a precision of the distance that the device does not have, or that makes its gradients 0.

    The latter is float16 without the loss scaling of the training.
    """
    own, training = run.objective.distance.precision, run.training.precision
    check_precision([device], own)
    if own == "float16" and training != "float16":
        raise UserError(
            f"{run.name}: distance '{run.settings['distance']}' has precision float16, which needs the loss scaling of "
            f"a training in float16, not {training}: set its precision to bfloat16 or float32"
        )


def _perceptual_distance(run: Run, path: Path | str, device: str) -> PerceptualDistance:
    """LPIPS with pretrained weights, or at the images' own size with the maps of a trained classifier."""
    lpips: LPIPS = run.objective.distance
    shape, weights = image_shape(run.describe()), native.description(path).get("weights")
    if weights:
        lpips.check_size(shape[-1], weights, registry.get("weights", weights, str(path)).least_size, run.name)
        how = {"pooling": lpips.pooling, "precision": lpips.precision, "device": device}
        return lpips.with_network(pretrained.load_lpips(path, **how))
    return _classifier_distance(path, shape, lpips.precision, device)


def _classifier_distance(
    path: Path | str, shape: tuple[int, int, int], precision: Precision, device: str
) -> PerceptualDistance:
    """The distance of images at their own size by the maps of a trained classifier."""
    backbone, dtype = load_classifier(path, shape, device)[0], getattr(torch, precision)
    backbone.to(dtype)
    metric = FeatureDistance(lambda x: backbone.maps((2 * x - 1).to(dtype)))
    return LPIPS(size=None, precision=precision).with_network(metric)


def load_perceptual_distance(path: Path | str, shape: tuple[int, int, int]) -> tuple[PerceptualDistance, str]:
    """The distance by which edited images of `shape` (C, H, W) are compared with originals, and its network's name.

    LPIPS with the pretrained weights in the file, with max pooling as it was published, at the size of the images, or
    at 224 pixels where they are too small for the network; or the distance by the maps of a classifier of this suite.
    Raises UserError for another file.
    """
    weights = native.description(path).get("weights")
    if weights is None:
        return _classifier_distance(path, shape, "float32", "cpu"), native.description(path)["run"]
    least = registry.get("weights", weights, str(path)).least_size
    lpips = LPIPS(size=None if min(shape[1:]) >= least else LPIPS().size)
    return lpips.with_network(pretrained.load_lpips(path)), weights


def _read_training_data(run: Run, data: Path, objective: Objective) -> tuple[np.ndarray, np.ndarray | None]:
    """The training images uint8 [N, H, W, C], and their labels [N] if the objective or the network needs them."""
    network, record = run.network, prepared.read_record(data)
    expected = (network.resolution, network.resolution, network.image_channels)
    if record.shape != expected:
        raise UserError(f"{data}: images are {list(record.shape)}, the network of {run.name} takes {list(expected)}")
    classes = run.describe()["network"].get("classes", 0)
    labels = prepared.read_labels(data, classes or record.classes) if objective.labelled or classes else None
    return prepared.read_images(data), labels


def _load_teacher(run: Run, inputs: Mapping[str, Path], student: nn.Module) -> nn.Module | None:
    """The teacher that the loss evaluates, or None; the student gets the teacher's weights if the run says so.

    Raises UserError for a teacher that is not given or does not fit.
    """
    if not run.objective.needs_teacher:
        return None
    if "teacher" not in inputs:
        raise UserError(f"{run.name}: needs the weights of its {run.objective.teacher_title} (--teacher)")
    path = inputs["teacher"]
    tensors, description = read_model(path)
    run.objective.check_teacher(f"{path} holds {description['run']}, which", description["preconditioning"])
    if run.objective.starts_from_teacher:
        native.restore(student, tensors, path)
    if not run.objective.evaluates_teacher:
        return None
    evaluated = run.objective.teacher_preconditionings[description["preconditioning"]]
    return _restore_model(tensors, description | {"preconditioning": evaluated}, path)
