"""What the README and docs/ say of a GPU is one list, which docs/gpu.md shows and each page that says it links to."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hemf_export.gpu_check import catalogue
from hemf_export.gpu_check.benchmark import KINDS
from tests.conftest import PROJECT

CLAIMS: list[dict[str, Any]] = tomllib.loads(
    (PROJECT / "hemf_export" / "gpu_check" / "claims.toml").read_text(encoding="utf-8")
)["claims"]
STEPS = tuple(entry.name for entry in catalogue.ENTRIES)
OVERVIEW = PROJECT / "docs" / "gpu.md"
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
# How a page marks what it says of a GPU.
MARK = re.compile(r"\[not yet confirmed on a GPU\]\(([^)]+)\)")
# How pages used to say it, each in its own words.
OTHER_WORDS = re.compile(
    r"(met a GPU|run on a (GPU|T4)|been run|been measured|measured on a T4)[\w\s]* yet|on a T4 yet"
)


def name(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


def row(claim: dict[str, Any]) -> str:
    """The claim's row in docs/gpu.md."""
    pages = ", ".join(linked(PROJECT / page) for page in claim["where"])
    return f"| {claim['claim']} | {pages} | {claim['step']} | {claim.get('confirmed', 'not yet')} |"


def linked(page: Path) -> str:
    """The page's name, as a link: the README is no page of the site."""
    if page.name == "README.md":
        return "README"
    title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return f"[{title}]({page.name})"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_a_claim_is_complete(claim):
    needed, possible = {"id", "claim", "where", "step"}, {"checks", "gpu", "confirmed"}
    assert needed <= set(claim) <= needed | possible
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim["id"])
    assert re.fullmatch(r"\S.*\.", claim["claim"]), "one sentence"
    assert claim["step"] in STEPS
    assert len(set(claim["where"])) == len(claim["where"]), "each page once"
    assert {PROJECT / page for page in claim["where"]} <= set(PAGES)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_the_checks_that_confirm_a_claim_are_those_of_its_step(claim):
    """By their names in the step's module, where `fp16: runs` is made of two."""
    module = catalogue.find(claim["step"]).function.partition(":")[0]
    source = (PROJECT / "hemf_export" / "gpu_check" / f"{module}.py").read_text(encoding="utf-8")
    for check in claim.get("checks", ()):
        if claim["step"] != "bench" or check == "conditions":
            assert (check.partition(": ")[2] or check) in source, check
        else:
            assert check in KINDS


def test_claims_differ_and_every_step_confirms_one():
    assert len({claim["id"] for claim in CLAIMS}) == len({claim["claim"] for claim in CLAIMS}) == len(CLAIMS)
    assert {claim["step"] for claim in CLAIMS} == set(STEPS)


def test_the_minutes_that_the_overview_names_give_every_step_all_of_its_own():
    named = re.search(r"`--minutes (\d+)` gives every step all of its own", OVERVIEW.read_text(encoding="utf-8"))
    assert named is not None
    assert sum(entry.limit_s for entry in catalogue.ENTRIES) <= 60 * int(named[1])


@pytest.mark.parametrize("page", [page for page in PAGES if page != OVERVIEW], ids=name)
def test_a_page_is_marked_as_long_as_it_says_what_is_not_confirmed(page):
    open_claims = [claim["id"] for claim in CLAIMS if name(page) in claim["where"] and not claim.get("confirmed")]
    marks = MARK.findall(page.read_text(encoding="utf-8"))
    assert bool(marks) == bool(open_claims), open_claims
    assert {(page.parent / mark.partition("#")[0]).resolve() for mark in marks} <= {OVERVIEW}


def test_no_page_says_it_in_other_words():
    found = {name(page): OTHER_WORDS.search(" ".join(page.read_text(encoding="utf-8").split())) for page in PAGES}
    assert not {page: match[0] for page, match in found.items() if match}


def test_the_overview_has_the_claims_in_the_order_of_the_steps():
    rows = [row(claim) for step in STEPS for claim in CLAIMS if claim["step"] == step]
    shown = re.findall(
        r"^\| (?!claim |---).*", OVERVIEW.read_text(encoding="utf-8").partition("\n## ")[0], re.MULTILINE
    )
    assert shown == rows, "The table has to be:\n" + os.linesep.join(rows)
