"""Flows inside other libraries; import `jaxflow.interop.numpyro` by its own name."""
