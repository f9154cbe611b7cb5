"""The registry of components, the errors for unknown names, and the lazy import of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cm import registry
from cm.errors import UserError, unknown


@pytest.fixture
def emptied(monkeypatch):
    """A kind of component without any."""
    monkeypatch.setitem(registry._components, "solver", {})
    return "solver"


@pytest.mark.parametrize("kind", registry.HOMES)
def test_every_component_has_one_name_and_is_found_by_it(kind):
    assert registry.names(kind) == sorted(registry.components(kind))
    for name, component in registry.components(kind).items():
        assert registry.get(kind, name) is component
        if hasattr(component, "__qualname__"):
            assert registry.name(kind, component) == name


def test_an_instance_has_the_name_of_its_class():
    fixed = registry.get("curriculum", "fixed")(steps=18, target_mu=0.0)
    assert registry.name("curriculum", fixed) == "fixed"


def test_an_unregistered_component_has_no_name():
    with pytest.raises(ValueError, match="is no registered solver"):
        registry.name("solver", print)


def test_an_unknown_name_is_an_error_that_lists_the_known():
    with pytest.raises(UserError, match=r"^x\.yaml: unknown solver 'hune'; known: .*euler, heun"):
        registry.get("solver", "hune", "x.yaml")


def test_two_components_cannot_have_one_name(emptied):
    def first() -> None: ...

    def second() -> None: ...

    assert registry.register(emptied, "name")(first) is first
    registry.register(emptied, "name")(first)
    with pytest.raises(ValueError, match="two components claim the solver 'name'"):
        registry.register(emptied, "name")(second)


def test_the_error_for_an_unknown_name():
    assert str(unknown("solver", "x", ["b", "a"])) == "unknown solver 'x'; known: a, b"
    assert str(unknown("number", 1, [3, 2], "here")) == "here: unknown number '1'; known: 2, 3"
    assert str(unknown("solver", "x", [])) == "unknown solver 'x'; known: none"


def test_torch_is_imported_at_the_first_use():
    code = "import sys; from cm.lazy import torch; assert 'torch' not in sys.modules; torch.float32; import torch as t;"
    subprocess.run([sys.executable, "-c", f"{code} assert torch.nn is t.nn"], check=True)
