"""What torch says about the applications. Needs torch, torchvision and timm; the tests do not.

    python -m tests.applications.torch_reference --json     writes torch_outputs.json beside this file
    python -m tests.applications.torch_reference --out DIR  writes NAME.pth and NAME.npz for `make test-full`

The first holds, for state dicts made by states.py, a hash of names and shapes and a few numbers of the outputs. The
second are torchvision's own random state dicts with the outputs in full.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.export import import_torchvision
from tests.applications.states import TORCH, image, listing, numbers, sample, sizes

JSON = Path(__file__).with_name("torch_outputs.json")
FLATTENED = ("AlexNet", "VGG16", "VGG19")  # their top takes one size only
FULL = [n for n in TORCH if n not in ("EfficientNetB6", "EfficientNetB7")]  # the two largest need minutes


def build(application: str) -> Any:
    import torch

    torchvision = import_torchvision()
    name = TORCH[application]
    torch.manual_seed(1)
    if application == "Xception":
        import timm

        return timm.create_model("legacy_xception", pretrained=False).eval()
    initialised = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    net = getattr(torchvision.models, name)(weights=None, **initialised).eval()
    net.transform_input = False
    return net


def features(net: Any) -> Callable[[Any], Any]:
    """The input of the global pooling, which is the output without a top."""
    pooling = getattr(net, "avgpool", None) or net.global_pool

    def run(x: Any) -> Any:
        class Found(Exception):
            pass

        def stop(_module: Any, inputs: Any) -> None:
            raise Found(inputs[0])

        handle = pooling.register_forward_pre_hook(stop)
        try:
            net(x)
        except Found as found:
            return found.args[0]
        finally:
            handle.remove()

    return run


def run(fn: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """Channels-last in and out."""
    import torch

    with torch.no_grad():
        y = fn(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y


def write_json() -> None:
    import torch

    table = {}
    for application in TORCH:
        net = build(application)
        state = {k: tuple(v.shape) for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
        state = {k: s for k, s in state.items() if application != "GoogLeNet" or not k.startswith("aux")}
        net.load_state_dict({k: torch.from_numpy(numbers(k, s)) for k, s in state.items()}, strict=False)
        outputs = [sample(run(features(net), image(size))) for size in sizes(application)]
        top = image((224, 224)) if application in FLATTENED else image(sizes(application)[0])
        table[application] = {
            "tensors": len(state),
            "sha256": hashlib.sha256(listing(state.items()).encode()).hexdigest(),
            "features": outputs,
            "logits": sample(run(net, top)),
        }
        print(application, outputs[0][-1], flush=True)
    JSON.write_text(json.dumps(table, indent=1) + "\n")


def write_states(folder: Path) -> None:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for application in FULL:
        net = build(application)
        torch.save(net.state_dict(), folder / f"{application}.pth")
        arrays = {}
        for i, size in enumerate(sizes(application)):
            arrays[f"features{i}"] = run(features(net), image(size))
        arrays["logits"] = run(net, image((299, 299) if application in ("InceptionV3", "Xception") else (224, 224)))
        np.savez(folder / f"{application}.npz", **arrays)
        print(application, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.json:
        write_json()
    if args.out:
        write_states(args.out)


if __name__ == "__main__":
    main()
