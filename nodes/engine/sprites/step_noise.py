"""Where ComfyUI's samplers take the noise of their steps from, and so how each sprite can get its own."""

from enum import Enum


class StepNoise(Enum):
    """The source that a sampler draws from when it is given none."""

    NONE = "none"
    GENERATOR = "generator"
    """`default_noise_sampler`: one torch.Generator, seeded once."""
    BROWNIAN_CPU = "brownian_cpu"
    """`BrownianTreeNoiseSampler(cpu=True)`: a torchsde tree per seed."""
    BROWNIAN_GPU = "brownian_gpu"
    """The same on the latent's device."""


def _samplers(noise: StepNoise, names: str) -> dict[str, StepNoise]:
    return dict.fromkeys(names.split(), noise)


STEP_NOISE: dict[str, StepNoise] = {
    # s_churn is 0 in a KSampler, so euler, heun, heunpp2 and dpm_2 never use the noise that they could draw; so is eta of dpm_fast,
    # dpm_adaptive, euler_cfg_pp and exp_heun_2_x0.
    **_samplers(
        StepNoise.NONE,
        "euler euler_cfg_pp heun heunpp2 exp_heun_2_x0 dpm_2 lms dpm_fast dpm_adaptive dpmpp_2m dpmpp_2m_cfg_pp ipndm ipndm_v deis "
        "gradient_estimation gradient_estimation_cfg_pp ddim uni_pc uni_pc_bh2",
    ),
    **_samplers(
        StepNoise.GENERATOR,
        "euler_ancestral euler_ancestral_cfg_pp exp_heun_2_x0_sde dpm_2_ancestral dpmpp_2s_ancestral dpmpp_2s_ancestral_cfg_pp ddpm lcm "
        "res_multistep res_multistep_cfg_pp res_multistep_ancestral res_multistep_ancestral_cfg_pp er_sde seeds_2 seeds_3 "
        "sa_solver sa_solver_pece",
    ),
    **_samplers(StepNoise.BROWNIAN_CPU, "dpmpp_sde dpmpp_2m_sde dpmpp_2m_sde_heun dpmpp_3m_sde"),
    **_samplers(StepNoise.BROWNIAN_GPU, "dpmpp_sde_gpu dpmpp_2m_sde_gpu dpmpp_2m_sde_heun_gpu dpmpp_3m_sde_gpu"),
}
"""Read off `comfy/k_diffusion/sampling.py` and `comfy/samplers.py` of ComfyUI 0.30.0; a sampler that is not here is refused."""

COUPLED_SAMPLERS = {"dpm_adaptive": "dpm_adaptive chooses its steps from the error of the whole batch"}
"""Samplers in which the sprites of one batch change each other, with the reason; they draw one sprite at a time."""


def usable_samplers(installed: list[str]) -> list[str]:
    """Return the installed samplers whose sprites can have their own noise, in ComfyUI's order."""
    return [name for name in installed if name in STEP_NOISE]
