"""Tuning: measured times decide where there are some, files are checked as untrusted input, threads change nothing."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import _core, cold
from fastconv.errors import TuningError
from fastconv.isa import resolve_isa
from fastconv.selection import Choice, Selection, Shape
from fastconv.tuning import MAX_BYTES, Tuning, cpu_name

from .cli_tools import call, one_line
from .models.builder import Builder

__all__ = ["call"]  # a fixture

ISA = resolve_isa()


@pytest.fixture(scope="module")
def network() -> bytes:
    """Two equal 3x3 convolutions of 32 channels and a stem."""
    b = Builder(5, (3, 12, 12))
    x = b.relu(b.conv(b.x, 32, 3))
    for _ in range(2):
        x = b.relu(b.conv(x, 32, 3))
    return bytes(b.model((b.head(x), [10])).SerializeToString())


@pytest.fixture
def path(tmp_path: Path, network: bytes) -> str:
    target = tmp_path / "net.onnx"
    target.write_bytes(network)
    return str(target)


@pytest.fixture
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "last_level_cache", lambda: 1 << 16)


WIDE = Shape(1, 12, 12, 32, 32, 12, 12, 3, 3, 1, (1, 1), (1, 1), (1, 1, 1, 1))


def chosen(model: fastconv.Model) -> list[tuple[str, str]]:
    ops = [o for o in model.inspect() if o.op == "Conv" and o.algorithm not in ("tiles", "border")]
    return [(o.algorithm, o.chosen_by) for o in ops]


def tuned(**microseconds: float) -> Tuning:
    names = {"implicit": Choice("implicit"), "f2": Choice("winograd", 2), "f4": Choice("winograd", 4)}
    return Tuning({(WIDE, ISA.name): {names[k]: v / 1e6 for k, v in microseconds.items()}})


def test_measured_times_decide(network: bytes) -> None:
    default = chosen(fastconv.load(network))
    assert {by for _, by in default} == {"model"} and default[1] == default[2]
    for times, want in (
        (dict(implicit=5.0, f2=9.0), "implicit"),
        (dict(implicit=9.0, f2=5.0, f4=6.0), "F(2x2,3x3)"),
        (dict(f4=1.0, implicit=2.0), "F(4x4,3x3)"),
    ):
        model = fastconv.load(network, tuning=tuned(**times))
        assert chosen(model) == [default[0], (want, "tuned"), (want, "tuned")]
        expected = sum(o.expected_ms for o in model.inspect() if o.op == "Conv" and o.shape[1:3] == (12, 12))
        assert expected > 2 * min(times.values()) * 1e-3
        assert chosen(pickle.loads(pickle.dumps(model))) == chosen(model)


def test_precision_comes_first(network: bytes) -> None:
    """Times of algorithms that the options forbid do not count."""
    strict = fastconv.load(network, precision="strict", tuning=tuned(implicit=9.0, f4=1.0))
    assert [a for a, _ in chosen(strict)][1:] == ["implicit", "implicit"]
    only = fastconv.load(network, precision="strict", tuning=tuned(f4=1.0))
    assert chosen(only)[1:] == [("implicit", "")] * 2  # nothing was measured that may be used, and one is left


def test_threads_change_nothing(network: bytes) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12), dtype=np.float32)
    for tuning in (None, tuned(implicit=9.0, f4=1.0)):
        models = [fastconv.load(network, threads=t, tuning=tuning) for t in (1, 2, 4)]
        first = models[0](x)
        assert all(chosen(m) == chosen(models[0]) for m in models)
        assert all(m(x).tobytes() == first.tobytes() for m in models)


def test_a_file_goes_around(tmp_path: Path) -> None:
    target, tuning = tmp_path / "t.json", tuned(implicit=9.0, f4=1.25)
    tuning.save(target)
    assert Tuning.load(target, isa=ISA) == tuning
    other = Tuning(cpu="Another CPU")
    other.add(WIDE, _core.Isa.avx2, {Choice("implicit"): 1e-5})
    other.others = json.loads(target.read_text())["records"]
    other.save(target)  # two machines in one file
    assert Tuning.load(target, isa=ISA) == tuning
    assert Tuning.load(target, cpu="Another CPU").times == other.times
    assert list(tmp_path.iterdir()) == [target]


def test_another_cpu_or_level(tmp_path: Path, network: bytes) -> None:
    target = tmp_path / "t.json"
    other = Tuning(cpu="Another CPU")
    other.add(WIDE, ISA, {Choice("implicit"): 1e-5})
    other.save(target)
    with pytest.raises(TuningError, match=r"Another CPU.*fastconv tune"):
        fastconv.load(network, tuning=target)
    level = _core.Isa.neon if ISA.name != "neon" else _core.Isa.scalar
    Tuning({(WIDE, level.name): {Choice("implicit"): 1e-5}}).save(target)
    with pytest.raises(TuningError, match=ISA.name):
        fastconv.load(network, tuning=target)
    with pytest.raises(FileNotFoundError):
        fastconv.load(network, tuning=tmp_path / "absent.json")


GOOD: dict[str, Any] = {
    "format": "fastconv-tuning", "version": 1,
    "records": [{"cpu": cpu_name(), "isa": ISA.name, "shape": json.loads(json.dumps(WIDE._asdict())),
                 "microseconds": {"implicit": 5, "F(4x4,3x3)": 2.5}}],
}  # fmt: skip


def broken() -> dict[str, Any]:
    def change(*where: Any, value: Any) -> dict[str, Any]:
        document = copy.deepcopy(GOOD)
        place: Any = document
        for key in where[:-1]:
            place = place[key]
        if value is KeyError:
            del place[where[-1]]
        else:
            place[where[-1]] = value
        return document

    record, sizes, us = ("records", 0), ("records", 0, "shape"), ("records", 0, "microseconds")
    return {
        "format": change("format", value="other"),
        "version": change("version", value=2),
        "no version": change("version", value=KeyError),
        "records": change("records", value={}),
        "record": change(*record, value=7),
        "cpu": change(*record, "cpu", value=""),
        "isa": change(*record, "isa", value="__class__"),
        "no shape": change(*record, "shape", value=KeyError),
        "size": change(*sizes, "C", value=0),
        "negative": change(*sizes, "pads", value=[0, -1, 0, 0]),
        "huge": change(*sizes, "K", value=1 << 40),
        "fraction": change(*sizes, "K", value=32.0),
        "bool": change(*sizes, "N", value=True),
        "strides": change(*sizes, "strides", value=[1]),
        "strides text": change(*sizes, "strides", value="11"),
        "unknown size": change(*sizes, "Z", value=1),
        "no times": change(*record, "microseconds", value={}),
        "algorithm": change(*us, "fft", value=1.0),
        "no candidate": change(*us, "depthwise", value=1.0),
        "zero": change(*us, "implicit", value=0),
        "nan": change(*us, "implicit", value=float("nan")),
        "infinite": change(*us, "implicit", value=float("inf")),
        "text": change(*us, "implicit", value="5"),
        "list": [GOOD],
    }


def test_the_good_file_is_good(tmp_path: Path) -> None:
    target = tmp_path / "t.json"
    target.write_text(json.dumps(GOOD))
    times = Tuning.load(target, isa=ISA).seconds(WIDE, ISA)
    assert times == {Choice("implicit"): pytest.approx(5e-6), Choice("winograd", 4): pytest.approx(2.5e-6)}


@pytest.mark.parametrize("name", broken())
def test_broken_documents(name: str, tmp_path: Path) -> None:
    target = tmp_path / "t.json"
    target.write_text(json.dumps(broken()[name]))
    with pytest.raises(TuningError, match=r"t\.json"):
        Tuning.load(target)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"{", b"[" * 100000, b"1" * 5000, b"null"], ids=range(6))
def test_broken_files(data: bytes, tmp_path: Path) -> None:
    target = tmp_path / "t.json"
    target.write_bytes(data)
    with pytest.raises(TuningError):
        Tuning.load(target)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    target = tmp_path / "t.json"
    with target.open("wb") as f:
        f.truncate(MAX_BYTES + 1)
    with pytest.raises(TuningError, match="16 MiB"):
        Tuning.load(target)


# -- measuring -------------------------------------------------------------------------------------------------------
def test_tune_measures_every_candidate(network: bytes, small_cache: None) -> None:
    model = fastconv.load(network)
    tuning = model.tune(seconds=0.0)
    assert {s.C for s, _ in tuning.times} == {3, 32}
    assert set(tuning.seconds(WIDE, ISA)) == set(Selection(ISA).candidates(WIDE))
    assert all(0 < s < 1 for times in tuning.times.values() for s in times.values())
    before = {k: dict(v) for k, v in tuning.times.items()}
    assert model.tune(tuning=tuning, seconds=0.0) is tuning and tuning.times == before  # known: not measured again
    fastest = min(before[(WIDE, ISA.name)].items(), key=lambda kv: kv[1])[0]
    got = chosen(fastconv.load(network, tuning=tuning))[1]
    assert got[1] == "tuned" and got[0].startswith("F" if fastest.algorithm == "winograd" else fastest.algorithm)


@pytest.mark.parametrize("choice", Selection(ISA).candidates(WIDE), ids=str)
def test_cold_layers_take_the_forced_algorithm(choice: Choice, small_cache: None) -> None:
    plan = cold.cold_convolution(WIDE, choice, ISA)
    names = {"winograd": f"F({choice.m}x{choice.m},3x3)"}
    assert names.get(choice.algorithm, choice.algorithm) in plan.algorithm.split("+")
    assert min(plan.round()) > 0


def test_commands(call: Any, path: str, tmp_path: Path, small_cache: None) -> None:
    out = str(tmp_path / "t.json")
    got = call("tune", path, "-o", out, "--seconds", 0, "--json").json
    assert [r["measured"] for r in got["layers"]] == [True, True] and got["isa"] == ISA.name
    assert all(r["fastest"] in r["microseconds"] and r["default"] in r["microseconds"] for r in got["layers"])
    again = call("tune", path, "--out", out, "--seconds", 0)
    assert "2 layers, 0 measured now" in again.out and again.code == 0
    convs = [o for o in call("inspect", path, "--tuning", out, "--json").json["operations"] if o["chosen_by"]]
    assert len(convs) == 3 and {o["chosen_by"] for o in convs} == {"tuned"}
    assert " ms expected" in call("inspect", path).out
    rows = call("profile", path, "--tuning", out, "--runs", 1, "--json").json["operations"]
    assert all(r["expected_ms"] >= 0 for r in rows) and any(r["expected_ms"] > 0 for r in rows)
    assert call("bench", path, "--tuning", out, "--runs", 1, "--warmup", 0).code == 0
    assert call("compare", path, "--tuning", out).code == 0
    Path(out).write_text("{}")
    one_line(call("inspect", path, "--tuning", out), "t.json", "fastconv-tuning")
    one_line(call("tune", path, "-o", out), "t.json")
    one_line(call("bench", path, "--winograd", 5), "winograd=5")
    one_line(call("tune", path, "-o", str(tmp_path / "no" / "t.json"), "--seconds", 5), "no such folder")
