from dpdt.api import Cohort as Cohort
from dpdt.api import Shards as Shards
from dpdt.api import Study as Study
from dpdt.api import Trained as Trained
from dpdt.api import evaluate as evaluate
from dpdt.api import load_study as load_study
from dpdt.api import results as results
from dpdt.api import train as train
from dpdt.base.machine import __version__ as __version__

__all__ = ["Cohort", "Shards", "Study", "Trained", "__version__", "evaluate", "load_study", "results", "train"]
