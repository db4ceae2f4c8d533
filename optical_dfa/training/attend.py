"""What a run does about the faults of its device while they last: it logs them, and saves itself before it waits."""

from dataclasses import asdict

from optical_dfa.devices.resilient import FaultEvent, resilient_part
from optical_dfa.run_errors import TrainingInterrupted
from optical_dfa.training.checkpoint import save_checkpoint
from optical_dfa.training.interrupt import InterruptGuard
from optical_dfa.training.monitoring import append_event
from optical_dfa.training.run import Run
from optical_dfa.training.run_folder import RunFolder


def attend_faults(run: Run, folder: RunFolder, interrupt: InterruptGuard) -> None:
    """Have the device of the run, if it has a policy for faults, report to the run.

    A fault comes out of a backward pass, before the step has changed anything: what is saved then is the state before
    the step, and resuming repeats it.
    """
    device = None if run.feedback is None else resilient_part(run.feedback.device)
    if device is None:
        return

    def on_event(event: FaultEvent) -> None:
        if event.kind == "waiting" and not run.trained:
            save_checkpoint(folder.checkpoint, run.state_dict())
        append_event(folder, {"at": run.position, **asdict(event)})

    def poll() -> None:
        if interrupt.requested:
            if not run.trained:
                save_checkpoint(folder.checkpoint, run.state_dict())
            raise TrainingInterrupted("stopped on request, while the device was waited for")

    device.on_event, device.poll = on_event, poll
