"""generate_text."""

from typing import Annotated, Any, Literal

from mcp.server.mcpserver.context import Context
from mcp.types import CallToolResult
from pydantic import Field

from ..answers import Structured, answered
from ..arguments import Adapter
from .toolset import Toolset

_STILL = "It is still answering. Make the very same call again to get the answers; fewer prompts at once come sooner."
_SHOWN_CHARACTERS = 300
_MOST_SHOWN = 6


class PromptAnswer(Structured):
    """Answers to one prompt."""

    prompt: str
    base: str | None = None
    adapter: str | None = None


class TextAnswer(Structured):
    """Answers in the order of the prompts; none while they are being computed."""

    model: str | None = None
    device: str | None = None
    answers: list[PromptAnswer] = Field(default_factory=list)
    seconds: float | None = None
    next_call: str


class AnsweringTools(Toolset):
    """What base and adapter answer."""

    async def generate_text(
        self,
        context: Context[Any, Any],
        adapter: Adapter,
        prompts: Annotated[
            list[Annotated[str, Field(max_length=100_000)]],
            Field(min_length=1, max_length=200, description="User messages, answered one by one."),
        ],
        system: Annotated[str, Field(max_length=100_000, description="System turn that was trained with.")]
        | None = None,
        side: Annotated[Literal["both", "base", "adapter"], Field(description="Who answers.")] = "both",
        max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 128,
        temperature: Annotated[float, Field(ge=0, le=5, description="0 = greedy.")] = 0,
        seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0,
    ) -> Annotated[CallToolResult, TextAnswer]:
        """Answer prompts with the trained adapter and its base side by side: did training help? Take held-out prompts."""
        directory = await self._aside(self._adapter, adapter)
        wanted = {
            "adapter": directory,
            "prompts": [_turns(prompt, system) for prompt in prompts],
            "side": side,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        found = await self._worked("generate", wanted, context)
        if found is None:
            return answered(f"{self._so_far('generate', wanted)}\nNext: {_STILL}", TextAnswer(next_call=_STILL))
        call = "Judge the answers against what was wanted, and tell the person; evaluate_adapter(adapter=...) measures them."
        answers = [
            PromptAnswer(**{name: answer[name] for name in PromptAnswer.model_fields}) for answer in found["answers"]
        ]
        structured = TextAnswer(
            model=found["model"], device=found["device"], answers=answers, seconds=found["seconds"], next_call=call
        )
        return answered(_words(answers, call), structured)

    def _adapter(self, name: str) -> str:
        from qlora_tools.jobs.gpu_in_use import require_free_gpu
        from qlora_tools.jobs.reading import adapter_of

        require_free_gpu(self.options.workspace)
        directory = adapter_of(name, workspace=self.options.workspace)
        return str(self.options.access.checked_adapter(str(directory or name), "adapter"))


def _turns(prompt: str, system: str | None) -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system is not None else []
    return [*before, {"role": "user", "content": prompt}]


def _words(answers: list[PromptAnswer], call: str) -> str:
    lines: list[str] = []
    for answer in answers[:_MOST_SHOWN]:
        lines.append(f"> {answer.prompt[:_SHOWN_CHARACTERS]}")
        lines += [f"  base: {answer.base[:_SHOWN_CHARACTERS]}"] if answer.base is not None else []
        lines += [f"  adapter: {answer.adapter[:_SHOWN_CHARACTERS]}"] if answer.adapter is not None else []
    more = len(answers) - _MOST_SHOWN
    lines += [f"{more} more answers are in the structured content."] if more > 0 else []
    return "\n".join([*lines, f"Next: {call}"])
