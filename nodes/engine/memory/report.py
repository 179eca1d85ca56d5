"""Readings as text that a person reads on the node."""

from .readings import MemoryReading


def report(reading: MemoryReading, label: str = "") -> str:
    """Return the reading in a few lines; GiB with one decimal."""
    lines = [label] if label else []
    lines += _device_lines(reading)
    lines += _graph_lines(reading)
    comfyui = reading.comfyui
    if comfyui.dynamic_vram_gib is not None:
        lines.append(f"DynamicVRAM: {comfyui.dynamic_vram_gib:.1f} GiB of weights outside torch")
    for model in comfyui.models:
        lines.append(f"Model {model.name}: {model.resident_gib:.1f} of {model.size_gib:.1f} GiB on {model.device}")
    host = reading.host
    lines.append(f"This process: {host.process_gib:.1f} GiB of RAM")
    if comfyui.pinned_host_gib:
        lines.append(f"Pinned for transfers: {comfyui.pinned_host_gib:.1f} GiB of RAM")
    pool = "RAM, shared with the GPU" if reading.is_unified and reading.torch is not None else "RAM"
    lines.append(f"{pool}: {host.ram_used_gib:.1f} of {host.ram_total_gib:.1f} GiB in use")
    if host.swap_total_gib and host.swap_used_gib is not None:
        lines.append(f"Swap: {host.swap_used_gib:.1f} of {host.swap_total_gib:.1f} GiB in use")
    return "\n".join([*lines, *reading.missing])


def _device_lines(reading: MemoryReading) -> list[str]:
    lines = []
    if (memory := reading.torch) is not None:
        lines.append(reading.device)
        lines.append(f"torch: {memory.active_gib:.1f} GiB active, {memory.reserved_gib:.1f} GiB reserved")
        if memory.peak_allocated_gib is not None:
            lines.append(
                f"Peak since reset: {memory.peak_allocated_gib:.1f} GiB allocated, {memory.peak_reserved_gib:.1f} GiB reserved"
            )
        if memory.num_alloc_retries or memory.num_ooms:
            lines.append(f"Allocation retries: {memory.num_alloc_retries}, out of memory: {memory.num_ooms}")
    if (driver := reading.driver) is not None and not reading.is_unified:
        lines.append(f"Driver: {driver.used_gib:.1f} of {driver.total_gib:.1f} GiB in use")
        if driver.other_processes_gib is not None:
            lines.append(f"Other processes: {driver.other_processes_gib:.1f} GiB")
        elif driver.outside_torch_gib is not None:
            lines.append(f"Outside torch (context, libraries, other processes): {driver.outside_torch_gib:.1f} GiB")
    return lines


def _graph_lines(reading: MemoryReading) -> list[str]:
    if _graphs_gib(reading) < 0.05:
        return []
    graphs = reading.graphs
    captured = "" if graphs.captured_gib is None else f", {graphs.captured_gib:.1f} GiB allocated in captures"
    return [f"CUDA graphs: {graphs.own_gib:.1f} GiB in torch (this pack's){captured}"]


def comparison(before: MemoryReading, after: MemoryReading, name: str) -> str:
    """Say what grew and shrank by at least 0.05 GiB since the snapshot `name`."""
    figures = [
        ("torch active", _torch(before, "active_gib"), _torch(after, "active_gib")),
        ("torch reserved", _torch(before, "reserved_gib"), _torch(after, "reserved_gib")),
        ("torch peak", _torch(before, "peak_allocated_gib"), _torch(after, "peak_allocated_gib")),
        ("driver", before.driver.used_gib if before.driver else 0.0, after.driver.used_gib if after.driver else 0.0),
        ("CUDA graphs", _graphs_gib(before), _graphs_gib(after)),
        ("process RAM", before.host.process_gib, after.host.process_gib),
        ("system RAM", before.host.ram_used_gib, after.host.ram_used_gib),
        ("swap", before.host.swap_used_gib or 0.0, after.host.swap_used_gib or 0.0),
    ]
    changes = [f"{what} {now - then:+.1f}" for what, then, now in figures if abs(now - then) >= 0.05]
    held = {model.name for model in before.comfyui.models}
    holds = {model.name for model in after.comfyui.models}
    changes += [f"model {model} came" for model in sorted(holds - held)] + [
        f"model {model} left" for model in sorted(held - holds)
    ]
    return f"Since {name!r} (GiB): {', '.join(changes) or 'no change'}"


def _graphs_gib(reading: MemoryReading) -> float:
    return reading.graphs.own_gib + (reading.graphs.captured_gib or 0.0)


def _torch(reading: MemoryReading, field: str) -> float:
    return (reading.torch and getattr(reading.torch, field)) or 0.0
