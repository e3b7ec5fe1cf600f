"""What the command line prints: whole names in pipes, lines that fit terminals, nothing unprintable, valid JSON."""

from __future__ import annotations

import io
import json

import pytest

from fastconv.cli import output


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
