"""Where the results of a study are kept: an Optuna storage, SQLite or PostgreSQL."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from optical_dfa.run_errors import InputError, MissingExtra

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

HEARTBEAT_S = 10
"""Seconds from heartbeat to heartbeat of a running cell."""

GRACE_S = 60
"""Seconds without one after which its cell is taken over. Workers that died on this host are found out at once."""

STORAGE_VARIABLE = "OPTICAL_DFA_STORAGE"
"""Environment variable with the URL of the storage: a password is then on no command line."""


def sqlite_url(folder: Path) -> str:
    """URL of the storage in a folder."""
    return f"sqlite:///{(folder / 'study.db').absolute()}"


def open_storage(url: str, heartbeat_s: int = HEARTBEAT_S, grace_s: int = GRACE_S) -> "RDBStorage":
    """The storage at that URL, its tables made if need be.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`.
        heartbeat_s: see `HEARTBEAT_S`.
        grace_s: see `GRACE_S`.

    Raises:
        MissingExtra: Optuna, or the driver of the database, is not installed.
        InputError: another kind of database, or one that does not answer.
    """
    require_extra()
    import optuna
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, OperationalError
    from sqlalchemy.pool import NullPool

    from optical_dfa.study.lock import lock_of

    kind, _, rest = url.partition("://")
    if kind == "postgres":
        kind = "postgresql"
    if kind not in ("sqlite", "postgresql", "postgresql+psycopg"):
        raise InputError(f"the storage must be sqlite:///PATH or postgresql://USER@HOST/DATABASE; got {kind}://…")
    if kind != "sqlite":
        if find_spec("psycopg") is None:
            raise MissingExtra("a PostgreSQL storage needs psycopg: pip install 'optical_dfa[postgresql]'")
        kind = "postgresql+psycopg"
    options = {"connect_args": {"timeout": 120}, "poolclass": NullPool} if kind == "sqlite" else {"pool_pre_ping": True}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats are, to Optuna
        try:
            with lock_of(make_url(f"{kind}://{rest}"), "tables")():  # two that make them at once fail
                return optuna.storages.RDBStorage(
                    f"{kind}://{rest}", engine_kwargs=options, heartbeat_interval=heartbeat_s, grace_period=grace_s
                )
        except (OperationalError, ArgumentError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise InputError(f"the storage {redacted(url)} cannot be used: {reason}") from None


def redacted(url: str) -> str:
    """The URL without its password."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "given"


def require_extra() -> None:
    """Raise `MissingExtra` unless all that studies need is installed."""
    missing = [name for name in ("optuna", "pandas", "pyarrow", "scipy", "matplotlib") if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"studies need {', '.join(missing)}: pip install 'optical_dfa[study,plot]'")
