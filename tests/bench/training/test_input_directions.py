from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.family import Processor, TinySize
from optmerge.bench.training import attention, conversations, learning
from optmerge.bench.training.input_directions import fix_to_input_directions
from optmerge.bench.training.packing import ConversationBatch, Conversations
from optmerge.errors import InputError

STAGE = learning.Stage(
    pictures=8, learning_rate=1e-2, batch=8, part="adapter", rank=6, keep_every=0, look_every=0
)


@pytest.fixture
def aimed(processors: Mapping[str, Processor], tiny: TinySize) -> tuple[Any, ...]:
    """An adapter on a tiny model, and the batch it was aimed at."""
    torch.manual_seed(0)
    model = learning.prepared(tiny_models.build(processors["lora"], tiny, seed=0), STAGE)
    rows = Conversations(conversations.expert("vqa"), 8, seed=3)
    batch = ConversationBatch(processors["lora"])([rows[row] for row in range(8)])
    fix_to_input_directions(model, [batch, batch])
    return model, rows, batch


def factors(model: Any) -> dict[str, tuple]:
    """Adapted matrix → A and B."""
    layers = {name: each for name, each in model.named_modules() if hasattr(each, "lora_A")}
    return {
        name: (each.lora_A["default"].weight, each.lora_B["default"].weight) for name, each in layers.items()
    }


def test_an_aimed_adapter_loses_as_little_of_its_inputs_as_any_of_its_rank(aimed: Any) -> None:
    model, _, batch = aimed
    given: dict[str, torch.Tensor] = {}
    for name in factors(model):
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: given.update({name: inputs[0].flatten(0, -2)})
        )
    model.set_attn_implementation(attention.register())
    with torch.no_grad():
        model(**{key: value for key, value in batch.items() if key not in ("labels", "weights")})
    assert len(given) == len(factors(model)) == 7
    for name, (a, _) in factors(model).items():
        assert torch.allclose(a @ a.T, torch.eye(6), atol=1e-5)
        lost = (given[name] - given[name] @ a.T @ a).norm()
        sizes = torch.linalg.svdvals(given[name])
        assert lost.item() == pytest.approx(sizes[6:].norm().item(), rel=1e-3)
        assert (given[name] @ a.T).norm(dim=0).max() < 0.99 * sizes[0], "each row is of several directions"


def test_an_aimed_adapter_starts_as_the_base_and_goes_on_reading_the_same(
    aimed: Any, processors: Mapping[str, Processor], tmp_path: Path
) -> None:
    model, rows, _ = aimed
    before = {name: (a.clone(), b.clone()) for name, (a, b) in factors(model).items()}
    assert not any(b.any() for _, b in before.values())
    learning.fit(
        model, rows, ConversationBatch(processors["lora"]), replace(STAGE, pictures=16), tmp_path, seed=3
    )
    for name, (a, b) in factors(model).items():
        assert torch.equal(a, before[name][0]) and b.any()


def test_a_rank_beyond_the_inputs_is_refused(processors: Mapping[str, Processor], tiny: TinySize) -> None:
    model = tiny_models.build(processors["lora"], tiny, seed=0)
    wide = learning.prepared(model, replace(STAGE, rank=tiny.width + 1))
    with pytest.raises(InputError, match=f"(?s)rank.*q_proj.*{tiny.width + 1}.*at most {tiny.width}"):
        fix_to_input_directions(wide, [])
