"""The messages of this program itself, by the id of the failure that they tell."""

from .entry import Sign, certain, likely, matching

OWN_SIGNS: dict[str, tuple[Sign, ...]] = {
    "template_fails": certain("is not the one that the adapter was trained with"),
    "weights_damaged": matching("is damaged", r"the (?:tokenizer|adapter) in .{0,200} is damaged|\.json is damaged"),
    "config_invalid": (
        *certain(
            "is not a setting of the form name=value",
            "too large for a config",
            "not a mapping with model, data and output",
        ),
        *matching("is given twice", r"[a-z_.]+ is given twice\."),
        *matching("the config", r"the config .{0,300} cannot be read:"),
    ),
    "output_taken": matching("the output", r"the output .{0,300} (?:exists|is a file)\."),
    "tracker_not_set_up": matching("training.tracking", r"training\.tracking is \w+, and the package"),
    "adapter_not_found": (
        *matching("the adapter", r"the adapter .{0,300} has no adapter_model"),
        *certain("names no base model"),
    ),
    "gpu_out_of_memory": certain("gib free; it was not tried"),
    "model_files_missing": matching("are not on this machine", r"the weights of .{0,200} are not on this machine"),
    "wrong_device_number": matching("no gpu called", r"no gpu called .{0,80} is among"),
    "data_unreadable": (
        *matching("the dataset", r"the dataset .{0,300} (?:cannot be read|ends in|is not a regular file|has no split)"),
        *matching("there is no dataset", r"there is no dataset \S"),
        *matching("holds no data file", r"the folder .{0,300} holds no data file"),
        *matching("can be read", r"none of the \d+ rows of .{0,200} can be read"),
        *certain("has no files of the split"),
    ),
    "dataset_empty": (
        *matching("the dataset", r"the dataset .{0,300} (?:has no rows|is empty \(0 bytes\))"),
        *matching("can be used", r"no row of .{0,200} can be used"),
        *matching("every data file of", r"every data file of .{0,200} is empty"),
    ),
    "not_permitted": likely("was locked by another process for"),
}
