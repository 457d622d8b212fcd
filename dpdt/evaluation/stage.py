"""The stage `evaluate`: one task a trained model, and one for the model before all trainings."""

from dpdt.study import Study

__all__ = ["done", "run"]


def done(study: Study, run_id: str) -> bool:
    """Whether the model's predictions and metrics are there and were made with the study's settings."""
    if not study.paths.run(run_id).state.exists():  # most often so, and it saves the import
        return False
    from dpdt.evaluation.evaluate import evaluation_done

    return evaluation_done(study, run_id)


def run(study: Study, run_id: str) -> object:
    """Test one model on every test domain."""
    from dpdt.evaluation.evaluate import evaluate_run

    return evaluate_run(study, run_id)
