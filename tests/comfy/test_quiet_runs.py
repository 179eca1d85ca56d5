"""What comfy-aimdo writes past Python's logging while the engine holds its pages."""

from typing import Any

import pytest

from .optimized import package, sample, with_graphs


@pytest.fixture
def levels(monkeypatch) -> list[str]:
    """The levels that comfy-aimdo was set to, beginning with main.py's; there is no library to set on a CPU."""
    import comfy.memory_management
    import comfy_aimdo.control

    levels = ["info"]
    for level in ("debug", "info", "warning", "error", "critical"):
        monkeypatch.setattr(comfy_aimdo.control, f"set_log_{level}", lambda level=level: levels.append(level))
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    return levels


def test_the_steps_of_a_run_write_nothing(comfyui, pack_nodes, tiny_sdxl, conds, levels):
    seen: list[str] = []

    def note(args: Any) -> Any:
        seen.append(levels[-1])
        return args["denoised"]

    model = with_graphs(pack_nodes, tiny_sdxl.model)
    model.set_model_sampler_post_cfg_function(note)
    sample(comfyui, model, conds)
    assert set(seen) == {"error"}
    assert levels[-1] == "info"


def test_an_error_puts_it_back(pack_nodes, levels, monkeypatch):
    import comfy.cli_args

    unreported = package(pack_nodes, "comfy_adapters.weights").held_pages_unreported
    with pytest.raises(ZeroDivisionError), unreported():
        raise ZeroDivisionError
    assert levels == ["info", "error", "info"]
    many = hasattr(comfy.cli_args, "get_console_log_level")  # before 0.30 --verbose had one value
    monkeypatch.setattr(comfy.cli_args.args, "verbose", [("WARNING", None)] if many else "WARNING")
    with unreported():
        assert levels[-1] == "error"
    assert levels[-1] == "warning"
    monkeypatch.setattr(comfy.cli_args.args, "verbose", [("DEBUG", None)] if many else "DEBUG")
    with unreported():
        assert levels[-1] == "warning"  # who asks for everything gets it
