"""On a GPU all is what it is on the CPU. Skipped where there is none."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from pure.random_sae import CONCEPTS, random_sae, random_statistics
from sae_eraser.sae_ops.autoencoder import ACTIVATIONS, SAEConfig
from sae_eraser.sae_ops.edit import ConceptEdit
from sae_eraser.sae_ops.erasure import MODES, PAPER_COMPAT, STEER, Erasure
from sae_eraser.sae_ops.largest import ScreenedEncoder
from sae_eraser.sae_ops.masks import Place
from sae_eraser.sae_ops.paper_edit import PaperEdit
from sae_eraser.training.config import TrainingConfig
from sae_eraser.training.learner import Learner, new_autoencoder
from sae_eraser.training.sparse import reconstruct

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SIGMA, IS_COND = torch.tensor([0.3, 1.0, 4.0]), torch.tensor([True, True, False])


def maps() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 12, 5, 7, generator=generator) * (torch.rand(3, 1, 5, 7, generator=generator) > 0.3)


@pytest.mark.parametrize("activation, mode", product(ACTIVATIONS, [*MODES, STEER]))
def test_an_edit(activation, mode):
    erasures = (Erasure(0, mode=mode), Erasure(1, 0.5, mode="scale"), Erasure(3, branch="cond", mode="clamp"))
    edit = ConceptEdit(random_sae(activation), CONCEPTS, random_statistics(), erasures)
    expected = edit(maps(), SIGMA, IS_COND)
    result = edit.to(torch.device("cuda"))(maps().cuda(), SIGMA.cuda(), IS_COND.cuda())
    assert not torch.equal(expected, maps())
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(result.cpu() == maps(), expected == maps())


def test_an_edit_with_a_mask():
    mask = torch.zeros(1, 4, 6)
    mask[:, :, :3] = 0.5
    edit = ConceptEdit(random_sae(), CONCEPTS, random_statistics(), (Erasure(0, mask=mask), Erasure(1)))
    place = Place((5, 7), (5, 7), (5, 7), ((0, 0),), 3, (0, 1, 2))
    expected = edit(maps(), SIGMA, IS_COND, place)
    result = edit.to(torch.device("cuda"))(maps().cuda(), SIGMA.cuda(), IS_COND.cuda(), place)
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_edit_across_the_calls_of_a_run(activation):
    calls = [maps() * size for size in (1.0, 0.6, 0.2)]
    means = random_sae(activation).encode(calls[0].flatten(2).mT).mean(dim=1)[:, [0, 1, 5, 2, 5, 7]].sort(dim=0).values
    bars = (means[0] + means[1]) / 2  # two of the three pictures have more
    statistics = replace(random_statistics(), detection=bars.expand(3, -1), positions=torch.tensor(35))
    edit = ConceptEdit(random_sae(activation), CONCEPTS, statistics, (Erasure(0), Erasure(1), Erasure(2)))
    on_gpu, shown = edit.to(torch.device("cuda")), torch.zeros(3, 6, dtype=torch.bool)
    shown_on_gpu = shown.cuda()
    for call in calls:
        expected = edit(call, SIGMA, IS_COND, shown=shown)
        result = on_gpu(call.cuda(), SIGMA.cuda(), IS_COND.cuda(), shown=shown_on_gpu)
        torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(shown_on_gpu.cpu(), shown)
    assert not torch.equal(expected, calls[-1]) and not shown.all()


def test_the_papers_edit():
    edit = PaperEdit(random_sae("topk"), CONCEPTS, random_statistics(), (Erasure(0, mode=PAPER_COMPAT),))
    expected = edit(maps(), SIGMA, IS_COND)
    result = edit.to(torch.device("cuda"))(maps().cuda(), SIGMA.cuda(), IS_COND.cuda())
    torch.testing.assert_close(result.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n, count", [(4096, 16), (1001, 16), (512, 100)])
def test_which_latents_are_among_the_largest(n, count):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(700, 96, generator=generator), torch.randn(n, 96, generator=generator)
    bias, latents = torch.randn(n, generator=generator), torch.arange(24)
    pre_acts = F.linear(x.double(), weight.double(), bias.double())
    above = torch.stack([(pre_acts > own[:, None]).sum(dim=1) for own in pre_acts[:, latents].T], dim=1)
    expected = (above < count) & (pre_acts[:, latents] > 0)
    cuda = torch.device("cuda")
    for weights_on in ("cuda", "cpu"):
        encoder = ScreenedEncoder(weight, bias, cuda).to(weights_on)
        z = F.linear(x, weight[latents], bias[latents]).relu()
        assert torch.equal(encoder.are_largest(x.cuda(), latents.cuda(), z.cuda(), count).cpu(), expected)
        values, found = encoder.largest(x.cuda(), count)
        assert torch.equal(found.cpu().sort().values, pre_acts.topk(count).indices.sort().values)
        torch.testing.assert_close(values.sort().values.cpu(), pre_acts.topk(count).values.flip(1).float())


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_the_gradients_of_training(activation):
    x = torch.randn(700, 12, generator=torch.Generator().manual_seed(0))
    gradients = {}
    for device in ("cpu", "cuda"):
        sae = random_sae(activation).requires_grad_(True).to(device)
        reconstruction, _ = reconstruct(sae, x.to(device), torch.float32)
        (reconstruction - x.to(device)).square().sum().backward()
        gradients[device] = {name: parameter.grad.cpu() for name, parameter in sae.named_parameters()}
    for name, expected in gradients["cpu"].items():
        torch.testing.assert_close(gradients["cuda"][name], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training(precision):
    vectors = torch.randn(4096, 48, generator=torch.Generator().manual_seed(0)).relu() ** 2
    fvu = {}
    for device in ("cpu", "cuda"):
        sae = new_autoencoder(SAEConfig(48, 256, "batchtopk", 4), vectors, seed=0).to(device)
        learner = Learner(sae, TrainingConfig(precision=precision))
        fvu[device] = [learner.reconstruct(vectors.to(device), step / 30)["fvu"].item() for step in range(30)]
        torch.testing.assert_close(sae.W_dec.norm(dim=1).cpu(), torch.ones(256))
    assert fvu["cuda"] == pytest.approx(fvu["cpu"], rel=0.01)
    assert fvu["cuda"][-1] < 0.9 * fvu["cuda"][0]
