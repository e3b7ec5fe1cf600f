"""The tables that `summary()` prints: the layers of a model, the nodes of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastconv.layers.base import Layer
    from fastconv.layers.imported import Imported
    from fastconv.models import Model

_TITLES = ("Layer (type)", "Output Shape", "Param #")


def model_summary(
    model: Model, line_length: int | None = None, *, expand_nested: bool = False, show_trainable: bool = False
) -> str:
    """One line per layer: name and class, output shape, learnable numbers. Below, their sum and moving statistics.

    line_length: the table is at least so wide. expand_nested: layers of inner models get lines, too. show_trainable:
    a column says which layers are trained.
    """
    rows = []

    def add(layer: Layer, indent: int) -> None:
        try:
            shape = str(layer.output_shape)
        except AttributeError:
            shape = "?"
        count = layer.count_params() if layer.built else 0
        trained = "" if not layer.weights else "Y" if layer.trainable else "N"
        row = (f"{' ' * indent}{layer.name} ({type(layer).__name__})", shape, f"{count:,}")
        rows.append((*row, trained) if show_trainable else row)
        if expand_nested:
            for inner in layer.sublayers():
                add(inner, indent + 2)

    for layer in model.layers:
        add(layer, 0)
    titles = (*_TITLES, "Trainable") if show_trainable else _TITLES
    return "\n".join([f'Model: "{model.name}"', *_table(titles, rows, line_length), *_sums(model)])


def network_summary(
    name: str, network: Imported, shapes: Mapping[str, Sequence[int]], line_length: int | None = None
) -> str:
    """The same for a network from a file: one line per node, with shapes in the file's axis order.

    shapes: of the inputs, by name, for which the network's shapes hold.
    """
    rows = [(f"{node.name} ({node.op})", str(node.shape), f"{node.count_params():,}") for node in network.parts]
    given = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    return "\n".join(
        [
            f'Model: "{name}" for {given}',
            *_table(("Layer (operator)", *_TITLES[1:]), rows, line_length),
            *_sums(network),
        ]
    )


def _sums(layer: Layer) -> list[str]:
    learnable = sum(v.size for v in layer.weights if not v.statistic)
    statistics = sum(v.size for v in layer.weights if v.statistic)
    trainable = sum(v.size for v in layer.trainable_weights)
    return [
        f"Parameters: {learnable:,} ({4 * learnable / 2**20:.1f} MB), of which trainable: {trainable:,}",
        f"Moving statistics: {statistics:,}",
    ]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], line_length: int | None) -> list[str]:
    """Lines: numbers to the right, the rest to the left."""
    widths = [max([len(r[i]) for r in rows] + [12, len(title)]) for i, title in enumerate(titles)]
    total = max(sum(widths) + 2 * (len(widths) - 1), line_length or 0)
    widths[1] += total - sum(widths) - 2 * (len(widths) - 1)

    def line(cells: Sequence[str]) -> str:
        placed = [c.rjust(w) if i == 2 else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "  ".join(placed).rstrip()

    return [line(titles), "=" * total, *map(line, rows), "=" * total]
