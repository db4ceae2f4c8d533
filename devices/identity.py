"""What tells one emulated matrix from another."""

from optical_dfa.emulator import matrix


def emulated_matrix_identity(seed: int) -> dict[str, int | str]:
    """Identity of the procedural matrix of `seed`: the part of a fingerprint that is not geometry."""
    return {"kind": "procedural", "version": matrix.VERSION, "seed": seed}
