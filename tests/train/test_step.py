"""One step: the gradient of the whole batch whatever it is divided into, and nothing changed where it isn't finite."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn import functional as F

from hemf_export.files.errors import HemfError
from hemf_export.train.distributed import Group
from hemf_export.train.hardware import Hardware
from hemf_export.train.losses import Objective
from hemf_export.train.recipe import Recipe
from hemf_export.train.step import Step

IMAGES = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(10) % 3


def network(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), *layers, nn.Linear(8, 3))


def stepper(model: nn.Module, objective: Callable[..., object] | None = None, **recipe: object) -> Step:
    chosen = Recipe(batch_size=10, **recipe)  # type: ignore[arg-type]
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    made = objective or Objective(chosen, [4, 3, 3])
    return Step(model, model, made, chosen, plain, Hardware().scaler(), Hardware(), Group())  # type: ignore[arg-type]


def divided(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(IMAGES.split(list(sizes)), LABELS.split(list(sizes)), strict=True))


@pytest.mark.parametrize("sizes", [(10,), (5, 5), (4, 3, 3)])
def test_micro_batches_of_any_size_make_the_step_of_the_whole_batch(sizes):
    model, expected = network(), network()
    loss = F.cross_entropy(expected(IMAGES), LABELS)
    loss.backward()
    done = stepper(model)(divided(*sizes), 10, rate=0.25, drawing=(0, 0))
    assert done.loss / done.images == pytest.approx(float(loss.detach()), rel=1e-6)
    assert done.correct == int((expected(IMAGES).argmax(1) == LABELS).sum())
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(ours, theirs - 0.25 * theirs.grad, atol=1e-6), "at the rate that was given"


def test_gradients_are_clipped_to_their_common_norm():
    free, held = network(), network()
    stepper(free)(divided(10), 10, rate=1.0, drawing=(0, 0))
    stepper(held, gradient_clip=0.01)(divided(5, 5), 10, rate=1.0, drawing=(0, 0))
    start = list(network().parameters())
    moved = [
        torch.sqrt(sum((a - b).square().sum() for a, b in zip(model.parameters(), start, strict=True)))
        for model in (free, held)
    ]
    assert moved[0] > 0.1
    assert float(moved[1].detach()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_leaves_nothing_behind(bad):
    model = network(nn.BatchNorm1d(8))
    step = stepper(model)
    step(divided(5, 5), 10, rate=0.1, drawing=(0, 0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = IMAGES.clone()
    images[7, 0, 0, 0] = bad  # in the second micro-batch: the first has changed BatchNorm's statistics by then
    batch = list(zip(images.split(5), LABELS.split(5), strict=True))
    assert not step(batch, 10, rate=0.1, drawing=(0, 1)).finite
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert step(divided(5, 5), 10, rate=0.1, drawing=(0, 2)).finite, "and the next one goes on"


def test_gradients_that_are_not_finite_do_not_reach_the_weights_though_the_loss_is():
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    class Layer(nn.Module):
        def forward(self, x):
            return Steep.apply(x)

    model = network(Layer())
    before = [parameter.clone() for parameter in model.parameters()]
    done = stepper(model)(divided(10), 10, rate=0.1, drawing=(0, 0))
    assert not done.finite
    assert done.loss == done.loss < 1e3
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("accumulation", "hint"), [(1, "`batch_size=5`, or keep 10 with `accumulation_steps=2`"), (4, "`batch_size=8`")]
)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["PyTorch's memory", "cuBLAS's"],
)
def test_out_of_memory_suggests_a_batch_size(accumulation, hint, error):
    """torch raises the error at the allocation; here the objective does."""

    def hungry(*_: object) -> None:
        raise error

    step = stepper(network(), hungry, accumulation_steps=accumulation)
    with pytest.raises(HemfError, match="doesn't hold a batch of 10 images") as raised:
        step(divided(10), 10, rate=0.1, drawing=(0, 0))
    assert raised.value.exit_code == 1
    assert raised.value.hint is not None
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (
            RuntimeError("PTXAS error: Internal Triton PTX codegen error\nptxas --version"),
            r"fails: RuntimeError: PTXAS .*",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            "doesn't hold a batch of 10 images",
        ),
    ],
)
def test_a_network_that_does_not_compile_is_told(inner, message):
    """TorchDynamo wraps what its backend raises, at the first call of the network."""

    def failing(*_: object) -> None:
        raise BackendCompilerFailed(lambda *_: None, inner, None)

    step = stepper(network(), failing)
    with pytest.raises(BackendCompilerFailed if "PTXAS" in str(inner) else HemfError):
        step(divided(10), 10, rate=0.1, drawing=(0, 0))
    step.hardware = Hardware(compile=True)
    with pytest.raises(HemfError, match=message) as raised:
        step(divided(10), 10, rate=0.1, drawing=(0, 0))
    assert ("`compile`" in str(raised.value.hint)) == ("PTXAS" in str(inner))


def test_the_compilers_advice_to_use_tf32_is_not_passed_on():
    """As torch/_inductor/compile_fx.py words it, on compute capability 8.0 and newer."""
    model = network()
    plain = stepper(model).objective

    def advised(*arguments: object) -> object:
        advice = "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled. Consider"
        warnings.warn(advice, stacklevel=2)
        return plain(*arguments)

    advised.teacher = None  # type: ignore[attr-defined]
    step = stepper(model, advised)
    with pytest.warns(UserWarning, match="TensorFloat32"):
        step(divided(10), 10, rate=0.1, drawing=(0, 0))
    step.hardware = Hardware(compile=True)
    assert step(divided(10), 10, rate=0.1, drawing=(0, 1)).finite


def test_other_errors_of_a_gpu_are_not_called_a_lack_of_memory():
    def broken(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with pytest.raises(torch.AcceleratorError, match="device-side assert"):
        stepper(network(), broken)(divided(10), 10, rate=0.1, drawing=(0, 0))


def test_mixing_is_drawn_from_seed_epoch_and_step_alone():
    def losses(*drawings: tuple[int, int], seed: int = 0) -> list[float]:
        found = []
        for drawing in drawings:
            torch.manual_seed(len(found))
            step = stepper(network(), mixup_alpha=1.0, seed=seed)
            found.append(step(divided(10), 10, rate=0.1, drawing=drawing).loss)
        return found

    first, again, other, later = losses((0, 0), (0, 0), (0, 1), (1, 0))
    assert first == again
    assert len({first, other, later, *losses((0, 0), seed=1)}) == 4


@pytest.mark.gpu
def test_a_batch_that_does_not_fit_into_a_gpu_suggests_a_smaller_one():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2**20), nn.ReLU(), nn.Linear(2**20, 3)).cuda()
    step = stepper(model)
    many = torch.zeros(2**19, 3, 4, 4)
    with pytest.raises(HemfError, match="doesn't hold a batch of 524288 images"):
        step([(many, torch.zeros(len(many), dtype=torch.long))], len(many), rate=0.1, drawing=(0, 0))
