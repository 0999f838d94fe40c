"""Code of pages and docstrings runs; the site builds; the reference is complete."""

import ast
import html
import json
import os
import re
import subprocess
import sys
import textwrap
import zlib
from importlib.metadata import version
from pathlib import Path

import jax
import pytest

from jaxflow.cli.app import COMMANDS, load_command

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))

# Pages that take more than some 5 seconds of one core even with short trainings.
SLOW = {
    "howto/export.md",
    "howto/trace.md",
    "migrate.md",
    *(
        "index.md",
        "lecture.md",
        "tutorial.md",
        "gallery.md",
        "diffusion.md",
        "estimator.md",
        "numpyro.md",
        "objectives.md",
    ),
    *("howto/anomalies.md", "howto/calibration.md", "howto/columns.md"),
    *("howto/conditions.md", "howto/fields.md", "howto/images.md"),
    *("howto/gradient.md", "howto/inference.md", "howto/likelihood.md", "howto/mcmc.md"),
    *("howto/manifolds.md", "howto/mixed_tables.md", "howto/own_loop.md", "howto/pod.md"),
}
# Code to run before pages whose blocks are only parts of a program.
PREAMBLES = {
    "objectives.md": """
import jax, jaxflow
from jaxflow import fit
key = jax.random.key(0)
x = jaxflow.data.Moons().sample(500, seed=0)
x_test = jaxflow.data.Moons().sample(100, seed=1)
flow = jaxflow.CNF(jaxflow.dynamics.MLP(2, width=16, key=key), jaxflow.StandardNormal(2))
""",
    # Trackers that need no server: what their documentation says of the calls.
    "howto/own_loop.md": """
import contextlib, sys, types
logged = []

def numbers(data, step):
    assert type(data) is dict and type(step) is int
    assert all(type(name) is str and type(float(value)) is float for name, value in data.items())
    logged.append(("", step, data))

class Run:
    def __enter__(self):
        return self
    def __exit__(self, *error):
        logged.append("finished")
    def log(self, data, step=None, commit=None):
        numbers(data, step)

class SummaryWriter(Run):
    def __init__(self, logdir=None):
        assert logdir
    def add_scalar(self, tag, scalar_value, global_step=None, walltime=None):
        numbers({tag: scalar_value}, global_step)

def init(project=None, config=None):
    assert type(config) is dict
    return Run()

wandb = types.ModuleType("wandb")
wandb.init = init
mlflow = types.ModuleType("mlflow")
mlflow.start_run, mlflow.log_params, mlflow.log_metrics = Run, dict, numbers
tensorboard = types.ModuleType("tensorboardX")
tensorboard.SummaryWriter = SummaryWriter
sys.modules |= {"wandb": wandb, "mlflow": mlflow, "tensorboardX": tensorboard}
""",
}
# Code to run after pages.
CHECKS = {
    "howto/own_loop.md": """
ends = [i for i, entry in enumerate(logged) if entry == "finished"]
runs = [logged[i + 1 : j] for i, j in zip([-1, *ends], ends)]
# A call for each validation, and for TensorBoard one for each of its eight numbers.
assert [len(run) for run in runs] == [3, 3, 24], runs
table = list(csv.DictReader(open("log.csv")))
columns = [[{n: float(v) for n, v in data.items()} for _, _, data in run] for run in runs]
for row, one, other in zip(table, *columns[:2], strict=True):
    row = {name: float(value) for name, value in row.items()}
    for each in (row, one, other):
        del each["seconds"]
    assert row == one == other
assert len(history["step"]) == 3
"""
}

# Objects whose examples take more than a second of one core.
SLOW_EXAMPLES = {
    "jaxflow.bases.fitted.FlowBase",
    "jaxflow.bases.protocol.Base",
    "jaxflow.diagnostics.bits.bits_per_dim",
    "jaxflow.diagnostics.diagnose.diagnose",
    "jaxflow.diagnostics.diagnosis.Diagnosis",
    "jaxflow.diagnostics.gradients.gradients",
    "jaxflow.diagnostics.images.check_images",
    "jaxflow.diagnostics.posteriors.calibration.calibration",
    "jaxflow.diagnostics.posteriors.local_calibration.local_calibration",
    "jaxflow.diffusion",
    "jaxflow.diffusion.bound.elbo",
    "jaxflow.diffusion.probability_flow.as_flow",
    "jaxflow.diffusion.samplers.draw",
    "jaxflow.diffusion.sde.draw_sde",
    "jaxflow.dynamics.dit.DiT",
    "jaxflow.dynamics.unet.UNet",
    "jaxflow.estimator.conditional.ConditionalFlowDensity",
    "jaxflow.estimator.density.FlowDensity",
    "jaxflow.flows.cnf.CNF.log_prob_with_error",
    "jaxflow.flows.export.export",
    "jaxflow.flows.log_mass.log_mass",
    "jaxflow.flows.multiscale.Multiscale",
    "jaxflow.flows.predictive.calibration_curve",
    "jaxflow.flows.quantiles.quantile",
    "jaxflow.inference.fit.fit_likelihood",
    "jaxflow.inference.fit.fit_posterior",
    "jaxflow.inference.importance.importance_sample",
    "jaxflow.inference.likelihood.Likelihood",
    "jaxflow.inference.posterior.Posterior",
    "jaxflow.inference.rounds.fit_rounds",
    "jaxflow.interop.numpyro.distribution.FlowDistribution",
    "jaxflow.manifolds.hyperbolic.Hyperbolic",
    "jaxflow.manifolds.sphere.Sphere",
    "jaxflow.objectives.denoising.Denoising",
    "jaxflow.objectives.likelihood.MaximumLikelihood",
    "jaxflow.objectives.reflow.Reflow",
    "jaxflow.ode.many.odeint_many",
    "jaxflow.plotting.animation.animation",
    "jaxflow.plotting.diagnosis.draw",
    "jaxflow.plotting.globe.globe",
    "jaxflow.plotting.torsions.torsions",
    "jaxflow.runtime.devices.use_devices",
    "jaxflow.tables.check.check_table",
    "jaxflow.tables.fit_table.fit_table",
    "jaxflow.tables.table.FittedTable.condition",
    "jaxflow.trace.hutchinson.Hutchinson",
    "jaxflow.trace.protocol.Estimator",
    "jaxflow.trace.sketched.HutchPlusPlus",
    "jaxflow.trace.sketched.XTrace",
    "jaxflow.training.classifier.fit_classifier",
    "jaxflow.training.distil.distil",
    "jaxflow.training.fit.fit",
    "jaxflow.training.fit_density.fit_density",
    "jaxflow.training.fit_images.fit_images",
    "jaxflow.training.noise.fit_noise",
    "jaxflow.transforms.angles.Angles",
    "jaxflow.transforms.latlon.LatLon",
}

# Runs blocks of code in one namespace, each with its place in the page; trainings are short.
RUNNER = """
import json, sys
from jaxflow import distil, fit, fit_classifier, fit_noise
from jaxflow.training.config import TrainConfig

# All rows of a fold are validated.
MOST = {"steps": 20, "eval_every": 10, "batch_size": 64, "validation_rows": 512}

def shorten(config):
    for name, most in MOST.items():
        object.__setattr__(config, name, min(getattr(config, name), most))

check = TrainConfig.__post_init__
def check_and_shorten(config):
    check(config)
    shorten(config)
TrainConfig.__post_init__ = check_and_shorten

for function in (distil, fit, fit_classifier, fit_noise):
    shorten(function.__kwdefaults__["config"])
distil.__kwdefaults__["num_samples"] = 512

names = {}
for place, line, code in json.load(sys.stdin):
    exec(compile("\\n" * line + code, place, "exec"), names)
"""


def blocks(page):
    """The blocks of Python of a page: where it is, the lines before it, the code."""
    text = page.read_text()
    for found in re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        yield str(page), text[: found.start(1)].count("\n"), found[1]


def name_of(page):
    return page.relative_to(DOCS).as_posix()


def marked(page):
    """A page as a parameter."""
    marks = pytest.mark.slow if name_of(page) in SLOW else ()
    return pytest.param(page, id=name_of(page), marks=marks)


@pytest.mark.parametrize("page", [marked(page) for page in PAGES if any(blocks(page))])
def test_the_blocks_of_a_page_run_in_order(page, tmp_path):
    preamble = PREAMBLES.get(name_of(page), "")
    env = dict(os.environ)
    if version("jaxlib").startswith("0.10."):
        # Most of the time is XLA's (conftest.py); as little of it as there can be.
        env["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER],
        cwd=tmp_path,
        env=env,
        input=json.dumps(
            [
                ("preamble", 0, preamble),
                *blocks(page),
                ("checks", 0, CHECKS.get(name_of(page), "")),
            ]
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode and "pip install '.[" in run.stderr:
        pytest.skip(run.stderr.splitlines()[-1])
    assert run.returncode == 0, run.stderr


def test_slow_pages_are_pages():
    assert {name_of(page) for page in PAGES} >= SLOW | set(PREAMBLES)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, and what building it said."""
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return folder, run


@pytest.mark.slow
def test_the_site_builds_without_a_warning(site):
    folder, run = site
    assert run.returncode == 0, run.stderr
    assert (folder / "index.html").exists()
    assert not (ROOT / "site").exists()


@pytest.mark.slow
def test_pages_fetch_nothing(site):
    folder, _ = site
    for page in folder.rglob("*.html"):
        text = page.read_text()
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="\w+://[^"/]*', text), page
        assert "arithmatex" not in text, f"{page} has a formula that is not MathML"


@pytest.mark.slow
def test_shapes_are_printed_as_written(site):
    folder, _ = site
    text = (folder / "reference" / "jaxflow" / "index.html").read_text()
    printed = html.unescape(re.sub("<[^>]+>", "", text))
    assert 'Float[Array, "rows *event"]' in printed
    assert 'Float[Array, "..."]' in printed
    assert "rows * event" not in printed


@pytest.mark.slow
def test_links_into_the_source_lead_to_definitions(site):
    folder, _ = site
    page = folder / "lecture" / "index.html"
    links = re.findall(r'href="([^"#]*)#(__codelineno-0-\d+)"><code>([\w.]+)', page.read_text())
    assert len(links) > 50
    for href, anchor, name in links:
        code = (page.parent / href / "index.html").read_text()
        line = re.sub("<[^>]+>", "", code.split(f'<a id="{anchor}"')[1].split("\n")[0])
        assert re.search(rf"\b{name.split('.')[-1]}\b", line), (name, line)


@pytest.mark.slow
def test_notebooks_are_pages_with_their_pictures(site):
    folder, _ = site
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    menu = re.findall(r"notebooks/(\w+)\.md", (ROOT / "mkdocs.yml").read_text())
    assert [notebook.stem for notebook in notebooks] == menu
    for notebook in notebooks:
        page = (folder / "notebooks" / notebook.stem / "index.html").read_text()
        pictures = re.findall(r'"image/(?:png|gif)"', notebook.read_text())
        assert page.count(f'src="../{notebook.stem}_') == len(pictures)


def public_names():
    """Each package with public names: its name, and for each of them the place it is from.

    Read from the source: importing all packages takes longer than all other tests here.
    """
    source = ROOT / "src"
    for file in source.rglob("__init__.py"):
        package = ".".join(file.parent.relative_to(source).parts)
        stub = file.with_suffix(".pyi")
        origin, public = {}, []
        for node in ast.parse((stub if stub.exists() else file).read_text()).body:
            if isinstance(node, ast.ImportFrom):
                module = ".".join(filter(None, [package if node.level else None, node.module]))
                origin |= {each.name: f"{module}.{each.name}" for each in node.names}
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                public = ast.literal_eval(node.value)
        if stub.exists():
            public = list(origin)
        if public:
            yield package, {name: origin.get(name, f"{package}.{name}") for name in public}


def docstrings():
    """Docstrings of packages, and of the names in their `__all__` with public methods."""
    source = ROOT / "src"
    for package, names in public_names():
        init = source.joinpath(*package.split("."), "__init__.py")
        yield package, ast.get_docstring(ast.parse(init.read_text()))
        for origin in names.values():
            module, _, name = origin.rpartition(".")
            file = source.joinpath(*module.split(".")).with_suffix(".py")
            for node in ast.parse(file.read_text()).body if file.exists() else ():
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                    yield origin, ast.get_docstring(node)
                    for each in node.body if isinstance(node, ast.ClassDef) else ():
                        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
                            yield f"{origin}.{each.name}", ast.get_docstring(each)


def examples():
    """The examples of docstrings as parameters."""
    for name, text in dict(docstrings()).items():
        codes = re.findall(
            r"^ *```python\n(.*?)^ *```", text or "", flags=re.DOTALL | re.MULTILINE
        )
        for code in codes:
            marks = pytest.mark.slow if name in SLOW_EXAMPLES else ()
            yield pytest.param(textwrap.dedent(code), id=name, marks=marks)


@pytest.mark.parametrize("code", list(examples()))
def test_the_example_of_a_docstring_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # With the settings of a user, not those of the other tests (conftest.py).
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        try:
            exec(compile(code, "example", "exec"), {"__name__": "example"})
        except ImportError as error:
            if "pip install" not in str(error):
                raise
            pytest.skip(str(error))
        finally:
            if "matplotlib.pyplot" in sys.modules:
                sys.modules["matplotlib.pyplot"].close("all")


def test_slow_examples_are_examples():
    assert {name for name, _ in docstrings()} >= SLOW_EXAMPLES


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site):
    folder, _ = site
    # Sphinx's inventory: four lines of heading, then a name a line, compressed.
    inventory = (folder / "objects.inv").read_bytes().split(b"\n", 4)[4]
    shown = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    packages = dict(public_names())
    assert {"jaxflow", "jaxflow.ode", "jaxflow.diffusion"} <= set(packages)
    missing = []
    for package, names in packages.items():
        for name, origin in names.items():
            places = [f"{package}.{name}", origin]
            # One package may have a name from another one, which has it from a module.
            parent, _, last = origin.rpartition(".")
            places.append(packages.get(parent, {}).get(last, origin))
            # A package is not shown itself; its names are looked for one by one.
            is_package = (ROOT / "src").joinpath(*origin.split(".")).is_dir()
            if not is_package and not set(places) & shown:
                missing.append(f"{package}.{name}")
    assert not missing


def is_in_source(dotted):
    """Whether `jaxflow.a.b.name` is a module, or a name that is written in its module."""
    place, names = ROOT / "src" / "jaxflow", dotted.split(".")[1:]
    while names and ((place / names[0]).is_dir() or (place / f"{names[0]}.py").exists()):
        place /= names.pop(0)
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    stub = file.with_suffix(".pyi")
    words = set(re.findall(r"\w+", (stub if stub.exists() else file).read_text()))
    return not names or names[0] in words


def test_names_in_sentences_are_in_the_source():
    assert is_in_source("jaxflow.ode.status.Status.DRIFTED")
    assert not is_in_source("jaxflow.ode.no_such_module")
    for page in PAGES:
        for code in re.findall(r"`(jaxflow\.[\w.]*\w)", page.read_text()):
            assert is_in_source(code), f"{page.name}: {code}"


def commands_of(page):
    """The commands of jaxflow on a page, in blocks of the shell and within sentences."""
    text = re.sub(r"^```(?!bash).*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for block, inline in re.findall(r"```bash\n(.*?)```|`([^`\n]+)`", text, flags=re.DOTALL):
        for line in (block or inline).splitlines():
            found = re.match(r"jaxflow ([a-z]+)(.*)", line)
            if found:
                yield found[1], found[2].split("#")[0]


def test_commands_have_the_options_that_pages_give_them():
    commands = {name: load_command(name) for name in COMMANDS}
    found = [each for page in (*PAGES, ROOT / "README.md") for each in commands_of(page)]
    assert len(found) > 10
    for command, rest in found:
        options = {option for each in commands[command].params for option in each.opts}
        assert set(re.findall(r"(?<!\S)(--?[a-z][a-z0-9-]*)", rest)) <= options | {"--help"}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "mkdocs.yml"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_pages_know_no_machine(page):
    text = page.read_text()
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users|mnt|opt)/", text)
    assert not re.findall(r"\b(?:session|sandbox)s?\b", text, flags=re.IGNORECASE)
