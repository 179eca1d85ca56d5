"""`fast-sprites doctor`: plans of machines that are not here, failing kernels, and Pythons without torch."""

import argparse
import json
import subprocess
import sys

import pytest
import torch
from fast_sprites.nodes.benchmark.cli import main
from fast_sprites.nodes.benchmark.commands import doctor
from fast_sprites.nodes.engine.facts import MachineFacts
from fast_sprites.nodes.engine.kernels import self_test
from fast_sprites.nodes.engine.kernels.ops import TorchOps

from ...conftest import PACK_ROOT
from ..machines import GB10, H100, RTX_2080

CPU = torch.device("cpu")


class WrongGeglu(TorchOps):
    """A kernel that is a little off, as a wrong constant makes it, and one that does not compile."""

    def geglu(self, projected, *, fp8=False):
        return super().geglu(projected, fp8=fp8) * 1.01 if not fp8 else super().geglu(projected, fp8=True)

    def upsample(self, x, size):
        raise RuntimeError("no kernel image is available\nmore")


def results(ops):
    return self_test.check_kernels(ops, CPU, (torch.float32,), with_fp8=True)


def test_the_reference_agrees_with_itself_and_every_case_computes_something():
    found = results(TorchOps())
    assert [r.kernel for r in found] == [case.kernel for case in self_test.CASES]
    assert all(r.passed and r.relative_error == 0 for r in found)


def test_wrong_kernels_are_named():
    failed = {r.kernel: r for r in results(WrongGeglu()) if not r.passed}
    assert set(failed) == {"GEGLU", "upsample"}
    assert failed["GEGLU"].failure == "differs from torch"
    assert failed["GEGLU"].relative_error == pytest.approx(0.01, rel=0.01)
    assert failed["upsample"].failure == "RuntimeError: no kernel image is available"


def test_a_result_that_is_not_a_number_fails():
    class Broken(TorchOps):
        def add_bias(self, x, bias, residual):
            return x * float("nan")

    assert "bias + residual" in {r.kernel for r in results(Broken()) if not r.passed}


@pytest.mark.parametrize(("there", "name"), [("cuda", "cuda:0"), ("xpu", "xpu"), ("mps", "mps"), ("none", "cpu")])
def test_the_device_is_the_one_that_comfyui_takes(monkeypatch: pytest.MonkeyPatch, there: str, name: str):
    for kind, module in {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}.items():
        monkeypatch.setattr(module, "is_available", lambda kind=kind: kind == there)
    assert doctor.device_name(torch) == name


@pytest.mark.parametrize(("kind", "attention"), [("xpu", "pytorch"), ("mps", "sub_quad")])
def test_intels_and_apples_gpus_are_refused_by_name(kind: str, attention: str):
    machine = MachineFacts(device_type=kind, device_name=kind.upper(), torch_version=(2, 11))
    found = doctor.plans(machine, {"xformers": "0.0.35"}, {}, torch.device(kind))
    assert (found.unet_dtype, found.vae_dtype) == ("fp16", "bf16")
    assert f"fast needs a CUDA device, this is {kind.upper()}" in found.kernels_untested_because
    assert next(d.reason for d in found.model_decisions if d.technique == "attention") == f"ComfyUI's {attention}"


def test_fp8_is_left_out_where_the_hardware_has_none():
    assert not any("FP8" in r.kernel for r in self_test.check_kernels(TorchOps(), CPU, (torch.float32,), with_fp8=False))


def diagnosis(machine, monkeypatch, ops=None):
    monkeypatch.setattr(doctor, "test_kernels", lambda machine, device: tuple(results(ops or TorchOps())))
    return doctor.plans(machine, {}, doctor.machine_facts(machine, {}), CPU)


def test_status_and_text_of_a_machine_with_a_failing_kernel(monkeypatch, capsys):
    found = diagnosis(H100, monkeypatch, WrongGeglu())
    monkeypatch.setattr(doctor, "diagnose", lambda: found)
    assert doctor.run(argparse.Namespace(json=False)) == 1
    text = capsys.readouterr().out
    assert "applied  engine: fast" in text
    assert "OptimizeVAE, everything on auto, SDXL's VAE in bf16" in text
    assert "kernels: 2 of 9 FAILED" in text
    assert "  FAILED  upsample  float32  RuntimeError: no kernel image is available" in text
    assert doctor.run(argparse.Namespace(json=True)) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["is_healthy"] is False
    assert {k["kernel"] for k in record["kernels"] if k["failure"]} == {"GEGLU", "upsample"}


def test_healthy_machine_has_status_0(monkeypatch, capsys):
    found = diagnosis(GB10, monkeypatch)
    monkeypatch.setattr(doctor, "diagnose", lambda: found)
    assert doctor.run(argparse.Namespace(json=False)) == 0
    text = capsys.readouterr().out
    assert "119.7 GiB, shared with the system" in text
    assert "all 9 agree with torch" in text


def test_kernels_are_not_run_where_the_plan_would_not_run_them(monkeypatch):
    found = diagnosis(RTX_2080, monkeypatch, WrongGeglu())
    assert found.kernels == ()
    assert "fast needs compute capability 8.0, this device has 7.5" in found.kernels_untested_because
    assert found.is_healthy
    assert (found.unet_dtype, found.vae_dtype) == ("fp16", "fp32")


def test_this_machine(capsys):
    assert main(["doctor", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["facts"]["torch"] == torch.__version__
    assert all(d["reason"] for d in record["model_decisions"] + record["vae_decisions"])
    assert record["kernels"] or record["kernels_untested_because"]


@pytest.mark.parametrize(
    ("package", "sentence"),
    [("torch", "fast-sprites doctor: torch cannot be imported by"), ("aiohttp", "fast-sprites: ")],
)
def test_python_without_a_package_gets_one_sentence(package, sentence):
    hide = f"import sys; sys.modules['{package}'] = None; from nodes.benchmark.cli import main; sys.exit(main(['doctor']))"
    found = subprocess.run([sys.executable, "-c", hide], cwd=PACK_ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr.startswith(sentence)
    assert package in found.stderr
    assert found.stderr.count("\n") == 1
