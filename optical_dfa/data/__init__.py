"""What is learnt: images of digits, MNIST-like sets and CIFAR-10, and the nodes of the citation graph Cora."""

from optical_dfa.data.task import ImageTask, NodeTask, load_task

__all__ = ["ImageTask", "NodeTask", "load_task"]
