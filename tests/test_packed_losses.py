"""Rows side by side are learnt as if each were alone: in fp32, for every family."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qlora_tools.data.rows import IGNORED, TokenRow, TokenRows

from .families import FAMILIES, VOCABULARY

Models = Callable[[str], Path]
LENGTHS = (7, 45, 2, 90, 19, 33, 1, 60)
CAPACITY = 128


@pytest.fixture(scope="module")
def rows() -> TokenRows:
    import torch

    torch.manual_seed(0)
    made = []
    for number, length in enumerate(LENGTHS, start=1):
        ids = torch.randint(8, VOCABULARY, (length,)).tolist()
        # Of every other row the first token is learnt too, as with data.loss_on: all.
        unlearnt = 0 if number % 2 else length // 3
        made.append(TokenRow(ids, [IGNORED] * unlearnt + ids[unlearnt:], number))
    return TokenRows(tuple(made), len(made), 0, 0, 0, (0,))


def item(row: TokenRow) -> dict[str, list[int]]:
    return {"input_ids": row.input_ids, "labels": row.labels}


def token_losses(model: Any, batch: dict[str, Any]) -> Any:
    """Loss of every learnt token `[tokens]`, 0 where nothing is learnt, at the place of the token that is predicted."""
    import torch
    from torch.nn.functional import cross_entropy

    labels = batch["labels"][0]
    with torch.no_grad():
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits[0]
    losses = cross_entropy(logits[:-1].float(), labels[1:], ignore_index=IGNORED, reduction="none")
    return torch.cat([torch.zeros(1), losses])


def mean_loss(losses: Any, labels: Any) -> float:
    learnt = (labels != IGNORED).sum().item()
    return float(losses.sum() / learnt) if learnt else 0.0


@pytest.mark.parametrize("layout", ["padding_free", "bins"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_have_the_losses_that_they_have_alone(
    family: str, layout: Any, tiny_model: Models, rows: TokenRows
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from qlora_tools.config.schema import TrainingConfig
    from qlora_tools.data.collate import FlatCollator, PaddedCollator
    from qlora_tools.engine.batches import build_training_set, keeps_rows_apart

    # As `auto` does: sdpa leaves out the capped scores of Gemma-2.
    attention = "eager" if family == "gemma2" else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model(family), dtype=torch.float32, attn_implementation=attention
    ).eval()
    assert keeps_rows_apart(model, rows.rows)
    alone = {}
    for row in rows.rows:
        batch = PaddedCollator(0)([item(row)])
        batch["labels"][:, 0] = IGNORED
        alone[tuple(row.input_ids)] = mean_loss(token_losses(model, batch), batch["labels"])
    training = TrainingConfig(
        epochs=1, micro_batch_size=2, gradient_accumulation_steps=1, max_length_tokens=CAPACITY, packing=layout
    )
    packed = build_training_set(rows, training, layout, pad_token_id=0)
    assert isinstance(packed.collator, FlatCollator)
    seen = {}
    for start in range(0, len(packed.dataset), 2):
        batch = packed.collator([packed.dataset[i] for i in range(start, min(start + 2, len(packed.dataset)))])
        losses, positions = token_losses(model, batch), batch["position_ids"][0]
        borders = [*(positions == 0).nonzero().flatten().tolist(), len(positions)]
        assert batch["labels"][0][positions == 0].tolist() == [IGNORED] * (len(borders) - 1)
        for left, right in pairwise(borders):
            assert positions[left:right].tolist() == list(range(right - left))
            ids = tuple(batch["input_ids"][0, left:right].tolist())
            seen[ids] = mean_loss(losses[left:right], batch["labels"][0, left:right])
    assert seen == pytest.approx(alone, abs=1e-5)
    assert len(seen) == len(LENGTHS)


def test_bins_hold_every_row_whole_and_their_lengths(rows: TokenRows) -> None:
    from qlora_tools.config.schema import TrainingConfig
    from qlora_tools.engine.batches import build_training_set

    training = TrainingConfig(
        epochs=1, micro_batch_size=1, gradient_accumulation_steps=1, max_length_tokens=CAPACITY, packing="bins"
    )
    packed = build_training_set(rows, training, "bins", pad_token_id=0)
    found = []
    for bin_ in packed.dataset:
        assert sum(bin_["lengths"]) == len(bin_["input_ids"]) == len(bin_["labels"]) <= CAPACITY
        place = 0
        for length in bin_["lengths"]:
            found.append((bin_["input_ids"][place : place + length], bin_["labels"][place : place + length]))
            place += length
    assert sorted(found) == sorted((row.input_ids, row.labels) for row in rows.rows)


def test_the_flat_collator_never_predicts_the_first_token_of_a_row_from_the_row_before() -> None:
    from qlora_tools.data.collate import FlatCollator

    first, second = {"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8], "labels": [8]}
    batch = FlatCollator()([first, second])
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0]]
    joined = {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8], "lengths": [3, 1]}
    assert {name: value.tolist() for name, value in FlatCollator()([joined]).items()} == {
        name: value.tolist() for name, value in batch.items()
    }
