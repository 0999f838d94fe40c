"""Tables of any columns: text, counts, dates, numbers and gaps in one exact density."""

from jaxflow.tables.table import FittedTable, fit_table

__all__ = ["FittedTable", "fit_table"]
