"""Edits against the official code's outputs on stored noise, and what each operator must keep."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from goldens import assert_golden, load

from cm import registry
from cm.config import parse_edit
from cm.data import masks
from cm.diffusion.edits import slerp
from cm.diffusion.noise import KarrasNoise
from cm.errors import UserError

NOISE = KarrasNoise()
INDICES, STEPS = (0, 9, 20), 40  # `ts` of the golden files without the last, steps - 1
WEIGHTS, DEVIATIONS = (0.3, 0.5, 0.2), (0.1, 0.2, 0.15)
RGB = (3, 16, 16)
EDITS = {
    "inpainting": "inpainting,mask~centre,steps~5",
    "colorization": "colorization,steps~5",
    "superresolution": "superresolution,patch~4,steps~5",
    "stroke": "stroke,median~3",
    "denoising": "denoising",
}
KEEPING = ("inpainting", "colorization", "superresolution")


def mixture(means):
    """The posterior mean of an element-wise Gaussian mixture with means [3, 1, C, H, W]."""
    means = torch.from_numpy(means)
    column = [torch.tensor(values).reshape(3, 1, 1, 1, 1) for values in (WEIGHTS, DEVIATIONS)]

    def denoise(x, t):
        variance = column[1] ** 2
        total = variance + t.to(x.dtype).reshape(-1, 1, 1, 1) ** 2
        posterior = torch.softmax(column[0].log() - total.log() / 2 - (x - means) ** 2 / (2 * total), 0)
        return (posterior * (variance * x + t.to(x.dtype).reshape(-1, 1, 1, 1) ** 2 * means) / total).sum(0)

    return denoise


def official(name: str, **settings):
    """The edit as the official code's functions compute it."""
    times = tuple(float(NOISE.times(STEPS)[index]) for index in INDICES)
    return registry.get("edit", name)(times=times, start="noise", clamp=True, **settings)


def apply(edit, operator, images, draws, denoise, given=None):
    """The edited images, with the stored draws."""
    draws = iter(draws)
    given = operator.observe(images, lambda: next(draws)) if given is None else given
    return edit(denoise, operator, given, NOISE, lambda: next(draws))


def mask_of(shape, name: str = "centre") -> torch.Tensor:
    return torch.from_numpy(masks.make_mask(name, None, *shape[1:])).float()


def operator_of(edit, shape=RGB):
    return edit.operator(shape, mask_of(shape) if edit.needs_mask else None)


def random_images(count: int = 3, shape=RGB, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(
    ("file", "name", "settings"),
    [("edit_colorization.npz", "colorization", {}), ("edit_superres.npz", "superresolution", {"patch": 8})],
)
def test_edits_of_the_official_code(file, name, settings):
    data = load(file)
    edit, images = official(name, **settings), torch.from_numpy(data["images"])
    operator = edit.operator(tuple(images.shape[1:]))
    start = torch.from_numpy(data["x"]) / NOISE.sigma_max
    got = apply(edit, operator, images, [start, *torch.from_numpy(data["noise"])], mixture(data["means"]))
    assert_golden(file, "out", got)
    assert_golden(file, "out_images", operator.project(images))


def test_inpainting_of_the_official_code():
    data, file = load("edit_inpainting.npz"), "edit_inpainting.npz"
    images, start = torch.from_numpy(data["images"]), torch.from_numpy(data["x"]) / NOISE.sigma_max
    white = torch.from_numpy(data["drawn"]) > 127
    edit, got, given, masks_of = official("inpainting"), images.clone(), images.clone(), images.clone()
    for group in range(2):
        mask = (white if group == 0 else ~white).float()
        operator, part = edit.operator((3, 8, 8), mask), slice(7 * group, 7 * group + 7)
        draws = [start[part], *torch.from_numpy(data["noise"])[:, part]]
        got[part] = apply(edit, operator, images[part], draws, mixture(data["means"]))
        given[part] = operator.show(operator.project(images[part]))
        masks_of[part] = mask.expand(7, 3, 8, 8)
    assert_golden(file, "keep_mask", masks_of)
    assert_golden(file, "out", got)
    assert_golden(file, "out_images", given)


def orthogonal(first: np.ndarray) -> torch.Tensor:
    """The paper's matrix: orthogonal, its first column along `first`."""
    matrix = np.eye(len(first))
    matrix[:, 0] = first / np.linalg.norm(first)
    return torch.from_numpy(np.linalg.qr(matrix)[0])


def test_colorization_is_the_papers_orthogonal_matrix_and_mask():
    x, y = random_images().double(), random_images(seed=1).double()
    operator = operator_of(parse_edit(EDITS["colorization"]))
    a = orthogonal(np.array([0.2989, 0.5870, 0.1140]))
    both = [torch.einsum("bchw,cd->bdhw", images, a) for images in (y, x)]
    mixed = torch.cat([both[0][:, :1], both[1][:, 1:]], 1)
    want = torch.einsum("bdhw,cd->bchw", mixed, a)
    assert torch.allclose(operator.replace(operator.project(y), x), want, atol=1e-12)


def test_colorization_keeps_the_grey_values_under_autocast():
    x, y = random_images(), random_images(seed=1)
    operator = operator_of(parse_edit(EDITS["colorization"]))
    want = operator.replace(operator.project(y), x)
    with torch.autocast("cpu", torch.bfloat16):
        got = operator.replace(operator.project(y), x)
    torch.testing.assert_close(got, want)


def test_superresolution_is_the_papers_orthogonal_matrix_and_mask():
    x, y = random_images().double(), random_images(seed=1).double()
    operator, a = operator_of(parse_edit(EDITS["superresolution"])), orthogonal(np.ones(16))
    blocks = [torch.nn.functional.unfold(images.flatten(0, 1)[:, None], 4, stride=4) for images in (y, x)]
    both = [torch.einsum("bdn,de->ben", block, a) for block in blocks]
    mixed = torch.einsum("ben,de->bdn", torch.cat([both[0][:, :1], both[1][:, 1:]], 1), a)
    want = torch.nn.functional.fold(mixed, (16, 16), 4, stride=4).reshape(x.shape)
    assert torch.allclose(operator.replace(operator.project(y), x), want, atol=1e-12)


@pytest.mark.parametrize("name", KEEPING)
def test_operators_are_orthogonal_projections(name):
    x, y = random_images().double(), random_images(seed=1).double()
    operator = operator_of(parse_edit(EDITS[name]))
    once = operator.project(x)
    assert torch.allclose(operator.project(once), once, atol=1e-12)
    assert torch.allclose((once * (y - operator.project(y))).flatten(1).sum(1), torch.zeros(3).double(), atol=1e-10)
    assert not torch.allclose(once, x)


@pytest.mark.parametrize("name", KEEPING)
def test_what_is_known_stays(name):
    edit, images = parse_edit(EDITS[name]), random_images()
    operator = operator_of(edit)
    draws = (torch.randn(3, *RGB, generator=torch.Generator().manual_seed(seed)) for seed in itertools.count())
    edited = apply(edit, operator, images, draws, lambda x, t: torch.tanh(x) + 0.1)
    assert torch.allclose(operator.measure(edited), operator.measure(images), atol=2e-6)
    assert (edited - images).abs().mean() > 0.1


def test_known_pixels_keep_every_bit():
    edit, images, mask = parse_edit(EDITS["inpainting"]), random_images(), mask_of(RGB) > 0
    draws = (torch.randn(3, *RGB, generator=torch.Generator().manual_seed(seed)) for seed in itertools.count())
    edited = apply(edit, operator_of(edit), images, draws, lambda x, t: 1e3 * torch.sin(x))
    assert torch.equal(edited[:, :, mask], images[:, :, mask])
    assert not torch.isclose(edited[:, :, ~mask], images[:, :, ~mask]).any()


def test_algorithm_4_visits_its_times_and_adds_its_noise():
    edit, images = parse_edit("inpainting,mask~half,times~5.0+1.0"), random_images()
    operator, seen = edit.operator(RGB, mask_of(RGB, "half")), []
    draws = [torch.full_like(images, value) for value in (1.0, 10.0)]

    def denoise(x, t):
        seen.append((x, t))
        return x * 0

    edited = apply(edit, operator, images, draws, denoise)
    given = operator.project(images)
    assert [float(t[0]) for _, t in seen] == [5.0, 1.0]
    assert torch.allclose(seen[0][0], given + 5.0)
    assert torch.allclose(seen[1][0], given + 10 * math.sqrt(1 - 0.002**2))
    assert torch.equal(edited, given)


@pytest.mark.parametrize(("clamp", "value"), [(False, 3.0), (True, 1.0)])
def test_an_estimate_is_clamped_before_what_is_known_is_put_back(clamp, value):
    images = 2 * random_images()
    edit = registry.get("edit", "inpainting")(times=(1.0,), clamp=clamp)
    edited = apply(edit, operator_of(edit), images, [images * 0], lambda x, t: torch.full_like(x, 3.0))
    mask = mask_of(RGB) > 0
    assert edited[:, :, ~mask].unique().tolist() == [value]
    assert torch.equal(edited[:, :, mask], images[:, :, mask])


def test_by_default_all_times_of_the_grid_of_40_but_the_last():
    for name in KEEPING:
        edit = registry.get("edit", name)()
        assert edit.evaluations == 39
        assert edit._grid(NOISE) == pytest.approx(NOISE.times(40)[:-1].tolist())


def test_the_times_of_stroke_guided_generation_are_the_papers():
    edit = parse_edit("stroke")
    assert edit.evaluations == 2
    assert edit.times == pytest.approx(NOISE.times(40)[[16, 20]].tolist(), abs=5e-3)


def test_strokes_have_few_colours():
    edit, images = parse_edit("stroke,colours~4,median~3"), random_images()
    painted = edit.operator(RGB).observe(images, None)
    assert all(1 < len(image.flatten(1).unique(dim=1).T) <= 4 for image in painted)
    grey = edit.operator((1, 16, 16)).observe(images[:, :1], None)
    assert grey.shape == (3, 1, 16, 16)
    given = parse_edit("stroke,colours~0").operator(RGB).observe(images, None)
    assert torch.equal(given, images)


def test_denoising_is_one_evaluation_at_the_level_of_the_noise():
    edit, images, seen = parse_edit("denoising,sigma~0.7"), random_images(), []
    operator = edit.operator(RGB)

    def denoise(x, t):
        seen.append(float(t[0]))
        return x

    got = apply(edit, operator, images, [torch.ones_like(images)], denoise)
    assert torch.allclose(got, images + 0.7) and seen == [0.7]


def test_slerp_keeps_the_length_of_noise():
    first, last = torch.randn(2, 4, *RGB, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(slerp(first, last, 0.0), first, atol=1e-6)
    assert torch.allclose(slerp(first, last, 1.0), last, atol=1e-6)
    middle = slerp(first, last, 0.5)
    assert torch.allclose(middle, slerp(last, first, 0.5), atol=1e-6)
    assert middle.flatten(1).norm(dim=1) == pytest.approx(first.flatten(1).norm(dim=1), rel=0.05)
    assert ((first + last) / 2).flatten(1).norm(dim=1).max() < 0.8 * first.flatten(1).norm(dim=1).min()


def test_interpolation_begins_and_ends_with_the_samples():
    edit = parse_edit("interpolation,points~5")
    first, last = torch.randn(2, 3, *RGB, generator=torch.Generator().manual_seed(0))
    rows = edit(lambda x, t: x / t.to(x).reshape(-1, 1, 1, 1), first, last, NOISE)
    assert rows.shape == (3, 5, *RGB)
    assert torch.allclose(rows[:, 0], first, atol=1e-5) and torch.allclose(rows[:, -1], last, atol=1e-5)


@pytest.mark.parametrize("name", EDITS)
def test_baselines_are_images_that_know_no_more_than_what_is_given(name):
    edit, images = parse_edit(EDITS[name]), random_images()
    operator = operator_of(edit)
    given = operator.observe(images, lambda: torch.ones_like(images))
    found = operator.baselines(given)
    assert found and all(baseline.shape == images.shape for baseline in found.values())
    if name == "inpainting":
        mask = mask_of(RGB) > 0
        assert torch.equal(found["mean fill"][:, :, mask], images[:, :, mask])
        filled = found["mean fill"][:, :, ~mask].mean(2)
        assert torch.allclose(filled, images[:, :, mask].mean(2), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("inpainting,times~1.0+2.0", "times must be positive and decrease"),
        ("inpainting,times~1.0+1.0", "times must be positive and decrease"),
        ("colorization,times~1.0+0.0", "times must be positive and decrease"),
        ("stroke,median~4", "median must be odd"),
        ("stroke,start~noise", "nothing of the painting is used"),
        ("superresolution,patch~1", "patch must be at least 2"),
        ("denoising,sigma~0.0", "sigma must be above 0.0"),
        ("colorization,weights~0.0+0.0+0.0", "one of the weights must be positive"),
        ("sharpening", "unknown edit 'sharpening'; known: colorization, denoising"),
        ("superresolution,patch~8", "must be written 'superresolution'"),
    ],
)
def test_bad_edits_are_refused(name, message):
    with pytest.raises(UserError) as error:
        parse_edit(name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("colorization", (1, 16, 16), "needs images of 3 channels, not 1"),
        ("superresolution", (3, 12, 12), "blocks of patch 8 do not tile images of 12x12"),
        ("superresolution", (3, 8, 8), "blocks of patch 8 do not tile images of 8x8"),
    ],
)
def test_images_that_an_edit_cannot_take_are_refused(name, shape, message):
    with pytest.raises(UserError) as error:
        parse_edit(name).check_images(shape, "here")
    assert message in str(error.value)
