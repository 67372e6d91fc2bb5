"""Grad-CAM++ beside answers worked out by hand and the derivatives of its closed form; and heatmaps as drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hemf_export.evaluation import heatmaps
from hemf_export.evaluation.heatmaps import ClassActivationMaps, HeatMap, channel_weights, grad_cam_plus_plus
from hemf_export.networks.features import FeatureLayer, feature_layer
from hemf_export.train import figures
from tests.conftest import tiny_checkpoint


class Averaged(nn.Module):
    """The images are the feature map; its average goes through a linear layer."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.stage = nn.Identity()
        self.head = nn.Linear(len(weights[0]), len(weights), bias=False)
        self.head.weight = nn.Parameter(torch.tensor(weights))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stage(images).mean((2, 3)))


STAGE = FeatureLayer("stage", lambda output: output)


def maps_of(model: nn.Module, images: Tensor, classes: list[int] | None = None) -> ClassActivationMaps:
    return grad_cam_plus_plus(model, STAGE, images, classes)


CORNERS = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 4.0]]]])


def test_a_map_worked_out_by_hand():
    """Gradients are weight / 4: 1/2 and 1/4. Both sums are 4, so α is 1 / (2 + 2) and 1 / (2 + 1), the channels'
    weights are 4 · 1/4 · 1/2 = 1/2 and 4 · 1/3 · 1/4 = 1/3, the map 4 · 1/2 and 4 · 1/3 in its corners. Grad-CAM would
    say 1/2 in the second one."""
    found = maps_of(Averaged([[2.0, 1.0], [-1.0, -3.0]]), CORNERS)
    assert found.classes.tolist() == [0]
    assert found.logits.tolist() == [[3.0, -4.0]]
    assert found.maps[0].tolist() == [[1.0, 0.0], [0.0, pytest.approx(2 / 3)]]
    assert found.cells == (2, 2)


def test_a_given_class_has_a_map_of_its_own():
    """Class 1 takes from the second channel alone."""
    model = Averaged([[2.0, 1.0], [-1.0, 3.0]])
    assert maps_of(model, CORNERS, [1]).maps[0].tolist() == [[0.0, 0.0], [0.0, 1.0]]
    both = maps_of(model, CORNERS.repeat(2, 1, 1, 1), [1, 0])
    assert both.classes.tolist() == [1, 0]
    assert both.maps[1, 0, 0] == 1.0


def test_nothing_that_speaks_for_the_class_is_a_map_of_zeros():
    found = maps_of(Averaged([[2.0, 1.0], [-1.0, -3.0]]), CORNERS, [1])
    assert found.maps.tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


def test_a_feature_map_below_zero_is_a_map_of_zeros():
    """Σ_k w_k A_k is negative everywhere. Here 2 + g ΣA would be 0 in channel 0: the formula's pole."""
    below = torch.full((1, 2, 2, 2), -1.0)
    found = maps_of(Averaged([[2.0, 1.0], [1.0, 1.0]]), below, [0])
    assert found.maps.tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


def test_weights_are_those_of_the_derivatives_that_the_closed_form_stands_for():
    """α by equation 10 from second and third derivatives of exp(S) that autograd finds, element by element, where the
    gradient differs from place to place."""
    generator = torch.Generator().manual_seed(5)
    features = torch.rand(1, 3, 2, 4, generator=generator, dtype=torch.float64)
    slopes = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    expected = torch.zeros(3, dtype=torch.float64)
    base = (features[0] * slopes).sum()
    for k, i, j in torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(4)).tolist():
        value = features[0, k, i, j].clone().requires_grad_()
        y = torch.exp(base + slopes[k, i, j] * (value - features[0, k, i, j].detach()))
        (first,) = torch.autograd.grad(y, value, create_graph=True)
        (second,) = torch.autograd.grad(first, value, create_graph=True)
        (third,) = torch.autograd.grad(second, value)
        alpha = second / (2 * second + features[0, k].sum() * third)
        expected[k] += (alpha * first.relu()).detach()
    found = channel_weights(features, slopes[None])[0]
    torch.testing.assert_close(found * torch.exp(base), expected)


def test_maps_are_enlarged_bilinearly_and_reach_one():
    """A 1×2 map of 1 and 0 on 4 columns: cells' centres at 0.5 and 2.5, so 1, 3/4, 1/4, 0."""
    features = torch.tensor([[[[1.0, 0.0]]]])

    class Enlarged(Averaged):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.stage(features).mean((2, 3)))

    found = maps_of(Enlarged([[1.0]]), torch.zeros(1, 3, 2, 4))
    torch.testing.assert_close(found.maps[0], torch.tensor([[1.0, 0.75, 0.25, 0.0]] * 2))


def test_a_networks_logits_are_its_own_and_images_have_no_part_in_each_others_maps():
    saved = tiny_checkpoint()
    model = saved.model()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layer = feature_layer(model)
    together = grad_cam_plus_plus(model, layer, images)
    with torch.inference_mode():
        torch.testing.assert_close(together.logits, model(images))
    assert together.maps.shape == (3, 64, 64)
    assert together.cells == (2, 2)
    assert not together.maps.requires_grad
    for index in range(3):
        alone = grad_cam_plus_plus(model, layer, images[index : index + 1], [int(together.classes[index])])
        torch.testing.assert_close(alone.maps[0], together.maps[index], atol=1e-4, rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def heat(name: str = "a.png", value: float = 0.0) -> HeatMap:
    pixels = np.full((8, 8, 3), (200, 100, 0), np.uint8)
    return HeatMap(pixels, np.full((8, 8), value, np.float32), name, "WBC 98.0%")


def test_an_overlay_is_the_grey_image_under_the_colours_of_the_map():
    """Grey is 0.299 · 200 + 0.587 · 100: alone where the map is 0, else 35 % of it and 65 % of inferno's end."""
    assert heat(value=0).overlay()[0, 0].tolist() == pytest.approx([118.5] * 3, abs=1)
    bright = [0.35 * 118.5 + 0.65 * part for part in (252, 255, 164)]
    assert heat(value=1).overlay()[0, 0].tolist() == pytest.approx(bright, abs=1)


def test_a_panel_shows_image_map_and_overlay():
    one = heat("x $y$\n.png", 0.5)
    figure = heatmaps.panel(one)
    shown = [axes.images[0].get_array() for axes in figure.axes[:3]]
    np.testing.assert_array_equal(shown[0], one.pixels)
    np.testing.assert_array_equal(shown[1], one.values)
    np.testing.assert_array_equal(shown[2], one.overlay())
    assert figure.axes[1].images[0].get_clim() == (0, 1), "not stretched to what the map happens to hold"
    assert figure.get_suptitle() == "x $y$·.png: WBC 98.0%"
    assert Image.open(io.BytesIO(figures.encode(figure, "png"))).size[0] > 800


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (5, (2, 4)), (20, (5, 4))])
def test_a_sheet_has_a_place_for_each(count: int, shape: tuple[int, int]):
    figure = heatmaps.sheet([heat(f"{index}.png") for index in range(count)])
    assert figure.axes[0].get_gridspec().get_geometry() == shape
    filled = [axes.get_title() for axes in figure.axes if axes.images]
    assert filled == [f"{index}.png\nWBC 98.0%" for index in range(count)]
