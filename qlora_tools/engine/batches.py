"""The training set as the trainer reads it: rows or bins in their final order, with the collator that suits them."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset

from ..config.schema import TrainingConfig
from ..data.collate import FlatCollator, PaddedCollator
from ..data.order import steps_for, training_order
from ..data.packing import pack
from ..data.rows import TokenRow, TokenRows
from ..errors import ConfigError, ConfigProblem

Layout = Literal["bins", "padding_free", "off"]


@dataclass(frozen=True)
class TrainingSet:
    """Rows or bins in the order of training with their lengths in tokens, and how many optimiser steps they make.

    `fingerprint` is a hash of what an epoch holds: a resumed run must find the same.
    """

    dataset: Any
    collator: PaddedCollator | FlatCollator
    steps: int
    layout: Layout
    items_per_epoch: int
    lengths: Sequence[int]
    fingerprint: str = ""

    def rows_from(self, first: int) -> Any:
        """The dataset without its first `first` items."""
        return self.dataset.select(range(first, len(self.dataset))) if first else self.dataset


def choose_layout(model: Any, training: TrainingConfig, rows: TokenRows) -> Layout:
    """Settle `training.packing`; raises `ConfigError` when asked for rows side by side and attention would mix them."""
    if training.packing == "auto":
        return "padding_free" if model.config._attn_implementation == "flash_attention_2" else "off"
    if training.packing != "off" and not keeps_rows_apart(model, rows.rows):
        message = (
            f"is {training.packing}, but the attention of this model ({model.config._attn_implementation}) does not keep "
            "rows apart; use off"
        )
        raise ConfigError([ConfigProblem("training.packing", message)], source="for this model")
    return training.packing


def keeps_rows_apart(model: Any, rows: tuple[TokenRow, ...]) -> bool:
    """Whether a row gets the same logits alone and behind another one: measured, since families differ."""
    first, second = (rows[0].input_ids[:16], rows[-1].input_ids[:16])
    joined = FlatCollator()([{"input_ids": ids, "labels": ids} for ids in (second, first)])
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([first], device=model.device), use_cache=False).logits
        both = model(
            input_ids=joined["input_ids"].to(model.device),
            position_ids=joined["position_ids"].to(model.device),
            use_cache=False,
        ).logits
    difference = (both[:, len(second) :] - alone).float().abs().max()
    # bf16 logits of different shapes differ by rounding; a row that sees another one differs by its whole scale.
    return bool(difference <= 0.05 * alone.float().abs().max())


def build_training_set(rows: TokenRows, training: TrainingConfig, layout: Layout, pad_token_id: int) -> TrainingSet:
    """Lay the rows out, order them and count the steps."""
    epoch = rows.of_an_epoch()
    items = _bins(epoch, training.max_length_tokens) if layout == "bins" else [_item(row) for row in epoch]
    per_step = training.micro_batch_size * training.gradient_accumulation_steps
    steps = training.max_steps or steps_for(len(items), epochs=training.epochs, rows_per_step=per_step)
    lengths = [len(item["input_ids"]) for item in items]
    order = training_order(
        lengths,
        needed=steps * per_step,
        micro_batch_size=training.micro_batch_size,
        seed=training.seed,
    )
    collator = PaddedCollator(pad_token_id) if layout == "off" else FlatCollator()
    return TrainingSet(
        Dataset.from_list(items).select(order),
        collator,
        steps,
        layout,
        len(items),
        [lengths[place] for place in order],
        _fingerprint(items),
    )


def build_evaluation_set(rows: TokenRows) -> Any:
    """Held-out rows in file order."""
    return Dataset.from_list([_item(row) for row in rows.rows])


def _item(row: TokenRow) -> dict[str, list[int]]:
    return {"input_ids": row.input_ids, "labels": row.labels, "rows": [row.number]}


def _fingerprint(items: list[dict[str, list[int]]]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(array("q", item["input_ids"]).tobytes() + array("q", item["labels"]).tobytes())
    return digest.hexdigest()


def _bins(rows: list[TokenRow], capacity: int) -> list[dict[str, list[int]]]:
    lengths = [len(row.input_ids) for row in rows]
    return [
        {
            "input_ids": [token for index in members for token in rows[index].input_ids],
            "labels": [label for index in members for label in rows[index].labels],
            "lengths": [lengths[index] for index in members],
            "rows": [rows[index].number for index in members],
        }
        for members in pack(lengths, capacity)
    ]
