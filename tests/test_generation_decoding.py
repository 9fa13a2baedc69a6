"""The loop that answers many rows: the same answers as one by one, whatever the batch, and drawn as the settings say."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_tools.errors import MachineError, UsageError
from qlora_tools.generation.batch import Row
from qlora_tools.generation.decoding import Decoder, Room
from qlora_tools.generation.drawing import next_tokens
from qlora_tools.generation.sampling import Sampling
from qlora_tools.generation.stopping import AnsweringStopped
from qlora_tools.models.hardware import Hardware

Models = Callable[[str], Path]
CPU = Hardware("cpu", "CPU", 0, 0, computes_bfloat16=False)
MOST = 24


def model_of(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def length_of(number: int) -> int:
    return 2 + (5 * number) % (MOST - 1)


def decoder(model: Any, sampling: Sampling, **more: Any) -> Decoder:
    """Each answer ends at a length of its own, so that rows leave at different times."""

    def ends(row: Row) -> bool:
        return len(row.answer) >= min(length_of(row.number), sampling.max_new_tokens)

    return Decoder(model, CPU, sampling, 0, ends, more.pop("told", lambda row: None), **more)


def rows_of(count: int, sampling: Sampling) -> list[Row]:
    lengths = [1 + (7 * number) % 45 for number in range(count)]
    return [
        Row(number, [5 + (number * 31 + place * 17) % 480 for place in range(length)], sampling.source(number))
        for number, length in enumerate(lengths)
    ]


def answers(model: Any, sampling: Sampling, room: Room, count: int = 14) -> list[list[int]]:
    rows, one = rows_of(count, sampling), decoder(model, sampling)
    one._room = room
    one.run(rows)
    return [row.answer for row in rows]


# Plain attention, and windows that prompts outgrow in some blocks.
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_rows_that_come_and_go_answer_as_each_does_alone_in_transformers(family: str, tiny_model: Models) -> None:
    model, sampling = model_of(tiny_model(family)), Sampling(max_new_tokens=MOST)
    model.generation_config.eos_token_id = None
    alone = []
    for row in rows_of(14, sampling):
        ids = torch.tensor([row.prompt])
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=length_of(row.number),
            do_sample=False,
        )
        alone.append(output[0, len(row.prompt) :].tolist())
    assert len({len(answer) for answer in alone}) > 8
    assert len({tuple(answer) for answer in alone}) > 8
    assert answers(model, sampling, Room(rows=5, tokens=10_000, prefill=60)) == alone
    assert answers(model, sampling, Room(rows=64, tokens=10_000, prefill=10_000)) == alone


def test_sampled_answers_depend_on_seed_and_number_and_not_on_the_batch(tiny_model: Models) -> None:
    model = model_of(tiny_model("llama"))
    sampling = Sampling(max_new_tokens=8, temperature=1.5, top_p=0.95, repetition_penalty=1.2, seed=3)
    small, large = Room(3, 10_000, 50), Room(64, 10_000, 10_000)
    together = answers(model, sampling, large, 8)
    assert answers(model, sampling, small, 8) == together
    assert answers(model, Sampling(**{**sampling.options(), "seed": 4}), large, 8) != together
    # The same prompt at another number is drawn anew.
    twins = [Row(number, [7, 8, 9], sampling.source(number)) for number in range(2)]
    decoder(model, sampling).run(twins)
    assert twins[0].answer != twins[1].answer


def test_memory_that_runs_out_makes_smaller_batches_with_the_same_answers(
    tiny_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sampling = model_of(tiny_model("llama")), Sampling(max_new_tokens=MOST, temperature=1.0)
    expected = answers(model, sampling, Room(64, 10_000, 10_000), 8)
    forward, most = model.forward, [3]

    def small(past_key_values: Any = None, **arguments: Any) -> Any:
        if len(arguments["input_ids"]) > most[0]:
            raise torch.cuda.OutOfMemoryError("no room")
        return forward(past_key_values=past_key_values, **arguments)

    rows, one = rows_of(8, sampling), decoder(model, sampling)
    monkeypatch.setattr(model, "forward", small)
    one.run(rows)
    assert [row.answer for row in rows] == expected
    most[0] = 0
    with pytest.raises(MachineError, match="answering one prompt of"):
        decoder(model, sampling).run(rows_of(2, sampling))


def test_a_stop_is_heard_between_tokens(tiny_model: Models) -> None:
    model, sampling = model_of(tiny_model("llama")), Sampling(max_new_tokens=MOST)
    heard: list[int] = []
    one = decoder(model, sampling, told=lambda row: heard.append(row.number), stop=lambda: len(heard) > 8)
    with pytest.raises(AnsweringStopped, match="of 6 prompts were answered"):
        one.run(rows_of(6, sampling))
    assert len(heard) <= 14


def drawn(scores: list[float], sampling: Sampling, draws: int = 4000) -> list[float]:
    """The share of each token among many draws."""
    source = random.Random(0)
    rows = torch.tensor([scores]).repeat(draws, 1)
    tokens = next_tokens(rows, sampling, [source.random() for _ in range(draws)], None)
    return [round(float((tokens == token).float().mean()), 2) for token in range(len(scores))]


def test_tokens_are_drawn_by_their_shares_within_top_k_and_top_p() -> None:
    scores = torch.tensor([0.1, 0.5, 0.25, 0.15]).log().tolist()
    assert drawn(scores, Sampling(temperature=1.0)) == pytest.approx([0.1, 0.5, 0.25, 0.15], abs=0.03)
    assert drawn(scores, Sampling(temperature=1.0, top_k=2)) == pytest.approx([0, 0.67, 0.33, 0], abs=0.03)
    # The token that reaches 0.7 stays, the ones after it go.
    assert drawn(scores, Sampling(temperature=1.0, top_p=0.7)) == pytest.approx([0, 0.67, 0.33, 0], abs=0.03)
    assert drawn(scores, Sampling(temperature=1.0, top_p=1e-6)) == [0, 1, 0, 0]
    assert drawn(scores, Sampling(temperature=0.01)) == [0, 1, 0, 0]


def test_the_ends_of_the_unit_interval_draw_tokens_that_can_be_drawn() -> None:
    scores = torch.tensor([[-1e9, 0.0, -1e9], [-1e9, 0.0, -1e9]])
    for sampling in (Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.5)):
        assert next_tokens(scores, sampling, [0.0, 1 - 2**-53], None).tolist() == [1, 1]


def test_a_repetition_penalty_is_that_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    scores, ids = (
        torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 4,
        torch.tensor([[1, 2], [3, 3], [9, 40]]),
    )
    seen = torch.zeros(3, 50, dtype=torch.bool).scatter_(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(3.0)(ids, scores).argmax(-1)
    assert torch.equal(next_tokens(scores, Sampling(repetition_penalty=3.0), [], seen), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_p": 0.0},
        {"top_p": float("nan")},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
        {"max_new_tokens": 0},
        {"stop_strings": ("",)},
        {"stop_strings": ("x",) * 17},
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", ".")):
        Sampling(**wrong)
