"""Benches with values drawn at random, for fits to recover."""

from typing import Any

import numpy as np


def hidden(seed: int) -> dict[str, Any]:
    """Options of a bench drawn from what is plausible."""
    draw = np.random.default_rng(seed)
    bits = int(draw.choice([8, 10, 12]))
    top, well = 2**bits - 1, float(draw.uniform(9e3, 2e4))
    black = float(draw.uniform(0.03, 0.08) * top)
    return {
        "camera": {
            "adc_bits": bits, "gain_dn_per_e": (top - black) / well, "black_level_dn": black, "full_well_e": well,
            "read_noise_e": float(draw.uniform(4, 25)), "dsnu_e": float(draw.uniform(1, 6)),
            "prnu": float(draw.uniform(0, 0.01)),
        },
        "photometry": {
            "signal_e_per_feature": float(draw.uniform(30, 250)), "reference_e": float(draw.uniform(1000, 2500)),
        },
        "dmd": {"contrast": float(np.exp(draw.uniform(np.log(100), np.log(3000))))},
        "medium": {
            "piston_walk_rad": float(draw.uniform(0.05, 0.5)), "vibration_rad": float(draw.uniform(0.003, 0.1)),
            "decorrelation_tau_s": float(np.exp(draw.uniform(np.log(1e3), np.log(1e5)))),
        },
        "laser": {
            "intensity_noise": float(draw.uniform(0.001, 0.01)), "phase_step_error": float(draw.uniform(-0.03, 0.03)),
            "reference_error": float(draw.uniform(-0.05, 0.05)),
        },
    }  # fmt: skip
