"""The rungs that can be climbed for a case: their levels, and where the field's usual order differs from ours."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..data.lengths import rounded_up
from .goals import Case, with_rank
from .ladder import Level, RungKind

_NOTHING = "none: the result stays the same"
_PERCENTILES = (99, 95, 90)
_LOWEST_RANK = 4


def rung_kinds(case: Case, start: Mapping[str, Any]) -> tuple[RungKind, ...]:
    """Rungs 1 to 6 as far as `start` leaves room for them, in the order of what they cost the result."""
    kinds = (
        _micro_batch(case, start),
        _checkpointing(case, start),
        _optimizer(case, start),
        _quantization(case, start),
        _length(case, start),
        _adapter(case, start),
    )
    return tuple(kind for kind in kinds if kind.levels)


def _asked(case: Case, *fields: str) -> tuple[str, ...]:
    return tuple(field for field in fields if field in case.asked)


def _micro_batch(case: Case, start: Mapping[str, Any]) -> RungKind:
    size = start["training.micro_batch_size"]
    rows = size * start["training.gradient_accumulation_steps"]
    sizes = [smaller for smaller in range(size - 1, 0, -1) if rows % smaller == 0]
    return RungKind(
        key="micro_batch",
        name="smaller micro-batches, more of them a step",
        levels=tuple(
            Level(
                {"training.micro_batch_size": smaller, "training.gradient_accumulation_steps": rows // smaller},
                f"none: {rows} rows a step as before",
            )
            for smaller in sizes
        ),
        order="The field begins here too, but often leaves accumulation as it is, which changes the effective batch.",
        asked=_asked(case, "training.micro_batch_size", "training.gradient_accumulation_steps"),
    )


def _checkpointing(case: Case, start: Mapping[str, Any]) -> RungKind:
    off = not start["training.gradient_checkpointing"]
    return RungKind(
        key="checkpointing",
        name="gradient checkpointing",
        levels=(Level({"training.gradient_checkpointing": True}, _NOTHING),) if off else (),
        order="The field switches it on at once; here only where it is needed, since recomputing takes time.",
        asked=_asked(case, "training.gradient_checkpointing"),
    )


def _optimizer(case: Case, start: Mapping[str, Any]) -> RungKind:
    """State that is paged already needs no other setting: it is counted as freed."""
    paged = str(start["training.optimizer"]).startswith("paged")
    settings = {} if paged else {"training.optimizer": "paged_adamw_8bit"}
    quality = "next to none: 8-bit state matches 32-bit state in the paper; it moves to the host when the GPU is full"
    level = Level(settings, _NOTHING if paged else quality, pages=True)
    return RungKind(
        key="optimizer",
        name="8-bit optimiser state that may leave the GPU",
        # Without a GPU there is nothing for the state to leave.
        levels=(level,) if case.hardware.kind == "cuda" else (),
        order="The field names paging as the rescue from running out of memory; the state of an adapter is small.",
        asked=() if paged else _asked(case, "training.optimizer"),
    )


def _quantization(case: Case, start: Mapping[str, Any]) -> RungKind:
    nested = start.get("quantization.double_quantization", True)
    four_bit = start["quantization.kind"] in ("nf4", "fp4")
    level = Level(
        {"quantization.kind": "nf4", "quantization.double_quantization": True},
        "next to none: NF4 with double quantisation matched 16-bit LoRA in the QLoRA paper (MMLU 53.1 against 53.0)",
    )
    return RungKind(
        key="quantization",
        name="NF4 with double quantisation",
        levels=() if four_bit and nested else (level,),
        order="The field quantises first; a plan does so from the start, unless more bits were asked for.",
        asked=_asked(case, "quantization.kind", "quantization.double_quantization"),
    )


def _length(case: Case, start: Mapping[str, Any]) -> RungKind:
    return RungKind(
        key="length",
        name="shorter rows",
        levels=tuple(_shorter(case, start["training.max_length_tokens"])),
        order="The field cuts length early, which cuts the ends off answers; here after all that costs the result nothing.",
        asked=_asked(case, "training.max_length_tokens"),
    )


def _shorter(case: Case, length: int) -> Iterator[Level]:
    lengths = case.lengths
    for tokens in (lengths.longest, *(lengths.percentile(percent) for percent in _PERCENTILES)):
        shorter = rounded_up(tokens)
        if shorter < length:
            length = shorter
            over = lengths.share_over(shorter)
            lost = f"{over:.1%} of the rows are cut ({lengths.rows_over(shorter):,} of {lengths.rows:,})"
            yield Level({"training.max_length_tokens": shorter}, lost if over else "none: no row is longer")


def _adapter(case: Case, start: Mapping[str, Any]) -> RungKind:
    rank, everywhere = int(start["lora.rank"]), start["lora.target_modules"] == "all-linear"
    smaller = with_rank(case, rank // 2) if rank // 2 >= _LOWEST_RANK else {}
    narrower = {"lora.target_modules": "attention"} if everywhere else {}
    free = {
        "lora.rank": smaller if not _asked(case, "lora.rank") else {},
        "lora.target_modules": narrower if not _asked(case, "lora.target_modules") else {},
    }
    ranks = "little: rank was found to matter little with all linear layers adapted (QLoRA paper)"
    targets = "some: adapting every linear layer was needed to match full fine-tuning (QLoRA paper)"
    offered = any(free.values())
    smaller, narrower = (free["lora.rank"], free["lora.target_modules"]) if offered else (smaller, narrower)
    levels = [Level(smaller, ranks)] if smaller else []
    levels += [Level(narrower, targets)] if narrower else []
    levels += [Level({**smaller, **narrower}, targets)] if smaller and narrower else []
    return RungKind(
        key="adapter",
        name="a smaller adapter: half the rank, or attention only",
        levels=tuple(levels),
        order="The field lowers the rank first, although it saves almost nothing: 10 bytes a trainable parameter.",
        asked=() if offered else _asked(case, "lora.rank", "lora.target_modules"),
    )
