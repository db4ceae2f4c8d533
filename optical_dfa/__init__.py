"""Direct Feedback Alignment for PyTorch with the error projected by an optical co-processor, real or emulated.

Names are loaded when first used, so that `import optical_dfa.devices` stays free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optical_dfa.attachment import attach
    from optical_dfa.audit import Audit
    from optical_dfa.devices import open_device
    from optical_dfa.encode import BitPlanes, Ternarize
    from optical_dfa.errors import AttachError, FeedbackError, FeedbackShapeError, NonFiniteError
    from optical_dfa.feedback import Feedback, feedback_of
    from optical_dfa.marks import feedback_point, feedback_tap
    from optical_dfa.plan import Plan
    from optical_dfa.projection import Projection
    from optical_dfa.validation import Finding, Validation, validate

__version__ = "0.1.0"

__all__ = [
    "AttachError",
    "Audit",
    "BitPlanes",
    "Feedback",
    "FeedbackError",
    "FeedbackShapeError",
    "Finding",
    "NonFiniteError",
    "Plan",
    "Projection",
    "Ternarize",
    "Validation",
    "__version__",
    "attach",
    "feedback_of",
    "feedback_point",
    "feedback_tap",
    "open_device",
    "validate",
]

_HOMES = {
    "AttachError": "errors",
    "Audit": "audit",
    "BitPlanes": "encode",
    "Feedback": "feedback",
    "FeedbackError": "errors",
    "FeedbackShapeError": "errors",
    "Finding": "validation",
    "NonFiniteError": "errors",
    "Plan": "plan",
    "Projection": "projection",
    "Ternarize": "encode",
    "Validation": "validation",
    "attach": "attachment",
    "feedback_of": "feedback",
    "feedback_point": "marks",
    "feedback_tap": "marks",
    "open_device": "devices",
    "validate": "validation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
