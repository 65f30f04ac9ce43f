"""The largest pre_acts: screening in bf16 never loses what fp32 would have chosen."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sae_eraser.sae_ops.largest import ScreenedEncoder, bf16_linear, chosen_dots, largest

CPU = torch.device("cpu")


def random_product(vectors: int, n: int, d: int, spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, weight and bias; with a spread some channels are far larger than others."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(vectors, d, generator=generator) * torch.logspace(0, spread, d)
    return x, torch.randn(n, d, generator=generator), torch.randn(n, generator=generator)


@pytest.mark.parametrize("spread", [0, 3])
def test_the_error_of_bf16_stays_below_its_bound(spread):
    x, weight, bias = random_product(200, 500, 96, spread)
    exact = F.linear(x.double(), weight.double(), bias.double())
    rough = bf16_linear(weight, bias)(x.bfloat16())
    error = (rough.double() - exact).abs().amax(dim=1)
    bound = ScreenedEncoder(weight, bias, CPU, True).error(x, rough.float().abs().amax(dim=1))
    assert (error <= bound).all()
    assert (error > bound / 100).all(), "a bound that says nothing"


@pytest.mark.parametrize("spread", [0, 3])
def test_the_largest_are_those_of_fp32(spread):
    x, weight, bias = random_product(700, 4096, 96, spread)
    values, latents = ScreenedEncoder(weight, bias, CPU, True).largest(x, 16)
    expected, places = largest(x, partial(F.linear, weight=weight, bias=bias), 16)
    assert torch.equal(latents.sort().values, places.sort().values)
    torch.testing.assert_close(values.sort().values, expected.sort().values, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("screens", [True, False])
@pytest.mark.parametrize("n, count", [(4096, 16), (24, 16)])
def test_are_largest_says_what_the_largest_of_fp32_say(screens, n, count):
    x, weight, bias = random_product(700, n, 96, 0)
    latents = torch.tensor([5, 3, 17, 20])
    pre_acts = F.linear(x, weight[latents], bias[latents])
    found = ScreenedEncoder(weight, bias, CPU, screens).are_largest(x, latents, pre_acts, count)
    _, chosen = largest(x, partial(F.linear, weight=weight, bias=bias), count)
    expected = (chosen[:, :, None] == latents).any(dim=1)
    assert torch.equal(found, expected)
    assert expected.any(dim=0).all() and not expected.all()


def test_latents_that_bf16_cannot_tell_apart_are_told_apart():
    """400 copies of one latent, each a little longer than the one before."""
    x, weight, bias = random_product(50, 1000, 96, 0)
    weight[:400] = weight[0] * torch.linspace(1, 1.001, 400)[:, None]
    bias.zero_()
    _, latents = ScreenedEncoder(weight, bias, CPU, True).largest(x, 16)
    _, expected = largest(x, partial(F.linear, weight=weight, bias=bias), 16)
    assert torch.equal(latents.sort().values, expected.sort().values)
    _, rough = largest(x.bfloat16(), bf16_linear(weight, bias), 16)
    assert not torch.equal(rough.sort().values, expected.sort().values)


def test_chosen_dots_are_those_of_the_dense_product():
    x, table, _ = random_product(4, 10, 6, 0)
    rows, starts = torch.tensor([3, 9, 0, 3, 5, 5]), torch.tensor([0, 2, 2, 5])  # the second vector has none
    owners = torch.tensor([0, 0, 2, 2, 2, 3])
    torch.testing.assert_close(chosen_dots(x, table, rows, starts), (x @ table.T)[owners, rows])
