"""Folders of images as batches for training: Keras' image_dataset_from_directory.

Threads read and decode the images that come next while the consumer computes; at most about two batches of decoded
bytes are held. Each epoch has an order of its own that follows from the seed and the epoch's number alone, so that a
resumed run sees the same batches. Files that cannot be read are reported once and skipped.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import _core
from fastconv.errors import FastconvError
from fastconv.layers.windows import whole
from fastconv.preprocessing.image import check_reading, img_to_array, load_img
from fastconv.told import warn

FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
LABEL_MODES = ("int", "categorical", "binary", None)
_AHEAD = 2  # batches that are decoded before they are asked for
_MAX_WORKERS = 8
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # of a data set that others have split


class Dataset:
    """Batches of (images float32 [N, H, W, C], labels), anew at each iteration; made by image_dataset_from_directory.

    class_names: in the order of the labels. file_paths, labels: all images, in the order of the folder. skipped:
    (path, problem) of the files that could not be read so far. A class of which nothing can be read is a FastconvError,
    unless nothing learns from it: in `evaluate`, `predict`, as validation data, or held out by validation_split.
    epoch: the number of the next iteration, which with `seed` decides its order; set it (and `start`, the first batch
    of that iteration) to go on where another run was.
    """

    def __init__(
        self, file_paths: Sequence[str], labels: Sequence[int], class_names: Sequence[str], *,
        image_size: tuple[int, int] = (256, 256), batch_size: int = 32, color_mode: str = "rgb",
        label_mode: str | None = "int", shuffle: bool = True, seed: int = 0, interpolation: str = "bilinear",
        keep_aspect_ratio: bool = False, on_skip: Callable[[str, str], Any] | None = None,
    ) -> None:  # fmt: skip
        self.file_paths, self.class_names = list(file_paths), list(class_names)
        self.labels = np.asarray(labels, np.int64)
        self.image_size, self.batch_size, self.color_mode = image_size, int(batch_size), color_mode
        self.label_mode, self.shuffle, self.seed = label_mode, bool(shuffle), int(seed)
        self.interpolation, self.keep_aspect_ratio = interpolation, keep_aspect_ratio
        self.epoch = self.start = 0
        self.skipped: list[tuple[str, str]] = []
        self._broken: set[int] = set()
        self._needs_all = True  # a class of which nothing can be read is an error
        self._on_skip = on_skip
        self.reader: Callable[[str], Bytes] | None = None  # instead of load_img and resizing: path -> uint8 [H, W, C]
        self._functions: list[Callable[..., Any]] = []

    def __len__(self) -> int:
        """Batches of an epoch, without the files that are known to be broken."""
        return -(-self.samples // self.batch_size)

    @property
    def samples(self) -> int:
        return len(self.file_paths) - len(self._broken)

    def map(self, function: Callable[..., Any]) -> Dataset:
        """A dataset of `function(x, y)` (`function(x)` without labels) of each batch; a tuple or an array."""
        made = copy.copy(self)
        made._functions = [*self._functions, function]
        return made

    def for_evaluation(self) -> Dataset:
        """The same images for who learns nothing from them: a class of which nothing can be read is no error.

        What is found to be broken is known to both, how far each has come is not.
        """
        made = copy.copy(self)
        made._needs_all = False
        return made

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Which file comes when in an epoch."""
        n = len(self.file_paths)
        return np.random.default_rng((self.seed, epoch)).permutation(n) if self.shuffle else np.arange(n)

    def skip(self, broken: Sequence[str] | Mapping[str, str]) -> None:
        """Leave these files out from the start: what a run that is resumed has found to be broken.

        With their problems they are listed in `skipped`, too.
        """
        wanted = set(broken)
        found = [i for i, path in enumerate(self.file_paths) if path in wanted and i not in self._broken]
        self._broken |= set(found)
        if isinstance(broken, Mapping):
            self.skipped += [(self.file_paths[i], broken[self.file_paths[i]]) for i in found]

    def __iter__(self) -> Iterator[Any]:
        problems = dict(self.skipped)
        for i in sorted(self._broken):  # an evaluation has found some, perhaps
            self._refuse_lost(i, problems.get(self.file_paths[i], "all are broken"))
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        return self._batches([int(i) for i in self.order(epoch)], start)

    # -- reading ----------------------------------------------------------------------------------------------
    def _batches(self, order: list[int], start: int) -> Iterator[Any]:
        files = iter([i for i in order if i not in self._broken][start * self.batch_size :])
        workers = max(1, min(_core.usable_cpus(), _MAX_WORKERS))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="fastconv-images")
        ahead: deque[tuple[int, Future[Bytes]]] = deque()
        held: list[tuple[int, Bytes]] = []
        try:
            while True:
                while len(ahead) < _AHEAD * self.batch_size:
                    i = next(files, None)
                    if i is None:
                        break
                    ahead.append((i, pool.submit(self._decode, self.file_paths[i])))
                if not ahead:
                    break
                i, future = ahead.popleft()
                image = self._checked(i, future)
                if image is not None:
                    held.append((i, image))
                if len(held) == self.batch_size:
                    yield self._batch(held)
                    held = []
            if held:
                yield self._batch(held)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, path: str) -> Bytes:
        if self.reader is not None:
            return self.reader(path)
        image = load_img(path, self.color_mode, self.image_size, self.interpolation, self.keep_aspect_ratio)
        pixels: Bytes = img_to_array(image, dtype=np.uint8)
        return pixels

    def _checked(self, i: int, future: Future[Bytes]) -> Bytes | None:
        try:
            return future.result()
        except (FastconvError, OSError, MemoryError) as e:
            text = (e.strerror if isinstance(e, OSError) else None) or str(e) or type(e).__name__
            self._report(i, text.removeprefix(f"{self.file_paths[i]}: "))
            return None

    def _report(self, i: int, problem: str) -> None:
        self._refuse_lost(i, problem)
        path = self.file_paths[i]
        self._broken.add(i)
        self.skipped.append((path, problem))
        if self._on_skip is not None:
            self._on_skip(path, problem)
        else:
            warn(f"{path}: {problem}: skipped", RuntimeWarning)

    def _refuse_lost(self, i: int, problem: str) -> None:
        """Raises FastconvError where nothing else of the broken file's class can be read."""
        if not self._needs_all or not self.class_names:
            return
        if all(int(m) in self._broken or m == i for m in np.flatnonzero(self.labels == self.labels[i])):
            folder = os.path.dirname(self.file_paths[i])
            name = self.class_names[self.labels[i]]
            raise FastconvError(f"class {name!r}: no image can be read in {folder}: {problem}")

    def _batch(self, held: list[tuple[int, Bytes]]) -> Any:
        x = np.stack([image for _, image in held]).astype(np.float32)
        batch: tuple[Any, ...] = (x,)
        if self.label_mode is not None:
            batch = (x, self._targets(self.labels[[i for i, _ in held]]))
        for function in self._functions:
            made = function(*batch)
            batch = made if isinstance(made, tuple) else (made,)
        return batch if len(batch) > 1 else batch[0]

    def _targets(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if self.label_mode == "categorical":
            return np.eye(len(self.class_names), dtype=np.float32)[labels]
        return labels.astype(np.float32)[:, None] if self.label_mode == "binary" else labels.astype(np.int32)

    def __repr__(self) -> str:
        return f"<Dataset of {self.samples} images in {len(self.class_names)} classes, batches of {self.batch_size}>"


def image_dataset_from_directory(
    directory: str | os.PathLike[str], labels: Any = "inferred", label_mode: str | None = "int",
    class_names: Sequence[str] | None = None, color_mode: str = "rgb", batch_size: int = 32,
    image_size: tuple[int, int] = (256, 256), shuffle: bool = True, seed: int | None = None,
    validation_split: float | None = None, subset: str | None = None, interpolation: str = "bilinear",
    follow_links: bool = False, crop_to_aspect_ratio: bool = False, verbose: bool = True,
    on_skip: Callable[[str, str], Any] | None = None,
) -> Any:  # fmt: skip
    """Images below `directory`, in one folder for each class, as a Dataset; two of them for subset="both".

    labels: "inferred" from the folders, or None (all images below the directory, batches are x alone). label_mode:
    "int", "categorical" (one-hot), "binary" ([N, 1]; two classes) or None. class_names: which folders, in which order;
    else all, sorted. Values are 0 to 255; images of other sizes are resized (with antialiasing, unlike Keras), or the
    middle of the same aspect ratio with crop_to_aspect_ratio.
    validation_split, subset: "training", "validation" or "both": the fraction is taken of every class (Keras: of the
    whole), at least one image, chosen by `seed` (None: 0).
    on_skip(path, problem) is told of broken files; without it they are RuntimeWarnings.
    Raises FastconvError where there are no images, OSError where the folder cannot be read, ValueError for arguments.
    """
    if labels not in ("inferred", None) or label_mode not in LABEL_MODES:
        raise ValueError(f"labels={labels!r}, label_mode={label_mode!r}: expected inferred or None; {LABEL_MODES}")
    if (validation_split is None) != (subset is None) or subset not in (None, "training", "validation", "both"):
        raise ValueError("expected both validation_split and subset (training, validation or both), or neither")
    if validation_split is not None and not 0 < validation_split < 1:
        raise ValueError(f"validation_split={validation_split!r}: expected a fraction between 0 and 1")
    whole(batch_size, "batch_size")
    check_reading(color_mode, image_size, interpolation)
    root = os.fspath(directory)
    names = _class_folders(root, class_names) if labels == "inferred" else []
    paths: list[str] = []
    numbers: list[int] = []
    for number, name in enumerate(names or [""]):
        found = find_images(os.path.join(root, name) if name else root, follow_links)
        if name and not found:
            raise FastconvError(f"{os.path.join(root, name)}: no images in this folder")
        paths += found
        numbers += [number] * len(found)
    if not paths:
        raise FastconvError(f"{root}: no images below this folder")
    if label_mode == "binary" and len(names) != 2:
        raise ValueError(f"label_mode='binary': expected two classes, got {len(names)}")
    order_seed = int(np.random.default_rng().integers(1 << 62)) if seed is None else int(seed)
    parts = ("training", "validation") if subset == "both" else (subset,)
    made = []
    for part in parts:
        keep = split(numbers, validation_split, part, seed or 0)
        if not keep:
            raise FastconvError(f"{root}: no class has a second image that could be held out")
        made.append(
            Dataset(
                [paths[i] for i in keep], [numbers[i] for i in keep], names, seed=order_seed,
                image_size=(int(image_size[0]), int(image_size[1])), batch_size=batch_size, color_mode=color_mode,
                label_mode=label_mode if names else None, shuffle=shuffle and not (len(parts) > 1 and part == parts[1]),
                interpolation=interpolation, keep_aspect_ratio=crop_to_aspect_ratio, on_skip=on_skip,
            )
        )  # fmt: skip
        made[-1]._needs_all = part != "validation"
        if verbose:
            classes = f" in {len(names)} classes" if names else ""
            print(f"Found {len(keep)} files{classes}" + (f" for {part}." if part else "."))
    return made if subset == "both" else made[0]


def split(labels: Sequence[int], fraction: float | None, part: str | None, seed: int) -> list[int]:
    """Indices of the training or validation part (all where `part` is None), the same fraction of every class."""
    if fraction is None or part is None:
        return list(range(len(labels)))
    numbers = np.asarray(labels)
    chosen = np.zeros(len(numbers), bool)
    for c in np.unique(numbers):
        members = np.flatnonzero(numbers == c)
        count = min(len(members) - 1, max(1, round(fraction * len(members))))
        chosen[np.random.default_rng((seed, int(c))).permutation(members)[:count]] = True
    return [int(i) for i in np.flatnonzero(chosen if part == "validation" else ~chosen)]


def _class_folders(root: str, wanted: Sequence[str] | None) -> list[str]:
    with os.scandir(root) as entries:
        folders = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if wanted is not None:
        missing = [n for n in wanted if n not in folders]
        if missing or len(set(wanted)) != len(wanted):
            raise ValueError(f"class_names={list(wanted)!r}: the folders of {root} are {', '.join(folders)}")
        return list(wanted)
    if not folders:
        raise FastconvError(f"{root}: expected one folder for each class, found none")
    if {name.lower() for name in folders} <= _PARTS and all(_has_folders(os.path.join(root, n)) for n in folders):
        warn(f"{root}: {', '.join(folders)} are taken for classes: if the classes lie in them, give one of them")
    return folders


def _has_folders(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return any(e.is_dir() for e in entries)


def find_images(folder: str, follow_links: bool = False) -> list[str]:
    """Every file below a folder whose name ends as one that Pillow reads, sorted; hidden ones are left out."""
    from PIL import Image

    Image.init()
    known = {ext for ext, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind != "EPS"}
    found: list[str] = []
    for where, subfolders, files in os.walk(folder, followlinks=follow_links):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        found += [
            os.path.join(where, name)
            for name in sorted(files)
            if os.path.splitext(name)[1].lower() in known and not name.startswith(".")
        ]
    return found
