"""`dpdt plan`: what a study will do and cost, before anything is queued."""

from dpdt.planning.outlook import CellOutlook, DomainOutlook, Outlook, look_ahead
from dpdt.planning.show import as_json, show_outlook
from dpdt.planning.sizes import parse_sizes

__all__ = ["CellOutlook", "DomainOutlook", "Outlook", "as_json", "look_ahead", "parse_sizes", "show_outlook"]
