"""Add the Debian packages of the image to the bill of materials of its Python packages (CycloneDX, JSON)."""

import json
import sys
from pathlib import Path


def debian_components(status: str) -> list[dict[str, str]]:
    """The installed packages of a dpkg status file as CycloneDX components."""
    components = []
    for paragraph in status.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if not fields["Status"].endswith(" installed"):
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        purl = f"pkg:deb/debian/{name}@{version.replace(':', '%3A').replace('+', '%2B')}?arch={architecture}"
        components.append({"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl})
    return components


def main(python_bom: str, dpkg_status: str) -> None:
    """Print the joined bill of materials."""
    bom = json.loads(Path(python_bom).read_text(encoding="utf-8"))
    bom["components"] += debian_components(Path(dpkg_status).read_text(encoding="utf-8"))
    print(json.dumps(bom, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
