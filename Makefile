# The habits of this project, a target each. Every target sets itself up in .venv.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: help demo test test-slow coverage mutants bare trust lint docs chaos bench bench-step bench-traces bench-diffusion bench-engine bench-likelihood bench-scaling bench-small bench-conditional bench-geometry bench-images bench-mixed bench-newcomer bench-sbi clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# uv installs faster where it is there; pip does the same.
.venv/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -e '.[test,bench]'; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,bench]'; \
	fi
	touch $@

demo: .venv/.ready  ## train on 8 gaussians and images of digits; pictures and a table in demo/
	$(BIN)/jaxflow demo --out demo --overwrite

test: lint  ## lint, then the test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: .venv/.ready  ## the longer checks as well, compiled as for users
	XLA_FLAGS=--xla_force_host_platform_device_count=8 $(BIN)/python -m pytest -n $(WORKERS) -m "slow or not slow"

coverage: .venv/.ready  ## all tests, the longer ones too, counting lines and branches of src; fails below 95 %
	$(BIN)/python -m pytest -n $(WORKERS) -m "slow or not slow" --cov --cov-report=term-missing:skip-covered

mutants: .venv/.ready  ## small changes of the mathematics, each of which a test should notice; SAMPLE=60 SEED=0
	$(BIN)/python tests/mutants.py --sample $(or $(SAMPLE),60) --seed $(or $(SEED),0)

bare:  ## the README's ten lines in a fresh environment with no extra
	$(PYTHON) tests/bare.py

trust: .venv/.ready  ## every promise about a number, tried; writes the table of docs/accuracy.md; DATA=DIR adds real tables
	$(BIN)/python benchmarks/trust.py $(if $(DATA),--data $(DATA))

lint: .venv/.ready  ## ruff, pyright, the floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: .venv/.ready  ## the documentation as pages in site/
	$(BIN)/mkdocs build --strict

chaos: .venv/.ready  ## fits killed and resumed, and damaged files read
	$(BIN)/python tests/chaos/kill_resume.py --times 50
	$(BIN)/python tests/chaos/hostile_files.py --files 1000

bench-small: .venv/.ready .venv-peers/.ready  ## small tables with the defaults, beside simple densities and zuko (docs/benchmarks.md)
	$(BIN)/python benchmarks/small.py --peers .venv-peers/bin/python

bench-conditional: .venv/.ready  ## a target given features, beside regressions (docs/benchmarks.md); DATA=DIR adds two tables of UCI
	$(BIN)/python benchmarks/conditional.py $(if $(DATA),--data $(DATA))

bench-geometry: .venv/.ready  ## densities on spheres and tori; MINUTES=30 for each training, DATA=DIR adds events on Earth and torsion angles
	$(BIN)/python benchmarks/geometry.py --minutes $(or $(MINUTES),30) $(if $(DATA),--data $(DATA))

bench-images: .venv/.ready  ## bits/dim of digits with every error; DATA=DIR adds MNIST and NAME.npz, QUICK=1 for a look
	$(BIN)/python benchmarks/images.py $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA))
	$(BIN)/python benchmarks/images.py $(if $(QUICK),--quick) --classes

bench-sbi: .venv/.ready  ## posteriors of eight simulators beside reference posteriors; DATA=DIR has TASK.npz of sbibm, ARGS='--tasks slcp --seconds 150'
	$(BIN)/python benchmarks/sbi.py --data $(or $(DATA),data) $(ARGS)

bench-mixed: .venv/.ready .venv-tables/.ready  ## tables of labels, counts and gaps, beside the truth and simple densities; ARGS='--tables cities --again'
	$(BIN)/python benchmarks/mixed.py --peers .venv-tables/bin/python $(ARGS)

bench-newcomer: .venv/.ready .venv-tables/.ready  ## twenty public tables by the command line, with no option but a time limit
	$(BIN)/python benchmarks/newcomer.py --data data/mixed --peers .venv-tables/bin/python $(ARGS)

bench: .venv/.ready  ## what users wait for, in less than five minutes; beside zuko where .venv-peers is there
	$(BIN)/python benchmarks/speed.py $(if $(wildcard .venv-peers/.ready),--peers .venv-peers/bin/python)

bench-step: .venv/.ready  ## training steps, a loop of one's own and adjoint memory (docs/benchmarks.md)
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/own_loop.py
	$(BIN)/python benchmarks/adjoint_memory.py

bench-traces: .venv/.ready $(if $(QUICK),,.venv-peers/.ready)  ## exact against stochastic traces, beside zuko and torchdiffeq; QUICK=1 for a look
	$(BIN)/python benchmarks/traces.py $(if $(QUICK),--quick,--peers .venv-peers/bin/python)

bench-engine: .venv/.ready $(if $(QUICK),,.venv-peers/.ready)  ## solves, gradients and the error of log-densities, beside diffrax and torchdiffeq; QUICK=1 for a look
	$(BIN)/python benchmarks/engine.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/gradients.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/random_fields.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/accuracy.py $(if $(QUICK),--quick)
	$(if $(QUICK),,$(BIN)/python benchmarks/work_precision.py --peers .venv-peers/bin/python)

bench-diffusion: .venv/.ready  ## samplers, bounds, guidance and digits of diffusion models; QUICK=1 for a look
	$(BIN)/python benchmarks/diffusion.py $(if $(QUICK),--quick)

bench-likelihood: .venv/.ready $(if $(QUICK),,.venv-peers/.ready)  ## held-out likelihood against time, beside zuko, FFJORD's way and OT-CFM; DATA=DIR adds larger tables, QUICK=1 for a look
	$(BIN)/python benchmarks/likelihood.py $(if $(QUICK),--quick,--peers .venv-peers/bin/python $(if $(DATA),--data $(DATA)))
	$(BIN)/python benchmarks/sines.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/reverse_kl.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/penalties.py $(if $(QUICK),--quick)

bench-scaling: .venv/.ready  ## what many devices cost, on simulated ones; QUICK=1 for a look
	$(BIN)/python benchmarks/scaling.py $(if $(QUICK),--quick)

# The peers have an environment of their own: torch is no dependency of jaxflow.
.venv-peers/.ready: benchmarks/peers/requirements.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Packages that carry tables.
.venv-tables/.ready: benchmarks/peers/tables.txt
	test -x .venv-tables/bin/python || $(PYTHON) -m venv .venv-tables
	.venv-tables/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

clean:  ## remove what the targets made
	rm -rf .venv .venv-peers .venv-tables demo site .pytest_cache .ruff_cache
