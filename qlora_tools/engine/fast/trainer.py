"""TRL's trainer with the fast engine's loss: its loop, data, order, schedule, clipping and counting."""

from typing import Any

import torch
from trl import SFTTrainer

from .model import FastModel
from .rows import RowsCollator, rows_of


class FastTrainer(SFTTrainer):
    """`SFTTrainer` whose losses, in training and in evaluation, come from a `FastModel` of the same model."""

    def __init__(self, *, fast: FastModel, data_collator: Any, **arguments: Any) -> None:
        super().__init__(data_collator=RowsCollator(data_collator), **arguments)
        self._fast = fast

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss over `num_items_in_batch` learnt tokens, those of this micro-batch where it is None.

        The model itself is not called, so nothing of it is wrapped in autocast.
        """
        if return_outputs:
            raise ValueError("the fast engine makes no logits to return")
        rows = rows_of(inputs)
        with torch.autocast(rows.tokens.device.type, enabled=False):
            total, likeliest = self._fast.summed_loss(rows)
        learnt = rows.targets.shape[0]
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["mean_token_accuracy"].append(likeliest / max(learnt, 1))
        if mode == "train":
            self._total_train_tokens += sum(rows.lengths)
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return total / (max(learnt, 1) if num_items_in_batch is None else num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The accuracies since the last line are read from the device here, and not at each micro-batch."""
        for metrics in self._metrics.values():
            if metrics.get("mean_token_accuracy"):
                metrics["mean_token_accuracy"] = torch.stack(metrics["mean_token_accuracy"]).tolist()
        super().log(logs, start_time)
