"""The cache of downloads: what is fetched from a local server or by a local package client, checked, and kept."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path

import pytest
from served import DATA

from cm.errors import UserError
from cm.utils import fetch, files

SHA256 = files.sha256(DATA)


pytestmark = pytest.mark.usefixtures("cache")


def contents(folder: Path) -> list[str]:
    """The names of the files below a folder."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def refusal(match: str, url: str, **options) -> str:
    with pytest.raises(UserError, match=match) as caught:
        fetch.fetch_file(url, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_user_chooses_the_cache_folder(monkeypatch, tmp_path):
    assert fetch.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch.cache_folder() == tmp_path / "xdg" / "cm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fetch.cache_folder() == Path.home() / ".cache" / "cm"


# ---- files ----


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_is_fetched_once(chunked, server, cache):
    server.chunked = chunked
    for _ in range(2):
        path = fetch.fetch_file(f"{server.url}?download=1", sha256=SHA256, size=len(DATA))
        assert path.name == "data.bin" and path.read_bytes() == DATA
    assert server.log == [None] and contents(cache) == ["data.bin"]
    assert cache / "downloads" in path.parents


def test_files_of_the_same_name_from_two_places_are_two_files(server, cache):
    server.files = {"/a/x.bin": b"one", "/b/x.bin": b"two"}
    for _ in range(2):
        for url, data in ((f"{server.home}/a/x.bin", b"one"), (f"{server.home}/b/x.bin", b"two")):
            assert fetch.fetch_file(url).read_bytes() == data
    assert fetch.fetch_file(f"{server.home}/a/x.bin?v=2", sha256=files.sha256(b"one")).read_bytes() == b"one"
    assert contents(cache).count("x.bin") == 3


def test_files_of_one_folder_share_a_folder():
    first, second = (fetch.place_of(f"https://host/a/{name}") for name in ("x", "y"))
    assert first.parent == second.parent and first.parent.name.startswith("host-")


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a/%2e%2e%2fpip.py",
        "https://host/a/..%00",
        "https://[::1]/x",
        f"https://host/{'n' * 900}",
        f"https://{'h' * 300}/x",
        "https://host/a/$(touch%20x)",
        "https://host/~me/x.tar.gz?a=../../b",
    ],
)
def test_every_file_lies_below_the_downloads(url, cache):
    path = fetch.place_of(url)
    assert Path(os.path.normpath(path)) == path and path.parent.parent == cache / "downloads"
    assert set(path.name + path.parent.name) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.~+,-"
    )
    path.parent.mkdir(parents=True)
    path.touch()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "https://host/a/..", "https://host/a/...?x"])
def test_a_url_without_a_file_is_refused(url):
    assert url in refusal("names no file", url)


def test_an_interrupted_download_is_resumed(server, cache):
    server.cuts = [3000, 2000]
    for done in (3000, 5000):
        line = refusal(f"broke after {done} of {len(DATA)} bytes", server.url, sha256=SHA256)
        place = fetch.place_of(server.url)
        assert server.url in line and str(place) in line and not place.exists()
    assert fetch.fetch_file(server.url, sha256=SHA256).read_bytes() == DATA
    assert server.log == [None, "bytes=3000-", "bytes=5000-"] and contents(cache) == ["data.bin"]


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size": 1}])
def test_a_wrong_download_is_removed_and_can_be_repeated(wrong, server, cache):
    line = refusal("damaged or another|not 1", server.url, **wrong)
    assert server.url in line and not contents(cache)
    assert fetch.fetch_file(server.url, sha256=SHA256).read_bytes() == DATA


@pytest.mark.parametrize("wrong", [{"sha256": SHA256}, {"size": len(DATA)}])
def test_a_wrong_file_of_the_user_is_reported_and_kept(wrong, server):
    path = fetch.place_of(server.url)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    assert str(path) in refusal("another file", server.url, **wrong)
    assert path.read_bytes() == b"mine" and not server.log


def test_a_failing_or_missing_server_is_reported_with_url_and_place(server):
    server.status = 404
    place = fetch.place_of(server.url)
    line = refusal("Not Found", server.url)
    assert server.url in line and f"put it at {place}" in line
    server.shutdown()
    server.server_close()
    line = refusal("refused", server.url)
    assert server.url in line and f"put it at {place}" in line


# ---- the digest of the first use ----


def test_the_digest_of_the_first_use_is_recorded_and_reported(server, capsys):
    path = fetch.fetch_file(server.url)
    assert SHA256 in capsys.readouterr().err
    assert path.with_name("data.bin.sha256").read_text() == f"{SHA256}  data.bin\n"
    assert fetch.fetch_file(server.url) == path and not capsys.readouterr().err


def test_a_file_put_there_by_hand_is_held_to_its_first_digest_too(server, capsys):
    path = fetch.place_of(server.url)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    assert fetch.fetch_file(server.url) == path and not server.log
    assert files.sha256(b"mine") in capsys.readouterr().err
    path.write_bytes(b"other")
    line = refusal("has changed", server.url)
    assert files.sha256(b"mine") in line and files.sha256(b"other") in line and path.read_bytes() == b"other"
    path.with_name("data.bin.sha256").unlink()
    assert fetch.fetch_file(server.url) == path


def test_another_file_at_the_same_address_is_reported_and_not_kept(server):
    path = fetch.fetch_file(server.url)
    path.unlink()
    server.default = b"another" * 99
    assert server.url in refusal(f"{SHA256} at its first use", server.url)
    assert not path.exists() and not path.with_name("data.bin.partial").exists()
    server.default = DATA
    assert fetch.fetch_file(server.url).read_bytes() == DATA


def test_a_known_digest_needs_no_record(server, cache):
    fetch.fetch_file(server.url, sha256=SHA256)
    assert contents(cache) == ["data.bin"]


# ---- packages ----


NPM = """#!/bin/sh
echo "$@" >> "{log}"
{body}
"""


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Makes an `npm` on PATH that runs some lines of shell, with $5 the folder to write; returns its log."""

    def make(body: str) -> Path:
        path, log = tmp_path / "bin" / "npm", tmp_path / "log"
        path.parent.mkdir(exist_ok=True)
        path.write_text(NPM.format(log=log, body=body))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
        return log

    return make


def fetch_thing(**options) -> Path:
    return fetch.fetch_package("npm", "thing@1.2.3", **{"sha256": SHA256, "name": "thing-1.2.3.tgz", **options})


def test_a_package_is_fetched_once_and_none_of_its_scripts_run(npm, tmp_path, cache):
    (tmp_path / "packed").write_bytes(DATA)
    log = npm(f'cp "{tmp_path}/packed" "$5/thing-1.2.3.tgz"; echo thing-1.2.3.tgz')
    for _ in range(2):
        assert fetch_thing() == cache / "downloads" / "packages" / "thing-1.2.3.tgz"
    assert fetch_thing().read_bytes() == DATA
    called = log.read_text().splitlines()
    assert len(called) == 1 and called[0].startswith("pack ") and called[0].endswith(" thing@1.2.3")
    assert "--ignore-scripts" in called[0].split()


@pytest.mark.parametrize(
    "body, match",
    [
        ('echo other > "$5/thing-1.2.3.tgz"', "sha256 .* not"),
        ('echo one > "$5/a"; echo two > "$5/b"', "left 2 files"),
        ("true", "left 0 files"),
        ("echo 'npm error no such version' >&2; exit 1", r"npm error no such version"),
        ("exit 3", "exit status 3"),
    ],
)
def test_a_failing_client_leaves_nothing_and_is_reported_in_one_line(body, match, npm, cache):
    npm(body)
    with pytest.raises(UserError, match=match) as caught:
        fetch_thing()
    assert "\n" not in str(caught.value) and not contents(cache)


def test_a_missing_client_is_reported(monkeypatch, tmp_path, cache):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"thing@1.2.3 .*no 'npm' here.*thing-1.2.3.tgz"):
        fetch_thing()


def test_an_archive_in_the_cache_is_checked(cache):
    cache.mkdir()
    (cache / "thing-1.2.3.tgz").write_bytes(b"other")
    with pytest.raises(UserError, match=r"thing-1.2.3.tgz has sha256"):
        fetch_thing()


def test_an_archive_put_into_the_cache_by_hand_is_used(cache):
    cache.mkdir()
    (cache / "thing-1.2.3.tgz").write_bytes(DATA)
    assert fetch_thing() == cache / "thing-1.2.3.tgz"


def test_a_module_in_the_cache_or_on_the_path_is_not_run_as_pip(tmp_path, cache, monkeypatch):
    """Before pip was isolated, `python -m pip` ran what had the name pip.py where it was started."""
    registry, trace = tmp_path / "registry", tmp_path / "trace"
    folders = (cache, cache / "downloads", cache / "downloads" / "packages", tmp_path / "path")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("pip.py", "subprocess.py", "sitecustomize.py"):
            (folder / name).write_text(f"open({str(trace)!r}, 'w'); import sys; sys.exit(3)")
    registry.mkdir()
    (registry / "thing-1.0-py3-none-any.whl").write_bytes(_empty_wheel())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(registry))
    monkeypatch.chdir(cache)
    sha256 = files.sha256_of(registry / "thing-1.0-py3-none-any.whl")
    path = fetch.fetch_package("pip", "thing==1.0", sha256=sha256, name="thing-1.0-py3-none-any.whl")
    assert path.parent == cache / "downloads" / "packages" and files.sha256_of(path) == sha256
    assert not trace.exists() and fetch.PIP[:2] == (sys.executable, "-I")


def _empty_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        wheel.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("thing-1.0.dist-info/RECORD", "")
    return buffer.getvalue()
