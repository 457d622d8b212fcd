"""Ways to clip as settings of a training: what the config records, and what another way does to a begun run."""

import math

import pytest
import torch

from dpdt.errors import StudyError
from dpdt.files import read_json, write_json
from dpdt.stop import StopFlag
from dpdt.study import Cell
from dpdt.train import pretrain, train
from tests.small_data import MakeStudy

DP = Cell("uka", 8.0, 0)


def stopped() -> StopFlag:
    flag = StopFlag()
    flag.request()
    return flag


def test_the_config_records_how_each_norm_is_found_and_another_way_is_refused(make_study: MakeStudy) -> None:
    study = make_study()
    pretrain(study)
    train(study, DP, stop=stopped())
    config = study.paths.run(study.run_id(DP)).config
    frozen = read_json(config)
    assert frozen["settings"]["privacy"]["clipping"] == "bookkeeping"
    assert frozen["clipping_ways"]["conv1.weight"] == "loop"
    assert frozen["clipping_ways"]["fc.bias"] == "rows"
    frozen["clipping_ways"]["conv1.weight"] = "grouped"
    write_json(config, frozen)
    with pytest.raises(StudyError, match=r"was begun with clipping_ways.conv1.weight = 'grouped', it is 'loop' now"):
        train(study, DP)


def test_another_engine_is_another_run_and_a_warning_says_what_was_spent(
    make_study: MakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(("[privacy]", '[privacy]\nclipping = "hooks"'))
    pretrain(study)
    train(study, DP, stop=stopped())
    assert "clipping_ways" not in read_json(study.paths.run(study.run_id(DP)).config)
    other = make_study()
    assert other.run_id(DP) != study.run_id(DP)
    train(other, DP, stop=stopped())
    assert "begun with privacy.clipping = 'hooks'" in capsys.readouterr().err
    assert other.run_id(Cell("uka", math.inf, 0)) == study.run_id(Cell("uka", math.inf, 0))


@pytest.mark.parametrize("clipping", ["bookkeeping", "hooks"])
def test_a_training_in_bf16_ends_with_weights_in_float32(make_study: MakeStudy, clipping: str) -> None:
    study = make_study(("[train]", '[train]\nprecision = "bf16"'), ("[privacy]", f'[privacy]\nclipping = "{clipping}"'))
    pretrain(study)
    assert train(study, DP).status == "finished"
    weights = torch.load(study.paths.run(study.run_id(DP)).weights, weights_only=True)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert all(bool(value.isfinite().all()) for value in weights.values())
