"""What a package calls public is what it offers."""

from types import ModuleType

import pytest

import optical_dfa
import optical_dfa.devices
import optical_dfa.emulator


@pytest.mark.parametrize("package", [optical_dfa.devices, optical_dfa.emulator], ids=lambda package: package.__name__)
def test_all_is_the_public_namespace(package: ModuleType) -> None:
    public = {
        name for name, value in vars(package).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert sorted(public ^ set(package.__all__)) == []
    assert len(package.__all__) == len(set(package.__all__))


def test_lazy_names_resolve_and_are_listed() -> None:
    assert sorted(optical_dfa.__all__) == dir(optical_dfa)
    for name in optical_dfa.__all__:
        # The public names lead somewhere in this package, not to something that a module merely imported.
        value = getattr(optical_dfa, name)
        assert name == "__version__" or value.__module__.startswith("optical_dfa."), name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        optical_dfa.no_such_name  # noqa: B018
