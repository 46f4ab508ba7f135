"""Archives of what releases wrote, in tests/fixtures."""

import subprocess
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "fixtures"


def unpack(name: str, folder: Path) -> None:
    """Unpacks ``name``.tar.gz into ``folder``. Not with tarfile, whose filters came with Python 3.11.4."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-xzf", FOLDER / f"{name}.tar.gz", "-C", folder], check=True)
