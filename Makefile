# Everything runs in .venv, made on first use from pyproject.toml alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench protos clean
demo: .venv/ready
	@$(BIN)/gpuxds demo $(ARGS)

test: .venv/ready
	$(BIN)/pytest $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy xds/gpuxds tests
	$(BIN)/lint-imports

bench: .venv/ready
	$(BIN)/python -m tests.bench $(ARGS)

protos: .venv/ready
	$(BIN)/python -m grpc_tools.protoc -I xds --python_out=xds --pyi_out=xds xds/gpuxds/wire/xds.proto

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache dist
