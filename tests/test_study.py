"""The study file: what it accepts, what it says when it does not, and what its fingerprints depend on."""

import math
from pathlib import Path

import pytest

from dpdt.errors import StudyError
from dpdt.study import Study, format_epsilon, load_study

MINIMAL = """
[domains.vindr]
root = "raw/vindr"
[domains.chestxray14]
root = "raw/chestxray14"
[domains.mimic]
root = "raw/mimic"
"""


def study(folder: Path, text: str = MINIMAL) -> Study:
    file = folder / "study.toml"
    file.write_text(text)
    return load_study(file)


def test_every_key_has_a_default_that_works(tmp_path: Path) -> None:
    loaded = study(tmp_path)
    assert loaded.train_domains == ("vindr", "chestxray14")
    assert loaded.test_domains == loaded.train_domains
    assert loaded.public_domain == "mimic"
    assert loaded.folder == tmp_path.resolve()
    assert loaded.root("vindr") == tmp_path.resolve() / "raw/vindr"
    assert [cell.target_epsilon for cell in loaded.cells()] == [1.0, 8.0, math.inf] * 2


def test_a_folder_stands_for_its_study_toml(tmp_path: Path) -> None:
    study(tmp_path)
    assert load_study(tmp_path).file == (tmp_path / "study.toml").resolve()


def test_preset_paper_has_the_published_values(tmp_path: Path) -> None:
    # Radiology: AI 2024, 6(1):e230212, methods: 512×512, NAdam 2e-4, batch 128, clip 1.5, delta 6e-6, images as unit.
    loaded = study(tmp_path, '[study]\npreset = "paper"\n' + MINIMAL)
    assert (loaded.shards.size, loaded.shards.recipe, loaded.shards.equalise) == (512, "paper", True)
    assert (loaded.train.learning_rate, loaded.train.expected_batch_size, loaded.train.num_epochs) == (2e-4, 128, 80)
    assert (loaded.privacy.max_grad_norm, loaded.privacy.delta, loaded.privacy.unit) == (1.5, 6e-6, "image")
    assert (loaded.model.width, loaded.model.in_channels) == (64, 3)


def test_a_key_in_the_file_wins_over_the_preset(tmp_path: Path) -> None:
    loaded = study(tmp_path, '[study]\npreset = "paper"\n[train]\nnum_epochs = 2\n' + MINIMAL)
    assert loaded.train.num_epochs == 2
    assert loaded.train.expected_batch_size == 128


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nlearning_rte = 1", r"train\.learning_rte: unknown key\. Did you mean 'learning_rate'\?"),
        ("[trian]", r"trian: unknown key\. Did you mean 'train'\? Valid keys: study, domains"),
        ('[train]\nlearning_rate = "2e-4"', r"train\.learning_rate: expected a number, got '2e-4' \(text\)\. Remove"),
        ("[privacy]\ndelta = 2.0", r"privacy\.delta: expected a number less than 1, got 2\.0"),
        ("[privacy]\nmax_grad_norm = inf", r"privacy\.max_grad_norm: expected a finite number, got inf"),
        ("[train]\nnum_epochs = inf", r"train\.num_epochs: expected a finite number, got inf"),
        ("[privacy]\ntarget_epsilons = [0]", r"target_epsilons: expected positive numbers"),
        ("[privacy]\ntarget_epsilons = [nan]", r"target_epsilons: expected positive numbers"),
        ("[privacy]\ntarget_epsilons = [1, 1.0]", r"target_epsilons: a value occurs twice"),
        ("[train]\nseeds = [0, 1, 0]", r"train\.seeds: a value occurs twice in \[0, 1, 0\]"),
        ('[train]\ndomains = ["vindr", "vindr"]', r"train\.domains: a value occurs twice"),
        ('[evaluate]\ndomains = ["vindr", "vindr"]', r"evaluate\.domains: a value occurs twice"),
        ('[privacy]\naccountant = "gdp"', r"privacy\.accountant: expected 'pld', 'prv' or 'rdp', got 'gdp'"),
        ("[train]\nclass_weights = [1, 2]", r"class_weights: expected 5 numbers .*, got 2"),
        ('[train]\nclass_weights = "balanced"', r"train\.class_weights: expected 'none', 'public' or 'private'"),
        (
            '[train]\ndomains = ["nowhere"]',
            r"train\.domains: the study has no \[domains\.nowhere\]; its domains: vindr, chestxray14, mimic",
        ),
        ('[domains.hospital]\nroot = "x"', r"domains\.hospital: add kind = one of vindr"),
        ("[domains.uka]", r"domains\.uka\.root: missing\. Add it"),
        ('[domains.uka]\nroot = "$DPDT_NOT_SET/x"', r"the environment variable in '\$DPDT_NOT_SET/x' is not set"),
        ('[domains."../x"]\nroot = "x"\nkind = "uka"', r"use letters, digits and _ only"),
        ('[train]\ndomains = ["mimic"]', r"train\.domains: mimic, is pretrained on without DP"),
        (
            '[domains.twin]\nkind = "mimic"\nroot = "raw/mimic"\nrole = "study"',
            r"train\.domains: twin, which has the same data as mimic, is pretrained on without DP",
        ),
        ('[domains.uka]\nroot = "x"\nrole = "public"', r"only one may have role public, got uka, mimic"),
        ("[shards]\nsize = 1e30", r"shards\.size: expected a whole number, got 1e\+30\."),
        ("[model]\nwidth = 9", r"model\.width: expected a multiple of 8, got 9\."),
        ("[audit]\ncanaries = 1048576", r"audit\.canaries: expected a number less than 1048576, got 1048576\."),
        (
            '[domains.own]\nkind = "table"\nroot = "x"\n[domains.own.table]\nfile = "x"\nimage = ""',
            r"domains\.own\.table\.image: expected text of length 1 or more, got ''\.",
        ),
        ("[shards]\nsize = 0", r"shards\.size: expected a number greater than or equal to 8, got 0"),
        (
            "[[train]]",
            r"train: expected a table, got \[\{\}\]\. Write \[train\] and, in the lines below it, its keys\.",
        ),
        ("[domains.uka]\nroot = 5", r"study\.toml:2: domains\.uka\.root: expected text in quotes, got 5\."),
        ("[study]\nname = 5", r"study\.toml:2: study\.name: expected text in quotes, got 5\."),
        ("[train]\nseeds = []", r"study\.toml:2: train\.seeds: expected at least one value, got \[\]\."),
        ("[privacy]\ntarget_epsilons = []", r"target_epsilons: expected at least one value, got \[\]\."),
        ("[privacy]\ntarget_epsilons = 8.0", r"expected a list, got 8\.0\. Write target_epsilons = \[8\.0\]\."),
        ('[train]\ndomains = "uka"', r"expected a list, got 'uka'\. Write domains = \[\"uka\"\]\."),
        (
            '[domains]\nuka = "data"',
            r"study\.toml:2: domains\.uka: expected a table, got 'data'\. "
            r'Write \[domains\.uka\] and, in the lines below it, root = "data"\.',
        ),
        (
            '[study]\nprivate_files = "yes"',
            r"study\.toml:2: study\.private_files: expected true or false, without quotes, got 'yes'\.",
        ),
        ('[shards]\nequalise = "false"', r"shards\.equalise: expected true or false, without quotes, got 'false'\."),
        ("[privacy]\nallow_large_delta = 1", r"allow_large_delta: expected true or false, without quotes, got 1\."),
        ("file = 1", r"study\.toml:1: file: unknown key\. Valid keys: study"),
    ],
)
def test_a_mistake_gets_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        study(tmp_path, f"{text}\n{MINIMAL}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere\.toml: no such study file"):
        load_study(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study = = 1", r"line 1.*\. Strings need quotes, a key needs `= value`\."),
        ("[train]\nnum_epochs = 1\nnum_epochs = 2\n[model]", r"line 3.*the key 'num_epochs' occurs a second time"),
        ("[train]\n[model]\n[train]\nnum_epochs = 2", r"line 3.*the table \[train\] occurs a second time: leave one\."),
        ("[model]\noptions = { a = 1, a = 2 }", r"line 2.*a key or table occurs a second time: leave one\."),
        ("a = 1\na = 2", r"at end of document.*a key or table occurs a second time: leave one\."),
        ("[study]\nname = “demo”", r'line 2.*\. Strings need straight quotes: "…"\.'),
        ("[study]\nname = demo # “quoted”", r"line 2.*\. Strings need quotes"),
        ('[domains.uka]\nroot = "C:\\Users\\me"', r"line 2.*\. A backslash needs single quotes: '…' instead of"),
        ('[domains.uka]\nroot = "D:\\data"', r"line 2.*\. A backslash needs single quotes"),
        ("[study]\nprivate_files = True", r"line 2.*\. Write true or false in small letters\."),
    ],
)
def test_text_that_is_not_toml_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=rf"study\.toml: not valid TOML: .*{message}"):
        load_study(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            '[study]\nname = "Köln"\n'.encode("latin-1"),
            r"study\.toml:2: not UTF-8 text: byte 0xf6 \('ö' in Latin-1\)\. Expected UTF-8: save the file as UTF-8\.",
        ),
        (MINIMAL.encode("utf-16"), r"study\.toml: UTF-16 text\. Expected UTF-8: save the file as UTF-8\."),
        (b"\x89PNG\r\n\0", r"study\.toml: not UTF-8 text \(byte 0\)\. Expected a TOML file; is it the right one\?"),
    ],
)
def test_bytes_that_are_not_utf_8_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "study.toml").write_bytes(data)
    with pytest.raises(StudyError, match=message):
        load_study(tmp_path)


def test_a_byte_order_mark_is_no_mistake_and_shifts_no_line(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(f"[study]\nseed = 3\n{MINIMAL}", encoding="utf-8-sig")
    assert load_study(tmp_path).study.seed == 3
    (tmp_path / "study.toml").write_text(f"[study]\nseed = -1\n{MINIMAL}", encoding="utf-8-sig")
    with pytest.raises(StudyError, match=r"study\.toml:2: study\.seed: "):
        load_study(tmp_path)


@pytest.mark.parametrize("text", ["", "# nothing yet", "[train]\nnum_epochs = 1"])
def test_a_study_of_no_domain_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StudyError, match=r"study\.toml: the study has no domain\. Add one as \[domains\.<name>\]"):
        study(tmp_path, text)


def test_speed_settings_change_no_fingerprint(tmp_path: Path) -> None:
    slow = study(tmp_path)
    fast = study(
        tmp_path,
        '[shards]\nnum_threads = 1\n[train]\nphysical_batch_size = 7\nnum_threads = 3\ndevice = "cpu"\n' + MINIMAL,
    )
    assert slow.shards_fingerprint("vindr") == fast.shards_fingerprint("vindr")
    assert [slow.run_id(c) for c in slow.cells()] == [fast.run_id(c) for c in fast.cells()]
    assert slow.pretrain_run_id == fast.pretrain_run_id


@pytest.mark.parametrize(
    "change",
    [
        "[train]\nlearning_rate = 1e-3",
        "[privacy]\nmax_grad_norm = 1.0",
        "[model]\nwidth = 32",
        "[shards]\nsize = 256",
        "[study]\nseed = 1",
        "[pretrain]\nnum_epochs = 1",
        '[train]\nprecision = "bf16"\n[model]\nwidth = 64',
        '[privacy]\nclipping = "hooks"',
    ],
)
def test_settings_that_change_the_result_change_the_run_id(tmp_path: Path, change: str) -> None:
    before = study(tmp_path)
    after = study(tmp_path, f"{change}\n{MINIMAL}")
    cell = before.cells()[0]
    assert before.run_id(cell) != after.run_id(cell)


def test_another_privacy_unit_is_another_pretraining(tmp_path: Path) -> None:
    # A step of the pretraining draws units too: patients' images in turn, or each image for itself.
    by_patient = study(tmp_path)
    by_image = study(tmp_path, '[privacy]\nunit = "image"\n' + MINIMAL)
    assert by_patient.pretrain_run_id is not None
    assert by_patient.pretrain_run_id != by_image.pretrain_run_id


def test_privacy_settings_leave_the_arm_without_dp_alone(tmp_path: Path) -> None:
    before = study(tmp_path)
    after = study(tmp_path, "[privacy]\nmax_grad_norm = 1.0\n" + MINIMAL)
    cell = next(c for c in before.cells() if not c.private)
    assert before.run_id(cell) == after.run_id(cell)


def test_epsilon_is_written_shortly() -> None:
    assert [format_epsilon(e) for e in (1.0, 0.5, 10.0, math.inf)] == ["1", "0.5", "10", "inf"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('unit = "image"', "images_per_patient: 3 needs unit = 'patient'"),
        ('clipping = "ghost"', "images_per_patient: 3 needs clipping = 'bookkeeping' or 'hooks'"),
    ],
)
def test_several_images_a_patient_need_the_patient_as_unit_and_not_ghost(
    tmp_path: Path, lines: str, message: str
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(f"[privacy]\nimages_per_patient = 3\n{lines}\n")
    with pytest.raises(StudyError, match=message):
        load_study(file)


def test_bf16_with_ghost_clipping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"train\.precision: bf16 breaks ghost clipping's bound"):
        study(tmp_path, '[train]\nprecision = "bf16"\n[privacy]\nclipping = "ghost"\n' + MINIMAL)


def test_the_arm_without_dp_keeps_its_run_id_and_hooks_keep_theirs(tmp_path: Path) -> None:
    # Names from the version before: trainings that are done are not done again.
    names = {cell[:2]: study(tmp_path).run_id(cell) for cell in study(tmp_path).cells()}
    assert names["vindr", math.inf] == "vindr-patient-epsinf-seed0-da2fef19"
    assert study(tmp_path).pretrain_run_id == "pretrain-mimic-5868a0ca"
    hooks = study(tmp_path, '[privacy]\nclipping = "hooks"\n' + MINIMAL)  # the default before
    assert hooks.run_id(hooks.cells()[0]) == "vindr-patient-eps1-seed0-6eec4f3f"


@pytest.mark.parametrize("value", ["0", '"7"', '"all"', "1.5", "true"])
def test_a_physical_batch_is_a_number_or_auto(tmp_path: Path, value: str) -> None:
    with pytest.raises(
        StudyError, match=r"train\.physical_batch_size: expected a whole number of at least 1, or 'auto'"
    ):
        study(tmp_path, f"[train]\nphysical_batch_size = {value}\n" + MINIMAL)
    assert study(tmp_path, '[train]\nphysical_batch_size = "auto"\n' + MINIMAL).train.images_at_once == 32
