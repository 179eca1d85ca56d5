from fast_sprites.nodes.engine.sprites.step_noise import COUPLED_SAMPLERS, STEP_NOISE, StepNoise, usable_samplers


def test_only_samplers_that_were_read_are_offered_in_comfyuis_order():
    assert usable_samplers(["lcm", "made_up", "euler"]) == ["lcm", "euler"]


def test_names_tell_where_brownian_noise_is_drawn():
    for name, noise in STEP_NOISE.items():
        assert (noise is StepNoise.BROWNIAN_GPU) == (name.startswith("dpmpp") and name.endswith("_gpu")), name


def test_coupled_samplers_are_known_ones():
    assert COUPLED_SAMPLERS.keys() <= STEP_NOISE.keys()
