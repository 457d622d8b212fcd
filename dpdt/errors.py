"""What can go wrong, as one small tree.

DpdtError
├── StudyError      what the user wrote: command line or study file, with the network, weights and tables they name
├── CohortError     the raw metadata: missing column, unmatched join, patient in two splits
├── DecodeError     one image: missing, truncated, unsupported
├── ShardError      shards: a checksum, a short file, too many rejects
├── PrivacyError    anything that would make an epsilon wrong
├── BundleError     a file from another hospital: a model bundle, its signature, or results
├── ClusterError    Slurm or a task of it
│   └── LostProcessError  one of the processes of a training is gone; begun again, the training goes on
└── TrackingError   MLflow

The command line ends with 2 for a StudyError and with 1 for every other: so a StudyError is what can be seen from the
study alone, before data, disk and machine are looked at.

A message says which input, what was found, what was expected and what to do.
"""

__all__ = [
    "BundleError",
    "ClusterError",
    "CohortError",
    "DecodeError",
    "DpdtError",
    "LostProcessError",
    "PrivacyError",
    "ShardError",
    "StudyError",
    "TrackingError",
]


class DpdtError(Exception):
    """Base of every error that dpdt raises on purpose; the command line prints it as one line, without a traceback."""


class StudyError(DpdtError):
    """The command line or the study file asks for something that is unknown, contradictory or not there."""


class CohortError(DpdtError):
    """A domain's raw metadata is not as published, or breaks a rule such as disjoint splits."""


class DecodeError(DpdtError):
    """One image cannot be turned into pixels."""


class ShardError(DpdtError):
    """Shards are missing, damaged, or too many images were rejected."""


class PrivacyError(DpdtError):
    """Going on would make the reported epsilon wrong."""


class BundleError(DpdtError):
    """A file from another hospital is not what it must be, or a model cannot be made into one."""


class ClusterError(DpdtError):
    """A task failed, or Slurm refused it."""


class LostProcessError(ClusterError):
    """One of several processes of a training ended alone, and the others cannot go on without it."""


class TrackingError(DpdtError):
    """MLflow cannot be reached or answers with an error."""
