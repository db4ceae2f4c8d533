"""The commands `optical-dfa serve`, `keys` and `server-script`."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from optical_dfa.cli.overrides import options_from
from optical_dfa.devices import DeviceUnavailable, make_device
from optical_dfa.devices.served_errors import from_served
from optical_dfa.devices.server import opu_server
from optical_dfa.run_errors import ConfigError, InputError

EXTRA = "needs the extra `remote`: pip install 'optical_dfa[remote]'"


def serve_device(
    name: str,
    sizes: tuple[int, int],
    overrides: Sequence[str],
    preset: str | None,
    address: str,
    key: Path | None,
    clients: Path | None,
    faults: float | None,
) -> None:
    """Serve a device until SIGTERM or Ctrl-C.

    Raises:
        InputError, DeviceError: see `make_device` and `Server`.
    """
    _require_extra("serve")
    from optical_dfa.devices.fault_injection import FaultPlan, FaultyServer
    from optical_dfa.devices.serving import ServedDevice

    options = options_from(overrides)
    if fixed := options.keys() & {"n_inputs", "n_outputs"}:
        raise ConfigError(f"--set {min(fixed)}: give the sizes as --inputs and --outputs")
    if preset is not None:
        options["preset"] = preset
    served = ServedDevice(make_device(name, n_inputs=sizes[0], n_outputs=sizes[1], **options))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    secret, folder = (None if path is None else str(path) for path in (key, clients))
    try:
        if faults is None:
            server = opu_server.Server(served, address, secret, folder)
        else:
            server = FaultyServer(served, address, FaultPlan(faults), key=secret, clients=folder)
        opu_server.run_until_signal(server)
    except opu_server.ServedError as error:
        if error.kind == "invalid":
            raise ConfigError(str(error)) from error
        raise from_served(error.kind, str(error)) from error
    except ValueError as error:
        raise ConfigError(f"--faults: {error}") from error


def write_keys(name: str, folder: Path) -> None:
    """Write a pair of keys, and print where.

    Raises:
        InputError: one of the files exists, or cannot be written.
    """
    _require_extra("keys")
    try:
        secret, public = opu_server.write_keys(str(folder), name)
    except opu_server.ServedError as error:
        raise InputError(str(error)) from None
    typer.echo(f"{secret}: stays with its owner\n{public}: give it to the other side")


def print_script() -> None:
    """Print the server's one file."""
    typer.echo(Path(opu_server.__file__).read_text("utf-8"), nl=False)


def _require_extra(command: str) -> None:
    if not opu_server.HAS_NETWORK:
        raise DeviceUnavailable(f"`optical-dfa {command}` {EXTRA}")
