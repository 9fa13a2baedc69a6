"""The `qlora` command: its group, and the one boundary where errors become words and exit codes."""

import importlib
import os
import sys
from typing import Any

import click

from .. import __version__
from ..errors import QloraError, UsageError
from .console import show_error

_COMMANDS = {
    "config": ("config", "Read, check and explain run configs."),
    "data": ("data", "Check a dataset before it costs a night."),
    "demo": ("demo", "Run the whole path on a small real model, on CPU or GPU."),
    "doctor": ("doctor", "What is broken on this machine, or why a run failed."),
    "estimate": ("estimate", "Peak memory of a task on a model: parts, certainty, and whether it fits a GPU."),
    "evaluate": ("evaluate", "Compare an adapter with its base on the same rows: ship it or not."),
    "export": ("export", "Make what other tools load: adapter package, GGUF, Ollama, vLLM; push it."),
    "generate": ("generate", "Answer prompts with base, adapter, or both side by side."),
    "guide": ("guide", "Short reference texts: QLoRA, quantisation, memory, data, failures."),
    "jobs": ("jobs", "List jobs: state, steps, loss, time, place in the queue."),
    "logs": ("logs", "Show the log of a job."),
    "mcp": ("mcp", "Serve the tools over MCP on stdin and stdout."),
    "merge": ("merge", "Merge an adapter into its base and check the result."),
    "plan": ("plan", "Plan a run that fits: a config with the reason for each value."),
    "resume": ("resume", "Go on with a job from its last checkpoint."),
    "script": ("script", "Write a config as a script that runs by itself; find what is wrong in somebody's."),
    "serve": ("serve", "Hand a model over to the OpenAI-compatible server installed here."),
    "status": ("status", "Show one job: how far it is, how it ended, what to do next."),
    "stop": ("stop", "End a job with a checkpoint, or for good."),
    "report": ("report", "Tell how a run went or goes: losses, answers, memory, what was noticed."),
    "train": ("train", "Train an adapter from a run config, as a job that outlives the command."),
}


class _LazyGroup(click.Group):
    """Imports a command's module when it is used, so that `qlora --help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f".{_COMMANDS[cmd_name][0]}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(_COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qlora")
def qlora() -> None:
    """Fine-tune a language model with QLoRA on the GPU at hand.

    \b
    Start here:
      qlora doctor                      can this machine train?
      qlora demo                        see the whole path on a small real model
      qlora guide qlora                 what QLoRA is and when to use it
      qlora data inspect rows.jsonl     is the data ready? which of its tokens are learnt?
      qlora script run.yaml -o train.py the same as a script to keep, in plain Transformers, PEFT and TRL
      qlora train run.yaml              train; `qlora config explain run.yaml` says what each value does
      qlora jobs                        what runs, waits and ended; then status, logs, stop, resume
      qlora generate OUTPUT -p "..."    base and adapter side by side
      qlora evaluate OUTPUT             is the adapter better than its base, beyond noise?
      qlora merge OUTPUT -o DIR         one plain model directory

    Every command but mcp takes --json. Exit codes: 0 ok, 1 a bug, 2 wrong usage, config or data, 3 a check failed,
    4 this machine cannot (disk, memory, hardware, permission), 130 stopped by Ctrl-C.
    """


def main() -> None:
    """Entry point of the command: runs it and ends the process with the documented exit code."""
    arguments = sys.argv[1:]
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. Bugs are not caught: they show their traceback, code 1."""
    as_json = "--json" in arguments
    try:
        result: Any = qlora.main(arguments, prog_name="qlora", standalone_mode=False)
    except QloraError as error:
        show_error(error, as_json=as_json)
        return error.exit_code
    except click.ClickException as error:
        show_error(_as_usage_error(error), as_json=as_json)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away (`| head`); Python would complain again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _as_usage_error(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    help_of = context.command_path if context is not None else "qlora"
    return UsageError(error.format_message(), next_step=f"Run `{help_of} --help`.")
