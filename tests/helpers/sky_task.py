"""launch/tpu.sky.yaml on a simulated host."""

import os
import shlex
import subprocess
from pathlib import Path

import yaml

TASK = Path(__file__).parents[2] / "launch" / "tpu.sky.yaml"
BUCKET = {"WORKDIR": "gs://bucket/siglip_tp", "DATA_DIR": "gs://bucket/data"}  # what a user must give


def execute(part: str, home: Path, **environment: str) -> subprocess.CompletedProcess:
    """``setup`` or ``run`` as SkyPilot executes it on each host: a Bash script in ~/sky_workdir that exports the task's
    environment variables and SkyPilot's. `make test-sky` compares with SkyPilot."""
    task = yaml.safe_load(TASK.read_text())
    variables = {**task["envs"], **BUCKET, "SKYPILOT_NUM_NODES": "4", **environment}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    script = "\n".join(["cd ~/sky_workdir", *exports, task[part]])
    return subprocess.run(
        ["bash", "-c", script], env=os.environ | {"HOME": str(home)}, capture_output=True, text=True, timeout=300
    )
