"""Float32 is not TF32 while a network is trained, fine-tuned or timed, and afterwards PyTorch is set as it was.

The settings are the same in a build of PyTorch without CUDA. What they do to cuDNN's convolutions is PyTorch's:
https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch

from hemf_export.train.float32 import exact_float32
from hemf_export.train.run_folder import RunFolder
from hemf_export.train.trainer import Trainer
from tests.train.runs import Quiet, job


def settings() -> dict[str, object]:
    """All that can be read of PyTorch's settings; the older ones raise where newer ones contradict them."""
    read: dict[str, Callable[[], object]] = {
        "cudnn.allow_tf32": lambda: torch.backends.cudnn.allow_tf32,
        "matmul.allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
        "matmul precision": torch.get_float32_matmul_precision,
        "cudnn.conv": lambda: torch.backends.cudnn.conv.fp32_precision,
        "cuda.matmul": lambda: torch.backends.cuda.matmul.fp32_precision,
        "mkldnn.matmul": lambda: torch.backends.mkldnn.matmul.fp32_precision,
    }
    found: dict[str, object] = {}
    for name, get in read.items():
        with contextlib.suppress(RuntimeError):
            found[name] = get()
    return found


EXACT = {
    "cudnn.allow_tf32": False, "matmul.allow_tf32": False, "matmul precision": "highest", "cudnn.conv": "ieee",
    "cuda.matmul": "ieee", "mkldnn.matmul": "ieee",
}  # fmt: skip


def by_the_newer_settings() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"


SET = {
    "as PyTorch starts": lambda: None,
    "TF32 by the older settings": lambda: torch.set_float32_matmul_precision("medium"),
    "TF32 by the newer settings": by_the_newer_settings,
}


@pytest.fixture(autouse=True)
def as_pytorch_starts() -> Iterator[None]:
    yield
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision = "none"
    for newer in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        newer.fp32_precision = "none"


@pytest.mark.parametrize("how", SET)
def test_tf32_is_off_for_a_while(how):
    SET[how]()
    before = settings()
    assert before["cudnn.conv"] == "tf32"
    with contextlib.suppress(KeyError), exact_float32():
        assert settings() == EXACT
        raise KeyError
    assert settings() == before


def test_one_setting_for_everything_does_not_bring_it_back():
    torch.backends.fp32_precision = "tf32"
    with exact_float32():
        assert (torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision) == ("ieee", "ieee")
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"


def test_training_and_validation_are_in_float32(image_data, tmp_path):
    torch.set_float32_matmul_precision("high")
    before, seen = settings(), {}
    trainer = Trainer(job(image_data, epochs=1, batch_size=24), RunFolder(tmp_path / "run", resume=False), resume=False)
    trainer.model.head.register_forward_hook(lambda module, *_: seen.update({module.training: settings()}))
    trainer.fit(Quiet())
    assert seen == {True: EXACT, False: EXACT}
    seen.clear()
    trainer.predict(trainer.job.validation)
    assert seen == {False: EXACT}
    assert settings() == before


@pytest.mark.gpu
def test_a_convolution_on_a_gpu_is_that_of_a_cpu():
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs a CUDA GPU that has TF32")
    convolution = torch.nn.Conv2d(64, 64, 3)
    images = torch.randn(4, 64, 32, 32)
    expected = convolution(images)
    convolution.cuda()
    with exact_float32():
        exact = float((convolution(images.cuda()).cpu() - expected).abs().max())
    assert exact < 1e-5 < float((convolution(images.cuda()).cpu() - expected).abs().max())
