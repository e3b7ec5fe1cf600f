"""Training steps beside torch: the same network, batch and threads, in turns.

    python -m bench.training [--threads 2] [--runs 10] [--cases lenet5,vgg16] [--json FILE]
    python -m bench.training --device cuda --precision tf32 --cases resnet18,resnet50 --batch 64

Each case is a whole step on the same batch: forward, loss, backward, optimiser. First both learn the same two batches
from the same weights and their losses must agree; then they are timed in turns. Peak memory is that of a process of its
own for each engine, from before the network is made. `head` is an epoch of a head on kept features. On a GPU a step
begins with images in the host's memory and ends when its loss is there; torch runs eagerly, in channels_last with
cudnn.benchmark.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.timing import interleave, system

Step = Callable[[], float]  # a step on the case's batch; its loss
TARGETS = {"lenet5": 0.4, "resnet50": 0.75, "vgg16": 0.45, "resnet18": 0.75, "head": None}
HEAD_MS = 50.0


@dataclass(frozen=True)
class Case:
    """A network and what of it learns. last: how many layers of ours at the end of the base; trained: torch's names."""

    title: str
    batch: int
    image: tuple[int, int, int]  # H W C
    classes: int
    optimizer: str = "sgd"
    steps: int = 1  # in a row, in each turn: else short ones run beside the other engine's spinning threads


CASES = {
    "lenet5": Case("LeNet-5, all", 64, (32, 32, 1), 10, steps=50),
    "resnet50": Case("ResNet50, last block and head", 16, (224, 224, 3), 10),
    "vgg16": Case("VGG16, last four layers and head", 16, (224, 224, 3), 10),
    "resnet18": Case("ResNet18, all", 16, (224, 224, 3), 1000),
    "head": Case("an epoch of a head on 1000 features", 32, (1, 1, 512), 10, "adam"),
}


def data(case: Case, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    n = n or case.batch
    return rng.standard_normal((n, *case.image)).astype(np.float32), rng.integers(0, case.classes, n)


# -- fastconv -------------------------------------------------------------------------------------------------------
def ours(name: str, threads: int, device: str = "cpu", precision: str = "fp32") -> tuple[Any, Step]:
    from fastconv import applications, optimizers
    from fastconv.layers import Dense, GlobalAveragePooling2D, Input
    from fastconv.losses import SparseCategoricalCrossentropy
    from fastconv.models import Model

    case = CASES[name]
    if name == "lenet5":
        model = applications.LeNet5(weights=None, classifier_activation=None, seed=0)
    elif name == "resnet18":
        model = applications.ResNet18(weights=None, classifier_activation=None, seed=0)
    elif name == "head":
        features = Input((512,))
        model = Model(features, Dense(10)(Dense(1024, activation="relu")(features)))
    else:
        build = applications.ResNet50 if name == "resnet50" else applications.VGG16
        base = build(weights=None, include_top=False, input_shape=case.image, seed=0)
        base.trainable = False
        for layer in base.layers:
            layer.trainable = layer.name.startswith("conv5_block3") and not layer.name.endswith("_bn")
        if name == "vgg16":
            for layer in base.layers:
                layer.trainable = layer in base.layers[-4:]
        x = GlobalAveragePooling2D()(base.output)
        if name == "vgg16":
            x = Dense(1024, activation="relu")(x)
        model = Model(base.input, Dense(case.classes)(x))
    model.threads = threads
    optimizer = optimizers.Adam() if case.optimizer == "adam" else optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer, SparseCategoricalCrossentropy(from_logits=True), device=device, precision=precision)
    if name == "head":
        x, y = data(case, 1000)
        x = x.reshape(1000, 512)
        return model, lambda: float(
            model.fit(x, y, batch_size=case.batch, epochs=1, verbose=0, seed=0).history["loss"][-1]
        )
    x, y = data(case)
    return model, lambda: float(model.train_on_batch(x, y))


# -- torch ----------------------------------------------------------------------------------------------------------
def theirs(name: str, threads: int, device: str = "cpu", precision: str = "fp32") -> tuple[Any, Step]:
    import torch
    from torch import nn

    from bench.export import import_torchvision

    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    models, case = import_torchvision().models, CASES[name]
    if name == "lenet5":
        net: Any = nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
        )  # fmt: skip
    elif name == "resnet18":
        net = models.resnet18(weights=None)
    elif name == "head":
        net = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 10))
    elif name == "resnet50":
        net = models.resnet50(weights=None)
        net.fc = nn.Linear(2048, case.classes)
        for n, p in net.named_parameters():
            learns = (n.startswith("layer4.2") and ".bn" not in n) or n.startswith("fc")
            p.requires_grad_(learns)
    else:
        base = models.vgg16(weights=None, init_weights=False).features
        for i, layer in enumerate(base):
            for p in layer.parameters():
                p.requires_grad_(i >= 24)  # conv5_1, conv5_2, conv5_3 and the pool
        head = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, case.classes))
        net = nn.Sequential(base, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    net.train()
    if name == "resnet50":
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    if device != "cpu":
        net.to(device, memory_format=torch.channels_last)
    learning = [p for p in net.parameters() if p.requires_grad]
    optimizer: Any = torch.optim.SGD(learning, 0.01, momentum=0.9)
    if case.optimizer == "adam":
        optimizer = torch.optim.Adam(learning)
    x, y = data(case, 1000 if name == "head" else None)
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    targets = torch.from_numpy(y)
    if name == "head":
        images = images.reshape(1000, 512)

    def step(part: Any, target: Any) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(part.to(device)), target.to(device))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def epoch() -> float:
        order = torch.randperm(1000)
        return sum(step(images[i], targets[i]) for i in order.split(case.batch)) / len(order.split(case.batch))

    return net, epoch if name == "head" else lambda: step(images, targets)


# -- the same weights -----------------------------------------------------------------------------------------------
def share(name: str, model: Any, net: Any) -> None:
    """Give our model torch's weights, where the names of layers say which is which."""
    from fastconv.models import all_variables
    from fastconv.weights.load import _from_torch, torch_name

    state = {n: p.detach().cpu().numpy() for n, p in net.state_dict().items()}
    if name in ("resnet18", "resnet50"):
        for layer, v in all_variables(model):
            key = torch_name(layer, v)
            key = key if key in state else f"fc.{key.rsplit('.', 1)[-1]}"
            v.set(_from_torch(layer, v, state[key]).reshape(v.graph_shape))
        return
    parameters = [p.detach().cpu().numpy() for p in net.parameters()]
    for (layer, v), array in zip(all_variables(model), parameters, strict=True):
        v.set(_from_torch(layer, v, array).reshape(v.graph_shape))


def agree(name: str, mine: Step, other: Step, precision: str = "fp32") -> float:
    """The largest relative difference of two losses, one step apart. Raises RuntimeError where they do not agree."""
    if name == "head":  # the order within the epoch differs
        return 0.0
    worst = 0.0
    for _ in range(2):
        a, b = mine(), other()
        worst = max(worst, abs(a - b) / abs(b))
    if not worst < (1e-2 if precision == "tf32" else 1e-3):
        raise RuntimeError(f"{name}: the losses differ by {worst:.1e}")
    return worst


def peak(name: str, engine: str, threads: int) -> float:
    """MiB that a process holds at most while it makes three steps, beyond what importing takes."""
    code = (
        "from bench import training\n"
        "from bench.load import peak_bytes\n"
        f"import {'torch' if engine == 'theirs' else 'fastconv.models, fastconv.applications'}\n"
        f"{'from bench.export import import_torchvision; import_torchvision()' if engine == 'theirs' else ''}\n"
        "before = peak_bytes()\n"
        f"_, step = training.{engine}({name!r}, {threads})\n"
        "for _ in range(3): step()\n"
        "print((peak_bytes() - before) / 2**20)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def repeat(step: Step, times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            step()

    return run


def measure(
    name: str, threads: int, runs: int, memory: bool, device: str = "cpu", precision: str = "fp32"
) -> dict[str, Any]:
    model, mine = ours(name, threads, device, precision)
    net, other = theirs(name, threads, device, precision)
    share(name, model, net)
    error = agree(name, mine, other, precision)
    steps = CASES[name].steps
    settle = int(steps > 1 or name == "head")
    samples = interleave({"fastconv": repeat(mine, steps), "torch": repeat(other, steps)}, runs, 2, settle=settle)
    us, them = samples["fastconv"], samples["torch"]
    row = {
        "case": name, "title": CASES[name].title, "batch": CASES[name].batch, "threads": threads, "error": error,
        "fastconv_ms": us.median_ms / steps, "torch_ms": them.median_ms / steps,
        "ratio": us.ratio(them), "target": TARGETS[name] if device == "cpu" else None,
        "device": device, "precision": precision,
    }  # fmt: skip
    if memory:
        row |= {f"{engine}_mb": peak(name, engine, threads) for engine in ("ours", "theirs")}
    return row


def table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    where = f"{rows[0]['threads']} threads" if rows[0]["device"] == "cpu" else f"GPU, {rows[0]['precision']}"
    made = Table(title=f"training steps, {where}")
    for head in ("", "batch", "fastconv, ms", "torch, ms", "ratio", "asked", "fastconv, MiB", "torch, MiB"):
        made.add_column(head, justify="left" if not head else "right", no_wrap=bool(head))
    for r in rows:
        asked = f"{r['target']:.2f}" if r["target"] else f"{HEAD_MS:.0f} ms" if r["device"] == "cpu" else "-"
        sizes = [f"{r[k]:.0f}" if k in r else "-" for k in ("ours_mb", "theirs_mb")]
        times = [f"{r['fastconv_ms']:.1f}", f"{r['torch_ms']:.1f}", f"{r['ratio']:.2f}"]
        made.add_row(r["title"], str(r["batch"]), *times, asked, *sizes)
    return made


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.training", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated names (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda"; of a GPU no memory is measured')
    parser.add_argument("--precision", default="fp32", choices=("fp32", "tf32"), help="tf32: on a GPU alone")
    parser.add_argument("--batch", type=int, help="instead of the cases' own")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    from rich.console import Console

    names, memory = args.cases.split(","), not args.no_memory and args.device == "cpu"
    if args.batch:
        CASES.update({n: dataclasses.replace(CASES[n], batch=args.batch) for n in names})
    rows = [measure(n, args.threads, args.runs, memory, args.device, args.precision) for n in names]
    Console().print(table(rows))
    if args.json:
        report = {"kind": "training", "system": system(), "runs": args.runs, "rows": rows}
        args.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
