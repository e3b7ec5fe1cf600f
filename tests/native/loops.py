"""Main loops in disassembled functions: what one iteration does. Reads `objdump -d -C --no-show-raw-insn` (AT&T), of
x86-64 and of aarch64."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

HEAD = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s+([0-9a-f]+):\s+(\S+)(?:\s+(.*))?$")
TARGET = re.compile(r"^([0-9a-f]+)(?:\s|$)")
STORED = re.compile(r"\)(\{%k\d\})?\s*(#.*|<.*)?$")  # the last operand is memory, perhaps under a mask
PREFIXES = {"notrack", "bnd", "lock", "rep", "repz", "repnz", "data16", "cs"}


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a jump goes."""
        found = TARGET.match(self.operands) if self.name.startswith("j") else None
        return int(found[1], 16) if found else None

    @property
    def memory(self) -> bool:
        return "(" in self.operands and not self.name.startswith(("lea", "prefetch", "nop", "j"))

    @property
    def stores(self) -> bool:
        """The last operand is memory and written."""
        reads_only = ("cmp", "test", "vcomis", "vucomis", "call", "mul", "div", "imul", "idiv")
        return self.memory and STORED.search(self.operands) is not None and not self.name.startswith(reads_only)

    @property
    def vector(self) -> bool:
        return re.search(r"%[xyz]mm", self.operands) is not None

    @property
    def fma(self) -> bool:
        return re.match(r"vfn?m(add|sub)(132|213|231)ps$", self.name) is not None

    @property
    def reads(self) -> int:
        """Vector loads, broadcasts and memory operands."""
        return int(self.vector and self.memory and not self.stores)

    @property
    def on_stack(self) -> bool:
        return self.memory and re.search(r"\(%rsp[,)]", self.operands) is not None

    @property
    def through_frame(self) -> bool:
        """Relative to %rbp, which may be a frame pointer."""
        return self.memory and re.search(r"\(%rbp[,)]", self.operands) is not None

    @property
    def sets_frame(self) -> bool:
        return self.name.startswith("mov") and self.operands == "%rsp,%rbp"


class ArmInstruction(Instruction):
    """The same of aarch64. Pairs read two registers; `ld1r` reads and spreads one float."""

    @property
    def target(self) -> int | None:
        if re.match(r"(b(\.[a-z]+)?|cbn?z|tbn?z)$", self.name) is None:
            return None
        found = TARGET.match(self.operands.split("<")[0].split(",")[-1].strip() + " ")
        return int(found[1], 16) if found else None

    @property
    def memory(self) -> bool:
        return re.match(r"(ld|st)", self.name) is not None

    @property
    def stores(self) -> bool:
        return self.name.startswith("st")

    @property
    def vector(self) -> bool:
        return re.match(r"\{?\s*[qvsd]\d", self.operands) is not None

    @property
    def fma(self) -> bool:
        return self.name in ("fmla", "fmls")

    @property
    def reads(self) -> int:
        if not (self.name.startswith("ld") and self.vector):
            return 0
        return len(re.findall(r"\b[qvsd]\d+", self.operands.split("[")[0]))

    @property
    def on_stack(self) -> bool:
        return self.memory and "[sp" in self.operands

    @property
    def through_frame(self) -> bool:
        return self.memory and "[x29" in self.operands

    @property
    def sets_frame(self) -> bool:
        return self.name == "mov" and self.operands == "x29, sp"


@dataclass(frozen=True)
class Loop:
    """Counts per pass through the loop. Stack accesses are those relative to %rsp, or to %rbp as frame pointer."""

    instructions: int
    fmas: int
    reads: int  # vector loads, broadcasts and memory operands, those of the stack included
    spills: int  # stores to the stack, vectors or not
    vector_reloads: int
    scalar_reloads: int
    address: int
    prefetches: int = 0


def functions(lines: Iterable[str], kind: type[Instruction] = Instruction) -> Iterator[tuple[str, list[Instruction]]]:
    """Demangled names and instructions."""
    name, body = "", list[Instruction]()
    for line in lines:
        head = HEAD.match(line.rstrip("\n"))
        if head:
            if body:
                yield name, body
            name, body = head[1], []
            continue
        found = INSTRUCTION.match(line.rstrip("\n"))
        if found and name:
            mnemonic, operands = found[2], found[3] or ""
            while mnemonic in PREFIXES and operands:
                mnemonic, _, operands = operands.partition(" ")
                operands = operands.lstrip()
            body.append(kind(int(found[1], 16), mnemonic, operands))
    if body:
        yield name, body


def count(body: list[Instruction], framed: bool) -> Loop:
    on_stack = [i.on_stack or (framed and i.through_frame) for i in body]
    pairs = list(zip(body, on_stack, strict=True))
    return Loop(
        instructions=len(body),
        fmas=sum(i.fma for i in body),
        reads=sum(i.reads for i in body),
        spills=sum(s and i.stores for i, s in pairs),
        vector_reloads=sum(i.reads for i, s in pairs if s),
        scalar_reloads=sum(s and not i.stores and not i.vector for i, s in pairs),
        address=body[0].address,
        prefetches=sum(i.name.startswith(("prefetch", "prfm")) for i in body),
    )


def main_loop(body: list[Instruction]) -> Loop | None:
    """The innermost loop (a backward jump with no other inside it) with the most FMAs; None where there is none."""
    framed = any(i.sets_frame for i in body)
    at = {i.address: n for n, i in enumerate(body)}
    spans = [(at[i.target], n) for n, i in enumerate(body) if i.target in at and at[i.target] <= n]
    with_fmas = [(a, b) for a, b in spans if any(i.fma for i in body[a : b + 1])]
    inner = [s for s in with_fmas if not any(t != s and s[0] <= t[0] and t[1] <= s[1] for t in with_fmas)]
    found = [count(body[a : b + 1], framed) for a, b in inner]
    return max(found, key=lambda loop: (loop.fmas, -loop.instructions), default=None)
