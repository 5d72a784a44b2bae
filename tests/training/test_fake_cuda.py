"""The CUDA path without a GPU: devices match, and no step reads a value of the device."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths

from tests.helpers.data import REPOSITORY

SOURCE = REPOSITORY / "tests" / "helpers" / "fake_cuda.cpp"
BACKENDS = {"32-true": "pad", "bf16-mixed": "varlen", "16-mixed": "varlen"}

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="stands in for a CPU build's CUDA"),
    pytest.mark.skipif(sys.platform != "linux", reason="links as on Linux"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for what a CPU build of torch lacks, compiled."""
    path = tmp_path_factory.mktemp("fake-cuda") / "fake_cuda.so"
    own = Path(torch.__file__).parent / "lib"
    where = [*(f"-I{place}" for place in include_paths()), f"-L{own}", f"-Wl,-rpath,{own}"]
    flags = ["-std=c++20", "-shared", "-fPIC"]
    command = ["g++", *flags, *where, str(SOURCE), "-lc10", "-ltorch_cpu", "-o", str(path)]
    subprocess.run(command, check=True, timeout=200)
    return path


def run(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.helpers.fake_cuda", str(library), *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.parametrize("batching", ["grouped", "packed"])
@pytest.mark.parametrize("precision", BACKENDS)
def test_steps_stay_on_the_device_and_never_wait_for_it(
    library: Path, precision: str, batching: str
) -> None:
    """Forward, loss, backward, clipping, optimizer, schedule, decoding."""
    ended = run(library, precision, batching)
    assert ended.returncode == 0, ended.stderr
    backend, *results = ended.stdout.split("\n")[-2].split()
    assert backend == (BACKENDS[precision] if batching == "packed" else "None")
    assert {"train/loss", "null", "spans", "scores", "token_hits"} <= set(results)


def test_a_planted_read_is_found(library: Path) -> None:
    ended = run(library, "bf16-mixed", "grouped", "planted")
    assert ended.returncode != 0
    assert "DataDependentOutputException: aten._local_scalar_dense" in ended.stderr
