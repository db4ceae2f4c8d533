"""One form for every refused number: what was given, what is accepted."""


def require(accepted: bool, name: str, given: object, expected: str) -> None:
    """Raise `ValueError` unless `accepted`."""
    if not accepted:
        raise ValueError(f"{name} must be {expected}; got {given!r}")
