"""Names that become names of files: fit for any system, or refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemf_export.files import file_names

ANY_TEXT = st.text(st.characters(), max_size=300)  # lone surrogates are signs of file names too
HOSTILE = (
    "../../../x", "/etc/passwd", "a/b:0", "C:\\x", "..", ".", "", " ", "a\0b", "a\nb", "x" * 255, "é" * 130, "CON",
    "nul.txt", "COM1", "‥/‥/x", "a∕b", "a／b", "\u202egnp.x", "~", "-rf", "%2e%2e%2f", "a;b", "$(x)", "模型", "\udcff",
)  # fmt: skip


@given(ANY_TEXT)
def test_a_fit_name_is_one_on_any_system_in_triton_and_in_a_url(name):
    made = file_names.fit(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", made)
    assert len(made) <= file_names.LONGEST
    assert file_names.is_plain(made)
    assert file_names.fit(made) == made


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_are_made_fit(name):
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", file_names.fit(name))
    assert file_names.is_plain(file_names.visible(name)[:100])


@pytest.mark.parametrize("name", ["best", "best.fp16.t4", "a--b_2", "HEMF-base.v2"])
def test_a_name_that_is_fit_stays(name):
    assert file_names.fit(name) == name


@pytest.mark.parametrize(
    ("name", "made"),
    [("my best model (v2)", "my-best-model-v2"), ("Modèle final .2", "Modele-final.2"), ("a/b:0", "a-b-0")],
)
def test_what_is_left_of_a_name_can_be_read(name, made):
    assert file_names.fit(name) == made


def test_names_in_another_script_stay_apart():
    assert len({file_names.fit(name) for name in ("模型一", "模型二", "модель", "x" * 300, "x" * 301)}) == 5


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/b", "a\\b", "C:x", "..", ".", "", "x.", "x ", "a\0b", "a\nb", "é" * 128, "CON", "nul.txt", None],
    ids=ascii,
)  # fmt: skip
def test_what_leads_elsewhere_is_no_name_of_a_file(name):
    assert not file_names.is_plain(name)
