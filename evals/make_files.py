"""Files that the tasks of `evals.json` need and that no example has: `python -m evals.make_files` writes `evals/files`."""

import json
from pathlib import Path

FOLDER = Path(__file__).parent / "files"

_WRONG_CONFIG = """\
# Handed over by a colleague who had to leave.
model:
  name: smollm2-135m-instrct
data:
  path: examples/rows.jsonl
  loss_on: completion
lora:
  r: 8
  alpha: 16
training:
  max_steps: 15
  batch_size: 4
  gradient_accumulation_steps: 1
  max_length_tokens: 4
  learning_rate: 1e-3
  scheduler: cosine
output:
  directory: out/handed-over
"""

_CRASH = """\
  3%|3         | 12/400 [01:07<36:05,  5.58s/it]
Traceback (most recent call last):
  File "/home/me/finetune.py", line 131, in <module>
    trainer.train()
  File "/home/me/.venv/lib/python3.11/site-packages/transformers/trainer.py", line 2325, in train
    return inner_training_loop(
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.91 GiB. GPU 0 has a total capacity of 23.64 GiB of which \
1.27 GiB is free. Including non-PyTorch memory, this process has 22.36 GiB memory in use.
"""

_THINGS = ("stapler", "badge", "headset", "projector", "whiteboard", "charger", "keyboard", "lamp", "fan", "kettle")
_ROOMS = ("reading room", "front desk", "archive", "workshop", "canteen", "studio")


def _chats() -> list[str]:
    rows = []
    for number, thing in enumerate(_THINGS):
        for shelf, room in enumerate(_ROOMS):
            question = f"Where do I find the {thing} of the {room}?"
            answer = f"On shelf {shelf + 1} of the {room}, in the box marked {thing[0].upper()}{number}{shelf}."
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            rows.append(json.dumps({"messages": turns}))
    return rows


def files() -> dict[str, str]:
    """The text of each file by its name. Six of the twelve held-out rows stand in the training rows too."""
    rows = _chats()
    training, held_out = rows[:54], rows[48:]
    return {
        "handed_over.yaml": _WRONG_CONFIG,
        "crash.log": _CRASH,
        "shelves.jsonl": "".join(f"{row}\n" for row in training),
        "shelves_heldout.jsonl": "".join(f"{row}\n" for row in held_out),
    }


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
