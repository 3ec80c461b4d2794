"""A new thing is one file and one row: each test adds both to a copy of the package and runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import bonsai_quant
from tests.support import warm

TABLE = r"\n_ROWS\b.* = \("
"""Where every table begins."""
PACKAGE = Path(bonsai_quant.__file__).parent


pytestmark = pytest.mark.heavy


class House:
    """A copy of the package that things can be added to, and run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("mini-klein*", "__pycache__")
        shutil.copytree(PACKAGE, folder / "bonsai_quant", ignore=ignored)
        shutil.copytree(PACKAGE.parent / "recipes", folder / "recipes")

    def add(
        self, file: str, text: str, *, table: str, row: str, after: str, needs: str = ""
    ) -> None:
        """file: the new one.  table: the file that gets a row, behind the text `after`.

        needs: the line that imports what the row names.
        """
        new, rows = self.folder / "bonsai_quant" / file, self.folder / "bonsai_quant" / table
        assert not new.exists()
        new.write_text(f"from __future__ import annotations\n{text}")
        before = rows.read_text()
        assert before.count(after) == len(re.findall(TABLE, before)) == 1
        grown = before.replace(after, f"{after}\n    {row}")
        rows.write_text(re.sub(TABLE, rf"\n{needs}\g<0>", grown))

    def run(self, *arguments: object) -> str:
        """Run a command with the copy; -> what it printed."""
        environment = os.environ | {"PYTHONPATH": str(self.folder)}
        process = warm.Process("bonsai_quant", arguments, env=environment, cwd=self.folder)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out

    def statuses(self, *arguments: object) -> dict[str, list[str]]:
        """Run verify; level -> the statuses of its checks."""
        checks = json.loads(self.run("verify", *arguments, "--json"))["checks"]
        found: dict[str, list[str]] = {}
        for check in checks:
            found.setdefault(check["level"], []).append(check["status"])
        return found


@pytest.fixture
def house(tmp_path) -> House:
    return House(tmp_path / "house")


SOLVER = '''
"""Scales of the largest weight, halved."""

import numpy as np

from bonsai_quant.quantization.bf16 import as_float32

from .nearest import with_nearest_codes


def solve(weight, mode, bits, hessian):
    groups = np.abs(as_float32(np.ascontiguousarray(weight))).reshape(len(weight), -1, 128)
    return with_nearest_codes(weight, groups.max(-1) / np.float64(2), mode, bits)
'''


def test_a_solver(house, tiny):
    house.add(
        "quantization/solvers/toy.py",
        SOLVER,
        table="quantization/solvers/__init__.py",
        after="_ROWS = (",
        row='Solver("toy", MODES, False, _in_file("toy")),',
    )
    house.run("convert", tiny, "--mode", "ternary", "--solver", "toy", "-f", "bonsai", "-o", "out")
    manifest = json.loads((house.folder / "out/bonsai/manifest.json").read_text())
    assert manifest["recipe"]["solver"] == "toy"
    assert house.statuses("out", "--against", tiny)["codes"] == ["passed", "passed"]


FAMILY = '''
"""Matrices named toy.0, toy.1, ... in a row, and a norm."""

from bonsai_quant.core.schema import Piece

from .model import Family, Model, ModelTensor


def detect(tensors, place):
    if not all(name.startswith("toy.") for name in tensors):
        return None
    found = tuple(
        ModelTensor(name, stored.spec.shape, name != "toy.norm.weight", "a matrix of the toy",
                    (Piece(stored, 0, stored.spec.shape[0], 0),))
        for name, stored in sorted(tensors.items())
    )
    return Model("toy-1", "toy", {"_class_name": "Toy"}, found, "every name is a toy's",
                 family="toy")


FAMILY = Family("toy", detect, lambda name, n: (), lambda linear: linear, ())
'''


def test_a_family(house, tmp_path):
    house.add(
        "sources/families/toy.py",
        FAMILY,
        table="sources/families/__init__.py",
        after="_ROWS = (",
        row="toy.FAMILY,",
        needs="from . import toy",
    )
    rng = np.random.default_rng(0)
    weights = {f"toy.{i}.weight": rng.normal(size=(64, 256)).astype(np.float32) for i in range(3)}
    source = tmp_path / "toys.safetensors"
    save_file(weights | {"toy.norm.weight": np.ones(64, np.float32)}, source)
    house.run("convert", source, "--mode", "binary", "-f", "bonsai,mlx,unpacked", "-o", "out")
    (shown,) = json.loads(house.run("inspect", "out/mlx", "--json"))["found"]
    assert shown["facts"]["base"] == "toy-1"
    statuses = house.statuses("out", "--against", source)
    assert set(statuses["codes"]) == {"passed"}


RUNNER = '''
"""Paints grey, whatever is asked."""

from contextlib import contextmanager

import numpy as np


class ToyRunner:
    name, computes = "toy", "float32"

    def __init__(self, pipeline):
        self.pipeline = pipeline

    def encode(self, prompts, length):
        return np.zeros((len(prompts), length, 8), np.float32)

    @contextmanager
    def transformer(self, references=()):
        yield lambda z, sigma, captions: np.zeros_like(z)

    @contextmanager
    def decoder(self):
        yield lambda z: np.zeros((len(z), 16 * z.shape[1], 16 * z.shape[2], 3), np.float32)

    def active_bytes(self):
        return 0
'''


def test_a_runner(house, standin):
    house.add(
        "runners/toy.py",
        RUNNER,
        table="runners/__init__.py",
        after="_ROWS = (",
        row='Backend("toy", "toy", "ToyRunner", (), _anywhere),',
    )
    shown = house.run("generate", standin, "-p", "grey", "-o", "grey.png", "--backend", "toy")
    assert "toy" in shown
    picture = np.asarray(Image.open(house.folder / "grey.png"))
    assert (picture.min(), picture.max()) == (128, 128)


LEVEL = '''
"""Every pack has a packed layer."""

from .check import Check


def check_toy(job):
    return [
        Check("toy", pack.folder.name, "passed" if pack.info.packed else "failed", "")
        for pack in job.packs
    ]
'''


def test_a_verification_level(house, standin_packs):
    house.add(
        "verification/levels/toy.py",
        LEVEL,
        table="verification/levels/__init__.py",
        after='Level("codes", (check_codes, check_against)),',
        row='Level("toy", (check_toy,)),',
        needs="from .toy import check_toy",
    )
    statuses = house.statuses(standin_packs, "--level", "toy")
    assert list(statuses) == ["file", "codes", "toy"]
    assert statuses["toy"] == ["passed", "passed"]


FORMAT = '''
"""Codes and scales under other names, scales first."""

from bonsai_quant.core.schema import GROUP, PackedLayer, TensorSpec
from bonsai_quant.storage.containers.layout import safetensors_layout
from bonsai_quant.storage.containers.safetensors import read_header

from .format import Format, all_specs, json_bytes
from .inventory import by_name, packed_inventory
from .kept import KeptWhole
from .legal import canonical_scales


class ToyFormat(Format):
    name = "toy"
    kept = KeptWhole("BF16")

    def weights_path(self, mode):
        return f"toy-{mode}.safetensors"

    def inventory(self, path, manifest):
        stored = by_name(read_header(path).tensors)
        return packed_inventory(stored, path, manifest, mark=".toy", codes=".toy", size=size)

    def parts(self, tensor, bits):
        out, n = tensor.shape
        return [TensorSpec(f"{tensor.linear}.scales", "F16", (out, n // GROUP)),
                TensorSpec(f"{tensor.linear}.toy", "U8", (out, n * bits // 8))]

    def encode(self, layer):
        return [layer.scales, layer.codes]

    def decode(self, name, shape, bits, parts):
        scales = canonical_scales(parts[0].astype("f4"), f"{name}.scales")
        return PackedLayer(name, shape, bits, parts[1], scales)

    def dense(self, layer, parts, start, stop):
        from bonsai_quant.quantization.dequantize import weights

        return weights(layer, start, stop)

    def layout(self, info):
        return safetensors_layout(all_specs(self, info), {"format": "toy"})

    def sidecars(self, info):
        return {"config.json": json_bytes(info.config)}


def size(codes, scales):
    n = scales[1] * GROUP
    return codes[0], n, codes[1] * 8 // n
'''


def test_a_format(house, tiny):
    house.add(
        "packs/formats/toy.py",
        FORMAT,
        table="packs/formats/__init__.py",
        after="_ROWS: tuple[Format, ...] = (",
        row="ToyFormat(),",
        needs="from .toy import ToyFormat",
    )
    house.run("convert", tiny, "--mode", "ternary", "-f", "toy,bonsai", "-o", "out")
    assert set(house.statuses("out", "--against", tiny)["codes"]) == {"passed"}
    house.run("export", "out/toy", "--format", "bonsai", "-o", "again")
    again, bonsai = (house.folder / p / "model.safetensors" for p in ("again", "out/bonsai"))
    assert again.read_bytes() == bonsai.read_bytes()
