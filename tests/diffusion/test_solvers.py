"""Every registered solver reaches its order on data whose probability-flow ODE has a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cm import registry
from cm.diffusion.solvers import integrate
from cm.errors import UserError
from cm.methods.cd import ConsistencyDistillation
from cm.methods.ct import ConsistencyTraining

SOLVERS = registry.components("solver")
DEVIATION = 0.5


def gaussian(x, t):
    """D(x, t) for data N(0, 0.5^2); the ODE's solution is x(t) proportional to sqrt(t^2 + 0.5^2)."""
    t = t.reshape(-1, 1, 1, 1)
    return x * DEVIATION**2 / (t**2 + DEVIATION**2)


def error(solver, times: np.ndarray) -> float:
    """Error at the last of the times of a solution that is 1 at the first."""
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    x = integrate(solver, gaussian, x, [torch.tensor([t], dtype=torch.float64) for t in times])
    exact = ((times[-1] ** 2 + DEVIATION**2) / (times[0] ** 2 + DEVIATION**2)) ** 0.5
    return abs(x.item() - exact)


def order(solver, grid) -> float:
    """The order of convergence along the grids of so many steps."""
    counts = np.array([64, 128, 256, 512])
    errors = [error(solver, grid(n)) for n in counts]
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("grid", ["even", "even in ln t"])
def test_order_of_convergence(name, grid):
    spaced = {"even": np.linspace, "even in ln t": np.geomspace}[grid]
    assert order(SOLVERS[name], lambda n: spaced(2.0, 0.5, n + 1)) == pytest.approx(SOLVERS[name].order, abs=0.1)


@pytest.mark.parametrize("name", SOLVERS)
def test_evaluations_of_a_step(name):
    calls = []

    def counted(x, t):
        calls.append(t)
        return gaussian(x, t)

    times = torch.tensor([[2.0], [1.0], [0.8], [0.7]], dtype=torch.float64)
    integrate(SOLVERS[name], counted, torch.ones(1, 1, 1, 1, dtype=torch.float64), list(times))
    assert len(calls) == 3 * SOLVERS[name].evaluations


@pytest.mark.parametrize("name", SOLVERS)
def test_steps_take_each_image_its_own_way(name):
    """Shapes are kept, and images of a batch with different times do not mix."""
    solver, x = SOLVERS[name], torch.randn(3, 2, 4, 4, dtype=torch.float64)
    times = [torch.tensor(t).double() for t in ([3.0, 2.0, 1.0], [2.0, 0.5, 0.9], [1.9, 0.4, 0.2])]
    whole = integrate(solver, gaussian, x, times)
    alone = [integrate(solver, gaussian, x[i : i + 1], [t[i : i + 1] for t in times]) for i in range(3)]
    assert torch.equal(whole, torch.cat(alone))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_that_reaches_zero_ends_at_a_finite_image(name):
    """Euler's step to 0 is the estimate D itself."""
    solver, x = SOLVERS[name], torch.randn(2, 1, 4, 4, dtype=torch.float64)
    t = torch.tensor([0.5, 0.1], dtype=torch.float64)
    if solver.history or not solver.reaches_zero:
        return
    landed = solver(gaussian, x, t, torch.zeros_like(t))
    assert landed.isfinite().all()
    if name == "euler":
        torch.testing.assert_close(landed, gaussian(x, t), rtol=0, atol=1e-15)


def test_dpm_solver_2_takes_the_slope_at_the_geometric_mean():
    seen = []

    def denoise(x, t):
        seen.append(t.item())
        return gaussian(x, t)

    t, s = torch.tensor([2.0], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    SOLVERS["dpm2"](denoise, torch.ones(1, 1, 1, 1, dtype=torch.float64), t, s)
    assert seen == [2.0, 1.0]


def test_a_multistep_solver_needs_more_than_the_step_before():
    """DPM-Solver++(2M) is exact for an estimate that is linear in ln t."""
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    times = [torch.tensor([t], dtype=torch.float64) for t in (2.0, 1.0, 0.5)]
    got = integrate(SOLVERS["dpmpp2m"], lambda x, t: t.log().reshape(-1, 1, 1, 1), x, times)
    first = 0.5 * 1 + 0.5 * np.log(2.0)
    extrapolated = np.log(1.0) + (np.log(1.0) - np.log(2.0)) / 2  # at sqrt(0.5), in the middle of the second step
    assert got.item() == pytest.approx(0.5 * first + 0.5 * extrapolated, rel=1e-12)


@pytest.mark.parametrize("cls", [ConsistencyDistillation, ConsistencyTraining])
@pytest.mark.parametrize("name", [name for name, solver in SOLVERS.items() if solver.history])
def test_distillation_refuses_a_solver_with_a_history(cls, name):
    with pytest.raises(UserError, match=f"^here: solver '{name}' needs earlier steps and can only sample; known: "):
        cls(solver=SOLVERS[name]).check("here")
