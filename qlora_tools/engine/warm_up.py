"""A throw-away forward and backward pass on the longest rows: memory that is short shows before the first step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .random_state import RandomState
from .training_state import LoopState, put_loop


def try_training(trainer: Any, loop: LoopState, lengths: Sequence[int]) -> None:
    """Compute the largest micro-batch of training, forward and backward, and forget it.

    `lengths` are the tokens of the trainer's rows, in their order. Losses, counts, gradients and random states are
    afterwards as they were. What is too large raises `torch.cuda.OutOfMemoryError` here.
    """
    with _forgotten(trainer, loop):
        batch = _largest(trainer.train_dataset, trainer, lengths, trainer.args.per_device_train_batch_size)
        learnt = (batch["labels"] >= 0).sum().clamp(min=1).to(trainer.args.device)
        trainer.training_step(trainer.model_wrapped, batch, learnt)
        trainer.model_wrapped.zero_grad(set_to_none=True)


def try_evaluation(trainer: Any, loop: LoopState, lengths: Sequence[int]) -> None:
    """As `try_training`, for the largest micro-batch of an evaluation; nothing where `lengths` is empty."""
    if not lengths:
        return
    with _forgotten(trainer, loop):
        batch = _largest(trainer.eval_dataset, trainer, lengths, trainer.args.per_device_eval_batch_size)
        trainer.model_wrapped.eval()
        trainer.prediction_step(trainer.model_wrapped, batch, prediction_loss_only=True)
        trainer.model_wrapped.train()


@contextmanager
def _forgotten(trainer: Any, loop: LoopState) -> Iterator[None]:
    random = RandomState.take()
    yield
    trainer._metrics["eval"].clear()
    put_loop(trainer, loop)
    random.put()


def _largest(rows: Any, trainer: Any, lengths: Sequence[int], size: int) -> dict[str, Any]:
    """The micro-batch that takes the most memory: padded to its longest row, or joined, both grow with this product."""
    starts = range(0, len(lengths), size)
    start = max(starts, key=lambda first: max(lengths[first : first + size]) * len(lengths[first : first + size]))
    batch: dict[str, Any] = trainer.data_collator(
        [rows[place] for place in range(start, min(start + size, len(lengths)))]
    )
    return batch
