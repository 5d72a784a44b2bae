"""ONNX models from elsewhere are refused; tests/export/test_onnx.py runs our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from qa_lightning.errors import UserError
from qa_lightning.model.onnx_session import onnx_logits

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no ONNX model .*model\.onnx"):
        onnx_logits(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x07" * 40])
def test_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx cannot be loaded as an ONNX model"):
        onnx_logits(path)


def test_a_model_of_another_kind(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["pixels"], ["labels"])],
        "other",
        [value("pixels", onnx.TensorProto.FLOAT, [1])],
        [value("labels", onnx.TensorProto.FLOAT, [1])],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="it takes pixels and gives labels"):
        onnx_logits(tmp_path / "other.onnx")
