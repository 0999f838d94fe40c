"""Flows and training states as files: safetensors and JSON, nothing that could run code."""

from jaxflow.io.card import ModelCard
from jaxflow.io.checkpoint import load, load_extra, load_leaves, save, save_leaves

__all__ = ["ModelCard", "load", "load_extra", "load_leaves", "save", "save_leaves"]
