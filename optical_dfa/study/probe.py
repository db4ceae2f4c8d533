"""How good the feedback of a running net is, on a fixed batch: alignment, and what encoder and optics cost of it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optical_dfa.devices import ProjectionDevice
from optical_dfa.encode import Encoder
from optical_dfa.training.models import encoder_from, hidden_parameters
from optical_dfa.training.run import Run

N_IMAGES = 256
"""Training images of the probe, the first ones."""


@dataclass(frozen=True)
class Probe:
    """The feedback at one moment. Cosines are over all images together; NaN where one side is zero."""

    alignment: float
    """Cosine between the gradient of all hidden weights and the one that backpropagation gives."""
    layer_alignment: tuple[float, ...]
    """The same of each hidden weight matrix, from the bottom."""
    encoding_cosine: float
    """Cosine between the error and what its encoding stands for."""
    feedback_cosine: float
    """Cosine between the field that the device gives and the exact projection of the unencoded error; NaN where the
    device does not know its matrix."""
    snr_db: float
    """Signal-to-noise ratio of the projection of the encoded errors, decibels, against the device's effective matrix,
    for a medium that decorrelates the one at time 0; inf: exact; NaN: matrix not known."""
    saturated: float
    """Fraction of the pixel readings of this probe at saturation."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def probe(run: Run) -> Probe:
    """Probe a run that has feedback. Changes nothing: gradients are dropped, the device goes back to where it was."""
    assert run.feedback is not None
    before, grads = run.feedback.state_dict(), [parameter.grad for parameter in run.net.parameters()]
    device = run.feedback.device
    saturated, readings = device.usage.saturated_pixels, device.usage.pixel_readings
    optical = _gradients(run)
    with run.feedback.paused():
        exact = _gradients(run)
    saturated, readings = device.usage.saturated_pixels - saturated, device.usage.pixel_readings - readings
    run.feedback.load_state_dict(before)
    encoding, feedback, snr_db = _projection(device, encoder_from(run.config.feedback.ternarize), _errors(run))
    run.feedback.load_state_dict(before)
    for parameter, grad in zip(run.net.parameters(), grads, strict=True):
        parameter.grad = grad
    return Probe(
        alignment=_cosine(torch.cat(optical), torch.cat(exact)),
        layer_alignment=tuple(_cosine(*pair) for pair in zip(optical, exact, strict=True)),
        encoding_cosine=encoding,
        feedback_cosine=feedback,
        snr_db=snr_db,
        saturated=saturated / readings if readings else 0.0,
    )


def _batch(run: Run) -> tuple[Tensor, Tensor]:
    return run.task.train_images[:N_IMAGES], run.task.train_labels[:N_IMAGES]


def _gradients(run: Run) -> list[Tensor]:
    """Gradients of the hidden weight matrices, each as a vector, float64."""
    run.net.zero_grad()
    images, labels = _batch(run)
    nn.functional.cross_entropy(run.net(images), labels).backward()  # type: ignore[no-untyped-call]
    weights = [parameter.grad for parameter in hidden_parameters(run.net) if parameter.ndim == 2]
    return [grad.double().flatten() for grad in weights if grad is not None]


def _errors(run: Run) -> Tensor:
    """dL/d(output) of the batch, float32 (images, classes)."""
    images, labels = _batch(run)
    assert run.feedback is not None
    with torch.no_grad():
        output = run.net(images)
    error = torch.softmax(output, 1)
    error[torch.arange(len(labels)), labels] -= 1
    return error / len(labels)


def _projection(device: ProjectionDevice, encoder: Encoder | None, error: Tensor) -> tuple[float, float, float]:
    """Cosine of the encoding, cosine of the field with the exact one, and SNR in decibels."""
    matrix = device.effective_matrix()
    if encoder is None:
        encoded, field = error, torch.from_numpy(device.project(error.numpy()))
    else:
        planes = encoder(error)
        encoded = planes.combine(planes.vectors.float())
        field = planes.combine(torch.from_numpy(device.project(planes.vectors.numpy())))
    encoding = _cosine(encoded, error)
    if matrix is None:
        return encoding, math.nan, math.nan
    transposed = torch.from_numpy(matrix).double().T
    shown, field = encoded.double() @ transposed, field.double()
    signal = float(shown.square().sum())
    if device.info.exact:
        snr_db = math.inf
    else:
        noise = float((field - shown).square().sum())
        snr_db = 10 * math.log10(signal / noise) if signal and noise else math.nan
    return encoding, _cosine(field, error.double() @ transposed), snr_db


def _cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double().flatten(), b.double().flatten()
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms else math.nan
