"""The options of the verbs, as argparse takes them."""

from __future__ import annotations

from pathlib import Path

from cm import config

_PATH = {"type": Path, "required": True}
_IMAGES = {"type": Path, "help": "a folder, a zip, a .npz or a .npy of 8-bit images; arrays are [N, H, W, C]"}
_EXPERIMENTS = {"type": Path, "default": config.EXPERIMENTS, "help": "folder of experiment files"}
_COMPUTE = {
    "threads": {"type": int, "help": "processor threads torch may use"},
    "device": {"help": "cpu, cuda, cuda:1, ...; by default a GPU if there is one"},
}
_SCORING = {
    "protocol": {"required": True, "help": f"how to score: a name in {config.PROTOCOLS}, or a .yaml file"},
    "extractor": {"type": Path, "help": "file of the protocol's extractor; pretrained weights are fetched by default"},
}
_FEATURES = {
    "batch": {"type": int, "default": 64, "help": "images at a time"},
    "workers": {"type": int, "default": 4, "help": "threads that decode and resize images"},
    "threads": _COMPUTE["threads"],
    "device": {"help": "cpu, cuda, or several: cuda:0,cuda:1; by default a GPU if there is one"},
}
POSITIONAL = {"describe": ("subject",), "featurize": ("images",), "score": ("images",)}
OPTIONS = {
    "prepare": {
        "dataset": {"required": True, "help": "cifar10, imagenet64, lsun_bedroom, folder, ..."},
        "source": {"help": "archive or folder, or its URL; by default what is in $CM_CACHE, or fetched to it"},
        "out": {**_PATH, "help": "folder to write"},
        "workers": {"type": int, "help": "processes; by default one a core"},
        "allow-undecodable": {
            "type": float,
            "default": 0.0,
            "metavar": "SHARE",
            "help": "leave out images that cannot be decoded, up to this share of all; by default stop at the first",
        },
        "resolution": {"type": int, "help": "pixels a side, of the data set 'folder'"},
        "images": {"type": int, "help": "how many there must be at least, of imagenet64 and LSUN"},
    },
    "train": {
        "run": {"required": True, "help": "<dataset>/<method>/<variant>/seed<seed>"},
        "experiments": _EXPERIMENTS,
        "data": {**_PATH, "help": "folder that `prepare` wrote"},
        "out": {**_PATH, "nargs": "+", "help": "model files to write, named by the percentage: 50.safetensors ..."},
        "teacher": {"type": Path, "help": "model file of the teacher"},
        "perceptual": {"type": Path, "help": "model file whose features the distance compares"},
        **_COMPUTE,
    },
    "convert": {
        "run": {"help": "the run that takes its weights from the checkpoint; it describes the network"},
        "checkpoint": {
            "type": Path,
            "help": "file or folder to read; by default the released one, fetched",
        },
        "experiments": _EXPERIMENTS,
        "model": {"type": Path, "help": "model file to write in another form"},
        "to": {"choices": ["diffusers", "openai"], "help": "that form"},
        "out": {**_PATH, "help": "file to write; a folder for diffusers"},
    },
    "weights": {
        "name": {"required": True, "help": "inception, dinov2, lpips-vgg16 or lpips-alexnet"},
        "source": {"type": Path, "help": "file to read; by default fetched to $CM_CACHE"},
        "out": {**_PATH, "help": "file to write"},
    },
    "describe": {
        "subject": {"metavar": "CONFIG", "help": "a run, a suite's name, or a suite file"},
        "experiments": _EXPERIMENTS,
        "batch": {"type": int, "default": 1, "help": "images of a forward pass whose memory is told"},
        "teraflops": {"type": float, "default": 100.0, "help": "assumed rate of a GPU, 10^12 operations a second"},
    },
    "sample": {
        "model": {**_PATH, "help": "model file"},
        "sampler": {"required": True, "help": "onestep, multistep,times~0.8 or ode,solver~heun,steps~18, ..."},
        "out": {**_PATH, "help": ".npy file to write"},
        "count": {"type": int, "default": 64, "help": "how many images"},
        "seed": {"type": int, "help": "of the noise; by default the run's"},
        "batch": {"type": int, "default": 256, "help": "images at a time"},
        "quantization": {"choices": ["round", "truncate"], "default": "truncate", "help": "of images to eight bits"},
        "clamp": {"action": "store_true", "help": "clamp every estimate of the denoiser to [-1, 1]"},
        "precision": {"choices": ["bfloat16", "float16", "float32"], "default": "float32", "help": "of the network"},
        "preview": {"type": Path, "help": ".npy file for the first 64 images; a .png is written beside it"},
        **_COMPUTE,
    },
    "featurize": {
        "images": {**_IMAGES, "metavar": "IMAGES"},
        **_SCORING,
        "out": {**_PATH, "help": ".npz file to write"},
        "compact": {
            "action": "store_true",
            "help": "the mean and covariance alone, computed anew, small enough for a repository",
        },
        **_FEATURES,
    },
    "score": {
        "images": {**_IMAGES, "metavar": "IMAGES"},
        "reference": {**_PATH, "help": "the same of real images, what `featurize` made of them, or others' statistics"},
        **_SCORING,
        "out": {**_PATH, "help": ".json file to write"},
        **_FEATURES,
    },
    "draw": {
        "suite": {**_PATH, "help": "suite file"},
        "artefact": {"required": True},
        "results": {"type": Path, "default": Path("results")},
        "out": {"type": Path, "default": Path("reports")},
    },
}
