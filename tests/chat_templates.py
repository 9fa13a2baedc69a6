"""Chat templates in the manner of published families, each with the tokens that are special to it."""

from dataclasses import dataclass
from typing import Any

from .families import Family, make_tokenizer


@dataclass(frozen=True)
class ChatForm:
    """A template, its special tokens (EOS first, BOS last), and what it does to the text of a turn."""

    template: str
    specials: tuple[str, ...]
    strips: bool = False
    escapes: bool = False

    def tokenizer(self) -> Any:
        """A byte-level tokenizer with this template."""
        return make_tokenizer(
            Family("", self.specials[0], self.specials[0], self.template, self.specials, self.specials[-1])
        )


def lines(*parts: str) -> str:
    """One template from its parts; what stands between them writes nothing."""
    return "".join(parts)


LLAMA_2 = lines(
    "{% if messages[0].role == 'system' %}{% set rules = '<<SYS>>\\n' ~ messages[0].content ~ '\\n<</SYS>>\\n\\n' %}",
    "{% set turns = messages[1:] %}{% else %}{% set rules = '' %}{% set turns = messages %}{% endif %}",
    "{% for turn in turns %}{% if (turn.role == 'user') != (loop.index0 is even) %}",
    "{{ raise_exception('user and assistant must take turns') }}{% endif %}",
    "{% if turn.role == 'user' %}",
    "{{ bos_token ~ '[INST] ' ~ (rules if loop.first else '') ~ turn.content.strip() ~ ' [/INST]' }}",
    "{% else %}{{ ' ' ~ turn.content.strip() ~ ' ' ~ eos_token }}{% endif %}{% endfor %}",
)
LLAMA_3 = lines(
    "{{ bos_token }}{% set chat = namespace(turns=messages, rules='') %}",
    "{% if messages[0].role == 'system' %}{% set chat.rules = messages[0].content.strip() %}",
    "{% set chat.turns = messages[1:] %}",
    "{% endif %}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n",
    "{% if tools %}Functions:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}",
    "{{ chat.rules }}<|eot_id|>",
    "{% for turn in chat.turns %}{% if turn.role == 'tool' %}<|start_header_id|>ipython<|end_header_id|>\n\n",
    "{{ turn.content | tojson }}<|eot_id|>{% elif 'tool_calls' in turn %}",
    "{% if turn.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}",
    "{% set call = turn.tool_calls[0].function %}<|start_header_id|>assistant<|end_header_id|>\n\n",
    '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot_id|>',
    "{% else %}<|start_header_id|>{{ turn.role }}<|end_header_id|>\n\n",
    "{{ turn.content | trim }}<|eot_id|>{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
)
MISTRAL = lines(
    "{% if messages[0].role == 'system' %}{% set rules = messages[0].content ~ '\\n\\n' %}",
    "{% set turns = messages[1:] %}",
    "{% else %}{% set rules = '' %}{% set turns = messages %}{% endif %}{{ bos_token }}",
    "{% set asked = turns | selectattr('role', 'equalto', 'user') | list %}{% for turn in turns %}",
    "{% if turn.role == 'user' %}{% if tools and turn == asked[-1] %}[AVAILABLE_TOOLS] ",
    "{{ tools | tojson }}[/AVAILABLE_TOOLS]",
    "{% endif %}[INST] {{ (rules if turn == asked[-1] else '') ~ turn.content }}[/INST]",
    "{% elif turn.tool_calls %}[TOOL_CALLS] [{% for call in turn.tool_calls %}",
    "{% if call.id | length != 9 %}{{ raise_exception('Tool call ids have nine characters') }}{% endif %}",
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, "id": "{{ call.id }}"}',
    "{{ ', ' if not loop.last }}{% endfor %}]{{ eos_token }}",
    "{% elif turn.role == 'tool' %}{% if turn.tool_call_id | length != 9 %}",
    "{{ raise_exception('nine characters') }}{% endif %}",
    '[TOOL_RESULTS] {"content": {{ turn.content }}, "call_id": "{{ turn.tool_call_id }}"}[/TOOL_RESULTS]',
    "{% else %} {{ turn.content }}{{ eos_token }}{% endif %}{% endfor %}",
)
CHATML = lines(
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}",
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)
CHATML_DEFAULT = lines(
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}",
    CHATML,
)
# The last answer always has a thinking block, earlier ones lose theirs; calls and results as XML-like text.
QWEN_3 = lines(
    "{% set chat = namespace(asked=0) %}{% for turn in messages %}{% if turn.role == 'user' %}",
    "{% set chat.asked = loop.index0 %}{% endif %}{% endfor %}",
    "{% if tools %}<|im_start|>system\n# Tools\n{% for tool in tools %}{{ tool | tojson }}\n",
    "{% endfor %}<|im_end|>\n{% endif %}",
    "{% for turn in messages %}{% if turn.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ turn.content }}\n",
    "</tool_response><|im_end|>\n{% elif turn.role != 'assistant' %}<|im_start|>{{ turn.role }}\n",
    "{{ turn.content }}<|im_end|>\n",
    "{% else %}{% set content, thought = turn.content, turn.reasoning_content | default('') %}",
    "{% if '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}",
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}<|im_start|>assistant\n",
    "{% if loop.index0 > chat.asked and (loop.last or thought) %}<think>\n{{ thought.strip('\\n') }}\n</think>\n\n",
    "{{ content.lstrip('\\n') }}{% else %}{{ content }}{% endif %}",
    "{% for call in turn.tool_calls %}{{ '\\n' if content or not loop.first }}<tool_call>\n",
    '{"name": "{{ call.function.name }}", "arguments": ',
    "{{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}",
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)
# The prompt opens a thinking block, earlier answers lose theirs; arguments are JSON text; a result's answer has no header.
DEEPSEEK_R1 = lines(
    "{{ bos_token }}{% for turn in messages %}{% if turn.role == 'system' %}{{ turn.content }}",
    "{% elif turn.role == 'user' %}<|User|>{{ turn.content }}",
    "{% elif turn.role == 'tool' %}<|output|>{{ turn.content }}<|output_end|>",
    "{% elif turn.tool_calls %}<|Assistant|>{% for call in turn.tool_calls %}<|call|>",
    "{{ call.function.name + '\\n```json\\n' + call.function.arguments + '\\n```' }}<|call_end|>{% endfor %}<|end|>",
    "{% else %}{{ '' if loop.index0 and messages[loop.index0 - 1].role == 'tool' else '<|Assistant|>' }}",
    "{{ turn.content.split('</think>')[-1] }}<|end|>{% endif %}{% endfor %}",
    "{% if add_generation_prompt and messages[-1].role != 'tool' %}<|Assistant|><think>\n{% endif %}",
)
GEMMA = lines(
    "{{ bos_token }}{% for turn in messages %}{% if turn.role == 'system' %}",
    "{{ raise_exception('no system role') }}{% endif %}",
    "{% if (turn.role == 'user') != (loop.index0 is even) %}{{ raise_exception('roles must alternate') }}{% endif %}",
    "<start_of_turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n{{ turn.content | trim }}<end_of_turn>\n",
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
)
PHI_3 = lines(
    "{% for turn in messages %}<|{{ turn.role }}|>\n{{ turn.content }}<|end|>\n{% endfor %}",
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
)
PHI_4 = lines(
    "{% for turn in messages %}<|im_start|>{{ turn.role }}<|im_sep|>{{ turn.content }}<|im_end|>{% endfor %}",
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
)
VICUNA = lines(
    "{% for turn in messages %}{% if turn.role == 'system' %}{{ turn.content }} {% elif turn.role == 'user' %}",
    "USER: {{ turn.content }} {% else %}ASSISTANT: {{ turn.content }}</s>{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
)
ZEPHYR = lines(
    "{% for turn in messages %}<|{{ turn.role }}|>\n{{ turn.content ~ eos_token }}\n",
    "{% if loop.last and add_generation_prompt %}<|assistant|>\n{% endif %}{% endfor %}",
)
HEADINGS = lines(
    "{% for turn in messages %}{% if turn.role == 'system' %}{{ turn.content }}\n\n{% elif turn.role == 'user' %}",
    "### Instruction:\n{{ turn.content }}\n\n{% else %}### Response:\n{{ turn.content }}\n\n{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}### Response:\n{% endif %}",
)
GRANITE = lines(
    "{% for turn in messages %}<|start_of_role|>{{ turn.role }}<|end_of_role|>",
    "{{ turn.content }}<|end_of_text|>\n{% endfor %}",
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
)
COMMAND_R = lines(
    "{{ bos_token }}{% for turn in messages %}<|START|>",
    "{{ {'user': '<|USER|>', 'system': '<|SYSTEM|>', 'assistant': '<|CHATBOT|>'}[turn.role] }}",
    "{{ turn.content | trim }}<|END|>",
    "{% endfor %}{% if add_generation_prompt %}<|START|><|CHATBOT|>{% endif %}",
)
FALCON = lines(
    "{% for turn in messages %}{{ '\\n' if not loop.first }}",
    "{% if turn.role == 'system' %}{{ turn.content }}{% elif turn.role == 'user' %}User: {{ turn.content | trim }}",
    "{% else %}Falcon: {{ turn.content | trim }}{% endif %}{% endfor %}{{ '\\nFalcon:' if add_generation_prompt }}",
)
# Nothing ends a turn but the header of the next one.
GLM = lines(
    "[gMASK]<sop>{% for turn in messages %}<|{{ turn.role }}|>\n{{ turn.content }}{% endfor %}",
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
)
# Channels; the last answer ends with another token than those before it.
HARMONY = lines(
    "{% for turn in messages %}{% if turn.role == 'assistant' %}{% if turn.thinking and loop.last %}<|start|>assistant",
    "<|channel|>analysis<|message|>{{ turn.thinking }}<|end|>{% endif %}<|start|>assistant<|channel|>final<|message|>",
    "{{ turn.content }}{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}",
    "{% else %}<|start|>{{ turn.role }}<|message|>{{ turn.content }}<|end|>{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
)
MARKED = lines(
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{% if turn.role == 'assistant' %}",
    "{% generation %}{{ turn.content }}",
    "<|im_end|>{% endgeneration %}{% else %}{{ turn.content }}<|im_end|>{% endif %}\n{% endfor %}",
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)
WITHOUT_PROMPT = "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
ESCAPING = lines(
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content | tojson }}<|im_end|>\n{% endfor %}",
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)
# Its prompt ends with a space that belongs to the answer, and EOS stands only where the conversation ends.
SPACED = lines(
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}",
    "{{ eos_token if loop.last and turn.role == 'assistant' else '\\n' }}",
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
)

_IM = ("<|im_end|>", "<|im_start|>")
_ROLES = ("<|user|>", "<|assistant|>", "<|system|>")
FORMS: dict[str, ChatForm] = {
    "llama_2": ChatForm(LLAMA_2, ("</s>", "<s>"), strips=True),
    "llama_3": ChatForm(
        LLAMA_3, ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>"), strips=True
    ),
    "mistral": ChatForm(
        MISTRAL,
        ("</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "<s>"),
    ),
    "chatml": ChatForm(CHATML, (*_IM, "<|bos|>")),
    "chatml_default": ChatForm(CHATML_DEFAULT, (*_IM, "<|bos|>")),
    "qwen_3": ChatForm(QWEN_3, (*_IM, "<|bos|>"), strips=True),
    "deepseek_r1": ChatForm(
        DEEPSEEK_R1,
        ("<|end|>", "<|User|>", "<|Assistant|>", "<|call|>", "<|call_end|>", "<|output|>", "<|output_end|>", "<|bos|>"),
    ),
    "gemma": ChatForm(GEMMA, ("<eos>", "<start_of_turn>", "<end_of_turn>", "<bos>"), strips=True),
    "phi_3": ChatForm(PHI_3, ("<|endoftext|>", "<|end|>", *_ROLES, "<|bos|>")),
    "phi_4": ChatForm(PHI_4, (*_IM, "<|im_sep|>", "<|bos|>")),
    "vicuna": ChatForm(VICUNA, ("</s>", "<s>")),
    "zephyr": ChatForm(ZEPHYR, ("</s>", "<s>")),
    "headings": ChatForm(HEADINGS, ("<|endoftext|>", "<|bos|>")),
    "granite": ChatForm(GRANITE, ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|bos|>")),
    "command_r": ChatForm(
        COMMAND_R, ("<|END|>", "<|START|>", "<|USER|>", "<|SYSTEM|>", "<|CHATBOT|>", "<BOS>"), strips=True
    ),
    "falcon": ChatForm(FALCON, ("<|endoftext|>", "<|bos|>"), strips=True),
    "glm": ChatForm(GLM, ("<|endoftext|>", *_ROLES, "[gMASK]", "<sop>")),
    "harmony": ChatForm(HARMONY, ("<|return|>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>", "<|bos|>")),
    "marked": ChatForm(MARKED, (*_IM, "<|bos|>")),
    "without_prompt": ChatForm(WITHOUT_PROMPT, (*_IM, "<|bos|>")),
    "escaping": ChatForm(ESCAPING, (*_IM, "<|bos|>"), escapes=True),
    "spaced": ChatForm(SPACED, ("</s>", "<s>")),
}
