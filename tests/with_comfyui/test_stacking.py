"""Several erasers, and a LoRA on the same block: the order does not matter."""

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from sae_eraser.nodes.erase.erase_concepts import EraseConcepts
from sae_eraser.nodes.files.load_sae import LoadSAE
from sae_eraser.nodes.hooks.block_hooks import get_hooks
from with_comfyui.random_files import MID, MID_TOO, UP, write_random_sae
from with_comfyui.sampling import differs, erase


def chain(model, *erasers: tuple[str, str]):
    for concept, sae in erasers:
        model = erase(model, concept, sae)
    return model


@pytest.mark.parametrize(
    "first, second",
    [
        (("disc", MID), ("wavy", MID)),
        (("box", MID), ("grainy", MID)),
        (("disc", MID), ("disc", MID_TOO)),
        (("disc", MID), ("disc", UP)),
    ],
    ids=["one SAE", "a shared latent", "two SAEs at one block", "two blocks"],
)
def test_two_erasers_in_either_order_draw_the_same(model, sample, first, second):
    both, other_way_round = sample(chain(model, first, second)), sample(chain(model, second, first))
    torch.testing.assert_close(both, other_way_round, rtol=1e-4, atol=1e-4)
    assert all(differs(both, sample(chain(model, eraser))) for eraser in (first, second))


def test_chained_nodes_on_one_sae_become_one_hook_with_one_encode(model, sample, encodes):
    chained = chain(model, ("disc", MID), ("box", MID), ("wavy", MID), ("disc", UP), ("grainy", MID))
    assert len(get_hooks(chained)) == 2
    sample(chained, steps=2)
    assert len(encodes) == 2 * 2


def test_one_node_with_several_concepts_is_a_chain(model, sample):
    sae = LoadSAE.execute(MID).result[0]
    advanced = {"start_percent": 0.0, "end_percent": 1.0, "mode": "scale", "branch": "both"}
    several = EraseConcepts.execute(model, sae, "disc, style: WAVY: 0.5\nbox: 0", **advanced).result[0]
    assert torch.equal(sample(several), sample(erase(erase(model, "disc"), "wavy", strength=0.5)))


def test_one_node_with_strengths_of_0_is_no_node(model):
    sae = LoadSAE.execute(MID).result[0]
    assert EraseConcepts.execute(model, sae, "disc: 0, box: 0.0", 0.0, 1.0, "scale", "both").result[0] is model


def test_erasing_the_same_concept_twice_is_erasing_it_once(model, sample):
    assert torch.equal(sample(erase(erase(model))), sample(erase(model)))


def test_an_sae_is_one_however_many_were_opened_since(comfyui, model, sample):
    files = [f"many_{index}.safetensors" for index in range(6)]
    for index, file in enumerate(files):
        write_random_sae(comfyui.base / "models" / "sae" / file, "mid_block.attentions.0", seed=index)
    once = erase(model, "disc", files[0])
    for file in files[1:]:
        LoadSAE.execute(file)
    twice = erase(once, "disc", files[0])
    assert len(get_hooks(twice)) == 1
    assert torch.equal(sample(twice), sample(once))


@pytest.fixture(scope="module")
def lora(comfyui) -> str:
    """A small random LoRA on the block in the middle, in models/loras."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, width in [("proj_out", 128), ("transformer_blocks.0.attn1.to_q", 128)]:
        key = f"diffusion_model.middle_block.1.{name}"
        tensors[f"{key}.lora_up.weight"] = 0.2 * torch.randn(width, 4, generator=generator)
        tensors[f"{key}.lora_down.weight"] = 0.2 * torch.randn(4, width, generator=generator)
    folder = comfyui.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "random.safetensors")
    assert "random.safetensors" in folder_paths.get_filename_list("loras")
    return "random.safetensors"


def test_a_lora_on_the_same_block_before_or_after_draws_the_same(comfyui, model, sample, lora):
    def with_lora(patched):
        return comfyui.nodes.LoraLoaderModelOnly().load_lora_model_only(patched, lora, 1.0)[0]

    plain = sample(model)
    after = sample(with_lora(erase(model)))
    before = sample(erase(with_lora(model)))
    assert torch.equal(after, before)
    assert all(differs(after, sample(other)) for other in (model, with_lora(model), erase(model)))
    assert torch.equal(sample(model), plain)
