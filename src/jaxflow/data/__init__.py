"""Tables and shards in files, checks of their rows, and toy densities in closed form."""

from jaxflow.data.curves import Moons, Swissroll, TwoSpirals
from jaxflow.data.demos import breast_cancer, digits
from jaxflow.data.images import Images, read_images
from jaxflow.data.pinwheel import Pinwheel
from jaxflow.data.shards import Shards
from jaxflow.data.tables import Table, read_blocks, read_table, table_names, write_table
from jaxflow.data.toys import Checkerboard, EightGaussians, LongGaussian, Rings, Toy
from jaxflow.runtime.checks import check_columns, check_rows, coarse_columns, finite_rows, split

__all__ = [
    "Checkerboard",
    "EightGaussians",
    "Images",
    "LongGaussian",
    "Moons",
    "Pinwheel",
    "Rings",
    "Shards",
    "Swissroll",
    "Table",
    "Toy",
    "TwoSpirals",
    "breast_cancer",
    "check_columns",
    "check_rows",
    "digits",
    "finite_rows",
    "read_blocks",
    "read_images",
    "read_table",
    "split",
    "table_names",
    "write_table",
]
