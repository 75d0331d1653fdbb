"""Let a CUDA build of PyTorch be imported on a CPU host without 1.8 GB of CUDA libraries (in an image's build stage; needs gcc).

    python docker/cuda_stubs.py VENV/lib/python3.11/site-packages/torch/lib

torch and torchaudio match each other only as the CUDA build where they come from the default package index, and `libtorch_cuda.so` must
load even on a host without a GPU. So each big library that it names is replaced by a small one with the same name, and with the
functions that torch asks for. None of them is ever called without a GPU; one that is says so and aborts.
The small ones (CUDA runtime, CUPTI, cuFile) stay as they are, for torch does call them to find out that there is no GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True)
class Stub:
    """A library to stand in for: its file name, the version its symbols carry, and (where they carry none) how their names begin."""

    soname: str
    version: str
    prefix: str = ""

    def owns(self, symbol: str, version: str) -> bool:
        """Whether a function that torch asks for is this library's."""
        return version == self.version if self.version else not version and symbol.startswith(self.prefix)


STUBS = (
    *(
        Stub(name, name)
        for name in ("libcublas.so.13", "libcublasLt.so.13", "libcufft.so.12", "libcurand.so.10", "libcusparse.so.12", "libcudnn.so.9")
    ),
    Stub("libnvshmem_host.so.3", "NVSHMEM"),
    Stub("libcusparseLt.so.0", "", "cusparseLt"),
    Stub("libnccl.so.2", "", "nccl"),
)
USERS = ("libtorch_cuda.so", "libtorch_nvshmem.so", "libtorch_python.so")  # what `import torch` loads
_UNDEFINED = re.compile(r"\s+U (\w+)(?:@+(\S+))?")

SOURCE = """\
#include <stdio.h>
#include <stdlib.h>
static void gone(const char *name) {
  fprintf(stderr, "%s was called, but this image is for hosts without a GPU; use the GPU image\\n", name);
  abort();
}
"""


def undefined(library: Path) -> set[tuple[str, str]]:
    """(symbol, version or "") of what a library asks others for."""
    command = ["nm", "-D", "--with-symbol-versions", str(library)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {(found[1], found[2] or "") for found in map(_UNDEFINED.fullmatch, listing.splitlines()) if found}


def write_stub(stub: Stub, symbols: Sequence[str], folder: Path) -> None:
    """Compile the library into `folder`."""
    with TemporaryDirectory() as scratch:
        source, script = Path(scratch) / "stub.c", Path(scratch) / "stub.map"
        source.write_text(SOURCE + "".join(f'void {name}(void) {{ gone("{name}"); }}\n' for name in symbols), encoding="ascii")
        script.write_text(f"{stub.version} {{ global: *; }};\n", encoding="ascii")
        options = ["-shared", "-fPIC", "-Os", "-s", "-Wno-builtin-declaration-mismatch", f"-Wl,-soname,{stub.soname}"]
        options += [f"-Wl,--version-script={script}"] if stub.version else []
        subprocess.run(["gcc", *options, "-o", str(folder / stub.soname), str(source)], check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all stubs beside torch's own libraries, where its run path ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="torch/lib of an environment without the nvidia packages")
    folder = parser.parse_args(arguments).folder
    wanted = sorted(set().union(*(undefined(folder / user) for user in USERS)))
    for stub in STUBS:
        symbols = [name for name, version in wanted if stub.owns(name, version)]
        write_stub(stub, symbols, folder)
        sys.stdout.write(f"{stub.soname}: {len(symbols)} functions\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
