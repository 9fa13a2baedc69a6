"""Runs scripts in processes of their own, in an environment that lacks this package; imports are paid once.

Started as `python -I -S script_nursery.py SITE_PACKAGES THREADS`: no site, hence no editable install. Reads lines of JSON
(`script`, `arguments`, `folder`, `log`), forks for each, and answers with the exit code.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path


def _run(request: dict) -> int:
    """What the script's own process would do, from the moment that Python has started."""
    os.chdir(request["folder"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = [request["script"], *request["arguments"]]
    sys.path[0:0] = [str(Path(request["script"]).parent)]
    try:
        runpy.run_path(request["script"], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    except BaseException:  # noqa: BLE001 - as the interpreter itself does at the end of a script
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    sys.path.append(sys.argv[1])
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS=sys.argv[2], TOKENIZERS_PARALLELISM="false")
    try:
        import qlora_tools  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        sys.exit("this environment has qlora_tools")
    import peft  # noqa: F401
    import torch
    import trl  # noqa: F401
    from bitsandbytes.nn import Linear4bit  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    from trl import SFTTrainer  # noqa: F401

    torch.set_num_threads(int(sys.argv[2]))
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            code = _run(request)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


if __name__ == "__main__":
    main()
