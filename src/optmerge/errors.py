"""The one family of exceptions: every error says what, where, got, expected and the next step.

Messages start in lower case and have no full stop; proper names keep their letters. `what` names the problem,
not what the program was doing. `got` and `expected` are comparable. `hint` is exact enough to copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from unicodedata import category

LONGEST_PART = 2000
"""Most characters of one part of a message, since a file may hold a name of any length."""


class OptMergeError(Exception):
    """Base of every error raised on purpose; the command line exits 1 on it unless it is an `InputError`."""


class InputError(OptMergeError):
    """Something the user gave is wrong; the command line exits 2 and nothing is left half-written.

    Args:
        what: one sentence that names the problem.
        where: the file, tensor or recipe key it was found in.
        got: what was found there.
        expected: what would have been right.
        hint: the next step, in the imperative.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.hint = what, where, got, expected, hint
        parts = (("where", where), ("got", got), ("expected", expected), ("next", hint))
        lines = [f"  {key}: {_cut(str(value))}" for key, value in parts if value is not None]
        super().__init__("\n".join([_cut(what), *lines]))


class RecipeError(InputError):
    """The recipe, or the options that stand for one, can't be understood."""


class CheckpointError(InputError):
    """A checkpoint can't be read, or doesn't fit the others."""


class AdapterError(InputError):
    """An adapter can't be read, or wasn't made for this base."""


class MethodError(InputError):
    """A method is unknown, or its deltas or parameters are outside its domain."""


class OutputError(InputError):
    """The output folder can't be used."""


class RunError(OptMergeError):
    """The merge stopped for a reason that isn't in the user's input (a full disk, say); it can be resumed."""


class MergeWarning(UserWarning):
    """Something the user should know about a result that is otherwise as asked for."""


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_PART else f"{text[:LONGEST_PART]} …"


def printable(text: str) -> str:
    """Text for a terminal, in which all but printable characters and line ends are written as escapes.

    Names come from files that anyone may have written; a control sequence in a name could drive the terminal.
    """
    return _escaped(text, lambda char: char.isprintable() or char == "\n")


def readable(text: str) -> str:
    """Prose for a terminal, in which only control characters become escapes; emoji joiners stay."""
    return _escaped(text, lambda char: char in "\n\t" or category(char) != "Cc")


def _escaped(text: str, stays: Callable[[str], bool]) -> str:
    return "".join(char if stays(char) else char.encode("unicode_escape").decode() for char in text)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The next step for an unknown name: the known name nearest to it, or the list of all known names."""
    known = sorted(options)
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"
