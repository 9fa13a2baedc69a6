"""Disk, permissions, and what this program itself refuses."""

from .changes import set_to
from .entry import Failure, certain, likely, matching, possible

FAILURES = (
    Failure(
        "disk_full",
        "The disk is full",
        "Checkpoints, the Hub's cache or temporary files filled it; what was being written is cut off.",
        "Free space, keep fewer checkpoints, or move the cache: HF_HOME=/large/disk.",
        certain(
            "no space left on device",
            "[errno 28]",
            "storagefull",
            "disk quota exceeded",
            "not enough free disk space",
            "pytorchstreamwriter failed writing",
            "there is not enough space on the disk",
            "not enough disk space",
            "enforce fail at inline_container.cc",
            "os error 28",
            "os error 112",
            "enospc",
        )
        + matching("the disk of", r"the disk of .{0,300} is full")
        + matching("mib are free at", r"only \d+ mib are free at")
        + matching("unexpected pos", r"unexpected pos \d+ vs \d+"),
        set_to(output__keep_checkpoints=1),
        ("df -h .", "du -sh ~/.cache/huggingface", "hf cache prune"),
    ),
    Failure(
        "not_permitted",
        "A file or folder may not be written or read",
        "It belongs to another user, or the file system is read-only.",
        "Choose another output.directory or cache (HF_HOME), or change the owner.",
        certain(
            "permissionerror",
            "[errno 13]",
            "read-only file system",
            "[errno 30]",
            "no permission to write to",
            "os error 13",
            "winerror 5]",
        )
        + likely("permission denied", "operation not permitted"),
        commands=("ls -ld OUTPUT", "export HF_HOME=$HOME/hf"),
    ),
    Failure(
        "output_taken",
        "The output directory holds an earlier run",
        "Results are never replaced unless asked for.",
        "Choose another output.directory; output.overwrite: true replaces what is there.",
        certain("holds the results of an earlier run", "already exists and is not empty. use --overwrite_output_dir")
        + matching("was not made by qlora-tools", r"was not made by qlora-tools and is not replaced")
        + matching("output directory", r"output directory \(.{0,200}\) already exists and is not empty"),
        set_to(output__overwrite=True),
    ),
    Failure(
        "config_invalid",
        "The config is invalid",
        "Fields are unknown, out of bounds, or do not agree.",
        "Mend the fields that the message lists; `qlora config validate` checks them without a run.",
        matching("problem", r"the config .{0,300} has \d+ problems?")
        + certain("is not valid yaml or json")
        + matching("no setting is called", r"no setting is called")
        + matching("there is no config file", r"there is no config file"),
        commands=("qlora config validate run.yaml", "qlora config schema"),
    ),
    Failure(
        "yaml_or_arguments_wrong",
        "The arguments of the script are wrong",
        "A config file or command line could not be read.",
        "Check the line it names; run the script with --help.",
        likely(
            "yaml.scanner.scannererror",
            "yaml.parser.parsererror",
            "some specified arguments are not used by the hfargumentparser",
            "unrecognized arguments",
            "the following arguments are required",
            "some keys are not used by the hfargumentparser",
        )
        + matching("validation error", r"\d+ validation errors? for \w+", "likely"),
    ),
    Failure(
        "file_missing",
        "A file is not there",
        "A path in the config or script points nowhere from where the run was started.",
        "Check the path and the current directory.",
        likely("filenotfounderror", "[errno 2]") + possible("no such file or directory"),
        commands=("pwd", "ls"),
    ),
    Failure(
        "bash_line_ends",
        "The script has Windows line ends",
        "Each line ends in an extra character that the shell takes for part of a word.",
        "Convert the file: sed -i 's/\\r$//' SCRIPT.",
        certain("$'\\r': command not found", "bad interpreter: no such file", "^m: bad interpreter"),
        commands=("sed -i 's/\\r$//' SCRIPT",),
    ),
)
