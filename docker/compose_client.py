"""What compose-test.sh asks its server: compose_client.py ADDRESS FOLDER STUDY account|equal|delete|gone."""

import sys
from pathlib import Path

from mlflow import MlflowClient

from dpdt.study import load_study
from dpdt.tracking.payload import RUN_ID_TAG
from dpdt.tracking.store import with_uri
from tests.mlflow_servers import ask
from tests.mlflow_view import assert_view_equals_folders

ANA = {"username": "ana", "password": "a password for ana"}
MARK = "deleted_run"  # the file that remembers which run was deleted


def main(address: str, folder: str, study_file: str, what: str) -> None:
    """Make Ana's account, compare all values with the run folders, delete a run, or see that it is gone."""
    mark = Path(folder) / MARK
    study = with_uri(load_study(study_file), address)
    if what == "account":
        admin = (Path(folder) / "docker/secrets/admin_password").read_text().strip()
        found = [
            ask(address, "users/create", ANA, user=None),
            ask(address, "users/create", ANA, user=("admin", admin), host="somewhere.else"),
            ask(address, "users/create", ANA, user=("admin", admin), host="mlflow.example"),
        ]
        assert found == [401, 403, 200], f"no password, another name, the admin behind a proxy: {found}"
        print("no access without a password or by another name; the admin made an account")
        return
    client = MlflowClient(address)
    if what == "equal":
        values = assert_view_equals_folders(study)
        privacy = 0
        for run in client.search_runs(["1"]):
            statement = study.paths.run(run.data.tags[RUN_ID_TAG]).privacy
            if statement.exists():
                kept = Path(client.download_artifacts(run.info.run_id, "privacy.json", folder))
                assert kept.read_bytes() == statement.read_bytes()
                privacy += 1
        assert privacy
        print(f"{values} values and {privacy} privacy statements as in the run folders")
    elif what == "delete":
        child = next(run for run in client.search_runs(["1"]) if run.data.tags[RUN_ID_TAG] != "study")
        client.delete_run(child.info.run_id)
        mark.write_text(child.info.run_id)
    else:
        assert client.search_runs(["1"], run_view_type=1)
        deleted = [run.info.run_id for run in client.search_runs(["1"], run_view_type=2)]
        assert mark.read_text() not in deleted, "retention left a deleted run"
        print("retention: the deleted run and the old backup are gone")


if __name__ == "__main__":
    main(*sys.argv[1:])
