"""The check for a card, walked through without one, so that it does not break where one is."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from click.testing import CliRunner  # noqa: E402

from bonsai_quant import convert  # noqa: E402
from bonsai_quant.core.errors import EnvironmentFault  # noqa: E402
from bonsai_quant.runners.gemlite import rule  # noqa: E402
from bonsai_quant.verification.kernels import gemlite as kernels  # noqa: E402
from bonsai_quant.verification.kernels.gemlite_process import ChildAnswer  # noqa: E402
from tests.support.pipelines import BENCHMARK, save_pipeline  # noqa: E402
from tools import gpu_check  # noqa: E402
from tools.gpu import products  # noqa: E402
from tools.gpu.clock import Clock, OutOfTime  # noqa: E402
from tools.gpu.products import Product, best_limit, shapes_of  # noqa: E402

pytestmark = pytest.mark.heavy
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A pack, and a pipeline that paints 32 x 32 pixels in one step."""
    folder = tmp_path_factory.mktemp("tiny")
    save_pipeline(folder / "pipeline", heads=1, blocks=(1, 1))
    small = BENCHMARK | {"height": 32, "width": 32, "num_inference_steps": 1}
    (folder / "pipeline/benchmark.json").write_text(json.dumps(small))
    convert(str(folder / "pipeline"), mode="ternary", formats=("bonsai",), out=folder / "out",
            transformer_only=True)  # fmt: skip
    return SimpleNamespace(pack=folder / "out/bonsai", pipeline=folder / "pipeline")


def checked(*arguments):
    return CliRunner().invoke(gpu_check.main, list(map(str, arguments)))


def test_without_a_card_it_is_not_run():
    done = checked()
    assert done.exit_code == 6
    assert done.stderr.startswith("not run: no card (")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("right", [True, False])
def test_a_dry_run_goes_through_all_of_it(tiny, tmp_path, monkeypatch, right):
    monkeypatch.setattr(kernels, "run_child", lambda tasks, **_: ChildAnswer("not run", "stand-in"))
    if not right:
        monkeypatch.setattr("tools.gpu.table.LEAST_ERROR", 1e-9)
        monkeypatch.setattr("tools.gpu_check.DRY_ROWS", (1,))
        monkeypatch.setattr("tools.gpu.pictures.picture", _breaks)
        monkeypatch.setattr("tools.gpu.training.made", _breaks)
    file = tmp_path / "figures.json"
    done = checked("--dry", "--json", file, "--pack", tiny.pack, "--pipeline", tiny.pipeline)
    figures = json.loads(file.read_text())
    assert "no figure here means anything" in done.stdout
    assert figures["machine"]["torch"] == torch.__version__
    assert {(p["bits"], p["out"]) for p in figures["products"]} == {
        (2, 128), (1, 128), (2, 768), (1, 768)
    }  # fmt: skip
    for p in figures["products"]:
        assert set(p["ms"]) == {"gemlite", "decode", "dense"}
        assert max(p["error"].values()) < 2**-7
    assert {c["detail"] for c in figures["kernels"]} == {"stand-in"}
    if right:
        assert (done.exit_code, figures["problems"], figures["wrong"]) == (0, [], [])
        backends = [p["backend"] for p in figures["pictures"]]
        assert backends == ["torch", "gemlite, its rule", "gemlite, all kernels"]
        assert figures["pictures"][0]["psnr"] == 99
        assert figures["pictures"][2]["ways"] == {"gemlite": 14}
        assert min(p["psnr"] for p in figures["pictures"]) > 35
        what = [t["what"] for t in figures["training"]]
        assert what == ["solve", "calibrate one prompt", "1 updates: tune", "1 updates: distill"]
        assert all(t["seconds"] > 0 and t["figure"] for t in figures["training"])
        assert all(t["what"] in done.stdout for t in figures["training"])
        return
    assert done.exit_code == 5
    assert figures["problems"] == ["pictures: no luck", "training: no luck"]
    assert len(figures["wrong"]) == 12
    assert "## Wrong" in done.stdout and "## Not measured" in done.stdout


def _breaks(*_, **__):
    raise RuntimeError("no luck")


def test_the_shapes_are_those_of_klein():
    assert shapes_of("flux2-klein-4b") == {
        (3072, 3072): 40, (18432, 3072): 10, (3072, 9216): 10, (27648, 3072): 20, (3072, 12288): 20
    }  # fmt: skip


def product(rows, gemlite, decode, layers=1, why=""):
    made = Product(64, 128, layers, 2, rows, not_measured=why)
    made.ms = {"gemlite": gemlite, "decode": decode}
    return made


def test_the_limit_is_where_gemlite_stops_being_faster():
    few, more, many = product(1, 1, 5), product(64, 4, 5), product(512, 9, 5)
    assert best_limit([many, few, more]) == 64
    assert best_limit([few, product(64, 6, 5), product(512, 1, 5)]) == 1
    assert best_limit([product(1, 6, 5)]) == 0
    assert best_limit([product(1, 0, 0, why="out of time")]) is None
    # What counts is the sum over a model's layers.
    assert best_limit([product(1, 6, 5, layers=1), product(1, 4, 5, layers=2)]) == 1
    assert best_limit([few, product(64, 0, 0, why="broke"), product(64, 1, 9)]) == 1


def test_minutes_that_are_over_and_shapes_that_fail_are_told(monkeypatch):
    late = products.measure({(32, 128): 1}, (1,), 2, Clock(CPU, 0), torch.bfloat16)
    assert [p.not_measured for p in late] == ["out of time"]
    with pytest.raises(OutOfTime):
        Clock(CPU, 0).milliseconds(lambda: None)
    monkeypatch.setattr(products, "random_layer", _breaks)
    broken = products.measure({(32, 128): 1}, (1,), 2, Clock(CPU, 1), torch.bfloat16)
    assert [p.not_measured for p in broken] == ["no luck"]


def test_the_rules_variable_is_put_back(monkeypatch):
    for before in (None, "7"):
        if before:
            monkeypatch.setenv(rule.VARIABLE, before)
        with products.most_rows("3"):
            assert rule.most_rows() == 3
        assert rule.most_rows() == int(before or rule.MOST_ROWS)


def test_on_a_card_the_clock_waits_and_memory_is_that_of_the_device(monkeypatch):
    calls = []
    for name, value in (
        ("synchronize", None), ("reset_peak_memory_stats", None),
        ("memory_allocated", 100), ("max_memory_allocated", 350),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda n=name, v=value: calls.append(n) or v)
    clock = Clock(torch.device("cuda"), 1)
    assert clock.peak(lambda: calls.append("call")) == 250
    assert calls == ["synchronize", "reset_peak_memory_stats", "memory_allocated", "call",
                     "synchronize", "max_memory_allocated"]  # fmt: skip
    calls.clear()
    assert clock.milliseconds(lambda: calls.append("call")) >= 0
    assert calls[:3] == ["synchronize", "call", "synchronize"]
    assert calls[-1] == "synchronize"


def test_a_card_is_named(monkeypatch):
    about = SimpleNamespace(name="NVIDIA L4", major=8, minor=9, total_memory=23_034_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    facts = gpu_check._machine(torch.device("cuda"))
    assert (facts["card"], facts["compute capability"]) == ("NVIDIA L4", "8.9")
    assert facts["memory"] == "23.0 GB"


def test_the_client_of_the_benchmark_is_not_run_without_a_card(tiny, monkeypatch):
    from benchmarks.clients import gemlite as client

    monkeypatch.setenv(rule.VARIABLE, "0")  # put back afterwards
    state = np.zeros((2, 2, 2, 64), np.float32), 0.5, np.zeros((2, 3, 192), np.float32)
    with pytest.raises(EnvironmentFault, match=r"^not run: no card \("):
        client.velocity(tiny.pack, *state)
    with gpu_check.standing_in(), client._open:
        assert client.velocity(tiny.pack, *state).shape == (2, 2, 2, 64)
