"""Content checks: each planted defect is found in its rows, by its own check alone; good rows are left in peace."""

from collections.abc import Callable, Sequence

import pytest

from qlora_tools.data.examples import Conversation, Example, Message, PlainText
from qlora_tools.inspection.answers import check_short_answers
from qlora_tools.inspection.balance import check_balance
from qlora_tools.inspection.checks import language_shares
from qlora_tools.inspection.content import CONTENT_CHECKS
from qlora_tools.inspection.duplicates import RowDigests, check_conflicting_answers, check_near_duplicates
from qlora_tools.inspection.findings import finding, shown
from qlora_tools.inspection.language import check_languages
from qlora_tools.inspection.leftovers import check_placeholders, check_template_marks
from qlora_tools.inspection.overlap import OverlapPair, check_overlap
from qlora_tools.inspection.repetition import check_repetition
from qlora_tools.inspection.rows import CheckedRow
from qlora_tools.inspection.unbalanced import check_unbalanced_marks
from qlora_tools.inspection.wording import check_boilerplate, check_refusals
from qlora_tools.results import Finding

from .good_rows import good_rows

PLANTED = (17, 101, 250)
# What stands in these rows before something is planted.
PROSE = (
    (
        "Why do leaves turn red in autumn?",
        "The green of the leaves fades as the days grow short, and red colours show that were hidden.",
    ),
    (
        "How long should rice be cooked?",
        "White rice takes about fifteen minutes on low heat, and ten more under the lid to rest.",
    ),
    (
        "Who built the first steam railway?",
        "Richard Trevithick let a steam engine pull wagons on rails in Wales, years before Stephenson.",
    ),
)
GOOD = 300


def chat(user: str, answer: str, system: str | None = None) -> Conversation:
    turns = [Message(role="system", content=system)] if system else []
    return Conversation((*turns, Message(role="user", content=user), Message(role="assistant", content=answer)))


def numbered(examples: Sequence[Example]) -> list[CheckedRow]:
    return [CheckedRow(number, example) for number, example in enumerate(examples, start=1)]


def good_examples(count: int = GOOD) -> list[Example]:
    return [Conversation(tuple(row["messages"])) for row in good_rows(count)]


def all_findings(rows: Sequence[CheckedRow]) -> list[Finding]:
    digests = RowDigests()
    for row in rows:
        digests.add(row.number, row.example)
    return [*digests.findings(), *(found for check in CONTENT_CHECKS for found in check.run(rows))]


def heavy(findings: Sequence[Finding]) -> dict[str, list[int]]:
    """What is more than a note: check -> rows. Near duplicates among the good rows are true, and left out."""
    return {found.check: found.rows for found in findings if found.severity != "note"}


GOOD_NEAR = "near_duplicates"


def parts(example: Example) -> tuple[str, str]:
    assert isinstance(example, Conversation)
    return example.messages[0]["content"], example.messages[1]["content"]


def answer_becomes(change: Callable[[str], str]) -> Callable[[Example], Example]:
    def plant(example: Example) -> Example:
        user, answer = parts(example)
        return chat(user, change(answer))

    return plant


def prompt_becomes(change: Callable[[str], str]) -> Callable[[Example], Example]:
    def plant(example: Example) -> Example:
        user, answer = parts(example)
        return chat(change(user), answer)

    return plant


GERMAN = (
    "Die Funktion öffnet eine Datei und gibt ein Objekt zurück, aus dem man lesen kann. Wenn die Datei nicht da ist, "
    "meldet sie einen Fehler, den der Aufrufer behandeln muss."
)
SHORT_CUT = "It opens the file and reads the whole of it into memory, then it closes the file again and hands the "
PLANTS: dict[str, tuple[str, Callable[[Example], Example]]] = {
    "answer of one word": ("short_answers", answer_becomes(lambda _: "ok")),
    "answer that repeats its prompt": ("echoes", lambda example: chat(parts(example)[0], f" {parts(example)[0]}\n")),
    "answer N/A": ("placeholders", answer_becomes(lambda _: "N/A")),
    "answer null": ("placeholders", answer_becomes(lambda _: "null")),
    "answer deleted": ("placeholders", answer_becomes(lambda _: "[deleted]")),
    "lorem ipsum": (
        "placeholders",
        answer_becomes(lambda _: "Lorem ipsum dolor sit amet, consectetur adipiscing elit."),
    ),
    "todo": ("placeholders", answer_becomes(lambda _: "TODO: write this answer when there is time.")),
    "end of turn": ("template_marks", answer_becomes(lambda text: f"{text}<|im_end|>")),
    "response header": ("template_marks", answer_becomes(lambda text: f"### Response:\n{text}")),
    "instruction marks": ("template_marks", answer_becomes(lambda text: f"[INST] {text} [/INST]")),
    "end of sequence": ("template_marks", answer_becomes(lambda text: f"{text}</s>")),
    "next turn": ("template_marks", answer_becomes(lambda text: f"{text}\nHuman: And what else does it do?")),
    "assistant tag": ("template_marks", answer_becomes(lambda text: f"<assistant>{text}")),
    "disclaimer": ("refusals", answer_becomes(lambda text: f"As an AI language model, I cannot run code. {text}")),
    "refusal": ("refusals", answer_becomes(lambda _: "I'm sorry, but I can't assist with that request.")),
    "refusal with a curly apostrophe": ("refusals", answer_becomes(lambda _: "I’m sorry, but I can’t help with this.")),
    "prompt in a template": ("template_marks", prompt_becomes(lambda text: f"<s>[INST] {text} [/INST]")),
    "prompt in ChatML": ("template_marks", prompt_becomes(lambda text: f"<|im_start|>user\n{text}<|im_end|>")),
    "prompt with headings": (
        "template_marks",
        prompt_becomes(lambda text: f"### Instruction:\n{text}\n\n### Response:\n"),
    ),
    "prompt with the next turn": ("template_marks", prompt_becomes(lambda text: f"{text}<|assistant|>")),
    "prompt with BOS": ("template_marks", prompt_becomes(lambda text: f"<bos><start_of_turn>user\n{text}")),
    "answer after its prompt": (
        "echoes",
        lambda example: chat(parts(example)[0], f"{parts(example)[0]} {parts(example)[1]}"),
    ),
    "answer in its prompt": (
        "echoes",
        lambda example: chat(f"{parts(example)[0]}\n{parts(example)[1]}", parts(example)[1]),
    ),
    "name not filled in": ("placeholders", prompt_becomes(lambda text: f"I am {{{{name}}}}. {text}")),
    "first name not filled in": ("placeholders", answer_becomes(lambda text: f"Dear {{first_name}}, {text}")),
    "answer here": ("placeholders", answer_becomes(lambda text: f"{text} [answer here]")),
    "insert": ("placeholders", answer_becomes(lambda text: f"{text} <insert the second reason>")),
    "button": ("artefacts", answer_becomes(lambda text: f"{text}\n\nRegenerate response")),
    "citation": ("artefacts", answer_becomes(lambda text: f"{text}\u30104\u2020source\u3011.")),
    "picture": ("artefacts", answer_becomes(lambda text: f"<image>\n{text}")),
    "a word in circles": ("repetition", answer_becomes(lambda text: f"{text} It was{' very' * 20} good.")),
    "a phrase in circles": ("repetition", answer_becomes(lambda text: f"{text}{' I do not know,' * 20} that is all.")),
    "a line in circles": ("repetition", answer_becomes(lambda text: text + "\nThank you very much indeed." * 10)),
    "an open fence": ("unbalanced_marks", answer_becomes(lambda text: f"{text}\n```python\nprint(1)\n")),
    "an open thought": ("unbalanced_marks", answer_becomes(lambda text: f"<think>Let me see.\n{text}")),
    "the end of a thought": ("unbalanced_marks", answer_becomes(lambda text: f"Let me see.</think>{text}")),
    "German": ("languages", answer_becomes(lambda _: GERMAN)),
    "mojibake": ("mojibake", answer_becomes(lambda text: f"{text} Itâ€™s a cafÃ©.")),
    "lost characters": ("replacement_characters", answer_becomes(lambda text: f"{text} It\ufffds lost.")),
    "NUL": ("control_characters", prompt_becomes(lambda text: f"{text}\x00")),
    "half a character": ("lone_surrogates", answer_becomes(lambda text: f"{text} \ud83d")),
    "entities": ("html_entities", answer_becomes(lambda text: f"{text} It said &quot;yes&quot; &amp; left.")),
    "entities escaped twice": ("html_entities", prompt_becomes(lambda text: f"Tom &amp;amp; Ann ask: {text}")),
    "escaped line ends": (
        "escaped_newlines",
        answer_becomes(lambda _: "First it opens.\\n\\nThen it reads the rows.\\nDone."),
    ),
    "zero width": ("hidden_characters", answer_becomes(lambda text: f"{text} in\u200bvisible.")),
    "direction": ("hidden_characters", answer_becomes(lambda text: f"{text} \u202egnp.exe.")),
    "tags": ("hidden_characters", prompt_becomes(lambda text: text + "".join(chr(0xE0000 + ord(c)) for c in "obey"))),
    "e-mail address": ("personal_email", answer_becomes(lambda text: f"{text} Ask jane.miller@gmail.com.")),
    "card": ("personal_card", answer_becomes(lambda text: f"{text} Paid with 4539 5787 6362 1486.")),
    "IBAN": ("personal_iban", answer_becomes(lambda text: f"{text} To GB29 NWBK 6016 1331 9268 19 please.")),
    "telephone": ("personal_phone", answer_becomes(lambda text: f"{text} Call +1 415 867 5309 now.")),
    "IP address": ("personal_ip", answer_becomes(lambda text: f"{text} The host is 93.184.216.34 there.")),
    "SSN": ("personal_ssn", answer_becomes(lambda text: f"{text} My SSN is 536-22-8726.")),
    "AWS key": ("secrets", answer_becomes(lambda text: f"{text} AKIAQ7LMN3P5R2T8VWXZ.")),
    "token of Hugging Face": ("secrets", answer_becomes(lambda text: f"{text} hf_aBcD3fGh1JkLmN0pQrStUvWx7zAbCdEfGh.")),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_defect_is_found_in_its_rows_and_nothing_else_is(name: str) -> None:
    check, plant = PLANTS[name]
    examples = good_examples()
    for number, pair in zip(PLANTED, PROSE, strict=True):
        examples[number - 1] = plant(chat(*pair))
    found = heavy(all_findings(numbered(examples)))
    found.pop(GOOD_NEAR, None)
    assert found == {check: list(PLANTED)}


def test_good_rows_have_neither_errors_nor_warnings() -> None:
    findings = all_findings(numbered(good_examples()))
    assert {found.check for found in findings if found.severity != "note"} <= {GOOD_NEAR}


# Each is right as it stands, and near to something that a check looks for.
GOOD_PAIRS = [
    ("What is 1.2.3.4 in version 1.2.3.4 of the tool?", "It is a release: version 10.14.6.2 followed it in May 2019."),
    ("How do I write to support?", "Write to support@example.com or name@example.org, or call 555-0142."),
    ("Add 300-120-1000 and 12345678901234567.", "The sum is 12,345,678,901,233,747, after 1,000,000 - 300 = 999,700."),
    ("When was the order 212-555-4567 sent?",
     "Order #4155552671 left on 2024-03-15 at 12:30:45, tracking 1Z999AA10123456784."),
    ("Connect to the database.",
     "Use postgres://user:password@localhost:5432/db, or https://admin:secret@db.example.com."),
    ("How do I set the AWS key?",
     "Set AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE and keep the secret one out of the code."),
    ("Which token does the client take?",
     "It reads api_key = 'sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' or YOUR_API_KEY."),
    ("Print two lines in Python.", 'print("first line.\\nSecond line")\nprint("a\\tb\\n")'),
    ("Write the HTML for a copyright line.", "<p>&copy; 2024 Tom &amp; Ann &lt;3</p>"),
    ("What is the gradient written as?",
     "It is written $\\nabla f$, with $\\nu$ and $\\neq$ defined in the text above it."),
    ("Which address is private?",
     "192.168.1.10 and 10.0.0.1 are private, 127.0.0.1 is this machine, 8.8.8.8 a name server."),
    ("How are rows multiplied?",
     "Use `X@self.weight.T` or `a@b.mean()`; the file logo@2x.png has nothing to do with it."),
    ("Clone the repository.", "git clone git@github.com:someone/project.git and then cd project."),
    ("What does the ZIP archive hold?",
     "The files README.txt, main.c and 0x7fffffffffffffff as 9223372036854775807 in decimal."),
    ("What is an AI language model?",
     "It is a neural network that was trained on text. A large language model answers questions."),
    ("May I bring a dog?", "I'm sorry to hear that the hotel refused; many others nearby take dogs for a small fee."),
    ("Describe the café in Zürich.",
     "The café on Bahnhofstraße serves crème brûlée, “naïve” art and 20 °C rooms — très chic… ½ price."),
    ("Say it with a family emoji.",
     "Here you are: 👩‍👩‍👧‍👦 and a flag 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f for you!"),
    ("What ends a turn in ChatML?", "The mark is `<|im_end|>`, which stands after every turn."),
    ("Give me a list of fruit.", "- apples\n- pears\n- bananas"),
    ("How tall is it? ISBN 978-3-16-148410-0", "It measures 2.4 x 3.5 x 10.25 metres; see RFC 2822, section 3.2.1.4."),
    ("Translate 'good morning, how are you today' into French.",
     "Bonjour, comment allez-vous aujourd'hui, mes chers amis de la ville ?"),
    ("Schreibe 'the cat sleeps' auf Deutsch (German).",
     "Die Katze schläft, und zwar den ganzen Tag lang auf dem warmen Sofa."),
    ("How do I escape an ampersand?", "In HTML it is escaped as &amp; and a quote as &quot; where needed."),
    ("What is the MAC address?",
     "It is 00:1A:2B:3C:4D:5E, at 12:34:56 o'clock; std::vector::begin is no address, nor is fe80::1."),
    ("What does <|im_start|> mean, and what is [INST]?", "The first opens a turn in ChatML, the second one of Llama 2."),
    ("Look at this prompt:\n```\n<|im_start|>user\nHi<|im_end|>\n```", "It is one turn in ChatML, without an answer yet."),
    ("How do I fill in a name in Jinja?", "Write {{ name }} where it should stand, and give it to render as an argument."),
    ("How is a route declared?", "Declare it as `/users/{user_id}`, or /orders/{order_id}/lines, and read both there."),
    ("What is the sum written as?", "As $\\sum_{in_put} x_{out_put}$ or \\frac{{abc}}{{abd}}, as one likes to write."),
    ("Say hello twenty times.", "hello " * 25),
    ("How is a fence opened?", "Use ``` on a line of its own, and close it with ``` again; a ``` alone is open."),
    ("Show a page in Markdown.", "Here it is:\n````markdown\n# Title\n```\nprint(1)\n````\nThat is all there is to it."),
    ("Correct the grammar: She walks home alone in the dark.", "She walks home alone in the dark."),
    ("Show zeros.", "They are 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 in a row, as one would think of them."),
    ("Explain 415.", "The HTTP status 415-unsupported, pages 200-250-3000, and 2019-2020-2021 are only numbers here."),
]  # fmt: skip


def test_rows_that_only_look_like_defects_are_left_in_peace() -> None:
    examples = good_examples(100)
    for user, answer in GOOD_PAIRS:
        examples.append(chat(user, answer))
    findings = all_findings(numbered(examples))
    assert {found.check: (found.rows, found.example) for found in findings if found.check != GOOD_NEAR} == {}


def test_exact_duplicates_fold_whitespace_and_case_and_name_the_row_that_is_repeated() -> None:
    digests = RowDigests()
    for number, text in ((3, "One row"), (4, "another"), (7, "one\n ROW "), (9, "third"), (12, "ONE row")):
        digests.add(number, PlainText(text))
    assert digests.repeats() == [(7, 3), (12, 3)]
    (found,) = digests.findings()
    assert (found.check, found.severity, found.count, found.rows) == ("exact_duplicates", "error", 2, [7, 12])
    assert "7 as 3" in found.message


def test_few_exact_duplicates_are_a_warning_and_roles_tell_rows_apart() -> None:
    digests = RowDigests()
    for number in range(100):
        digests.add(number + 1, PlainText(f"row {number % 99}"))
    digests.add(101, chat("a", "b"))
    digests.add(102, chat("a\nb", " "))
    (found,) = digests.findings()
    assert (found.severity, found.rows) == ("warning", [100])


def test_digests_find_rows_that_two_sets_share() -> None:
    training, evaluation = RowDigests(), RowDigests()
    training.add(1, chat("a", "b"))
    evaluation.add(5, chat("A", "b"))
    evaluation.add(6, chat("c", "d"))
    assert training.shared_with(evaluation) == [5]
    assert RowDigests().findings() == []


LONG = "The river rises in the hills above the old town and runs for ninety miles through farms, woods and three small cities"


def test_near_duplicates_name_both_rows_and_leave_exact_ones_out() -> None:
    examples = good_examples(100)
    examples[10] = chat("Where does it rise?", f"{LONG} before it meets the sea near the harbour.")
    examples[60] = chat("Where does it rise?!", f"{LONG} before it meets the sea near the lighthouse.")
    examples[80] = chat("where does it rise?", f"{LONG} before it meets the sea near the harbour.")
    (found,) = check_near_duplicates(numbered(examples))
    assert (found.severity, 61 in found.rows, 81 in found.rows) == ("warning", True, False)
    assert "61 as 11" in found.message


def test_a_long_instruction_that_all_rows_share_makes_no_near_duplicates() -> None:
    instruction = " ".join(f"word{index}" for index in range(120))
    rows = numbered([chat(f"{instruction}\n{parts(example)[0]}", parts(example)[1]) for example in good_examples(100)])
    plain = check_near_duplicates(numbered(good_examples(100)))
    assert [found.rows for found in check_near_duplicates(rows)] == [found.rows for found in plain]
    assert (
        check_near_duplicates(numbered([chat(parts(example)[0], "yes", instruction) for example in good_examples(100)]))
        == []
    )


def test_rows_from_a_few_templates_are_one_finding() -> None:
    templates = [[f"{name}{index}" for index in range(60)] for name in "abcdefgh"]
    examples = [
        chat(f"Tell me {number}.", " ".join([*templates[number % 8], f"x{number}", *templates[number % 8][::-1]]))
        for number in range(160)
    ]
    (found,) = check_near_duplicates(numbered(examples))
    assert "templates" in found.message
    assert found.count == 152


def test_conflicting_answers_are_a_note_when_few_and_a_warning_from_one_percent() -> None:
    examples = good_examples(300)
    examples[200] = chat(parts(examples[5])[0], "Something else.")
    (found,) = check_conflicting_answers(numbered(examples))
    assert (found.severity, found.rows) == ("note", [6, 201])
    assert check_conflicting_answers(numbered(examples[:250]))[0].severity == "note"
    (found,) = check_conflicting_answers(numbered([*examples[:10], examples[200]]))
    assert (found.severity, found.rows) == ("warning", [6, 11])


def test_overlap_tells_exact_prompt_and_near_apart() -> None:
    training = numbered(good_examples(200))
    evaluation = [chat(*pair) for pair in GOOD_PAIRS]
    evaluation[3] = training[50].example
    evaluation[5] = chat(training[60].prompt, "A wholly different answer to the question of training.")
    evaluation[7] = chat("Where does it rise?", f"{LONG}, all {LONG.lower()}, near the lighthouse.")
    near = CheckedRow(201, chat("Where does it rise?", f"{LONG}, all {LONG.lower()}, near the lighthouse!"))
    findings = {found.check: found for found in check_overlap(OverlapPair([*training, near], numbered(evaluation)))}
    assert {check: found.rows for check, found in findings.items()} == {
        "overlap": [4],
        "overlap_prompts": [6],
        "near_overlap": [8],
    }
    assert findings["overlap"].severity == "error"
    assert "1 row (evaluation row 4 as training row 51)" in findings["overlap"].message
    assert "evaluation row 6 as training row 61" in findings["overlap_prompts"].message
    assert "evaluation row 8 as training row 201" in findings["near_overlap"].message
    assert findings["overlap_prompts"].severity == "warning"


def test_overlap_of_less_than_one_percent_is_a_warning_and_none_is_nothing() -> None:
    rows = good_examples(300)
    (found,) = check_overlap(OverlapPair(numbered(rows[:150]), numbered([*rows[150:], rows[3]])))[:1]
    assert (found.check, found.severity, found.rows) == ("overlap", "warning", [151])
    others = numbered([chat(*pair) for pair in GOOD_PAIRS])
    assert check_overlap(OverlapPair(numbered(rows[:100]), others)) == []


def test_the_first_three_pairs_of_an_overlap_are_named_and_rows_outside_the_sample_are_counted() -> None:
    rows = good_examples(60)
    (found,) = check_overlap(OverlapPair(numbered(rows), numbered(rows[10:15])))
    assert found.message.endswith(
        "5 rows (evaluation row 1 as training row 11, evaluation row 2 as training row 12, "
        "evaluation row 3 as training row 13, ...)"
    )
    (found,) = check_overlap(OverlapPair(numbered(rows[:20]), numbered(rows[30:35]), shared=[2]))[:1]
    assert (found.rows, found.message.endswith("word for word: 1 row")) == ([2], True)


def test_broken_json_is_found_where_most_answers_are_json() -> None:
    rows = [chat(f"Set timer {number}, please.", f'{{"minutes": {number}}}') for number in range(40)]
    rows[6] = chat("Set timer 7, please.", '{"minutes": 7')
    rows[9] = chat("Set timer 9, please.", "[" * 100_000)
    rows[12] = chat("Set the timer.", "For how long?")
    (found,) = check_unbalanced_marks(numbered(rows))
    assert (found.check, found.severity, found.rows) == ("unbalanced_marks", "warning", [7, 10])
    prose = [chat(f"Tell me {number}.", "{braces} open this sentence.") for number in range(40)]
    assert check_unbalanced_marks(numbered([*rows[:20], *prose])) == []


def test_ends_of_thoughts_in_all_answers_come_from_a_template_that_opens_them() -> None:
    rows = [chat(f"Add {number} and 1.", f"It is one more.</think>{number + 1}") for number in range(30)]
    assert check_unbalanced_marks(numbered(rows)) == []


def test_code_repeats_lines_by_nature() -> None:
    code = "\n".join(f"    if x == {number}:\n        return None\n        counter += 1;" for number in range(30))
    table = "| a | b |\n" + "| none | none |\n" * 30
    fenced = "Here:\n```\n" + "the same line of a file\n" * 30 + "```\nDone."
    assert check_repetition(numbered([chat("Write it.", text) for text in (code, table, fenced)])) == []


def test_words_in_scripts_without_spaces_are_seen_in_circles() -> None:
    rows = numbered([chat("Tell me.", "\u6211\u77e5\u9053" * 25), chat("Tell me.", "\u6211\u77e5\u9053")])
    assert [found.rows for found in check_repetition(rows)] == [[1]]


def test_short_answers_are_labels_where_most_are_short() -> None:
    labels = [
        chat(f"Is review {number} good? {LONG}", ("positive", "negative", "None")[number % 3]) for number in range(60)
    ]
    (found,) = check_short_answers(numbered(labels))
    assert (found.severity, found.count) == ("note", 60)
    assert check_placeholders(numbered(labels)) == []


def test_calls_in_json_are_no_short_answers_and_have_no_language() -> None:
    calls = [
        chat(f"Set timer {number} for the kitchen, please.", f'{{"call":"set_timer","minutes":{number}}}')
        for number in range(60)
    ]
    assert check_short_answers(numbered(calls)) == []
    assert check_boilerplate(numbered(calls)) == []


def test_none_is_an_answer_where_the_prompt_speaks_of_it() -> None:
    examples = good_examples(50)
    examples[3] = chat("Name the colours in the text, or answer None.", "None")
    assert check_placeholders(numbered(examples)) == []


def test_language_shares_and_a_translation_set_are_told_without_a_warning() -> None:
    english = [
        "The weather is nice today and we all walk along the river.",
        "She bought two books about the sea in the old shop.",
    ]
    french = [
        "Il fait beau aujourd'hui et nous marchons au bord de la rivière.",
        "Elle a acheté deux livres sur la mer hier.",
    ]
    rows = numbered([chat(english[number % 2], french[number % 2]) for number in range(40)])
    assert language_shares(rows) == {"fr": 1.0}
    (found,) = check_languages(rows)
    assert (found.check, found.severity) == ("answer_language", "note")


def test_a_language_below_half_a_percent_is_a_note() -> None:
    examples = good_examples(300)
    examples[9] = chat(parts(examples[9])[0], GERMAN)
    (found,) = check_languages(numbered(examples))
    assert (found.severity, found.rows) == ("note", [10])
    assert "German (1)" in found.message


def test_damage_in_more_than_five_percent_of_the_rows_is_an_error() -> None:
    examples = [chat(parts(example)[0], f"{parts(example)[1]} donâ€™t") for example in good_examples(40)]
    assert [found.severity for found in all_findings(numbered(examples)) if found.check == "mojibake"] == ["error"]


@pytest.mark.parametrize(
    "answer",
    [
        "Je suis désolé, mais je ne peux pas vous aider avec cela.",
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Desculpe, mas não posso ajudar com isso.",
        "Mi dispiace, ma non posso aiutarti.",
        "Извините, но я не могу помочь с этим.",
        "抱歉，我无法提供这方面的帮助。",
        "申し訳ありませんが、そのご要望にはお応えできません。",
        "죄송하지만 그 요청은 도와드릴 수 없습니다.",
        "作为一个人工智能语言模型，我没有个人感受。",
        "Als KI-Sprachmodell habe ich keine Meinung.",
        "I cannot provide instructions for that.",
        "I'm unable to fulfill this request.",
        "Sorry, I can't help you with that.",
        "Here it is. As a large language model, I may be wrong.",
    ],
)
def test_refusals_are_known_in_many_languages(answer: str) -> None:
    assert [
        found.rows for found in check_refusals(numbered([chat("Tell me.", "Gladly."), chat("Tell me.", answer)]))
    ] == [[2]]


@pytest.mark.parametrize(
    "answer",
    [
        "I can't wait to help you plan the trip! Start with the flights.",
        "GPT-3 is known as a large language model, and its answers are learnt from text.",
        "Dear Ms Hill, I am sorry, but the parcel was lost. We will send another.",
        "Unfortunately, the museum is closed on Mondays; go on Tuesday instead.",
        "As an AI engineer, you design systems and measure them.",
        "She said: I'm sorry, but I can't marry you. Then she left.",
    ],
)
def test_answers_that_only_sound_like_refusals_are_left_in_peace(answer: str) -> None:
    assert check_refusals(numbered([chat("Tell me.", answer)])) == []


def test_the_same_opening_in_a_third_of_the_answers_is_boilerplate_and_in_all_a_form() -> None:
    examples = good_examples(90)
    for place in range(0, 90, 3):
        user, answer = parts(examples[place])
        examples[place] = chat(user, f"Great question! I'd be happy to help. {answer}")
    (found,) = check_boilerplate(numbered(examples))
    assert (found.severity, found.rows[:3]) == ("warning", [1, 4, 7])
    assert 25 <= found.count <= 30  # Answers that are code have no opening.
    formed = [chat(parts(example)[0], f"The short answer to it is: {parts(example)[1]}") for example in examples]
    assert [found.severity for found in check_boilerplate(numbered(formed))] == ["note"]


def test_plain_text_written_in_a_template_on_purpose_has_no_leftovers() -> None:
    rows = numbered([PlainText(f"### Instruction:\nCount to {number}.\n\n### Response:\nOne") for number in range(30)])
    assert check_template_marks(rows) == []
    mixed = numbered([*(PlainText(f"{LONG} {number}") for number in range(30)), PlainText(f"{LONG}<|endoftext|>")])
    assert [found.rows for found in check_template_marks(mixed)] == [[31]]


def test_answers_cut_at_a_limit_are_found_where_others_end() -> None:
    examples: list[Example] = [
        chat(f"Tell me about {number}.", f"{LONG}. " * 3 + f"That was {number}.") for number in range(40)
    ]
    examples[7] = chat("Tell me about 7.", f"{LONG}. " * 3 + SHORT_CUT)
    examples[30] = chat("Tell me about 30.", f"{LONG}. " * 3 + LONG)
    found = next(found for found in all_findings(numbered(examples)) if found.check == "cut_answers")
    assert (found.severity, found.rows) == ("warning", [8, 31])


def test_sources_are_unbalanced_when_one_has_nearly_all_or_one_nearly_nothing() -> None:
    assert check_balance({"a": 60, "b": 40}) == []
    assert check_balance({"a": 100}) == []
    (large,) = check_balance({"a": 95, "b": 5})
    assert (large.severity, large.count) == ("warning", 95)
    (rare,) = check_balance({"a": 6000, "b": 5000, "c\x1b[31m": 3})
    assert "\x1b" not in rare.message
    assert rare.count == 3


def test_a_finding_names_ten_rows_and_counts_them_all() -> None:
    found = finding("some", "note", "Rows", list(range(1, 31)), 60)
    assert (found.count, found.share, found.rows) == (30, 0.5, list(range(1, 11)))
    assert finding("some", "note", "Rows", [], 0).share is None


def test_shown_text_is_one_short_line_without_what_steers_a_terminal() -> None:
    assert shown("a\x1b[31mred\x1b[0m\n\tb \u202ec\u200b\ue000\U000e0041") == "ared b c"
    assert len(shown("x" * 500)) == 160
    assert shown("abcdef", 4) == "abc…"


def test_no_check_falls_over_strange_rows() -> None:
    strange: list[Example] = [
        Conversation((Message(role="user", content=""), Message(role="assistant", content=""))),
        Conversation((Message(role="user", content="only asked"),)),
        Conversation((Message(role="system", content="s"), Message(role="assistant", content="\ud800" * 300))),
        Conversation(
            (
                Message(role="user", content="Call it"),
                Message(
                    role="assistant",
                    content="",
                    tool_calls=[{"function": {"name": "f", "arguments": {"x": [1, None]}}}],
                ),
                Message(role="tool", content="\x00\x1b[0m" * 50, name="f"),
            )
        ),
        PlainText("\ud800\udc00 " * 2000),
        PlainText("word " * 100_000),
        PlainText("://" * 5000 + "eyJ" * 5000 + "@" * 5000 + "1" * 5000 + "." * 5000),
        PlainText("你好世界" * 500),
    ]
    findings = all_findings(numbered(strange))
    assert {"lone_surrogates", "control_characters"} <= {found.check for found in findings}
    assert all_findings([]) == []
