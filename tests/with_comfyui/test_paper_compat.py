"""The mode paper_compat on the node: SAeUron's edit, and never mixed with ours."""

import pytest
import torch

from sae_eraser.nodes.files.sae_files import open_sae
from sae_eraser.nodes.hooks.block_hooks import get_hooks
from sae_eraser.sae_ops.edit import PAPER_COMPAT, Erasure
from sae_eraser.sae_ops.paper_edit import PaperEdit
from with_comfyui.random_files import MID, MID_TOO, UP
from with_comfyui.sampling import differs, erase


@pytest.mark.parametrize("sae", [MID, UP])
def test_the_node_makes_the_papers_edit(model, sample, sae):
    erased = erase(model, sae=sae, mode=PAPER_COMPAT)
    assert differs(sample(erased), sample(erase(model, sae=sae)))
    loaded = open_sae(sae)
    paper = PaperEdit(loaded.autoencoder, loaded.header.concepts, loaded.statistics, (Erasure(0, mode=PAPER_COMPAT),))
    x = torch.randn(2, 128, 4, 4, generator=torch.Generator().manual_seed(0))
    arguments = x, torch.ones(2), torch.tensor([True, False])
    assert torch.equal(get_hooks(erased)[0].function(*arguments), paper(*arguments))


@pytest.mark.parametrize("first, second", [(PAPER_COMPAT, "scale"), ("ablate", PAPER_COMPAT)])
def test_it_is_refused_beside_another_mode_of_the_same_sae(model, first, second):
    with pytest.raises(ValueError, match=f"{PAPER_COMPAT} cannot be combined .*{MID}.*all of its erase nodes"):
        erase(erase(model, "disc", MID, mode=first), "wavy", MID, mode=second)
    erase(erase(model, "disc", MID, mode=first), "wavy", MID_TOO, mode=second)
