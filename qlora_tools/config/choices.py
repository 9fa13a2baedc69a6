"""What the fields of a RunConfig can be chosen from."""

from typing import Annotated, Literal

from pydantic import Field, Strict

RowsSource = Literal["auto", "local", "hub"]
ModelSource = Literal["auto", "local", "hub", "catalogue"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"]
DataFormat = Literal[
    "auto",
    "messages",
    "sharegpt",
    "preference",
    "prompt_completion",
    "alpaca",
    "question_answer",
    "transcript",
    "text",
]
Quantization = Literal["nf4", "fp4", "int8", "none"]
DtypeChoice = Literal["auto", "bfloat16", "float16", "float32"]
Optimizer = Literal[
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adamw_8bit",
    "adamw_torch",
    "paged_lion_8bit",
    "lion_8bit",
    "adafactor",
    "sgd",
]
Schedule = Literal["cosine", "linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"]
Tracker = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=200)]
ModuleNames = Annotated[tuple[ModuleName, ...], Strict(False)]  # YAML and JSON have lists only
NameText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)]
ColumnPath = Annotated[str, Field(min_length=1, max_length=500)]
ColumnPaths = dict[Annotated[str, Field(pattern=r"^[a-z_]+$", max_length=50)], ColumnPath]
