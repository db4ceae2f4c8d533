"""The command `optical-dfa audit`: the table, and the diagram and JSON in a folder."""

from pathlib import Path

from rich.console import Console

from optical_dfa.config import RunConfig
from optical_dfa.files import write_text_whole
from optical_dfa.run_errors import ConfigError, InputError


def run_audit(config: RunConfig, out: Path | None, console: Console) -> None:
    """Print the audit of the configured net; write `audit.json`, `audit.svg` and `audit.png` to `out`.

    Opens no device. Reads the data, whose size is that of the net.

    Raises:
        InputError: the method gives no feedback, `out` is a file, or the data cannot be had.
    """
    if config.training.method != "dfa":
        raise ConfigError(
            f"training.method is {config.training.method!r}, which has no feedback to audit: --set training.method=dfa"
        )
    if out is not None:
        if out.exists() and not out.is_dir():
            raise InputError(f"-o {out}: is a file: give a folder")
        from optical_dfa.figures import require_matplotlib

        require_matplotlib()
    from optical_dfa.data import load_task
    from optical_dfa.training.attach import attach_configured
    from optical_dfa.training.models import build_net

    task = load_task(config.task.name, config.task.folder)
    net = build_net(config.model, task, config.training.seed)
    with attach_configured(net, config) as feedback:
        net(task.train_images[:2])
        audit = feedback.audit()
    console.print(str(audit), markup=False, soft_wrap=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_text_whole(out / "audit.json", audit.to_json())
        for suffix in ("svg", "png"):
            audit.draw(out / f"audit.{suffix}")
        console.print(f"\nIn {out}: audit.json, audit.svg, audit.png", soft_wrap=True)
