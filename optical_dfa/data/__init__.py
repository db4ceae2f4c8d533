"""Image-classification tasks: scikit-learn's digits, and MNIST-like sets in IDX files."""

from optical_dfa.data.task import ImageTask, load_task

__all__ = ["ImageTask", "load_task"]
