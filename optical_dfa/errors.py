"""What can go wrong with feedback.

::

    FeedbackError
    ├── AttachError         the net cannot be attached as asked
    ├── FeedbackShapeError  error and feedback point do not fit together
    └── NonFiniteError      NaN or infinity in the error

Faults of the device are `optical_dfa.devices.DeviceError`.
"""


class FeedbackError(RuntimeError):
    """Base of the errors of feedback."""


class AttachError(FeedbackError, ValueError):
    """The net cannot be attached as asked."""


class FeedbackShapeError(FeedbackError):
    """The shapes of the error and of a feedback point do not fit together, or do not fit the device."""


class NonFiniteError(FeedbackError, ArithmeticError):
    """The error at the output holds NaN or infinity. Nothing was displayed."""
