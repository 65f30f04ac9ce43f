"""The largest pre_acts: screening in bf16 never loses what fp32 would have chosen."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sae_eraser.sae_ops.bf16 import bf16_linear, is_fast_at_bf16, with_fp32_sums
from sae_eraser.sae_ops.largest import ScreenedEncoder, chosen_dots, largest

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


def test_the_bound_holds_where_the_bias_alone_is_rounded():
    """Vectors and weights that are in bf16 already have exact products, which the bias nearly cancels."""
    x, weight, _ = (tensor.bfloat16().float() for tensor in random_product(1, 500, 96, 0))
    bias = 1 - F.linear(x, weight)[0]
    rough = bf16_linear(weight, bias)(x.bfloat16()).float()
    assert (rough - 1).abs().amax() <= ScreenedEncoder(weight, bias, CPU, True).error(x, rough.abs().amax(dim=1))


@pytest.mark.parametrize("spread", [0, 3])
def test_the_largest_are_those_of_fp32(spread):
    x, weight, bias = random_product(700, 4096, 96, spread)
    values, latents = ScreenedEncoder(weight, bias, CPU, True).largest(x, 16)
    expected, places = largest(x, partial(F.linear, weight=weight, bias=bias), 16)
    assert torch.equal(latents.sort().values, places.sort().values)
    torch.testing.assert_close(values.sort().values, expected.sort().values, rtol=1e-5, atol=1e-4)


def expected_largest(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, latents: torch.Tensor, count: int
) -> torch.Tensor:
    """By the definition: positive, and fewer than `count` others are larger. In fp64."""
    pre_acts = F.linear(x.double(), weight.double(), bias.double())
    above = torch.stack([(pre_acts > own[:, None]).sum(dim=1) for own in pre_acts[:, latents].T], dim=1)
    return (above < count) & (pre_acts[:, latents] > 0)


def found_largest(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, latents: torch.Tensor, count: int, screens: bool = True
) -> torch.Tensor:
    z = F.linear(x, weight[latents], bias[latents]).relu()
    return ScreenedEncoder(weight, bias, CPU, screens).are_largest(x, latents, z, count)


@pytest.mark.parametrize("screens", [True, False])
@pytest.mark.parametrize("n, count, spread", [(4096, 16, 0), (4096, 16, 3), (1001, 16, 0), (512, 100, 0), (24, 16, 0)])
def test_are_largest_is_the_definition(screens, n, count, spread):
    x, weight, bias = random_product(700, n, 96, spread)
    latents = torch.randperm(n, generator=torch.Generator().manual_seed(1))[:20]
    expected = expected_largest(x, weight, bias, latents, count)
    assert torch.equal(found_largest(x, weight, bias, latents, count, screens), expected)
    assert expected.sum() > 20 and not expected.all(dim=0).any()


def test_are_largest_when_most_of_the_largest_are_asked_for():
    x, weight, bias = random_product(700, 4096, 96, 0)
    bias[:60] += 25
    latents = torch.arange(80).flip(0)
    expected = expected_largest(x, weight, bias, latents, 16)
    assert torch.equal(found_largest(x, weight, bias, latents, 16), expected)
    assert expected.sum(dim=1).float().mean() > 12


@pytest.mark.parametrize("screens", [True, False])
@pytest.mark.parametrize("size", [2, 40])
def test_are_largest_with_whole_numbers(screens, size):
    """All that tie for the 16th place are among the largest. With size 2 the products are exact in bf16, too, and most
    vectors have ties; with size 40 the factors still are, but the products are rounded."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-size, size + 1, (300, 12), generator=generator).float()
    weight = torch.randint(-size, size + 1, (2048, 12), generator=generator).float()
    weight[1024:1536] = weight[:512]
    bias = torch.randint(-1, 2, (2048,), generator=generator).float()
    latents = torch.arange(0, 2048, 9)
    expected = expected_largest(x, weight, bias, latents, 16)
    assert torch.equal(found_largest(x, weight, bias, latents, 16, screens), expected)
    pre_acts = F.linear(x, weight, bias)
    tied = (pre_acts >= pre_acts.topk(16).values[:, -1:]).sum(dim=1) > 16
    assert tied.float().mean() > (0.8 if size == 2 else 0.02)


@pytest.mark.parametrize("bias_of_all", [-28.0, -1000.0])
def test_are_largest_where_fewer_than_count_are_positive(bias_of_all):
    x, weight, bias = random_product(300, 4096, 96, 0)
    latents = torch.arange(0, 4096, 41)
    expected = expected_largest(x, weight, bias + bias_of_all, latents, 16)
    assert torch.equal(found_largest(x, weight, bias + bias_of_all, latents, 16), expected)
    assert expected.any() == (bias_of_all == -28)
    assert (F.linear(x, weight, bias + bias_of_all) > 0).sum(dim=1).amin() < 16


@pytest.mark.parametrize("n, count", [(4096, 16), (512, 40)])
def test_are_largest_where_bf16_says_nothing(n, count):
    """Two channels are so large that their rounding hides all others, but together no latent reads them."""
    x, weight, bias = random_product(300, n, 96, 0)
    x[::2, :2], weight[:, 1] = torch.tensor([1036.1, 1035.9]), -weight[:, 0]
    latents = torch.arange(20)
    bound = ScreenedEncoder(weight, bias, CPU, True).error(x, 0)
    assert (bound[::2] > F.linear(x, weight, bias).amax(dim=1)[::2]).all()
    expected = expected_largest(x, weight, bias, latents, count)
    assert torch.equal(found_largest(x, weight, bias, latents, count), expected)
    assert expected[::2].any() and expected[1::2].any()


def test_are_largest_where_bf16_is_far_off():
    """Two channels nearly cancel each other; what is left of them is lost in bf16."""
    x, weight, bias = random_product(300, 4096, 96, 0)
    x[:, :2] += 300
    weight[:, 1] = -weight[:, 0]
    latents = torch.arange(3)
    bias[latents] += 26
    expected = expected_largest(x, weight, bias, latents, 16)
    assert torch.equal(found_largest(x, weight, bias, latents, 16), expected)
    rough = bf16_linear(weight, bias)(x.bfloat16()).float()
    of_bf16 = rough[:, latents] >= rough.topk(16).values[:, -1:]
    assert (of_bf16 != expected).sum() > 5


@pytest.mark.parametrize("copies", [60, 400])
def test_are_largest_among_latents_that_bf16_cannot_tell_apart(copies):
    """Copies of one latent, each a little longer than the one before; all vectors look like it."""
    x, weight, bias = random_product(300, 2048, 96, 0)
    weight[:copies] = weight[0] * torch.linspace(1, 1.002, copies)[:, None]
    x = weight[0] * torch.linspace(0.3, 3, 300)[:, None] + 0.1 * x
    bias.zero_()
    latents = torch.arange(copies - 30, copies)
    expected = expected_largest(x, weight, bias, latents, 16)
    assert torch.equal(found_largest(x, weight, bias, latents, 16), expected)
    assert expected.float().mean() > 0.4 and not expected.all(dim=1).any()


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


@pytest.mark.parametrize("capability, fast", [((7, 5), False), ((8, 6), True)])
def test_a_gpu_that_only_emulates_bf16_is_not_fast_at_it(monkeypatch, capability, fast):
    """torch calls it supported on both."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert is_fast_at_bf16(torch.device("cuda")) == fast


def test_sums_are_not_rounded_on_gpus():
    """Their bound is that of fp32; what others have set is left as it was."""
    settings, seen = torch.backends.cuda.matmul, []
    before = settings.allow_bf16_reduced_precision_reduction

    def linear(x):
        seen.append(settings.allow_bf16_reduced_precision_reduction)
        return x if len(seen) == 1 else x.nonsense

    product = with_fp32_sums(linear)
    product(torch.ones(1))
    with pytest.raises(AttributeError):
        product(torch.ones(1))
    assert seen == [False, False]
    assert settings.allow_bf16_reduced_precision_reduction == before


def test_chosen_dots_are_those_of_the_dense_product():
    x, table, _ = random_product(4, 10, 6, 0)
    rows, starts = torch.tensor([3, 9, 0, 3, 5, 5]), torch.tensor([0, 2, 2, 5])  # the second vector has none
    owners = torch.tensor([0, 0, 2, 2, 2, 3])
    torch.testing.assert_close(chosen_dots(x, table, rows, starts), (x @ table.T)[owners, rows])
