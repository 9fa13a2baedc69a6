"""Run the demo on this machine and write its figures as JSON.

python benchmarks/demo_report.py benchmarks/results/demo_cpu.json
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("device", "compute_dtype", "steps", "train_seconds", "tokens_per_second", "peak_allocated_bytes", "versions")


def main() -> None:
    """Write the report named on the command line; further arguments go to `qlora demo`."""
    target = Path(sys.argv[1])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "demo"
        command = [sys.executable, "-m", "qlora_tools", "demo", "--json", "--output", str(output), *sys.argv[2:]]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        result = json.loads(done.stdout)
        if "error" in result:
            sys.exit(f"{result['message']} {result['next_step']}")
    report = {
        "date": str(date.today()),
        "machine": {"cpu_cores": os.cpu_count(), "device": result["training"]["device"]},
        "exit_code": done.returncode,
        "exact_match_percent": result["exact_match_percent"],
        "held_out_rows": result["held_out_rows"],
        "parity": (result["merge"] or {}).get("parity"),
        "seconds_demo": round(result["seconds"], 1),
        "seconds_command": round(time.monotonic() - began, 1),
        "training": {name: result["training"][name] for name in KEPT},
        "losses": [round(loss, 4) for loss in result["training"]["losses"]],
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: report[name] for name in ("exact_match_percent", "parity", "seconds_command")}, indent=1))


if __name__ == "__main__":
    main()
