"""Tables in files, checks on them, and toy data with exact densities."""

from jaxflow.data.checks import check_columns, check_rows, finite_rows, split
from jaxflow.data.demos import breast_cancer, digits
from jaxflow.data.tables import Table, read_table, write_table
from jaxflow.data.toys import Checkerboard, EightGaussians, Rings

__all__ = [
    "Checkerboard",
    "EightGaussians",
    "Rings",
    "Table",
    "breast_cancer",
    "check_columns",
    "check_rows",
    "digits",
    "finite_rows",
    "read_table",
    "split",
    "write_table",
]
