r"""Numbers as people and models write them: units, degree signs, fractions, π, roots, LaTeX, `\boxed{}`."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from itertools import pairwise

_LONGEST = 80
"""Characters; whatever is longer isn't one number (and nesting stays shallow)."""
_GROUP = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
_BOXED = re.compile(rf"\\f?boxed\s*{_GROUP}")
_CONCLUSION = re.compile(r"\banswer\b(?:\s+is\b|\s*[:=])+\s*:?", re.IGNORECASE)
_UNITS = re.compile(
    r"(?:\b(?:square|sq|cubic)\.?\s*)?"
    r"(?:(?<![a-z])(?:[mcdk]?m|in|ft|yd|mi|deg|rad|[mk]?g|[hs])|degrees?|radians?|units?|percent"
    r"|(?:milli|centi|deci|kilo)?met(?:er|re)s?|inch(?:es)?|foot|feet|yards?|miles?|seconds?|minutes?|hours?)"
    r"(?![a-z])\.?(?:[23]\b|\s*\^\s*\{?\s*[23]\s*\}?)?|[°%€£]"
)
_REWRITES: tuple[tuple[str, str], ...] = (
    (r"\\(?:left|right|displaystyle|[,;:! ()\[\]])|\*\*|\$|~", " "),
    ("²", "^2"),
    ("³", "^3"),
    (r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r" \1 "),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\^\s*\{?\s*\\circ\s*\}?|\\degree|\\%", "°"),
    (r"\\pi\b|\bpi\b", "π"),
    (r"\\(?:cdot|times)|[×·⋅]", "*"),
    (r"−|–", "-"),
    (r"√\s*(\d+)", r"\\sqrt{\1}"),
    (r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))", ""),
    (r"[=≈]", " = "),
)
_MIXED = re.compile(r"(?<![\d.])(\d+)\s*(?:\s(\d+)\s*/\s*(\d+)|\\frac\{(\d+)\}\{(\d+)\})(?![\d.])")
_TOKEN = re.compile(r"\d+\.?\d*|\.\d+|π|sqrt|[-+*/^()]")
_OPERATORS: Mapping[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def read_number(text: str) -> float | None:
    r"""The value of a text that is one number and nothing else, or None.

    `40`, `1,000`, `-2.5`, `40°`, `12 cm^2`, `3/4`, `1 1/2`, `\frac{1}{2}`, `4π`, `2\sqrt{3}`, `$\boxed{7}$`.
    Units and the percent sign are dropped, whatever they are.
    """
    expression = _UNITS.sub(" ", _plain(boxed(text))).strip(" .,;:!?")
    expression = _MIXED.sub(lambda m: f"({m[1]}+{m[2] or m[4]}/{m[3] or m[5]})", expression)
    for _ in range(4):  # innermost braces first
        expression = re.sub(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))", expression)
        expression = re.sub(r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)", expression)
        expression = re.sub(r"\^\s*\{([^{}]*)\}", r"^(\1)", expression)
    return _evaluate(expression) if 0 < len(expression) <= _LONGEST else None


def find_number(text: str) -> float | None:
    r"""The number a reply comes to, or None.

    The content of the last `\boxed{}`, else the first number after "answer is", else the last number.
    """
    text = boxed(text)
    conclusion = text[last.end() :] if (last := _last(_CONCLUSION, text)) else None
    whole = read_number(text if conclusion is None else conclusion)
    if whole is not None:
        return whole
    found = _numbers_among(_UNITS.sub(" ", _plain(text if conclusion is None else conclusion)).split())
    return None if not found else found[0] if conclusion is not None else found[-1]


def agree(prediction: str, answer: str) -> bool:
    """Whether a reply's number is the gold answer, as precisely as the gold answer is written.

    A gold answer with decimals needs a number that rounds to those decimals. A whole number needs an equal
    one. Fractions, roots and multiples of π need a number at most 0.005 away (two decimals).
    """
    gold, said = read_number(answer), find_number(prediction)
    if gold is None or said is None:
        return False
    plain = _UNITS.sub("", _plain(boxed(answer))).strip(" .,;:!?")
    decimals = re.fullmatch(r"[-+]?\s*\d*\.(\d+)", plain)
    exact = re.fullmatch(r"[-+]?\s*\d+\.?", plain) is not None
    slack = 0.0 if exact else 0.5 * 10.0 ** -len(decimals[1]) if decimals else 0.005
    return math.isclose(said, gold, rel_tol=1e-9, abs_tol=slack * (1 + 1e-9))


def boxed(text: str) -> str:
    r"""What stands in the last `\boxed{}`, or the text itself if there is none."""
    last = _last(_BOXED, text)
    return last[1] if last else text


def _plain(text: str) -> str:
    for pattern, replacement in _REWRITES:
        text = re.sub(pattern, replacement, text)
    return text


def _numbers_among(words: list[str]) -> list[float]:
    """Every number in running text; neighbouring words that are one number together ("4 π") count once."""
    found: list[float] = []
    start = 0
    while start < len(words):
        for end in range(min(len(words), start + 5), start, -1):
            value = read_number(" ".join(words[start:end]).strip("()[]"))
            value = read_number(" ".join(words[start:end])) if value is None else value
            if value is not None:
                found.append(value)
                start = end - 1
                break
        start += 1
    return found


def _evaluate(expression: str) -> float | None:
    """The value of an arithmetic expression in which a factor may follow another without a sign."""
    tokens = _TOKEN.findall(expression)
    if "".join(tokens) != re.sub(r"\s", "", expression) or not tokens:
        return None
    python = ""
    for before, token in pairwise(("(", *tokens)):
        digit, after_factor = token[0] in ".0123456789", before[0] in ".0123456789π)"
        if digit and after_factor and before != ")":
            return None  # two numbers, not one
        factor = digit or token in ("π", "sqrt", "(")
        python += "*" if factor and after_factor else ""
        python += repr(float(token)) if digit else {"π": repr(math.pi), "^": "**"}.get(token, token)
    try:
        value = _value(ast.parse(python, mode="eval").body)
    except (SyntaxError, ArithmeticError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _value(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=float(number)):
            return number
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_value(operand))
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument]):
            return math.sqrt(_value(argument))
    raise ValueError("not arithmetic")


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return max(pattern.finditer(text), key=lambda match: match.start(), default=None)
