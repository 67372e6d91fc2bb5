"""The paper's tables: what can be checked of them, and sizes counted again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from hemf_export.networks import published, registry
from hemf_export.networks.count import Count
from hemf_export.networks.published import DOUBTS, NETWORKS

REGISTERED = [name for name in NETWORKS if name in registry.SIZES]


def total(name: str, classes: int) -> Count:
    return sum(registry.count_parts(registry.registered(name, num_classes=classes)).values(), Count())


@pytest.mark.parametrize("name", [name for name in REGISTERED if NETWORKS[name].counted])
def test_sizes_are_those_of_the_authors_public_code(name):
    counted = NETWORKS[name].counted
    assert counted is not None
    few, many = total(name, 7), total(name, 1000)
    assert (few.paper_parameters, many.paper_parameters) == (counted.parameters, counted.parameters_1000)
    assert few.paper / 1e9 == pytest.approx(counted.layers_g, abs=0.0051)
    with torch.device("meta"):
        model = registry.family_of(registry.SIZES[name]).network(registry.SIZES[name])
    saved = sum(model.saved_multiply_adds().values())  # what ours does not compute
    assert (few.products + saved) / 1e9 == pytest.approx(counted.products_g, abs=0.0051)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_differs_from_the_published_size_has_a_reason(name):
    network = NETWORKS[name]
    if network.counted is None:
        return
    parameters = abs(network.counted.parameters / 1e6 - network.parameters_m) < 0.0051
    nearest = min(abs(own / network.multiply_adds_g - 1) for own in network.counted[2:])
    assert (parameters and nearest < 0.01) == (not network.reason)


@pytest.mark.parametrize("name", NETWORKS)
def test_kappa_on_kvasir_follows_from_accuracy_but_where_it_is_doubted(name):
    metrics = NETWORKS[name].results["kvasir"]
    if metrics.kappa is None:
        assert name == "conformer-base"
        return
    expected = (metrics.accuracy / 100 - 1 / 8) / (7 / 8)
    doubts = {doubt.figure: doubt.corrected for doubt in DOUBTS.get((name, "kvasir"), ())}
    assert (abs(metrics.kappa - expected) < 4e-4) == ("kappa" not in doubts)
    assert doubts.get("kappa", metrics.kappa) == pytest.approx(expected, abs=4e-4)
    assert metrics.mcc is not None
    assert doubts.get("mcc", metrics.mcc) >= doubts.get("kappa", metrics.kappa) - 1e-4 or name == "hifuse-tiny"


def test_all_eleven_are_there_in_every_table():
    assert len(NETWORKS) == 11
    assert all(set(network.results) == {"isic2018", "kvasir", "covid-ct"} for network in NETWORKS.values())
    best = {
        data: max(NETWORKS, key=lambda name: NETWORKS[name].results[data].accuracy) for data in ("isic2018", "kvasir")
    }
    assert best == {"isic2018": "hemf-base", "kvasir": "hemf-base"}
    assert published.TABLE_10[-1][5:] == NETWORKS["hemf-base"].results["isic2018"][:4]


def test_figures_stand_beside_the_published_network_alone():
    base = registry.registered("hemf-base").to_dict()
    assert published.of_network(base) is NETWORKS["hemf-base"]
    assert published.of_network({**base, "image_size": 256}) is None
    assert published.of_network(registry.registered("hemf-tiny").to_dict()) is None
    assert published.of_network(registry.registered("hemf-base", variant="both").to_dict()) is None


def test_the_page_on_networks_lists_every_one():
    text = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    rows = {line.split()[0]: line.split()[1:4] for line in text.splitlines() if re.match(r"[a-z]+-?[a-z-]+ +\d", line)}
    assert list(rows) == list(registry.SIZES)
    for name, (parameters, _, image) in rows.items():
        counted = registry.count_parameters(registry.SIZES[name]) / 1e6
        assert (float(parameters), int(image)) == (pytest.approx(counted, abs=0.0051), registry.SIZES[name].image_size)
