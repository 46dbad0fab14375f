"""Ask a model about pictures, with transformers' own classes and no model code of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optmerge.checkpoints.adapter_config import locate_base
from optmerge.checkpoints.hub import locate
from optmerge.checkpoints.json_files import read_object
from optmerge.engine.output.router import MERGE, is_routed
from optmerge.errors import CheckpointError, InputError
from optmerge.evaluate.adapted import with_adapter
from optmerge.evaluate.answering import BATCH, CHAT_TOKENS, answers_to_inputs
from optmerge.evaluate.question_files import FileQuestion
from optmerge.evaluate.questions import read_picture
from optmerge.evaluate.routed import RoutedModel

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Chat:
    """A model that can be asked.

    Args:
        model: of transformers, in eval mode; with PEFT's layers where it came as an adapter.
        processor: of the model's family.
        routed: the same model with its experts' parts and its router; None where it has none.
    """

    model: Any
    processor: Any
    routed: RoutedModel | None = None

    def ask(self, question: str, images: Sequence[Image.Image] = (), *, longest: int = CHAT_TOKENS) -> str:
        """The answer, decoded greedily; arguments and errors as of `inputs`.

        Args:
            question: asked after the images, in one user turn.
            images: in the order they are shown.
            longest: tokens at which an answer is cut off.
        """
        return self.answers([self.inputs(question, images)], longest=longest)[0]

    def inputs(self, question: str, images: Sequence[Image.Image] = ()) -> Mapping[str, Any]:
        """What the model takes for one question: its tensors, of one row, on the CPU.

        Args:
            question: asked after the images, in one user turn.
            images: in the order they are shown.

        Raises:
            CheckpointError: the model has no chat template.
            InputError: images, and the model takes none.
        """
        if images and not hasattr(self.processor, "image_processor"):
            raise InputError("the model takes no images", got=f"{len(images)} of them")
        shown = [{"type": "image"} for _ in images]
        turn = {"role": "user", "content": [*shown, {"type": "text", "text": question}]}
        if not hasattr(self.processor, "image_processor"):
            turn = {"role": "user", "content": question}
        try:
            prompt = self.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        except ValueError:
            raise CheckpointError(
                "the model has no chat template", expected="chat_template.jinja beside its tokenizer"
            ) from None
        pixels = {"images": list(images)} if images else {}
        made: Mapping[str, Any] = self.processor(text=[prompt], **pixels, return_tensors="pt")
        return made

    def choices(self, inputs: Sequence[Mapping[str, Any]], *, batch: int = BATCH) -> list[str] | None:
        """The expert whose part answers each prompt, `MERGE` for none; None where the model has no router.

        Args:
            inputs: as of `answers`.
            batch: prompts read together, at most.
        """
        return None if self.routed is None else self.routed.choices(inputs, batch=batch)

    def answers(
        self,
        inputs: Sequence[Mapping[str, Any]],
        *,
        longest: int = CHAT_TOKENS,
        batch: int = BATCH,
        choices: Sequence[str] | None = None,
    ) -> list[str]:
        """The answers to prompts that the processor has made, decoded greedily.

        Prompts for which a router chooses one part are answered together.

        Args:
            inputs: of one prompt each, without padding.
            longest: tokens at which an answer is cut off.
            batch: prompts answered together, at most.
            choices: of each prompt the expert whose part answers; by default the router's, if there is one.
        """
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if self.routed is None:
            return answers_to_inputs(self.model, tokenizer, inputs, tokens=longest, batch=batch)
        chosen = self.routed.choices(inputs, batch=batch) if choices is None else choices
        said = [""] * len(inputs)
        for part in (MERGE, *self.routed.router.experts):
            rows = [row for row, each in enumerate(chosen) if each == part]
            if rows:
                asked = [inputs[row] for row in rows]
                with self.routed.using(part):
                    replies = answers_to_inputs(self.model, tokenizer, asked, tokens=longest, batch=batch)
                for row, text in zip(rows, replies, strict=True):
                    said[row] = text
        return said


def show(chat: Chat, question: FileQuestion) -> Mapping[str, Any]:
    """What the model takes for a question of a file: a `Show`.

    Raises:
        InputError: the model can't take what the question is about.
    """
    for medium in question.media:
        if medium != "image":
            raise InputError(
                f"the model takes no {medium}",
                where=question.where,
                hint="ask an omni model, or leave the line out",
            )
    return chat.inputs(question.text, [read_picture(path) for path in question.media.get("image", ())])


def load(ref: str | Path, *, device: str = "cpu", dtype: str = "auto") -> Chat:
    """A model to be asked.

    Args:
        ref: folder or hub id of a checkpoint, of a routed output with its parts and router, or of an adapter
            whose configuration names its base.
        device: where it answers.
        dtype: name of a torch dtype; by default the one it was saved in. An adapter on a float32 model is
            added to the weights, which answers sooner.

    Raises:
        CheckpointError: nothing there that transformers can load, or an adapter without its base.
    """
    try:
        from transformers.utils import logging
    except ImportError:
        raise InputError("transformers isn't installed", hint="pip install 'optmerge[ask]'") from None
    logging.disable_progress_bar()
    folder = locate(ref)
    if not folder.is_dir():
        raise CheckpointError("not a model", where=ref, hint="give the folder that holds config.json")
    adapter = folder if (folder / "adapter_config.json").is_file() else None
    base = (
        locate_base(folder, read_object(folder / "adapter_config.json", "adapter config"))
        if adapter
        else folder
    )
    model = _model(base, dtype)
    if not adapter and is_routed(folder):
        routed = RoutedModel.load(folder, model.to(device).eval())
        return Chat(routed.model, processor(base), routed)
    if adapter:
        model = with_adapter(model, adapter)
        if dtype == "float32":
            model = model.merge_and_unload()
    return Chat(model.to(device).eval(), processor(base))


def processor(folder: Path) -> Any:
    """The processor of a checkpoint; without its video half where torchvision, which that needs, is missing.

    Raises:
        CheckpointError: its files are missing or broken.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True)
    except ImportError as problem:
        if "torchvision" not in str(problem).lower():
            raise
        return _without_video(folder)
    except (OSError, ValueError) as problem:
        raise CheckpointError(
            "the model's processor can't be loaded",
            where=folder,
            got=problem,
            hint="put the base's tokenizer and preprocessor files beside the weights",
        ) from problem


def _without_video(folder: Path) -> Any:
    """The family's own processor, made of its image half and the tokenizer."""
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    config, settings = read_object(folder / "config.json", "configuration"), folder / "processor_config.json"
    found = read_object(settings, "processor's configuration") if settings.is_file() else {}
    name = found.get("processor_class") or PROCESSOR_MAPPING_NAMES[config["model_type"]]
    own = getattr(transformers, name)
    # Its check of every part's class asks for the video processors, and those for torchvision.
    without = {"check_argument_for_proper_class": lambda self, name, part: type(part)}
    options = {
        key: value
        for key, value in found.items()
        if key not in ("processor_class", "auto_map", "chat_template") and not key.endswith("processor")
    }
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    return type(name, (own,), without)(
        image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template, **options
    )


def _model(folder: Path, dtype: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "no model here",
            where=folder,
            expected="config.json and weights",
            hint="give the output folder of a merge, or a hub id like org/name",
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        return kind.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError) as problem:
        raise CheckpointError("transformers can't load this model", where=folder, got=problem) from problem
