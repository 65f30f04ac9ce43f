"""The pack as users get it from the Comfy registry."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

from checkout import ROOT


def files_of_checkout() -> list[str]:
    """What git would commit, by path within this checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True).split("\0")
    return [name for name in listed if name and (ROOT / name).is_file()]


def comfy_node(command: str, checkout: Path) -> str:
    """What `comfy node COMMAND` prints in this folder; raises RuntimeError with it if that fails."""
    variables = os.environ | {"HOME": str(checkout.parent), "DO_NOT_TRACK": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "comfy_cli", "--skip-prompt", "node", command],
        cwd=checkout,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if run.returncode:
        raise RuntimeError(f"comfy node {command} failed:\n{run.stdout}")
    return run.stdout


def copy_checkout(folder: Path) -> Path:
    """A git checkout in `folder` of all that is in this one, committed or not."""
    copy = folder / "checkout"
    for name in files_of_checkout():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    subprocess.run(["git", "add", "--all"], cwd=copy, check=True)
    return copy


def pack(checkout: Path) -> Path:
    """The zip that `comfy node publish` sends."""
    comfy_node("pack", checkout)
    return checkout / "node.zip"


def unpack(archive: Path, folder: Path) -> None:
    """As ComfyUI Manager and comfy-cli install it."""
    with ZipFile(archive) as opened:
        opened.extractall(folder)
