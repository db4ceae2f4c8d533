"""Is a device well? Measured through `project` alone, for any device. No torch."""

from optical_dfa.health.check import Health, Probing, check, health_of
from optical_dfa.health.monitor import HealthSample, Monitor
from optical_dfa.health.verdict import Verdict, verdicts

__all__ = ["Health", "HealthSample", "Monitor", "Probing", "Verdict", "check", "health_of", "verdicts"]
