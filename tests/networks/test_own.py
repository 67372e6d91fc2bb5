"""Networks of a user's own: what makes one, what is found out of it, and one message for each that can't be used."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hemf_export.files.errors import BadInputError, UsageError
from hemf_export.networks import factory, own, registry
from hemf_export.networks.network import decayed, memory_format
from hemf_export.networks.own import OwnConfig
from tests import own_networks
from tests.conftest import PROJECT
from tests.own_networks import SIZE

HERE = "tests.own_networks"


def config(name: str, num_classes: int = 3, image_size: int = SIZE) -> OwnConfig:
    return own.named(f"{HERE}:{name}", num_classes=num_classes, image_size=image_size)


def build(name: str, **settings: int) -> torch.nn.Module:
    return registry.build(config(name, **settings), seed=0)


def test_a_network_has_the_names_and_the_weights_that_its_code_gives_it():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    model = build("small")
    torch.manual_seed(0)
    expected = own_networks.Small(3)
    assert list(model.state_dict()) == list(expected.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in expected.state_dict().items())
    torch.manual_seed(7)
    assert torch.equal(state, torch.get_rng_state())
    build("small")
    assert torch.equal(state, torch.get_rng_state()), "probing draws from generators of its own"
    assert registry.registered(f"{HERE}:small", num_classes=3, image_size=SIZE) == config("small")
    assert registry.registered(f"{HERE}:small").image_size == 224


@pytest.mark.parametrize("name", ["Small", "Nested.small", "scripted", "talkative"])
def test_a_class_a_nested_one_and_a_sequential_will_do(name, capfd):
    logits = build(name).eval()(torch.zeros(2, 3, SIZE, SIZE))
    assert logits.shape == (2, 3)
    assert not capfd.readouterr().out, "standard output is for results"


def test_weight_decay_is_for_matrices_alone():
    with_decay, without = decayed(build("Normed"))
    assert [parameter.ndim for parameter in with_decay] == [4, 2, 4]
    assert {parameter.ndim for parameter in without} == {1}


def test_a_view_of_a_map_keeps_the_network_in_contiguous_memory():
    assert memory_format(build("ViewBySize")) == torch.contiguous_format
    assert memory_format(build("Flattened")) == torch.channels_last


def test_any_error_in_channels_last_memory_keeps_the_network_in_contiguous_memory(capfd):
    assert memory_format(build("ContiguousAlone")) == torch.contiguous_format
    assert not capfd.readouterr().out, "standard output is for results"


def test_parts_are_counted_without_weights_or_with_them(monkeypatch):
    known = registry.count_parts(config("small"))
    assert {name: part.parameters for name, part in known.items()} == {"patches": 8 * 3 * 16 + 8, "fc": 8 * 3 + 3}
    assert {name: part.products for name, part in known.items()} == {"patches": 64 * 8 * 48, "fc": 24}

    class Decides(own_networks.Small):
        def forward(self, images):
            return super().forward(images) * (2 if float(images.sum()) > 0 else 1)

    monkeypatch.setattr(own_networks, "decides", Decides, raising=False)
    assert registry.count_parts(config("decides")) == known, "a number can't be had without its value"


def test_the_number_of_classes_follows_from_the_tensors_that_depend_on_it():
    for name in ("small", "scripted", "Normed"):
        family = own.family(f"{HERE}:{name}")
        state = build(name, num_classes=5).state_dict()
        assert family.infer(state) == config(name, num_classes=5, image_size=224)
    assert registry.family_of(config("small")).heads(config("small")) == ("fc",)
    with pytest.raises(BadInputError, match=r"no classifier of .*small \(fc\.weight, fc\.bias\)"):
        own.family(f"{HERE}:small").infer({"patches.weight": torch.zeros(8, 3, 4, 4)})
    with pytest.raises(BadInputError, match="none of its tensors depends on num_classes"):
        own.family(f"{HERE}:seven").infer(own_networks.Small(7).state_dict())


# What is odd about a network → what is said of it.
REFUSED = {
    "nonesuch": r"tests\.own_networks \(.*own_networks\.py\) has no 'nonesuch'",
    "smal": "Did you mean 'small'",
    "NUMBER.there": "has no 'there'",
    "NUMBER": "is a int, which can't be called",
    "without_classes": r"without_classes\(depth: .* can't be called with num_classes alone",
    "with_more": "missing a required argument: 'depth'",
    "raises": r"fails: RuntimeError: no weights for 3 classes \(.*own_networks\.py:\d+\)",
    "leaves": "fails: SystemExit: 5",
    "nothing": "returns nothing, not an nn.Module",
    "a_function": "returns a function, not an nn.Module",
    "lazy": r"parameter 1\.(weight|bias) is initialized lazily",
    "double": r"patches\.weight is float64, where float32 is needed",
    "half": r"patches\.weight is float16, where float32 is needed",
    "Elsewhere": r"fc\.weight is on the device meta",
    "seven": "gives 7 scores for num_classes=3",
    "ReturnsTuple": "returns a tuple of 2, not the logits.*alone",
    "ReturnsOutput": "returns a Output, not the logits.*its `logits` alone",
    "FeatureMap": r"no image classifier: 2 images give a tensor \(2, 8, 8, 8\)",
    "Noisy": "change from call to call, in evaluation mode",
    "Grey": r"fails on images \(2, 3, 32, 32\) in the module patches: RuntimeError: .*channels",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_told_in_one_message(name):
    with pytest.raises(BadInputError, match=REFUSED[name]) as refused:
        build(name)
    assert HERE in refused.value.message
    assert refused.value.hint


def test_a_network_of_one_image_size_says_so_with_its_own_words():
    assert build("OneSize")
    with pytest.raises(BadInputError, match=r"images \(2, 3, 64, 64\): AssertionError: images of 32 .*\(.*:\d+\)"):
        build("OneSize", image_size=64)


# What only a training needs.
UNTRAINABLE = {
    "Frozen": "depend on no parameter that can be trained",
    "NotANumber": r"fc\.bias holds a NaN",
    "TupleInTraining": "returns a tuple of 2 in training mode",
}


@pytest.mark.parametrize("name", UNTRAINABLE)
def test_what_cannot_be_trained_can_still_be_read(name):
    known = config(name)
    assert build(name)
    with pytest.raises(BadInputError, match=UNTRAINABLE[name]):
        registry.family_of(known).check_training(known)


def test_parameters_that_take_no_part_are_found():
    assert registry.family_of(config("Unused")).skips_parameters(config("Unused"))
    assert not registry.family_of(config("small")).skips_parameters(config("small"))


# A module's text → what is said of it.
MODULES = {
    "import nonesuch_package\n": r"ModuleNotFoundError: No module named 'nonesuch_package' \(.*:1\)",
    "from math import tangens\n": r"ImportError: cannot import name 'tangens' .*\(.*:1\)",
    "def make(num_classes)\n    pass\n": r"expected ':' \(.*:1\)",
    "\n1 / 0\n": r"ZeroDivisionError: division by zero \(.*:2\)",
    "raise SystemExit('bye')\n": r"SystemExit: bye \(.*:1\)",
}


@pytest.mark.parametrize("text", MODULES)
def test_a_module_that_fails_is_told_with_its_line(text, tmp_path, monkeypatch):
    name = f"broken{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInputError, match=rf"^{name}:make can't be imported: {MODULES[text]}"):
        factory.find(f"{name}:make")


def test_a_package_that_imports_its_parts_when_they_are_used_is_told_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "lazy_package.py").write_text("def __getattr__(name):\n    import nonesuch_part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInputError, match=r"^lazy_package:make can't be imported: ModuleNotFoundError: .*\.py:2\)"):
        factory.find("lazy_package:make")


def test_a_module_that_is_not_there_is_named():
    for name, missing in {"nonesuch": "nonesuch", "tests.nonesuch.deep": "tests.nonesuch"}.items():
        with pytest.raises(BadInputError, match=f"there is no module '{missing}'"):
            factory.find(f"{name}:make")


@pytest.mark.parametrize("name", ["small", ":small", "tests.own_networks:", "a b:c", "../x:y", "a:b:c", "1a:b", ""])
def test_what_has_not_the_form_of_a_name_is_wrong_usage(name):
    with pytest.raises(UsageError, match=r"package\.module:function|names no network"):
        factory.find(name)


def test_a_configuration_from_a_file_can_be_read_and_not_built(tmp_path, monkeypatch):
    """Nothing of what a file names is imported, wherever the configuration goes."""
    (tmp_path / "planted_by_a_file.py").write_text("raise AssertionError('it was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    values = {**config("small").to_dict(), "factory": "planted_by_a_file:make"}
    assert "confirmed" not in values
    read = registry.config_from_dict(values)
    family = registry.family_of(read)
    for use in (registry.build, family.build_empty, family.shapes, family.count, family.check_training):
        with pytest.raises(BadInputError, match="isn't run, as only a file names it"):
            use(read)
    with pytest.raises(BadInputError, match="Unknown key 'confirmed'"):
        registry.config_from_dict({**values, "confirmed": True})
    for bad in ("os", "os:", 3, "a b:c"):
        with pytest.raises(BadInputError, match="factory must be"):
            registry.config_from_dict({**values, "factory": bad})
    assert "planted_by_a_file" not in sys.modules


def test_the_example_of_the_documentation_with_a_stand_in_for_timm(monkeypatch):
    """The stand-in's `create_model` takes a name, and `pretrained` and `num_classes` by their names, as timm's does."""
    made = []

    def create_model(name: str, pretrained: bool = False, **settings: int) -> torch.nn.Module:
        made.append((name, pretrained))
        return own_networks.Small(**settings)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    monkeypatch.syspath_prepend(PROJECT / "examples" / "own_model")
    for name, width in {"timm_models:convnext_nano": 8, "my_models:resnet": 128}.items():
        model = registry.build(own.named(name, num_classes=4, image_size=SIZE), seed=0)
        assert own.family(name).infer(model.state_dict()).num_classes == 4
        assert any(tuple(value.shape) == (4, width) for value in model.parameters())
    assert set(made) == {("convnext_nano", False)}


def test_the_hash_of_the_code_is_of_its_file():
    path = Path(own_networks.__file__)
    before = factory.source_sha256(f"{HERE}:small")
    assert before == hashlib.sha256(path.read_bytes()).hexdigest()
    assert factory.source_sha256("nonesuch:make") is None
