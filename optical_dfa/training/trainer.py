"""The training loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optical_dfa.config import RunConfig
from optical_dfa.data import load_task
from optical_dfa.devices import DeviceError
from optical_dfa.run_errors import LossNotFinite, TrainingInterrupted
from optical_dfa.training.alignment import aligned
from optical_dfa.training.attend import attend_faults
from optical_dfa.training.checkpoint import load_checkpoint, save_checkpoint
from optical_dfa.training.display import Display
from optical_dfa.training.interrupt import InterruptGuard
from optical_dfa.training.log import EpochMetrics, Result, write_metrics
from optical_dfa.training.monitoring import Watch
from optical_dfa.training.provenance import write_provenance
from optical_dfa.training.run import Run
from optical_dfa.training.run_folder import RunFolder


def train(config: RunConfig, out_dir: str | Path, *, resume: bool = False, progress: bool = True) -> Result:
    """Train a run to its end, or take it up again where its last checkpoint stands.

    Same configuration, thread count and CPU type: same weights and metrics to the bit, however often the run was
    stopped and resumed. The test set is looked at after each epoch and decides nothing: the last epoch is the result.

    Args:
        config: what to train.
        out_dir: folder of the run; a new run needs a new or empty one.
        resume: continue the run in `out_dir`; a finished one gives its result.
        progress: show progress on standard output.

    Returns:
        The result; `out_dir` holds it as `result.json`, beside `metrics.csv`, `provenance.json` and `config.yaml`, and
        what was measured of alignment as `alignment.jsonl` and `alignment.png`.

    Raises:
        InputError: data, folder or checkpoint cannot be used; nothing was changed.
        TrainingError: a loss that is not finite, Ctrl-C or SIGTERM; the last checkpoint is kept.
        optical_dfa.devices.DeviceError: the device failed, the last checkpoint is kept; or the checkpoint belongs to
            another device.
    """
    folder = RunFolder(out_dir)
    folder.check(config, resume)
    if folder.finished:
        return Result.read(folder.result)
    task = load_task(config.task.name, config.task.folder)
    checkpoint = load_checkpoint(folder.checkpoint)
    threads = config.training.threads or (checkpoint["threads"] if checkpoint else None)
    with torch_threads(threads), torch.random.fork_rng(devices=[]), Run(config, task) as run:
        torch.manual_seed(config.training.seed)
        if checkpoint is not None:
            run.load_state_dict(checkpoint)
        folder.prepare(config)
        if checkpoint is None:
            save_checkpoint(folder.checkpoint, run.state_dict())
        write_provenance(folder.provenance, run)
        write_metrics(folder.metrics, run.history)  # what came after the checkpoint is done again
        with aligned(run, folder), InterruptGuard() as interrupt, Display(run, progress) as display:
            attend_faults(run, folder, interrupt)
            try:
                _loop(run, folder, display, interrupt, Watch(run, folder))
                result = Result.of(folder.path, run.history, run.measured_snr_db())
            except Exception as error:
                # raised by a backward pass, before the step changed anything; the SNR is measured after the last one
                if isinstance(error, DeviceError) and not run.trained:
                    save_checkpoint(folder.checkpoint, run.state_dict())
                error.add_note(f"in {run.position}")
                advice = "" if isinstance(error, LossNotFinite) else ": go on with --resume"
                error.add_note(f"the last checkpoint is kept in {folder.path}{advice}")
                raise
    result.write(folder.result)
    return result


def epoch_order(seed: int, epoch: int, n_images: int) -> Tensor:
    """Order of the training images in an epoch (from 0), int64 (n_images,): a function of seed and epoch alone."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n_images))


def epochs_of(run: Run) -> Iterator[EpochMetrics]:
    """Train a run to its end without writing anything; gives each epoch when it is over."""
    training = run.config.training
    for epoch in range(run.epoch, training.epochs):
        order = epoch_order(training.seed, epoch, len(run.task.train_images))
        for batch in order.split(training.batch_size):  # type: ignore[no-untyped-call]
            run.train_step(batch)
        yield run.end_epoch()


def _loop(run: Run, folder: RunFolder, display: Display, interrupt: InterruptGuard, watch: Watch) -> None:
    training = run.config.training
    while not run.trained:
        order = epoch_order(training.seed, run.epoch, len(run.task.train_images))
        for first in range(run.step * training.batch_size, len(order), training.batch_size):
            watch.before_step()
            run.train_step(order[first : first + training.batch_size])
            watch.after_step()
            display.step()
            due = training.checkpoint_every_steps and run.steps % training.checkpoint_every_steps == 0
            if due or interrupt.requested:
                save_checkpoint(folder.checkpoint, run.state_dict())
            if interrupt.requested:
                raise TrainingInterrupted("stopped on request")
        display.epoch(run.end_epoch())
        save_checkpoint(folder.checkpoint, run.state_dict())
        write_metrics(folder.metrics, run.history)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Within the block, PyTorch uses that many CPU threads; None: as many as it likes."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
