"""The two crops against resampling by an explicit weighted mean, without Pillow."""

from __future__ import annotations

import fake_sources as fake
import numpy as np
import pytest

from cm.data import cropping


def bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def resize_rows(image: np.ndarray, length: int, kernel, support: float) -> np.ndarray:
    """Resize axis 0 to `length`: every value is a mean, weighted by the kernel, which is as wide as the step."""
    scale = len(image) / length
    wide = max(scale, 1.0)
    centres, places = (np.arange(length) + 0.5) * scale, np.arange(len(image)) + 0.5
    first, last = np.floor(centres - support * wide + 0.5), np.floor(centres + support * wide + 0.5)
    weights = kernel((places - centres[:, None]) / wide)
    weights *= (places > first[:, None]) & (places < last[:, None])
    weights /= weights.sum(1, keepdims=True)
    return np.clip(np.floor(np.tensordot(weights, image.astype(float), 1) + 0.5), 0, 255)


def resize(image: np.ndarray, height: int, width: int, kernel, support: float) -> np.ndarray:
    across = resize_rows(image.swapaxes(0, 1), width, kernel, support).swapaxes(0, 1)
    return resize_rows(across, height, kernel, support)


def crop_centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


SIZES = [(64, 64), (40, 33), (129, 70), (37, 150), (151, 203), (20, 31)]


@pytest.mark.parametrize("height, width", SIZES)
def test_adms_crop_agrees_with_its_formula(height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected, size = image, 32
    while min(expected.shape[:2]) >= 2 * size:
        expected = resize(expected, expected.shape[0] // 2, expected.shape[1] // 2, box, 0.5)
    scale = size / min(expected.shape[:2])
    expected = resize(expected, round(expected.shape[0] * scale), round(expected.shape[1] * scale), bicubic, 2.0)
    actual = cropping.adm(fake.encoded(image, "PNG"), size)
    assert actual.dtype == np.uint8 and actual.shape == (size, size, 3)
    assert np.abs(actual - crop_centre(expected, size)).max() <= 1


@pytest.mark.parametrize("height, width", SIZES)
def test_lsuns_crop_agrees_with_its_formula(height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = 32
    scale = size / min(height, width)
    expected = resize(image, round(height * scale), round(width * scale), box, 0.5)
    data = fake.encoded(image, "PNG")
    assert np.abs(cropping.lsun(data, size) - crop_centre(expected, size)).max() <= 1
    again = fake.encoded(cropping.lsun(data, size), "PNG")
    assert np.array_equal(cropping.adm(again, size), cropping.lsun(data, size)), "ADM's crop changes nothing"


def test_grey_and_transparent_images_become_rgb():
    grey = np.full((40, 40), 90, np.uint8)
    assert (cropping.adm(fake.encoded(grey, "PNG"), 32) == 90).all()
    clear = np.dstack([grey, grey, grey, np.zeros_like(grey)])
    assert (cropping.adm(fake.encoded(clear, "PNG"), 32) == 90).all()
