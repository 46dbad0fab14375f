from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.family import Processor, TinySize
from optmerge.bench.training import attention, conversations, packing

TALKS = [conversations.conversation(conversations.mixture(), 0, row) for row in range(6)]


@pytest.mark.parametrize("line", ["full", "lora"])
def test_lean_attention_gives_what_eager_gives_and_the_same_gradients(
    line: str, processors: Mapping[str, Processor], tiny: TinySize
) -> None:
    batch, found = packing.ConversationBatch(processors[line])(TALKS), {}
    batch["attention_mask"] = batch["attention_mask"].float()
    for name in ("eager", attention.register()):
        model = tiny_models.build(processors[line], tiny, seed=0)
        model.set_attn_implementation(name)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        found[name] = {"loss": loss.detach(), **{n: w.grad for n, w in model.named_parameters()}}
    eager, lean = found.values()
    assert eager.keys() == lean.keys()
    for name in eager:
        assert torch.allclose(eager[name], lean[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("line", ["full", "lora"])
def test_where_no_mask_is_given_lean_attention_is_causal_too(
    line: str, processors: Mapping[str, Processor], tiny: TinySize
) -> None:
    batch = packing.ConversationBatch(processors[line])(TALKS[:1])
    for name in ("attention_mask", "labels", "weights"):
        batch.pop(name, None)
    model, told = tiny_models.build(processors[line], tiny, seed=0).eval(), []
    for name in ("eager", attention.register()):
        model.set_attn_implementation(name)
        with torch.inference_mode():
            told.append(model(**batch).logits)
    assert torch.allclose(*told, rtol=1e-4, atol=1e-5)
