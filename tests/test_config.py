"""show_config and FASTCONV_ISA, which is read when a model is made."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

import fastconv
from fastconv.isa import isa_levels, resolve_isa

from .small import images, network, python

LOAD = "import fastconv; from tests.small import network; print(fastconv.load(network()).isa)"


def test_show_config() -> None:
    out = io.StringIO()
    fastconv.show_config(file=out)
    rows = dict(line.split(maxsplit=1) if line[0].islower() else ("", line) for line in out.getvalue().splitlines())
    text = out.getvalue()
    assert rows["fastconv"] == fastconv.__version__
    assert f"isa found    {' '.join(isa_levels())}" in text and f"isa used     {resolve_isa().name}" in text
    assert f"threads      {fastconv._core.usable_cpus()}" in text
    assert "huge pages" in text and "cuda plugin  absent" in text
    apart = r"\d+ ns between two cores" if fastconv._core.usable_cpus() > 1 else "one core"
    assert re.search(rf"^round trip   {apart}$", text, re.MULTILINE)


def test_show_config_prints() -> None:
    done = python("import fastconv; fastconv.show_config()", FASTCONV_ISA="scalar")
    assert done.returncode == 0 and done.stderr == ""
    assert "isa used     scalar" in done.stdout


@pytest.mark.parametrize("name", isa_levels())
def test_forced_level(name: str) -> None:
    done = python(LOAD, FASTCONV_ISA=name)
    assert done.stdout.strip() == name, done.stderr


@pytest.mark.parametrize("name", ("nonsense", "AVX2", "neon", " "))
def test_level_that_is_not_there(name: str) -> None:
    if name in isa_levels():
        pytest.skip(f"{name} is there")
    for code in (LOAD, "import fastconv; fastconv.show_config()", "import fastconv; fastconv.ops.relu([[1]])"):
        if "relu" in code:
            code = "import fastconv, numpy as np; fastconv.ops.relu(np.ones(3, np.float32))"
        done = python(code, FASTCONV_ISA=name)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(f"fastconv.errors.DeviceError: FASTCONV_ISA={name!r}: this machine has scalar"), (
            done.stderr
        )


def test_import_does_not_look_at_the_level() -> None:
    assert python("import fastconv", FASTCONV_ISA="nonsense").returncode == 0


def test_empty_means_the_best() -> None:
    assert python(LOAD, FASTCONV_ISA="").stdout.strip() == isa_levels()[-1]


def test_argument_beats_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTCONV_ISA", "nonsense")
    assert fastconv.load(network(), _isa="scalar").isa == "scalar"
    with pytest.raises(fastconv.DeviceError, match=r"isa='nonsense'|FASTCONV_ISA='nonsense'"):
        fastconv.load(network())


def test_levels_agree() -> None:
    x = images(2)
    first, *others = [fastconv.load(network(), _isa=name)(x) for name in isa_levels()]
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


def test_core_refuses_what_the_cpu_lacks() -> None:
    core = fastconv._core
    for name in ("scalar", "avx2", "avx512", "neon"):
        if name not in isa_levels():
            plan = core.Plan(getattr(core.Isa, name), core.WeightStore())  # to be saved
            with pytest.raises(ValueError, match="lacks"):
                core.Executor(1).run(plan, [])
