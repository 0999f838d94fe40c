"""Flows inside other libraries: `jaxflow.interop.numpyro`. Nothing is imported from here."""
