"""Flows and training states as files: safetensors and JSON, nothing that could run code."""

from jaxflow.io.checkpoint import load, load_extra, load_leaves, save, save_leaves

__all__ = ["load", "load_extra", "load_leaves", "save", "save_leaves"]
