"""A throw-away forward and backward pass on the longest rows: memory that is short shows before the first step."""

from collections.abc import Sequence
from typing import Any

from .random_state import RandomState
from .training_state import LoopState, put_loop


def warm_up(trainer: Any, loop: LoopState, lengths: Sequence[int], evaluation_lengths: Sequence[int]) -> None:
    """Compute the largest micro-batches for training and for evaluation, and forget them.

    `lengths` are the tokens of the trainer's rows, in their order. Losses, counts, gradients and random states are
    afterwards as they were. What is too large raises `torch.cuda.OutOfMemoryError` here.
    """
    random = RandomState.take()
    model, collator = trainer.model_wrapped, trainer.data_collator
    places = _largest(lengths, trainer.args.per_device_train_batch_size)
    batch = collator([trainer.train_dataset[place] for place in places])
    trainer.training_step(model, batch, (batch["labels"] >= 0).sum().clamp(min=1).to(trainer.args.device))
    model.zero_grad(set_to_none=True)
    if evaluation_lengths:
        places = _largest(evaluation_lengths, trainer.args.per_device_eval_batch_size)
        batch = collator([trainer.eval_dataset[place] for place in places])
        model.eval()
        trainer.prediction_step(model, batch, prediction_loss_only=True)
        model.train()
    trainer._metrics["eval"].clear()
    put_loop(trainer, loop)
    random.put()


def _largest(lengths: Sequence[int], size: int) -> range:
    """The micro-batch that takes the most memory: padded to its longest row, or joined, both grow with this product."""
    starts = range(0, len(lengths), size)
    start = max(starts, key=lambda first: max(lengths[first : first + size]) * len(lengths[first : first + size]))
    return range(start, min(start + size, len(lengths)))
