"""The easy-VQA line: a tiny InternVL that learns to see, then to answer, then three specialists of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from optmerge.bench import curriculum, models, records
from optmerge.bench.tasks import easy_vqa
from optmerge.bench.trainer import Drawn, Stage, fit

SIZE = models.Size()
# Tower, projector and embeddings stay as the base has them: experts share one way to see, and what sets
# them apart lies in the language model, which is what a merge recipe selects by default.
SHARED = ("vision_tower", "multi_modal_projector", "embed_tokens")
STAGES: Mapping[str, Stage] = {
    "see": Stage("see", examples=160_000, learning_rate=1e-3, weight_decay=0.02),
    "base": Stage("base", examples=76_800, learning_rate=6e-4, frozen=("vision_tower",)),
    "colour": Stage("colour", examples=3_200, learning_rate=5e-5, frozen=SHARED),
    "shape": Stage("shape", examples=3_200, learning_rate=1e-4, frozen=SHARED),
    "presence": Stage("presence", examples=51_200, learning_rate=2e-4, frozen=SHARED),
}


def train_easy_vqa(
    out: Path,
    *,
    seed: int = 0,
    resume: bool = True,
    stages: Mapping[str, Stage] = STAGES,
    size: models.Size = SIZE,
    threads: int = 2,
) -> records.Record:
    """Train base and experts into `out/{base,colour,shape,presence}`; unfinished work waits in `out/work`.

    The same seed, thread count and library versions give the same weights, killed in between or not.

    Args:
        out: a new folder, or one that an earlier call was writing.
        seed: of the initial weights and of the order of examples.
        resume: go on where an earlier call stopped; otherwise what is in the way is trained anew.
        stages: length and speed of each stage; tests make them tiny.
        size: shape of the model.
        threads: processor threads; part of what the weights depend on.
    """
    torch.set_num_threads(threads)
    processor = models.build_processor(curriculum.vocabulary(), size)
    rows, pictures = easy_vqa.pictures(easy_vqa.questions("train"), processor)
    pictures = pictures.half()  # 86 MB instead of 172; far finer than the 8 bits the files have
    notes = {}
    for rank, (name, stage) in enumerate(stages.items()):
        note = out / "work" / f"{name}.json"  # written last: the stage is complete
        if not (resume and note.is_file()):
            started = time.perf_counter()
            model = start(out, name, processor, size, seed=seed)
            drawn = [
                ([replace(e, image=rows[e.image]) for e in group], share) for group, share in sources(name)
            ]
            data = Drawn(pictures, drawn, processor, stage.examples, seed=seed + rank, augment=stage.augment)
            checkpoints = out / "work" / f"{name}-run"
            fit(model, data, stage, checkpoints, seed=seed + rank, resume=resume)
            dtype = torch.float32 if name == "see" else torch.bfloat16
            models.save(model, processor, finished(out, name), dtype=dtype)
            shutil.rmtree(checkpoints)
            models.write_json(note, {"last_call_seconds": round(time.perf_counter() - started, 1)})
        notes[name] = json.loads(note.read_text("utf-8"))
    settings = {name: asdict(stage) for name, stage in stages.items()}
    record = records.new(
        kind="easy-vqa/train",
        config={"stages": settings, "size": asdict(size), "threads": threads},
        seeds={"train": seed},
        metrics={},
        cost=notes,
        weights={name: records.weights_hash(finished(out, name)) for name in stages},
    )
    records.write(record, out / "work")
    return record


def sources(name: str) -> curriculum.Sources:
    """What a stage learns from."""
    if name == "see":
        return curriculum.captions()
    return curriculum.instructions() if name == "base" else curriculum.speciality(name)


def finished(out: Path, name: str) -> Path:
    """Where the model of a stage lies once it is trained."""
    return out / "work" / name if name == "see" else out / name


def start(out: Path, name: str, processor: models.Processor, size: models.Size, *, seed: int) -> Any:
    """The model a stage starts from; experts start from the base as it was written, in bfloat16 precision."""
    if name == "see":
        return models.build_model(processor, size, seed=seed)
    return models.load(finished(out, "see" if name == "base" else "base"))[0]
