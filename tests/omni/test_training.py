"""An expert is trained as any model is: with PEFT, on its language model and its projector."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from optmerge.omni import OmniForConditionalGeneration, OmniProcessor
from optmerge.omni.compose import compose
from worlds import omni as tiny
from worlds import omni_zoo as zoo


def test_peft_trains_an_expert_that_can_be_composed(tmp_path: Path) -> None:
    llm = zoo.base(tmp_path / "llm")
    start = zoo.save(zoo.omni(llm, "clip"), tmp_path / "start")
    model = get_peft_model(
        OmniForConditionalGeneration.from_pretrained(start),
        LoraConfig(r=4, target_modules=zoo.LORA, modules_to_save=["projector"]),
    )
    before = {name: value.clone() for name, value in model.named_parameters()}
    processor = OmniProcessor.from_pretrained(start)
    prompts = ["<image> what is this ? a", "<image> what is this ? b"]
    inputs = processor(prompts, images=[tiny.picture(1), tiny.picture(2)])
    labels = inputs["input_ids"].clone()
    labels[:, :-1] = -100
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 < losses[0], losses

    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert all("lora_" in name or ".projector.modules_to_save." in name for name in moved)
    assert any("lora_B" in name for name in moved) and any("projector" in name for name in moved)
    model.save_pretrained(tmp_path / "expert")
    asked = {"base": str(llm), "experts": [str(tmp_path / "expert")]}
    done = compose({**asked, "method": {"name": "task_arithmetic", "scale": 1.0}}, tmp_path / "out")
    told = OmniForConditionalGeneration.from_pretrained(done.path)
    answers = zoo.logits(told, inputs)[:, -2].argmax(-1).tolist()
    assert answers == [tiny.WORDS.index("a"), tiny.WORDS.index("b")]
