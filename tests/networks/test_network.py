"""The network: the authors' numbers, an independent transcription, any input size, each part on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.naive import NaiveHEMF
from hemf_export.files.errors import BadInputError
from hemf_export.networks.hemf.authors import convert, infer_config
from hemf_export.networks.hemf.config import SIZES, HemfConfig
from hemf_export.networks.hemf.count import Count, count_mlp, count_parts
from hemf_export.networks.hemf.fusion import HEF, IRMLP, SIRMLP
from hemf_export.networks.hemf.global_branch import EGF
from hemf_export.networks.hemf.local_branch import ELF
from hemf_export.networks.hemf.mixed_attention import MixedAttention
from hemf_export.networks.hemf.model import HEMF
from hemf_export.networks.published import TABLE_3
from hemf_export.networks.registry import build, registered
from tests.conftest import TINY

TOLERANCE = 1e-5


def authors_model(authors, classes: int, seed: int) -> tuple[HEMF, dict[str, torch.Tensor]]:
    state = {key: torch.from_numpy(np.array(value)) for key, value in authors.state_dict(classes, seed).items()}
    converted, _ = convert(state)
    model = build(infer_config(converted), seed=0).eval()
    model.load_state_dict(converted)
    return model, state


def normalized(authors, seed: int, count: int = 4) -> torch.Tensor:
    return (torch.from_numpy(authors.images(seed, count)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5


def test_logits_and_every_stage_agree_with_the_authors_model(authors, shared):
    golden = np.load(shared / "authors-model" / "golden_seed0.npz")
    model, _ = authors_model(authors, 7, 0)
    with torch.no_grad():
        features = model.features(normalized(authors, 0))
        logits = model(normalized(authors, 0))
    assert np.abs(logits.numpy() - golden["logits"]).max() < TOLERANCE
    for branch, maps in zip(("local", "global", "fused"), features, strict=True):
        for stage, values in enumerate(maps, 1):
            wide = values.double()
            mean = wide.mean((2, 3)).numpy() - golden[f"{branch}_{stage}_channel_mean"]
            deviation = wide.std((2, 3)).numpy() - golden[f"{branch}_{stage}_channel_std"]
            assert max(np.abs(mean).max(), np.abs(deviation).max()) < TOLERANCE, (branch, stage)


def test_gradients_in_training_agree_with_an_independent_transcription():
    """Training takes a shorter way through external attention than evaluation and export do."""
    torch.manual_seed(0)
    naive = NaiveHEMF(3, width=32, elf=1, egf=1).train()
    for name, value in naive.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5)
        elif name.endswith("angle"):
            value.copy_((1.0 / 10000 ** torch.linspace(0, 1, len(value) // 2)).repeat_interleave(2))
        elif name.endswith("decay"):
            value.copy_(torch.log(1 - 2.0 ** (-1 - 3 * torch.arange(len(value)) / len(value))))
    converted, _ = convert(naive.state_dict())
    ours = HEMF(TINY)
    ours.load_state_dict(converted)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    losses = [torch.nn.functional.cross_entropy(model.train()(images), labels) for model in (naive, ours)]
    assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-5)
    for loss in losses:
        loss.backward()
    gradients = {name: each.grad for name, each in naive.named_parameters() if each.grad is not None}
    expected, _ = convert({**naive.state_dict(), **gradients})
    largest = max(float(expected[name].abs().max()) for name, _ in ours.named_parameters())
    for name, parameter in ours.named_parameters():
        assert float((parameter.grad - expected[name]).abs().max()) < 1e-4 * largest, name


def test_external_attention_is_the_same_in_training_and_evaluation():
    torch.manual_seed(0)
    attention = MixedAttention(64).mhea
    rows = torch.randn(2 * 49, 64)
    with torch.no_grad():
        ways = [attention.train(training)(rows, 49) for training in (True, False)]
    assert torch.allclose(*ways, rtol=1e-4, atol=1e-6)
    far = rows * 1e4  # logits of thousands, whose softmax is 0 in all but one place
    with torch.no_grad():
        assert torch.isfinite(attention.train()(far, 49)).all()


def test_logits_agree_with_an_independent_transcription_and_a_wrong_decay_would_be_seen(authors):
    model, state = authors_model(authors, 8, 2)
    naive = NaiveHEMF(8).eval()
    assert not naive.load_state_dict(state, strict=False).missing_keys
    images = normalized(authors, 2, 2)
    with torch.no_grad():
        expected = naive(images)
        assert (model(images) - expected).abs().max() < TOLERANCE
        model.global_stages[0].tables.decay_width.mul_(1.01)
        assert (model(images) - expected).abs().max() > TOLERANCE


@pytest.mark.parametrize("image_size", [32, 96])
def test_any_multiple_of_32_is_an_input_size(image_size):
    config = HemfConfig(name="test", num_classes=4, width=32, image_size=image_size, elf_depth=1, egf_depth=1)
    with torch.no_grad():
        features = build(config, seed=0).eval().features(torch.zeros(2, 3, image_size, image_size))
    assert [tuple(maps.shape) for maps in features.fused] == [
        (2, 32 * 2**stage, image_size // 2 ** (stage + 2), image_size // 2 ** (stage + 2)) for stage in range(4)
    ]


@pytest.mark.parametrize(
    ("module", "inputs", "output"),
    [
        (lambda: ELF(32), [(2, 32, 6, 10)], (2, 32, 6, 10)),
        (lambda: EGF(32, 6, 10), [(2, 32, 6, 10)], (2, 32, 6, 10)),
        (lambda: MixedAttention(32), [(2, 32, 6, 10)], (2, 32, 6, 10)),
        (lambda: SIRMLP(32), [(2, 96, 6, 10)], (2, 32, 6, 10)),
        (lambda: IRMLP(32), [(2, 96, 6, 10)], (2, 32, 6, 10)),
        (lambda: HEF(32, previous=False), [(2, 32, 6, 10)] * 2, (2, 32, 6, 10)),
        (lambda: HEF(32, previous=True), [(2, 32, 6, 10)] * 2 + [(2, 16, 12, 20)], (2, 32, 6, 10)),
    ],
    ids=["ELF", "EGF", "MixedAttention", "SIRMLP", "IRMLP", "first HEF", "later HEF"],
)
def test_each_part_works_alone_in_either_memory_format(module, inputs, output):
    torch.manual_seed(0)
    part = module().eval()
    tensors = [torch.randn(shape) for shape in inputs]
    with torch.no_grad():
        plain = part(*tensors)
        last = part(*(tensor.to(memory_format=torch.channels_last) for tensor in tensors))
    assert tuple(plain.shape) == output
    torch.testing.assert_close(plain, last, atol=1e-5, rtol=1e-4)


def test_every_parameter_takes_part():
    model = build(TINY, seed=0)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_initialization_is_the_authors(authors):
    model = build(registered("hemf-tiny"), seed=3)
    assert abs(model.local_stages[3][0].convolution.weight.std() - 0.2) < 0.005
    assert abs(model.local_steps[3].patches.projection.weight.std() - 0.2) < 0.01
    assert abs(model.global_stages[3].linears[0].weight.std() - 0.02) < 0.001
    assert abs(model.fusion_stages[3].local_attention.mhea.memory_key.weight.std() - 0.001) < 0.0003
    biases = [value for name, value in model.global_stages.named_parameters() if name.endswith("bias")]
    assert not any(value.any() for value in biases)
    again = build(registered("hemf-tiny"), seed=3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_counts_are_those_of_the_paper_and_of_the_authors_code():
    total = sum(count_parts(SIZES["hemf-base"]).values(), Count())
    own = sum(parameter.numel() for parameter in build(SIZES["hemf-base"], seed=0).parameters())
    assert total.parameters == own == 66_678_263
    assert f"{total.paper_parameters / 1e6:.3f} {total.paper / 1e9:.3f}" == "66.635 10.009"
    assert f"{total.products / 1e9:.3f}" == "10.246"


@pytest.mark.parametrize("row", TABLE_3, ids=lambda row: f"stage {row.stage}")
def test_table_3_to_the_digit(row):
    ours, wide = (count_mlp(kind, row.channels, row.size) for kind in (SIRMLP, IRMLP))
    assert (f"{ours.parameters / 1e6:.3f}", f"{wide.parameters / 1e6:.3f}") == (
        f"{row.sirmlp_parameters:.3f}",
        f"{row.irmlp_parameters:.3f}",
    )
    assert (f"{ours.paper / 1e9:.3f}", f"{wide.paper / 1e9:.3f}") == (
        f"{row.sirmlp_multiply_adds:.3f}",
        f"{row.irmlp_multiply_adds:.3f}",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 100}, "multiple of 32"),
        ({"width": 40}, "heads"),
        ({"num_classes": 0}, "num_classes"),
        ({"elf_depth": True}, "elf_depth"),
    ],
)
def test_configurations_that_give_no_network_are_refused(change, message):
    with pytest.raises(BadInputError, match=message):
        HemfConfig.from_dict({**TINY.to_dict(), **change})


def test_an_unknown_configuration_key_is_refused_with_the_nearest():
    with pytest.raises(BadInputError) as refused:
        HemfConfig.from_dict({**TINY.to_dict(), "wdith": 3})
    assert refused.value.hint == "Did you mean 'width'?"
