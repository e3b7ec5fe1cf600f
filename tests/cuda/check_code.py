"""python -m tests.cuda.check_code LIBRARY: looks at the machine code of the plugin, for every architecture in it.

No kernel of the convolutions keeps anything in local memory; those that claim tensor cores have the instructions of
their type in their main loop, fed by ldmatrix and by asynchronous copies of 16 bytes; the plain one has FMA fed by
16-byte reads; sm_90a's has its warpgroup products, fed by the copy engine; Winograd's transforms keep a tile in
registers; the kernels that live from memory speed read and write 16 bytes a lane. Needs cuobjdump and nvdisasm (pip
install --group cuda), no GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Kernel:
    arch: str
    name: str  # demangled
    registers: int = 0
    stack: int = 0
    local: int = 0
    code: list[tuple[int, str]] = field(default_factory=list)  # address, instruction

    def loops(self) -> list[list[str]]:
        """The instructions between the target of each backward branch and the branch, innermost ones first."""
        found = []
        for at, text in self.code:
            match = re.search(r"\bBRA(?:\.\w+)* .*?(?:`\(\.L_x_\d+\)|0x([0-9a-f]+))", text)
            if match and match.group(1) and int(match.group(1), 16) < at:
                start = int(match.group(1), 16)
                found.append([t for a, t in self.code if start <= a <= at])
        return sorted(found, key=len)

    def count(self, pattern: str, code: list[str] | None = None) -> int:
        return sum(1 for t in (code if code is not None else [t for _, t in self.code]) if re.search(pattern, t))


def _tools() -> dict[str, str]:
    """The environment with the tools of PyPI's packages in front."""
    paths = Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin")
    return {**os.environ, "PATH": os.pathsep.join([*map(str, paths), os.environ["PATH"]])}


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, env=_tools()).stdout


def kernels(library: Path) -> list[Kernel]:
    found: dict[tuple[str, str], Kernel] = {}
    arch = name = ""
    for line in _run("cuobjdump", "-res-usage", str(library)).splitlines():
        if match := re.match(r"arch = (\w+)", line):
            arch = match.group(1)
        elif match := re.match(r" *Function (\S+):", line):
            name = match.group(1)
        elif (match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", line)) and name:
            found[arch, name] = Kernel(arch, name, *map(int, match.groups()))
    for line in _run("cuobjdump", "-sass", str(library)).splitlines():
        if match := re.match(r"\s*code for (\w+)", line):
            arch = match.group(1)
        elif match := re.search(r"Function : (\S+)", line):
            name = match.group(1)
        elif (match := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", line)) and (arch, name) in found:
            found[arch, name].code.append((int(match.group(1), 16), match.group(2)))
    names = list({k.name for k in found.values()})
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    table = dict(zip(names, plain.splitlines(), strict=True))
    for k in found.values():
        k.name = table[k.name]
    return list(found.values())


MULTIPLY = {"Fp16": r"HMMA\.16816\.F32 ", "Bf16": r"HMMA\.16816\.F32\.BF16", "Tf32": r"HMMA\.1688\.F32\.TF32"}
WARPGROUP = {"half_t": r"16\.F32", "bfloat_t": r"16\.F32\.BF16", "float": r"8\.F32\.TF32"}
LOCAL = r"\b(LDL|STL)\b|\b(LDL|STL)\."
WIDE_LOAD, WIDE_STORE = r"LDG\.E(\.\w+)*\.128", r"STG\.E(\.\w+)*\.128"


def _conv(k: Kernel) -> list[str]:
    wrong = []
    match = re.search(
        r"conv_gemm<.*?(?:Engine(\w+)|PlainFma), (\d+), (\d+), (\d+), (\d+), (\d+), (true|false)>", k.name
    )
    if match is None:
        return ["cannot read its parameters"]
    engine, (BM, BN, WM, WN) = match.group(1), map(int, match.groups()[1:5])
    gather = match.group(7) == "true"
    threads = BM // WM * (BN // WN) * 32
    if k.local or k.count(LOCAL):
        wrong.append(f"{k.local} bytes of local memory, {k.count(LOCAL)} accesses")
    if k.registers * threads * (1 if gather or not engine else 2) > 65536:
        wrong.append(f"{k.registers} registers: its blocks of {threads} threads do not fit")
    work = MULTIPLY.get(engine or "", r"\bFFMA\b")
    loops = [loop for loop in k.loops() if k.count(work, loop) and k.count("LDGDEPBAR", loop)]
    if not loops:
        return [*wrong, f"no loop with {work}"]
    loop = loops[-1]
    products = WM // 16 * (WN // 8) if engine else WM // 8 * (WN // 4) * 8
    if k.count(work, loop) < products:
        wrong.append(f"{k.count(work, loop)} of {products} multiplications in the main loop")
    if engine and not k.count(r"LDSM\.16\.M88\.4", loop):
        wrong.append("no ldmatrix in the main loop")
    if not engine and not k.count(r"LDS\.128", loop):
        wrong.append("no 16-byte reads of shared memory in the main loop")
    copies = (BN if gather else BM + BN) * 8 // threads
    if k.count(r"LDGSTS\.E\.BYPASS\.(LTC128B\.)?128", loop) < copies:
        wrong.append(f"fewer than {copies} asynchronous copies of 16 bytes in the main loop")
    return wrong


def _wgmma(k: Kernel) -> list[str]:
    """The body is there for sm_90a alone: elsewhere the kernel is never launched."""
    match = re.search(r"conv_wgmma<(?:\w+::)*(half_t|bfloat_t|float), (\d+), \d+>", k.name)
    if match is None:
        return ["cannot read its parameters"]
    type_, columns = WARPGROUP[match.group(1)], int(match.group(2))
    if k.arch != "sm_90a":
        return ["a body without its instructions"] if len(k.code) > 64 else []
    wrong = [f"{k.local} bytes of local memory, {k.count(LOCAL)} accesses"] if k.local or k.count(LOCAL) else []
    work = rf"HGMMA\.64x{min(columns, 128)}x{type_} "
    products = 4 * max(1, columns // 128)
    loops = [loop for loop in k.loops() if k.count(work, loop) >= products]
    if not loops:
        wrong.append(f"no loop with {products} of {work}")
    elif k.count(r"WARPGROUP\.DEPBAR", loops[0]) != 1:
        wrong.append("its products are waited for one by one")
    wrong += _sums(k)
    if (blocks := _resident(k.registers, WGMMA_THREADS // 32)) < (1 if columns > 128 else 2):
        wrong.append(f"{k.registers} registers: {blocks} of its blocks fit")
    for text, what in (
        (r"UTMALDG\.4D\.IM2COL", "copies of pixels"),
        (r"UTMALDG\.3D", "copies of filters"),
        (r"SYNCS\.PHASECHK", "waits at barriers in shared memory"),
        (WIDE_STORE, "16-byte stores"),
    ):
        if not k.count(text):
            wrong.append(f"no {what}: {text}")
    return wrong


WGMMA_THREADS = 288  # csrc/cuda/conv_wgmma.cuh


def _resident(registers: int, warps: int) -> int:
    """Blocks whose registers fit a multiprocessor: a quarter of it has 16384, a warp takes them by eight a lane."""
    return 16384 // (-(-registers // 8) * 8 * 32) * 4 // warps


def _sums(k: Kernel) -> list[str]:
    """Sums are read after the last wait for products."""
    products = [(at, text) for at, text in k.code if "HGMMA" in text]
    waits = [at for at, text in k.code if re.search(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x0", text)]
    if not products or len(waits) != 1 or waits[0] < products[-1][0]:
        return ["not one wait for all products behind them"]
    sums = set()
    for _, text in products:
        match = re.search(r"HGMMA\.64x(\d+)\S* R(\d+),", text)
        if match:
            sums |= {f"R{int(match.group(2)) + i}" for i in range(int(match.group(1)) // 2)}
    early = [
        text
        for at, text in k.code
        if products[0][0] < at < waits[0] and "HGMMA" not in text and sums & set(re.findall(r"\bR\d+\b", text))
    ]
    return [f"a sum is touched before products are waited for: {text}" for text in early[:1]]


def _weight_gradient(k: Kernel) -> list[str]:
    match = re.search(r"weight_kernel<.*?(Tf32|Fma)Square, (1|4)>", k.name)
    if match is None:
        return ["cannot read its parameters"]
    wrong = [f"{k.local} bytes of local memory, {k.count(LOCAL)} accesses"] if k.local or k.count(LOCAL) else []
    tensor = match.group(1) == "Tf32"
    work, products = (MULTIPLY["Tf32"], 16) if tensor else (r"\bFFMA\b", 512)
    loops = [loop for loop in k.loops() if k.count(work, loop) >= products and k.count("LDGDEPBAR", loop)]
    if not loops:
        return [*wrong, f"no loop with {products} of {work}"]
    if not tensor and not k.count(r"LDS\.128", loops[-1]):
        wrong.append("no 16-byte reads of shared memory in the main loop")
    if match.group(2) == "4" and k.count(r"LDGSTS\.E\.BYPASS\.(LTC128B\.)?128", loops[-1]) < 4:
        wrong.append("fewer than 4 asynchronous copies of 16 bytes in the main loop")
    return wrong


def _winograd(k: Kernel) -> list[str]:
    """A tile of four channels stays in registers, and goes by 16 bytes a lane."""
    wrong = [f"{k.local} bytes of local memory, {k.count(LOCAL)} accesses"] if k.local or k.count(LOCAL) else []
    stores = 36 if "winograd_in" in k.name else 1  # the 16 outputs are a loop
    if k.count(WIDE_LOAD) < 36 or k.count(WIDE_STORE) < stores:
        wrong.append(f"{k.count(WIDE_LOAD)} loads and {k.count(WIDE_STORE)} stores of 16 bytes of global memory")
    if k.registers * 2 * 128 > 65536:
        wrong.append(f"{k.registers} registers: less than two blocks fit")
    return wrong


def problems(k: Kernel) -> list[str]:
    if "conv_gemm<" in k.name:
        return _conv(k)
    if "conv_wgmma<" in k.name:
        return _wgmma(k)
    if re.search(r"[^_]weight_kernel<", k.name):
        return _weight_gradient(k)
    if re.search(r"winograd_(in|out)\b", k.name):
        return _winograd(k)
    wrong = []
    wide = r"binary_kernel<(float, 4|half_t, 8|bfloat_t, 8)|unary_kernel<(float, 4|half_t, 8|bfloat_t, 8)"
    plain = k.name.replace("fastconv::cuda::", "")
    wide = rf"{wide}|depthwise_run<|pool_kernel<(float, 4|half_t, 8|bfloat_t, 8)|unary_backward_kernel<4>"
    if re.search(wide, plain) and not (k.count(WIDE_LOAD) and k.count(WIDE_STORE)):
        wrong.append("no 16-byte loads or stores of global memory")
    if "join_slices<" in plain and k.count(LOCAL):
        wrong.append(f"{k.count(LOCAL)} accesses of local memory")
    if "dense_rows<" in plain:
        streams = [loop for loop in k.loops() if k.count(WIDE_LOAD, loop)]
        if not streams or any(k.count(LOCAL, loop) for loop in streams):
            wrong.append("its loop does not read 16 bytes at a time, or uses local memory")
    if k.local:
        wrong.append(f"{k.local} bytes of local memory")
    return wrong


def main() -> int:
    found = kernels(Path(sys.argv[1]))
    failed = 0
    for k in found:
        for text in problems(k):
            failed += 1
            print(f"{k.arch} {k.name.replace('fastconv::cuda::', '')}: {text}")
    archs = sorted({k.arch for k in found})
    convolutions = sum("conv_gemm<" in k.name for k in found)
    hopper = sum("conv_wgmma<" in k.name and k.arch == "sm_90a" for k in found)
    transforms = sum("winograd_" in k.name for k in found)
    print(f"{len(found)} kernels, {convolutions} of them products, for {', '.join(archs)}: {failed} problems")
    if convolutions < 32 * len(archs):
        print("expected 32 products for each architecture")
        failed += 1
    if transforms != 2 * len(archs):
        print(f"expected two transforms of Winograd for each architecture, found {transforms}")
        failed += 1
    if "sm_90a" in archs and hopper != 9:
        print(f"expected 9 products of warpgroups for sm_90a, found {hopper}")
        failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
