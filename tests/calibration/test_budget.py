"""The search over blocks, with damages from a table instead of graphs that are run."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemf_export.calibration import budget as budgets
from hemf_export.calibration.budget import Budget, Step, Worth, search
from hemf_export.calibration.products import Product
from hemf_export.calibration.trials import BlockSensitivity, by_block, measure_sensitivities
from hemf_export.files.errors import UsageError
from hemf_export.metrics.comparison import Comparison, LogitDifference
from hemf_export.metrics.expected_changes import ExpectedChanges
from tests.conftest import Recorder


def comparison(drop: float = 0.0, *, changes: float = 0.0, kl: float = 0.0, **others) -> Comparison:
    known = {"balanced_accuracy": 0.9, "reference_balanced_accuracy": 0.9} | others
    changed = round(100 * (1 - known.pop("agreement", 1.0)))
    return Comparison(
        images=100, changed=tuple(range(changed)), not_finite=() if known.pop("finite", True) else (99,),
        logit_difference=LogitDifference(0.0, 0.0, 0.0, 0.0), largest_logit=1.0, cosine=1.0, least_cosine=1.0,
        kl_divergence=kl, expected=ExpectedChanges(changes, changes, 0.0), accuracy=0.9 - drop / 100,
        reference_accuracy=0.9, **known,
    )  # fmt: skip


def product(block: str, work: int = 100, refusal: str | None = None) -> Product:
    return Product(f"{block} product", "Conv", block, ((0, "x"),), 1, 0, 64, work, refusal)


class Table:
    """Trials whose drop is the sum of the drops of the blocks in int8; `pairs` add to it where both are."""

    def __init__(self, drops: dict[str, float], pairs: dict[tuple[str, str], float] | None = None) -> None:
        self.drops, self.pairs = drops, pairs or {}
        self.asked: list[tuple[str, ...]] = []

    def compare(self, products, method, conclusive=None) -> Comparison:
        blocks = tuple(dict.fromkeys(product.block for product in products))
        self.asked.append(blocks)
        drop = sum(self.drops[block] for block in blocks)
        drop += sum(extra for pair, extra in self.pairs.items() if set(pair) <= set(blocks))
        return comparison(drop) if math.isfinite(drop) else comparison(finite=False, kl=math.nan)


def sensitivity(block: str, share: float, kl: float, **others) -> BlockSensitivity:
    return BlockSensitivity(block, (product(block),), share, comparison(kl=kl, **others), comparison())


def blocks(**damages: float) -> list[BlockSensitivity]:
    """Of equal shares, in the order of their damage."""
    return [sensitivity(name, 1 / len(damages), kl) for name, kl in damages.items()]


def worth_of(found: list[BlockSensitivity], least: float = budgets.MIN_WORTH) -> Worth:
    """Each block's share of the work."""
    return Worth({block.block: block.share for block in found}, frozenset(), least)


def run(table: Table, found: list[BlockSensitivity], max_drop: float = 0.5, worth: Worth | None = None) -> list[Step]:
    return search(table, found, Budget(max_drop), "max", worth or worth_of(found))


def best(steps: list[Step], least: float = budgets.MIN_WORTH) -> Step | None:
    return budgets.best(steps, Worth({}, frozenset(), least))


def test_everything_is_tried_first_and_taken_if_it_holds():
    table = Table({"a": 0.1, "b": 0.1, "c": 0.1})
    steps = run(table, blocks(c=3, a=1, b=2))
    assert [step.blocks for step in steps] == [("a", "b", "c")]
    assert best(steps) is steps[0]
    assert steps[0].share == pytest.approx(1)


@given(st.lists(st.floats(0, 0.4), min_size=1, max_size=14), st.floats(0, 2))
@settings(deadline=None, max_examples=100)
def test_the_result_is_never_less_than_the_longest_prefix_and_never_misses(drops, max_drop):
    names = [f"block {index}" for index in range(len(drops))]
    table = Table(dict(zip(names, drops, strict=True)))
    found = [sensitivity(name, 1 / len(drops), index + 1.0) for index, name in enumerate(names)]
    chosen = best(run(table, found[::-1], max_drop))
    sums = [comparison(total).accuracy_drop_points for total in itertools.accumulate(drops)]
    prefix = sum(total <= max_drop for total in sums)
    if chosen is None:
        assert prefix / len(drops) < 0.1 or prefix == 0
    else:
        assert len(chosen.blocks) >= prefix
        assert chosen.blocks[:prefix] == tuple(names[:prefix])
        assert table.compare([product(name) for name in chosen.blocks], "max").accuracy_drop_points <= max_drop


def test_the_longest_prefix_is_found_by_halving():
    names = [f"b{index}" for index in range(16)]
    table = Table({name: 0.0 if index < 11 else 9.0 for index, name in enumerate(names)})
    steps = run(table, [sensitivity(name, 1 / 16, index) for index, name in enumerate(names)])
    assert best(steps).blocks == tuple(names[:11])
    assert len(table.asked) <= 5 + 4, "halving, and at most four blocks more"


def test_a_block_behind_the_one_that_fails_is_added_if_it_holds():
    table = Table({"a": 0.1, "b": 9.0, "c": 0.1, "d": 0.1})
    assert best(run(table, blocks(a=1, b=2, c=3, d=4))).blocks == ("a", "c", "d")


def test_blocks_that_hold_alone_but_not_together_are_not_both_taken():
    table = Table({"a": 0.1, "b": 9.0, "c": 0.1, "d": 0.1}, {("c", "d"): 1.0})
    assert best(run(table, blocks(a=1, b=2, c=3, d=4))).blocks == ("a", "c")


def test_blocks_with_hardly_any_work_are_not_tried_again():
    table = Table({"a": 0.1, "b": 9.0, "tiny": 0.1})
    found = [sensitivity("a", 0.5, 1), sensitivity("b", 0.495, 5), sensitivity("tiny", 0.005, 4)]
    assert best(run(table, found)).blocks == ("a",)
    assert ("a", "tiny") not in table.asked


def test_the_order_is_damage_for_the_work_and_not_damage():
    found = [sensitivity("small", 0.1, 1.0), sensitivity("large", 0.9, 2.0)]
    table = Table({"small": 0.4, "large": 0.4})
    assert best(run(table, found)).blocks == ("large",)


def test_blocks_are_worth_what_they_give_and_not_the_work_they_are():
    """The engine saves 6 % of its time by a block of little work, and next to nothing by one of much."""
    found = [sensitivity("much work", 0.9, 1.0), sensitivity("much time", 0.1, 1.0)]
    table = Table({"much work": 0.4, "much time": 0.4})
    saved = Worth({"much work": 0.001, "much time": 0.06}, frozenset(), 0.05)
    steps = run(table, found, worth=saved)
    assert best(steps, 0.05).blocks == ("much time",)
    assert best(steps, 0.05).worth == pytest.approx(0.06)
    assert best(steps, 0.07) is None, "not enough for what is asked"
    assert best(run(table, found)).blocks == ("much work",), "by its work it would be the other"


def test_the_work_is_counted_for_each_block():
    products = [product("a", 30), product("a", 20), product("b", 40), product("c", 10, "the classifier")]
    found = budgets.by_work(products)
    assert found.by_block == pytest.approx({"a": 0.5, "b": 0.4})
    assert found.nodes == {"a product", "b product"}
    assert found.least == budgets.MIN_WORTH


def test_a_block_that_gives_no_finite_logits_alone_comes_last():
    names = [f"b{index}" for index in range(9)]
    table = Table({name: 9.0 if name == "b8" else 0.0 for name in names} | {"bad": math.nan})
    good = [sensitivity(name, 0.1, index + 1) for index, name in enumerate(names)]
    bad = sensitivity("bad", 0.1, math.nan, finite=False)
    for place in range(10):
        assert best(run(table, [*good[:place], bad, *good[place:]][::-1])).blocks == tuple(names[:8])


class Damages(Table):
    """Trials whose KL divergence is a sum over blocks as well, and whose drop is none."""

    def compare(self, products, method, conclusive=None) -> Comparison:
        blocks = {product.block for product in products}
        self.asked.append(tuple(blocks))
        return comparison(0.0, kl=sum(self.drops[block] for block in blocks))


def test_of_graphs_with_about_the_same_work_the_least_damaged_is_taken():
    """Two blocks with 1.5 % of the work do most of the damage: they are put back though all of it holds."""
    found = [sensitivity("large", 0.6, 1e-6), sensitivity("stem", 0.005, 1e-3), sensitivity("last", 0.01, 1e-3),
             sensitivity("wide", 0.385, 1e-6)]  # fmt: skip
    table = Damages({"large": 1e-6, "stem": 1e-3, "last": 1e-3, "wide": 1e-6})
    steps = run(table, found)
    assert [step.kept for step in steps] == [True, True]
    assert set(steps[0].blocks) == {"large", "stem", "last", "wide"}
    assert set(best(steps).blocks) == {"large", "wide"}


def test_no_more_work_is_given_up_than_nobody_notices():
    found = [sensitivity("large", 0.95, 1e-6), sensitivity("some", 0.05, 1e-3)]
    steps = run(Damages({"large": 1e-6, "some": 1e-3}), found)
    assert [set(step.blocks) for step in steps] == [{"large", "some"}]


def test_nothing_is_best_where_nothing_or_hardly_anything_holds():
    assert best(run(Table({"a": 9.0, "b": 9.0}), blocks(a=1, b=2))) is None
    found = [sensitivity("tiny", 0.09, 0.01), sensitivity("rest", 0.91, 5.0)]
    steps = run(Table({"tiny": 0.0, "rest": 9.0}), found)
    assert any(step.kept for step in steps)
    assert best(steps) is None


def test_no_blocks_at_all_give_no_steps():
    assert run(Table({}), []) == []
    assert best([]) is None


def test_every_step_is_an_event_as_it_ends():
    progress = Recorder()
    found = blocks(a=1, b=2)
    steps = search(Table({"a": 0, "b": 9.0}), found, Budget(), "max", worth_of(found), progress)
    assert progress.events == steps
    assert {"int8", "share", "kept", "accuracy", "accuracy_drop_points"} <= set(steps[0].to_dict())


@pytest.mark.parametrize(
    ("budget", "found", "expected"),
    [
        (Budget(), comparison(0.4), []),
        (Budget(), comparison(-3.0), []),
        (Budget(), comparison(0.75), ["accuracy drops by 0.75 points, at most 0.5"]),
        (Budget(2.0), comparison(0.75), []),
        (Budget(), comparison(changes=0.012), ["2.50 points may be lost on 200 other images, at most 0.5 (1.20%"]),
        (Budget(), comparison(1, changes=0.01), ["accuracy drops", "may be lost"]),
        (Budget(), comparison(changes=0.0017), []),  # of 200 images 0.34: more than one once in 21 times
        (Budget(), comparison(changes=0.0019), ["1.00 points may be lost on 200"]),
        (Budget(2.0), comparison(changes=0.0075), []),  # of the 100 images themselves 0.75
        (Budget(2.0), comparison(changes=0.009), ["3.00 points may be lost on 100"]),
        (Budget(0.0), comparison(changes=0.0004), []),
        (Budget(0.0), comparison(changes=0.0006), ["1.00 points may be lost on 100 other images, at most 0"]),
        (Budget(None), comparison(50, changes=0.5), []),
        (Budget(None, 0.99), comparison(agreement=0.98), ["98.00% keep their class, at least 99.00%"]),
        (Budget(None, 0.99), comparison(agreement=0.99), []),
        (Budget(None, 0.99), comparison(changes=0.006), ["98.00% of 100 other images may keep their class"]),
        (Budget(None, 1.0), comparison(changes=0.0006), ["99.00% of 100 other images may keep their class"]),
        (Budget(None, 1.0), comparison(), []),
        (Budget(None, None), comparison(finite=False), ["not finite"]),
        (Budget(metric="balanced-accuracy"), comparison(5.0), []),
        (Budget(metric="balanced-accuracy"), comparison(balanced_accuracy=0.8), ["balanced-accuracy drops by 10.00"]),
        (Budget(), comparison(balanced_accuracy=0.1), []),
        (Budget(0.0), comparison(0.0), []),
    ],
)
def test_what_is_missed_is_told(budget, found, expected):
    missed = budget.missed(found)
    assert len(missed) == len(expected)
    assert all(part in text for part, text in zip(expected, missed, strict=True))
    assert budget.kept(found) == (not expected)


def test_without_labels_the_expected_changes_decide():
    unlabelled = dataclasses.replace(comparison(changes=0.02), accuracy=None, reference_accuracy=None)
    assert Budget(4.0).missed(unlabelled)
    assert not Budget(5.0).missed(unlabelled)


@pytest.mark.parametrize(
    "values", [{"max_drop": -0.1}, {"max_drop": 101}, {"max_drop": math.nan}, {"min_agreement": 1.01},
               {"min_agreement": -0.1}, {"min_agreement": math.nan}]
)  # fmt: skip
def test_bounds_out_of_range_are_refused(values):
    with pytest.raises(UsageError, match=r"`(max_drop|min_agreement)` is"):
        Budget(**values)


def test_each_block_is_measured_alone_and_left_out():
    products = [product("a", 300), product("b", 100), product("a", 50, "the classifier"), product("c", 50, "short")]
    table = Table({"a": 1.0, "b": 2.0})
    found = {each.block: each for each in measure_sensitivities(table, products, "max")}
    assert {name: each.share for name, each in found.items()} == {"a": 0.6, "b": 0.2}
    assert found["a"].alone.accuracy_drop_points == pytest.approx(1)
    assert found["a"].left_out.accuracy_drop_points == pytest.approx(2)
    assert by_block(products) == {"a": (products[0],), "b": (products[1],)}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (comparison(changes=0.0001), True),  # even twice as many would be kept
        (comparison(changes=0.002), False),  # near the border
        (comparison(changes=0.1), True),  # even half as many would be too much
        (comparison(1.0, changes=0.0001), False),  # one image of few: the others have to tell
        (comparison(1.0, changes=0.1), True),
        (comparison(finite=False), True),
    ],
)
def test_few_images_tell_enough_far_from_the_budget_alone(found, expected):
    assert Budget(0.5).conclusive(found, 500) is expected


@given(st.floats(0, 0.2), st.floats(0, 3), st.floats(0, 5))
@settings(deadline=None, max_examples=200)
def test_what_few_images_tell_is_the_verdict_for_twice_and_half_the_changes(changes, max_drop, drop):
    budget, found = Budget(max_drop), comparison(drop, changes=changes)
    if budget.conclusive(found, found.images):
        assert budget.kept(found) == budget.kept(comparison(drop, changes=2 * changes))
        assert budget.kept(found) == budget.kept(comparison(drop, changes=changes / 2))


def test_blocks_are_measured_left_out_only_where_that_was_asked():
    products = [product("a", 300), product("b", 100)]
    table = Table({"a": 1.0, "b": 2.0})
    assert all(block.left_out is None for block in measure_sensitivities(table, products, "max", left_out=False))
    assert table.asked == [("a",), ("b",)]
