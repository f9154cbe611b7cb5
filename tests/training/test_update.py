"""The update of the weights: the same whether it is compiled or not, compiled once, and that of torch's optimisers."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from conftest import plan_of
from torch import nn

from cm.checkpoints import native
from cm.errors import UserError
from cm.training.optimisers import Optimiser, learning_rate
from cm.training.plan import Plan
from cm.training.state import TrainingState
from cm.training.trainer import Trainer
from cm.training.update import Update

STEPS = 7  # RAdam rectifies from its sixth step
TORCH = {"adam": partial(torch.optim.Adam, fused=True), "radam": partial(torch.optim.RAdam, foreach=True)}


def network() -> nn.Module:
    """Three parameters, of which the last has no gradient."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    layer.register_parameter("unused", nn.Parameter(torch.ones(2)))
    return layer


def plan_with(place, **training) -> Plan:
    """A plan of consistency training, whose mu changes from step to step, for that network."""
    plan = plan_of(place, "digits/ct/default/seed0", student=network())
    plan.training = dataclasses.replace(plan.training, warmup=4, lr_decay="linear", **training)
    return plan


def set_gradients(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in (module.weight, module.bias):
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def do_updates(state: TrainingState, stop: int) -> None:
    update = Update(state.plan, state)
    for step in range(state.step, stop):
        set_gradients(state.student, step)
        update(step)
    state.step = stop


def weights(state: TrainingState) -> list[torch.Tensor]:
    """The weights of student, ema and target."""
    return [p.detach() for module in (state.student, state.ema, state.target) for p in module.parameters()]


def weights_after(plan: Plan) -> list[torch.Tensor]:
    """The weights after all updates."""
    state = TrainingState(plan)
    do_updates(state, STEPS)
    return weights(state)


@pytest.fixture
def graphs(monkeypatch) -> list[int]:
    """The graphs that are compiled, by number of operations: with a backend that runs them as they are."""
    found, original = [], torch.compile

    def keep(graph, _inputs):
        found.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, mode=None: original(function, backend=keep, fullgraph=True))
    torch._dynamo.reset()
    return found


@pytest.mark.parametrize("optimiser", ["adam", "radam"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_update_is_compiled_once_as_one_graph_and_gives_the_same(place, graphs, optimiser, clip):
    """Though the learning rate and mu change in every step."""
    plain = weights_after(plan_with(place, optimiser=optimiser, clip=clip))
    assert not graphs
    compiled = weights_after(plan_with(place, optimiser=optimiser, clip=clip, compile=True))
    assert len(graphs) == 1
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("constants", [{}, {"beta2": 0.99, "epsilon": 1e-11}], ids=["default", "others"])
@pytest.mark.parametrize("optimiser", ["adam", "radam"])
def test_a_step_is_that_of_the_optimiser_of_torch(place, optimiser, constants):
    """Bit by bit; a parameter without a gradient stays."""
    training = plan_with(place, optimiser=optimiser).training
    ours, theirs = network(), network()
    training = dataclasses.replace(training, **constants)
    one = Optimiser(training, ours)
    other = TORCH[optimiser](theirs.parameters(), betas=(0.9, training.beta2), eps=training.epsilon)
    for step in range(STEPS):
        rate = learning_rate(training, step + 1)
        other.param_groups[0]["lr"] = rate
        for module in (ours, theirs):
            set_gradients(module, step)
        one.step(rate)
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(ours.unused, torch.ones(2)) and not torch.equal(ours.weight, network().weight)


def test_a_step_with_a_gradient_that_overflows_is_left_out(place, graphs):
    """In float16, where the update is therefore not compiled."""
    plan = plan_with(place, precision="float16", compile=True)
    state = TrainingState(plan)
    update, before = Update(plan, state), [p.detach().clone() for p in state.student.parameters()]
    state.scaler.scale(torch.ones(()))
    for gradient, changes in ((torch.inf, False), (1.0, True)):
        state.student.weight.grad = torch.full((2, 3), gradient)
        update(5)
        assert torch.equal(before[0], state.student.weight) is not changes
    assert not graphs


def test_what_is_compiled_can_be_replayed_as_cuda_graphs(place, monkeypatch):
    """Without a GPU: the mode is asked for, and the gradients stay where they are, also over microbatches."""
    modes = []
    monkeypatch.setattr(torch, "compile", lambda function, mode=None, backend=None: modes.append(mode) or function)
    monkeypatch.setattr(Update, "_update", lambda *_: None)
    plain, fast = (
        Trainer(plan_of(place, f"digits/cd/{changes}microbatch~6/seed0"))
        for changes in ("", "compile~true,cuda_graphs~true,")
    )
    assert modes == ["reduce-overhead"] * 5  # student, target, teacher, distance and update
    addresses = []
    for _ in range(2):
        assert torch.equal(plain.step(), fast.step())
        both = zip(plain.state.student.parameters(), fast.state.student.parameters(), strict=True)
        assert all(torch.equal(a.grad, b.grad) for a, b in both if a.grad is not None)
        addresses.append([parameter.grad.data_ptr() for parameter in fast.state.student.parameters()])
    assert addresses[0] == addresses[1]


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("optimiser", ["adam", "radam"])
def test_all_that_the_compiled_update_reads_stays_where_it_is(place, monkeypatch, optimiser, clip):
    """Otherwise a replayed CUDA graph copies it first, and torch replays none that changes it, as clipping does."""
    found, original = [], torch.compile

    def keep(graph, _inputs):
        found.extend(node.meta["tensor_dict"] for node in graph.graph.find_nodes(op="placeholder"))
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, mode: original(function, backend=keep, fullgraph=True))
    torch._dynamo.reset()
    plan = plan_with(place, optimiser=optimiser, clip=clip, compile=True, cuda_graphs=True)
    state = TrainingState(plan)
    update = Update(plan, state)
    update(3)
    assert len(found) > 4 * len(state.optimiser.parameters)
    assert all(tensor.get("_dynamo_static_input_type") for tensor in found)


def test_cuda_graphs_need_compilation(place):
    with pytest.raises(UserError, match="digits/ct cuda_graphs~true, training: 'cuda_graphs' needs 'compile: true'"):
        plan_of(place, "digits/ct/cuda_graphs~true/seed0")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("optimiser", ["adam", "radam"])
def test_a_state_continues_to_the_same_weights(place, tmp_path, graphs, optimiser, compiled):
    """With the optimiser's numbers of steps, which decide from where on RAdam rectifies."""
    settings = {"optimiser": optimiser, "compile": compiled}
    want = weights_after(plan_with(place, **settings))
    for stop in (3, STEPS):
        state = TrainingState(dataclasses.replace(plan_with(place, **settings), out=tmp_path))
        state.resume()
        do_updates(state, stop)
        state.save()
    assert all(torch.equal(a, b) for a, b in zip(weights(state), want, strict=True))


def test_a_state_with_other_tensors_is_set_aside(place, tmp_path, capsys):
    """As an earlier version wrote it, without the optimiser's state of weights that get no gradient."""
    state = TrainingState(dataclasses.replace(plan_with(place), out=tmp_path))
    state.step = 3
    state.save()
    tensors, description = native.load(state.path)
    native.save(state.path, {name: value for name, value in tensors.items() if ".2." not in name}, description)
    state.step = 0
    state.resume()
    assert state.step == 0 and "training starts anew" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cd/distance~l2", "ct/default", "ect/default", "pd/steps~2"])
def test_only_the_student_is_differentiated(place, name):
    trainer = Trainer(plan_of(place, f"digits/{name}/seed0"))
    frozen, enabled = [net for net in (trainer.state.target, trainer.teacher) if net is not None], []
    for net in frozen:
        net.register_forward_hook(lambda _module, _inputs, output: enabled.append(output.requires_grad))
        assert not any(parameter.requires_grad for parameter in net.parameters())
    trainer.step()
    assert enabled and not any(enabled)
