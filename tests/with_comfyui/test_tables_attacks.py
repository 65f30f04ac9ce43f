"""The attacks of the tables attack: gradients are true, the loss falls, and all of them succeed without erasing."""

import pytest
import torch
from safetensors.torch import load_file

from sae_eraser.nodes.sample.prompt_batch import encode_prompts
from shapecanvas.concepts import OBJECTS, pair_prompt
from shapecanvas.evaluate import erased_model
from shapecanvas.world import SAMPLING, World
from tables import black_box, lora
from tables.chosen import ChosenMethod
from tables.noise_prediction import differentiable, drawn_latents, levels_of_noise, load, noise_error
from tables.pictures import Wanted, scores
from tables.starts import inverted, sample_from
from tables.white_box import Attack, embedded, find_vectors, read, with_vectors

STAR = OBJECTS.index("star")
STARS = Wanted(tuple((STAR, style) for style in range(8)), tuple(range(8)))
DRAWN = Wanted(STARS.pairs, tuple(range(15_000_000, 15_000_008)))
"""Of these drawings no latent is so near its gate that a small step passes it."""
NOTHING = ChosenMethod("nothing", lambda concepts: {})


def erasing_stars(world: World, mode: str):
    return erased_model(world, "sae_shapecanvas_objects.safetensors", "star", mode=mode)


def error_of(world: World, model, cond: torch.Tensor) -> torch.Tensor:
    """On stars, with the same noise whenever it is asked for."""
    load(model)
    generator = torch.Generator().manual_seed(3)
    latents = drawn_latents(world, DRAWN).repeat(4, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=generator)
    sigma = levels_of_noise(model, len(STARS.pairs), 4, generator)
    return noise_error(model, latents, cond.repeat(4, 1, 1), sigma, noise).mean()


def test_words_are_read_as_comfyui_reads_them(world: World):
    words = embedded(world.clip, STARS.prompts())
    with torch.no_grad():
        assert torch.equal(read(world.clip, words), encode_prompts(world.clip, STARS.prompts())[0][0])


def test_vectors_stand_between_the_start_and_the_first_word(world: World):
    words, vectors = embedded(world.clip, STARS.prompts()), torch.full((8, 2, 48), 7.0)
    attacked = with_vectors(words, vectors)
    assert attacked.shape == words.shape
    assert torch.equal(attacked[:, 0], words[:, 0])
    assert torch.equal(attacked[:, 1:3], vectors)
    assert torch.equal(attacked[:, 3:], words[:, 1:-2])


@pytest.mark.parametrize("mode", ["turn", "scale", "ablate", "replace"])
def test_gradients_pass_through_the_edit(world: World, mode: str):
    """As large as differences say that are too small to pass a gate; and not those of the model without the edit."""
    model = erasing_stars(world, mode)
    cond = encode_prompts(world.clip, STARS.prompts())[0][0].detach().requires_grad_(True)
    with differentiable():
        (gradient,) = torch.autograd.grad(error_of(world, model, cond), cond)
        (unedited,) = torch.autograd.grad(error_of(world, world.model, cond), cond)
    step = 0.002 * gradient / gradient.norm()
    with torch.no_grad():
        difference = error_of(world, model, cond + step) - error_of(world, model, cond - step)
    assert difference / 0.004 == pytest.approx(float(gradient.norm()), rel=0.05)
    assert (gradient - unedited).norm() > 0.1 * gradient.norm()


def test_no_grad_is_itself_again_afterwards():
    weight = torch.ones(1, requires_grad=True)
    with differentiable(), torch.no_grad():
        assert (2 * weight).requires_grad
    with torch.no_grad():
        assert not (2 * weight).requires_grad
    assert torch.is_grad_enabled()


def test_the_attack_lowers_the_error_on_the_concept(world: World):
    model = erasing_stars(world, "turn")
    (before, after), _ = find_vectors(world, model, STARS, Attack(looks=(30,)))
    with torch.no_grad():
        assert error_of(world, model, after) < 0.99 * error_of(world, model, before)


@pytest.mark.parametrize("kind", ["synonym", "German word", "from a picture, denoise 0.5", "from a picture's noise"])
def test_without_erasing_the_concept_is_drawn(world: World, kind: str):
    assert scores(black_box.KINDS[kind](world, NOTHING, "star", STARS), ["star"])["UA"] <= 25


def test_prompts_name_the_concept_in_other_words():
    assert black_box.misspelt("star") == ("sar", "satr", "starr")
    asked = Wanted(((STAR, 0), (STAR, 1), (STAR, 2)), (1, 2, 3))
    templates = ("{object}, {style}", "in {style}: {object}")
    assert black_box.reworded("star", asked, ("stern", "pentagram"), templates) == [
        "stern, plain",
        "pentagram, outline",
        "in stripes: stern",
    ]
    assert black_box.reworded("plain", asked, ("bare",), templates)[1] == "in bare: star"


def test_a_picture_comes_back_from_its_noise(world: World):
    latents = drawn_latents(world, DRAWN)
    positive = encode_prompts(world.clip, STARS.prompts())
    noise = inverted(world, latents, positive, SAMPLING["steps"])
    assert noise.std() > 5  # about the largest sigma
    again = sample_from(world, None, positive, "", STARS.seeds, noise, adds_noise=False, cfg=1.0)
    assert (again - latents).square().mean() < 0.2 * latents.square().mean()


def test_a_negative_prompt_changes_what_is_drawn(world: World):
    positive = encode_prompts(world.clip, [pair_prompt("star", "plain")])
    plain, negated = (sample_from(world, None, positive, negative, (1,), steps=3) for negative in ("", "star"))
    assert (plain - negated).abs().amax() > 0.1


def test_a_lora_is_loaded_as_it_was_trained(world: World, tmp_path):
    """ComfyUI's loader gives the model that training had, up to rounding of weights; the world's own stays."""
    path = tmp_path / "lora.safetensors"
    losses = lora.train_lora(world, path, steps=12, per_object=2)
    assert sum(losses[-4:]) < sum(losses[:4])
    cond = encode_prompts(world.clip, [lora.prompt("star")] * 8)[0][0]
    layers = lora.attention_layers(world.model.model.diffusion_model)
    file = load_file(path)
    factors = {name: [file[f"diffusion_model.{name}.lora_{half}.weight"] for half in ("down", "up")] for name in layers}
    assert len(file) == 2 * len(factors) > 0
    with torch.no_grad():
        without = error_of(world, world.model, cond)
        with lora.added(layers, factors):
            trained = error_of(world, world.model, cond)
        loaded = error_of(world, lora.with_lora(world.model, path), cond)
        assert error_of(world, world.model, cond) == without
    assert abs(trained - without) > 0.001
    assert loaded == pytest.approx(float(trained), abs=0.05 * float(abs(trained - without)))
