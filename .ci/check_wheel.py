"""Tests an installed videosys without the repository: python .ci/check_wheel.py REPOSITORY

The working directory is empty. The README, whose first Python block must run, is all that is read of the
repository.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import videosys
from videosys import FAMILIES, load_config
from videosys.utils.installed import configs_folder, install_command


def main(root: Path) -> int:
    package = Path(videosys.__file__).parent
    assert root not in package.parents, f"videosys is imported from the repository: {package}"
    print(f"Python {sys.version.split()[0]}, {package}; an extra: {install_command('plot')}", flush=True)
    check_configs()
    run(["videosys", "--help"])
    for name, setting in [*((name, "seed=1") for name in FAMILIES), ("open_sora_plan", "version=v110")]:
        videos = run(["videosys", "sample", "--model", name, "quiet=true", f"output={name}", setting])
        assert re.search(r"computed \d+ of \d+ steps", videos), videos
        assert next(Path(name).glob("*.mp4")).stat().st_size > 1000
    block = re.search(r"^```python\n(.*?)^```$", (root / "README.md").read_text("utf-8"), re.M | re.S)
    assert block is not None
    run([sys.executable, "-c", block[1]])
    return 0


def check_configs() -> None:
    """Check that the wheel has every example config of the repository, and that each can be loaded."""
    files = {family: sorted((configs_folder() / family).glob("*.yaml")) for family in FAMILIES}
    assert all(len(paths) > 5 for paths in files.values()), files
    for family, paths in files.items():
        for path in paths:
            load_config(FAMILIES[family].config, path)


def run(command: list[str]) -> str:
    """The standard output of a command that succeeds."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stderr}"
    print(done.stdout.strip().splitlines()[-1], flush=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
