"""What an emulated bench looks like: measured through its frames and readout, each number beside its theory. No torch.

`look` measures; `optical_dfa.view.figures.draw` makes the pictures, `to_json` the file.
"""

from optical_dfa.view.look import look
from optical_dfa.view.options import Options
from optical_dfa.view.report import Numbers, View, from_json, to_json

__all__ = ["Numbers", "Options", "View", "from_json", "look", "to_json"]
