"""Names of metrics, data sets and extractors, as the headings of tables and the axes of figures print them."""

from __future__ import annotations

DATASETS = {
    "cifar10": "CIFAR-10",
    "imagenet64": "ImageNet 64",
    "lsun_bedroom": "LSUN Bedroom 256",
    "lsun_cat": "LSUN Cat 256",
}
EXTRACTORS = {"inception": "Inception", "dinov2": "DINOv2"}


def metric_title(metric: str, extractor: str = "inception") -> str:
    """The title of a metric of the features of an extractor.

    The Frechet distance is called FID only for Inception's features; for any others it is FD, with DINOv2 FD-DINOv2.
    """
    from cm import registry
    from cm.evaluation.metrics import title

    if metric not in registry.names("metric"):
        return metric
    found = title(metric, extractor)
    return f"{found}-DINOv2" if (metric, extractor) == ("fid", "dinov2") else found


def dataset_title(dataset: str) -> str:
    """`CIFAR-10` for `cifar10`; the name itself for a data set that is not the paper's."""
    return DATASETS.get(dataset, dataset)


def extractor_title(extractor: str) -> str:
    """`Inception` for `inception`, and `classifier` for the run `digits/classifier/default/seed0`."""
    from cm.config import RunName

    return RunName.parse(extractor).method if "/" in extractor else EXTRACTORS.get(extractor, extractor)


def heading(metric: str, dataset: str, extractor: str) -> str:
    """`FD, digits, classifier features`: a metric means nothing without the network whose features it compares."""
    return f"{metric_title(metric, extractor)}, {dataset_title(dataset)}, {extractor_title(extractor)} features"
