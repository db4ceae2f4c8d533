"""One form for every refused number: what was given, what is accepted."""


class ParameterError(ValueError):
    """A parameter is not what it must be.

    Attributes:
        name: of the parameter.
    """

    def __init__(self, name: str, expected: str, given: str) -> None:
        super().__init__(f"{name} must be {expected}; got {given}")
        self.name = name


def require(accepted: bool, name: str, given: object, expected: str) -> None:
    """Raise `ParameterError` unless `accepted`."""
    if not accepted:
        whole = isinstance(given, int) and not isinstance(given, bool)
        raise ParameterError(name, expected, f"{given:,}" if whole else repr(given))
