"""Weight transport, read from the autograd graph: which weights a gradient passes through on its way to a parameter.

A gradient that goes through a node to one of its operands is multiplied by the other operands, where the node
multiplies at all: through `x @ W` it comes to `x` times W. So the gradient of a parameter *passes through* W if a node
on its way has W, or something computed from parameters alone, as another operand. Activations that it is multiplied by
are no transport: backpropagation and feedback know them from the forward pass.

Three things are not written in the graph and are decided here:

- Which operands only add. `ADDITIVE` lists them by the name of the node; a node that is not listed counts as a product,
  so an unknown operation may name a weight too many, never one too few.
- What is an activation. An operand counts as computed from parameters alone unless an input requires a gradient,
  indices picked from it, or a tensor without a gradient was combined with it that is neither a number nor a parameter
  or buffer of the net. In elementwise operations such a tensor is data if it broadcasts the result to another shape.
- Frozen weights have no node. They are recognised by their memory among the tensors that a node kept; a copy of them
  (autocast) is not, nor what saved-tensor hooks keep elsewhere (checkpointing), of which the number is counted.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from torch import Tensor, nn

Passed = Mapping[int, frozenset[int]]
"""Parameters that a gradient reaches, by id, and ids of the parameters that it passes through on the way."""

EVERY = range(1 << 30)

TAPS = ("Tap", "DeferredTap")
"""Names of the nodes that carry the error."""

ADDITIVE: Mapping[str, Sequence[int]] = {
    **dict.fromkeys(("Add", "Sub", "Rsub", "Cat", "Stack", "Where", "Maximum", "Minimum"), EVERY),
    **dict.fromkeys(
        ("IndexAdd", "IndexPut", "IndexCopy", "Scatter", "ScatterAdd", "MaskedScatter", "MaskedFill"), EVERY
    ),
    **dict.fromkeys(("SliceScatter", "SelectScatter", "Copy"), EVERY),
    **dict.fromkeys(("Addmm", "Addmv", "Addbmm", "Baddbmm", "Addr", "Addcmul", "Addcdiv", "SparseAddmm"), (0,)),
    **dict.fromkeys(("Convolution", "MkldnnConvolution", "CudnnConvolution", "MiopenConvolution", "Linear"), (2,)),
    **dict.fromkeys(("NativeLayerNorm", "NativeGroupNorm", "NativeBatchNorm", "CudnnBatchNorm"), (2,)),
}
"""Operands that only add, by the name of the node without `Backward` and number."""

ELEMENTWISE = frozenset(("Add", "Sub", "Rsub", "Mul", "Div", "Where", "MaskedFill"))
"""Operations whose result has the shape of a weight operand unless data broadcasts it."""


@dataclass(frozen=True)
class Reached:
    """Parameters that gradients reach, and the weights that they pass through."""

    exact: Passed
    """From the output of the net, the error included."""
    points: Mapping[str, Passed]
    """From each feedback point, in the order in which they ran."""
    error: frozenset[int]
    """Parameters above the module that carries the error: the error itself passes through them."""
    trainable: frozenset[int]
    """Parameters that were not frozen when the graph was read."""
    unseen: int = 0
    """Nodes whose operands were kept elsewhere, so that frozen weights among them were not seen."""

    def joined(self, other: "Reached") -> "Reached":
        """What the Taps of one forward reach together."""

        def union(one: Passed, two: Passed) -> Passed:
            return {key: one.get(key, frozenset()) | two.get(key, frozenset()) for key in (*one, *two)}

        names = dict.fromkeys((*self.points, *other.points))
        points = {name: union(self.points.get(name, {}), other.points.get(name, {})) for name in names}
        exact, error = union(self.exact, other.exact), self.error | other.error
        return Reached(exact, points, error, self.trainable, self.unseen + other.unseen)

    def covers(self, net: nn.Module) -> bool:
        """Whether every parameter of `net` that is not frozen now was in the graph."""
        return all(id(parameter) in self.trainable for parameter in net.parameters() if parameter.requires_grad)


def read_below(net: nn.Module, outputs: Iterable[Tensor], tokens: Iterable[tuple[str, Tensor]]) -> Reached:
    """What the error and each feedback point reach; the outputs and tokens are those that `Tap` is about to join."""
    reader = _Reader(net)
    by_point: dict[str, list[Tensor]] = defaultdict(list)
    for name, token in tokens:
        by_point[name].append(token)
    trainable = frozenset(id(parameter) for parameter in net.parameters() if parameter.requires_grad)
    exact = reader.passed(outputs)
    points = {name: reader.passed(of_point) for name, of_point in by_point.items()}
    return Reached(exact, points, frozenset(), trainable, len(reader.unseen))


def leaves(tensors: Iterable[Tensor]) -> frozenset[int]:
    """Ids of the leaf tensors from which `tensors` were computed."""
    nodes = _children_first([tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None])
    return frozenset(id(node.variable) for node in nodes if hasattr(node, "variable"))


def read_above(net: nn.Module, below: Reached, output: Any) -> Reached:
    """Add what lies between the error and the output of the net: its parameters, and what the error passes through.

    Args:
        net: the net.
        below: from `read_below`.
        output: what the net returned, tensors in any container.
    """
    reader = _Reader(net)
    above = reader.passed(_tensors(output))
    error = reader.at_tap
    through = {key: passed | error for key, passed in below.exact.items()}
    exact = {key: above.get(key, frozenset()) | through.get(key, frozenset()) for key in (*above, *through)}
    return Reached(exact, below.points, error, below.trainable, below.unseen + len(reader.unseen))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_tensors, value.values()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_tensors, value))
    elif hasattr(value, "__dict__"):
        yield from chain.from_iterable(map(_tensors, vars(value).values()))


class _Reader:
    """Walks through the graph of one net. Sets of parameters are bit masks: a large net has many paths."""

    def __init__(self, net: nn.Module) -> None:
        self.parameters = list(net.parameters())
        self.bit = {id(parameter): 1 << number for number, parameter in enumerate(self.parameters)}
        self.frozen = sum(self.bit[id(parameter)] for parameter in self.parameters if not parameter.requires_grad)
        self.memory: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for tensor in chain(self.parameters, net.buffers()):
            if place := _place(tensor):
                self.memory[place[0]].append((*place[1:], self.bit.get(id(tensor), 0)))
        self.unseen: set[Any] = set()
        self.at_tap: frozenset[int] = frozenset()

    def passed(self, starts: Iterable[Tensor]) -> dict[int, frozenset[int]]:
        roots = [tensor.grad_fn for tensor in starts if tensor.grad_fn is not None]
        order = _children_first(roots)
        weights: dict[Any, int | None] = {}
        for node in order:
            weights[node] = self._weights(node, weights)
        masks: dict[Any, int] = defaultdict(int)
        found: dict[int, frozenset[int]] = {}
        for node in reversed(order):
            if node_name(node) in TAPS:
                self.at_tap |= self._ids(masks[node])
            elif (variable := getattr(node, "variable", None)) is not None:
                found[id(variable)] = self._ids(masks[node])
            else:
                for edge, (child, _) in enumerate(node.next_functions):
                    if child is not None:
                        masks[child] |= masks[node] | self._transport(node, edge, weights)
        return found

    def _weights(self, node: Any, weights: Mapping[Any, int | None]) -> int | None:
        """Parameters that the node's result was computed from; None if from anything else too, or through indices."""
        variable = getattr(node, "variable", None)
        if variable is not None:
            return self.bit.get(id(variable))
        if node_name(node) in (*TAPS, "Branch") or self._meets_data(node, weights):
            return None
        mask = 0
        for child, number in node.next_functions:
            if child is None:
                continue
            of_child = weights[child]
            if of_child is None and _shape(child, number) != ():  # a scalar factor leaves weights what they are
                return None
            mask |= of_child or 0
        return mask

    def _meets_data(self, node: Any, weights: Mapping[Any, int | None]) -> bool:
        kept = list(self._kept(node))
        unknown = [tensor for tensor in kept if tensor.dim() and self._known(tensor) is None]
        if any(not tensor.is_floating_point() and tensor.dtype.itemsize > 1 for tensor in unknown):
            return True  # indices
        if all(child is not None for child, _ in node.next_functions):
            return False
        if node_name(node) in ELEMENTWISE:
            shape = _shape(node, 0)
            return all(child is None or _shape(child, number) != shape for child, number in node.next_functions)
        return bool(unknown) or node in self.unseen

    def _transport(self, node: Any, edge: int, weights: Mapping[Any, int | None]) -> int:
        """Parameters that the gradient passes through from the node to its operand number `edge`."""
        additive = ADDITIVE.get(node_name(node), ())
        if edge in additive:
            return 0
        mask = 0
        for other, (child, _) in enumerate(node.next_functions):
            if other != edge and other not in additive and child is not None:
                mask |= weights[child] or 0
        if self.frozen:
            for tensor in self._kept(node):
                mask |= (self._known(tensor) or 0) & self.frozen
        return mask

    def _kept(self, node: Any) -> Iterator[Tensor]:
        """Tensors that the node saved for its backward pass, without unpacking: a hook might compute them anew."""
        for attribute in _kept_names(type(node)):  # type: ignore[arg-type]
            raw = getattr(node, attribute)
            for saved in raw if isinstance(raw, list | tuple) else (raw,):
                data = getattr(saved, "data", None)
                if isinstance(data, Tensor):
                    yield data
                elif data is not None:
                    self.unseen.add(node)

    def _known(self, tensor: Tensor) -> int | None:
        """Bits of the parameter whose memory it is, 0 for that of a buffer; None: neither."""
        place = _place(tensor)
        if place is None:
            return None
        for start, stop, bit in self.memory.get(place[0], ()):
            if start <= place[1] < stop:
                return bit
        return None

    def _ids(self, mask: int) -> frozenset[int]:
        return frozenset(key for key, bit in self.bit.items() if mask & bit)


def _children_first(roots: Iterable[Any]) -> list[Any]:
    """All nodes below `roots`, each after its children; what lies below a Tap is not looked at."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack = [(root, False) for root in roots]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            if node_name(node) not in TAPS:
                stack.extend((child, False) for child, _ in node.next_functions if child is not None)
    return order


@cache
def _kept_names(kind: type) -> tuple[str, ...]:
    # the bias of a norm is kept although no gradient needs it
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_") and name != "_raw_saved_bias")


def node_name(node: Any) -> str:
    """Name of a node of the graph without `Backward` and number."""
    return type(node).__name__.partition("Backward")[0]


def _shape(node: Any, number: int) -> tuple[int, ...] | None:
    """Shape of result `number` of the node's forward; None if it is not known."""
    variable = getattr(node, "variable", None)
    if variable is not None:
        return tuple(variable.shape)
    metadata = getattr(node, "_input_metadata", ())
    return tuple(metadata[number].shape) if number < len(metadata) else None


def _place(tensor: Tensor) -> tuple[int, int, int] | None:
    """Where the tensor's memory is: storage, first and last element; None if it has none."""
    try:
        pointer = tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, or of a subclass without memory of its own
        return None
    start = int(tensor.storage_offset())
    return (pointer, start, start + max(int(tensor.numel()), 1)) if pointer else None
