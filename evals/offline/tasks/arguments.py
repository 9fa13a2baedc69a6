"""Arguments that are misspelt, misplaced, missing, out of bounds, or no name that is known."""

from qlora_tools.memory.here import Target
from qlora_tools.models.catalogue import CATALOGUE

from ..agent import Outcome
from ..goal import Goal, Keep, Step, Taken
from ..stage import Stage
from ..task import Task

MODEL, CARD = "qwen3-8b", "4090"


def _misspelt_names(stage: Stage) -> Goal:
    asked = {"modell": "llama-3.1-8b-instrukt", "gpu": CARD, "settings": {"lora.rnk": 64}}
    return Goal(
        "Does Llama 3.1 8B with rank 64 fit the 4090?", [Step("estimate_memory", asked, until={"fits": [True]})]
    )


def _is_the_estimate(stage: Stage, outcome: Outcome) -> None:
    target = Target.named_or_here(CARD, None, "training")
    true = target.estimate("llama-3.1-8b-instruct", task="training", settings={"lora.rank": 64})
    assert outcome.answers[-1].structured["needed_gib"] == round(true.needed_bytes / 2**30, 2)


def _field_beside_arguments(stage: Stage) -> Goal:
    stage.rows()
    asked = {"model": MODEL, "data": "rows.jsonl", "gpu": CARD, "rank": 8, "learning_rate": 1e-4}
    return Goal(
        "Plan Qwen3 8B on the 4090 with rank 8 and learning rate 1e-4; leave the config in run.yaml.",
        [Step("create_config", asked, until={"fits": [True]}), Keep(Taken(0, "config"), "run.yaml")],
    )


def _has_the_fields(stage: Stage, outcome: Outcome) -> None:
    config = stage.kept()
    assert (config.lora.rank, config.training.learning_rate) == (8, 1e-4)


def _wrong_choice_and_bounds(stage: Stage) -> Goal:
    stage.rows()
    asked = {"model": MODEL, "data": "rows.jsonl", "gpu": CARD, "goal": "domain tone", "rows_per_step": 0}
    return Goal(
        "Teach Qwen3 8B the tone of our domain, in the smallest steps there are; config in run.yaml.",
        [Step("create_config", asked, until={"fits": [True]}), Keep(Taken(0, "config"), "run.yaml")],
    )


def _is_for_style_in_steps_of_one(stage: Stage, outcome: Outcome) -> None:
    training = stage.kept().training
    assert training.micro_batch_size * training.gradient_accumulation_steps == 1
    # Of all goals style takes the lowest rank.
    assert stage.kept().lora.rank == 16, stage.kept().lora.rank


def _largest_model_of_a_card(stage: Stage) -> Goal:
    asked = {"view": "largest", "gpu": "4080x"}
    return Goal("What is the largest model that my RTX 4080 can fine-tune?", [Step("estimate_memory", asked)])


def _is_the_largest_that_fits(stage: Stage, outcome: Outcome) -> None:
    told = outcome.answers[-1].structured["models"]
    target = Target.named_or_here("RTX 4080", None, "training")
    larger = [model for model in CATALOGUE.values() if model.parameters > told[0]["parameters"]]
    assert target.estimate(told[0]["name"], task="training", settings={"max_length_tokens": 512}).fits
    smallest = min(larger, key=lambda model: model.parameters)
    assert not target.estimate(smallest.name, task="training", settings={"max_length_tokens": 512}).fits, smallest.name


def _plan_without_data(stage: Stage) -> Goal:
    stage.rows()
    return Goal(
        "Plan Qwen3 8B for rows.jsonl on the 4090; config in run.yaml.",
        [
            Step("create_config", {"model": MODEL, "gpu": CARD}, until={"fits": [True]}),
            Keep(Taken(0, "config"), "run.yaml"),
        ],
        facts={"model": MODEL, "data": "rows.jsonl", "gpu": CARD},
    )


def _names_model_and_rows(stage: Stage, outcome: Outcome) -> None:
    config = stage.kept()
    assert (config.model.name, config.data.path) == (MODEL, str(stage.workspace / "rows.jsonl"))


TASKS = (
    Task(
        "misspelt_names",
        ["an argument, a model and a setting are misspelt"],
        _misspelt_names,
        _is_the_estimate,
    ),
    Task(
        "field_beside_arguments",
        ["two fields of the run config stand beside the arguments"],
        _field_beside_arguments,
        _has_the_fields,
    ),
    Task(
        "wrong_choice_and_bounds",
        ["a choice that is none", "a number below its bound"],
        _wrong_choice_and_bounds,
        _is_for_style_in_steps_of_one,
    ),
    Task(
        "largest_model_of_a_card",
        ["a view that is none", "a GPU that is not known"],
        _largest_model_of_a_card,
        _is_the_largest_that_fits,
    ),
    Task("plan_without_data", ["a plan is asked without data"], _plan_without_data, _names_model_and_rows),
)
