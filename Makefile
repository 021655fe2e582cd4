# Everything a user or a contributor runs. `make run` and `make test` need python3 (3.11 or newer) and make, nothing else:
# what is missing is installed into .venv, and Debian packages that only the tests use through apt when we may.

.PHONY: run demo test test-deep check format bench dashboards lock clean

PY := .venv/bin/python
CONFIG ?= config.yaml

run: .venv/.run
	$(PY) -m proxy run --config $(CONFIG)

demo: .venv/.dev
	$(PY) -m bench.demo

test: .venv/.dev
	deploy/install-packages node npm redis-server postgres chromium prometheus promtool prometheus-alertmanager amtool
	$(PY) -m pytest -n 2 --dist worksteal

test-deep: .venv/.dev
	deploy/install-packages node npm redis-server postgres chromium prometheus promtool prometheus-alertmanager amtool
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

# What Grafana shows and docs/dashboards.md, out of tools/dashboards.
dashboards: .venv/.dev
	$(PY) -m tools.dashboards

# The lock files: every version and hash, no registry address. Needs uv (`pip install uv`).
LOCK := uv pip compile pyproject.toml --universal --generate-hashes --no-header --no-annotate --python-version 3.11 -q
lock:
	$(LOCK) --group test --group lint -o requirements-dev.lock
	$(LOCK) -c requirements-dev.lock -o requirements.lock
	$(LOCK) -c requirements.lock --group bench -o requirements-bench.lock

.venv/.run: requirements.lock
	deploy/make-venv .venv requirements.lock
	@touch $@

.venv/.dev: requirements-dev.lock
	deploy/make-venv .venv requirements-dev.lock
	@touch $@ .venv/.run

.venv/.bench: requirements-bench.lock
	deploy/make-venv .venv/bench requirements-bench.lock
	@touch $@

clean:
	rm -rf .venv .make .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
