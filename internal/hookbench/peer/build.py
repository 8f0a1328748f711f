"""Build python_comm_hook_peer for the interpreter and torch that run this.

    python build.py FOLDER

prints the folder of the extension, FOLDER/<python>-torch<version>-<hash>; what is
there already is kept. Headers: torch's own (pip), or Debian's libtorch-dev and
pybind11-dev; and the interpreter's (python3-dev).
"""

import hashlib
import os
import subprocess
import sys
import sysconfig

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(HERE, "python_comm_hook_peer.cpp")
HOOK_HEADER = "torch/csrc/distributed/c10d/python_comm_hook.h"


def main() -> None:
    root = os.path.dirname(torch.__file__)
    include = os.path.join(root, "include")
    if not os.path.exists(os.path.join(include, HOOK_HEADER)):
        include = "/usr/include"
    python = sysconfig.get_paths()["include"]
    for needed in (os.path.join(include, HOOK_HEADER), os.path.join(python, "Python.h")):
        if not os.path.exists(needed):
            packages = "libtorch-dev pybind11-dev python3-dev"
            sys.exit(f"no {needed}; on Debian: apt-get install {packages}")

    lib = os.path.join(root, "lib")
    libraries = ["torch", "torch_cpu", "torch_python", "c10"]
    # torch 2.5 and later need C++20 in places; 1.13 does not compile as that.
    standard = "c++17" if int(torch.__version__.split(".")[0]) < 2 else "c++20"
    command = [
        os.environ.get("CXX", "g++"), "-shared", "-fPIC", "-O3", "-DNDEBUG", "-w",
        f"-std={standard}", "-fvisibility=hidden",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
        "-isystem", include, "-isystem", os.path.join(include, "torch/csrc/api/include"),
        "-isystem", python,
        SOURCE, f"-L{lib}", f"-Wl,-rpath,{lib}", *[f"-l{library}" for library in libraries],
    ]  # fmt: skip
    with open(SOURCE, "rb") as f:
        key = hashlib.sha256(f.read() + "\0".join(command).encode()).hexdigest()[:12]
    name = f"{sys.implementation.cache_tag}-torch{torch.__version__}-{key}"
    folder = os.path.join(os.path.abspath(sys.argv[1]), name)
    target = os.path.join(folder, "python_comm_hook_peer.so")
    if not os.path.exists(target):
        os.makedirs(folder, exist_ok=True)
        print("building the C++ peer:", *command, file=sys.stderr)
        subprocess.run([*command, "-o", target + ".part"], check=True)
        os.replace(target + ".part", target)
    print(folder)


if __name__ == "__main__":
    main()
