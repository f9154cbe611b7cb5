"""Files of reference statistics, written as other projects and this suite write them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cleanfid.fid import frechet_distance

from cm.errors import UserError
from cm.evaluation import features, metrics, reference
from cm.evaluation.moments import Features
from cm.utils import files, npy

WIDTH = 12
ABOUT = {"extractor": {"name": "inception", "sha256": "0"}, "reference": {"split": "train", "images": 300}}


def draw_features(seed: int, count: int = 300, width: int = WIDTH, scale: float = 1.0) -> np.ndarray:
    """Features with heavy tails and without negative numbers, as those of Inception, [count, width] float32."""
    mix = np.linalg.qr(np.random.default_rng(9).standard_normal((width, width)))[0]
    points = np.random.default_rng(seed).standard_t(4, (count, width)) * np.arange(1, width + 1) ** -0.5
    return np.abs(scale * points @ mix).astype(np.float32)


REAL, SAMPLES = draw_features(0), Features(draw_features(1, scale=1.2))
MU, SIGMA = np.mean(REAL, axis=0), np.cov(REAL, rowvar=False)
DOUBLE = REAL.astype(np.float64)
MEAN, COVARIANCE = DOUBLE.mean(0), np.cov(DOUBLE, rowvar=False)
IMAGES = np.zeros((5, 4, 4, 3), np.uint8)
SPATIAL = {"mu_s": np.zeros(7), "sigma_s": np.eye(7)}


def clean_fid(path: Path) -> None:
    np.savez_compressed(path, mu=MU, sigma=SIGMA)


def clean_kid(path: Path) -> None:
    np.savez_compressed(path, feats=REAL)


def edm(path: Path) -> None:
    """Sums of products, as EDM's fid.py."""
    mean = DOUBLE.sum(0) / len(REAL)
    np.savez(path, mu=mean, sigma=(DOUBLE.T @ DOUBLE - np.outer(mean, mean) * len(REAL)) / (len(REAL) - 1))


def adm(path: Path) -> None:
    np.savez(path, arr_0=IMAGES, mu=MEAN, sigma=COVARIANCE, **SPATIAL)


def summary(path: Path) -> None:
    features.write(path, Features(REAL[:50], fitted=(MEAN, COVARIANCE)), ABOUT)


def packed(path: Path) -> None:
    reference.pack(path, MEAN, COVARIANCE, ABOUT)


FOREIGN = {clean_fid: "clean-fid or EDM", edm: "clean-fid or EDM", clean_kid: "clean-fid KID", adm: "ADM"}
WRITERS = [*FOREIGN, summary, packed]


def written(writer, folder: Path) -> Path:
    path = folder / f"{writer.__name__}.npz"
    writer(path)
    return path


@pytest.mark.parametrize("writer", WRITERS)
def test_fid_is_that_of_the_features(writer, tmp_path):
    found = reference.read(written(writer, tmp_path))
    assert found.mean.dtype == found.covariance.dtype == np.float64
    np.testing.assert_allclose(found.mean, MEAN, rtol=1e-6)
    np.testing.assert_allclose(found.covariance, COVARIANCE, rtol=1e-6, atol=1e-8)
    expected = frechet_distance(*SAMPLES.moments(), MEAN, COVARIANCE)
    fid = metrics.fid(SAMPLES, Features(REAL[:0], fitted=(found.mean, found.covariance)))
    assert fid == pytest.approx(expected, rel=1e-6)
    assert fid == pytest.approx(metrics.fid(SAMPLES, Features(REAL)), rel=1e-6)


@pytest.mark.parametrize("writer", [adm, summary])
def test_doubles_are_read_as_they_are(writer, tmp_path):
    found = reference.read(written(writer, tmp_path))
    np.testing.assert_array_equal(found.mean, MEAN)
    np.testing.assert_array_equal(found.covariance, COVARIANCE)


@pytest.mark.parametrize("writer", FOREIGN)
def test_files_of_other_projects_are_described_by_name_form_and_digest(writer, tmp_path):
    path = written(writer, tmp_path)
    expected = {"file": path.name, "form": FOREIGN[writer], "sha256": files.sha256_of(path)}
    assert reference.read(str(path)).about == expected


@pytest.mark.parametrize("writer", [summary, packed])
def test_our_own_files_describe_their_images(writer, tmp_path):
    assert reference.read(written(writer, tmp_path)).about == ABOUT


def test_packed_files_of_earlier_versions_call_split_halves_halves(tmp_path):
    halves = {"images": 150, "metrics": {"fid": 2.0}}
    reference.pack(tmp_path / "f.npz", MEAN, COVARIANCE, {"reference": {"split": "train", "halves": halves}})
    assert reference.read(tmp_path / "f.npz").about == {"reference": {"split": "train", "split_halves": halves}}
    committed = reference.read("config/protocols/cifar10_train.npz").about["reference"]
    assert committed["split_halves"]["metrics"]["fid"] == pytest.approx(2.1088218758777657)


@pytest.mark.parametrize(("writer", "kept"), [(summary, 50), (clean_kid, 300), (clean_fid, None), (packed, None)])
def test_features_of_single_images_are_kept(writer, kept, tmp_path):
    found = reference.read(written(writer, tmp_path)).features
    if kept is None:
        assert found is None
    else:
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, REAL[:kept])


def test_features_in_double_precision_are_read(tmp_path):
    np.savez(tmp_path / "f.npz", feats=DOUBLE)
    found = reference.read(tmp_path / "f.npz")
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features, REAL)


def test_a_summary_without_single_images_is_read(tmp_path):
    features.write(tmp_path / "f.npz", Features(REAL[:0], fitted=(MEAN, COVARIANCE)), ABOUT)
    assert reference.read(tmp_path / "f.npz").features.shape == (0, WIDTH)


def test_statistics_are_adms_if_there_are_images(tmp_path):
    np.savez(tmp_path / "with.npz", arr_0=IMAGES, mu=MEAN, sigma=COVARIANCE)
    np.savez(tmp_path / "without.npz", mu=MEAN, sigma=COVARIANCE, **SPATIAL)
    assert reference.read(tmp_path / "with.npz").about["form"] == "ADM"
    assert reference.read(tmp_path / "without.npz").about["form"] == "clean-fid or EDM"


def test_adms_images_are_not_read(tmp_path):
    """Damage in the images shows that nobody looked at them; damage beside them is seen."""
    path = written(adm, tmp_path)
    whole = path.read_bytes()
    for array, refused in (("arr_0", False), ("sigma", True)):
        with zipfile.ZipFile(path) as archive:
            place = archive.getinfo(f"{array}.npy").header_offset + 200
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if refused:
            refuses(path, "not a whole .npz file: Bad CRC-32")
        else:
            np.testing.assert_array_equal(reference.read(path).covariance, COVARIANCE)


# ---- the packed form -----------------------------------------------------------------------------------------------


def test_packed_statistics_are_the_rounded_ones_and_symmetric(tmp_path):
    found = reference.read(written(packed, tmp_path))
    np.testing.assert_array_equal(found.mean, MEAN.astype(np.float32))
    np.testing.assert_array_equal(found.covariance, COVARIANCE.astype(np.float32))
    np.testing.assert_array_equal(found.covariance, found.covariance.T)


def test_the_layout_of_the_packed_form_does_not_change(tmp_path):
    """Files in the repository have this layout."""
    reference.pack(tmp_path / "f.npz", np.arange(3.0), np.array([[4.0, 1, 2], [1, 5, 3], [2, 3, 6]]), {"a": [1]})
    found = npy.read_arrays(tmp_path / "f.npz")
    np.testing.assert_array_equal(found["mean"], np.arange(3))
    np.testing.assert_array_equal(found["covariance_triangle"], [4, 1, 2, 5, 3, 6])
    assert found["mean"].dtype == found["covariance_triangle"].dtype == np.float32
    assert json.loads(str(found["about"])) == {"a": [1]}


@pytest.mark.parametrize(("count", "cost"), [(1000, 1e-8), (100, 1e-3)])
def test_the_error_of_rounding_to_float32(count, cost, tmp_path):
    """The covariance of fewer images than features has no variance in some directions, but for quantization errors."""
    samples, real = Features(draw_features(2, 1000, 256, 1.1)), Features(draw_features(3, count, 256))
    reference.pack(tmp_path / "f.npz", *real.moments(), {})
    found = reference.read(tmp_path / "f.npz")
    exact = metrics.fid(samples, real)
    assert exact > 0.5
    assert metrics.fid(samples, Features(real.features[:0], fitted=(found.mean, found.covariance))) == pytest.approx(
        exact, rel=0, abs=cost
    )


def test_the_same_statistics_are_the_same_bytes(tmp_path, monkeypatch):
    first = written(packed, tmp_path).read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert written(packed, tmp_path).read_bytes() == first
    with zipfile.ZipFile(tmp_path / "packed.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    reference.pack(tmp_path / "again.npz", *_moments(tmp_path / "packed.npz"), ABOUT)
    assert (tmp_path / "again.npz").read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"packed.npz", "again.npz"}


def _moments(path: Path) -> tuple[np.ndarray, np.ndarray]:
    found = reference.read(path)
    return found.mean, found.covariance


def test_the_packed_form_is_small(tmp_path):
    wide = Features(draw_features(0, 600, 256))
    reference.pack(tmp_path / "packed.npz", *wide.moments(), ABOUT)
    np.savez(tmp_path / "edm.npz", mu=wide.moments()[0], sigma=wide.moments()[1])
    assert (tmp_path / "packed.npz").stat().st_size < 0.26 * (tmp_path / "edm.npz").stat().st_size


# ---- files without statistics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", WRITERS)
def test_statistics_are_known_by_their_arrays(writer, tmp_path):
    path = written(writer, tmp_path)
    assert reference.is_statistics(path) is True
    assert reference.is_statistics(path.rename(tmp_path / "F.NPZ")) is True


@pytest.mark.parametrize(
    "arrays", [{"arr_0": IMAGES}, {"arr_0": IMAGES, "mu": MEAN}, {"features": REAL}, {"mean": MEAN}]
)
def test_other_arrays_are_not_statistics(arrays, tmp_path):
    np.savez(tmp_path / "f.npz", **arrays)
    assert reference.is_statistics(tmp_path / "f.npz") is False


def test_other_files_are_not_statistics(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "folder.npz").mkdir()
    adm(tmp_path / "VIRTUAL.npz")
    (tmp_path / "VIRTUAL.npz").rename(tmp_path / "b.zip")
    for name in ("a.npy", "folder.npz", "b.zip", "missing", "missing.zip"):
        assert reference.is_statistics(tmp_path / name) is False


@pytest.mark.parametrize("ask", [reference.is_statistics, reference.read])
@pytest.mark.parametrize("problem", ["missing", "truncated", "no archive"])
def test_missing_and_damaged_files_are_refused_by_both(ask, problem, tmp_path):
    path = tmp_path / "f.npz"
    if problem == "truncated":
        path.write_bytes(written(edm, tmp_path).read_bytes()[:500])
    elif problem == "no archive":
        path.write_bytes(b"statistics")
    with pytest.raises(UserError, match=rf"^(no file )?{path}"):
        ask(path)


def test_pickles_are_refused_with_what_to_do(tmp_path):
    assert reference.is_statistics(tmp_path / "img512.PKL") is True
    for name in ("img512.pkl", "img512.PKL"):
        refuses(tmp_path / name, f"{name} is a pickle, which is not read: save its 'fid' with np.savez(")


def refuses(path: Path, *expected: str) -> None:
    with pytest.raises(UserError) as caught:
        reference.read(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    for part in expected:
        assert part in line


def changed(array: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    found = array.copy()
    found[place] = value
    return found


TRIANGLE = np.eye(WIDTH, dtype=np.float32)[np.triu_indices(WIDTH)]
OURS = {"mean": MEAN, "about": np.array("{}")}
REFUSED = {
    "nothing": ({}, "has no statistics but nothing; known: mean, covariance, features, about (summary); "),
    "others": ({"a": MEAN, "b": MEAN}, "has no statistics but a, b; known: ", "mu, sigma (clean-fid or EDM)"),
    "no sigma": ({"mu": MEAN}, "has no statistics but mu; known: "),
    "no about": ({"mean": MEAN, "covariance": COVARIANCE, "features": REAL}, "has no statistics but mean, covariance"),
    "width": ({"mu": MEAN[1:], "sigma": COVARIANCE}, "must be [D] and [D, D], not [11] and [12, 12]"),
    "oblong": ({"mu": MEAN, "sigma": COVARIANCE[1:]}, "must be [D] and [D, D], not [12] and [11, 12]"),
    "empty": ({"mu": MEAN[:0], "sigma": COVARIANCE[:0, :0]}, "not [0] and [0, 0]"),
    "scalars": ({"mu": np.array(1.0), "sigma": np.array(1.0)}, "not [] and []"),
    "a row": ({"mu": MEAN[None], "sigma": np.zeros((1, WIDTH, 1, WIDTH))}, "not [1, 12] and [1, 12, 1, 12]"),
    "NaN mean": ({"mu": changed(MEAN, (3,), np.nan), "sigma": COVARIANCE}, "mu: 1 of 12 numbers are not finite"),
    "infinite": ({"mu": MEAN, "sigma": COVARIANCE * np.inf}, "sigma: 144 of 144 numbers are not finite"),
    "asymmetric": (
        {"mu": MEAN, "sigma": changed(COVARIANCE, (2, 1), COVARIANCE[1, 2] + 1e-2)},
        "the covariance is not symmetric: two entries differ by 0.01",
    ),
    "negative": (
        {"mu": MEAN, "sigma": changed(COVARIANCE, (1, 1), -1e-3)},
        "the covariance has a negative variance, -0.001",
    ),
    "indefinite": (
        {"mu": MEAN[:2], "sigma": np.array([[1.0, 2.0], [2.0, 1.0]])},
        "the covariance is not one: in some direction the variance is negative",
    ),
    "slightly indefinite": ({"mu": MEAN, "sigma": COVARIANCE - 2 * np.linalg.eigvalsh(COVARIANCE)[0] * np.eye(12)}, ""),
    "1e308": ({"mu": MEAN, "sigma": COVARIANCE * 1e308}, "which is too large for features"),
    "-1e308": ({"mu": MEAN - 1e308, "sigma": COVARIANCE}, "mu has the number 1e+308, which is too large for features"),
    "large features": ({"feats": REAL.astype(np.float64) * 1e200}, "which is too large for features"),
    "complex": ({"mu": MEAN, "sigma": COVARIANCE + 0j}, "sigma must be floating-point numbers, not complex128"),
    "integers": ({"mu": MEAN.astype(int), "sigma": COVARIANCE}, "mu must be floating-point numbers, not int64"),
    "integer features": ({"feats": REAL.astype(np.uint8)}, "feats must be floating-point numbers, not uint8"),
    "objects": (
        {"mu": MEAN.astype(object), "sigma": COVARIANCE},
        "is not a whole .npz file: its values are object, not numbers",
    ),
    "one image": ({"feats": REAL[:1]}, "feats must be [N, D] with N of at least 2, not [1, 12]"),
    "flat features": ({"feats": REAL[0]}, "feats must be [N, D] with N of at least 2, not [12]"),
    "NaN features": ({"feats": changed(REAL, (0, 0), np.nan)}, "feats: 1 of 3600 numbers are not finite"),
    "triangle": (
        {**OURS, "covariance_triangle": TRIANGLE[1:]},
        "[77] numbers are not the triangle",
        "of a covariance of 12",
    ),
    "square": ({**OURS, "covariance_triangle": COVARIANCE}, "[12, 12] numbers are not the triangle"),
    "packed scalar": ({**OURS, "mean": np.array(1.0), "covariance_triangle": TRIANGLE[:1]}, "not [] and [1, 1]"),
    "negative triangle": ({**OURS, "covariance_triangle": -TRIANGLE}, "a negative variance, -1"),
    "features": (
        {**OURS, "covariance": COVARIANCE, "features": REAL[:, 1:]},
        "features must be [n, 12]",
        "not [300, 11]",
    ),
    "one feature": ({**OURS, "covariance": COVARIANCE, "features": REAL[0]}, "features must be [n, 12]", "not [12]"),
    "no JSON": ({**OURS, "about": np.array("{"), "covariance_triangle": TRIANGLE}, "about is not JSON: "),
    "reference of a list": (
        {**OURS, "about": np.array('{"reference": [1]}'), "covariance_triangle": TRIANGLE},
        "about: its reference must be an object of JSON, not list",
    ),
    "deep": ({**OURS, "about": np.array("[" * 9999), "covariance_triangle": TRIANGLE}, "about is not JSON"),
    "a list": ({**OURS, "about": np.array("[]"), "covariance_triangle": TRIANGLE}, "an object of JSON, not list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_are_not_a_mean_and_a_covariance_are_refused(name, tmp_path):
    arrays, *expected = REFUSED[name]
    np.savez(tmp_path / "f.npz", **arrays)
    refuses(tmp_path / "f.npz", *expected)


@pytest.mark.parametrize("entry", [(1, 2), (1, 1)])
def test_rounding_errors_are_accepted(entry, tmp_path):
    """An entry that differs from its twin, or a variance below zero, in the seventh digit of the largest."""
    given = np.diag([5.0, 0.0, 0.0])
    given[entry] = -4e-6
    np.savez(tmp_path / "f.npz", mu=np.zeros(3), sigma=given)
    np.testing.assert_array_equal(reference.read(tmp_path / "f.npz").covariance, given)
    np.savez(tmp_path / "f.npz", mu=np.zeros(3), sigma=given * [1, 1.5, 1.5])
    refuses(tmp_path / "f.npz", "the covariance")


@pytest.mark.parametrize("writer", WRITERS)
def test_damage_is_reported_in_one_line(writer, tmp_path):
    """Any byte may be another: the file is refused in one line, or what is read of it is what was written."""
    path = written(writer, tmp_path)
    whole, expected = path.read_bytes(), reference.read(path).covariance
    random = np.random.default_rng(0)
    for place in (*random.integers(len(whole), size=100), *random.integers(len(whole) - 300, len(whole), size=100)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            found = reference.read(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            np.testing.assert_array_equal(found.covariance, expected)


@pytest.mark.parametrize("header", ["{'descr': '<f8', 'fortran_order': False, 'shape': (100000000, 100000000)}", "((("])
def test_arrays_that_cannot_be_are_refused(header, tmp_path):
    """Their checksums are right."""
    beginning = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("mu.npy", beginning)
        archive.writestr("sigma.npy", beginning)
    refuses(tmp_path / "f.npz", "is not a whole .npz file: ")


def test_arrays_that_end_too_early_are_refused(tmp_path):
    """The array and the table of contents say that there is more than the file has."""
    path = written(edm, tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        info = archive.getinfo("sigma.npy")
        info.compress_size = info.file_size = 10**6
        archive.writestr("more.npy", b"")
    path.write_bytes(path.read_bytes().replace(b"(12, 12)", b"(99, 99)"))
    # Newer releases of Python see that the entries overlap before they read them.
    reason = r"is not a whole \.npz file: (it has 1000000 bytes of 78536|Overlapped entries)"
    with pytest.raises(UserError, match=reason) as caught:
        reference.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [(MEAN[1:], COVARIANCE), (MEAN, COVARIANCE * np.nan), (MEAN, -COVARIANCE)])
def test_statistics_that_would_be_refused_are_not_packed(arguments, tmp_path):
    with pytest.raises(UserError, match=str(tmp_path / "f.npz")):
        reference.pack(tmp_path / "f.npz", *arguments, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("images", [2, 12, 200])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_covariances_of_fewer_images_than_features_are_not_indefinite(images, scale, tmp_path):
    """Rounded to float32, they have small negative eigenvalues."""
    real = scale * np.random.default_rng(0).normal(size=(images, 400)) ** 3
    reference.pack(tmp_path / "f.npz", real.mean(0), np.cov(real, rowvar=False), {})
    found = reference.read(tmp_path / "f.npz")
    assert np.linalg.eigvalsh(found.covariance)[0] < 0
    np.savez(tmp_path / "zero.npz", mu=np.zeros(3), sigma=np.zeros((3, 3)))
    assert not reference.read(tmp_path / "zero.npz").covariance.any()
