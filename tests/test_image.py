"""What the image is made from, and the tools that look into it. The image itself is tested by `make image-test`."""

import ast
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement

import dpdt
from dpdt import _core

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
pytestmark = pytest.mark.skipif(not DOCKER.is_dir(), reason="docker/ is not beside the tests")


def load(name: str) -> ModuleType:
    """A script of docker/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"dpdt_image_{name}", DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def saved_image(folder: Path, *layers: dict[str, bytes], config: str = "{}") -> str:
    """A file as `docker save` writes it: a tar of layers, each a tar, and of JSON."""
    parts = {f"{number}.tar": archive(layer) for number, layer in enumerate(layers)}
    file = folder / "image.tar"
    file.write_bytes(archive({**parts, "config.json": config.encode()}))
    return str(file)


def compose() -> dict[str, Any]:
    text = (DOCKER / "compose.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_the_core_has_the_version_of_the_package() -> None:
    assert _core.__version__ == dpdt.__version__


def test_a_clean_image_passes_the_scan(tmp_path: Path) -> None:
    scan = load("scan_layers")
    layer = {"usr/bin/python3": b"", "opt/dpdt/lib/python3.11/site-packages/certifi/cacert.pem": b"public"}
    assert scan.scan(saved_image(tmp_path, layer)) == (2, [])


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("etc/pip.conf", "configuration"),
        ("usr/local/share/ca-certificates/company.crt", "certificate"),
        ("etc/ssl/certs/ca-certificates.crt", "certificate"),
        ("run/secrets/ca", "secret"),
        ("root/.cache/pip/http/1", "cache"),
        ("var/cache/apt/archives/gcc_12.deb", "cache"),
        ("build/wheel/dpdt.whl", "source"),
        ("usr/bin/x86_64-linux-gnu-gcc-12", "compiler"),
    ],
)
def test_what_does_not_belong_into_an_image_is_named_also_where_a_later_layer_deletes_it(
    tmp_path: Path, path: str, what: str
) -> None:
    folder, name = path.rsplit("/", 1)
    image = saved_image(tmp_path, {path: b"x"}, {f"{folder}/.wh.{name}": b""})
    files, found = load("scan_layers").scan(image)
    assert files == 2
    assert re.fullmatch(f"{what}.*: /{re.escape(path)} .layer 0.tar.", found[0])


def test_a_setting_of_the_build_machine_in_the_configuration_is_named(tmp_path: Path) -> None:
    image = saved_image(tmp_path, {"a": b""}, config=json.dumps({"Env": ["HTTPS_PROXY=http://somewhere:3128"]}))
    assert load("scan_layers").scan(image)[1] == ["setting in config.json: PROXY=http://somewhere:3128"]


def test_an_empty_image_is_a_failure_of_the_scan(tmp_path: Path) -> None:
    assert load("scan_layers").main(saved_image(tmp_path)) == 1


def test_debian_packages_come_into_the_bill_of_materials() -> None:
    status = (
        "Package: libjpeg62-turbo\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2.1.5-2\n"
        "Description: one\n two: lines\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    (component,) = load("sbom").debian_components(status)
    # The form of a Debian package's URL: https://github.com/package-url/purl-spec, types/deb
    assert component["purl"] == "pkg:deb/debian/libjpeg62-turbo@1%3A2.1.5-2?arch=amd64"
    assert component["version"] == "1:2.1.5-2"


def demo_folder(root: Path, *, pixel: int = 0, weight: float = 1.0, library: str = "2") -> str:
    """As much of a study's folder as is compared."""
    (root / "shards/uka").mkdir(parents=True)
    np.save(root / "shards/uka/shard-00000.npy", np.full((1, 2, 2), pixel, dtype=np.uint8))
    run = root / "runs/r"
    (run / "checkpoints").mkdir(parents=True)
    never_the_same = dict.fromkeys(("python", "commit", "image"), root.name)
    versions = {"torch": library, **never_the_same}
    (run / "config.json").write_text(json.dumps({"target_epsilon": None, "versions": versions}))
    torch.save({"w": torch.tensor([weight])}, run / "checkpoints/final.pt")
    return str(root)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({}, 0, "weights equal"),
        ({"pixel": 1}, 1, "0 of 1 equal"),
        ({"weight": 1 + 2**-23}, 1, "weights DIFFER"),
        ({"library": "3"}, 3, "not compared, other libraries"),
    ],
)
def test_the_comparison_sees_one_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], code: int, said: str
) -> None:
    here, image = demo_folder(tmp_path / "here"), demo_folder(tmp_path / "image", **changes)
    assert load("compare").main(here, image) == code
    assert said in capsys.readouterr().out


def test_servers_of_the_compose_file_are_reachable_from_their_own_machine_only() -> None:
    services = compose()["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert not services["postgres"].get("ports")


def test_no_password_stands_in_the_compose_file() -> None:
    everything = compose()
    assert all(set(secret) == {"file"} for secret in everything["secrets"].values())
    for service in everything["services"].values():
        named = {key: value for key, value in service.get("environment", {}).items() if "PASSWORD" in key}
        assert all(key.endswith("_FILE") or value is None for key, value in named.items())  # None: the user's own


def test_all_services_but_the_database_have_no_rights_and_a_read_only_root() -> None:
    services = compose()["services"]
    assert set(services) == {"postgres", "mlflow", "dpdt", "backup", "retention"}
    for name, service in services.items():
        if name != "postgres":
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["user"] == "${DPDT_UID:-1000}:${DPDT_GID:-1000}"


def test_the_database_is_healthy_only_when_it_takes_connections_over_the_network() -> None:
    """Its image makes a new database with a server that only the local socket reaches, and then ends it."""
    test = compose()["services"]["postgres"]["healthcheck"]["test"]
    assert test[1:4] == ["pg_isready", "--host", "127.0.0.1"]


def test_the_dockerfile_builds_with_podman_and_docker() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert not text.startswith("# syntax")
    assert "<<" not in text  # heredocs
    assert "--link" not in text
    assert re.search(r"^ARG BASE=debian:bookworm-slim\n(.*\n)*?FROM", text, re.MULTILINE)
    assert "USER root" not in text


def test_pip_s_settings_reach_single_steps_of_the_build_only() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    steps = re.findall(r"^RUN .*(?:\\\n.*)*", text, re.MULTILINE)
    assert len(steps) > 5
    for step in steps:
        if "install.sh" in step or "pip install" in step:
            assert "--mount=type=secret,id=pip_conf" in step
    assert not re.search(
        r"^(COPY|ADD|ENV|ARG).*(pip\.conf|ca\.crt|CERT)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE
    )


# ---- the scripts, with stand-ins for the engines ----


def with_what_they_require(distributions: set[str]) -> set[str]:
    found: set[str] = set()
    while distributions:
        name = distributions.pop()
        found.add(name)
        requirements = [Requirement(line) for line in metadata.requires(name) or ()]
        distributions |= {
            each.name.lower().replace("_", "-")
            for each in requirements
            if each.marker is None or each.marker.evaluate({"extra": ""})
        } - found
    return found


def test_the_smoke_tests_of_the_image_import_only_what_is_in_it() -> None:
    script = (DOCKER / "test.sh").read_text()
    (brought,) = re.findall(r"--only-binary :all: (.+)", script)
    inside = with_what_they_require({"dpdt"}) | set(brought.split())
    owners = metadata.packages_distributions()
    files = re.findall(r"tests/test_\w+\.py", script)
    assert "tests/test_core.py" in files
    todo, seen = {"tests/conftest.py", *files}, set()
    while todo:
        file = todo.pop()
        seen.add(file)
        for node in ast.parse((ROOT / file).read_text()).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if top == "tests":
                    todo |= {f"{name.replace('.', '/')}.py"} - seen
                elif top != "dpdt" and top not in sys.stdlib_module_names:
                    owner = {each.lower().replace("_", "-") for each in owners.get(top, [])}
                    assert owner & inside, f"{file} imports {name}, which is not in the image"


Programs = dict[str, str]
DOCKER_WORKS: Programs = {"docker": "exit 0"}
NO_ENGINE: Programs = {"docker": "exit 1", "podman": "exit 1", "apt-get": "exit 1"}
NOTHING_TO_PULL: Programs = {
    "docker": """case $1 in
info | build) ;;
import) tar -xO ./etc/apt/sources.list > "$HOME/sources" ;;
*) exit 1 ;;
esac"""
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """As much of the repository as the scripts want; what looks into an image is not run."""
    shutil.copytree(DOCKER, tmp_path / "docker")
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("test.sh", "compose-test.sh"):
        (tmp_path / "docker" / name).write_text("#!/bin/sh\n")
    return tmp_path


def run_script(source: Path, *command: str, programs: Programs, **settings: str) -> subprocess.CompletedProcess[str]:
    """A script of `source`, for which `programs` stand in front of those of this machine."""
    folder = source / "programs"
    folder.mkdir(exist_ok=True)
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o700)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "DPDT_", "XDG_", "BASE"))}
    here = {**clean, "HOME": str(source), "PATH": f"{folder}:{os.environ['PATH']}", **settings}
    return subprocess.run(command, cwd=source, env=here, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("programs", "script", "last_line"),
    [
        (DOCKER_WORKS, "exit 0", r"image: tested"),
        (NO_ENGINE, "exit 0", r"image: NOT TESTED: No container engine: neither a running docker nor podman\. .*"),
        (
            {**NOTHING_TO_PULL, "id": "echo 1000"},
            "exit 0",
            r"image: NOT TESTED: debian:bookworm-slim: cannot be pulled, .* Load an image and give BASE=…",
        ),
        (
            {"docker": "[ $1 != build ] || sleep 60", "timeout": 'exec /usr/bin/timeout 1 "${@:2}"'},
            "exit 0",
            r"image: NOT TESTED: the build took more than 15 minutes here; .* run \.ci/image again",
        ),
        (DOCKER_WORKS, "exit 124", r"image: NOT TESTED: compose\.yaml took more than 10 minutes here; .*"),
    ],
    ids=["all is well", "no engine", "no base image", "a long build", "a long test of compose.yaml"],
)
def test_ci_ends_well_and_its_last_line_says_whether_the_image_was_tested(
    source: Path, programs: Programs, script: str, last_line: str
) -> None:
    (source / "docker/compose-test.sh").write_text(f"#!/bin/sh\n{script}\n")
    done = run_script(source, ".ci/image", programs=programs)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(last_line, done.stdout.splitlines()[-1])
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("free_before", "free_after", "user", "calls", "last_line"),
    [
        (11, 30, 0, ["image prune -f", "build"], r"image: tested"),
        (11, 11, 0, ["image prune -f"], r"image: NOT TESTED: Less than 12 GiB are free in \S+, .*: make room\."),
        (12, 12, 0, ["build"], r"image: tested"),
        (11, 11, 1000, ["build"], r"image: tested"),
    ],
    ids=["former layers fill it", "something else fills it", "there is room", "somebody's own store"],
)
def test_the_layers_of_former_builds_go_before_the_disk_is_full(
    source: Path, free_before: int, free_after: int, user: int, calls: list[str], last_line: str
) -> None:
    free = source / "free"
    free.write_text(str(free_before))
    podman = f"""case $1 in
build) echo build >> "$HOME/calls" ;;
image) [ "$2" != prune ] || {{ echo "$*" >> "$HOME/calls"; echo {free_after} > "$HOME/free"; }} ;;
esac"""
    disk = 'echo "Avail"; echo "$(cat "$HOME/free")G"'
    programs = {"docker": "exit 1", "podman": podman, "apt-get": "exit 1", "id": f"echo {user}", "df": disk}
    done = run_script(source, ".ci/image", programs=programs)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(last_line, done.stdout.splitlines()[-1])
    assert (source / "calls").read_text().splitlines() == calls


def test_a_build_that_fails_fails_ci_with_its_own_words(source: Path) -> None:
    build = '[ "$1" != build ] || { echo "no such package"; exit 1; }'
    done = run_script(source, ".ci/image", programs={"docker": build})
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "no such package"


@pytest.mark.parametrize("script", ["test.sh", "compose-test.sh"])
def test_a_test_of_the_image_that_fails_fails_ci(source: Path, script: str) -> None:
    (source / "docker" / script).write_text("#!/bin/sh\nexit 1\n")
    done = run_script(source, ".ci/image", programs=DOCKER_WORKS)
    assert done.returncode == 1
    assert "image: tested" not in done.stdout


@pytest.mark.parametrize("command", [("docker/test.sh",), ("docker/save.sh", "cpu")])
def test_without_an_image_it_is_said_what_to_run_first(source: Path, command: tuple[str, ...]) -> None:
    shutil.copy(DOCKER / "test.sh", source / "docker")
    done = run_script(source, *command, programs={"docker": "[ $1 = info ]"})
    assert done.returncode == 1
    assert done.stderr == "There is no image dpdt:cpu here. Run first: make image\n"


SOURCES = {  # the two formats: sources.list(5)
    "list": """deb [arch=amd64] http://other.example/apt bookworm main
deb [trusted=yes] http://mirror.example/a/debian bookworm main
deb [trusted=yes] http://mirror.example/a/debian bookworm-updates main
deb http://mirror.example/a/debian-security/ bookworm-security main
""",
    "sources": """Types: deb
# by hand
URIs: http://other.example/linux/debian
Suites: bookworm
Components: stable

Types: deb
Enabled: no
URIs: http://gone.example/debian
Suites: bookworm
Components: main

Types: deb deb-src
URIs: http://mirror.example/a/debian/
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/a/debian-security
Suites: bookworm-security
Components: main
""",
    "nothing": "",
}


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt reads its own sources")
@pytest.mark.parametrize("form", SOURCES)
def test_a_base_that_cannot_be_pulled_comes_from_where_this_machine_s_apt_takes_its_packages(
    source: Path, form: str
) -> None:
    (source / "etc/sources.list.d").mkdir(parents=True)
    (source / "etc/sources.list.d" / f"debian.{'list' if form == 'list' else 'sources'}").write_text(SOURCES[form])
    (source / "apt.conf").write_text(f'Dir::Etc "{source}/etc";')
    bootstrap = """echo "$*" > "$HOME/arguments"
mkdir -p "$3"/etc/apt "$3"/usr/share/doc
echo "deb ${4:-default} bookworm main" > "$3"/etc/apt/sources.list"""
    programs = {**NOTHING_TO_PULL, "id": "echo 0", "debootstrap": bootstrap}
    done = run_script(source, "docker/build.sh", "cpu", programs=programs, APT_CONFIG=str(source / "apt.conf"))
    assert done.returncode == 0, done.stderr
    arguments, found = (source / "arguments").read_text().split(), (source / "sources").read_text().splitlines()
    if form == "nothing":  # debootstrap knows Debian's own
        assert (arguments[-1], found) == (str(source / ".cache/dpdt/base-root"), ["deb default bookworm main"])
    else:
        assert arguments[-1] == "http://mirror.example/a/debian"
        assert found == [
            "deb http://mirror.example/a/debian bookworm main",
            "deb http://mirror.example/a/debian bookworm-updates main",
            "deb http://mirror.example/a/debian-security bookworm-security main",
        ]
