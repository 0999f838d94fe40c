"""The card beside a flow: metadata that YAML reads back, and what a reader should know."""

import json
from typing import Any

import jax.numpy as jnp
import pytest

import jaxflow
from jaxflow import CNF, ModelCard, StandardNormal
from jaxflow.dynamics import Linear

yaml = pytest.importorskip("yaml")
ODD = 'a "quoted": # text\n- with\t\u2028 \x7f \x00 backslash \\ and \U0001f600: é'


@pytest.fixture
def flow():
    return CNF(Linear(matrix=jnp.eye(2)), StandardNormal(2))


def parts(text):
    """Metadata and body."""
    empty, metadata, body = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(metadata), body


def test_a_card_says_what_a_reader_should_know(flow, tmp_path):
    card = ModelCard(
        title="Stars",
        license="cc-by-4.0",
        data="4,000 stars",
        columns=["mass", "age | Gyr"],
        held_out=1.23456789,
        held_out_se=0.01,
        held_out_rows=400,
        error="at most 1e-3 nats",
        notes="Not for giants.",
    )
    path = tmp_path / "stars" / "flow.safetensors"
    jaxflow.save(path, flow, card=card)
    metadata, body = parts((path.parent / "README.md").read_text())
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["library_name"] == "jaxflow"
    (entry,) = metadata["model-index"]
    (result,) = entry["results"]
    assert (entry["name"], result["dataset"]["name"]) == ("Stars", "4,000 stars")
    assert result["metrics"][0]["value"] == pytest.approx(1.23456789, rel=1e-5)
    for words in (
        "# Stars",
        "1. mass\n2. age | Gyr",
        "1.2346 +- 0.0100 nats a row, the mean over 400 rows held out",
        "at most 1e-3 nats",
        'jaxflow.load("flow.safetensors")',
        "Not for giants.",
        *map("    {}".format, str(flow).splitlines()),
    ):
        assert words in body
    assert jaxflow.load(path).event_shape == (2,)


def test_metadata_holds_any_text(flow):
    card = ModelCard(title=ODD, data=ODD, license=ODD, held_out=-3.0, columns=["x\n## y"] * 101)
    metadata, body = parts(card.text(flow, 'odd"name'))
    assert metadata["license"] == ODD
    assert metadata["model-index"][0]["name"] == ODD
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == -3.0
    assert json.dumps('odd"name') in body
    assert "\n## y" not in body
    assert "100. x ## y\n101. and 1 more\n" in body
    bare, body = parts(ModelCard(title="a", data="b").text(flow, "f"))
    assert bare.keys() == {"library_name", "tags"}
    assert "not measured" in body


def test_nothing_is_replaced_in_silence(flow, tmp_path):
    card = ModelCard(title="a", data="b")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"README.md exists; pass overwrite=True"):
        jaxflow.save(tmp_path / "flow", flow, card=card)
    assert not (tmp_path / "flow").exists()
    jaxflow.save(tmp_path / "flow", flow)
    assert (tmp_path / "README.md").read_text() == "mine"
    jaxflow.save(tmp_path / "flow", flow, card=card, overwrite=True)
    assert "# a" in (tmp_path / "README.md").read_text()


def test_a_card_without_facts_is_refused():
    cases: Any = (
        ({"title": " ", "data": "b"}, "title=' ' must be a text"),
        ({"title": "a", "data": ""}, "data='' must be a text"),
        ({"title": "a", "data": "b", "held_out": float("nan")}, "held_out=nan must be a finite"),
    )
    for settings, words in cases:
        with pytest.raises(ValueError, match=words):
            ModelCard(**settings)
