"""Transfer learning against torch: EfficientNet-Lite0 on scikit-learn's digits, frozen and then fine-tuned.

    python -m bench.transfer --engines fastconv,torch --seeds 3

Both engines start from the same ImageNet weights and the same head, see the same batches in the same order, and use the
same recipe: the head learns from the frozen features of the digits as RGB 224x224 (Adam 1e-3), then the convolutions
behind the last change of size learn as well (Adam 1e-4); batch normalisations keep their statistics and factors. A
fifth of each class is held out. Prints one JSON line for each engine and seed, then the means.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

Array = npt.NDArray[Any]
SIZE, CLASSES, FEATURES, BATCH = 224, 10, 1280, 32
HEAD_EPOCHS, HEAD_RATE, TUNE_EPOCHS, TUNE_RATE, EPSILON = 20, 1e-3, 2, 1e-4, 1e-7
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


class Engine(Protocol):
    """One engine; images [N, 224, 224, 3], normalised."""

    def features(self, images: Array) -> Array:
        """[N, 1280] of the untouched network."""

    def head(self, x: Array, y: Array, seed: int) -> None:
        """A new head, taught on features."""

    def classify(self, features: Array) -> Array:
        """Classes by the head."""

    def tune(self, images: Array, y: Array, seed: int) -> None:
        """Teach the last convolutions and the head."""

    def predict(self, images: Array) -> Array:
        """Classes by the whole network."""


def first_head(seed: int) -> Array:
    """Glorot's uniform numbers [1280, 10]."""
    limit = np.sqrt(6 / (FEATURES + CLASSES))
    return np.random.default_rng(seed).uniform(-limit, limit, (FEATURES, CLASSES)).astype(np.float32)


def batches(n: int, seed: int, epoch: int) -> list[Array]:
    """The order in which fastconv's `fit` takes samples."""
    order = np.random.default_rng((seed, epoch)).permutation(n)
    return [order[i : i + BATCH] for i in range(0, n, BATCH)]


class Fastconv:
    def __init__(self, threads: int | None) -> None:
        from fastconv.applications import EfficientNetLite0
        from fastconv.layers import Dense, Input
        from fastconv.models import Model, Sequential

        self.base = EfficientNetLite0(include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3))
        self.first = self.base.get_weights()
        self.top = Sequential([Input((FEATURES,)), Dense(CLASSES, activation="softmax")])
        image = Input((SIZE, SIZE, 3))
        self.whole = Model(image, self.top(self.base(image)))
        for model in (self.base, self.top, self.whole):
            model.threads = threads

    def features(self, images: Array) -> Array:
        return np.asarray(self.base.predict(images))

    def head(self, x: Array, y: Array, seed: int) -> None:
        from fastconv.optimizers import Adam

        self.base.set_weights(self.first)
        self.top.set_weights([first_head(seed), np.zeros(CLASSES)])
        self.top.compile(Adam(HEAD_RATE, epsilon=EPSILON), "sparse_categorical_crossentropy")
        self.top.fit(x, y, BATCH, HEAD_EPOCHS, verbose=0, seed=seed)

    def classify(self, features: Array) -> Array:
        return np.asarray(self.top.predict(features).argmax(1))

    def tune(self, images: Array, y: Array, seed: int) -> None:
        from fastconv.finetune_network import last_blocks, leaves
        from fastconv.optimizers import Adam

        chosen = last_blocks(self.base, (SIZE, SIZE), 1)
        for layer in leaves(self.base):
            own = [v for v in layer.variables if v in chosen]
            layer.trainable = bool(own) and not any(v.statistic for v in layer.variables)
        self.whole.compile(Adam(TUNE_RATE, epsilon=EPSILON), "sparse_categorical_crossentropy")
        epochs = HEAD_EPOCHS + TUNE_EPOCHS
        self.whole.fit(images, y, BATCH, epochs, initial_epoch=HEAD_EPOCHS, verbose=0, seed=seed)

    def predict(self, images: Array) -> Array:
        return np.asarray(self.whole.predict(images).argmax(1))


class Torch:
    def __init__(self, threads: int | None) -> None:
        import torch

        from bench.transfer_torch import Lite0
        from fastconv.torch_file import load_state_dict
        from fastconv.weights import published

        self.torch = torch
        if threads:
            torch.set_num_threads(threads)
        self.state = {k: torch.tensor(np.array(v)) for k, v in load_state_dict(published("efficientnet_lite0")).items()}
        self.net = Lite0(CLASSES)
        self._load()

    def _load(self) -> None:
        self.net.load_state_dict({**self.net.state_dict(), **{k: v for k, v in self.state.items() if "_fc" not in k}})
        self.net.eval()

    def _tensor(self, images: Array) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def _run(self, function: Any, images: Array) -> Array:
        with self.torch.no_grad():
            parts = [function(self._tensor(images[i : i + BATCH])).numpy() for i in range(0, len(images), BATCH)]
        return np.concatenate(parts)

    def features(self, images: Array) -> Array:
        self._load()
        return self._run(self.net.features, images)

    def _teach(self, forward: Any, parameters: Any, rate: float, x: Any, y: Array, seed: int, epochs: range) -> None:
        torch = self.torch
        optimizer = torch.optim.Adam(parameters, rate, eps=EPSILON)
        labels = torch.from_numpy(y.astype(np.int64))
        for epoch in epochs:
            for rows in batches(len(y), seed, epoch):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(forward(x(rows)), labels[rows])
                loss.backward()
                optimizer.step()

    def head(self, x: Array, y: Array, seed: int) -> None:
        torch = self.torch
        self._load()
        with torch.no_grad():
            self.net._fc.weight.copy_(torch.from_numpy(first_head(seed).T))
            self.net._fc.bias.zero_()
        data = torch.from_numpy(x)
        parameters = list(self.net._fc.parameters())
        self._teach(self.net._fc, parameters, HEAD_RATE, lambda rows: data[rows], y, seed, range(HEAD_EPOCHS))

    def classify(self, features: Array) -> Array:
        with self.torch.no_grad():
            return np.asarray(self.net._fc(self.torch.from_numpy(features)).numpy().argmax(1))

    def tune(self, images: Array, y: Array, seed: int) -> None:
        for p in self.net.parameters():
            p.requires_grad_(False)
        parameters = [*self.net.last_convolutions(), *self.net._fc.parameters()]
        for p in parameters:
            p.requires_grad_(True)
        epochs = range(HEAD_EPOCHS, HEAD_EPOCHS + TUNE_EPOCHS)
        self._teach(self.net, parameters, TUNE_RATE, lambda rows: self._tensor(images[rows]), y, seed, epochs)

    def predict(self, images: Array) -> Array:
        return np.asarray(self._run(self.net, images).argmax(1))


ENGINES: dict[str, Callable[[int | None], Engine]] = {"fastconv": Fastconv, "torch": Torch}


def run(engine: Engine, x: Array, y: Array, features: Array, seed: int) -> dict[str, float]:
    """Test accuracies, and the seconds that both parts took."""
    from digits import stratified

    learn, test = stratified(y, seed)
    start = time.perf_counter()
    engine.head(features[learn], y[learn], seed)
    frozen = float((engine.classify(features[test]) == y[test]).mean())
    between = time.perf_counter()
    engine.tune(x[learn], y[learn], seed)
    after = time.perf_counter()
    tuned = float((engine.predict(x[test]) == y[test]).mean())
    return dict(frozen=frozen, tuned=tuned, head_s=round(between - start, 2), tune_s=round(after - between, 2))


BEGIN, END = "<!-- transfer:begin -->", "<!-- transfer:end -->"


def table(lines: list[dict[str, Any]]) -> str:
    """Accuracies as a table for the documentation; of several runs of an engine and seed the last one counts.

    Means only of engines that ran three seeds or more.
    """
    latest = {(r["engine"], r["seed"]): r for r in lines}
    text = ["| engine | seed | frozen | fine-tuned |", "|---|---|---|---|"]
    for engine in dict.fromkeys(e for e, _ in latest):
        rows = [r for (e, _), r in sorted(latest.items()) if e == engine]
        text += [f"| {engine} | {r['seed']} | {r['frozen']:.2%} | {r['tuned']:.2%} |" for r in rows]
        if len(rows) >= 3:
            frozen, tuned = (float(np.mean([r[k] for r in rows])) for k in ("frozen", "tuned"))
            text.append(f"| **{engine}** | mean | **{frozen:.2%}** | **{tuned:.2%}** |")
    return "\n".join(text)


def write_docs(results: Path, page: Path) -> None:
    """Put the table of a --json file into a page."""
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    page.write_text(f"{head}{BEGIN}\n{table(lines)}\n{END}{tail}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="fastconv,torch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="append the results to this file, one JSON line each")
    parser.add_argument(
        "--docs", type=Path, help="write what is in the --json file into this page, and measure nothing"
    )
    options = parser.parse_args()
    if options.docs:
        write_docs(options.json, options.docs)
        return
    from digits import digits

    x, y = digits(SIZE, 3)
    x = (x - MEAN) / STD
    for name in options.engines.split(","):
        engine = ENGINES[name](options.threads)
        start = time.perf_counter()
        features = engine.features(x)
        seconds = round(time.perf_counter() - start, 2)
        results = []
        for seed in options.seeds:
            results.append({"engine": name, "seed": seed, **run(engine, x, y, features, seed), "features_s": seconds})
            print(json.dumps(results[-1]), flush=True)
            if options.json:
                with open(options.json, "a", encoding="utf-8") as file:
                    file.write(json.dumps(results[-1]) + "\n")
        means = {k: round(float(np.mean([r[k] for r in results])), 4) for k in ("frozen", "tuned")}
        print(json.dumps({"engine": name, "mean": means}), flush=True)


if __name__ == "__main__":
    main()
