"""Writes the reference files beside it: small SAEs saved by the peers' own code, and what that code answers.

    make .venv-bench/.ready
    SPARSIFY_DISABLE_TRITON=1 .venv-bench/bin/python tests/pure/references/make_references.py

Each folder holds one checkpoint as eai-sparsify 1.3.3, sae-lens 6.54.12, dictionary-learning 0.1.0 or overcomplete
0.3.0 writes it, random weights of d = 12 and n = 48, and expected.safetensors with the input x [16, 12], the latents
z [16, 48] and the reconstruction x_hat [16, 12], all in fp32. given.json is what the checkpoint leaves out.
test_formats.py compares with them, so that no test needs the peers.
"""

import json
import shutil
from pathlib import Path

import torch
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from overcomplete.sae import BatchTopKSAE as OvercompleteBatchTopK
from overcomplete.sae import JumpSAE, TopKSAE
from sae_lens import SAE as LensSAE
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAEConfig,
    JumpReLUSAEConfig,
    StandardSAEConfig,
    TopKSAEConfig,
)
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig

HERE = Path(__file__).parent
D, N, K = 12, 48, 5


def main() -> None:
    for case in (*sparsify_cases(), *saelens_cases(), *dictionary_learning_cases(), *overcomplete_cases()):
        print(case)


def randomise(module: torch.nn.Module) -> None:
    """Every tensor, thresholds around what half of the latents exceed."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            match name.rpartition(".")[2]:
                case "threshold" | "running_var":
                    tensor.data = torch.rand_like(tensor) * 0.4 + 0.5
                case "multiplier":
                    tensor.data = torch.full_like(tensor, 0.3)
                case "thresholds":
                    tensor.data = torch.rand_like(tensor) - 1.5
                case _:
                    tensor.data = torch.randn_like(tensor) * (0.3 if tensor.ndim > 1 else 0.2)


def folder_of(case: str) -> Path:
    folder = HERE / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(len(case))
    return folder


def vectors() -> torch.Tensor:
    return torch.randn(16, D) + 0.3 * torch.randn(D)


def expect(folder: Path, x: torch.Tensor, z: torch.Tensor, x_hat: torch.Tensor) -> str:
    tensors = {"x": x, "z": z, "x_hat": x_hat}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / "expected.safetensors")
    return f"{folder.name}: {(z > 0).float().sum(dim=1).mean():.1f} of {N} latents fire"


def sparsify_cases():
    for activation, k in (("topk", K), ("groupmax", 6)):
        folder = folder_of(f"sparsify_{activation}")
        made = SparseCoder(D, SparseCoderConfig(num_latents=N, k=k, activation=activation))
        randomise(made)
        made.save_to_disk(folder)
        loaded, x = SparseCoder.load_from_disk(folder), vectors()
        values, indices, _ = loaded.encode(x)
        yield expect(folder, x, torch.zeros(16, N).scatter(1, indices, values), loaded.decode(values, indices))


def saelens_cases():
    sizes = {"d_in": D, "d_sae": N}
    configs = {
        "standard": StandardSAEConfig(**sizes),
        "standard_b_dec_left_in": StandardSAEConfig(**sizes, apply_b_dec_to_input=False),
        "standard_layer_norm": StandardSAEConfig(**sizes, normalize_activations="layer_norm"),
        "topk": TopKSAEConfig(**sizes, k=K),
        "topk_rescaled": TopKSAEConfig(**sizes, k=K, rescale_acts_by_decoder_norm=True),
        "topk_constant_norm": TopKSAEConfig(**sizes, k=K, normalize_activations="constant_norm_rescale"),
        "jumprelu": JumpReLUSAEConfig(**sizes),
        "gated": GatedSAEConfig(**sizes),
    }
    for case, config in configs.items():
        folder = folder_of(f"saelens_{case}")
        made = LensSAE.from_dict(config.to_dict())
        randomise(made)
        made.save_model(folder)
        yield lens_answers(folder)
    folder = folder_of("saelens_batchtopk")
    trained = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**sizes, k=K, rescale_acts_by_decoder_norm=True))
    randomise(trained)
    trained.topk_threshold.fill_(0.9)
    trained.save_inference_model(folder)
    yield lens_answers(folder)


def lens_answers(folder: Path) -> str:
    loaded, x = LensSAE.load_from_disk(folder), vectors()
    z = loaded.encode(x)
    return expect(folder, x, z, loaded.decode(z))


def dictionary_learning_cases():
    modules = {
        "AutoEncoder": AutoEncoder(D, N),
        "AutoEncoderNew": AutoEncoderNew(D, N),
        "GatedAutoEncoder": GatedAutoEncoder(D, N),
        "JumpReluAutoEncoder": JumpReluAutoEncoder(D, N),
        "AutoEncoderTopK": AutoEncoderTopK(D, N, K),
        "BatchTopKSAE": BatchTopKSAE(D, N, K),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(D, N, K, [16, 32]),
    }
    for name, made in modules.items():
        folder = folder_of(f"dictionary_learning_{name}")
        randomise(made)
        torch.save(made.state_dict(), folder / "ae.pt")
        (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": name, "k": K}}))
        if name == "AutoEncoderTopK":  # their from_pretrained returns nothing
            loaded = made
        elif name in ("AutoEncoderNew", "GatedAutoEncoder"):
            loaded = type(made).from_pretrained(folder / "ae.pt")
        else:
            loaded, _ = load_dictionary(str(folder), device="cpu")
        x = vectors()
        z = loaded.encode(x)
        yield expect(folder, x, z, loaded.decode(z))


def overcomplete_cases():
    modules = {
        "topk": TopKSAE(D, N, top_k=K),
        "topk_batch_norm": TopKSAE(D, N, top_k=K, encoder_module="mlp_bn_1"),
        "topk_multiplied": TopKSAE(D, N, top_k=K, dictionary_params={"use_multiplier": True}),
        "topk_tied": TopKSAE(D, N, top_k=K).tied(bias=True),
        "jump": JumpSAE(D, N),
        "batchtopk": OvercompleteBatchTopK(D, N, top_k=16 * K),
    }
    for case, made in modules.items():
        folder = folder_of(f"overcomplete_{case}")
        randomise(made)
        if case == "batchtopk":
            for _ in range(3):  # sets the running threshold
                made(vectors())
            (folder / "given.json").write_text(json.dumps({"threshold": float(made.running_threshold)}))
        elif case != "jump":
            (folder / "given.json").write_text(json.dumps({"k": K}))
        made.eval()
        torch.save(made.state_dict(), folder / "sae.pt")
        x = vectors()
        _, z = made.encode(x)
        yield expect(folder, x, z, made.decode(z))


if __name__ == "__main__":
    main()
