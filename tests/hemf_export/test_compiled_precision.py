"""What a graph promises of INT8 beside what TensorRT-RTX really compiles of it: in `trt`, `inspect`, bundles, pages."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from hemf_export.engines.census import Census
from hemf_export.engines.kernels import Kernel, Tensor
from hemf_export.files import artifacts
from hemf_export.files.errors import BadInputError, CheckFailedError
from hemf_export.pages import census_text
from hemf_export.precision import compiled_engines, compiled_precision
from tests.conftest import once

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no wheel for this platform")

BROKEN = "are computed in half by the engine"


@dataclasses.dataclass(frozen=True)
class Built:
    """An engine in a folder of its own, with the INT8 file and all that this was made from; what `trt` said."""

    folder: Path
    graph: Path
    engine: Path
    said: str


@pytest.fixture(scope="module")
def t4(int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """For sm_75, whose convolutions TensorRT-RTX computes in half."""
    return build(int8, "t4", tmp_path_factory)


@pytest.fixture(scope="module")
def a10(int8: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """For sm_86, which has convolutions in INT8."""
    return build(int8, "a10", tmp_path_factory)


def build(int8: Path, target: str, factory: pytest.TempPathFactory) -> Built:
    def make(folder: Path) -> None:
        for path in int8.parent.iterdir():
            shutil.copy(path, folder)
        command = ["trt", folder / int8.name, "--target", target, "--golden", "0", "--batch", "1:2:4"]
        done = subprocess.run(
            [sys.executable, "-m", "hemf_export", *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        folder.joinpath("said").write_text(done.stderr + done.stdout)

    folder = once(factory, f"compiled-{target}", make)
    return Built(folder, folder / int8.name, folder / f"best.int8.{target}.engine", (folder / "said").read_text())


def manifest(path: Path) -> dict[str, Any]:
    found = artifacts.read_manifest(path)
    assert found is not None
    return found


@pytest.mark.extended
def test_trt_names_the_products_that_the_engine_computes_in_half(t4):
    said, found = " ".join(t4.said.split()), manifest(t4.engine)["compiled_precision"]
    assert BROKEN in said
    assert all(one["operator"] == "Conv" and one["computed_in"] == "fp16" for one in found["broken"])
    assert found["promised_int8_products"] == found["int8_products"] + len(found["broken"]) + len(found["unlisted"])
    assert found["unlisted"] == []
    assert 0 < found["share_of_multiply_adds"] < found["promised_share_of_multiply_adds"]
    share, promised = (found[name] for name in ("share_of_multiply_adds", "promised_share_of_multiply_adds"))
    assert f"{share:.1%} of the multiply-adds as compiled (the file has {promised:.1%})" in said
    summary = manifest(t4.engine)["census"]
    assert f"{summary['kernels']} kernels, " in said
    blocks = {one["block"] for one in found["broken"]}
    assert blocks
    assert blocks <= set(summary["by_block"])


@pytest.mark.extended
def test_for_a_gpu_with_int8_convolutions_the_promise_is_kept(t4, a10):
    found = manifest(a10.engine)["compiled_precision"]
    assert found["broken"] == found["unlisted"] == []
    assert found["int8_products"] == found["promised_int8_products"]
    assert found["share_of_multiply_adds"] == found["promised_share_of_multiply_adds"]
    assert BROKEN not in a10.said
    assert manifest(a10.engine)["census"]["products"]["int8"] > manifest(t4.engine)["census"]["products"]["int8"]


def test_strict_precision_is_exit_3_and_writes_nothing(t4, run_cli, tmp_path):
    output = tmp_path / "engine"
    code, out, err = run_cli("trt", t4.graph, "-o", output, "--golden", "0", "--strict-precision", "--json")
    assert code == 3, err
    assert list(tmp_path.iterdir()) == []
    report = json.loads(out)
    assert BROKEN in report["error"]

    def without_kernels(broken: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What a kernel is called may differ from build to build."""
        return [{name: value for name, value in one.items() if name != "kernel"} for one in broken]

    shipped = manifest(t4.engine)["compiled_precision"]["broken"]
    assert without_kernels(report["broken"]) == without_kernels(shipped), "all of them"


@pytest.mark.extended
def test_strict_precision_lets_an_engine_through_that_keeps_it(t4, run_cli, tmp_path):
    output = tmp_path / "kept.engine"
    code, _, err = run_cli(
        "trt", t4.graph, "-o", output, "--target", "sm_86", "--batch", "1", "--golden", "0", "--strict-precision"
    )
    assert code == 0, err
    assert output.is_file()


def test_inspect_shows_blocks_kinds_and_what_is_broken_without_a_gpu(t4, run_cli):
    _, out, err = run_cli("inspect", t4.engine)
    text = " ".join((out + err).split())
    assert BROKEN in text
    assert "precision as compiled" in out
    assert "broken" in out
    assert "kernels by block" in out
    assert "ELF 1" in out
    assert "kernels by kind" in out
    assert "gemm in int8" in out
    assert "a twin, built for batch 2 alone and not shipped" in text
    assert "in launch order" not in out
    _, out, _ = run_cli("inspect", t4.engine, "--layers")
    assert "kernels, in launch order" in out
    assert "kernels of the twin for batch 2 alone" in out


def test_inspect_gives_programs_every_kernel(t4, run_cli):
    _, out, _ = run_cli("inspect", t4.engine, "--layers", "--json")
    found = json.loads(out)
    census = found["manifest"]["census"]
    assert "lists" not in census, "packed lists are for the manifest alone"
    assert len(found["kernels"]) == census["kernels"]
    assert {kernel["block"] or "other" for kernel in found["kernels"]} == set(census["by_block"])
    counted = [kernel for kernel in found["kernels"] if kernel["product_type"] == "int8"]
    assert len(counted) == census["products"]["int8"]
    _, out, _ = run_cli("inspect", t4.engine, "--json")
    assert "kernels" not in json.loads(out)


def test_an_engine_built_without_a_census_is_still_inspected(t4, run_cli, tmp_path):
    engine = Path(shutil.copy(t4.engine, tmp_path))
    known = manifest(t4.engine)
    old = {name: value for name, value in known.items() if name not in ("census", "compiled_precision")}
    artifacts.write_json(artifacts.manifest_path(engine), old)
    for arguments in ((), ("--layers",)):
        code, out, err = run_cli("inspect", engine, *arguments)
        assert "kernels by block" not in out
        assert ("build it again to have one" in " ".join(err.split())) == bool(arguments)
        assert code in (0, 4), err
    assert compiled_engines.read(engine) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"census": 3}, {"census": {}}, {"census": {"lists": {"engine": "x", "twin": None}}},
        {"compiled_precision": {"broken": 1}}, {"compiled_precision": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_with_a_damaged_census_is_told_and_stops_nothing(t4, run_cli, tmp_path, damage):
    engine = Path(shutil.copy(t4.engine, tmp_path))
    artifacts.write_json(artifacts.manifest_path(engine), {**manifest(t4.engine), **damage})
    code, _, err = run_cli("inspect", engine, "--layers")
    assert code in (0, 4), err
    assert "can't be read" in " ".join(err.split())
    assert "Traceback" not in err
    assert compiled_engines.read(engine) is None


def test_a_bundle_tells_it_in_its_index_its_card_and_on_the_way(t4, run_cli, tmp_path):
    path = tmp_path / "b.tar.zst"
    code, _, err = run_cli("bundle", t4.engine, "-o", path, "--no-cpp", "--golden", "0", "--json")
    assert code == 0, err
    assert BROKEN in " ".join(err.split())
    with zstandard.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    (model,) = json.loads(files["bundle.json"])["models"]
    assert model["census"]["kernels"] == manifest(t4.engine)["census"]["kernels"]
    assert model["compiled_precision"]["broken"]
    card = files["MODEL_CARD.md"].decode()
    assert f"was compiled to {model['census']['kernels']} kernels" in card
    assert BROKEN in card
    staged = json.loads(files[f"models/{t4.engine.name}.json"])
    assert Census.from_dict(staged["census"]) == Census.from_dict(manifest(t4.engine)["census"]), "the whole list"


def test_a_verification_of_the_graph_tells_of_its_engines(t4, run_cli, folder, tmp_path):
    page = tmp_path / "page.html"
    code, out, err = run_cli(
        "verify", t4.graph, "--data", folder, "--reference", t4.folder / "best.pt", "--max-drop", "100",
        "--min-agreement", "0", "--max-logit-diff", "1000", "--max-recall-drop", "100", "--json", "--report", page,
    )  # fmt: skip
    assert code == 0, err
    (candidate,) = json.loads(out)["candidates"]
    assert [engine["file"] for engine in candidate["engines"]] == [t4.engine.name]
    text = page.read_text(encoding="utf-8")
    assert "Kernels of the engines" in text
    assert BROKEN in text
    assert f'candidates/0/engines/0/census/kernels">{candidate["engines"][0]["census"]["kernels"]}<' in text


@pytest.mark.extended
def test_the_roofline_counts_the_kernels_of_an_engine_for_that_gpu(t4, run_cli, monkeypatch):
    def floors(target: str) -> dict[int, dict[str, Any]]:
        code, out, err = run_cli(
            "bench", t4.graph, "--runners", "ort-cpu", "--seconds", "0.1", "--batch", "1,2", "--no-memory",
            "--target", target, "--json",
        )  # fmt: skip
        assert code == 0, err
        found = json.loads(out)["roofline"]["floors"]
        return {floor["batch"]: floor for floor in found if floor["precision"] == "int8"}

    census = Census.from_dict(manifest(t4.engine)["census"])
    compiled = floors("t4")
    assert compiled[2]["source"] == f"{t4.engine.name}, as compiled"
    assert compiled[1]["source"] == f"{t4.engine.name}, as compiled for 2"
    assert compiled[2]["kernels"] == census.launches
    assert compiled[2]["moved_bytes"] == census.moved_bytes
    assert compiled[2]["operations"]["fp16"] == 2 * census.multiply_adds["fp16"]
    assert compiled[2]["floor_ms"] > census.launches * 2.5e-3, "launches are in it"
    assert floors("rtx-20")[2]["kernels"] == census.launches, "of the same compute capability"
    assumed = floors("l4")
    assert assumed[2]["kernels"] is None
    assert assumed[2]["source"] == t4.graph.name
    assert assumed[2]["operations"].keys() == {"int8", "fp16"}


# By hand


def kernel(dtype: str, *nodes: str, kind: str = "gemm", name: str = "g") -> Kernel:
    def matrix(name: str, *shape: int) -> Tensor:
        return Tensor(name, shape, (), dtype)

    return Kernel(name, kind, (matrix("x", 4, 8),), (matrix("w", 8, 2),), (matrix("y", 4, 2),), "", 0, nodes)


@pytest.fixture
def judged(int8: Path) -> Callable[..., compiled_precision.CompiledPrecision]:
    """What becomes of the first INT8 product of a real graph, all others kept, by kernels for it."""
    graph = compiled_precision.read(int8)
    products = [(product, names) for product, names in graph.products if product.node in graph.int8]
    (_, names), *others = products

    def judge(*own: tuple[str, str]) -> compiled_precision.CompiledPrecision:
        listed = [kernel(dtype, names[0], kind=kind) for dtype, kind in own]
        listed += [kernel("int8", each[0]) for _, each in others]
        found = compiled_precision.compare(graph, Census("tensorrt", "11", "sm_75", tuple(listed), None))
        assert found is not None
        assert found.promised == len(products)
        assert found.kept >= len(others)
        return found

    return judge


def test_a_product_is_kept_by_a_kernel_that_multiplies_in_int8(judged):
    assert judged(("int8", "gemm")).broken == ()
    assert judged(("fp16", "kgen"), ("int8", "CaskConvolution")).broken == (), "a kernel after it adds the bias"


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", "gemm"), ("fp32", "correlation"), ("fp16", "kgen")])
def test_a_product_that_no_kernel_multiplies_in_int8_is_broken(judged, dtype, kind):
    (broken,) = judged((dtype, kind)).broken
    assert broken.computed_in == dtype


def test_a_product_that_no_kernel_names_is_neither_kept_nor_broken(judged):
    found = judged()
    assert (found.broken, len(found.unlisted)) == ((), 1)
    assert found.share < found.promised_share
    assert compiled_precision.remark(found.to_dict()) is None


def test_strict_refuses_what_can_not_be_seen(int8):
    graph = compiled_precision.read(int8)
    with pytest.raises(CheckFailedError, match="doesn't tell what it computes them in"):
        compiled_precision.require_kept(None, None, graph, int8.name)
    plain = dataclasses.replace(graph, int8=frozenset())
    compiled_precision.require_kept(None, None, plain, int8.name)


def test_a_remark_names_few_products_and_sums_up_many():
    def told(count: int) -> dict[str, Any]:
        broken = [
            {"node": f"n{n}", "operator": "Conv", "block": f"b{n % 8}", "computed_in": "fp16"} for n in range(count)
        ]
        return {"promised_int8_products": 20, "broken": broken}

    assert compiled_precision.remark(told(0)) is None
    assert compiled_precision.remark(told(1)) == (
        "1 Conv of 20 INT8 products in the file is computed in half by the engine: n0 (b0)."
    )
    many = compiled_precision.remark(told(16))
    assert many is not None
    assert many.endswith(
        "2 in b0, 2 in b1, 2 in b2, 2 in b3, 2 in b4, 2 in b5, 4 in 2 more blocks; the manifest names each."
    )


@pytest.mark.parametrize("value", [None, 3, {}, {"broken": [{}]}])
def test_an_account_that_is_none_is_told(value):
    with pytest.raises(BadInputError, match="can't be read"):
        compiled_precision.require_plain(value)


def test_the_line_of_a_build():
    summary = {
        "kernels": 1312, "activation_bytes": 300_000_000, "weight_bytes": 102_000_000, "batch": 8,
        "products": {"fp16": 288, "int8": 1}, "fused_attentions": 16,
    }  # fmt: skip
    assert census_text.line(summary) == (
        "1,312 kernels, 402 MB moved at batch 8, 288 products in half, 1 in INT8, 16 fused attentions"
    )
    open_sizes = {**summary, "activation_bytes": None, "products": {"fp16": 1}, "fused_attentions": 0}
    assert census_text.line(open_sizes) == "1,312 kernels, sizes open, 1 product in half"
