"""Build the simulated device's extension for the interpreter and torch that run this.

    python build.py FOLDER

prints the folder of the extension, FOLDER/<python>-torch<version>-<hash>; what is there already is
kept. Exit status 3: this torch is older than any that the extension was built for. Headers are
torch's own, as pip brings them, and the interpreter's.
"""

import concurrent.futures
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
OLDEST = (2, 15)  # of torch; others have not been tried


def main() -> None:
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        print(
            f"the simulated device wants torch {oldest}; this is {torch.__version__}",
            file=sys.stderr,
        )
        sys.exit(3)
    root = os.path.dirname(torch.__file__)
    include, lib = os.path.join(root, "include"), os.path.join(root, "lib")
    python = sysconfig.get_paths()["include"]
    for needed in (os.path.join(include, "torch/library.h"), os.path.join(python, "Python.h")):
        if not os.path.exists(needed):
            sys.exit(f"no {needed}: torch from pip and python3-dev bring the headers")
    compiler = os.environ.get("CXX", "g++")
    flags = [
        "-c", "-fPIC", "-O1", "-w", "-std=c++20", "-fvisibility=hidden",
        "-isystem", include, "-isystem", os.path.join(include, "torch/csrc/api/include"),
        "-isystem", python,
    ]  # fmt: skip
    libraries = [
        f"-L{lib}",
        f"-Wl,-rpath,{lib}",
        "-ltorch",
        "-ltorch_cpu",
        "-ltorch_python",
        "-lc10",
    ]
    names = sorted(name for name in os.listdir(HERE) if name.endswith((".cpp", ".h")))
    digest = hashlib.sha256("\0".join([compiler, *flags, *libraries]).encode())
    for name in names:
        with open(os.path.join(HERE, name), "rb") as f:
            digest.update(f.read())
    folder = f"{sys.implementation.cache_tag}-torch{torch.__version__}-{digest.hexdigest()[:12]}"
    folder = os.path.join(os.path.abspath(sys.argv[1]), folder)
    target = os.path.join(folder, "simdevice_c.so")
    if not os.path.exists(target):
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            compile_all(compiler, flags, libraries, [n for n in names if n.endswith(".cpp")], work)
            os.replace(os.path.join(work, "simdevice_c.so"), target)
    print(folder)


def compile_all(
    compiler: str, flags: list[str], libraries: list[str], sources: list[str], work: str
) -> None:
    def compile_one(source: str) -> str:
        made = os.path.join(work, source.replace(".cpp", ".o"))
        subprocess.run([compiler, *flags, os.path.join(HERE, source), "-o", made], check=True)
        return made

    print("building the simulated device:", compiler, *flags, file=sys.stderr)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    target = os.path.join(work, "simdevice_c.so")
    subprocess.run([compiler, "-shared", *objects, *libraries, "-o", target], check=True)


if __name__ == "__main__":
    main()
