"""Runner: checks what comes in, runs the compiled plan of its shapes, gives out the types that the model declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .compiled import Compiled
from .errors import ModelError, ShapeError
from .graph import Shape
from .inputs import FloatArray, TensorInfo, check_input, in_order
from .target import Target

FLOAT32 = np.dtype(np.float32)  # the object that most arrays share; others, as unpickled ones, are looked at twice


class Runner(ABC):
    """The calls of a model: compiled plans, one per input shapes, and what runs them on a target."""

    name: str

    def __init__(
        self, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], target: Target, threads: int
    ) -> None:
        self.inputs, self.outputs, self.threads = tuple(inputs), tuple(outputs), threads
        self._target = target
        self._executor = target.executor(threads)
        self._plans: dict[tuple[Shape, ...], Compiled] = {}
        self._one_float32 = [i.dtype for i in self.inputs] == ["float32"]
        self._converted = [(i, o.dtype) for i, o in enumerate(self.outputs) if o.dtype != "float32"]

    @abstractmethod
    def _compiled(self, key: tuple[Shape, ...]) -> Compiled:
        """The plan for these input shapes. Raises ShapeError where there can be none."""

    def __call__(self, *args: npt.ArrayLike) -> Any:
        """Outputs for the inputs given in order; one output comes as an array, several as a list."""
        compiled = self._ready(args[0]) if len(args) == 1 else None
        outputs = self._execute(compiled, list(args)) if compiled is not None else self._run(self._check_all(args))
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, output_names: Sequence[str] | None, feed: Mapping[str, npt.ArrayLike]) -> list[npt.NDArray[Any]]:
        """The named outputs (None: all) for inputs given by name."""
        if output_names is None and type(feed) is dict and len(feed) == 1:
            (x,) = feed.values()
            compiled = self._ready(x) if self.inputs[0].name in feed else None
            if compiled is not None:
                return self._execute(compiled, [x])
        values = in_order(self.inputs, feed)
        if isinstance(output_names, str):
            raise ShapeError(f"output_names: expected None or a list of names, got {output_names!r}")
        if output_names is not None:
            known = {o.name for o in self.outputs}
            for n in output_names:
                if n not in known:
                    raise ShapeError(f"no output named {n!r}; the model has {', '.join(map(repr, sorted(known)))}")
        results = self._run(self._check_all(values))
        if output_names is None:
            return results
        by_name = dict(zip((o.name for o in self.outputs), results, strict=True))
        return [by_name[n] for n in output_names]

    def _ready(self, x: Any) -> Compiled | None:
        """The plan for an only input that needs no look: the usual case, in a hurry."""
        if self._one_float32 and type(x) is np.ndarray and x.dtype is FLOAT32 and x.flags.carray and x.size:
            return self._plans.get((x.shape,))
        return None

    def _check_all(self, args: Sequence[npt.ArrayLike]) -> list[FloatArray]:
        if len(args) != len(self.inputs):
            n = len(self.inputs)
            raise ShapeError(f"model {self.name!r} takes {n} input{'s' * (n != 1)}, got {len(args)}")
        return [
            check_input(i, info, a, self._target) for i, (info, a) in enumerate(zip(self.inputs, args, strict=True))
        ]

    def _run(self, inputs: list[FloatArray]) -> list[npt.NDArray[Any]]:
        return self._execute(self._compiled(tuple(x.shape for x in inputs)), inputs)

    def _execute(self, compiled: Compiled, inputs: list[Any]) -> list[npt.NDArray[Any]]:
        try:
            outputs = [self._target.empty(shape, inputs) for _, shape in compiled.outputs]
            self._executor.run(compiled.plan, [*inputs, *outputs], compiled.repeats)
        except MemoryError:
            raise ModelError(f"model {self.name!r}: no memory for {compiled.arena_bytes:,} bytes of tensors") from None
        if not compiled.ragged and not self._converted:
            return outputs
        # What the plan wrote, without the empty rows of a list of unknown length, in the types that the file declares.
        results: list[npt.NDArray[Any]] = list(outputs)
        for i in compiled.ragged:
            results[i] = np.asarray(results[i])
            results[i] = results[i][results[i][:, 0] >= 0]
        for i, dtype in self._converted:
            results[i] = np.asarray(results[i]).astype(dtype)
        return results
