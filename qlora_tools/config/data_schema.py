"""The data part of a RunConfig: where rows come from, how they are read, and what of them is learnt."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

from ..paths import PathText
from .choices import ColumnPaths, DataFormat, NameText, RowsSource


class Part(BaseModel):
    """A part of a RunConfig: frozen, strict, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RowsConfig(Part):
    """A further source of training rows, mixed with the first."""

    path: PathText = Field(
        description="Rows: a file (.jsonl, .json, .csv, .tsv, .parquet, .arrow, .txt, also compressed), a directory of "
        "them, a saved dataset, or a Hub id (owner/name). More good rows = better."
    )
    source: RowsSource = Field(
        "auto",
        description="How to read the path. auto goes by its form alone: owner/name is a Hub id, ./owner/name a directory.",
    )
    subset: NameText | None = Field(None, description="Configuration of a Hub dataset, where it has several.")
    split: NameText = Field(
        "train",
        description="Split of a Hub dataset, of a saved one, or of a directory whose files are named by splits.",
    )
    format: DataFormat = Field(
        "auto",
        description="Row format; auto recognises it from the columns and their content. No effect on memory.",
    )
    columns: ColumnPaths = Field(
        {},
        description="Where the format's columns are called otherwise: our name -> the file's, dotted where nested, such as "
        "{question: frage, answer: antworten.text.0}. `qlora data inspect` proposes one.",
    )
    weight: float = Field(
        1.0,
        gt=0,
        le=100,
        description="How often each row comes in an epoch: 2 = twice, 0.5 = half of the rows, chosen by the seed. Higher = "
        "this source counts more and the epoch is longer.",
    )

    def __hash__(self) -> int:
        # A mapping has none of its own, and estimates are cached by config.
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return hash(tuple(tuple(sorted(value.items())) if name == "columns" else value for name, value in values))


class DataConfig(RowsConfig):
    """Which rows are learnt, and which of their tokens."""

    more_sources: Annotated[tuple[RowsConfig, ...], Strict(False)] = Field(
        (),
        max_length=50,
        description="Further sources of training rows, each with path, format, columns and weight as here. The mixture "
        "is fixed by the seed.",
    )
    evaluation_path: PathText | None = Field(
        None,
        description="Held-out rows for the evaluation loss. Costs time at each evaluation; shows overfitting.",
    )
    evaluation_split: NameText | None = Field(
        None,
        description="Split to take the held-out rows from, such as validation: of evaluation_path, or of path where that is "
        "not set.",
    )
    evaluation_fraction: float = Field(
        0.0,
        ge=0.0,
        le=0.5,
        description="Share of the training rows to hold out instead, chosen by the seed. Higher = a steadier evaluation "
        "loss and fewer rows to learn from. 0 = none.",
    )
    loss_on: Literal["completions", "assistant", "all"] = Field(
        "completions",
        description="Tokens that are learnt: the last answer (completions), every assistant turn of a chat (assistant), "
        "or everything, the prompt too (all). completions usually gives the best answers.",
    )
    long_rows: Literal["cut", "drop"] = Field(
        "cut",
        description="A row over training.max_length_tokens is cut at its end or dropped. cut keeps more data but loses "
        "the end of the answer, and with it the stop token; both are counted in the result.",
    )
    check: Literal["refuse", "warn"] = Field(
        "refuse",
        description="What `qlora data inspect` finds is looked for before training too. refuse = stop when the data is not "
        "ready, before anything is loaded; warn = say what was found and train on the rows that can be used.",
    )
