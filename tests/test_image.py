"""What the image is made from, and the tools that look into it. The image itself is tested by `make image-test`."""

import importlib.util
import io
import json
import re
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

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
