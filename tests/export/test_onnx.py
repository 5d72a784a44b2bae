"""ONNX: the same logits as torch for any batch, and clear words about what is no such model."""

from __future__ import annotations

import importlib.util
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.data.batches import Batch, BatchSize
from qa_lightning.data.tables import tables_from_texts
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import make_windows
from qa_lightning.errors import UserError
from qa_lightning.export.onnx import largest_difference, quantise, write_onnx
from qa_lightning.inference.answerer import Answerer
from qa_lightning.model.logits import Logits, model_logits
from qa_lightning.model.onnx_session import onnx_logits
from qa_lightning.model.tokenizer import load_tokenizer
from qa_lightning.model.trained_model import InferenceSettings, TrainedModel

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@dataclass(frozen=True)
class Written:
    """A model in its three forms."""

    plain: Path
    rounded: Path
    torch: Logits


@pytest.fixture(scope="module")
def written(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("onnx")
    encoder = TrainedModel.load(tiny_encoder).encoder
    with torch.no_grad():  # a head that tells tokens apart, as a trained one does
        encoder.qa_outputs.weight.mul_(100)
    plain, rounded = folder / "model.onnx", folder / "model_int8.onnx"
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    write_onnx(encoder, plain)
    assert not encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    quantise(plain, rounded)
    assert sorted(path.name for path in folder.iterdir()) == [plain.name, rounded.name]
    return Written(plain, rounded, model_logits(encoder, "cpu", "32-true"))


def batch_of(ids: torch.Tensor, mask: torch.Tensor | None) -> Batch:
    nothing = torch.zeros(len(ids), dtype=torch.int64)
    return Batch(ids, mask, nothing, nothing, nothing, None, None, BatchSize(0, 0, 0, 0))


def some_batch(windows: int, tokens: int, seed: int) -> Batch:
    """Random tokens; windows of random lengths, the first one full."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(100, (windows, tokens), generator=draw)
    lengths = torch.randint(1, tokens + 1, (windows, 1), generator=draw)
    lengths[0] = tokens
    mask = torch.arange(tokens) < lengths
    return batch_of(ids, None if mask.all() else mask)


def real(batch: Batch) -> torch.Tensor:
    mask = batch.attention_mask
    return torch.ones_like(batch.input_ids, dtype=torch.bool) if mask is None else mask


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 128), st.integers(0, 999))
def test_logits_are_those_of_torch_whatever_the_shape(
    written: Written, windows: int, tokens: int, seed: int
) -> None:
    batch = some_batch(windows, tokens, seed)
    ours, theirs = onnx_logits(written.plain)(batch), written.torch(batch)
    assert ours.shape == (windows, tokens, 2) and ours.dtype == torch.float32
    assert torch.equal(ours.isneginf(), ~real(batch).unsqueeze(2).expand_as(ours))
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_the_graph_is_one_that_others_can_use(written: Written) -> None:
    for path in (written.plain, written.rounded):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=path == written.plain)
        assert [one.version for one in model.opset_import if one.domain == ""] == [18]
        kinds = {}
        for one in [*model.graph.input, *model.graph.output]:
            shape = [dim.dim_param for dim in one.type.tensor_type.shape.dim]
            kinds[one.name] = (one.type.tensor_type.elem_type, shape)
        integers, floats = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
        sizes = ["windows", "tokens"]
        assert kinds == {
            "input_ids": (integers, sizes),
            "attention_mask": (integers, sizes),
            "start_logits": (floats, sizes),
            "end_logits": (floats, sizes),
        }


def test_int8_is_smaller_and_near(written: Written) -> None:
    model = onnx.load(written.rounded)
    names = {node.op_type for node in model.graph.node}
    assert "MatMulInteger" in names
    assert not [one for one in model.graph.initializer if one.data_type == 1 and len(one.dims) > 2]
    batch = some_batch(4, 60, seed=1)
    exact = onnx_logits(written.plain)(batch)[real(batch)]
    near = onnx_logits(written.rounded)(batch)[real(batch)]
    assert 0 < (near - exact).abs().mean() < 0.15 * exact.std()


def test_several_threads_may_use_one_model(written: Written) -> None:
    logits = onnx_logits(written.plain)
    batches = [some_batch(3, 20 + number, seed=number) for number in range(24)]
    alone = [logits(batch) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(logits, batches))
    assert all(map(torch.equal, alone, together))


class TestAnswerer:
    """An ONNX model answers as its folder does."""

    @pytest.fixture
    def folder(self, written: Written, tiny_encoder: Path, tmp_path: Path) -> Path:
        trained = TrainedModel.load(tiny_encoder)
        with torch.no_grad():
            trained.encoder.qa_outputs.weight.mul_(100)
        settings = InferenceSettings(trained.settings.tokenizer, WindowSettings(64, 16, 16), 0.75)
        folder = tmp_path / "model"
        TrainedModel(trained.encoder, settings).save(folder)
        shutil.copy(written.plain, folder)
        return folder

    def test_answers_are_those_of_the_folder(self, folder: Path) -> None:
        ours = Answerer.from_pretrained(folder / "model.onnx")
        theirs = Answerer.from_pretrained(folder, device="cpu", precision="32-true")
        assert ours.threshold == theirs.threshold == 0.75
        assert ours.windows == theirs.windows == WindowSettings(64, 16, 16)
        questions = ["who?", "where is the museum of rome?", "when was oslo founded?"] * 4
        contexts = [f"{number} people built a bridge. " * number for number in range(1, 13)]
        for one, other in zip(ours(questions, contexts), theirs(questions, contexts), strict=True):
            assert (one.text, one.start, one.end) == (other.text, other.start, other.end)
            assert one.null_odds == pytest.approx(other.null_odds, abs=1e-3)

    def test_a_threshold_may_be_given(self, folder: Path) -> None:
        model = str(folder / "model.onnx")
        assert Answerer.from_pretrained(model, threshold=-1.5).threshold == -1.5

    @pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "bf16-mixed"}])
    def test_it_has_a_place_and_a_precision_of_its_own(
        self, folder: Path, options: dict[str, str]
    ) -> None:
        with pytest.raises(UserError, match="runs on the CPU, at its own precision"):
            Answerer.from_pretrained(folder / "model.onnx", **options)

    def test_what_belongs_beside_it(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "null_threshold": "high"}))
        with pytest.raises(UserError, match=r"config\.json: null_threshold must be a number"):
            Answerer.from_pretrained(folder / "model.onnx")
        (folder / "config.json").unlink()
        with pytest.raises(UserError, match=r"holds no config\.json"):
            Answerer.from_pretrained(folder / "model.onnx")
        (folder / "tokenizer.json").unlink()
        with pytest.raises(UserError, match="holds no tokenizer"):
            Answerer.from_pretrained(folder / "model.onnx")


class TestLargestDifference:
    @pytest.fixture
    def windows(self, tiny_encoder: Path) -> Any:
        questions = ["who?", "where is the museum of rome?"] * 3
        contexts = ["paris is a city in the north. " * (number + 1) for number in range(6)]
        return make_windows(
            tables_from_texts(questions, contexts),
            load_tokenizer(str(tiny_encoder)),
            WindowSettings(64, 16, 16),
        )

    def logits(self, batch: Batch) -> torch.Tensor:
        values = batch.input_ids.unsqueeze(2).expand(-1, -1, 2).float()
        return values.masked_fill(~real(batch).unsqueeze(2), float("-inf"))

    def test_finds_the_one_logit_that_is_off(self, windows: Any) -> None:
        def off(batch: Batch) -> torch.Tensor:
            found = self.logits(batch).clone()
            found[0, 3, 1] -= 0.25 if batch.input_ids.shape[1] > 48 else 0.125
            return found

        assert largest_difference(self.logits, self.logits, windows) == 0
        assert largest_difference(self.logits, off, windows) == 0.25
        assert largest_difference(off, self.logits, windows) == 0.25

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_what_is_no_number_is_as_far_off_as_can_be(self, windows: Any, value: float) -> None:
        def broken(batch: Batch) -> torch.Tensor:
            found = self.logits(batch).clone()
            found[0, 3, 1] = value
            return found

        assert largest_difference(self.logits, broken, windows) == np.inf
        assert largest_difference(broken, broken, windows) == (np.inf if value != value else 0)


class TestRefused:
    def test_cut_short(self, written: Written, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(written.plain.read_bytes()[:-1000])
        with pytest.raises(UserError, match=r"model\.onnx cannot be loaded as an ONNX model"):
            onnx_logits(path)

    def test_without_the_packages(
        self, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = importlib.util.find_spec
        absent: set[str] = set()
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name: None if name in absent else found(name),
        )
        install = r"pip install 'qa-lightning\[onnx\]'"
        absent |= {"onnx", "onnxscript"}
        with pytest.raises(UserError, match=f"onnx and onnxscript, .*{install}"):
            write_onnx(TrainedModel.load(tiny_encoder).encoder, tmp_path / "model.onnx")
        absent |= {"onnxruntime"}
        with pytest.raises(UserError, match=install):
            quantise(tmp_path / "model.onnx", tmp_path / "model_int8.onnx")
        with pytest.raises(UserError, match=f"onnxruntime, .*{install}"):
            onnx_logits(tmp_path / "model.onnx")
