"""A local server, and a cache of downloads, for the tests that fetch."""

from __future__ import annotations

import pytest
import served


@pytest.fixture
def server():
    with served.serve(served.DATA) as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the cache; the server is asked without a proxy."""
    monkeypatch.setenv("CM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"
