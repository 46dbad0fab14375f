"""A routed output in use: the router chooses a part for each prompt, and the merged model answers with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optmerge.engine.output.router import FOLDER, MERGE, Router, read_router
from optmerge.errors import CheckpointError
from optmerge.evaluate.adapted import with_adapter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RoutedModel:
    """A merged model with its experts' parts as adapters of PEFT, and its router.

    Args:
        model: PEFT's model, in eval mode; every part is an adapter of it, called as `adapter_of` says.
        router: chooses among the parts.
    """

    model: Any
    router: Router

    @classmethod
    def load(cls, folder: str | Path, model: Any) -> RoutedModel:
        """Puts the parts of a routed output onto its merged model.

        Args:
            folder: the output folder.
            model: of transformers, loaded from that folder; PEFT changes it in place.

        Raises:
            CheckpointError: the router or a part is missing or damaged.
            InputError: PEFT isn't installed.
        """
        folder = Path(folder)
        router = read_router(folder)
        wrapped: Any = None
        for name in router.experts:
            place, adapter = folder / FOLDER / name, adapter_of(name)
            try:
                if wrapped is None:
                    wrapped = with_adapter(model, place, adapter)
                else:
                    wrapped.load_adapter(str(place), adapter)
            except (OSError, ValueError, RuntimeError) as problem:
                raise CheckpointError("a part can't be loaded", where=place, got=problem) from problem
        return cls(wrapped.eval(), router)

    def choices(self, prompts: Sequence[Mapping[str, Any]], *, batch: int = 128) -> list[str]:
        """The expert for each prompt, `MERGE` for the merge alone.

        The merged model runs up to the module that the router reads, in its first layer.

        Args:
            prompts: of each prompt its tensors as the model takes them, for one row, without padding.
            batch: prompts read together, at most.
        """
        from optmerge.evaluate.answering import alike, side_by_side

        chosen = [MERGE] * len(prompts)
        for rows in alike(prompts):
            for start in range(0, len(rows), batch):
                some = rows[start : start + batch]
                read = self.read(**side_by_side([prompts[row] for row in some], self.model.device))
                for row, name in zip(some, self.router.choices(read), strict=True):
                    chosen[row] = name
        return chosen

    def read(self, **inputs: Any) -> Tensor:
        """What the router reads of prompts, (rows, width): the mean over their tokens.

        Args:
            inputs: as the model's `forward` takes them, without padding.
        """
        import torch

        found: list[Tensor] = []

        def keep(module: Any, given: tuple[Tensor, ...]) -> None:
            found.append(given[0].detach().flatten(1, -2).float().mean(1))
            raise _ReadError

        module = self.model.get_base_model().get_submodule(self.router.module)
        hook = module.register_forward_pre_hook(keep)
        try:
            with torch.inference_mode(), self.model.disable_adapter():
                self.model(**inputs, use_cache=False)
        except _ReadError:
            pass
        finally:
            hook.remove()
        return found[0]

    @contextmanager
    def using(self, choice: str) -> Iterator[None]:
        """The model answers with a part, or with none, until the context is left.

        Args:
            choice: name of an expert, or `MERGE`.
        """
        if choice == MERGE:
            with self.model.disable_adapter():
                yield
        else:
            self.model.set_adapter(adapter_of(choice))
            yield


def adapter_of(expert: str) -> str:
    """What PEFT calls an expert's part: its name, without dots, which PEFT doesn't take."""
    return expert.replace(".", "_")


class _ReadError(Exception):
    """Ends a forward pass once the router has read its input."""
