"""One run of transformers' Trainer: it depends on its seed alone and goes on after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from optmerge.bench.training import attention
from optmerge.bench.training.muon import MuonAdamW
from optmerge.bench.training.patch_probe import PatchProbe

LINEAR = r".*language_model\.layers\..*\.(q|k|v|o|gate|up|down)_proj"
"""Regular expression of the language model's matrices, which get an adapter."""


@dataclass(frozen=True)
class Stage:
    """Settings of one run of the Trainer.

    Args:
        pictures: how many the model sees; the run takes whole batches.
        learning_rate: AdamW's highest, after the warm-up; it falls as a cosine from then on.
        matrix_rate: Muon's highest, which then trains the matrices; 0 leaves the matrices to AdamW.
        sight_rate: factor of the rates of tower and projector; with Muon only.
        batch: pictures a step.
        part: what is trained: `sight` (tower and projector), `all`, `layers` (the language model's layers),
            or `adapter` (a LoRA adapter on the language model's matrices).
        rank: rank of the adapter.
        aimed: pictures whose inputs fix the adapter's A (see `input_directions`); 0 trains A, too, from
            random numbers.
        weight_decay: weight decay of the optimiser, which draws an adapter back to 0.
        pull: how far each step draws weights back to where the stage began, as a multiple of the learning
            rate (L2-SP, Li et al., 2018). An adapter began at 0, so for an adapter this is weight decay.
        warmup: share of the steps in which the rates rise.
        keep_every: steps between checkpoints; 0 keeps none, and a killed run begins anew.
        look_every: steps between scores of validation questions; 0 never asks any.
    """

    pictures: int
    learning_rate: float
    matrix_rate: float = 0.0
    sight_rate: float = 1.0
    batch: int = 64
    part: str = "all"
    rank: int = 16
    aimed: int = 0
    weight_decay: float = 0.02
    pull: float = 0.0
    warmup: float = 0.05
    keep_every: int = 250
    look_every: int = 500

    @property
    def steps(self) -> int:
        """Number of steps of the run."""
        return -(-self.pictures // self.batch)


def prepared(model: Any, stage: Stage, patches: int = 1) -> Any:
    """The model as the stage trains it: what is not trained is frozen.

    Args:
        model: a model of a line; changed in place. One with an adapter on it goes on training the adapter.
        stage: the settings.
        patches: patches of an image token.

    Returns:
        The model; with a new adapter on it for `part="adapter"`, or in a `PatchProbe` for `part="sight"`.
    """
    if stage.part == "sight":
        return PatchProbe(model, patches)
    if stage.part == "adapter":
        from peft import LoraConfig, PeftModel, get_peft_model

        if isinstance(model, PeftModel):
            return model
        config = LoraConfig(r=stage.rank, lora_alpha=stage.rank, lora_dropout=0.0, target_modules=LINEAR)
        return get_peft_model(model, config)
    for name, weight in model.named_parameters():
        weight.requires_grad_(stage.part == "all" or ".language_model.layers." in name)
    return model


def weighted_loss(model: Any, inputs: dict[str, Tensor], weights: Tensor) -> Tensor:
    """Cross entropy of the next token in nats, averaged with weights.

    Args:
        model: a language model, with or without towers.
        inputs: the model's inputs; `labels` (row, token) among them is taken out.
        weights: weights of the labels, (row, token); 0 where nothing is learnt.
    """
    labels = inputs.pop("labels")
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    learnt = weights[:, 1:] > 0
    targets, counts = labels[:, 1:][learnt], weights[:, 1:][learnt]
    losses = cross_entropy(logits[learnt].float(), targets, reduction="none")
    return (losses * counts).sum() / counts.sum()


def fit(
    model: Any,
    rows: Dataset[Any],
    batches: Callable[[Any], Any],
    stage: Stage,
    folder: Path,
    *,
    seed: int,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train a model in place.

    It computes in bfloat16 where the processor has instructions for it and autocast allows it. Elsewhere
    torch would multiply bfloat16 matrices entry by entry, many times slower. The weights are float32.

    Args:
        model: a model as `prepared` gives it, float32.
        rows: the training data, as many rows as the stage takes.
        batches: function from rows to the model's inputs.
        stage: the settings.
        folder: folder of the checkpoints; a killed run goes on from the last one there.
        seed: seed of the Trainer.
        callbacks: more `TrainerCallback`s.

    Returns:
        The same model in eval mode.
    """
    from transformers import TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        seed=seed,
        data_seed=seed,
        report_to=[],
        disable_tqdm=True,
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        warmup_steps=int(stage.warmup * stage.steps),
        lr_scheduler_type="cosine",
        adam_beta2=0.98,
        max_grad_norm=1.0,
        bf16=torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        save_strategy="steps" if stage.keep_every else "no",
        save_steps=stage.keep_every or 500,
        save_total_limit=1,
        logging_steps=50,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
    )
    callbacks = [*callbacks, _pulling(model, stage.pull)] if stage.pull else list(callbacks)
    trainer = _trainer_class(stage)(model, arguments, batches, train_dataset=rows, callbacks=callbacks)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    model.set_attn_implementation(attention.register())
    model.train()
    trainer.train(resume_from_checkpoint=last)
    model.set_attn_implementation("sdpa")
    return model.eval()


def _pulling(model: Any, strength: float) -> Any:
    """A `TrainerCallback` that draws what is trained back to its present values after each step."""
    from transformers import TrainerCallback

    start = [(each, each.detach().clone()) for each in model.parameters() if each.requires_grad]

    class Pulling(TrainerCallback):  # type: ignore[misc]
        @torch.no_grad()
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            rate = strength * others["lr_scheduler"].get_last_lr()[0]
            for each, beginning in start:
                each.lerp_(beginning, rate)

    return Pulling()


def _trainer_class(stage: Stage) -> Any:
    """Trainer class with the stage's optimiser, whose checkpoints come back whole.

    transformers 5.23 saves InternVL under other tensor names than the live model has. Its Trainer loads by
    live name, warns, and goes on with fresh weights; `from_pretrained` knows the saved names. The Trainer's
    own loading is right for adapters and for modules that are no models of transformers.
    """
    from peft import PeftModel
    from transformers import PreTrainedModel, Trainer

    class Resuming(Trainer):  # type: ignore[misc]
        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            if isinstance(self.model, PeftModel) or not isinstance(self.model, PreTrainedModel):
                super()._load_from_checkpoint(resume_from_checkpoint, model)
                return
            saved = type(self.model).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
            self.model.load_state_dict(saved.state_dict())

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            weights = inputs.pop("weights", None)
            if weights is None:
                return super().compute_loss(model, inputs, *args, **options)
            return weighted_loss(model, inputs, weights)

        def create_optimizer(self, model: Any = None) -> Any:
            if not stage.matrix_rate:
                return super().create_optimizer(model)
            self.optimizer: Any = MuonAdamW(
                [each for each in self.model.named_parameters() if each[1].requires_grad],
                matrix_rate=stage.matrix_rate,
                factor=lambda name: 1.0 if "language_model" in name else stage.sight_rate,
                learning_rate=stage.learning_rate,
                weight_decay=stage.weight_decay,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
            )
            return self.optimizer

    return Resuming
