"""Ways to clip as settings of a training: what the config records, and what another way does to a begun run."""

import math
from contextlib import nullcontext
from pathlib import Path

import pytest

from dpdt.base.files import read_json, write_json
from dpdt.errors import DpdtError, StudyError
from dpdt.privacy.mechanism import Mechanism
from dpdt.shards.dataset import load_split
from dpdt.study import Cell
from dpdt.training.loop import TrainingLoop
from dpdt.training.networks.build import build_model
from dpdt.training.resume import open_ledger
from dpdt.training.stop import StopFlag
from dpdt.training.train import pretrain, train
from tests.small_data import MakeStudy
from tests.test_loop import SILENT, plan

DP = Cell("uka", 8.0, 0)


def stopped() -> StopFlag:
    flag = StopFlag()
    flag.request()
    return flag


def test_a_run_goes_on_with_the_ways_to_its_norms_that_it_began_with(make_study: MakeStudy) -> None:
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
    train(study, DP, stop=stopped())
    assert read_json(config)["clipping_ways"]["conv1.weight"] == "grouped"
    frozen["clipping_ways"]["fc.bias"] = "gram"  # the engine has no such way for a bias
    write_json(config, frozen)
    with pytest.raises(DpdtError, match=r"was begun with clipping_ways.fc.bias = 'gram', it is 'rows' now"):
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


def test_bf16_is_refused_for_pictures_that_are_too_small_for_torch(make_study: MakeStudy) -> None:
    # Seen with torch 2.13 on a CPU: NaN in the gradient of a 3x3 convolution with stride 2 on planes of one pixel.
    with pytest.raises(StudyError, match=r"train\.precision: bf16 needs shards\.size of at least 32, got 16"):
        make_study(("[train]", '[train]\nprecision = "bf16"'))


@pytest.mark.parametrize("mechanism", [None, SILENT])
def test_the_precision_reaches_both_arms(make_study: MakeStudy, tmp_path: Path, mechanism: Mechanism | None) -> None:
    study = make_study()
    data = load_split(study, "uka", "train")
    for autocast in (False, True):
        settings = plan(tmp_path / str(autocast), mechanism, autocast=autocast)
        ledger = nullcontext() if mechanism is None else open_ledger(settings)
        with ledger as steps:
            loop = TrainingLoop(settings, model=build_model(study.model), data=data, steps=steps)
        assert loop.gradients.autocast is autocast
        loop.reader.close()
