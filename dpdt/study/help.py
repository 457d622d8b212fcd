"""What the study file's settings do not say themselves: the unit of each key, and why one would change it.

`dpdt init` and the reference in docs/ are written from this and from the settings' own descriptions and defaults.
"""

from typing import Final, NamedTuple

__all__ = ["HELP", "Help"]


class Help(NamedTuple):
    """About one key.

    Attributes:
        unit: Of its value; "" where it has none.
        why: Why one would change it.
        example: A TOML value to show where the default is "not set".
    """

    unit: str
    why: str
    example: str = ""


HELP: Final[dict[str, Help]] = {
    "study.name": Help("", "Give it a name that people recognise in MLflow and in the report.", '"lung study"'),
    "study.folder": Help("", "Keep the results on another disk than the study file."),
    "study.preset": Help("", "Repeat the paper; keys in this file still win over the preset.", '"paper"'),
    "study.seed": Help("", "Draw other splits and another non-DP arm. DP noise never comes from it."),
    "study.private_files": Help("", "false: leave the permissions to your umask, for a folder that a group shares."),
    "domains.*.root": Help("", "Say where the institution's files are; `~` and `$NAME` are expanded.", '"/data/own"'),
    "domains.*.kind": Help("", "Give a domain a name of your own, or use your own list.", '"table"'),
    "domains.*.role": Help("", "Pretrain on another public data set than MIMIC.", '"public"'),
    "domains.*.files": Help("", "Your copy has other file names than the publisher's.", '{ table = "labels.csv" }'),
    "domains.*.uncertain": Help("", "Compare policies for uncertain labels; it changes the labels."),
    "domains.*.contradictions": Help("", "Be stricter, or keep the published labels as they are."),
    "domains.*.sublabels": Help(
        "", "Count other findings of PadChest as one of the five.", '{ pneumonia = ["pneumonia"] }'
    ),
    "domains.*.unknown_views": Help("", "Keep images whose view nobody recorded."),
    "domains.*.val_fraction": Help("part of the train patients", "0: train on every patient that is not tested."),
    "domains.*.test_fraction": Help("part of all patients", "More for narrower intervals, less for more training."),
    "domains.*.table.file": Help("", "Name your list.", '"list.csv"'),
    "domains.*.table.images": Help("", "The images lie in a folder below root."),
    "domains.*.table.suffix": Help("", "The image column has names without an ending."),
    "domains.*.table.separator": Help("", "The list is separated by something else.", '";"'),
    "domains.*.table.encoding": Help("", "Umlauts come out wrong, as from an old spreadsheet."),
    "domains.*.table.image": Help("", "Name the column.", '"Filename"'),
    "domains.*.table.patient": Help("", "Name the column.", '"MRN"'),
    "domains.*.table.image_id": Help("", "The images' names are not unique, or you have better ones.", '"SOP"'),
    "domains.*.table.study": Help("", "Name the column, so that results can be traced to examinations.", '"Accession"'),
    "domains.*.table.view": Help("", "The list has lateral images, which must be left out.", '"View"'),
    "domains.*.table.sex": Help("", "Report subgroups by sex.", '"Sex"'),
    "domains.*.table.age": Help("years", "Report subgroups by age.", '"Age"'),
    "domains.*.table.birth_date": Help("", "Ages are not in the list, but dates are.", '"Born"'),
    "domains.*.table.study_date": Help("", "Belongs to birth_date.", '"Taken"'),
    "domains.*.table.date_format": Help(
        "", "Dates are written in another way, as for Python's strptime.", '"%d.%m.%Y"'
    ),
    "domains.*.table.split": Help("", "The hospital has a split of its own.", '"Set"'),
    "domains.*.table.findings": Help("", "One column holds several findings.", '"Findings"'),
    "domains.*.table.findings_separator": Help("", "They are separated by something else."),
    "domains.*.table.no_findings": Help("", "An empty cell means that a reader saw nothing."),
    "domains.*.table.views": Help("", "Say what your view cells mean.", '{ PA = ["p.a."], AP = ["a.p."] }'),
    "domains.*.table.sexes": Help("", "Say what your sex cells mean.", '{ female = ["w"], male = ["m"] }'),
    "domains.*.table.splits": Help(
        "", "Say what your split cells mean.", '{ train = ["training"], test = ["holdout"] }'
    ),
    "domains.*.table.labels": Help("", "Name the labels that you have.", '{ cardiomegaly = { column = "Heart" } }'),
    "shards.size": Help("pixels", "Smaller is quicker (cost grows with its square); the paper has 512."),
    "shards.recipe": Help("", '"paper" repeats the paper\'s resampling to the pixel.'),
    "shards.equalise": Help("", "Keep the grey levels as they are."),
    "shards.aspect": Help("", '"pad" keeps hearts from looking wider in portrait pictures.'),
    "shards.exact_decode": Help("", "Bit for bit the same pixels as full decoding, for about twice the time."),
    "shards.voi_window": Help("", "Your DICOM files name the window that the radiologist saw."),
    "shards.shard_bytes": Help("bytes", "Smaller files for more array tasks at once, or for a small disk."),
    "shards.num_threads": Help("threads", "Leave cores to others. Changes no byte."),
    "shards.max_reject_fraction": Help("part of the images", "A corpus with many damaged files, once you know which."),
    "model.name": Help("", "Train another network."),
    "model.options": Help("", "Your function takes more than num_outputs and in_channels.", "{ depth = 18 }"),
    "model.width": Help("channels", "Smaller is quicker: time and memory grow about with its square, weights too."),
    "model.in_channels": Help("", "3: start from weights published for colour images, as the paper does."),
    "model.init_weights": Help("", "Start from a file instead of pretraining.", '"weights/resnet9.pt"'),
    "pretrain.num_epochs": Help("passes", "More for a better start; it costs no privacy, only time."),
    "pretrain.expected_batch_size": Help("images", "As for train."),
    "pretrain.learning_rate": Help("", "The loss does not fall (smaller), or falls slowly (larger)."),
    "pretrain.weight_decay": Help("", "The public data set is small."),
    "train.domains": Help("", "Train on some hospitals only.", '["vindr", "padchest"]'),
    "train.seeds": Help("", "More seeds show how much chance is in the numbers; each costs all trainings again."),
    "train.num_epochs": Help(
        "passes", "Fewer steps need less noise; more steps learn more. Look for the best with public data."
    ),
    "train.expected_batch_size": Help(
        "units", "Larger batches drown the noise better, up to a point; keep it far below the units."
    ),
    "train.physical_batch_size": Help("images", "Out of memory: halve it. Changes speed and rounding alone.", '"auto"'),
    "train.learning_rate": Help("", "The loss does not fall (smaller), or falls slowly (larger)."),
    "train.weight_decay": Help("", "A small hospital without DP; with DP the noise does the same."),
    "train.class_weights": Help("", "Rare labels are never predicted."),
    "train.checkpoint_every_steps": Help("steps", "More often where jobs are preempted without notice."),
    "train.device": Help("", '"cuda" fails at once where there is no GPU, instead of training slowly.'),
    "train.precision": Help("", '"bf16" is quicker where the processor has it; a new run, a little rounder.'),
    "train.num_threads": Help("threads", "Leave cores to others."),
    "privacy.target_epsilons": Help("", "The budgets that you want to compare; smaller protects more."),
    "privacy.unit": Help("", '"image" repeats the paper; it protects a patient with many images less.'),
    "privacy.images_per_patient": Help(
        "images", "Patients have many images: less noise in a gradient, more work a step."
    ),
    "privacy.delta": Help("probability", "A domain has more patients than 1 / delta: dpdt refuses it and says so."),
    "privacy.allow_large_delta": Help("", "Trials on made-up data only."),
    "privacy.max_grad_norm": Help(
        "", "Smaller means less noise and more clipping; look for the best with public data."
    ),
    "privacy.class_weights_share": Help("part of epsilon", 'Only with class_weights = "private".'),
    "privacy.accountant": Help("", "Compare with work that used another one."),
    "privacy.clipping": Help("", "Compare with Opacus; the result is the same up to rounding, but a new run."),
    "privacy.reserve_steps": Help("steps", "Fewer waste less budget in a crash; more write to disk less often."),
    "evaluate.domains": Help("", "Test on some hospitals only.", '["vindr", "padchest"]'),
    "evaluate.bootstrap_draws": Help("draws", "0 for a quick look; 10,000 for a last decimal that stays."),
    "evaluate.bootstrap_unit": Help("", '"image" repeats the paper; its intervals are too narrow.'),
    "evaluate.confidence": Help("part of 1", "0.99 for a stricter claim."),
    "evaluate.min_subgroup_size": Help("images", "Larger, where small groups could point at people."),
    "evaluate.equivalence_margin": Help("AUC", "What loss of AUC nobody would mind."),
    "audit.canaries": Help(
        "made-up patients", "Have dpdt audit find a lower bound on epsilon; costs one more training a model.", "1000"
    ),
    "audit.confidence": Help("part of 1", "0.99 for a stricter claim."),
    "tracking.uri": Help("", "A server that your group shares.", '"http://127.0.0.1:5000"'),
    "tracking.experiment": Help("", "Put several studies together.", '"lung"'),
    "tracking.system_metrics": Help("", "See in MLflow whether a training waits for its disk or for its GPU."),
    "cluster.profile": Help("", "Your site needs more than these keys; see docs/slurm.md.", '"generic"'),
    "cluster.partition": Help("", "The site has no default partition, or GPUs are in another.", '"gpu"'),
    "cluster.account": Help("", "The site bills projects.", '"radiology"'),
    "cluster.qos": Help("", "The site has several.", '"normal"'),
    "cluster.constraint": Help("", "Only some nodes will do.", '"avx512"'),
    "cluster.gpus_per_task": Help("GPUs", "1 for real data; more make one training quicker."),
    "cluster.nodes_per_task": Help("nodes", "One training is too slow even with all GPUs of a node."),
    "cluster.gpu_type": Help("", "The site has several kinds.", '"a100"'),
    "cluster.cpus_per_task": Help("cores", "Shards are slow: they use every core given."),
    "cluster.mem_gb": Help("GB", "Tasks are killed for memory; `dpdt plan` estimates it."),
    "cluster.timeout_min": Help("minutes", "The site's limit; shorter jobs often start sooner."),
    "cluster.array_parallelism": Help("tasks", "Leave room for others."),
    "cluster.max_attempts": Help("starts", "Preemptible nodes take more."),
    "cluster.shard_tasks": Help("tasks", "A large corpus: more nodes make its shards."),
    "cluster.scratch": Help("", "The shared disk is slow: shards are copied to the node first.", '"$SLURM_TMPDIR"'),
    "cluster.local_parallelism": Help("tasks", "With --cluster local: 1 where memory is short."),
    "cluster.setup": Help("", "Nodes need modules loaded."),
}
"""Every key of the study file; `*` stands for a domain's own name."""
