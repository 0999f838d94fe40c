"""Continuous-time normalizing flows in JAX, with likelihoods you can trust.

Every name loads its room on first use, so that `import jaxflow` and `jaxflow --help` start at
once. `__init__.pyi` lists the names, for type checkers and for the loader alike.
"""

import lazy_loader

from jaxflow.runtime import moved

__version__ = "0.2.0.dev0"

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
# `import *` must work without scikit-learn.
__all__ = sorted(set(_names) - {"estimator"})  # pyright: ignore[reportUnsupportedDunderAll]

moved.redirect_old_modules()
