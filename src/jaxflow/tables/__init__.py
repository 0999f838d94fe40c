"""Tables of any columns: text, counts, dates, numbers and gaps in one exact density."""

from jaxflow.tables.check import TableCheck, check_table
from jaxflow.tables.fit_table import fit_table
from jaxflow.tables.plan import Plan
from jaxflow.tables.table import ConditionalTable, FittedTable

__all__ = ["ConditionalTable", "FittedTable", "Plan", "TableCheck", "check_table", "fit_table"]
