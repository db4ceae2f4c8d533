"""The digital twin of a bench: the emulator fitted to its frames, with how sure each value is. No torch."""

from optical_dfa.twin.estimate import Estimate
from optical_dfa.twin.fit import Twin, fit
from optical_dfa.twin.observed import Observed, read_recording
from optical_dfa.twin.plan import Plan, show_plan
from optical_dfa.twin.predict import Prediction, predict
from optical_dfa.twin.save import TwinFiles, save

__all__ = [
    "Estimate",
    "Observed",
    "Plan",
    "Prediction",
    "Twin",
    "TwinFiles",
    "fit",
    "predict",
    "read_recording",
    "save",
    "show_plan",
]
