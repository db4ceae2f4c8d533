"""YAML that remembers where every value stands, so that a fault can name its line.

Scalars follow the core schema of YAML 1.2, which is what people expect: `5e-4` is a number, `off` and `12:30` are text.
(PyYAML's own rules, those of YAML 1.1, make them text, false and 750.)
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from optical_dfa.devices.faults import Fault

Path = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"

_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_CORE_SCHEMA = {  # pattern of each kind, and the characters it can begin with
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
}
_CONSTRUCTORS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text, 0 if text.startswith(("0o", "0x")) else 10),
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # as PyYAML declares it


for _kind, (_pattern, _first) in _CORE_SCHEMA.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), _first)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers  # quotes what the loader would misread, and nothing else


@dataclass
class MarkedValue:
    """A YAML document with the line of each of its values."""

    value: Any = None
    """Plain dicts with text keys, lists, str, int, float, bool and None."""
    lines: dict[Path, int] = field(default_factory=dict)
    """Line, from 1, of the key or list item at each path."""
    faults: list[tuple[int, Fault]] = field(default_factory=list)
    """What YAML allows and a configuration does not, such as the same key twice, with its line."""


class YamlSyntaxError(ValueError):
    """The text is not YAML. `line` is where, from 1, or None."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


def parse_marked(text: str) -> MarkedValue:
    """The one YAML document in `text`; an empty text gives None.

    Raises:
        YamlSyntaxError: it is not YAML, or more than one document.
    """
    marked = MarkedValue()
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            marked.value = _construct(root, (), marked, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or "not YAML"
        message = f"{error.context}, {problem}" if problem.startswith("but ") else problem
        raise YamlSyntaxError(message, mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise YamlSyntaxError(" ".join(str(error).split()), None) from None
    except RecursionError:
        raise YamlSyntaxError("nested too deeply", None) from None
    finally:
        if loader is not None:
            loader.dispose()
    return marked


def dump_yaml(value: Any) -> str:
    """YAML that `parse_marked` reads back to an equal value, keys in the given order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _construct(node: yaml.Node, path: Path, marked: MarkedValue, around: tuple[yaml.Node, ...]) -> Any:
    """Plain value of a node inside the nodes `around`; adds to the lines and faults of `marked`."""
    marked.lines.setdefault(path, node.start_mark.line + 1)
    kind = node.tag.removeprefix(_TAG)
    if any(node is outer for outer in around):
        raise _fault("an alias that contains itself", node)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _construct_mapping(node, path, marked, around)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_construct(item, (*path, i), marked, (*around, node)) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.ScalarNode) or kind not in _CONSTRUCTORS:
        raise _fault(f"the tag {node.tag!r} is not accepted here", node)
    try:
        return _CONSTRUCTORS[kind](node.value)
    except ValueError:
        raise _fault(f"{node.value!r} is not a valid {kind}", node) from None


def _construct_mapping(
    node: yaml.MappingNode, path: Path, marked: MarkedValue, around: tuple[yaml.Node, ...]
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if key_node.tag != _TAG + "str":
            given = key if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            fault = Fault(path, f"keys must be text; got {given}: put it in quotes if it is meant")
            marked.faults.append((line, fault))
        elif key in mapping:
            fault = Fault((*path, key), f"given twice, first in line {marked.lines[*path, key]}: remove one")
            marked.faults.append((line, fault))
        else:
            marked.lines[*path, key] = line
            mapping[key] = _construct(value_node, (*path, key), marked, (*around, node))
    return mapping


def _fault(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
