"""Tensors inside what modules return: tuples, lists, mappings, dataclasses, any depth."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from optical_dfa.errors import AttachError, FeedbackError

Selector = str | int | Callable[[Any], Tensor | Sequence[Tensor]]
"""Key or attribute path with dots, index, or function: which tensor of an output is meant."""


def check_selectors(output: Any) -> tuple[Selector, ...]:
    """The selectors that `output=` names, none for None.

    Raises:
        AttachError: it is neither a key, an index, a function nor a list of them.
    """
    selectors = () if output is None else tuple(output) if isinstance(output, list | tuple) else (output,)
    wrong = [one for one in selectors if isinstance(one, bool) or not (isinstance(one, str | int) or callable(one))]
    if wrong or (output is not None and not selectors):
        raise AttachError(
            f"output={output!r} must be a key, an attribute path ('decoder.logits'), an index, a function of the "
            "output, or a list of those for several outputs"
        )
    return selectors


def select(value: Any, selectors: Sequence[Selector], what: str) -> list[Tensor]:
    """The tensors that carry the error; `value` itself without selectors.

    Raises:
        FeedbackError: there is no such tensor; the text says what there is.
    """
    chosen: list[Any] = [] if selectors else [value]
    for selector in selectors:
        found = _follow(value, selector, what)
        chosen += found if isinstance(found, list | tuple) else [found]
    for found in chosen:
        if not isinstance(found, Tensor):
            advice = (
                f"of {tuple(selectors)!r}, output= must name tensors only"
                if selectors
                else "name the tensor with output=, the module that gives it with error_at=, or mark it in the forward "
                "with feedback_tap"
            )
            raise FeedbackError(f"{what} gave {described(found)}; feedback needs a tensor: {advice}")
    return chosen


def _follow(value: Any, selector: Selector, what: str) -> Any:
    if callable(selector):
        return selector(value)
    for step in selector.split(".") if isinstance(selector, str) else (selector,):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list | tuple) and _is_index(step, len(value)):
            value = value[int(step)]
        elif isinstance(step, str) and hasattr(value, step):
            value = getattr(value, step)
        else:
            raise FeedbackError(f"output={selector!r}: {what} gave {described(value)}, which has no {step!r}")
    return value


def _is_index(step: str | int, length: int) -> bool:
    return (isinstance(step, int) or step.isdecimal()) and -length <= int(step) < length


def described(value: Any) -> str:
    """Type of an output and the names of its parts, for a message."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {kind} with {', '.join(map(repr, value)) or 'nothing'}"
    if dataclasses.is_dataclass(value):
        return f"a {kind} with {', '.join(repr(field.name) for field in dataclasses.fields(value))}"
    return f"a {kind} of {len(value)}" if isinstance(value, list | tuple) else f"a {kind}"


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with `change` applied to each tensor; where nothing changes, the very same object."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        items = [map_tensors(item, change) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        changed = {key: map_tensors(item, change) for key, item in value.items()}
        changed = {key: new for key, new in changed.items() if new is not value[key]}
        return _with_items(value, changed) if changed else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        changed = {name: map_tensors(part, change) for name, part in parts.items()}
        changed = {name: new for name, new in changed.items() if new is not parts[name]}
        return dataclasses.replace(value, **changed) if changed else value
    return value


def _with_items(value: Mapping[Any, Any], changed: Mapping[Any, Any]) -> Any:
    if type(value) is dict:
        return {**value, **changed}
    new: Any = copy.copy(value)  # of its own kind: an ordered output with attributes keeps both alike by itself
    for key, item in changed.items():
        new[key] = item
    return new


def swap(value: Any, old: Sequence[Tensor], new: Sequence[Tensor], what: str) -> Any:
    """`value` with the tensors `old` replaced by `new`.

    Raises:
        FeedbackError: one of them is not part of it.
    """
    if len(old) == 1 and value is old[0]:
        return new[0]  # the usual case, told at once: this runs in each step
    met: set[int] = set()

    def change(tensor: Tensor) -> Tensor:
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            if tensor is before:
                met.add(number)
                return after
        return tensor

    swapped = map_tensors(value, change)
    if len(met) < len(old):
        raise FeedbackError(
            f"output= gave a tensor that is not part of what {what} returned ({described(value)}), so the loss would "
            "not pass through it: it must select a tensor, not compute one"
        )
    return swapped


def main_tensor(value: Any) -> Tensor | None:
    """The first floating tensor of a structure, which is the hidden state by convention; None if there is none."""
    found: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            found.append(tensor)
        return tensor

    map_tensors(value, look)
    return found[0] if found else None
