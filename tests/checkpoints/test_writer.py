"""Writing checkpoints: the library's bytes, crash safety, resumption."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from optmerge.checkpoints.checkpoint import open_checkpoint
from optmerge.checkpoints.checkpoint_writer import CheckpointWriter
from optmerge.checkpoints.dtypes import DTYPES, dtype_name
from optmerge.checkpoints.output_files import reserve
from optmerge.checkpoints.shard_writer import ShardWriter
from optmerge.checkpoints.shards import Shard, plan_shards
from optmerge.errors import OutputError, RunError

on_disk = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
layouts = st.dictionaries(
    st.text("abc.", min_size=1, max_size=6),
    st.tuples(st.sampled_from(sorted(DTYPES)), shapes),
    min_size=1,
    max_size=9,
)


def tensors_of(layout: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (dtype, shape) in layout.items():
        bits = torch.randint(0, 2, (*shape, DTYPES[dtype].itemsize), dtype=torch.uint8, generator=generator)
        tensors[name] = bits.view(DTYPES[dtype].torch).reshape(shape)
    return tensors


def specs_of(tensors: dict[str, torch.Tensor]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(name, dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


EXAMPLE = {f"layer.{i}.weight": torch.full((4, 5), float(i)) for i in range(6)}


@on_disk
@given(layout=layouts)
def test_a_file_has_the_bytes_the_library_writes(tmp_path: Path, layout: dict) -> None:
    tensors = tensors_of(layout)
    with CheckpointWriter(tmp_path, plan_shards(specs_of(tensors))) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        writer.finish()
    save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()


@on_disk
@given(layout=layouts, limit=st.integers(1, 200))
def test_shards_are_those_of_huggingface_hub(layout: dict, limit: int) -> None:
    tensors = tensors_of(layout)
    theirs = split_torch_state_dict_into_shards(
        {name: tensor.clone() for name, tensor in tensors.items()},
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    if any(tensor.numel() == 0 for tensor in tensors.values()):
        return  # the hub takes empty tensors for views of one storage
    ours = plan_shards(specs_of(tensors), limit)
    assert {
        shard.file_name: [spec.name for spec in shard.tensors] for shard in ours
    } == theirs.filename_to_tensors


def test_pieces_in_any_order_make_the_same_file(tmp_path: Path) -> None:
    tensor = torch.arange(1000, dtype=torch.float32).view(10, 100)
    shards = plan_shards(specs_of({"w": tensor}))
    with CheckpointWriter(tmp_path, shards) as writer, ThreadPoolExecutor(4) as pool:
        starts = torch.randperm(100, generator=torch.Generator().manual_seed(0)).tolist()
        pieces = [(10 * start, tensor.flatten()[10 * start : 10 * start + 10]) for start in starts]
        list(pool.map(lambda piece: writer.write_flat("w", *piece), pieces))
        writer.finish()
    with open_checkpoint(tmp_path).reader() as reader:
        assert torch.equal(reader.read("w"), tensor)


def test_a_shard_has_its_name_only_when_complete_and_the_index_comes_last(tmp_path: Path) -> None:
    shards = plan_shards(specs_of(EXAMPLE), 160)
    assert len(shards) == 3
    with CheckpointWriter(tmp_path, shards) as writer:
        assert names_in(tmp_path) == [f"{shard.file_name}.partial" for shard in shards]
        for name, tensor in EXAMPLE.items():
            assert not (tmp_path / "model.safetensors.index.json").exists()
            writer.write(name, tensor)
        assert writer.complete_shards == {shard.file_name for shard in shards}
        writer.finish()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 120, "total_size": 480}
    assert open_checkpoint(tmp_path).index_total_size == 480


def test_finishing_early_is_refused(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, plan_shards(specs_of(EXAMPLE))) as writer:
        writer.write("layer.0.weight", EXAMPLE["layer.0.weight"])
        with pytest.raises(ValueError, match="not complete"):
            writer.finish()
    assert names_in(tmp_path) == ["model.safetensors.partial"]


@pytest.mark.parametrize("stop_after", range(7))
def test_an_interrupted_write_resumes_to_the_same_bytes(tmp_path: Path, stop_after: int) -> None:
    shards = plan_shards(specs_of(EXAMPLE), 160)
    for folder in ("whole", "resumed"):
        (tmp_path / folder).mkdir()
    with CheckpointWriter(tmp_path / "whole", shards) as writer:
        for name, tensor in EXAMPLE.items():
            writer.write(name, tensor)
        writer.finish()
    journal = list(EXAMPLE)[:stop_after]
    with CheckpointWriter(tmp_path / "resumed", shards) as writer:
        for name in journal:
            writer.write(name, EXAMPLE[name])
        writer.sync()
    with CheckpointWriter(tmp_path / "resumed", shards, resume=True, written=journal) as writer:
        assert [name for name in EXAMPLE if writer.needs(name)] == list(EXAMPLE)[stop_after:]
        for name in list(EXAMPLE)[stop_after:]:
            writer.write(name, EXAMPLE[name])
        writer.finish()
    assert names_in(tmp_path / "resumed") == names_in(tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "resumed" / path.name).read_bytes() == path.read_bytes()


def test_a_partial_file_of_another_merge_is_not_continued(tmp_path: Path) -> None:
    CheckpointWriter(tmp_path, plan_shards([("w", "F32", (4,))])).close()
    with pytest.raises(OutputError, match="doesn't belong"):
        CheckpointWriter(tmp_path, plan_shards([("w", "F16", (8,))]), resume=True)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(4, 5, dtype=torch.float16), torch.zeros(5, 4), torch.zeros(20)]
)
def test_a_tensor_other_than_planned_is_refused(tmp_path: Path, wrong: torch.Tensor) -> None:
    with (
        CheckpointWriter(tmp_path, plan_shards(specs_of(EXAMPLE))) as writer,
        pytest.raises(ValueError, match="planned"),
    ):
        writer.write("layer.0.weight", wrong)


def test_a_full_disk_is_noticed_at_the_start(tmp_path: Path) -> None:
    shard = Shard("model.safetensors", plan_shards([("w", "U8", (2**60,))])[0].tensors)
    with pytest.raises(RunError, match="disk is full"):
        ShardWriter.create(tmp_path, shard)


def test_a_full_disk_is_left_as_it_was_found(tmp_path: Path) -> None:
    shards = plan_shards([("small", "U8", (4,)), ("huge", "U8", (2**60,))], 10)
    assert [shard.file_name[6:11] for shard in shards] == ["00001", "00002"]
    with pytest.raises(RunError, match="disk is full"):
        CheckpointWriter(tmp_path, shards[::-1])
    assert names_in(tmp_path) == []


def test_space_is_checked_where_it_can_t_be_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    with (tmp_path / "x").open("wb") as file:
        reserve(file.fileno(), 10)
        assert (tmp_path / "x").stat().st_size == 10
        with pytest.raises(OSError, match="space"):
            reserve(file.fileno(), 2**60)


def test_an_output_folder_that_isn_t_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        CheckpointWriter(tmp_path / "missing", plan_shards(specs_of(EXAMPLE)))


@pytest.mark.filterwarnings("ignore")
def test_the_output_is_what_save_pretrained_writes(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Qwen2ForCausalLM(
        Qwen2Config(**sizes, num_hidden_layers=2, vocab_size=40, tie_word_embeddings=False)
    )
    (tmp_path / "ours").mkdir()
    for limit in (3000, 10**9):
        model.save_pretrained(tmp_path / "theirs", max_shard_size=limit)
        state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        with CheckpointWriter(tmp_path / "ours", plan_shards(specs_of(state), limit)) as writer:
            for name, tensor in state.items():
                writer.write(name, tensor)
            writer.finish(model.num_parameters())
    for path in (tmp_path / "theirs").glob("model*"):
        assert (tmp_path / "ours" / path.name).read_bytes() == path.read_bytes(), path.name
