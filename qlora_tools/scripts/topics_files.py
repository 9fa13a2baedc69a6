"""Why a line stands in a file around a script, where it belongs to no field of the config."""

from .topics import Topic

_ACCELERATE = "accelerate 1.12 to 1.15, commands/launch.py"
_FSDP2 = "accelerate 1.15, utils/fsdp_utils.py: fsdp2_prepare_model"
_SBATCH = "Slurm, sbatch(1)"
_SKYPILOT = "SkyPilot 0.14, SkyPilot YAML"

TOPICS: dict[str, Topic] = {
    "processes": Topic(
        "One process a GPU",
        "Each GPU is driven by a process of its own; gradients of the adapter are averaged after each step.",
        _ACCELERATE,
        "More processes: the same steps in less time; without a launcher one GPU is used.",
    ),
    "free_port": Topic(
        "A free port",
        "The processes find each other at a port, and two runs on one machine must not share it.",
        _ACCELERATE,
        "With the usual port a second run on the machine may join the first, or fail.",
    ),
    "sharding": Topic(
        "The model in shares",
        "A base that fits on no GPU is shared out among them, and a layer is gathered when it is its turn.",
        f"{_FSDP2}; bitsandbytes, guide to FSDP-QLoRA",
        "Left out, each GPU holds the whole base. Memory falls with the number of GPUs, time for gathering is added.",
    ),
    "wrapping": Topic(
        "One group a decoder layer",
        "What is gathered at a time is one decoder layer; its class is what the model says must not be split.",
        "accelerate 1.15, utils/dataclasses.py: set_auto_wrap_policy",
        "Without it the model is one group and whole on each GPU during a pass.",
    ),
    "sharded_loading": Topic(
        "Who reads the weights",
        "4-bit weights carry constants, which cannot be handed out by the first process as 16-bit weights can.",
        _FSDP2,
        "true changes nothing for them. While loading, the GPU must hold the 4-bit base; activations come after sharding.",
    ),
    "sharded_checkpoints": Topic(
        "Checkpoints in shares",
        "Each process writes what it holds, so that a checkpoint needs no GPU that can hold all.",
        "accelerate 1.15, utils/dataclasses.py: set_state_dict_type",
        "FULL_STATE_DICT gathers everything in the first process at each checkpoint.",
    ),
    "slurm_resources": Topic(
        "What the job asks for",
        "One node, and one task on it that starts the processes itself.",
        _SBATCH,
        "Less time or memory is granted sooner; what goes over it is killed.",
    ),
    "slurm_log": Topic(
        "One log",
        "A requeued job keeps its number, and would otherwise overwrite what its first attempt said.",
        _SBATCH,
        "Without append the log of the attempt that was cut off is lost.",
    ),
    "slurm_requeue": Topic(
        "Back into the queue",
        "A training that is longer than the time limit, or that is preempted, goes on from its checkpoint.",
        f"{_SBATCH}; scontrol(1)",
        "Left out, a job that was cut off has to be handed over again by hand.",
    ),
    "strict_shell": Topic(
        "Errors end the job",
        "A shell goes on after a failed command unless told, and a failed job would look like a finished one.",
        "Bash Reference Manual, The Set Builtin",
        "Left out, a misspelt name is empty text and a failure goes unseen.",
    ),
    "script_file": Topic(
        "The training script",
        "Slurm copies this file elsewhere: the script is found from the directory in which sbatch was called.",
        _SBATCH,
        "Another script of the same flags can stand here.",
    ),
    "environment": Topic(
        "Which Python",
        "Clusters differ in conda, venv and modules; all of them put a python on the PATH, which sbatch hands on.",
        _SBATCH,
        "A fixed path would tie the file to one person's environment.",
    ),
    "resume": Topic(
        "Go on from the last checkpoint",
        "What is started again must not start anew, and a checkpoint that was cut off must not count.",
        "Transformers 5.23, Trainer._save_checkpoint: trainer_state.json is written after weights, optimiser and generator",
        "Left out, each start is from step 0, or is refused because a run is there already.",
    ),
    "stop_signal": Topic(
        "Time to save",
        "The training is told before its time ends, so that the steps since the last checkpoint are not lost.",
        f"{_SBATCH}, --signal; scancel(1); PyTorch, torch.distributed.run",
        "Left out, up to a checkpoint's interval of work is lost at each time limit.",
    ),
    "srun": Topic(
        "Start and wait",
        "srun puts the training into a step of its own, which Slurm accounts for and can signal; a shell hears signals only "
        "while it waits, so the step runs in the background.",
        "Slurm, srun(1); Bash Reference Manual, Signals",
        "In the foreground the signal would be heard after the training only.",
    ),
    "sky_job": Topic(
        "How to launch it",
        "A managed job is recovered by SkyPilot; a cluster of one's own can be logged into.",
        "SkyPilot 0.14, Managed Jobs",
        "The name is shown in its lists; it decides nothing.",
    ),
    "sky_resources": Topic(
        "The machine",
        "SkyPilot looks for the cheapest machine with this GPU among the clouds that are set up.",
        _SKYPILOT,
        "A smaller GPU is cheaper and may not hold the run; `qlora estimate` says what it takes.",
    ),
    "sky_stop": Topic(
        "Not billed when done",
        "A GPU machine that waits costs as much as one that trains.",
        "SkyPilot 0.14, Autostop and Autodown",
        "Left out, it runs until somebody stops it.",
    ),
    "sky_values": Topic(
        "Values of the commands",
        "Paths reach the commands as environment variables, so that no character of them is read as a command.",
        _SKYPILOT,
        "Written into the commands, a path with a space or a quote would break them.",
    ),
    "sky_files": Topic(
        "What goes there",
        "The machine starts empty: script, rows and a local base are sent, the rest comes from the Hub.",
        "SkyPilot 0.14, Cloud Buckets",
        "What is missing here is missing there, and the script says so when it starts.",
    ),
    "sky_setup": Topic(
        "Install",
        "uv reads the versions from the script's own head and picks the build of PyTorch that the driver can run.",
        "PEP 723; uv, Using uv with PyTorch",
        "A list of versions of its own would come apart from the script's.",
    ),
    "sky_run": Topic(
        "Train",
        "Run at the first start and again after each recovery.",
        "SkyPilot 0.14, Managed Jobs: checkpointing and recovery",
        "It must do the right thing each time it is started: see the checkpoints above it.",
    ),
    "base_image": Topic(
        "Base image",
        "CUDA libraries, cuDNN and PyTorch in versions that were built and tested together.",
        "Docker Hub, pytorch/pytorch",
        "The build of CUDA decides which GPUs have code, and which driver is needed.",
    ),
    "container_dependencies": Topic(
        "Libraries",
        "The ranges of the script's head, installed in a layer that stays as long as they do.",
        "PEP 723; Docker, Building best practices",
        "Below the script, each change of it would install all again.",
    ),
    "container_user": Topic(
        "Not root",
        "What runs in the container can write what is mounted: as root it would leave files that only root can remove.",
        "Docker, Building best practices: USER",
        "Left out, everything runs as root.",
    ),
    "container_cache": Topic(
        "Cache",
        "Weights are gigabytes, and a container forgets what is in no volume.",
        "Docker, Volumes; huggingface_hub, HF_HOME",
        "Left out, the base is downloaded at each run.",
    ),
    "container_script": Topic(
        "Script, and how to run it",
        "The image holds nothing that is private or large: data, weights, token and results stay outside.",
        "Docker, Building best practices",
        "Data or a token copied in would be in each copy of the image.",
    ),
}
