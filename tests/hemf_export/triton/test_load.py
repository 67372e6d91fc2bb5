"""A minute under load: no error, no growth. With `pytest -m slow -s` its figures are printed."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hemf_export.models.model_file import ModelFile
from hemf_export.models.predictor import Predictor
from hemf_export.triton import client, repository
from hemf_export.triton.client import Server
from hemf_export.triton.options import Options

CLIENTS = 16
SECONDS = float(os.environ.get("HEMF_EXPORT_LOAD_SECONDS", "60"))


def resident_bytes(pid: int) -> int:
    """Memory of a process and of those that it started, the model's own among them."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it ended
            continue
        found[int(status.parent.name)] = int(lines["PPid"]), int(lines.get("VmRSS", "0 kB").split()[0]) * 1024
    own = {pid}
    while more := {one for one, (parent, _) in found.items() if parent in own} - own:
        own |= more
    return sum(found[one][1] for one in own if one in found)


def images_per_second(model: Predictor, pixels: np.ndarray) -> float:
    """What ONNX Runtime gives in this process, with nobody else."""
    runs, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < SECONDS / 15:
        model.logits(pixels)
        runs += 1
    return runs * len(pixels) / seconds


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_minute_with_sixteen_clients(made, server, images):
    path = Path(os.environ.get("HEMF_EXPORT_LOAD_MODEL") or made.onnx)
    repository.write([path], server.repository, Options(name="loaded", backend="python", max_batch=16, preferred=(8,)))
    server.load("loaded")
    local = ModelFile.open(path).predictor()
    pixels = np.stack([local.description.input.load(image) for image in images])
    expected = local.logits(pixels)
    alone = images_per_second(local, pixels[:8])
    latencies: list[list[float]] = [[] for _ in range(CLIENTS)]
    errors: list[str] = []
    memory: list[int] = []
    end = time.monotonic() + SECONDS

    def work(number: int) -> None:
        connection = Server(server.grpc if number % 2 else server.http)
        model = client.load(connection, "loaded")
        index = number
        while time.monotonic() < end:
            one = index % len(pixels)
            started = time.perf_counter()
            try:
                found = model.logits(pixels[one : one + 1])
                np.testing.assert_allclose(found[0], expected[one], atol=1e-4)
            except Exception as error:  # noqa: BLE001 - of any kind: it is counted
                errors.append(repr(error))
            latencies[number].append(time.perf_counter() - started)
            index += 1
        connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        time.sleep(min(1.0, SECONDS / 60))
        memory.append(resident_bytes(server.pid))
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - started
    connection = Server(server.grpc)
    statistics = connection.statistics("loaded", "1")
    connection.close()
    every = 1000 * np.array([one for own in latencies for one in own])
    count, runs = int(statistics["inference_count"]), int(statistics["execution_count"])
    quarters = [round(float(np.median(part)) / 1e6, 1) for part in np.array_split(memory, 4)]
    figures = {
        "model": path.name,
        "clients": CLIENTS,
        "seconds": round(seconds, 1),
        "requests": len(every),
        "errors": len(errors),
        "requests_per_second": round(len(every) / seconds, 1),
        "latency_ms": {f"p{share}": round(float(np.percentile(every, share)), 2) for share in (50, 90, 95, 99)},
        "images_per_second_alone": {"before": round(alone, 1), "after": round(images_per_second(local, pixels[:8]), 1)},
        "images_per_run": round(count / runs, 2),
        "memory_mb_by_quarter": quarters,
    }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    assert not errors, errors[:3]
    assert count >= len(every)
    assert runs < count, "requests were put together"
    # At first the backend's buffers grow to the largest batch that came.
    assert quarters[3] <= quarters[1] * 1.02 + 5, "the server's memory doesn't grow"
