"""The paths of a study: these classes alone define the names of files and folders."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["RunPaths", "ShardPaths", "StudyPaths", "SubmissionPaths"]


@dataclass(frozen=True)
class ShardPaths:
    """One domain's shards (`shards/<domain>/`)."""

    folder: Path

    @property
    def manifest(self) -> Path:
        """Written last; its presence says that the domain's shards are complete."""
        return self.folder / "manifest.json"

    @property
    def index(self) -> Path:
        """Maps image_id to (shard, row) with each image's checksum."""
        return self.folder / "index.parquet"

    @property
    def rejects(self) -> Path:
        """Images that could not be used, each with its reason."""
        return self.folder / "rejects.csv"

    @property
    def lock(self) -> Path:
        """Held by the task that writes the manifest."""
        return self.folder / ".lock"

    def features(self, split: str, key: str) -> Path:
        """What a frozen network's head is given for the images of a split; `key` has all that decides it."""
        return self.folder / "features" / f"{split}-{key}.npy"

    def shard(self, number: int) -> Path:
        """Pixels of one shard: .npy, uint8, (n, size, size)."""
        return self.folder / f"shard-{number:05d}.npy"

    def part(self, number: int) -> Path:
        """Index part, rejects and checksum of one finished shard, until the manifest takes them over."""
        return self.folder / "parts" / f"shard-{number:05d}.parquet"


@dataclass(frozen=True)
class RunPaths:
    """One run (`runs/<run_id>/`)."""

    folder: Path

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def config(self) -> Path:
        """Frozen settings, data fingerprints, versions: written once, before the first step."""
        return self.folder / "config.json"

    @property
    def ledger(self) -> Path:
        """Append-only record of reserved and settled noisy steps."""
        return self.folder / "ledger.jsonl"

    @property
    def metrics_log(self) -> Path:
        """Loss, epsilon and times over steps, one JSON object a line."""
        return self.folder / "metrics.jsonl"

    @property
    def system_log(self) -> Path:
        """Load of the machine, one JSON object a sample; only with `[tracking] system_metrics`."""
        return self.folder / "system.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints by logical step."""
        return self.folder / "checkpoints"

    @property
    def weights(self) -> Path:
        """Final weights alone (a plain state dict), as evaluation and later trainings load them."""
        return self.checkpoints / "final.pt"

    @property
    def saved_step(self) -> int | None:
        """Step of the newest checkpoint, from its name; None if there is none."""
        steps = [int(path.name[5:13]) for path in self.checkpoints.glob("step-*.pt")]
        return max(steps, default=None)

    @property
    def privacy(self) -> Path:
        """The privacy statement."""
        return self.folder / "privacy.json"

    @property
    def audit(self) -> Path:
        """What an audit found: a lower bound on epsilon, membership inference."""
        return self.folder / "audit.json"

    @property
    def coins(self) -> Path:
        """With canaries: which of them are in."""
        return self.folder / "coins.json"

    @property
    def state(self) -> Path:
        """Status, steps done, epsilon spent."""
        return self.folder / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the one process that may train this run."""
        return self.folder / ".lock"

    def predictions(self, test_domain: str) -> Path:
        """Scores of this model on one domain's test images."""
        return self.folder / "predictions" / f"{test_domain}.parquet"

    @property
    def draws(self) -> Path:
        """Bootstrap draws of the metrics that models are compared by; written just before `metrics`."""
        return self.folder / "draws.parquet"

    @property
    def metrics(self) -> Path:
        """AUC and other metrics by test domain, label and subgroup; written last by evaluation."""
        return self.folder / "metrics.parquet"


@dataclass(frozen=True)
class SubmissionPaths:
    """What one `dpdt submit` keeps (`jobs/<time>/`)."""

    folder: Path

    @property
    def study(self) -> Path:
        """The resolved study as its tasks read it; editing study.toml later does not change them."""
        return self.folder / "study.json"

    @property
    def record(self) -> Path:
        """Which task became which job, and where its log lies."""
        return self.folder / "record.json"

    @property
    def container(self) -> Path:
        """Starts python in the cluster profile's image."""
        return self.folder / "python.sh"

    @property
    def ended(self) -> Path:
        """How jobs ended that left no result and that Slurm has forgotten: from its accounting, or `dpdt cancel`."""
        return self.folder / "ended.json"

    @property
    def alive(self) -> Path:
        """Locked as long as the process that sends and watches these jobs lives."""
        return self.folder / "alive.lock"

    def jobs(self, name: str) -> Path:
        """Pickles, results and logs of a task or of a stage's arrays."""
        return self.folder / name


@dataclass(frozen=True)
class StudyPaths:
    """Everything below a study's folder."""

    folder: Path
    shards_name: str = "shards"  # another for models that want other preprocessing

    def cohort_table(self, domain: str) -> Path:
        """One row an image."""
        return self.folder / "cohort" / f"{domain}.parquet"

    def cohort_exclusions(self, domain: str) -> Path:
        """Every excluded row with its reason."""
        return self.folder / "cohort" / f"{domain}.exclusions.csv"

    def cohort_record(self, domain: str) -> Path:
        """Frozen settings, counts, hashes of the input files and of the split; written last."""
        return self.folder / "cohort" / f"{domain}.json"

    @property
    def data_key(self) -> Path:
        """Key of the hashes of this data that leave it: beside the data, and nowhere else."""
        return self.folder / "cohort" / "data.key"

    @property
    def test_releases(self) -> Path:
        """What results have left of the test patients, one entry an export."""
        return self.folder / "cohort" / "test_releases.json"

    @property
    def measured(self) -> Path:
        """What `dpdt plan --measure` found about time and memory."""
        return self.folder / "measured.json"

    @property
    def cohort_summary(self) -> Path:
        """Counts by domain, split and value."""
        return self.folder / "cohort" / "summary.csv"

    def shards(self, domain: str) -> ShardPaths:
        """One domain's shards."""
        return ShardPaths(self.folder / self.shards_name / domain)

    @property
    def runs(self) -> Path:
        """All runs."""
        return self.folder / "runs"

    @property
    def statements_lock(self) -> Path:
        """Held by the one process that changes privacy statements."""
        return self.runs / ".statements.lock"

    def run(self, run_id: str) -> RunPaths:
        """One run."""
        return RunPaths(self.runs / run_id)

    @property
    def report(self) -> Path:
        """HTML, PNG and CSV."""
        return self.folder / "report"

    @property
    def examples(self) -> Path:
        """Test patients' images, which stay here."""
        return self.folder / "examples.html"

    @property
    def jobs(self) -> Path:
        """What submissions keep: pickles and the tasks' logs."""
        return self.folder / "jobs"

    def submission(self, name: str) -> SubmissionPaths:
        """One `dpdt submit`, by the time it was started."""
        return SubmissionPaths(self.jobs / name)

    @property
    def local_lock(self) -> Path:
        """Held by the one `dpdt submit --cluster local` that may work on this study."""
        return self.jobs / "local.lock"

    def task_lock(self, task: str) -> Path:
        """Held by the one process that runs a task."""
        return self.jobs / "locks" / f"{task}.lock"

    def stamp(self, stage: str) -> Path:
        """Fingerprint of what a stage's result was made from, where the result itself does not record it."""
        return self.jobs / "stamps" / f"{stage}.json"

    @property
    def mlflow_database(self) -> Path:
        """The default tracking store."""
        return self.folder / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """The default artifact store."""
        return self.folder / "mlartifacts"

    @property
    def tracking_lock(self) -> Path:
        """Held by the one process that feeds MLflow from this study."""
        return self.folder / ".tracking.lock"
