"""Facts about machines that people have, for the tests of what is planned on them."""

from dataclasses import replace

from fast_sprites.nodes.engine.facts import MachineFacts

H100 = MachineFacts(
    device_type="cuda",
    device_name="NVIDIA H100",
    capability=(9, 0),
    memory_total_gib=79.2,
    torch_version=(2, 11),
    triton_missing="",
)
RTX_2080 = replace(H100, device_name="NVIDIA GeForce RTX 2080", capability=(7, 5), memory_total_gib=7.8)
GTX_1080 = replace(H100, device_name="NVIDIA GeForce GTX 1080", capability=(6, 1), memory_total_gib=8.0)
GB10 = replace(H100, device_name="NVIDIA GB10", capability=(12, 1), memory_total_gib=119.7, is_integrated=True)
CPU = MachineFacts(device_type="cpu", device_name="CPU", torch_version=(2, 11))
