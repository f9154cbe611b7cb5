"""Every registered solver reaches its order on data whose probability-flow ODE has a closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from cm import registry

ORDERS = {"euler": 1, "heun": 2}
DEVIATION = 0.5


def gaussian(x, t):
    """D(x, t) for data N(0, 0.5^2); the ODE's solution is x(t) proportional to sqrt(t^2 + 0.5^2)."""
    t = t.reshape(-1, 1, 1, 1)
    return x * DEVIATION**2 / (t**2 + DEVIATION**2)


def error(solver, steps: int) -> float:
    """Largest error of `steps` steps from t = 2 to 0.5 at x(2) = 1."""
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    times = torch.linspace(2.0, 0.5, steps + 1, dtype=torch.float64)
    for t, s in itertools.pairwise(times):
        x = solver(gaussian, x, t.expand(1), s.expand(1))
    exact = ((0.5**2 + DEVIATION**2) / (2.0**2 + DEVIATION**2)) ** 0.5
    return abs(x.item() - exact)


@pytest.mark.parametrize("name", registry.names("solver"))
def test_order_of_convergence(name):
    solver = registry.get("solver", name)
    counts = np.array([16, 32, 64, 128])
    errors = [error(solver, n) for n in counts]
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order == pytest.approx(ORDERS.get(name), abs=0.1), f"the order of '{name}' in ORDERS"


@pytest.mark.parametrize("name", registry.names("solver"))
def test_a_step_takes_each_image_its_own_way(name):
    """Shapes are kept, and images of a batch with different times do not mix."""
    solver, x = registry.get("solver", name), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    t, s = torch.tensor([3.0, 2.0, 1.0]).double(), torch.tensor([2.0, 0.5, 0.9]).double()
    whole = solver(gaussian, x, t, s)
    alone = torch.cat([solver(gaussian, x[i : i + 1], t[i : i + 1], s[i : i + 1]) for i in range(3)])
    assert torch.equal(whole, alone)
