# Two commands do everything on a fresh machine, set-up included:
#   make demo    the main job: a made-up world plays live, is asked about, and the answers are checked
#   make test    lint, types and tests
# A plain install (demo) needs git, make, python3 >= 3.11 and python3-venv; tests also install Debian packages.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that share the tests; a file's tests stay together.
WORKERS ?= 2
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

.PHONY: demo test lint types pytest test-devices faults venv clean
.NOTPARALLEL:

demo: $(VENV)/.stamp-plain
	@$(BIN)/omnidrop demo

test: lint types pytest

lint: $(VENV)/.stamp-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.stamp-dev
	@$(BIN)/mypy

# The last line printed is pytest's own. The components (broker, RTSP server, sound server) come from the system.
pytest: $(VENV)/.stamp-dev
	@sh tests/tools/apt-packages
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

# Camera and microphone on a real V4L2 device and ALSA card, in a small machine of qemu (a minute or two; Debian, Ubuntu:
# apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio kmod). Writes benchmarks/devices.md.
test-devices: $(VENV)/.stamp-dev
	@OMNIDROP_DEVICES_REPORT=benchmarks/devices.md $(BIN)/python -m pytest -q -m device -rs tests/devices

# What live sources go through, for as long as it takes (the soak alone: an hour). Some faults only:
# make faults FAULTS="--only restarts cut"; in seconds instead of minutes: FAULTS=--quick.
faults: $(VENV)/.stamp-dev
	@sh tests/tools/apt-packages
	@$(BIN)/python -m tests.faults --json benchmarks/faults.json $(FAULTS)

venv: $(VENV)/.stamp-dev

# make runs a rule again when pyproject.toml is newer than its stamp; otherwise nothing is asked of the network.
$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is missing or older. Install it (Debian: apt-get install python3)" >&2; \
	  echo "or name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing. Install it (Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.stamp-plain: pyproject.toml | $(VENV)/.stamp-venv
	@echo "Installing into $(VENV) (about 1.5 GB; two minutes or so, once) ..." >&2
	@$(PIP) -e .
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml | $(VENV)/.stamp-venv
	@echo "Installing into $(VENV), tests and tools included (about 1.5 GB; two minutes or so, once) ..." >&2
	@$(PIP) -e '.[dev,mic]'
	@touch $(VENV)/.stamp-plain $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
