"""Checks of families whose tensors are their authors', on a size by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from hemf_export.checkpoints import checkpoint
from hemf_export.checkpoints.checkpoint import Checkpoint
from hemf_export.export import onnx_export
from hemf_export.images.images import Preprocess
from hemf_export.networks.configuration import NetworkConfig
from hemf_export.networks.drop_path import set_drop_path
from hemf_export.networks.network import Network
from hemf_export.networks.registry import FAMILIES, build, family_of, recognize, registered
from tests.networks import golden_data

TOLERANCE = 1e-5
SIDE = 64
BATCHES = (1, 2, 3, 5)


def spread(model: nn.Module, seed: int) -> nn.Module:
    """Give a network weights with which every part of it matters, and evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.ndim > 1:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
        elif value.is_floating_point():
            is_scale = name.endswith(("weight", "gamma"))
            value.normal_(float(is_scale), 0.1, generator=generator)
    return model.eval()


def spread_network(config: NetworkConfig, seed: int) -> Network:
    model = build(config, seed=0)
    spread(model, seed)
    return model


def joined(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Logits of one classifier, or of several side by side."""
    return torch.cat(output, 1) if isinstance(output, tuple) else output


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value if that is above 1; of any type, with gradients or not."""
    return relative(found.detach().double(), expected.detach().double())


def noise(count: int, side: int = SIDE, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def relative(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest value if that is above 1."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


@torch.no_grad()
def check_golden(shared: Path, authors: ModuleType, name: str, count: int = 2) -> None:
    """The authors' weights give their logits and statistics of each stage; their keys are ours."""
    golden = golden_data.load(shared, name, authors.images(0, 4)[:count])
    family = family_of(registered(name))
    model = family.network(registered(name)).eval()
    converted, dropped = family.convert(golden.state)
    model.load_state_dict(converted)  # strict
    assert {key: tuple(golden.state[key].shape) for key in dropped} == family.layout.unused(model.config)
    model.to(memory_format=torch.channels_last)
    features = model.features(golden.images)
    branches = {"stage": features} if isinstance(features, list) else features._asdict()
    taps = {
        f"{branch.rstrip('_')}_{stage}": maps for branch in branches for stage, maps in enumerate(branches[branch], 1)
    }
    assert {f"{tap}_channel_{part}" for tap in taps for part in ("mean", "std")} == set(golden.statistics)
    for tap, maps in taps.items():
        wide = maps.double().flatten(2)
        assert relative(wide.mean(2), golden.statistics[f"{tap}_channel_mean"][:count]) < TOLERANCE, tap
        assert relative(wide.std(2), golden.statistics[f"{tap}_channel_std"][:count]) < TOLERANCE, tap
    assert relative(model(golden.images), golden.logits) < TOLERANCE


def check_names(shared: Path, name: str) -> None:
    """Names and shapes are the authors', those of tensors that take no part included."""
    config = registered(name)
    ours = {key: tuple(shape) for key, (shape, _) in family_of(config).shapes(config).items()}
    theirs = {key: tuple(shape) for key, shape in golden_data.keys(shared, name).items()}
    assert ours | dict(family_of(config).layout.unused(config)) == theirs


@torch.no_grad()
def check_transcription(name: str, plain: Callable[[Any], nn.Module]) -> None:
    """An independent transcription with the same state dict gives the same logits, folded or not, at any batch size."""
    for seed, classes in ((1, 3), (2, 11)):
        config = registered(name, num_classes=classes)
        model, other = spread_network(config, seed), plain(config).eval()
        other.load_state_dict(model.state_dict())
        images = noise(max(BATCHES), config.image_size, seed)
        expected = other(images)
        assert expected.std() > 0.05
        for count in BATCHES:
            assert relative(model(images[:count]), expected[:count]) < TOLERANCE
        model.fold()
        for count in BATCHES:
            assert relative(model(images[:count]), expected[:count]) < TOLERANCE


def check_gradients(name: str, plain: Callable[[Any], nn.Module], precision: float) -> None:
    """An independent transcription in training mode has the same logits and gradients.

    In float64, as BatchNorm's statistics of a few images enlarge differences of rounding.
    """
    config = registered(name, num_classes=3)
    model, other = spread_network(config, 8).double(), plain(config)
    other.load_state_dict(model.state_dict())
    other.double()
    images = noise(4, config.image_size).double()
    found, expected = (joined(each.train()(images)) for each in (model, other))
    assert difference(found, expected) < precision
    for logits in (found, expected):
        logits.square().sum().backward()
    gradients = {key: value.grad for key, value in other.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for key, value in model.named_parameters():
        assert float((value.grad - gradients[key]).abs().max()) < precision * largest, key


def check_training(name: str) -> None:
    """Every parameter has a gradient; drop path changes training alone; evaluation in between changes nothing."""
    config = registered(name, num_classes=3)
    model = spread_network(config, 3).train()
    images = noise(4, config.image_size)
    joined(model(images)).square().sum().backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []
    reference = spread_network(config, 3)
    with torch.no_grad():
        first = reference(images)
        set_drop_path(reference, 0.9)
        assert torch.equal(reference(images), first)
        torch.manual_seed(0)
        reference.train()
        assert not torch.allclose(joined(reference(images)), joined(reference(images)), atol=1e-3)
    # A step of training is seen by the next evaluation.
    model.eval()
    with torch.no_grad():
        before = model(images)
        for parameter in model.parameters():
            parameter.mul_(1.01)
        assert not torch.allclose(model(images), before, atol=1e-4)


def check_autocast(name: str, dtype: torch.dtype) -> None:
    """Training in a half precision, on channels-last images, has finite gradients near those of float32."""
    config = registered(name, num_classes=3)
    gradients = []
    for enabled in (False, True):
        model = spread_network(config, 4).train()
        images = noise(4, config.image_size).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype, enabled=enabled):
            output = model(images)
            heads = output if isinstance(output, tuple) else (output,)
            loss = sum(nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])) for logits in heads)
        loss.backward()
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters()]))
    assert gradients[1].isfinite().all()
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.95


def check_recognition(name: str) -> None:
    """All keys of a network, or either half, are recognized as its family's."""
    config = registered(name)
    keys = list(family_of(config).shapes(config))
    own = family_of(config)
    assert [family for family in FAMILIES.values() if family.layout.recognizes(keys)] == [own]
    middle = len(keys) // 2
    assert recognize(keys[middle:]) is recognize(keys[:middle]) is own


def check_authors_file(path: Path, name: str, idle: Mapping[str, Tensor]) -> None:
    """A file of the authors' is recognized with its size, and written and read again without change.

    `idle`: the tensors in it that take no part.
    """
    state = {
        key: value.clone() for key, value in spread_network(registered(name, num_classes=3), 5).state_dict().items()
    }
    torch.save({"model": {f"module.{key}": value for key, value in (state | idle).items()}, "epoch": 3}, path)
    loaded = checkpoint.load(path)
    assert (loaded.config.name, loaded.config.num_classes, loaded.dropped) == (name, 3, tuple(idle))
    assert set(idle) == set(family_of(loaded.config).layout.unused(loaded.config))
    again = path.with_name("again.pt")
    checkpoint.save(loaded, again)
    read = checkpoint.load(again)
    assert read.config == registered(name, num_classes=3)
    assert list(read.state) == list(state)
    assert all(torch.equal(value, read.state[key]) for key, value in state.items())


@torch.no_grad()
def check_export(folder: Path, name: str) -> None:
    """The exported file gives PyTorch's logits at every batch size."""
    config = registered(name, num_classes=3)
    model = spread_network(config, 6)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    source, output = folder / "model.pt", folder / "model.onnx"
    checkpoint.save(Checkpoint(config, ("a", "b", "c"), Preprocess.for_size(config.image_size), state), source)
    exported = onnx_export.export(source, output, onnx_export.Options())
    assert exported.notes == ()
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    images = noise(max(BATCHES), config.image_size, 7)
    expected = model(images).numpy()
    assert expected.std() > 0.05
    for count in BATCHES:
        (found,) = session.run(None, {"images": images[:count].numpy()})
        assert relative(found, expected[:count]) < TOLERANCE
