"""Whose memory a gradient is: whether what a feedback point is given may end up as the `.grad` of a parameter."""

from typing import Any

from torch import Tensor

from optical_dfa.audit_graph import node_name

MAKES_ITS_OWN = frozenset(
    (
        "AdaptiveAvgPool2D", "AvgPool2D", "Bmm", "Convolution", "CudnnBatchNorm", "CudnnConvolution", "Div",
        "Elu", "Embedding", "Exp", "Gelu", "Glu", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu", "Linear",
        "LogSoftmax", "MaxPool2DWithIndices", "Mish", "MkldnnConvolution", "Mm", "Mul", "NativeBatchNorm",
        "NativeDropout", "NativeGroupNorm", "NativeLayerNorm", "Pow", "PreluKernel", "Relu",
        "ScaledDotProductFlashAttentionForCpu", "Sigmoid", "Silu", "Sin", "Softmax", "Softplus", "Tanh",
        "Threshold",
    )
)  # fmt: skip
"""Functions whose backward writes a new tensor, by the name of the node without `Backward` and number."""

PASSES_ON = frozenset(("Add", "Sub", "View", "UnsafeView", "Reshape", "Transpose", "Permute", "Squeeze", "Unsqueeze"))
"""Functions whose backward may pass its gradient on as it is, or as a view."""


def reaches_a_leaf(h: Tensor) -> bool:
    """Whether h's very gradient, not something computed from it, may come to a parameter (`h = x + p`).

    PyTorch takes such a tensor for the parameter's `.grad`. It must not be a view of what other points view: clipping
    or accumulation of one gradient would change the other.
    """
    if h.grad_fn is None:
        return h.requires_grad  # a parameter as a point
    nodes: list[Any] = [h.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        name = node_name(node)
        if name in PASSES_ON:
            nodes += [child for child, _ in node.next_functions]
        elif name == "Addmm":
            summand = node.next_functions[0][0]
            if getattr(summand, "variable", h).dim() > 1:  # the gradient of a bias is a sum, a new tensor
                nodes.append(summand)
        elif name not in MAKES_ITS_OWN:
            return True
    return False
