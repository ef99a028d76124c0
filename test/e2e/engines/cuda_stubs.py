"""Makes empty stand-ins for the CUDA libraries that torch's wheel wants at load time.

PyPI has no CPU build of torch for Linux x86-64: its wheel is linked against 15 CUDA libraries that weigh 2.5 GB
more. On a machine without a GPU none of their functions is ever called, the loader only wants to find the files,
their version nodes and their symbols. This writes such files next to torch's own: every function returns 100
(cudaErrorNoDevice), so `torch.cuda.is_available()` answers False, as it does with the real ones.

lmcache and torch stay byte for byte what PyPI serves. Not used with KVTIER_E2E_TORCH=full.

Usage: cuda_stubs.py SITE_PACKAGES    Needs: cc, readelf, nm.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile

GPU = ("libcu", "libnccl", "libnv")


def sh(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def survey(lib: str):
    """What torch's libraries need: file names, version node -> file, symbol -> version node."""
    real = glob.glob(lib + "/*.so")
    have = {os.path.basename(f) for f in real}
    need, node, wanted, defined = set(), {}, {}, set()
    for path in real:
        for name in re.findall(r"NEEDED.*\[(.*)\]", sh("readelf", "-d", path)):
            if name not in have and name.startswith(GPU):
                need.add(name)
        current = ""
        for line in sh("readelf", "-V", "-W", path).splitlines():
            if m := re.search(r"File: (\S+)", line):
                current = m[1]
            elif (m := re.search(r"Name: (\S+)\s+Flags", line)) and current.startswith(GPU):
                node[m[1]] = current
        for line in sh("nm", "-D", path).splitlines():
            part = line.split()
            name, _, version = part[-1].partition("@")
            if len(part) == 2 and part[0] == "U":
                wanted.setdefault(name, version)
            elif len(part) == 3:
                defined.add(name)
    return need, node, {n: v for n, v in wanted.items() if n not in defined}


def main() -> None:
    lib = os.path.join(sys.argv[1], "torch", "lib")
    need, node, wanted = survey(lib)
    if not need:
        sys.exit(f"Cannot make CUDA stand-ins: no library in {lib} needs one")
    unversioned_home = next(n for n in need if n.startswith("libcudart"))
    nodes = {name: {} for name in need}
    for version, file in node.items():
        if file in nodes:
            nodes[file][version] = []
    for name, version in sorted(wanted.items()):
        if version in node and node[version] in nodes:
            nodes[node[version]][version].append(name)
        elif not version and re.match(r"(cu|nccl|nv)", name):
            nodes[unversioned_home].setdefault("", []).append(name)
    for file, versions in sorted(nodes.items()):
        code = "".join(f"int {n}(void) {{ return 100; }}\n" for names in versions.values() for n in names)
        script = "".join(
            f"{v} {{ global: {''.join(n + '; ' for n in names)} }};\n" for v, names in versions.items() if v
        ) or "KVTIER_STUB { global: nothing; };\n"
        with tempfile.NamedTemporaryFile("w", suffix=".map") as m:
            m.write(script)
            m.flush()
            subprocess.run(
                ["cc", "-shared", "-nostdlib", "-fno-builtin", "-w", "-x", "c", "-", "-o", os.path.join(lib, file),
                 f"-Wl,-soname,{file}", f"-Wl,--version-script={m.name}"],
                input=code, text=True, check=True,
            )
    print(f"cuda_stubs: {len(nodes)} stand-ins, {sum(len(n) for v in nodes.values() for n in v.values())} symbols")


main()
