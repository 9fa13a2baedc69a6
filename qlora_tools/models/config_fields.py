"""Fields of a config.json that nobody has checked: each is read as what it has to be, or refused in words."""

from collections.abc import Mapping
from typing import Any

from ..errors import ModelError

# Far beyond every model there is; a ledger of more blocks than that would only eat memory.
_MOST_LAYERS, _LARGEST = 10_000, 10**9


def size(values: Mapping[str, Any], *names: str, otherwise: int | None = None) -> int:
    """The first of the fields that is there, a positive whole number; raises `ModelError`."""
    found = next((values[name] for name in names if values.get(name) is not None), otherwise)
    return _whole(found, " or ".join(names))


def layers(values: Mapping[str, Any], *names: str) -> int:
    """A number of blocks."""
    found = size(values, *names)
    if found > _MOST_LAYERS:
        raise _unusable(" or ".join(names), found, f"at most {_MOST_LAYERS:,} layers are believed")
    return found


def optional_size(values: Mapping[str, Any], *names: str) -> int | None:
    """Such a field where there is one. 0 and negative numbers say that there is none; other types are refused."""
    found = next(((name, values[name]) for name in names if values.get(name) is not None), None)
    if found is None or (isinstance(found[1], int) and not isinstance(found[1], bool) and found[1] < 1):
        return None
    return _whole(found[1], found[0])


def entries(values: Mapping[str, Any], name: str) -> list[Any]:
    """A list; empty where there is none."""
    found = values.get(name)
    if found is not None and not isinstance(found, list | tuple):
        raise _unusable(name, found, "a list is needed")
    return list(found or ())


def share(values: Mapping[str, Any], name: str) -> float:
    """A number such as a dropout rate; 0 where there is none."""
    found = values.get(name) or 0
    if not isinstance(found, int | float):
        raise _unusable(name, found, "a number is needed")
    return float(found)


def rotary_share(values: Mapping[str, Any]) -> float:
    """The part of each head that rotary positions turn."""
    settings = values.get("rope_parameters")
    inner = settings if isinstance(settings, Mapping) else {}
    return share(values, "partial_rotary_factor") or share(inner, "partial_rotary_factor") or 1.0


def flag(values: Mapping[str, Any], name: str, *, otherwise: bool) -> bool:
    """True or false."""
    found = values.get(name, otherwise)
    if found is not None and not isinstance(found, bool):
        raise _unusable(name, found, "true or false is needed")
    return bool(found)


def _whole(found: object, name: str) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= _LARGEST:
        raise _unusable(name, found, "a positive whole number is needed")
    return found


def _unusable(name: str, found: object, wanted: str) -> ModelError:
    return ModelError(
        f"config.json has no usable {name} (is {str(found)[:40]!r}); {wanted}."
        if isinstance(found, str)
        else f"config.json has no usable {name} (is {str(found)[:40]}); {wanted}.",
        next_step="Check that this is the config.json of a causal language model.",
    )
