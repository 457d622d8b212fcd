"""The reference pages, generated from the code: every command, every key of the study file, and its JSON schema.

`python docs/reference.py FOLDER` writes `cli.md`, `study.md` and `study.schema.json` to FOLDER/src, beside a copy of
docs/, and the site's configuration; `make docs` calls it, so they are never older than the code.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dpdt.base.files import make_folder, write_text
from dpdt.study.keys import REQUIRED, Key, all_keys, json_schema, section_docs, toml

__all__ = ["cli_page", "site_config", "study_page", "write_reference", "write_site"]

EXIT_CODES: Final = """\
Exit codes:

- **0**: done.
- **1**: failed. What the command found is not as it must be: data, files, the machine, a stage that has not run.
  `verify`, `doctor` and `audit` end so, too, when what they looked at is bad.
- **2**: wrong use. The command line is wrong, or the study file, or the network, the weights or the table (`report
  --from-csv`) that they name. Correct it; nothing was begun.
- **130**: stopped by Ctrl-C.

An error is one line on stderr; `--verbose` adds the traceback.
"""
HEAD = "---\ntitle: {title}\n---\n\n# {title}\n\n"


def cli_page() -> str:
    """Every command with its help, as the terminal shows it."""
    from typer.testing import CliRunner

    from dpdt.cli import app

    names = [
        "",
        *(command.name or str(command.callback.__name__) for command in app.registered_commands if command.callback),
    ]
    runner = CliRunner()
    parts = [HEAD.format(title="Commands"), EXIT_CODES]
    for name in names:
        arguments = [name, "--help"] if name else ["--help"]
        shown = runner.invoke(app, arguments, prog_name="dpdt", env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"}).output
        parts.append(f"## {f'dpdt {name}' if name else 'dpdt'}\n\n```text\n{shown.strip()}\n```\n")
    return "\n".join(parts)


def study_page() -> str:
    """Every key by section: default, values, unit, what it is, why one would change it."""
    keys, docs = all_keys(), section_docs()
    parts = [
        HEAD.format(title="The study file"),
        "One TOML file. Every key has a default. `dpdt init` writes a file with those that people change, `dpdt show` "
        "prints what is in force. Editors complete and check it with [the JSON schema](study.schema.json), if its "
        "first line is `#:schema ./study.schema.json`; `dpdt schema --output study.schema.json` writes that file.\n",
    ]
    for section, about in docs.items():
        title = section.replace("*", "NAME")
        parts.append(f"## [{title}]\n\n{about[0].upper()}{about[1:]}\n")
        parts.append("\n".join(_table([key for key in keys if key.section == section])) + "\n")
    return "\n".join(parts)


def _table(keys: list[Key]) -> Iterator[str]:
    yield "| key | default | values | what it is | change it |"
    yield "|---|---|---|---|---|"
    for key in keys:
        default = (
            "required" if key.default is REQUIRED else "not set" if key.default is None else f"`{toml(key.default)}`"
        )
        unit = f" Unit: {key.help.unit}." if key.help.unit else ""
        cells = (f"`{key.short}`", default, key.kind, key.description + unit, key.help.why)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def site_config(config: Path, pages: Path) -> dict[str, Any]:
    """The site's configuration, with every page in the navigation: pages without a place in it come last.

    Args:
        config: mkdocs.yml of the repository.
        pages: Folder of all pages.
    """
    import yaml

    found: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    placed = str(found["nav"])
    more = [page.name for page in sorted(pages.glob("*.md")) if page.name not in placed]
    found["nav"] += [{"More": more}] if more else []
    return found


def write_site(config: Path, folder: Path) -> None:
    """Write what the site is built from into a folder: the references beside the pages, and the configuration."""
    import yaml

    write_reference(folder / "src")
    for page in (folder / "src").glob("*.md"):  # what lies beside docs/ is in the repository, not on the site
        text = page.read_text(encoding="utf-8")
        write_text(page, re.sub(r"\[([^\]]*)\]\(\.\./([^)]+)\)", r"\1 (`\2` in the repository)", text))
    found = {**site_config(config, folder / "src"), "docs_dir": "src", "site_dir": "site"}
    write_text(folder / "mkdocs.yml", yaml.safe_dump(found, sort_keys=False, allow_unicode=True))


def write_reference(folder: Path) -> None:
    """Write the pages and the schema."""
    make_folder(folder)
    write_text(folder / "cli.md", cli_page())
    write_text(folder / "study.md", study_page())
    write_text(folder / "study.schema.json", json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write_site(Path("mkdocs.yml"), Path(sys.argv[1]))
