"""The compatibility list: ways of training, each against its formula, and the usual implementation failing them."""

from collections.abc import Iterator

import pytest
import torch
from rows import FAILS_WITH_TINY, ROWS, Ours, Tiny, compiled, plain

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch, as it traces


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str) -> None:
    ROWS[name](Ours())


def test_the_usual_implementation_is_dfa() -> None:
    """In a plain step: what fails below fails for what the row adds."""
    plain(Tiny())


@pytest.mark.parametrize(("name", "reason"), FAILS_WITH_TINY.items())
def test_the_usual_implementation_fails(name: str, reason: str) -> None:
    """For the reason that the row is about."""
    with pytest.raises((AssertionError, RuntimeError), match=reason):
        ROWS[name](Tiny())


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_inductor() -> None:
    """Compiles C++: half a minute."""
    compiled(Ours(), backend="inductor")
