"""What each format reads, and the names under which public datasets have it. Order is preference."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """One thing that a format reads: our name for it, and names of columns that hold it."""

    name: str
    aliases: tuple[str, ...]
    required: bool = True


_SYSTEM = Slot(
    "system",
    ("system", "system_prompt", "system_message", "system_instruction", "system_text"),
    required=False,
)
_TOOLS = Slot("tools", ("tools", "functions", "available_tools", "function_schemas"), required=False)
CHAT_NAMES = (
    *("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "dialogues", "turns"),
    *("message", "items", "data", "thread", "chats", "body.messages", "conversation.messages", "data.messages"),
)
TEXT_NAMES = (
    *("text", "content", "document", "body", "article", "story", "passage", "raw_content", "page_content", "markdown"),
    *("raw_text", "full_text"),
)
_TRANSCRIPTS = (
    "text",
    "chat",
    "conversation",
    "conversations",
    "dialogue",
    "dialog",
    "transcript",
    "messages",
    "content",
)
_CONTEXTS = ("context", "passage", "paragraph", "background", "contexts")

SLOTS: dict[str, tuple[Slot, ...]] = {
    "messages": (Slot("messages", CHAT_NAMES), _SYSTEM, _TOOLS),
    "sharegpt": (Slot("conversations", ("conversations", *CHAT_NAMES)), _SYSTEM, _TOOLS),
    "preference": (
        Slot(
            "prompt",
            (
                *(
                    "prompt",
                    "question",
                    "instruction",
                    "query",
                    "input",
                    "inputs",
                    "problem",
                    "conversations",
                    "messages",
                ),
                *("input.messages", "context", "history"),
            ),
            required=False,
        ),
        Slot(
            "chosen",
            ("chosen", "chosen_response", "response_chosen", "preferred", "preferred_response", "preferred_output"),
        ),
        Slot(
            "rejected",
            (
                *("rejected", "rejected_response", "response_rejected", "dispreferred", "dispreferred_response"),
                *("non_preferred_output", "reject"),
            ),
            required=False,
        ),
        _SYSTEM,
        _TOOLS,
    ),
    "prompt_completion": (Slot("prompt", ("prompt",)), Slot("completion", ("completion",)), _SYSTEM, _TOOLS),
    "alpaca": (
        Slot("instruction", ("instruction", "instructions", "instruct")),
        Slot("input", ("input", "context", "inputs", "passage"), required=False),
        Slot(
            "output",
            (
                *("output", "response", "completion", "answer", "outputs", "responses", "target", "targets"),
                *("solution", "reply", "demonstration", "generation"),
            ),
        ),
        _SYSTEM,
        Slot("history", ("history",), required=False),
        _TOOLS,
    ),
    "question_answer": (
        Slot(
            "question",
            (
                *(
                    "question",
                    "query",
                    "problem",
                    "prompt",
                    "input",
                    "inputs",
                    "user",
                    "human",
                    "user_prompt",
                    "questions",
                ),
                *("user_message", "user_input", "instruction"),
            ),
        ),
        Slot(
            "answer",
            (
                *("answer", "response", "solution", "output", "answers", "target", "targets", "outputs", "completion"),
                *("reply", "assistant", "model_answer", "generated_solution", "gpt", "bot", "assistant_response"),
                *("assistant_message", "best_answer", "responses", "correct_answer", "generation"),
                *("long_answer", "ideal_answer", "canonical_solution"),
            ),
        ),
        Slot("context", _CONTEXTS, required=False),
        _SYSTEM,
        _TOOLS,
    ),
    "transcript": (Slot("text", _TRANSCRIPTS), _SYSTEM, _TOOLS),
    "text": (Slot("text", TEXT_NAMES),),
}

# Which answer goes with a question where a file has several: the one that was written for it, the worked one first.
ANSWERS_OF: dict[str, tuple[str, ...]] = {
    "question": ("solution", "answer", "response"),
    "query": ("response", "answer", "answers"),
    "problem": ("generated_solution", "solution", "response", "answer"),
    "prompt": ("response", "output", "answer", "responses"),
    "input": ("output", "response", "target", "answer"),
    "inputs": ("targets", "outputs"),
}
# Lists of turns that lead up to an answer which stands in a column of its own.
CHAT_PROMPTS = ("prompt", "input", "messages", "context", "question", "query", "history", "conversation")
CHAT_COMPLETIONS = ("completion", "response", "output", "answer")

SUMMARIES = ("summary", "highlights", "tldr", "tl;dr", "summaries", "abstract", "headline", "zusammenfassung", "résumé")
SUMMARISED = (
    *("article", "document", "dialogue", "text", "documents", "dialog", "conversation", "transcript", "source", "body"),
    *("content", "report", "passage", "meeting", "email", "paper"),
)
LABELS = (
    *(
        "label",
        "labels",
        "sentiment",
        "emotion",
        "intent",
        "class",
        "stars",
        "label_text",
        "coarse_label",
        "fine_label",
    ),
    *("category_label", "class_label", "topic_label", "is_toxic", "toxicity", "toxic", "airline_sentiment"),
    "target",
)
LABELLED = ("text", "sentence", "content", "review", "tweet", "utterance", "question", "comment", "document", "title")
PASSAGES = ("context", "passage", "article", "paragraph", "story", "support")
CHOICES = ("choices", "options", "endings", "candidates", "answer_choices", "answer_options")
CHOICE_ANSWERS = (
    *("answer", "answerkey", "answer_key", "label", "answer_idx", "answer_index", "correct", "correct_answer"),
    *("correct_option", "gold", "cop", "target"),
)

# Columns beside a text that say where it comes from and what it is about, however they go on in front (page_title).
ORIGIN_ENDINGS = (
    *("title", "url", "uri", "link", "path", "name", "date", "time", "timestamp", "author", "authors", "license"),
    *("licence", "language", "category", "categories", "tags", "keywords", "metadata", "heading", "headline"),
    *("_id", "_at", "_type"),
)
ORIGINS = (
    *(
        "meta",
        "source",
        "origin",
        "dataset",
        "subset",
        "description",
        "subject",
        "topic",
        "section",
        "header",
        "domain",
    ),
    *("publisher", "copyright", "attribution", "citation", "byline", "location", "created", "added", "updated"),
    *("published", "dump", "score", "id"),
)


def names_of(row_format: str, name: str) -> tuple[str, ...]:
    """The names of columns that hold one thing that a format reads."""
    return next(slot.aliases for slot in SLOTS[row_format] if slot.name == name)
