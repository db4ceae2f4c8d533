"""Alignment of a run: measurements go to its folder, and are drawn at its end."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec

from optical_dfa.alignment import JsonLines, TensorBoard
from optical_dfa.alignment.figure import draw_alignment
from optical_dfa.training.run import Run
from optical_dfa.training.run_folder import RunFolder


@contextmanager
def aligned(run: Run, folder: RunFolder) -> Iterator[None]:
    """Within the block, what the run measures of alignment is written to its folder; drawn when the block is done.

    Measurements that came after the checkpoint which the run goes on from are made again. Nothing happens without a
    monitor; nothing is drawn without matplotlib.

    Raises:
        MissingExtra: TensorBoard is asked for and not installed.
    """
    config = run.config.alignment
    if run.monitor is None or config is None:
        yield
        return
    log = JsonLines(folder.alignment)
    log.keep_before(run.steps)
    with ExitStack() as stack:
        logs = [stack.enter_context(TensorBoard(folder.tensorboard, run.steps))] if config.tensorboard else []
        run.monitor.to = (log, *logs)
        yield
    history = log.read()
    if history and find_spec("matplotlib") is not None:
        title = f"Alignment of feedback during training, {folder.path.name}"
        draw_alignment(history, title, folder.alignment_figure)
