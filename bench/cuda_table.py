"""The short table of what bench.cuda measured, and whether the limits hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def ratio(row: dict[str, Any], mine: str, theirs: str) -> str:
    return f"{row[mine] / row[theirs]:.2f}" if row.get(mine) and row.get(theirs) else "-"


def ms(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.3f}" if key in row else ("error" if f"{key}_error" in row else "-")


def results(folder: Path, name: str, bad: list[str]) -> dict[str, Any]:
    """What there is: a step that found no time, or was ended before its first row, leaves the other's results."""
    path = folder / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if not any(found.get(kind) for kind in ("rows", "models", "layers")):
        bad.append(f"{name}: no results")
    return {"torch": "torch: not known", "rows": [], "models": [], "layers": [], "left_out": [], **found}


def table(folder: Path) -> int:
    """Prints the table; 1 where a figure of ours is missing or a limit of the acceptance is missed."""
    bad: list[str] = []
    card = folder / "card.txt"
    print(card.read_text().strip() if card.exists() else "card unknown")
    report = results(folder, "accuracy", bad)
    print(f"\nlargest error, of the largest output         ({report['torch']})")
    print(f"{'model':10} {'precision':9} {'fastconv':>9} {'torch':>9}")
    for row in report["rows"]:
        shown = [f"{row[k]:.1e}" if k in row else "-" for k in ("fastconv", "torch")]
        print(f"{row['model']:10} {row['precision']:9} {shown[0]:>9} {shown[1]:>9}")
        bound = 1e-4 if row["precision"] == "fp32" else 1.5 * row.get("torch", float("inf"))
        if not row.get("fastconv", float("inf")) <= bound:
            bad.append(f"accuracy {row['model']} {row['precision']}: {row.get('fastconv_error', shown[0])}")
    report = results(folder, "times", bad)
    print("\nwhole models, ms (device: replays of a graph; call: wall clock, tensors on the device)")
    print("model      prec  batch  fastconv     torch  ratio |     call    eager  ratio")
    for row in report["models"]:
        r, e = ratio(row, "fastconv", "torch_graph"), ratio(row, "fastconv_call", "torch_eager_call")
        name = f"{row['model']:10} {row['precision']:5} {row['batch']:5}"
        print(name, f"{ms(row, 'fastconv'):>9} {ms(row, 'torch_graph'):>9} {r:>6} |", end="")
        print(f" {ms(row, 'fastconv_call'):>8} {ms(row, 'torch_eager_call'):>8} {e:>6}")
        if row["model"] == "resnet50" and row["precision"] == "fp16":
            limits = {1: ((r, 1.0), (e, 0.6)), 32: ((r, 1.25),)}.get(row["batch"], ())
            bad += [
                f"resnet50 fp16 batch {row['batch']}: {x}, limit {y}" for x, y in limits if x == "-" or float(x) > y
            ]
    launches = report.get("hopper_launches", -1)
    told = f"{launches} launches" if launches >= 0 else "not on this card, not built, or left out"
    print(f"\nsm_90a's own kernel: {told}")
    slow = []
    total: dict[tuple[str, str, int], list[float]] = {}
    for row in report["layers"]:
        if "fastconv" not in row:
            bad.append(f"layer {row['layer']} {row['precision']} batch {row['batch']}: {row['fastconv_error']}")
            continue
        sums = total.setdefault((row["network"], row["precision"], row["batch"]), [0.0, 0.0, 0.0])
        sums[0] += row["times"] * row["fastconv"]
        sums[1] += row["times"] * row.get("torch", float("nan"))
        sums[2] += row["times"] * row["flops"]
        judged = row["precision"] == "fp16" and row["batch"] == 32 and row["R"] == 3 and "torch" in row
        if judged and row["fastconv"] > 1.2 * row["torch"]:
            slow.append(f"{row['layer']} {row['fastconv'] / row['torch']:.2f}")
    print("\nall convolutions of a network, ms and TFLOP/s")
    for (network, precision, batch), (a, b, flops) in total.items():
        rate = flops / max(a, 1e-9) * 1e-9
        print(f"{network:10} {precision:5} {batch:5} {a:9.3f} {b:9.3f} {a / b:6.2f} {rate:8.1f}")
    bad += [] if report["layers"] and report["models"] else ["no layer or no model was timed"]
    bad += [f"3x3 layers above 1.2 of cuDNN: {', '.join(slow)}"] if slow else []
    if report["left_out"]:
        print(f"\nleft out for time: {len(report['left_out'])} figures, first {report['left_out'][0]}")
    print("\n" + ("all limits hold" if not bad else "NOT within the limits:\n  " + "\n  ".join(bad)))
    return 1 if bad else 0
