# Everything runs in .venv, made on first use from pyproject.toml alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test compose-test lint bench protos lock clean
demo: .venv/ready
	@$(BIN)/gpuxds demo $(ARGS)

# The compose stack's tests need Docker and images: compose/test brings both.
test: .venv/ready
	$(BIN)/pytest --ignore=tests/compose $(ARGS)

compose-test: .venv/ready
	compose/test $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy xds/gpuxds tests
	$(BIN)/lint-imports

bench: .venv/ready
	$(BIN)/python -m tests.bench $(ARGS)

protos: .venv/ready
	$(BIN)/python -m grpc_tools.protoc -I xds --python_out=xds --pyi_out=xds xds/gpuxds/wire/xds.proto

# What the images install, with hashes, for every Python we support.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock'
lock: .venv/ready
	$(LOCK) pyproject.toml --output-file compose/control-plane.lock
	$(LOCK) compose/proxy.in --output-file compose/proxy.lock

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache dist
