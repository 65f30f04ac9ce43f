"""Erase Concept from Text: it changes the asked latent alone, and only on its own clone."""

import copy

import comfy.sd
import pytest
import torch
from comfy import sdxl_clip
from comfy.supported_models_base import ClipTarget

from sae_eraser.nodes.erase.erase_concept_from_text import EraseConceptFromText
from sae_eraser.nodes.files.sae_files import open_sae
from sae_eraser.sae_ops.hookpoints import HookpointError
from sae_eraser.sae_ops.text_hookpoints import check_is_read, is_text_hookpoint, list_text_hookpoints
from with_comfyui.random_files import MID, write_random_sae
from with_comfyui.sampling import differs, encode

FIRST, LAST = (f"text_encoder.text_model.encoder.layers.{layer}" for layer in (0, 1))
TEXT, TEXT_TOO, TOPK, SECOND = "text.safetensors", "text_too.safetensors", "text_topk.safetensors", "second.safetensors"
PROMPT = "a star in neon style"


@pytest.fixture(scope="module")
def clip(model, world, comfyui):
    """The small world's CLIP, with SAEs of random weights for it in models/sae."""
    folder = comfyui.base / "models" / "sae"
    for name, hookpoint, activation in ((TEXT, FIRST, "relu"), (TEXT_TOO, LAST, "jumprelu"), (TOPK, FIRST, "topk")):
        write_random_sae(folder / name, hookpoint, activation, d=48)
    write_random_sae(folder / SECOND, "text_encoder_2.text_model.encoder.layers.0", d=48)
    return world.clip


def erase(clip, concept="disc", sae=TEXT, strength=1.0, mode="ablate"):
    """The CLIP as the node hands it on."""
    return EraseConceptFromText.execute(clip, strength, mode, {"sae": sae, "concept": concept}).result[0]


def passing(clip, prompt=PROMPT) -> torch.Tensor:
    """What the second layer gets of the first [tokens, d], seen by a hook put on it by hand."""
    encoder = getattr(clip.cond_stage_model, "plain", clip.cond_stage_model)
    seen = []
    layer = encoder.clip_l.transformer.text_model.encoder.layers[1]
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].cpu().clone()))
    clip.encode(prompt)
    handle.remove()
    return seen[0][0].float()


@pytest.mark.parametrize("sae", [TEXT, TOPK])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_only_the_asked_latent_is_taken_out(clip, sae, strength):
    """disc has one latent, whose gate is its mean over all prompts."""
    loaded = open_sae(sae)
    autoencoder, (latent,) = loaded.autoencoder, loaded.header.concepts[0].latents
    before, after = passing(clip), passing(erase(clip, "disc", sae, strength))
    z = autoencoder.encode(before)[:, latent]
    gated = z * (z > loaded.statistics.at(torch.ones(1), torch.tensor([0]))["overall"][0])
    assert 0 < (gated > 0).sum() < len(gated)
    expected = before - strength * gated[:, None] * autoencoder.W_dec[latent] / autoencoder.input_scale
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-4)
    assert torch.equal(after[gated == 0], before[gated == 0])


def test_an_encoder_that_is_called_on_its_own_erases_as_well(clip):
    """As nodes do that weigh words in ways of their own."""
    words = clip.tokenize(PROMPT)["l"]
    tokens = [[token for token, _ in chunk] for chunk in words]
    for ask in (
        lambda encoder: encoder.encode_token_weights(words),
        lambda encoder: encoder.encode(tokens),
        lambda encoder: encoder(tokens),
        lambda encoder: copy.copy(encoder).encode(tokens),
    ):
        plain, erased = (ask(clip.cond_stage_model.clip_l)[0] for clip in (clip, erase(clip)))
        assert torch.equal(plain, clip.encode(PROMPT))
        assert torch.equal(erased, erase(clip).encode(PROMPT))
        assert differs(erased, plain)
    assert not hasattr(erase(clip).cond_stage_model, "__setstate__"), (
        "copying hands over its own state, in Python 3.10 too"
    )


def test_strength_0_is_no_node(clip):
    assert erase(clip, strength=0.0) is clip


def test_a_latent_that_does_not_fire_leaves_every_bit(clip):
    assert torch.equal(erase(clip, "silent").encode(PROMPT), clip.encode(PROMPT))


@pytest.mark.parametrize("mode", ["scale", "ablate", "clamp", "replace"])
def test_every_mode_changes_what_the_prompt_becomes_and_no_other_clone(clip, mode):
    plain = clip.encode(PROMPT)
    erased = erase(clip, mode=mode)
    for clone in (erased, erased.clone()):
        assert (clone.encode(PROMPT) - plain).abs().max() > 0.01
        assert torch.equal(clip.encode(PROMPT), plain)
    assert torch.equal(erased.encode(PROMPT), erase(clip, mode=mode).encode(PROMPT))


def test_chained_nodes_erase_together_in_any_order(clip):
    one = erase(erase(erase(clip, "disc"), "wavy"), "disc", TEXT_TOO)
    other = erase(erase(erase(clip, "disc", TEXT_TOO), "wavy"), "disc")
    assert torch.equal(one.encode(PROMPT), other.encode(PROMPT))
    parts = [erase(clip, "disc"), erase(erase(clip, "disc"), "wavy"), erase(clip, "disc", TEXT_TOO)]
    assert all((one.encode(PROMPT) - part.encode(PROMPT)).abs().max() > 0.01 for part in parts)


def test_pictures_follow(clip, model, sample):
    plain, same = sample(model), sample(model, positive=encode(erase(clip, "silent"), PROMPT))
    assert torch.equal(same, plain)
    assert (sample(model, positive=encode(erase(clip), PROMPT)) - plain).abs().max() > 0.01


def test_an_sae_of_the_diffusion_model_is_sent_to_its_node(clip):
    with pytest.raises(ValueError, match=f"'{MID}' belongs to mid_block.attentions.0.*Use Erase Concept with it"):
        erase(clip, sae=MID)


def test_an_sae_that_only_tells_what_is_drawn_is_not_sent_to_an_erase_node(clip, comfyui):
    write_random_sae(comfyui.base / "models" / "sae" / "drawn.safetensors", "mid_block.attentions.0", branch="uncond")
    with pytest.raises(ValueError, match="'drawn.safetensors' tells what is drawn.*Use it with Watch Concepts"):
        erase(clip, sae="drawn.safetensors")


def test_what_the_clip_does_not_have_is_refused(clip, comfyui):
    with pytest.raises(ValueError, match=f"no hookpoint 'text_encoder_2.*It has: {FIRST}"):
        erase(clip, sae=SECOND)
    write_random_sae(comfyui.base / "models" / "sae" / "wide.safetensors", FIRST, d=64)
    with pytest.raises(ValueError, match=f"'wide.safetensors' reads 64 channels, but {FIRST} has 48"):
        erase(clip, sae="wide.safetensors")
    with pytest.raises(ValueError, match="no concept 'dragon'"):
        erase(clip, "dragon")
    with pytest.raises(ValueError, match="'gone.safetensors' is not installed"):
        erase(clip, sae="gone.safetensors")


def test_a_layer_after_the_one_that_is_read_is_refused(clip, comfyui):
    erased = comfyui.nodes.CLIPSetLastLayer().set_last_layer(erase(clip, sae=TEXT_TOO), -2)[0]
    with pytest.raises(ValueError, match=f"{LAST} comes after layer 0.*CLIP Set Last Layer"):
        erased.encode(PROMPT)
    early = comfyui.nodes.CLIPSetLastLayer().set_last_layer(erase(clip), -2)[0]
    assert (early.encode(PROMPT) - clip.encode(PROMPT)).abs().max() > 0.01


def test_sdxl_reads_the_last_layer_but_one():
    small = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    options = {f"clip_{part}_model_config": small for part in "lg"} | {"dtype": torch.float32}
    target = ClipTarget(sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLClipModel)
    encoder = comfy.sd.CLIP(target, model_options=options, disable_dynamic=True).cond_stage_model
    for point in list_text_hookpoints(encoder):
        if point.name.endswith(".3"):
            with pytest.raises(HookpointError, match="after layer 2"):
                check_is_read(encoder, point)
        else:
            check_is_read(encoder, point)


def test_names_tell_text_encoders_from_blocks():
    assert is_text_hookpoint(LAST) and is_text_hookpoint("clip_g.transformer.text_model.encoder.layers.3")
    assert not is_text_hookpoint("up_blocks.1.attentions.1") and not is_text_hookpoint("transformer_blocks.3")
