"""Trains a configured run, with checkpoints, exact resume and a log of everything that decides it."""

from optical_dfa.training.log import EpochMetrics, Result
from optical_dfa.training.trainer import train

__all__ = ["EpochMetrics", "Result", "train"]
