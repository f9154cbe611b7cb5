"""Masks of known pixels: patterns of any size, and files of which anything may be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cm import registry
from cm.data import masks
from cm.errors import UserError


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (64, 48), (256, 256)])
@pytest.mark.parametrize("name", registry.names("mask"))
def test_every_pattern_has_known_and_unknown_pixels(name, size):
    mask = masks.make_mask(name, None, *size)
    assert mask.shape == size and mask.dtype == bool
    assert 0.02 < mask.mean() < 0.98


def test_the_letter_and_its_outside_are_complements():
    assert (masks.letter(64, 64) ^ masks.outside_letter(64, 64)).all()


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_mask_is_read_from_an_image(tmp_path, mode):
    pixels = np.zeros((8, 6), np.uint8)
    pixels[:, :3] = 255
    Image.fromarray(pixels).convert(mode).save(tmp_path / "mask.png")
    assert (masks.make_mask("mine", tmp_path / "mask.png", 8, 6) == (pixels == 255)).all()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((8, 9), np.uint8), "is a mask of 8x9 pixels, not 8x8"),
        (np.arange(64, dtype=np.uint8).reshape(8, 8), "63 of its pixels are neither"),
        (np.full((8, 8, 3), (255, 0, 0), np.uint8), "64 of its pixels are neither"),
        (np.full((8, 8), 255, np.uint8), "must have both known (white) and unknown (black) pixels"),
        (np.zeros((8, 8), np.uint8), "must have both known (white) and unknown (black) pixels"),
    ],
)
def test_another_image_is_no_mask(tmp_path, pixels, message):
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.raises(UserError) as error:
        masks.read_mask(tmp_path / "mask.png", 8, 8)
    assert message in str(error.value)


def test_a_damaged_file_and_an_unknown_pattern_are_refused(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    with pytest.raises(UserError, match="is not an image of a mask"):
        masks.read_mask(tmp_path / "mask.png", 8, 8)
    with pytest.raises(UserError, match="no file"):
        masks.read_mask(tmp_path / "absent.png", 8, 8)
    with pytest.raises(UserError, match="unknown mask 'mine'; known: centre, half"):
        masks.make_mask("mine", None, 8, 8)
