"""transformers' Trainer for the lines: a run depends on its seed alone and goes on after a kill."""

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
from optmerge.bench.training.seeing import Seeing

LINEAR = r".*language_model\.layers\..*\.(q|k|v|o|gate|up|down)_proj"
"""The language model's matrices: what an adapter lies on, and what a fully trained expert may change."""


@dataclass(frozen=True)
class Stage:
    """One run of the Trainer.

    Args:
        pictures: how many the model sees.
        learning_rate: of AdamW at its highest, after the warm-up.
        matrix_rate: of Muon, which then trains the matrices; 0 leaves them to AdamW.
        sight_rate: what tower and projector's rates are multiplied with under Muon.
        batch: pictures a step.
        part: what is trained: its sight (tower and projector), all of it, the language model's layers, or an
            adapter on them.
        rank: of the adapter.
        aimed: pictures whose inputs' main directions the adapter reads, fixed from then on (see `aiming`); 0
            trains both factors, the one that reads from random numbers.
        weight_decay: of the optimiser; it draws an adapter back to nothing.
        pull: how much of the learning rate weights are drawn back to where the stage began (L2-SP, Li et al.,
            2018): what weight decay is where a stage began at nothing.
        keep_every: steps between checkpoints; 0 keeps none, and a killed run begins anew.
        look_every: steps between looks at the validation questions; 0 never looks.
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
        """Steps of the run."""
        return -(-self.pictures // self.batch)


def prepared(model: Any, stage: Stage, patches: int = 1) -> Any:
    """The model with what the stage trains set free, with an adapter on it, or in `Seeing`.

    Args:
        model: of a line.
        stage: that trains it.
        patches: of an image token.
    """
    if stage.part == "sight":
        return Seeing(model, patches)
    if stage.part == "adapter":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=stage.rank, lora_alpha=stage.rank, lora_dropout=0.0, target_modules=LINEAR)
        return get_peft_model(model, config)
    for name, weight in model.named_parameters():
        weight.requires_grad_(stage.part == "all" or ".language_model.layers." in name)
    return model


def weighted_loss(model: Any, inputs: dict[str, Tensor], weights: Tensor) -> Tensor:
    """Cross entropy of the next token in nats, averaged with weights.

    Args:
        model: a language model, with or without towers.
        inputs: of its forward, `labels` (row, token) among them.
        weights: (row, token) of the labels; 0 where nothing is learnt.
    """
    labels = inputs.pop("labels")
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    learnt = weights[:, 1:] > 0
    told, counts = labels[:, 1:][learnt], weights[:, 1:][learnt]
    losses = cross_entropy(logits[learnt].float(), told, reduction="none")
    return (losses * counts).sum() / counts.sum()


def fit(
    model: Any,
    rows: Dataset[Any],
    batches: Callable[[Any], Any],
    stage: Stage,
    folder: Path,
    *,
    seed: int,
    fast: bool = True,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train a model in place.

    Args:
        model: as `prepared` gives it; comes back in eval mode.
        rows: what it learns from, as many as the stage takes.
        batches: rows → the model's inputs.
        stage: how long and how fast.
        folder: gets the checkpoints; a killed run goes on from the last one.
        seed: of the Trainer.
        fast: compute in bfloat16 where autocast allows it; the weights are float32 either way.
        callbacks: `TrainerCallback`s.
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
        bf16=fast,
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
    """A `TrainerCallback` that after each step draws what is trained back to where it is now."""
    from transformers import TrainerCallback

    start = [(each, each.detach().clone()) for each in model.parameters() if each.requires_grad]

    class Pulling(TrainerCallback):  # type: ignore[misc]
        @torch.no_grad()
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            rate = strength * rest["lr_scheduler"].get_last_lr()[0]
            for each, beginning in start:
                each.lerp_(beginning, rate)

    return Pulling()


def _trainer_class(stage: Stage) -> Any:
    """Trainer whose checkpoints come back whole, with the stage's optimiser.

    transformers 5.23 saves InternVL under other tensor names than the live model has, and its Trainer,
    loading by live name, warns and goes on with fresh weights; `from_pretrained` knows the names. Adapters,
    and modules that are no models of transformers, the Trainer loads by itself.
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
