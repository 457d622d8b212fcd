"""What runs record about private data: under a key, which stays beside that data."""

import hashlib
import hmac
import itertools
import json
import math
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpdt.base.files import read_json, write_json
from dpdt.base.vocabulary import LABELS
from dpdt.cohort.data_hashes import data_key, recorded_hashes
from dpdt.cohort.table import labels_sha256, read_cohort, read_record
from dpdt.errors import CohortError, DpdtError
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study
from dpdt.training.train import pretrain, train
from tests.small_data import MakeStudy, StopAfter

DP = Cell("uka", 8.0, 0)
PLAIN = {"split_sha256": "5" * 64, "labels_sha256": "a" * 64}


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    return make_study()


def made_key(study: Study) -> str:
    return data_key(study).key_id


def test_the_hash_is_hmac_sha256_of_the_plain_one(study: Study) -> None:
    # Python's own hmac (RFC 2104) with the file's key.
    found = recorded_hashes(study, PLAIN, frozen=None)
    key = bytes.fromhex(study.paths.data_key.read_text())
    expected = hmac.new(key, b"split_sha256:" + b"5" * 64, hashlib.sha256).hexdigest()
    assert found["split_hmac"] == expected
    assert set(found) == {"key_id", "split_hmac", "labels_hmac"}
    assert found == recorded_hashes(study, PLAIN, frozen=found)


def test_the_key_is_random_and_nobody_else_can_read_it(study: Study, make_study: MakeStudy) -> None:
    data_key(study)
    assert stat.S_IMODE(study.paths.data_key.stat().st_mode) == 0o600
    first = study.paths.data_key.read_text()
    study.paths.data_key.unlink()
    data_key(study)
    assert study.paths.data_key.read_text() != first


def test_processes_that_make_the_key_at_once_have_one(study: Study) -> None:
    with ProcessPoolExecutor(8) as pool:
        assert len(set(pool.map(made_key, [study] * 32))) == 1


def test_a_lost_key_is_no_reason_for_a_new_one_and_the_message_says_the_way_out(study: Study) -> None:
    pretrain(study)
    train(study, DP, stop=StopAfter(3))
    config = study.paths.run(study.run_id(DP)).config
    kept = study.paths.data_key.read_text()
    study.paths.data_key.unlink()
    for _ in range(2):
        with pytest.raises(
            CohortError, match=r"data\.key: missing, but .* Restore it from a backup\. If there is none"
        ):
            train(study, DP, stop=StopAfter(3))
    study.paths.data_key.write_text(kept[::-1].strip())
    with pytest.raises(CohortError, match=r"not the key that this run's data was hashed with.*Restore it"):
        train(study, DP, stop=StopAfter(3))
    study.paths.data_key.write_text("no key")
    with pytest.raises(CohortError, match=r"no key \(expected 64 hexadecimal digits\)"):
        train(study, DP, stop=StopAfter(3))
    # the way out
    study.paths.data_key.unlink()
    for file in study.paths.runs.glob("*/config.json"):
        found = read_json(file)
        del found["data"]["key_id"]
        write_json(file, found)
    assert train(study, DP).status == "finished"
    assert "key_id" not in read_json(config)["data"]


def test_nobody_without_the_key_can_try_a_patient_s_labels(study: Study) -> None:
    # The attack on the plain hash: all labels but one patient's are known, and few combinations are left.
    pretrain(study)
    train(study, DP)
    cohort = read_cohort(study, "uka")
    row = cohort.index[cohort["split"] == "train"][0]
    true = labels_sha256(cohort, "train")
    tried = []
    for labels in itertools.product((0, 1, pd.NA), repeat=len(LABELS)):
        guess = cohort.copy()
        for name, value in zip(LABELS, labels, strict=True):
            guess.loc[row, name] = value
        tried.append(labels_sha256(guess, "train"))
    assert true in tried  # it works on the plain hash
    folder = study.paths.run(study.run_id(DP)).folder
    hidden = {*tried, read_record(study, "uka")["split_sha256"], load_split(study, "uka", "train").manifest_sha256}
    written = [file for file in folder.rglob("*") if file.is_file()]
    assert len(written) > 5
    for file in written:
        content = file.read_bytes()
        assert not any(value.encode() in content for value in hidden), file


def make_plain(study: Study, cell: Cell) -> None:
    """A config as it was before hashes had a key."""
    paths, data = study.paths.run(study.run_id(cell)), load_split(study, "uka", "train")
    config = read_json(paths.config)
    plain = {name: getattr(data, name) for name in ("split_sha256", "labels_sha256", "manifest_sha256")}
    rest = {name: config["data"][name] for name in ("units", "images")}
    write_json(paths.config, {**config, "data": {**plain, **rest}})


def test_a_run_begun_with_plain_hashes_goes_on_and_its_statement_names_them(study: Study) -> None:
    pretrain(study)
    train(study, DP, stop=StopAfter(3))
    make_plain(study, DP)
    paths = study.paths.run(study.run_id(DP))
    before = paths.config.read_bytes()
    assert train(study, DP).status == "finished"
    assert paths.config.read_bytes() == before
    released = [entry["what"] for entry in read_json(paths.privacy)["other_releases"]]
    assert sum(what.startswith("SHA-256 of the split, of all labels") for what in released) == 1


def test_a_run_begun_with_plain_hashes_is_refused_other_labels_and_no_hash_is_in_the_message(study: Study) -> None:
    pretrain(study)
    train(study, DP, stop=StopAfter(3))
    make_plain(study, DP)
    table = study.paths.cohort_table("uka")
    cohort = pd.read_parquet(table)
    row = cohort.index[cohort["split"] == "train"][-1]
    cohort.loc[row, "healthy"] = 1 - cohort.loc[row, "healthy"]
    cohort.to_parquet(table, index=False)
    with pytest.raises(DpdtError, match=r"begun with another data\.labels_sha256 than there is now\. Put it") as raised:
        train(study, DP)
    assert labels_sha256(cohort, "train") not in str(raised.value)
    assert json.dumps(read_json(study.paths.run(study.run_id(DP)).config)["data"]["labels_sha256"])[1:9] not in str(
        raised.value
    )


def test_equal_values_of_two_kinds_have_different_hashes(study: Study) -> None:
    key = data_key(study)
    assert key.hash("split", "5" * 64) != key.hash("cohort", "5" * 64)
    assert math.isclose(np.log2(16.0 ** len(key.key_id)), 64)


def test_the_key_stays_in_the_cohort_s_folder(study: Study, tmp_path: Path) -> None:
    pretrain(study)
    train(study, DP)
    key = study.paths.data_key.read_text().strip().encode()
    files = [file for file in study.folder.rglob("*") if file.is_file() and file != study.paths.data_key]
    assert not any(key in file.read_bytes() for file in files)
