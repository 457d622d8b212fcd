"""Look into every layer of a saved image for what must not be there: `scan_layers.py IMAGE.tar`.

Reads what `docker save` or `podman save` wrote. A file that a later layer deletes is still in the image, so each layer
is looked at by itself. Exit code 1 if anything is found.
"""

import fnmatch
import re
import sys
import tarfile
from collections.abc import Iterator

FORBIDDEN = {
    "configuration of pip or apt": ("etc/pip.conf", "*/pip.conf", "etc/apt/apt.conf.d/*proxy*", "etc/apt/auth.conf*"),
    "certificate": ("*.pem", "*.crt", "etc/ssl/*.p12", "usr/local/share/ca-certificates/*"),
    "secret": (
        "run/secrets/*",
        "*/.netrc",
        "*/id_rsa*",
        "*/id_ed25519*",
        "*/.aws/*",
        "*/.docker/config.json",
        "*/.pgpass",
    ),
    "cache": ("*/.cache/*", "var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*_*"),
    "source or history": ("*/.git/*", "*/.hypothesis/*", "*/.pytest_cache/*", "*.whl"),
    "compiler or header": (
        "usr/bin/*-gcc*",
        "usr/bin/*-g++*",
        "usr/bin/cmake",
        "usr/include/*.h",
        "*/bin/pip",
        "*/bin/cmake",
    ),
}
# Public certificates that packages bring for their own use.
ALLOWED = (
    "opt/dpdt/lib/python3*/site-packages/certifi/cacert.pem",
    "opt/dpdt/lib/python3*/site-packages/grpc/_cython/_credentials/roots.pem",
)
MACHINE_WORDS = re.compile(
    rb"(?i)(proxy|index[-_]url|find[-_]links|trusted[-_]host|password|token|secret|_cert)\w*=[^\s\"]+"
)


def layers(image: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarFile | bytes]]:
    """The layers of a saved image, and its JSON files as bytes."""
    for member in image:
        content = image.extractfile(member) if member.isfile() else None
        if content is None:
            continue
        if member.name.endswith(".json") or content.read(1) == b"{":
            content.seek(0)
            yield member.name, content.read()
            continue
        content.seek(0)
        try:
            with tarfile.open(fileobj=content) as layer:
                yield member.name, layer
        except tarfile.ReadError:
            continue


def problems(path: str) -> list[str]:
    """What should not be in a file or folder of an image; its path is relative to the root."""
    name = path.removeprefix("./").removeprefix("/")
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in ALLOWED):
        return []
    return [
        f"{what}: /{name}"
        for what, patterns in FORBIDDEN.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]


def scan(file: str) -> tuple[int, list[str]]:
    """Files looked at, and what was found in a saved image."""
    found: list[str] = []
    files = 0
    with tarfile.open(file) as image:
        for name, layer in layers(image):
            if isinstance(layer, bytes):
                found += [f"setting in {name}: {match.group().decode()}" for match in MACHINE_WORDS.finditer(layer)]
                continue
            for member in layer:
                if member.isfile() or member.issym():
                    files += 1
                    found += [f"{problem} (layer {name[:12]})" for problem in problems(member.name)]
    return files, found


def main(file: str) -> int:
    """Print what was found."""
    files, found = scan(file)
    for line in found:
        print(line)
    print(f"layers: {files} files, {len(found)} of them must not be there")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
