"""The environment report, as far as it needs no heavy library."""

import pytest

from qlora_tools.doctor import environment


def test_floors_are_those_that_the_package_states() -> None:
    floors = environment._floors()
    assert floors["torch"] == "2.10"
    assert floors["transformers"] == "5.17"
    assert floors["trl"] == "1.15"


@pytest.mark.parametrize(
    ("older", "newer"), [("2.9.1", "2.10"), ("1.15.0", "1.16.0.dev0"), ("4.8", "5.2.0"), ("2.10.0+cpu", "2.13.0+cpu")]
)
def test_versions_compare_by_number(older: str, newer: str) -> None:
    assert environment._numbers(older) < environment._numbers(newer)


def test_a_library_below_its_floor_fails_with_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "version", lambda name: "4.57.1")
    check = environment._library("transformers")
    assert (check.status, check.found) == ("failed", "4.57.1; at least 5.17 is needed")
    assert check.mend == "pip install --upgrade 'transformers>=5.17'"


def test_an_absent_library_fails_with_the_extra_to_install() -> None:
    check = environment._library("a-library-that-nobody-has")
    assert (check.status, check.mend) == ("failed", "pip install 'qlora-tools[train]'")
