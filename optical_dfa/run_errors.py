"""What can go wrong around a training run. Feedback and devices have their own trees.

::

    InputError                something given cannot be used
    ├── ConfigError           a configuration file or a --set
    ├── DataError             a data file, or a data set that cannot be had
    ├── MissingExtra          an optional package is not installed
    ├── RunFolderError        a run folder that is in the way, or is not there
    └── CheckpointError       a checkpoint that is damaged or does not fit
    TrainingError             training had to stop; the last checkpoint is kept
    ├── LossNotFinite         the loss became NaN or infinite
    └── TrainingInterrupted   on request (Ctrl-C, SIGTERM), after a checkpoint
    StudyIncomplete           some runs of a study failed; the others are kept

Every message says what was given, what is accepted and what to do.
"""


class InputError(Exception):
    """Something given cannot be used. Nothing was changed."""


class ConfigError(InputError):
    """A configuration is wrong; the message holds every fault with its place."""


class DataError(InputError):
    """A data file is missing, damaged or not what it should be, or a data set cannot be had."""


class MissingExtra(InputError, ImportError):
    """An optional package is not installed."""


class RunFolderError(InputError):
    """A run folder is in the way of a new run, or holds no run to resume."""


class CheckpointError(InputError):
    """A checkpoint is damaged or does not fit the run. It was not changed."""


class TrainingError(Exception):
    """Training had to stop. The last checkpoint is kept."""


class LossNotFinite(TrainingError):
    """The loss became NaN or infinite."""


class TrainingInterrupted(TrainingError):
    """Training was stopped on request, after a checkpoint."""


class StudyIncomplete(Exception):
    """Some runs of a study failed and were given up. The others are kept and in the report."""
