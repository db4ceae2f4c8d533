"""The command `optical-dfa`. Imports torch only where a command needs it, so that help comes at once."""

from pathlib import Path
from typing import Annotated

import typer

import optical_dfa

app = typer.Typer(
    name="optical-dfa",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"optical-dfa {optical_dfa.__version__}")
        raise typer.Exit


device_app = typer.Typer(no_args_is_help=True, help="Look at one device.")
app.add_typer(device_app, name="device")


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train neural networks by direct feedback alignment with an optical projection, real or emulated."""


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train; see examples/mnist.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value, e.g. training.epochs=3. May be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="RUN_DIR", help="Folder of the run; default: runs/CONFIG.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in RUN_DIR after its last checkpoint.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Train a net as a YAML file says."""
    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.config import load_config

        run_config = load_config(config, overrides or [])
        from optical_dfa.training import train as run_training

        result = run_training(run_config, out or Path("runs") / config.stem, resume=resume, progress=not quiet)
        if not quiet:
            typer.echo(result.summary())
            if run_config.alignment is not None:
                from optical_dfa.cli.alignment import show_alignment

                show_alignment(result.folder)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the figures and the table.")
    ] = Path("runs/demo"),
) -> None:
    """Train handwritten digits in five ways, and compare them."""
    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.demo import demo as run_demo

        run_demo(out)


@app.command()
def devices() -> None:
    """List the devices that can project the error, and their options."""
    from rich.console import Console

    from optical_dfa.cli.devices import show_devices
    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        show_devices(Console(highlight=False))


@device_app.command(name="check")
def device_check(
    target: Annotated[
        str, typer.Argument(metavar="NAME|CONFIG.yaml", help="A device by name, or that of a run; see examples.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of the device or value of the file. May be repeated."),
    ] = None,
    inputs: Annotated[int | None, typer.Option("--inputs", metavar="N", help="Inputs; of a file: 10.")] = None,
    outputs: Annotated[
        int | None, typer.Option("--outputs", metavar="M", help="Outputs; of a file: those its net needs.")
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="check.safetensors", help="An earlier check to compare with: drift."),
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", metavar="K", help="Pairs of vectors x, y shown, and x + y.")] = 32,
    lit: Annotated[int, typer.Option("--lit", metavar="L", help="Inputs lit by x + y.")] = 4,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Write report, calibration and figure there.")
    ] = None,
) -> None:
    """Measure whether a device is well: gain, linearity, repeatability, SNR, saturation, dead outputs, drift, speed."""
    from rich.console import Console

    from optical_dfa.cli.errors import FAULT, clean_errors

    with clean_errors():
        from optical_dfa.cli.device import Options, run_check

        options = Options(target, overrides or (), inputs, outputs, since, pairs, lit, out)
        if not run_check(options, Console(highlight=False)):
            raise typer.Exit(FAULT)


@app.command()
def bench(
    jobs: Annotated[
        list[str] | None,
        typer.Option("--jobs", metavar="NAME", help="Measure this job alone, e.g. mid. May be repeated."),
    ] = None,
    scale: Annotated[
        float, typer.Option("--scale", metavar="FACTOR", help="Multiply all sizes; below 1, to see that it runs.")
    ] = 1.0,
    threads: Annotated[int, typer.Option("--threads", metavar="N", help="Threads of both sides.")] = 1,
    full: Annotated[
        bool, typer.Option("--full", help="Also 10^6 inputs to 2·10^6 pixels, all cores: over ten minutes, 1.3 GB.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Write the tables there, Markdown and JSON.")
    ] = None,
) -> None:
    """Measure the emulator on this machine, against its bars."""
    from rich.console import Console

    from optical_dfa.cli.bench import run_bench
    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.bench.run import Options

        run_bench(Options(tuple(jobs or ()), scale, threads, full, out), Console(highlight=False))


@app.command(name="measure-matrix")
def measure_matrix(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Name of a device; see optical-dfa devices.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.safetensors", help="File to write; must not exist.")
    ],
    inputs: Annotated[int, typer.Option("--inputs", metavar="N", help="Inputs of the device.")],
    outputs: Annotated[int, typer.Option("--outputs", metavar="M", help="Outputs of the device.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of the device, e.g. seed=3. May be repeated."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", metavar="K", help="Times each probe is shown.")] = 2,
    weight: Annotated[
        int | None,
        typer.Option("--weight", metavar="W", help="Inputs lit by a probe; default: what does not saturate."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE.png", help="Draw the singular values there.")
    ] = None,
) -> None:
    """Measure the matrix of a device, and write it to a file."""
    from rich.console import Console

    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.cli.measure import run_measurement

        console = Console(highlight=False)
        run_measurement(device, out, (inputs, outputs), overrides or [], repeats, weight, figure, console)


@app.command()
def twin(
    source: Annotated[
        str, typer.Argument(metavar="DEVICE|RECORDING", help="Name of a device with a bench, or a file of `record`.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the twin.")],
    inputs: Annotated[int | None, typer.Option("--inputs", metavar="N", help="Inputs of the device.")] = None,
    outputs: Annotated[int | None, typer.Option("--outputs", metavar="M", help="Outputs of the device.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of the device, e.g. preset=lab-bench. Repeatable."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", metavar="K", help="Times each pattern is shown.")] = 8,
    watch: Annotated[
        float, typer.Option("--watch", metavar="SECONDS", help="Watch the medium change for so long afterwards.")
    ] = 0.0,
) -> None:
    """Fit the emulator to the frames of a bench: a preset and a measured matrix that stand in for it."""
    from rich.console import Console

    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.cli.twin import Options, run_twin

        options = Options(source, out, inputs, outputs, overrides or (), repeats, watch)
        run_twin(options, Console(highlight=False))


@app.command()
def estimate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The net, its data and its device.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value, e.g. model.hidden=[4096]. May be repeated."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", help="Threads here; default: training.threads, or all cores."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes, few repetitions: rough figures.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Write tables, JSON and the figure there."),
    ] = None,
) -> None:
    """Compare the modelled optics with this machine: time and energy of a step, and the break-even."""
    from rich.console import Console

    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.cli.estimate import Options, run_estimate
        from optical_dfa.config import load_config

        options = Options(config, overrides or (), out, threads, quick)
        run_config = load_config(config, options.overrides)
        options.check()
        run_estimate(run_config, options, Console(highlight=False))


@app.command()
def audit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The net, its data and its device.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value, e.g. model.hidden=[512,512]. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Write JSON and the diagram there, SVG and PNG."),
    ] = None,
) -> None:
    """Say where the gradient of every parameter comes from, and which weights it passes through."""
    from rich.console import Console

    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.cli.audit import run_audit
        from optical_dfa.config import load_config

        run_audit(load_config(config, overrides or []), out, Console(highlight=False))


@app.command()
def serve(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Name of a device; see optical-dfa devices.")],
    inputs: Annotated[int, typer.Option("--inputs", metavar="N", help="Inputs of the device.")],
    outputs: Annotated[int, typer.Option("--outputs", metavar="M", help="Outputs of the device.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of the device, e.g. seed=3. May be repeated."),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="Preset of the emulator.")] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="ADDRESS", help="Where; beyond this machine only with keys.")
    ] = "tcp://127.0.0.1:5557",
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Secret key of the server; see optical-dfa keys.")
    ] = None,
    clients: Annotated[
        Path | None, typer.Option("--clients", metavar="FOLDER", help="Public keys of those who may use it.")
    ] = None,
    faults: Annotated[
        float | None,
        typer.Option("--faults", metavar="RATE", help="Let this fraction of the requests fail, to rehearse it."),
    ] = None,
) -> None:
    """Serve a device to other processes and machines, as the device `remote`."""
    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.cli.serve import serve_device

        serve_device(device, (inputs, outputs), overrides or [], preset, listen, key, clients, faults)


@app.command()
def keys(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the two files, for instance that of the machine.")],
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where to write them.")] = Path(),
) -> None:
    """Write a pair of keys for a device server or one of its clients."""
    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.cli.serve import write_keys

        write_keys(name, folder)


@app.command(name="server-script")
def server_script() -> None:
    """Print the device server as one file for the host of the hardware, Python 3.8 or newer."""
    from optical_dfa.cli.serve import print_script

    print_script()


@app.command(name="bench-view")
def bench_view(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="Name of a bench preset; see optical-dfa devices.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Write the pictures and bench.json there."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a value, e.g. camera.read_noise_e=20. May be repeated."
        ),
    ] = None,
    inputs: Annotated[int, typer.Option("--inputs", metavar="N", help="Features on the DMD.")] = 64,
    on: Annotated[int, typer.Option("--on", metavar="K", help="Features ON in a pattern.")] = 2,
    outputs: Annotated[
        int | None, typer.Option("--outputs", metavar="M", help="Outputs; default: those of about 130,000 pixels.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed of matrix and noise.")] = 0,
) -> None:
    """Look at an emulated bench: speckle, fields and noise beside their theory, as a table and as pictures."""
    from rich.console import Console

    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.cli.view import preset_overrides, run_view
        from optical_dfa.view import Options

        options = Options(preset, preset_overrides(overrides or ()), inputs, on, outputs, seed)
        run_view(options, out, Console(highlight=False))


_STUDY = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="What is varied; see examples/studies.")]
_FOLDER = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the results; default: runs/STUDY.")
]
_WORKERS = Annotated[
    int | None, typer.Option("--workers", metavar="N", help="Processes, of one thread each; default: the cores.")
]
_STORAGE = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="postgresql://… or sqlite:///…; default: study.db in FOLDER."),
]


@app.command()
def study(
    study: _STUDY,
    out: _FOLDER = None,
    workers: _WORKERS = None,
    storage: _STORAGE = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try runs again that failed too often, once.")
    ] = False,
) -> None:
    """Run a noise study: what is missing of it, on any number of workers and hosts; tables and report."""
    from rich.console import Console

    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.cli.study import Options, run_study_command

        run_study_command(Options(study, out, storage, workers, retry_failed), Console(highlight=False))


@app.command()
def tune(study: _STUDY, out: _FOLDER = None, workers: _WORKERS = None, storage: _STORAGE = None) -> None:
    """Search the settings of each method of a study, and write them to a file that the study includes."""
    from rich.console import Console

    from optical_dfa.cli.errors import clean_errors

    with clean_errors():
        from optical_dfa.cli.study import Options, run_tune_command

        run_tune_command(Options(study, out, storage, workers), Console(highlight=False))


if __name__ == "__main__":
    app()
