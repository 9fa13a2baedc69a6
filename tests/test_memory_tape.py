"""The tape frees and keeps what PyTorch's engine frees and keeps."""

import pytest

from qlora_tools.memory.block import outlier_share, record_block
from qlora_tools.memory.operations import MicroBatch, Recorder
from qlora_tools.memory.tape import Block, Tape, Tensor
from qlora_tools.models.known import find_model

LLAMA = find_model("llama-3.1-8b-instruct").shape


def batch(**changes: object) -> MicroBatch:
    settings = {"rows": 2, "length": 512, "width": 2, "quantization": "nf4", "nested": True, "rank": 16}
    return MicroBatch(**{**settings, "targets": frozenset(LLAMA.linear_shapes()), **changes})  # type: ignore[arg-type]


def block_of(**changes: object) -> Block:
    return record_block(LLAMA, batch(**changes), sparse=False, entry_width=2)


def test_what_is_saved_lives_from_forward_to_the_backward_of_its_operation() -> None:
    tape, x = Tape(), Tensor(100, 4)
    y = tape.record("first", (x,), Tensor(50, 4), saved=(x,))
    z = tape.record("second", (y,), Tensor(25, 4), saved=(y,))
    block = Block(tape, x, z)
    assert block.saved_bytes == 400 + 200
    # At the second operation's backward both are still saved, its output's gradient and its input's are there.
    assert block.backward_peak.total == max(600 + 100 + 200, 400 + 200 + 400)


def test_an_output_that_nobody_saves_is_free_after_its_last_use() -> None:
    tape, x = Tape(), Tensor(10, 1)
    for size in (1000, 10, 1000):
        x = tape.record("step", (x,), Tensor(size, 1))
    block = Block(tape, Tensor(10, 1), x)
    assert block.saved_bytes == 0
    assert block.forward_peak.total == 1010


def test_a_view_keeps_the_whole_that_it_looks_at() -> None:
    tape, x = Tape(), Tensor(10, 1)
    whole = tape.record("whole", (x,), Tensor(900, 1))
    view = tape.record("view", (whole,), Tensor(300, 1, whole=whole))
    end = tape.record("use", (view,), Tensor(10, 1), saved=(view,))
    assert Block(tape, x, end).saved_bytes == 900


def test_a_sum_hands_its_gradient_on_without_a_copy() -> None:
    tape, x = Tape(), Tensor(100, 1)
    left = tape.record("left", (x,), Tensor(100, 1))
    total = tape.record("add", (x, left), Tensor(100, 1), passes=True)
    # The shared gradient, the new one of the left branch, and their sum, for the shared one may not be written to.
    assert Block(tape, x, total).backward_peak.total <= 300


def test_a_gradient_flows_only_where_something_is_trained_behind_it() -> None:
    frozen = Recorder(batch(targets=frozenset()))
    x = frozen.tensor(64)
    x.needs_grad = False
    assert not frozen.linear(x, "q_proj", (64, 64)).needs_grad
    adapted = Recorder(batch())
    y = adapted.tensor(64)
    y.needs_grad = False
    assert adapted.linear(y, "q_proj", (64, 64)).needs_grad


def test_a_llama_block_saves_the_tensors_that_a_snapshot_of_the_gpu_showed() -> None:
    tokens, hidden, inner = 1024, 4096, 14336
    rank = 16 * sum(sum(shape) for shape in LLAMA.linear_shapes().values()) * 2 + 7 * tokens * 16 * 2
    norms, inputs = 2 * 4 * tokens * hidden, 2 * 2 * tokens * hidden
    attention = 2 * tokens * (4096 + 2 * 1024 + 4096) + 4 * tokens * 32
    assert block_of().saved_bytes == norms + inputs + attention + 4 * 2 * tokens * inner + rank


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"dropout": True}),
        ({}, {"dora": True}),
        ({}, {"attention": "masked"}),
        ({"attention": "masked"}, {"attention": "eager"}),
        ({}, {"quantization": "none"}),
        ({}, {"quantization": "int8"}),
        ({"targets": frozenset({"q_proj"})}, {}),
        ({"rank": 8}, {"rank": 64}),
    ],
)
def test_a_block_saves_more_where_more_is_kept(less: dict[str, object], more: dict[str, object]) -> None:
    assert block_of(**less).saved_bytes < block_of(**more).saved_bytes


def test_checkpointing_reaches_everything_but_what_int8_holds_by_itself() -> None:
    assert block_of().kept_bytes == 0
    assert block_of(quantization="int8").kept_bytes > 2 * 1024 * (4096 * 3 + 14336)


def test_float32_norms_widen_the_stream_of_families_with_layer_norm() -> None:
    shape = find_model("pythia-1.4b").shape
    wide = record_block(shape, batch(targets=frozenset(shape.linear_shapes())), sparse=False, entry_width=2)
    assert (wide.entry.width, wide.exit.width) == (2, 4)
    assert block_of().exit.width == 2


def test_outliers_grow_with_width_and_with_tokens() -> None:
    assert 0 < outlier_share(1024, 100) < outlier_share(2048, 8192) < outlier_share(4096, 8192) <= 1
