"""What the command line prints: whole names in pipes, lines that fit terminals, nothing unprintable, valid JSON."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fastconv.cli import output
from fastconv.isa import isa_levels


def tensor(name: str, shape: list[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def test_tables_keep_names_in_pipes_and_fit_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [output.Column("name", flexible=True), output.Column("n", right=True), output.Column("extra", drop=1)]
    rows = [("/a/very/long/node/name/" * 8 + "Conv", 7, "e" * 30), ("b", 12345, "x")]

    def printed(width: int | None) -> list[str]:
        from rich.console import Console

        file = io.StringIO()
        terminal = Console(
            file=file, width=width or 80, force_terminal=width is not None, color_system=None, soft_wrap=True
        )
        monkeypatch.setattr(output, "console", lambda: terminal)
        output.table(columns, rows)
        return file.getvalue().splitlines()

    piped = printed(None)
    assert len(piped) == 3 and rows[0][0] in piped[1] and "\x1b" not in "".join(piped)
    for width in (80, 120):
        lines = printed(width)
        assert max(map(len, lines)) <= width and "name/Conv" in lines[1] and "e" * 30 in lines[1]
    narrow = printed(50)
    assert max(map(len, narrow)) <= 50 and "e" * 30 not in narrow[1] and "extra" in narrow[-1]


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> io.StringIO:
    from rich.console import Console

    file = io.StringIO()
    terminal = Console(file=file, width=width, force_terminal=True, color_system=None, soft_wrap=True)
    monkeypatch.setattr(output, "console", lambda: terminal)
    return file


NAMES = ("/layer1/layer1.0/conv1/Conv", "/layer1/layer1.0/downsample/downsample.0/Conv", "/avgpool/GlobalAveragePool")


NARROW = ("chosen by", "expected ms", "buffer")  # what 80 characters have no room for


@pytest.mark.parametrize(("width", "missing"), [(80, NARROW), (120, ()), (40, None), (10, None)])
def test_inspect_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int, missing: tuple[str, ...] | None
) -> None:
    """At 80 characters all that tells where time goes, with names that can still be told apart; at 120 everything."""
    from fastconv.cli.inputs import DEFAULT
    from fastconv.cli.inspect import inspect

    x = tensor("x", [1, 256, 112, 112])
    inits = {f"w{i}": np.zeros((256, 256, 3, 3), np.float32) for i in range(2)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name=NAMES[0], pads=[1] * 4),
        helper.make_node("Conv", ["a", "w1"], ["b"], name=NAMES[1], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["b"], ["y"], name=NAMES[2]),
    ]
    graph = helper.make_graph(
        nodes, "g", [x], [tensor("y", None)], [numpy_helper.from_array(v, k) for k, v in inits.items()]
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    file = on_terminal(monkeypatch, width)
    inspect(str(path), [], DEFAULT, False)
    lines = file.getvalue().splitlines()
    titles, last = re.split(r"  +", lines[0].strip()), lines[-1]
    assert "operations on " in last and f"{isa_levels()[-1]}," in last and last.endswith(" ms expected")
    if missing is None:  # what is left is the least that is of use
        assert titles == ["name", "algorithm", "output", "FLOPs"]
        return
    assert max(map(len, lines)) <= width
    every = {"name", "op", "algorithm", "output", "FLOPs", "bytes", *NARROW}
    assert set(titles) == every - set(missing)
    table = lines[1 : -2 if missing else -1]
    assert any("downsample.0/Conv " in line for line in table) and any("layer1.0/conv1/Conv " in line for line in table)
    assert not missing or lines[-2] == f"(in a wider terminal, or piped: {', '.join(missing)})"


def test_shortened_names() -> None:
    assert [output._shortened(n) for n in (*NAMES, "conv", "", "a/ab/c", "a/a.b/a.b.c/a.b.c.d/Conv")] == [
        "/layer1.0/conv1/Conv", "/layer1.0/downsample.0/Conv", NAMES[2], "conv", "", "a/ab/c", "a.b.c.d/Conv",
    ]  # fmt: skip


def test_names_get_the_room_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where columns fit because names shrink, none is dropped; and names get what the dropped ones leave."""
    columns = [output.Column("name", flexible=True), output.Column("op", drop=1), output.Column("x", drop=2)]
    name = "n" * 60

    def lines(width: int, *cells: str) -> list[str]:
        file = on_terminal(monkeypatch, width)
        output.table(columns, [(name, *cells)])
        return file.getvalue().splitlines()

    assert lines(80, "Conv", "1") == ["name".ljust(60) + "  op    x", f"{name}  Conv  1"]
    assert lines(50, "Conv", "1")[1] == "\u2026" + "n" * 40 + "  Conv  1"
    assert lines(50, "C" * 20, "x" * 20)[1] == "\u2026" + "n" * 27 + "  " + "C" * 20
    assert lines(30, "C" * 20, "x" * 20)[1] == "\u2026" + "n" * 29


def test_untrusted_names_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_line("a\x1b[2Jb\rc\n")
    output.table([output.Column("t")], [["x\x1b]0;title\x07"]])
    output.error("bad\x1b[31m\nname")
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\r" not in out and "\x07" not in out and err.count("\n") == 1


def test_numbers() -> None:
    assert [output.count(v) for v in (0, 999, 1000, 1.234e6, 2.5e9, 1e12)] == [
        "0",
        "999",
        "1 k",
        "1.23 M",
        "2.5 G",
        "1 T",
    ]
    assert [output.size(v) for v in (0, 1023, 1536, 1 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "1.0 MiB",
        "3.0 GiB",
    ]
    assert output.dims((1, "N", None)) == "1xNx?" and output.dims(()) == "scalar"


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    output.dump_json({"a": [float("nan"), float("inf"), 1.5], "b": (1, "x")})
    assert json.loads(capsys.readouterr().out) == {"a": [None, None, 1.5], "b": [1, "x"]}
