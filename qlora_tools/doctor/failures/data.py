"""Rows, labels, chat templates and tokens."""

from .changes import longer_rows, set_to
from .entry import Failure, certain, likely, matching, possible

_LOOK = ("qlora data inspect ROWS --model MODEL",)

FAILURES = (
    Failure(
        "chat_template_missing",
        "The tokenizer has no chat template",
        "A base model without instruction tuning mostly has none, and transformers no longer assumes one.",
        "Use the instruct model, or set tokenizer.chat_template; qlora-tools puts a "
        "template into the adapter's tokenizer by "
        "itself.",
        certain(
            "tokenizer.chat_template is not set",
            "does not have a chat template",
            "this tokenizer does not have a default chat template",
            "default chat template is no longer allowed",
            "no chat template is set for this tokenizer",
            "no chat template is set for this processor",
            "must provide a chat template",
            "chat_template is not set",
            "chat template is not defined",
        ),
        commands=_LOOK,
        more="data",
    ),
    Failure(
        "roles_refused",
        "The chat template refuses the order of roles",
        "Many templates allow user and assistant in turn only, and some no system message.",
        "Join turns of the same role, put the system text into the first user turn, and start with the user.",
        certain(
            "conversation roles must alternate",
            "roles must alternate",
            "system role not supported",
            "system role is not supported",
            "after the optional system message",
            "only user and assistant roles are supported",
            "only user, assistant and tool roles",
            "system message must be at the beginning",
            "no user query found in messages",
            "unexpected message role",
            "the last turn must be",
            "message must be from",
        )
        + matching("role", r"(?:unknown|invalid|unsupported|unexpected) role"),
        commands=_LOOK,
        more="data",
    ),
    Failure(
        "template_fails",
        "The chat template fails on these rows",
        "A message lacks role or content, has other names (from, value), or the template itself has a mistake.",
        "Give messages as lists of {role, content}; `qlora data inspect` shows how they are read.",
        likely(
            "jinja2.exceptions",
            "jinja exception",
            "chat template error",
            "templateerror",
            "error rendering jinja template",
            "failed to apply chat template",
        )
        + certain(
            "apply_chat_template requires jinja2",
            "apply_chat_template() requires jinja2",
            'can only concatenate str (not "nonetype") to str',
        )
        + matching("has no attribute", r"'(?:dict|str|list) object' has no attribute '(?:role|content|get|value|from)'")
        + matching("a prompt cannot be rendered", r"a prompt cannot be rendered")
        + matching("keyerror", r"keyerror: ['\"](?:role|content|from|value|conversations?|messages)['\"]", "likely"),
        commands=_LOOK,
        more="data",
    ),
    Failure(
        "labels_all_masked",
        "No token of the rows is learnt",
        "Every label is -100: the marker before the answer was not found in the tokens, or the answer was cut off at "
        "max_length.",
        "Let masks come from the chat template instead of a marker, lengthen rows, and look with `qlora data inspect`.",
        certain(
            "could not find response key",
            "could not find instruction key",
            "this instance will be ignored in loss calculation",
            "all labels in your dataset are -100",
            "contains no assistant tokens",
            "does not contain `{% generation %}` keyword",
            "does not contain {% generation %}",
            "no assistant tokens",
            "has no token that is learnt",
            "no tokens to train on",
            "assistant mask is all zeros",
        )
        + matching(
            "-100",
            r"(?:all|only|every|entire|just).{0,40}(?:labels?|targets?)?.{0,40}-100"
            r"|labels?.{0,40}(?:are |is |became |to )?(?:all )?-100",
            "likely",
        )
        + matching(
            "response_template", r"response_?template.{0,120}(?:not found|not match|wrong|missing|could not)", "likely"
        )
        + matching("mask", r"(?:all|every) (?:the )?(?:labels?|tokens?) (?:are |is |were |got )?masked", "likely"),
        longer_rows,
        _LOOK,
        more="data",
    ),
    Failure(
        "rows_of_unequal_length",
        "Rows of unequal length reached the model",
        "The collator pads input_ids only, or a text column went into the batch; labels then have other lengths.",
        "Use a collator that pads labels with -100, and remove columns that are no tokens.",
        certain(
            "unable to create tensor",
            "expected sequence of length",
            "excessive nesting",
            "stack expects each tensor to be equal size",
            "too many dimensions 'str'",
        )
        + matching("sizes of tensors must match", r"sizes of tensors must match except in dimension")
        + likely("setting an array element with a sequence"),
        commands=_LOOK,
        more="data",
    ),
    Failure(
        "pad_token_missing",
        "The tokenizer has no padding token",
        "Batches of several rows need one.",
        "Set a pad token that is not EOS, or EOS with labels taken from the text; qlora-tools chooses one by itself.",
        certain(
            "does not have a padding token",
            "cannot handle batch sizes > 1 if no padding token is defined",
            "has neither a pad nor an eos token",
            "please select a token to use as `pad_token`",
            "pad_token_id is none",
            "the pad_token_id is not set",
        ),
        more="data",
    ),
    Failure(
        "data_unreadable",
        "A data file cannot be read",
        "It is not what its name says: one JSON document instead of lines, mixed types in a column, another encoding.",
        "Run `qlora data inspect`, which names the lines and proposes a mapping.",
        certain(
            "an error occurred while generating the dataset",
            "datasetgenerationerror",
            "datasetgenerationcasterror",
            "arrowinvalid",
            "json parse error",
            "couldn't cast",
            "jsondecodeerror",
            "expected object or value",
            "datafilesnotfounderror",
            "emptydataseterror",
            "doesn't contain any data files",
            "dataset scripts are no longer supported",
            "couldn't find any data file",
            "couldn't infer the same data file format",
            "error tokenizing data",
            "can't decode byte",
            "datasetnotfounderror",
            "doesn't exist on the hub or cannot be accessed",
            "arrownotimplementederror",
            "cannot mix list and non-list",
            "unknown split",
            "bad split",
        )
        + matching("changed from", r"column\(/?.{0,80}changed from \w+ to \w+")
        + matching(
            "the dataset",
            r"the (?:file|dataset|source|split) .{0,200}(?:cannot be read|is empty|does not exist|holds no rows)",
            "likely",
        ),
        commands=_LOOK,
        more="data",
    ),
    Failure(
        "column_missing",
        "A column has another name than expected",
        "The trainer looks for text, messages or prompt and completion; the rows have other names, or lost them.",
        "Map the columns (data.columns), or rename them.",
        certain(
            "no columns in the dataset match the model's forward method signature",
            "you should supply an encoding or a list of encodings",
            "does not contain the column",
            "did not contain any of the columns",
            "not in the dataset. current columns",
            "you must specify a `formatting_func`",
            "the `formatting_func` should return",
            "you need to specify either `text` or `text_target`",
            "you need to specify either `dataset_text_field` or `formatting_func`",
            "you passed `packing=true` to the sfttrainer",
            "does not contain columns to",
            "to be used with `sfttrainer`",
            "is of no format that is known",
            "can't match its columns",
        )
        + matching(
            "error",
            r"key ?error:? ['\"](?:text|prompt|completion|instruction|input|output|response|question|answer"
            r"|input_ids|labels|chosen|rejected|query|context)['\"]",
            "likely",
        )
        + matching("column", r"column (?:name|to remove|names?) .{0,120}(?:not in|doesn'?t exist)"),
        commands=_LOOK,
        more="data",
    ),
    Failure(
        "dataset_empty",
        "No rows are left",
        "All rows were filtered out (too long, no answer), or packing needs more tokens than there are.",
        "Look with `qlora data inspect` why rows fall out; lengthen rows or switch packing off for few rows.",
        certain(
            "num_samples should be a positive integer value, but got num_samples=0",
            "is out of bounds for size 0",
            "the dataset is empty",
            "the train dataset is empty",
            "dataset has no rows",
            "none of the rows can be used",
            "there are no rows to train on",
        )
        + matching("zero", r"(?:float )?division by zero", "possible")
        + likely("list index out of range"),
        set_to(training__packing="off"),
        _LOOK,
        more="data",
    ),
    Failure(
        "rows_too_long",
        "Rows are longer than the model or the limit",
        "What lies beyond is cut off, and with it the end of the answer.",
        "Raise training.max_length_tokens where memory allows, or drop such rows: data.long_rows: drop.",
        certain(
            "exceed the model's predefined maximum length",
        )
        + possible("token indices sequence length is longer than", "maximum sequence length for this model")
        + matching("maximum context length", r"this model'?s maximum context length is")
        + matching("longer than", r"(?:rows?|samples?|examples?|prompts?|(?<!indices )sequences?) .{0,40}longer than"),
        set_to(data__long_rows="drop"),
        _LOOK,
        more="data",
    ),
    Failure(
        "no_loss_returned",
        "The model returned no loss",
        "The batch has no labels: the collator or the columns kept do not make any.",
        "Use a collator that makes labels, and set remove_unused_columns=False for columns of your own.",
        certain("did not return a loss from the inputs", "loss from the inputs, only the following keys"),
        commands=_LOOK,
        more="data",
    ),
    Failure(
        "text_expected",
        "The tokenizer got something that is no text",
        "A row holds None, a number or a list where text belongs.",
        "Drop or mend such rows; `qlora data inspect` names them.",
        certain(
            "textencodeinput must be",
            "text input must be of type `str`",
            "text inputs must be of type",
            "textinputsequence must be",
            "input must be of type `str`",
        ),
        commands=_LOOK,
        more="data",
    ),
    Failure(
        "batch_and_labels_differ",
        "Inputs and labels have other sizes",
        "Labels were cut, padded or shifted otherwise than the inputs.",
        "Make labels from the very input_ids, of the same length.",
        matching("to match target batch_size", r"expected input batch_size \(\d+\) to match target batch_size")
        + certain("shape '[-1,", "must match the size of label"),
        commands=_LOOK,
        more="data",
    ),
    Failure(
        "data_not_ready",
        "The data check refuses the rows",
        "Before anything is loaded the rows are checked, and something in them would spoil the run.",
        "Mend what it names; data.check: warn trains on what can be used all the same.",
        matching("is not ready", r"the dataset .{0,300} is not ready"),
        set_to(data__check="warn"),
        ("qlora data inspect --config run.yaml",),
        more="data",
    ),
)
