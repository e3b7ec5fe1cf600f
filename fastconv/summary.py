"""The table of a model's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastconv.models import Model


def model_summary(model: Model, line_length: int | None = None) -> str:
    """One line per layer; learnable numbers, and apart from them the moving statistics."""
    rows = []
    for layer in model.layers:
        try:
            shape = str(layer.output_shape)
        except AttributeError:
            shape = "?"
        count = layer.count_params() if layer.built else 0
        rows.append((f"{layer.name} ({type(layer).__name__})", shape, f"{count:,}"))
    widths = [max([len(r[i]) for r in rows] + [12]) for i in range(3)]
    total = max(sum(widths) + 4, line_length or 0)
    widths[1] += total - sum(widths) - 4

    def line(cells: tuple[str, str, str]) -> str:
        return f"{cells[0]:{widths[0]}}  {cells[1]:{widths[1]}}  {cells[2]:>{widths[2]}}"

    weights = model.weights
    learnable = sum(v.size for v in weights if not v.statistic)
    statistics = sum(v.size for v in weights if v.statistic)
    trainable = sum(v.size for v in model.trainable_weights)
    return "\n".join(
        [
            f'Model: "{model.name}"',
            line(("Layer (type)", "Output Shape", "Param #")),
            "=" * total,
            *map(line, rows),
            "=" * total,
            f"Parameters: {learnable:,} ({4 * learnable / 2**20:.1f} MB), of which trainable: {trainable:,}",
            f"Moving statistics: {statistics:,}",
        ]
    )
