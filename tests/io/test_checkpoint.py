"""Saved trees load bit for bit; values that cannot be saved or loaded raise by name."""

import abc
import ast
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pickle
import stat
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxflow.bases import DiagonalNormal, StandardNormal
from jaxflow.dynamics import MLP, Linear
from jaxflow.io import arrays, checkpoint, serialisation
from jaxflow.io.checkpoint import load, load_extra, load_leaves, save, save_leaves
from jaxflow.ode import ODE, TABLEAUS

OURS = "jaxflow.sample_for_tests"


class Layer(eqx.Module):
    __module__ = OURS
    weight: Any
    bias: Any = None
    activation: Any = eqx.field(static=True, default="tanh")

    def __call__(self, x):
        return getattr(jnp, self.activation)(self.weight @ x + self.bias)


@dataclasses.dataclass(frozen=True)
class Settings:
    __module__ = OURS
    rtol: float = 1e-6
    nodes: Any = (0.0, 0.5)


class Flow(eqx.Module):
    __module__ = OURS
    field: Any
    ode: Any = Settings()
    rest: Any = None

    def __init__(self, field, ode=Settings(), rest=None, *, loud=True):
        if not loud:
            raise AssertionError("loading must not call __init__")
        self.field, self.ode, self.rest = field, ode, rest


class Abstract(eqx.Module):
    __module__ = OURS

    @abc.abstractmethod
    def __call__(self, x): ...


class Plain:
    __module__ = OURS


@dataclasses.dataclass
class Script:
    __module__ = OURS + ".__main__"


class Own(eqx.Module):
    """A user's module, with a function in a static and one in a dynamic field."""

    weight: jax.Array
    function: Callable = eqx.field(static=True)
    other: Any = None


class Pair(NamedTuple):
    first: Any
    second: Any


@pytest.fixture(autouse=True)
def ours(monkeypatch):
    """Register the sample classes as classes of the library."""
    module = types.ModuleType(OURS)
    for cls in (Layer, Settings, Flow, Abstract):
        setattr(module, cls.__name__, cls)
    vars(module).update(getcwd=os.getcwd, Path=Path, Own=Own, Plain=Plain)
    monkeypatch.setitem(sys.modules, OURS, module)
    script = types.ModuleType(OURS + ".__main__")
    vars(script).update(Script=Script)
    monkeypatch.setitem(sys.modules, OURS + ".__main__", script)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.safetensors"


def assert_same(a, b):
    """Equal in type, structure and every bit."""
    assert type(a) is type(b)
    if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        assert jax.random.key_impl(a) == jax.random.key_impl(b)
        assert a.shape == b.shape
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    if isinstance(a, jax.Array | np.ndarray | np.generic):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert getattr(a, "weak_type", None) == getattr(b, "weak_type", None)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, float):
        assert repr(a) == repr(b)
    else:
        assert a == b


def a_flow(key):
    return Flow(Layer(jax.random.normal(key, (2, 3)), jnp.arange(2.0)), Settings(rtol=1e-9))


def rewrite(path, change):
    """Change the description inside a file, as a newer version or an attacker might."""
    with safetensors.safe_open(path, framework="numpy") as file:
        document = json.loads(file.metadata()["jaxflow"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del document["sha256"]
    replaced = change(document, tensors)
    document = replaced if isinstance(replaced, list) else document
    safetensors.numpy.save_file(tensors, path, metadata={"jaxflow": json.dumps(document)})


class TestRoundTrip:
    @pytest.mark.parametrize(
        "dtype",
        [
            *("bool", "int8", "int32", "int64", "uint8", "uint64"),
            *("float16", "float32", "float64", "bfloat16", "complex64", "complex128"),
        ],
    )
    @pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3, 2)])
    def test_arrays_of_every_dtype(self, path, dtype, shape):
        values = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2
        array = values.astype(arrays.as_dtype(dtype))
        tree = {"jax": jnp.array(array), "numpy": array, "scalar": array.dtype.type(1)}
        save(path, tree)
        assert_same(load(path), tree)

    def test_bits_that_arithmetic_would_lose(self, path):
        bits = np.array([0x7FF8000000000123, 0xFFF0000000000001, 1, 1 << 63], np.uint64)
        tree = [jnp.array(bits.view(np.float64)), bits.view(np.complex128), bits.view(np.float32)]
        save(path, tree)
        assert_same(load(path), tree)

    def test_layouts(self, path):
        array = np.arange(6.0).reshape(2, 3)
        save(path, [array.T, array[:, ::2], array.astype(">f8")])
        for found, want in zip(load(path), [array.T, array[:, ::2], array], strict=True):
            np.testing.assert_array_equal(found, want)
            found += 1  # a writable array stays writable

    @pytest.mark.parametrize("x64", [True, False])
    @pytest.mark.parametrize("shape", [(), (3,)])
    @pytest.mark.parametrize("number", [2, 0.3, 1j])
    def test_weak_types(self, path, x64, shape, number):
        with jax.enable_x64(x64):
            weak = jnp.full(shape, number)
        assert weak.weak_type
        save(path, weak)
        assert_same(load(path), weak)

    @pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
    def test_keys(self, path, impl):
        key = jax.random.key(3, impl=impl)
        tree = (key, jax.random.split(key, (2, 3)), jax.random.split(key, 0))
        save(path, tree)
        assert_same(load(path), tree)
        template = jax.tree.map(lambda k: jax.random.clone(k), tree)
        assert_same(load(path, like=template), tree)
        assert_same(load(path, like=eqx.filter_eval_shape(lambda: tree)), tree)

    @settings(max_examples=60, deadline=None)
    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.sampled_from([np.dtype("float32"), np.dtype("bool"), jnp.dtype("bfloat16")]),
            lambda part: (
                st.lists(part, max_size=3)
                | st.lists(part, max_size=3).map(tuple)
                | st.dictionaries(st.text(max_size=3), part, max_size=3)
                | part.map(Layer)
                | part.map(lambda x: Settings(nodes=x))
            ),
            max_leaves=8,
        )
    )
    def test_any_tree(self, tmp_path_factory, tree):
        path = tmp_path_factory.mktemp("trees") / "tree"
        plain = {"tree": tree} if "dtype" not in repr(tree) and "(" not in repr(tree) else None
        save(path, tree, extra=plain)
        assert_same(load(path), tree)
        assert_same(load_extra(path), plain or {})

    def test_names_that_look_alike_stay_apart(self, path):
        tree = {"a.b": jnp.ones(1), "a": {"b": jnp.zeros(1), "": jnp.ones(2)}, '"a': jnp.ones(3)}
        save(path, tree)
        assert_same(load(path), tree)

    def test_a_flow_runs_as_before(self, path, key):
        flow = a_flow(key)
        save(path, flow)
        found = load(path)
        assert_same(found, flow)
        assert jax.tree.structure(found) == jax.tree.structure(flow)
        x = jnp.arange(12.0).reshape(4, 3)
        run = eqx.filter_jit(lambda flow, x: jax.vmap(flow.field)(x))
        np.testing.assert_array_equal(run(found, x), run(flow, x))
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.field = 0

    def test_classes_of_the_library(self, path, key):
        mlp = MLP(2, width=4, key=key)
        tree = {
            "mlp": mlp,
            "linear": Linear(3, cond_dim=1, key=key),
            "base": [StandardNormal((2,)), DiagonalNormal(jnp.zeros(2), jnp.ones(2))],
            "ode": ODE(solver=TABLEAUS["rk4"], num_steps=3, rtol=float("inf")),
        }
        save(path, tree)
        found = load(path)
        assert_same(found, tree)
        assert hash(found["ode"]) == hash(tree["ode"])
        t, x = jnp.array(0.3), jnp.arange(2.0)
        np.testing.assert_array_equal(found["mlp"](t, x), mlp(t, x))

    def test_any_safetensors_reader_sees_the_arrays(self, path, key):
        flow = a_flow(key)
        save(path, flow)
        tensors = safetensors.numpy.load_file(path)
        assert set(tensors) == {"field.weight", "field.bias"}
        np.testing.assert_array_equal(tensors["field.weight"], flow.field.weight)

    def test_equal_flows_make_equal_bytes(self, path, tmp_path, key):
        save(path, a_flow(key))
        save(tmp_path / "other", a_flow(key))
        assert path.read_bytes() == (tmp_path / "other").read_bytes()

    def test_folders_are_made(self, tmp_path):
        save(tmp_path / "a" / "b" / "flow", 1)
        assert load(str(tmp_path / "a" / "b" / "flow")) == 1


class TestExtra:
    def test_alone(self, path):
        extra = {"step": 3, "loss": [float("nan"), -float("inf"), -0.0], "pair": (1, "a")}
        save(path, jnp.ones(3), extra=extra)
        assert_same(load_extra(path), extra)

    def test_refuses_arrays_and_objects(self, path):
        with pytest.raises(
            TypeError, match=r"extra holds a numpy.float64 at 'loss.0'.*float\(x\)"
        ):
            save(path, 0, extra={"loss": [np.float64(1)]})
        with pytest.raises(TypeError, match=r"extra holds .*Settings"):
            save_leaves(path, 0, extra={"a": Settings()})
        assert not path.exists()


class TestOwnClasses:
    def test_need_a_template(self, path):
        flow = Flow(Own(jnp.arange(3.0), jnp.tanh, jnp.sin))
        save(path, flow)
        with pytest.raises(ValueError, match=r"Own, a class outside.*parts=\{'field': it\}"):
            load(path)
        found = load(path, like=Flow(Own(jnp.zeros(3), jnp.tanh, jnp.sin)))
        assert_same(found.field.weight, flow.field.weight)
        assert found.field.function is jnp.tanh
        assert found.field.other is jnp.sin

    def test_a_template_of_the_part_alone(self, path):
        flow = Flow([Own(jnp.arange(3.0), jnp.tanh)], Settings(1e-3), Layer(jnp.ones(2)))
        save(path, flow)
        part = Own(jnp.zeros(3), jnp.sin)
        found = load(path, parts={"field.0": part})
        assert_same(found.field[0], Own(jnp.arange(3.0), jnp.sin))
        assert_same((found.ode, found.rest), (flow.ode, flow.rest))
        with pytest.raises(ValueError, match=r"'field\.1', which is no place in this file"):
            load(path, parts={"field.0": part, "field.1": part})
        with pytest.raises(ValueError, match=r"'field.0.weight' has shape \(3,\).*template"):
            load(path, parts={"field.0": Own(jnp.zeros(4), jnp.sin)})
        with pytest.raises(ValueError, match="like and parts are both given"):
            load(path, parts={"field.0": part}, like=flow)
        save(path, flow.field[0], overwrite=True)
        assert_same(load(path, parts={"root": part}), Own(jnp.arange(3.0), jnp.sin))

    def test_layers_of_equinox(self, path, key):
        flow = Flow(eqx.nn.MLP(2, 2, 4, 2, key=key), rest=Pair(jnp.ones(2), optax.EmptyState()))
        save(path, flow)
        template = eqx.filter_eval_shape(lambda: flow)
        found = load(path, like=template)
        assert_same(
            jax.tree.leaves(eqx.filter(found, eqx.is_array)),
            jax.tree.leaves(eqx.filter(flow, eqx.is_array)),
        )
        x = jnp.ones(2)
        np.testing.assert_array_equal(found.field(x), flow.field(x))

    def test_static_parts_are_the_templates(self, path):
        save(path, Flow(jnp.ones(2), Settings(1e-3, nodes=np.arange(3.0))))
        template = Flow(jnp.zeros(2), Settings(1e-9))
        found = load(path, like=template)
        assert found.ode is template.ode
        assert_same(found.field, jnp.ones(2))

    def test_numpy_stays_numpy(self, path):
        save(path, Flow(np.ones(2), rest=np.float32(3)))
        found = load(path, like=Flow(np.zeros(2), rest=np.float32(0)))
        assert_same((found.field, found.rest), (np.ones(2), np.float32(3)))

    @pytest.mark.parametrize(
        ("field", "text"),
        [
            (jnp.zeros(3), r"'field' has shape \(2,\) in the file and \(3,\) in the template"),
            (jnp.zeros(2, jnp.float32), r"'field' has dtype float64 in the file and float32 in"),
            (None, r"the file has an array 'field' and the template has none there \(1 arr"),
            ([jnp.zeros(2)], r"the file has an array 'field' and the template has none there"),
            (jax.random.key(0), r"'field' has shape \(2,\) in the file and \(\) in the template"),
        ],
    )
    def test_template_that_does_not_fit(self, path, field, text):
        save(path, Flow(jnp.ones(2)))
        with pytest.raises(ValueError, match=text):
            load(path, like=Flow(field))

    def test_array_of_the_template_alone(self, path):
        save(path, Flow(jnp.ones(2)))
        with pytest.raises(ValueError, match=r"the template has an array 'rest' and the file has"):
            load(path, like=Flow(jnp.ones(2), rest=jnp.ones(3)))


class TestWhatCannotBeWritten:
    @pytest.mark.parametrize(
        ("flow", "text"),
        [
            (
                Flow(Layer(1, 2, jnp.tanh)),
                r"'field.activation' is .*tanh, which cannot .*give its name",
            ),
            (Flow([1, lambda x: x]), r"'field.1' is .*<lambda>.*save_leaves\(path, tree\)"),
            (Flow(object()), r"'field' is a builtins.object"),
            (Flow(Layer), r"'field' is jaxflow.sample_for_tests.Layer"),
            (Flow(optax.EmptyState), r"'field' is optax.*EmptyState"),
            ({"a": {1: 2}}, r"'a' is a dict with the key 1; only str keys"),
            (Flow(np.array([None])), r"'field' is an array of dtype object"),
            (Flow(np.array("text")), r"'field' is an array of dtype str"),
            (Flow(jnp.zeros(2, "float8_e5m2")), r"dtype float8_e5m2.*complex128$"),
            (jax.ShapeDtypeStruct((), float), r"'root' is a jax.ShapeDtypeStruct"),
        ],
    )
    def test_is_named(self, path, flow, text):
        with pytest.raises(TypeError, match=text):
            save(path, flow)
        assert not list(path.parent.iterdir())


class TestWhatIsNotLoaded:
    @pytest.mark.parametrize(
        ("module", "name", "text"),
        [
            ("os", "system", r"'root' is a os.system, a class outside jaxflow"),
            ("builtins", "eval", r"builtins.eval, a class outside jaxflow"),
            ("jaxflowevil", "Flow", r"jaxflowevil.Flow, a class outside jaxflow"),
            (
                "jaxflow.io.checkpoint",
                "save",
                r"class jaxflow.io.checkpoint.save; allowed",
            ),
            (
                "jaxflow.io.checkpoint",
                "Path",
                r"class jaxflow.io.checkpoint.Path; allowed",
            ),
            (
                "jaxflow.io.checkpoint",
                "os.system",
                r"the class jaxflow.io.checkpoint.os.system",
            ),
            (
                "jaxflow.io.checkpoint.os",
                "system",
                r"the class jaxflow.io.checkpoint.os.system",
            ),
            ("jaxflow.no_such", "Flow", r"names the class jaxflow.no_such.Flow; allowed"),
            ("jaxflow.cli.__main__", "Flow", r"names the class jaxflow.cli.__main__.Flow; allow"),
            ("jaxflow..os", "Flow", r"names the class jaxflow..os.Flow; allowed"),
            (OURS, "getcwd", r"names the class .*getcwd; allowed"),
            (OURS, "Path", r"names the class .*Path; allowed"),
            (OURS, "Own", r"names the class .*Own; allowed"),
            (OURS, "Plain", r"names the class .*Plain; allowed"),
            (OURS + ".__main__", "Script", r"names the class .*Script; allowed"),
            (OURS, "__loader__", r"names the class .*__loader__; allowed"),
        ],
    )
    def test_class_names_from_an_attacker(self, path, module, name, text):
        save(path, 1)
        node = {"class": name, "module": module, "fields": {}}
        rewrite(path, lambda document, _: document.update(tree=node))
        with pytest.raises(ValueError, match=text):
            load(path)

    def test_fields_of_another_version(self, path):
        save(path, Settings())
        rewrite(
            path,
            lambda document, _: document["tree"]["fields"].update(
                atol=document["tree"]["fields"].pop("rtol")
            ),
        )
        here = importlib.metadata.version("jaxflow-cnf")
        with pytest.raises(
            ValueError,
            match=rf"by jaxflow {here}, read by {here}\).*missing \['rtol'\], unknown \['atol'\]",
        ):
            load(path)

    def test_abstract_class(self, path):
        save(path, 1)
        node = {"class": "Abstract", "module": OURS, "fields": {}}
        rewrite(path, lambda document, _: document.update(tree=node))
        with pytest.raises(ValueError, match=r"'root' names the class Abstract"):
            load(path)

    def test_newer_format(self, path):
        save(path, 1)
        rewrite(path, lambda document, _: document.update(format=2, version="9.8"))
        for read in (load, load_extra):
            with pytest.raises(
                ValueError, match=r"format 2, written by jaxflow 9.8; .*up to 1: install a newer"
            ):
                read(path)

    def test_every_truncation(self, path):
        save(path, Flow(jnp.arange(3.0)))
        whole = path.read_bytes()
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            with pytest.raises(
                ValueError, match=r"flow.safetensors is damaged or not a safetens"
            ) as e:
                load(path)
            assert "\n" not in str(e.value)

    def test_every_byte(self, path):
        save(path, Flow(jnp.arange(3.0)), extra={"seed": 3})
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(
                whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
            )
            with contextlib.suppress(ValueError):
                # Where only the name of the sums is damaged.
                assert eqx.tree_equal(load(path), Flow(jnp.arange(3.0)))

    def test_other_files(self, path, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"flow.safetensors does not exist"):
            load(path)
        with pytest.raises(ValueError, match=r"is a folder"):
            load(tmp_path)
        path.write_bytes(pickle.dumps([1, 2, 3]) * 10)
        with pytest.raises(ValueError, match=r"is damaged or not a safetensors file"):
            load(path)
        safetensors.numpy.save_file({"a": np.ones(2)}, path)
        with pytest.raises(ValueError, match=r"is a safetensors file that jaxflow did not write"):
            load_extra(path)

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (lambda d, t: t.pop("field"), r"the array 'field' is missing from the file"),
            (lambda d, t: t.update(b=t["field"]), r"the array 'b' is not in its description"),
            (
                lambda d, t: t.update(field=np.ones(2)),
                r"'field' is stored as float64 of shape \(2",
            ),
            (lambda d, t: t.update(field=np.ones(3, int)), r"stored as int64 .* float64 of shape"),
            (
                lambda d, t: d["arrays"]["field"].update(dtype="O"),
                r"its description says O",
            ),
            (lambda d, t: d["arrays"]["field"].update(impl="evil"), r"but its description says"),
            (lambda d, t: d["arrays"]["field"].update(shape=3), r"description is not jaxflow's"),
            (lambda d, t: d["arrays"].update(field=0), r"description is not jaxflow's"),
            (lambda d, t: d.update(arrays=0), r"description is not jaxflow's"),
            (lambda d, t: d.pop("tree"), r"description is not jaxflow's"),
            (lambda d, t: d.pop("format"), r"description cannot be read"),
            (lambda d, t: d.update(kind=[]), r"description is not jaxflow's"),
            (lambda d, t: d.update(extra=0), r"description is not jaxflow's"),
            (lambda d, t: d.update(format="a"), r"description cannot be read"),
            (lambda d, t: [1], r"description cannot be read"),
            (lambda d, t: d.update(tree={"call": "f"}), r"'root' is stored in a way"),
            (lambda d, t: d.update(tree={"float": "1_0"}), r"'root' is stored in a way"),
            (lambda d, t: d.update(tree={"dtype": "object"}), r"'root' is stored in a way"),
            (lambda d, t: d.update(tree={"array": "x"}), r"the array 'x' is missing"),
        ],
    )
    def test_descriptions_that_disagree(self, path, change, text):
        save(path, Flow(jnp.arange(3.0)))
        rewrite(path, change)
        with pytest.raises(ValueError, match=rf"^\S*flow.safetensors .*{text}") as error:
            load(path)
        assert "\n" not in str(error.value)

    def test_deep_nesting(self, path):
        deep = "[" * 20_000 + "]" * 20_000
        safetensors.numpy.save_file({"a": np.ones(1)}, path, metadata={"jaxflow": deep})
        with pytest.raises(ValueError, match=r"flow.safetensors"):
            load(path)

    def test_numbers_too_long_to_read(self, path):
        text = '{"format": ' + "1" * 5000 + "}"
        safetensors.numpy.save_file({"a": np.ones(1)}, path, metadata={"jaxflow": text})
        with pytest.raises(ValueError, match=r"flow.safetensors is damaged: its description"):
            load(path)

    @pytest.mark.parametrize("dtype", [jnp.float64, jnp.int64, jnp.complex128])
    def test_64_bits_are_never_rounded(self, path, dtype):
        tree = {"a": jnp.ones(2, dtype)}
        save(path, tree)
        save_leaves(path.with_name("leaves"), tree)
        text = r"'.*a.*' is \w+128|64 .*jax.config.update\(\"jax_enable_x64\", True\)"
        with jax.enable_x64(False):
            for read in (
                lambda: load(path),
                lambda: load(path, like={"a": jax.ShapeDtypeStruct((2,), np.dtype(dtype))}),
                lambda: load_leaves(path.with_name("leaves"), tree),
            ):
                with pytest.raises(ValueError, match=text):
                    read()
        assert_same(load(path), tree)


class TestLeaves:
    def state(self, key):
        params = Flow(Layer(jax.random.normal(key, (2, 3)), jnp.ones(2, jnp.bfloat16)))
        arrays = eqx.filter(params, eqx.is_inexact_array)
        optimiser = optax.chain(optax.clip(1.0), optax.adamw(optax.linear_schedule(1.0, 0.0, 5)))
        return {
            "params": params,
            "opt": optimiser.init(arrays),
            "key": key,
            "rest": {7: np.arange(3)},
        }

    def test_training_state(self, path, key):
        state = self.state(key)
        save_leaves(path, state, extra={"step": 1})
        blank = jax.tree.map(
            lambda x: x if isinstance(x, Settings) else jax.tree.map(lambda y: y * 0, x),
            self.state(key) | {"key": None},
        ) | {"key": jax.random.key(0)}
        found = load_leaves(path, blank)
        assert jax.tree.structure(found) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
            assert_same(a, b)
        assert load_extra(path) == {"step": 1}
        save_leaves(path, blank, extra={"step": 2})
        assert load_extra(path) == {"step": 2}

    def test_the_rest_is_the_templates(self, path):
        save_leaves(path, [jnp.ones(2), 3, jnp.tanh, None])
        assert load_leaves(path, [jnp.zeros(2), 4, jnp.sin, None])[1:] == [4, jnp.sin, None]

    @pytest.mark.parametrize(
        ("like", "text"),
        [
            (
                {"a": np.ones(2)},
                r"file has an array \"\['b'\]\[0\]\"|file has an array '\['b'\]\[0",
            ),
            (
                {"a": np.ones(2), "b": [np.ones(1), np.ones(1)]},
                r"the template has an array '\['b'\]\[1\]'",
            ),
            ({"a": np.ones(3), "b": [np.ones(1)]}, r"'\['a'\]' has shape \(2,\) in .* \(3,\) in"),
            (
                {"a": np.ones(2, int), "b": [np.ones(1)]},
                r"'\['a'\]' has dtype float64 in .* int64",
            ),
        ],
    )
    def test_template_that_does_not_fit(self, path, like, text):
        save_leaves(path, {"a": np.ones(2), "b": [np.ones(1)]})
        with pytest.raises(ValueError, match=text):
            load_leaves(path, like)

    def test_each_reader_names_the_other(self, path):
        save(path, jnp.ones(2))
        with pytest.raises(ValueError, match=r"for another reader: call load\(path\)"):
            load_leaves(path, jnp.ones(2))
        save_leaves(path, jnp.ones(2))
        with pytest.raises(ValueError, match=r"for another reader: call load_leaves\(path\)"):
            load(path)

    def test_arrays_it_cannot_write(self, path):
        with pytest.raises(TypeError, match=r"'\[0\]' is an array of dtype object"):
            save_leaves(path, [np.array([None])])


class TestTheFile:
    def test_is_not_replaced_unasked(self, path):
        save(path, 1)
        with pytest.raises(FileExistsError, match=r"flow.safetensors exists; pass overwrite=True"):
            save(path, 2)
        assert load(path) == 1
        save(path, 2, overwrite=True)
        assert load(path) == 2

    @pytest.mark.parametrize("step", ["replace", "fsync"])
    @pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
    def test_a_failed_write_leaves_the_old_file(self, path, monkeypatch, step, failure):
        save(path, {"a": jnp.ones(3)})
        old = path.read_bytes()

        def fail(*_):
            raise failure("no space left")

        monkeypatch.setattr(checkpoint.os, step, fail)
        for write in (
            lambda: save(path, 2, overwrite=True),
            lambda: save_leaves(path, jnp.zeros(2)),
        ):
            with pytest.raises(failure, match="no space left"):
                write()
        assert path.read_bytes() == old
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.skipif(os.name != "posix", reason="permission bits")
    def test_has_the_permissions_of_any_new_file(self, path):
        save(path, 1)
        path.with_name("plain").write_bytes(b"")
        modes = [stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()]
        assert modes[0] == modes[1]

    def test_a_loaded_array_outlives_its_file(self, path):
        save(path, {"a": jnp.arange(1000.0), "b": np.arange(1000.0)})
        found = load(path)
        with path.open("r+b") as file:
            file.write(b"\0" * path.stat().st_size)
        assert_same(found, {"a": jnp.arange(1000.0), "b": np.arange(1000.0)})


class TestNoCodeRuns:
    def test_no_pickle_and_no_eval(self, path, monkeypatch, key):
        def fail(*_, **__):
            raise AssertionError("pickle was used")

        for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
            monkeypatch.setattr(pickle, name, fail)
        flow = a_flow(key)
        save(path, flow, extra={"a": 1})
        load(path)
        load(path, like=flow)
        load_extra(path)
        save_leaves(path, flow)
        load_leaves(path, flow)

    @pytest.mark.parametrize("module", [arrays, checkpoint, serialisation])
    def test_the_source_names_neither(self, module):
        tree = ast.parse(Path(module.__file__).read_text())
        imported = {
            name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in node.names
        }
        called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not imported & {"pickle", "cloudpickle", "marshal", "shelve"}
        assert not called & {"eval", "exec", "compile", "__import__"}

    def test_loading_calls_no_init(self, path, key, monkeypatch):
        save(path, a_flow(key))
        for cls in (Flow, Layer, Settings):
            monkeypatch.setattr(cls, "__init__", lambda *_: pytest.fail("__init__ ran"))
        assert isinstance(load(path), Flow)
