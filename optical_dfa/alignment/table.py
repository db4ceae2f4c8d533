"""A measurement as a table of plain text."""

import math
from collections.abc import Iterator, Mapping

from optical_dfa.alignment.report import Alignment, GradientAlignment


def to_text(found: Alignment) -> str:
    """The whole table; layers, not single parameters."""
    lines = [f"Alignment at step {found.step:,}", ""]
    if found.points:
        lines += _table(
            ("feedback point", "cos(δ, δ*)", "optical", "ternary", "exact"),
            {
                **{name: (one.delta, one.optical, one.ternary, one.exact) for name, one in found.points.items()},
                "all": (found.delta, None, None, None),
            },
        )
        lines += [
            "δ as in arXiv 2011.12428; optical, ternary, exact: the signal with dL/dh there. Means over samples.",
            "",
        ]
    gradients: Mapping[str, GradientAlignment] = {**found.layers, "all": found.gradient}
    lines += _table(
        ("gradient of", "cosine", "norm ratio", "equal signs"),
        {name: (one.cosine, one.norm_ratio, one.sign_agreement) for name, one in gradients.items()},
    )
    if found.weights:
        lines += [
            "",
            *_table(("weight", "alignment"), {**{k: (v,) for k, v in found.weights.items()}, "all": (found.weight,)}),
        ]
    if found.projection is not None:
        one = found.projection
        snr = "exact" if math.isinf(one.snr_db) else f"SNR {one.snr_db:.1f} dB"
        lines += [
            "",
            f"projection: cosine {one.optical:.3f} = ternarisation {one.ternary:.3f} and noise {one.noise:.3f} "
            f"({snr}, expected {one.expected_noise:.3f}); {one.dark:.1%} of the errors dark",
        ]
    return "\n".join(lines)


def _table(head: tuple[str, ...], rows: Mapping[str, tuple[float | None, ...]]) -> Iterator[str]:
    width = max(map(len, (head[0], *rows)))
    yield f"{head[0]:<{width}}" + "".join(f"  {name:>11}" for name in head[1:])
    for name, values in rows.items():
        cells = ("–" if value is None or math.isnan(value) else f"{value:.3f}" for value in values)
        yield (f"{name:<{width}}" + "".join(f"  {cell:>11}" for cell in cells)).rstrip()
