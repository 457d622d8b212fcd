"""Model bundles: what is in one, that every damage of one is seen, and that a model scores abroad as at home."""

import hashlib
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import safetensors
import safetensors.numpy
import torch
from typer.testing import CliRunner

from dpdt.base.files import read_json, write_json
from dpdt.base.vocabulary import LABELS
from dpdt.bundle import onnx as onnx_module
from dpdt.bundle import self_test
from dpdt.bundle.card import bundle_card, html_card, markdown_card
from dpdt.bundle.container import BLANK, MOST_HEADER, pack, unpack
from dpdt.bundle.export import export_run
from dpdt.bundle.manifest import Network
from dpdt.bundle.model import Bundle, checked_scorer, open_bundle, parse_bundle
from dpdt.bundle.onnx import onnx_bytes
from dpdt.bundle.signature import sign
from dpdt.cli import app
from dpdt.errors import BundleError
from dpdt.evaluation.evaluate import evaluate_run
from dpdt.privacy.statement import group_privacy, released
from dpdt.runs.read import Run, read_run
from dpdt.study import Study, load_study
from dpdt.training.networks.build import as_input, build_model
from dpdt.training.networks.weights import load_weights
from dpdt.training.stage import run as train_run
from tests.fuzz_bundle import fuzz
from tests.small_data import STUDY, write_domain

GIVEN = {"licence": "CC BY-NC 4.0", "intended_use": "research on made-up images"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A trained and tested study: uka with epsilon 8 and without DP."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "study.toml").write_text(STUDY)
    study = load_study(folder)
    for domain in study.domains:
        write_domain(study, domain, patients=40)
    train_run(study, str(study.pretrain_run_id))
    for cell in study.cells():
        train_run(study, study.run_id(cell))
        evaluate_run(study, study.run_id(cell))
    return study


@pytest.fixture(scope="module")
def runs(study: Study) -> dict[str, Run]:
    found = {"inf" if not cell.private else "8": read_run(study, study.run_id(cell)) for cell in study.cells()}
    return {name: run for name, run in found.items() if run}


@pytest.fixture(scope="module")
def bundle(study: Study, runs: dict[str, Run]) -> bytes:
    return export_run(study, runs["8"], **GIVEN)


def changed(data: bytes, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> bytes:
    """The bundle with another content and a right checksum, as an attacker would make it."""
    manifest, tensors = unpack(data, "bundle")
    change(manifest, tensors)
    return pack(manifest, tensors)


def test_the_weights_are_those_of_the_run_and_any_safetensors_reader_has_them(
    runs: dict[str, Run], bundle: bytes
) -> None:
    weights = torch.load(runs["8"].paths.weights, weights_only=True)
    found = safetensors.numpy.load(bundle)
    names = {name.removeprefix("weights.") for name in found if name.startswith("weights.")}
    assert names == set(weights)
    for name in names:
        assert np.array_equal(found[f"weights.{name}"], weights[name].numpy())


def test_the_same_run_gives_the_same_bytes_in_another_process(
    study: Study, runs: dict[str, Run], bundle: bytes
) -> None:
    code = (
        "import sys, hashlib; from dpdt.bundle.export import export_run; from dpdt.runs.read import read_run; "
        "from dpdt.study import load_study; s = load_study(sys.argv[1]); "
        f"print(hashlib.sha256(export_run(s, read_run(s, sys.argv[2]), **{GIVEN!r})).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(study.file), runs["8"].run_id], capture_output=True, text=True
    )
    assert done.stdout.strip() == hashlib.sha256(bundle).hexdigest(), done.stderr


def test_the_model_scores_abroad_as_at_home(study: Study, runs: dict[str, Run], bundle: bytes) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16), dtype=np.uint8)
    model = build_model(study.model)
    load_weights(model, runs["8"].paths.weights)
    with torch.inference_mode():
        home = torch.sigmoid(model.eval()(as_input(pixels))).numpy()
    abroad = checked_scorer(parse_bundle(bundle, "b"), "b", device="cpu")(pixels)
    assert np.abs(abroad - home).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "channels"), [("resnet9", 8, 1), ("convnext_tiny", 16, 3), ("vit_small", 16, 3)]
)
def test_onnx_gives_the_scores_of_torch(bundle: bytes, name: str, width: int, channels: int) -> None:
    opened = parse_bundle(bundle, "b")
    given = Network.model_validate({"name": name, "width": width, "in_channels": channels})
    torch.manual_seed(0)
    model = build_model(given.settings, size=32, num_outputs=5).eval()
    for parameter in model.parameters():  # so that scores are not all next to a half
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    weights = {key: value.numpy().astype(np.float32) for key, value in model.state_dict().items()}
    manifest = opened.manifest.model_copy(update={"network": given, "input": {**opened.manifest.input, "size": 32}})
    large = np.repeat(np.repeat(opened.pixels, 2, axis=1), 2, axis=2)
    data = onnx_bytes(replace(opened, manifest=manifest, weights=weights, pixels=large))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for images in (1, 7):
        pixels = np.random.default_rng(images).integers(0, 256, (images, 32, 32), dtype=np.uint8)
        with torch.inference_mode():
            expected = torch.sigmoid(model(torch.from_numpy(pixels).unsqueeze(1) / 255)).numpy()
        (scores,) = session.run(["scores"], {"pixels": pixels})
        assert scores.shape == (images, 5)
        assert np.abs(scores - expected).max() <= 1e-5
    assert expected.std(axis=0).max() > 0.01
    about = json.loads(session.get_modelmeta().custom_metadata_map["dpdt"])
    assert about["bundle_sha256"] == hashlib.sha256(bundle).hexdigest()
    assert (about["labels"], about["input"]) == (opened.manifest.labels, manifest.input)
    for path in (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), str(Path.home()), ".py"):
        assert path.encode() not in data  # the exporter notes the lines of code that it came by


def test_onnx_that_is_not_the_network_is_not_written(bundle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = onnx_module.scorer
    monkeypatch.setattr(onnx_module, "scorer", lambda *a, **k: lambda pixels: shifted(*a, **k)(pixels) + 2e-5)
    with pytest.raises(BundleError, match=r"--onnx: its scores of the self-test differ by 2[.0-9]*e-05 from torch's"):
        onnx_bytes(parse_bundle(bundle, "b"))


def test_the_command_writes_onnx_beside_the_bundle_or_says_what_to_install(
    study: Study, runs: dict[str, Run], bundle: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "home.dpdt"
    words = ["--licence", GIVEN["licence"], "--intended-use", GIVEN["intended_use"], "--output", str(file), "--onnx"]
    command = ["export", str(runs["8"].paths.folder), *words]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        failed = CliRunner().invoke(app, command)
    assert str(failed.exception).startswith("--onnx needs onnx, onnxscript and onnxruntime")
    assert "pip install 'dpdt[onnx]'" in str(failed.exception)
    assert not list(tmp_path.iterdir())
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert file.read_bytes() == bundle
    assert b"bundle_sha256" in (tmp_path / "home.onnx").read_bytes()


def test_nothing_of_a_patient_or_of_a_path_is_in_it(study: Study, bundle: bytes) -> None:
    manifest, tensors = unpack(bundle, "b")
    text = json.dumps(manifest)
    assert str(study.folder) not in text
    assert "raw/" not in text
    assert not any(f"uka-{n:04d}" in text for n in range(40))
    config = read_json(next(study.paths.runs.glob("uka-patient-eps8*/config.json")))
    assert manifest["provenance"]["hashes"] == {key: config["data"][key] for key in manifest["provenance"]["hashes"]}
    assert set(manifest["provenance"]["hashes"]) == {"split_hmac", "labels_hmac", "manifest_hmac", "key_id"}
    assert '"images"' not in text  # the count of train images in config.json
    assert "loss" not in text.replace("training loss over steps", "").replace("exact losses", "").replace("loss ", "")
    # 40 patients, of whom 8 are in test: all that the statement itself publishes
    assert manifest["statement"]["num_units"] == 32
    assert {name.split(".")[0] for name in tensors} == {"weights", "test"}


def test_plain_hashes_of_an_older_run_stay_at_home(study: Study, runs: dict[str, Run]) -> None:
    data = {"split_sha256": "a" * 64, "units": 3}
    older = Run(runs["8"].paths, {**runs["8"].config, "data": data}, runs["8"].state)
    manifest, _ = unpack(export_run(study, older, **GIVEN), "b")
    assert manifest["provenance"]["hashes"] == {}


def test_a_run_without_privacy_needs_a_word(study: Study, runs: dict[str, Run]) -> None:
    with pytest.raises(BundleError, match=r"may reveal single patients.*--without-privacy"):
        export_run(study, runs["inf"], **GIVEN)
    manifest, _ = unpack(export_run(study, runs["inf"], **GIVEN, without_privacy=True), "b")
    assert manifest["target_epsilon"] is None


@pytest.mark.parametrize("epsilon", ["8", "inf"])
def test_the_statement_in_a_bundle_has_the_hospital_s_name_for_others(
    study: Study, runs: dict[str, Run], epsilon: str
) -> None:
    own, told = (
        unpack(export_run(study, runs[epsilon], **GIVEN, site=site, without_privacy=True), "b")[0]["statement"]
        for site in (None, "st_mary")
    )
    assert (own["domain"], told["domain"]) == (runs[epsilon].domain, "st_mary")
    assert own["paragraph"].count(own["domain"]) == 1
    assert told["paragraph"] == own["paragraph"].replace(own["domain"], "st_mary")
    assert {key for key in own if own[key] != told[key]} == {"domain", "paragraph"}


def test_noise_from_a_seed_counts_as_no_privacy(study: Study, runs: dict[str, Run], tmp_path: Path) -> None:
    copy = type(runs["8"].paths)(tmp_path / runs["8"].run_id)
    write_json(copy.privacy, {**read_json(runs["8"].paths.privacy), "randomness": "seeded"})
    with pytest.raises(BundleError, match="noise from a seed"):
        export_run(study, Run(copy, runs["8"].config, runs["8"].state), **GIVEN)


def test_an_unfinished_run_and_ones_own_network_are_refused(study: Study, runs: dict[str, Run]) -> None:
    run = runs["8"]
    with pytest.raises(BundleError, match="its training is interrupted"):
        export_run(study, Run(run.paths, run.config, {"status": "interrupted"}), **GIVEN)
    settings = {**run.config["settings"], "model": {**run.config["settings"]["model"], "name": "nets:small"}}
    with pytest.raises(BundleError, match=r"your own code \(nets:small\), and a bundle carries no code"):
        export_run(study, Run(run.paths, {**run.config, "settings": settings}, run.state), **GIVEN)


def test_a_threshold_is_rounded_and_stays_at_home_where_few_patients_stand_behind_it(
    study: Study, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("cardiomegaly", 0.123456789, 80, 40), ("pneumonia", 0.3, 80, 18), ("healthy", 0.4, 80, 62)]
    table = pd.DataFrame(rows, columns=["label", "value", "n", "n_positive"]).assign(metric="threshold")
    monkeypatch.setattr(Run, "metrics", lambda _: table)
    patients = np.arange(40).repeat(2)  # of two images each, so 9 patients are 18 images
    val = pd.DataFrame({"patient_id": patients, "split": "val", "cardiomegaly": patients % 2})
    val = val.assign(pneumonia=(patients < 9).astype(int), healthy=(patients >= 9).astype(int))
    train = val.assign(split="train", patient_id=val["patient_id"] + 100)
    monkeypatch.setattr("dpdt.bundle.export.used_images", lambda *_: pd.concat([val, train]))
    manifest, _ = unpack(export_run(study, runs["8"], **GIVEN), "b")
    assert manifest["thresholds"] == {**dict.fromkeys(LABELS), "cardiomegaly": 0.123}
    manifest, _ = unpack(export_run(study, runs["8"], **GIVEN, with_thresholds=False), "b")
    assert manifest["thresholds"] == dict.fromkeys(LABELS)


def test_a_patients_exact_number_of_images_is_rounded_up() -> None:
    statement = {
        "unit": "image", "num_units": 100, "domain": "a", "epsilon": 0.5, "delta": 1e-6, "complete": True,
        "randomness": "cryptographic", "initial_weights": "random", "selection": {"runs": 1},
        "patient_bound": {"images_of_the_patient_with_most": 5, "epsilon": 2.5, "delta": 1e-5},
        "paragraph": "the patient with most images (5)",
    }  # fmt: skip
    found = released(statement)
    assert (found["patient_bound"]["epsilon"], found["patient_bound"]["delta"]) == group_privacy(
        epsilon=0.5, delta=1e-6, size=8
    )
    assert "(at most 8)" in found["paragraph"]
    assert "5)" not in found["paragraph"]
    assert statement["patient_bound"]["images_of_the_patient_with_most"] == 5


def test_every_changed_byte_is_seen(bundle: bytes) -> None:
    header = struct.unpack("<Q", bundle[:8])[0]
    places = [*range(12), *np.random.default_rng(0).integers(8, 8 + header, 150), *range(header, header + 16)]
    places += [*np.random.default_rng(1).integers(8 + header, len(bundle), 50), len(bundle) - 1]
    for place in places:
        for bit in (0, 7):
            damaged = bytearray(bundle)
            damaged[place] ^= 1 << bit
            with pytest.raises(BundleError, match=r"damaged|not a model bundle|no checksum|changed"):
                parse_bundle(bytes(damaged), "b")


def test_every_cut_and_every_addition_is_seen(bundle: bytes) -> None:
    for length in (0, 1, 7, 8, 9, 100, 5000, len(bundle) // 2, len(bundle) - 1):
        with pytest.raises(BundleError, match=r"damaged|not a model bundle"):
            parse_bundle(bundle[:length], "b")
    with pytest.raises(BundleError, match="damaged"):
        parse_bundle(bundle + b"\0", "b")


def test_a_newer_format_asks_for_a_newer_dpdt(bundle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpdt.bundle.container.FORMAT", 2)
    newer = changed_format(bundle)
    monkeypatch.undo()
    with pytest.raises(BundleError, match=r"of format 2, and this dpdt reads formats up to 1. Install a newer dpdt"):
        parse_bundle(newer, "b")


def changed_format(data: bytes) -> bytes:
    """The bundle as a dpdt of the next format writes it, with a key that this one does not know."""
    blank = data.replace(
        json.loads(json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]["dpdt"])[
            "sha256"
        ].encode(),
        BLANK.encode(),
    )
    blank = blank.replace(b'\\"format\\":1', b'\\"format\\":2')
    return blank.replace(BLANK.encode(), hashlib.sha256(blank).hexdigest().encode())


def _set(path: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(manifest: dict[str, Any], _: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        part: Any = manifest
        for name in parents:
            part = part[name]
        part[last] = value

    return change


def _nan_weights(_: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["weights.fc.bias"] = np.full(5, np.nan, np.float32)


def _fewer_weights(_: dict[str, Any], tensors: dict[str, Any]) -> None:
    del tensors["weights.fc.bias"]


def _path_as_a_name(_: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["../../etc/passwd"] = np.zeros(1, np.uint8)


def _whole_numbers(_: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["weights.fc.bias"] = np.zeros(5, np.uint8)


def _no_self_test(_: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["test.0.pixels"] = np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nan_weights, "'fc.bias' is not all finite"),
        (_whole_numbers, "'fc.bias' is not all finite float32"),
        (_fewer_weights, "weight 'fc.bias' is not one of a resnet9 of width 8"),
        (_path_as_a_name, "the tensor '../../etc/passwd' is missing or unknown"),
        (_no_self_test, "its self-test is not one image of 16x16"),
        (_set("network.name", "os:system"), "network.name: Input should be 'resnet9', .*, found 'os:system'"),
        (_set("network.width", 10**9), "network.width: Input should be less than or equal to 1024"),
        (_set("network.width", 16), "is not one of a resnet9 of width 16"),
        (_set("input.size", 10**9), "size.*less than or equal to 4096"),
        (_set("input.size", 4096), "which would fill the memory"),
        (_set("seed", 10**30), "seed: Input should be less than or equal to"),
        (_set("site", "before"), "a word of dpdt's own tables"),
        (_set("provenance.versions", {"a b/../*": "1"}), "provenance.versions"),
        (_set("statement.epsilon", None), "not that of the target epsilon"),
        (_set("input.recipe", "other"), "recipe"),
        (_set("input.new_setting", 1), "new_setting"),
        (_set("labels", ["a", "b"]), "not those of the labels"),
        (_set("labels", ["../../x"] * 5), "labels.0"),
        (_set("site", "../../x"), "site"),
        (_set("target_epsilon", None), "not that of the target epsilon"),
        (_set("statement", {"mechanism": "DP"}), "unit: Field required"),
        (_set("statement.other_releases", ["x"]), "other_releases.0"),
        (_set("statement.epsilon", "1"), "epsilon"),
        (_set("hooks", "import os"), "hooks: Extra inputs are not permitted"),
        (_set("thresholds.healthy", 7.5), "thresholds.healthy"),
    ],
)  # fmt: skip
def test_bad_content_with_a_right_checksum_is_one_clear_line(bundle: bytes, change: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message) as found:
        parse_bundle(changed(bundle, change), "b")
    assert "\n" not in str(found.value)


def test_a_header_longer_than_the_file_or_the_limit_allocates_nothing(bundle: bytes) -> None:
    for length in (MOST_HEADER + 1, 10**9, 2**64 - 1):
        with pytest.raises(BundleError, match="damaged: a header of"):
            parse_bundle(struct.pack("<Q", length) + bundle[8:], "b")


def test_a_tensor_of_10_to_the_9_is_refused_before_it_is_made(bundle: bytes) -> None:
    assert b'"shape":[5]' in bundle
    grown = bundle.replace(b'"shape":[5]', b'"shape":[1000000000]')
    added = len(grown) - len(bundle)
    length = struct.unpack("<Q", bundle[:8])[0] + added
    digest = json.loads(json.loads(bundle[8 : 8 + length - added])["__metadata__"]["dpdt"])["sha256"].encode()
    blank = (struct.pack("<Q", length) + grown[8:]).replace(digest, BLANK.encode())
    with pytest.raises(BundleError, match="its tensors are not as safetensors has them"):
        parse_bundle(blank.replace(BLANK.encode(), hashlib.sha256(blank).hexdigest().encode()), "b")


def test_json_that_two_readers_could_read_differently_is_refused() -> None:
    for text in (
        '{"__metadata__":{"dpdt":"{}"},"__metadata__":{}}',
        '{"a":NaN}',
        "[" * 100_000,
        '{"__metadata__":{"dpdt":3}}',
    ):
        data = text.encode()
        with pytest.raises(BundleError, match="not a model bundle"):
            parse_bundle(struct.pack("<Q", len(data)) + data, "b")


def test_a_pickle_and_a_zip_are_no_bundles(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "weights.pt")
    with pytest.raises(BundleError, match="not a model bundle"):
        open_bundle(tmp_path / "weights.pt")
    with pytest.raises(BundleError, match="not a file"):
        open_bundle(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="not a file"):
        open_bundle(tmp_path / "pipe")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(tmp_path / "missing")


def test_wrong_preprocessing_fails_the_self_test(bundle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = parse_bundle(bundle, "b")
    checked_scorer(opened, "b")
    real = self_test.process_images

    def inverted(paths: Any, out: Any, **options: Any) -> Any:
        outcomes = real(paths, out, **options)
        out[:] = 255 - out
        return outcomes

    monkeypatch.setattr(self_test, "process_images", inverted)
    with pytest.raises(BundleError, match="self-test: preprocessing of its made-up image"):
        checked_scorer(opened, "b")


@pytest.mark.parametrize("setting", [{"recipe": "paper"}, {"equalise": False}, {"aspect": "pad"}, {"voi_window": True}])
def test_each_setting_of_the_preprocessing_shows_in_the_self_test(bundle: bytes, setting: dict[str, Any]) -> None:
    def other(manifest: dict[str, Any], _: dict[str, Any]) -> None:
        manifest["input"] |= setting

    with pytest.raises(BundleError, match="self-test: preprocessing"):
        checked_scorer(parse_bundle(changed(bundle, other), "b"), "b")


def test_another_torch_fails_the_self_test(bundle: bytes) -> None:
    def other(_: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["weights.fc.weight"] = tensors["weights.fc.weight"] * np.float32(3)

    with pytest.raises(BundleError, match=r"self-test: the network's scores.*torch"):
        checked_scorer(parse_bundle(changed(bundle, other), "b"), "b", device="cpu")


def test_the_card_says_what_counts_and_escapes_what_was_sent(bundle: bytes) -> None:
    def attack(manifest: dict[str, Any], _: dict[str, Any]) -> None:
        manifest["licence"] = "<script>alert(1)</script>\x1b[2J ![x](http://track.example/me.png)"
        manifest["statement"]["accountant"] = "pld | <img src=x onerror=alert(1)> |"

    opened: Bundle = parse_bundle(changed(bundle, attack), "b")
    html, markdown = html_card(bundle_card(opened)), markdown_card(bundle_card(opened))
    assert "<script" not in html + markdown
    assert "<img" not in html + markdown
    assert "![x]" not in markdown  # a viewer of Markdown would fetch it
    assert all(line.count("|") in (0, 3) for line in markdown.splitlines())
    assert "\x1b" not in html + markdown
    for text in (html, markdown):
        assert "Not a medical device" in text
        assert opened.manifest.statement["paragraph"][:60] in text
        assert opened.sha256 in text


def test_what_a_bundle_says_cannot_speak_to_the_terminal(bundle: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.dpdt").write_bytes(changed(bundle, _set("\x1b[2J\nSigned by the ministry" + "x" * 10**5, 1)))
    done = subprocess.run(
        [sys.executable, "-m", "dpdt", "card", str(tmp_path / "b.dpdt")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 1000


STATEMENT = ("num_units", "sample_rate", "accounted_noise_multiplier", "noise_multiplier", "max_grad_norm", "num_steps")


@pytest.mark.parametrize("key", [*STATEMENT, "epsilon", "delta", "accountant", "randomness", "paragraph", "complete"])
@pytest.mark.parametrize("value", [[1], {"a": 1}, -1, True, 10**400, {"x": {"y": [[[]]]}}], ids=str)
def test_a_statement_of_odd_values_is_refused_and_not_shown(bundle: bytes, key: str, value: Any) -> None:
    if (key, value) == ("complete", True):
        return
    with pytest.raises(BundleError, match=r"b: bundle: |b: ") as found:
        parse_bundle(changed(bundle, _set(f"statement.{key}", value)), "b")
    assert "\n" not in str(found.value)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH")
def test_signatures_count_only_from_trusted_keys_and_over_these_bytes(bundle: bytes, tmp_path: Path) -> None:
    file, signers = tmp_path / "model.dpdt", tmp_path / "signers"
    file.write_bytes(bundle)
    keys = {}
    for name in ("ours", "theirs"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
        keys[name] = (tmp_path / f"{name}.pub").read_text()
    signers.write_text(f"st_mary {keys['theirs']}")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(file, signers=signers)
    sign(file, tmp_path / "theirs")
    assert open_bundle(file, signers=signers).signer == "st_mary"
    signers.write_text(f"us {keys['ours']}")
    with pytest.raises(BundleError, match=r"not a signature of model.dpdt by a key in"):
        open_bundle(file, signers=signers)
    signers.write_text(f"st_mary {keys['theirs']}")
    file.write_bytes(changed(bundle, _set("licence", "another")))
    with pytest.raises(BundleError, match=r"not a signature of model.dpdt"):
        open_bundle(file, signers=signers)
    (tmp_path / "model.dpdt.sig").write_text("no signature")
    with pytest.raises(BundleError, match="not a signature"):
        open_bundle(file, signers=signers)


def test_the_commands_write_a_file_for_its_owner_alone(study: Study, runs: dict[str, Run], tmp_path: Path) -> None:
    file = tmp_path / "model.dpdt"
    arguments = [
        "export",
        str(runs["8"].paths.folder),
        "--output",
        str(file),
        "--licence",
        "MIT",
        "--intended-use",
        "tests",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    done = CliRunner().invoke(app, ["card", str(file), "--output", str(tmp_path / "card")])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "card").iterdir()} == {"card.md", "card.html"}


def test_a_run_that_was_trained_with_set_is_exported_with_it(
    study: Study, runs: dict[str, Run], bundle: bytes, tmp_path: Path
) -> None:
    file, text = tmp_path / "model.dpdt", study.file.read_text()
    words = ["--licence", GIVEN["licence"], "--intended-use", GIVEN["intended_use"], "--output", str(file)]
    command = ["export", str(runs["8"].paths.folder), *words]
    study.file.write_text(text.replace("learning_rate = 1e-3", "learning_rate = 2e-3"))
    try:
        refused = CliRunner().invoke(app, command)
        done = CliRunner().invoke(app, [*command, "--set", "train.learning_rate=1e-3"])
    finally:
        study.file.write_text(text)
    assert "or --set gave some of them (give them here too)" in str(refused.exception)
    assert done.exit_code == 0, done.output
    assert file.read_bytes() == bundle


def test_a_thousand_damaged_bundles_are_refused_or_whole() -> None:
    outcomes = fuzz(1000, seed=1)
    assert sum(outcomes.values()) == 1000
    assert outcomes["wrong_bytes: a bundle"] == 0
    assert outcomes["strange_values: refused"] > 200
