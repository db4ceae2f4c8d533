"""The command `optical-dfa`."""

from optical_dfa.cli.main import app

__all__ = ["app"]
