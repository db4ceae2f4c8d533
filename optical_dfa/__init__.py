"""Direct Feedback Alignment for PyTorch with the error projected by an optical co-processor, real or emulated.

Names are loaded when first used, so that `import optical_dfa.devices` stays free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optical_dfa.attachment import attach
    from optical_dfa.audit import Audit
    from optical_dfa.devices import open_device
    from optical_dfa.encode import Ternarize
    from optical_dfa.errors import AttachError, FeedbackError, FeedbackShapeError, NonFiniteError
    from optical_dfa.feedback import Feedback, Plan

__version__ = "0.1.0"

__all__ = [
    "AttachError",
    "Audit",
    "Feedback",
    "FeedbackError",
    "FeedbackShapeError",
    "NonFiniteError",
    "Plan",
    "Ternarize",
    "__version__",
    "attach",
    "open_device",
]

_HOMES = {
    "AttachError": "errors",
    "Audit": "audit",
    "Feedback": "feedback",
    "FeedbackError": "errors",
    "FeedbackShapeError": "errors",
    "NonFiniteError": "errors",
    "Plan": "feedback",
    "Ternarize": "encode",
    "attach": "attachment",
    "open_device": "devices",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
