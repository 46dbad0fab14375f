import copy

import torch
from torch import nn

from optmerge.bench.training.muon import MuonAdamW

RATES = {"matrix_rate": 0.02, "learning_rate": 1e-2, "weight_decay": 0.0, "betas": (0.9, 0.99)}


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"embed": nn.Embedding(5, 8), "up": nn.Linear(8, 16), "name_head": nn.Linear(16, 3)})


def step(module: nn.Module, optimiser: MuonAdamW, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    optimiser.step()


def test_a_matrix_moves_by_an_orthogonal_update_and_nothing_else_does() -> None:
    module = model()
    before = copy.deepcopy(module.state_dict())
    step(module, MuonAdamW(module.named_parameters(), **RATES), 1)
    moved = {name: weight - before[name] for name, weight in module.state_dict().items()}
    singular = torch.linalg.svdvals(moved["up.weight"]) / (0.02 * 2**0.5)  # times sqrt(rows / columns)
    assert ((singular > 0.6) & (singular < 1.3)).all()  # five Newton–Schulz steps come that close to one
    for name in moved.keys() - {"up.weight"}:
        assert torch.allclose(moved[name].abs(), torch.full_like(moved[name], 1e-2), rtol=1e-2)


def test_a_schedule_sets_the_rates_of_both() -> None:
    module = model()
    optimiser = MuonAdamW(module.named_parameters(), **RATES)
    torch.optim.lr_scheduler.LambdaLR(optimiser, lambda _: 0.0)
    before = copy.deepcopy(module.state_dict())
    step(module, optimiser, 1)
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())


def test_its_state_comes_back_whole() -> None:
    straight = model()
    optimiser = MuonAdamW(straight.named_parameters(), **RATES)
    step(straight, optimiser, 1)
    again = copy.deepcopy(straight)
    resumed = MuonAdamW(again.named_parameters(), **RATES)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for group in (*optimiser.param_groups, *resumed.param_groups):
        group["lr"] *= 0.5
    step(straight, optimiser, 2)
    step(again, resumed, 2)
    for one, other in zip(straight.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_parts_may_learn_slower() -> None:
    module = model()
    optimiser = MuonAdamW(
        module.named_parameters(), **RATES, factor=lambda name: 1.0 if "up" in name else 0.1
    )
    before = copy.deepcopy(module.state_dict())
    step(module, optimiser, 1)
    for name, weight in module.state_dict().items():
        if name != "up.weight":  # which moves along directions, not by so much per entry
            rate = 1e-2 if "up" in name else 1e-3
            assert torch.allclose((weight - before[name]).abs(), torch.full_like(weight, rate), rtol=1e-2)


def test_a_model_of_matrices_alone_is_trained_by_muon_alone() -> None:
    module = nn.ModuleDict({"up": nn.Linear(8, 16, bias=False)})
    optimiser = MuonAdamW(module.named_parameters(), **RATES)
    before = copy.deepcopy(module.state_dict())
    step(module, optimiser, 1)
    assert (module.state_dict()["up.weight"] != before["up.weight"]).all()
    optimiser.load_state_dict(copy.deepcopy(optimiser.state_dict()))
