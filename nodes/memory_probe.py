"""MemoryProbe: what the memory holds at this point of the graph."""

import uuid
from typing import Any

from comfy_api.latest import io

from .engine.memory.run_probe import probe
from .engine.memory.run_timeline import mark_probe


class MemoryProbe(io.ComfyNode):
    """Pass a value through unchanged and read the memory when it passes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare the sockets and widgets."""
        template = io.MatchType.Template("value")
        return io.Schema(
            node_id="MemoryProbe",
            display_name="Memory Probe",
            category="Fast Sprites",
            description="Shows torch's, the driver's and the system's memory at this point of the graph; the value passes unchanged.",
            search_aliases=["vram", "gpu memory", "memory usage", "profiler"],
            inputs=[
                io.MatchType.Input("value", template=template, tooltip="Any value; the memory is read when it arrives."),
                io.String.Input("label", default="", tooltip="Heads the report, to tell several probes apart."),
                io.Boolean.Input("reset_peak", default=False, tooltip="Start torch's peak anew after this reading."),
                io.String.Input(
                    "snapshot", default="", tooltip="Keep this reading under a name that other probes can compare with."
                ),
                io.String.Input(
                    "compare_with", default="", tooltip="Name of an earlier snapshot: the report says what grew since."
                ),
            ],
            outputs=[
                io.MatchType.Output(template=template, id="value", display_name="value", tooltip="The value, unchanged."),
                io.String.Output("report", display_name="report", tooltip="The reading as text."),
                io.String.Output("readings", display_name="readings (JSON)", tooltip="The reading for programs; sizes in GiB."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        """Run in every prompt: memory changes while the inputs stay."""
        # Not NaN: ComfyUI writes the value into the metadata of saved pictures, and NaN is no JSON.
        return uuid.uuid4().hex

    @classmethod
    def execute(cls, value: Any, label: str, reset_peak: bool, snapshot: str, compare_with: str) -> io.NodeOutput:
        """Read, remember, compare; raises BadInputError if `compare_with` names no snapshot."""
        report, readings = probe(label, reset_peak, snapshot, compare_with)
        mark_probe(cls.hidden.unique_id, cls.hidden.extra_pnginfo)
        return io.NodeOutput(value, report, readings, ui={"text": [report]})
