"""`dpdt plan`: what a study will do and cost, before anything is queued."""

from dpdt.jobs.plan.estimate import look_ahead
from dpdt.jobs.plan.outlook import CellOutlook, DomainOutlook, Outlook
from dpdt.jobs.plan.show import as_json, show_outlook
from dpdt.jobs.plan.sizes import parse_sizes

__all__ = ["CellOutlook", "DomainOutlook", "Outlook", "as_json", "look_ahead", "parse_sizes", "show_outlook"]
