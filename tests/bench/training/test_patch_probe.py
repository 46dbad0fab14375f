from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from optmerge.bench.lines.tiny import tiny_models
from optmerge.bench.lines.tiny.family import Processor, TinySize
from optmerge.bench.tasks import SIDE
from optmerge.bench.tasks.drawn._drawing.sheets import INK_NAMES, NAMES, Mark
from optmerge.bench.training.learning import Stage, fit, prepared
from optmerge.bench.training.patch_probe import SheetBatch, Sheets
from worlds.samples import examples

LINES = ("full", "lora")
STAGE = Stage(
    pictures=16, learning_rate=1e-2, matrix_rate=0.02, batch=8, part="sight", keep_every=0, look_every=0
)


@pytest.mark.parametrize("line", LINES)
def test_an_image_token_shows_most_what_lies_under_it(
    line: str, processors: Mapping[str, Processor], tiny: TinySize
) -> None:
    """So that the labels of a token's patches are its own: tokens go row by row in both families."""
    processor = processors[line]
    model = tiny_models.build(processor, tiny, seed=0).eval()
    side, plain = SIDE // tiny.grid, Image.new("RGB", (SIDE, SIDE), "white")

    def tokens(image: Image.Image) -> torch.Tensor:
        return torch.stack(list(model.get_image_features(**processor.pixels([image])).pooler_output))[0]

    with torch.no_grad():
        before = tokens(plain)
        for row, column in ((0, 1), (1, 0), (tiny.grid - 1, 1)):
            image = plain.copy()
            image.paste((255, 0, 0), (column * side, row * side, (column + 1) * side, (row + 1) * side))
            moved = (tokens(image) - before).norm(dim=1)
            assert moved.argmax() == row * tiny.grid + column


def test_patches_are_labelled_row_by_row_within_their_token(processors: Mapping[str, Processor]) -> None:
    patch = SIDE / 8
    box = (3 * patch, 2 * patch, 4 * patch, 3 * patch)  # row 2, column 3 of the patches
    processor = replace(processors["full"], grid=4, merge=2)
    sheet = Image.new("RGB", (SIDE, SIDE)), (Mark("B", "blue", box),)
    batch = SheetBatch(processor)([sheet])
    assert batch["names"].shape == (1, 16, 4)
    (where,) = batch["names"].nonzero().tolist()
    assert where == [0, 4 + 1, 1]  # token at row 1, column 1; its upper right patch
    assert batch["names"][tuple(where)] == NAMES.index("B") + 1
    assert batch["colours"][tuple(where)] == INK_NAMES.index("blue") + 1
    assert torch.allclose(batch["edges"][tuple(where)], torch.tensor(box) / SIDE * 2 - 1)


@pytest.mark.parametrize("line", LINES)
def test_seeing_leaves_the_language_model_alone(
    line: str, processors: Mapping[str, Processor], tiny: TinySize, tmp_path: Path
) -> None:
    model = tiny_models.build(processors[line], tiny, seed=0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    rows = Sheets(16, seed=0)
    fit(prepared(model, STAGE, tiny.merge**2), rows, SheetBatch(processors[line]), STAGE, tmp_path, seed=0)
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved and not [name for name in moved if "language_model" in name]
    assert [name for name in moved if "proj" in name or "merger" in name]


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("line", LINES)
def test_seeing_is_learnt(
    line: str, processors: Mapping[str, Processor], tiny: TinySize, tmp_path: Path
) -> None:
    pictures = examples(few=480, many=960)
    stage = replace(STAGE, pictures=pictures, batch=16)
    torch.manual_seed(0)
    learner = prepared(tiny_models.build(processors[line], tiny, seed=0), stage, tiny.merge**2)
    batch = SheetBatch(processors[line])([Sheets(16, seed=1)[row] for row in range(16)])
    with torch.no_grad():
        before = learner(**batch)["loss"].item()
    fit(learner, Sheets(pictures, seed=0), SheetBatch(processors[line]), stage, tmp_path, seed=0)
    with torch.no_grad():
        assert learner(**batch)["loss"].item() < (0.85 if pictures > 480 else 0.9) * before
