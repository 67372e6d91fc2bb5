"""Reduced networks: what each has and has not, that every weight is used, and that the whole one is as it was."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.files.errors import BadInputError
from hemf_export.images.images import Preprocess
from hemf_export.networks import published
from hemf_export.networks.hemf.config import SIZES, HemfConfig
from hemf_export.networks.hemf.count import Count, count_parts
from hemf_export.networks.hemf.model import HEMF
from hemf_export.networks.hemf.variants import TABLE_10, VARIANTS, components, variant_of, vary
from hemf_export.networks.registry import build, count_parameters
from tests.conftest import CLASSES, TINY

SMALL = dataclasses.replace(TINY, image_size=32)
# Parameters of hemf-base for 7 classes, by hand from the equations: C = 96, 192, 384, 768; each step of a branch
# a patch projection and a layer norm.
CHANNELS = (96, 192, 384, 768)
STEPS = (48 * 96 + 96 + 192) + sum(c + 4 * (c // 2) * c + c for c in CHANNELS[1:])
ELFS = sum(4 * ((9 * c * c + c) + 2 * c + (9 * c + c) + (c * c + c)) for c in CHANNELS)
EGFS = sum(3 * (4 * (c * c + c) + (25 * c + c) + (c * c + c)) + 4 * c for c in CHANNELS)
HEAD = 2 * 768 + 768 * 7 + 7
PROJECTIONS = sum(2 * (c * c + 3 * c) for c in CHANNELS)  # W_l and W_g, with BatchNorms
JOINT_NORMS = sum((4 if c == 96 else 6) * c for c in CHANNELS)
JOINTS = sum((2 if c == 96 else 3) * c * c + 3 * c for c in CHANNELS)
PREVIOUS = sum(c // 2 * c + 3 * c for c in CHANNELS[1:])
OUTPUT_NORMS = sum(6 * c for c in CHANNELS)
SQUEEZES = sum(3 * c * c + 3 * c for c in CHANNELS)
BOTH = 2 * STEPS + ELFS + EGFS + HEAD + PROJECTIONS + JOINT_NORMS + JOINTS + PREVIOUS + OUTPUT_NORMS + SQUEEZES
NORMS = sum(2 * 2 * c for c in CHANNELS)  # of the attentions, one each
MHEAS = sum(2 * 2 * 64 * c // 8 for c in CHANNELS)
GATES = sum(2 * (98 + 2 * c * c // 16) for c in CHANNELS)
SIRMLPS = sum(3 * c * c + 3 * c + 9 * c * c + 2 * c + 8 * c * c + 2 * c for c in CHANNELS)
IRMLPS = sum(81 * c * c + 6 * c + 36 * c * c + 12 * c * c + 2 * c for c in CHANNELS)
PARAMETERS = {
    "local-only": STEPS + ELFS + HEAD,
    "global-only": STEPS + EGFS + HEAD,
    "both": BOTH,
    "both+mhea": BOTH + NORMS + MHEAS,
    "both+ca-sa": BOTH + NORMS + GATES,
    "both+mixed": BOTH + NORMS + MHEAS + GATES,
    "full": BOTH + NORMS + MHEAS + GATES - SQUEEZES + SIRMLPS,
    "full-irmlp": BOTH + NORMS + MHEAS + GATES - SQUEEZES + IRMLPS,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_has_the_shapes_the_parameters_and_gradients_that_it_should(variant):
    config = vary(TINY, variant)
    model = build(config, seed=0)
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 64)
    logits = model(images)
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []
    with torch.no_grad():
        features = model.eval().features(images)
    assert [bool(features.local), bool(features.global_)] == list(components(variant)[:2])
    assert [tuple(maps.shape) for maps in features.fused] == [(4, 32 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)]
    own = sum(parameter.numel() for parameter in model.parameters())
    assert own == count_parameters(config) == sum(count_parts(config).values(), Count()).parameters


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_of_the_papers_size_are_those_of_the_equations(variant):
    assert count_parameters(vary(SIZES["hemf-base"], variant)) == PARAMETERS[variant]


def test_the_ticks_of_table_10_are_as_printed():
    assert [components(variant) for variant in TABLE_10] == [row[:5] for row in published.TABLE_10]


def test_table_3_counts_what_a_network_with_irmlp_really_has():
    with torch.device("meta"):
        stages = HEMF(vary(SIZES["hemf-base"], "full-irmlp")).fusion_stages
    counted = [f"{sum(value.numel() for value in stage.mlp.parameters()) / 1e6:.3f}" for stage in stages]
    assert counted == [f"{row.irmlp_parameters:.3f}" for row in published.TABLE_3]


def test_parts_are_named_by_what_they_are():
    assert set(count_parts(vary(SMALL, "local-only"))) == {"stem and downsampling", "ELF", "head"}
    assert {"HEF: IRMLP", "HEF: Mixed Attention"} <= set(count_parts(vary(SMALL, "full-irmlp")))
    assert {"HEF: MHEA", "HEF: projection for SIRMLP"} <= set(count_parts(vary(SMALL, "both+mhea")))


def test_the_gates_alone_are_mixed_attention_whose_memory_adds_nothing():
    """With an MHEA of ones, m = LN(LN(x)), and a norm of what is normalized is the same: the gates see LN(x)."""
    whole = build(vary(SMALL, "both+mixed"), seed=1).fusion_stages[0].local_attention.eval()
    gates = build(vary(SMALL, "both+ca-sa"), seed=1).fusion_stages[0].local_attention.eval()
    gates.load_state_dict({name: value for name, value in whole.state_dict().items() if "mhea" not in name})
    torch.manual_seed(0)
    maps = torch.randn(1, 32, 8, 8)
    with torch.no_grad():
        expected = gates(maps)
        whole.mhea.forward = lambda rows, tokens: torch.ones_like(rows)
        torch.testing.assert_close(whole(maps), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_says_which_network_it_is(tmp_path, variant):
    config = vary(SMALL, variant)
    state = build(config, seed=0).state_dict()
    path = tmp_path / "m.pt"
    checkpoint.save(Checkpoint(config, CLASSES, Preprocess.for_size(32), state), path)
    loaded = checkpoint.load(path)
    assert (loaded.config, variant_of(loaded.config)) == (config, variant)
    assert HemfConfig.from_dict(config.to_dict()) == config


def test_the_whole_network_is_described_as_before_there_were_others():
    assert set(TINY.to_dict()) == {
        "name", "num_classes", "width", "image_size", "elf_depth", "egf_depth", "heads", "memory_slots",
    }  # fmt: skip
    assert vary(SMALL, "full") is SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"branches": "locale"}, "Did you mean 'local'"),
        ({"mlp": ["sirmlp"]}, "No mlp"),
        ({"branches": "local"}, "no fusion"),
        ({"branches": "global", "attention": "none"}, "no fusion"),
        ({"mlp": "none"}, "Choose 'projection'"),
    ],
)
def test_choices_that_give_no_network_are_refused(change, message):
    with pytest.raises(BadInputError) as refused:
        HemfConfig.from_dict({**SMALL.to_dict(), **change})
    assert message in str(refused.value)


def test_an_unknown_variant_is_refused_with_the_nearest():
    with pytest.raises(BadInputError) as refused:
        vary(SMALL, "both+mhae")
    assert refused.value.hint == "Did you mean 'both+mhea'?"
