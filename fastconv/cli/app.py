"""The commands and their options; what they do is in the modules beside this one. Errors become one line here."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fastconv.threads import MAX_THREADS

_BOXES_FROM = 70  # columns: in narrower boxes of help the names of options are cut off

app = typer.Typer(
    name="fastconv",
    help="Run convolutional networks from ONNX files on the CPU.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich" if shutil.get_terminal_size().columns >= _BOXES_FROM else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="ONNX file or saved plan.", show_default=False)]
Onnx = Annotated[str, typer.Argument(metavar="MODEL", help="ONNX file.", show_default=False)]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="1,3,224,224", help="Input shape; NAME=1,3,224,224 for each of several inputs."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=MAX_THREADS, help="Threads; all that the process may use if not given.")
]
Tuning = Annotated[str | None, typer.Option(metavar="FILE", help="What `fastconv tune` measured on this machine.")]
Winograd = Annotated[int, typer.Option(metavar="M", help="Largest m of Winograd's F(m x m, 3 x 3): 4, or 6.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def _version(wanted: bool) -> None:
    if wanted:
        import fastconv

        print(f"fastconv {fastconv.__version__}")
        raise typer.Exit()


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    pass


def _how(threads: int | None, tuning: str | None, winograd: int) -> Any:
    from fastconv.cli.inputs import How

    return How(threads, tuning, winograd)


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGES", help="Image files, and folders of them.")],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="MODEL", help="ONNX file or saved plan.", show_default=False)
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes to print for each image.")] = 5,
    json: Json = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="What the network expects: torchvision, torch-bicubic, inception, tf, caffe, keras, keras-caffe, "
            "raw (0 to 255) or unit (0 to 1). Else what the file says, or torchvision."
        ),
    ] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="Length of the shorter side.")] = None,
    crop: Annotated[int | None, typer.Option(min=1, help="Square cut out of the centre.")] = None,
    mean: Annotated[str | None, typer.Option(metavar="A,B,C", help="Subtracted from each channel.")] = None,
    std: Annotated[str | None, typer.Option(metavar="A,B,C", help="Each channel is divided by it.")] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="nearest, bilinear, bicubic, lanczos, box or hamming.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="FILE", help="Class names, one a line; else the file's own, or ImageNet's.")
    ] = None,
    threads: Threads = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    tuning: Tuning = None,
    winograd: Winograd = 4,
) -> int:
    """Classify images. Broken ones are reported and skipped; the exit code is then 1."""
    import warnings

    from PIL import Image

    from fastconv.cli import predict as work

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # load_img has a limit of its own
    how = _how(threads, tuning, winograd)
    options = work.Options(model, preset, resize, crop, interpolation, mean, std, labels, top, batch, how, json)
    return work.run(images, options)


@app.command()
def finetune(
    photos: Annotated[str, typer.Argument(metavar="PHOTOS", help="Folder with one folder of images for each class.")],
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="ONNX file.", show_default=False)],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="ONNX file to write.", show_default=False)],
    epochs: Annotated[
        str, typer.Option(metavar="N[,N]", help="Of the new head, and of fine-tuning after it; one number: of each.")
    ] = "5",
    unfreeze: Annotated[int, typer.Option(min=0, help="Last blocks that learn while fine-tuning; 0: none.")] = 1,
    hidden: Annotated[str | None, typer.Option(metavar="N,...", help="Units of dense layers in the head.")] = None,
    dropout: Annotated[float, typer.Option(min=0.0, max=0.99, help="In the head.")] = 0.2,
    rate: Annotated[float, typer.Option(help="Learning rate of the head; fine-tuning has a hundredth of it.")] = 1e-3,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 32,
    validation: Annotated[float, typer.Option(help="Share of each class that is held out.")] = 0.2,
    augment: Annotated[
        str, typer.Option(help="Of flip, rotate, zoom, translate, contrast, brightness; or none.")
    ] = "flip,rotate,zoom",
    views: Annotated[int, typer.Option(min=1, help="Augmented copies of each image for the head.")] = 1,
    preset: Annotated[str | None, typer.Option(help="What the network expects, as for predict.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is random.")] = 0,
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda or cuda:N for an NVIDIA GPU.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or strict; on a GPU also tf32.")] = "fp32",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run was interrupted.")] = False,
    plots: Annotated[bool, typer.Option(help="Draw learning curves and confusion matrix.")] = True,
    json: Json = False,
) -> int:
    """Teach a network the classes of a folder. Ctrl-C finishes the step and saves a checkpoint."""
    from fastconv.cli import finetune as work

    options = work.Options(
        model, out, epochs, unfreeze, hidden, dropout, rate, batch, validation, augment, views, preset, seed, threads,
        device, precision, resume, plots, json,
    )  # fmt: skip
    return work.run(photos, options)


@app.command()
def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="ONNX file or saved plan.", show_default=False)],
    json: Json = False,
    kernels: Annotated[bool, typer.Option("--kernels", help="Only the kernels of a saved plan, for CMake.")] = False,
) -> int:
    """Inputs, outputs, operator set, parameters and operators of a model file; of a saved plan, what it holds."""
    from fastconv.saved import is_plan

    if kernels or is_plan(model):
        from fastconv.cli import saved

        return saved.info(model, json, kernels)
    from fastconv.cli import inspect as work

    return work.info(model, json)


@app.command("compile")
def compile_(
    model: Onnx,
    target: Annotated[
        str, typer.Option("--out", "--output", "-o", metavar="X.fcplan", help="The plan.", show_default=False)
    ],
    shape: Shapes = None,
    isa: Annotated[
        str | None,
        typer.Option(metavar="avx2,avx512,neon,scalar", help="Instruction sets; this CPU's best if not given."),
    ] = None,
    labels: Annotated[str | None, typer.Option(metavar="FILE", help="Class names to store, one a line.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="No algorithm of larger rounding error.")] = False,
) -> int:
    """Write a saved plan, which runs without Python and without the model file."""
    from fastconv.cli import saved as work

    return work.compile_model(model, target, shape or [], isa, labels, strict)


@app.command()
def inspect(
    model: Model,
    shape: Shapes = None,
    threads: Threads = None,
    tuning: Tuning = None,
    winograd: Winograd = 4,
    json: Json = False,
) -> int:
    """How the model will run: algorithm, instruction set, work, memory and expected time of each operation."""
    from fastconv.cli import inspect as work

    return work.inspect(model, shape or [], _how(threads, tuning, winograd), json)


@app.command()
def profile(
    model: Model,
    runs: Annotated[int, typer.Option(min=1, help="Runs; the median counts.")] = 20,
    shape: Shapes = None,
    threads: Threads = None,
    tuning: Tuning = None,
    winograd: Winograd = 4,
    json: Json = False,
) -> int:
    """Time, GFLOP/s and share of the machine's peak of each operation."""
    from fastconv.cli import inspect as work

    return work.profile(model, shape or [], runs, _how(threads, tuning, winograd), json)


@app.command()
def bench(
    model: Model,
    threads: Annotated[str | None, typer.Option(metavar="N,...", help="Numbers of threads.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="N,...", help="Batch sizes, instead of --shape's first.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each combination.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed runs before.")] = 5,
    shape: Shapes = None,
    tuning: Tuning = None,
    winograd: Winograd = 4,
    json: Json = False,
) -> int:
    """Latency (p50, p90, p99) and images per second."""
    from fastconv.cli import bench as work

    return work.run(model, shape or [], threads, batch, runs, warmup, _how(None, tuning, winograd), json)


@app.command()
def compare(
    model: Onnx,
    shape: Shapes = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random input.")] = 0,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Allowed error, of the largest magnitude.")] = 1e-4,
    threads: Threads = None,
    tuning: Tuning = None,
    winograd: Winograd = 4,
    json: Json = False,
) -> int:
    """Hold the outputs against onnxruntime's; name the first node that differs. Exit code 1 where they differ."""
    from fastconv.cli import compare as work

    return work.run(model, shape or [], seed, tolerance, _how(threads, tuning, winograd), json)


@app.command()
def tune(
    model: Onnx,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="Written, or added to.", show_default=False)],
    shape: Shapes = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Time of the slowest candidate of a layer, at least.")] = 0.05,
    winograd: Winograd = 4,
    json: Json = False,
) -> int:
    """Measure every algorithm of every convolution on this machine, for --tuning FILE of the other commands."""
    from fastconv.cli import tune as work

    return work.run(model, out, shape or [], seconds, winograd, json)


@app.command()
def config() -> int:
    """Version, instruction sets, threads and devices."""
    from fastconv.cli import inspect as work

    return work.config()


# Older typer uses the package click, newer a copy of its own: find the common ancestor through a class that both show.
_USAGE_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def run(argv: Sequence[str] | None = None) -> int:
    """The whole command line; returns the exit code and never raises, except tracebacks with --debug.

    0: done. 1: an error, told in one line on stderr. 130: interrupted. 141: the reader of our output went away.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    limit = args.index("--") if "--" in args else len(args)
    debug = "--debug" in args[:limit]
    args = [a for i, a in enumerate(args) if a != "--debug" or i > limit]
    for stream in (sys.stdout, sys.stderr):  # a file name that is no UTF-8 must not end the program
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        command = typer.main.get_command(app)
        with command.make_context("fastconv", args) as context:  # command.main would turn errors into exits of its own
            code = command.invoke(context)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Exit as e:
        return e.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains while it shuts down
        return 141
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as e:
        if debug:
            traceback.print_exc()
        return _report(e)


def _report(e: Exception) -> int:
    from fastconv.cli.output import error
    from fastconv.errors import FastconvError

    if isinstance(e, _USAGE_ERROR):
        message = e.format_message()
        if message:  # without arguments typer has shown the help already
            error(f"{message} ({e.ctx.command_path if e.ctx else 'fastconv'} --help)")
        return 1
    if isinstance(e, OSError):
        error(f"{e.filename}: {e.strerror or e}" if e.filename is not None else e)
    elif isinstance(e, MemoryError):
        error(f"out of memory{': ' if str(e) else ''}{e}")
    elif isinstance(e, FastconvError):
        error(e)
    else:
        error(f"internal error, {type(e).__name__}: {e} (--debug shows where)")
    return 1


def main() -> None:
    """Entry point of the command `fastconv`."""
    sys.exit(run())
