# Two commands do everything on a fresh machine with Python 3.11 to 3.13: `make quickstart` and `make test`.
# Both make .venv first, with uv where it is on the PATH (seconds instead of minutes).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where to look for PyTorch's CPU build on a machine without an NVIDIA driver; empty: wherever pip looks anyway.
TORCH_CPU_INDEX ?=
FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
NVIDIA := $(shell command -v nvidia-smi 2>/dev/null)
INDEX := $(if $(NVIDIA),,$(TORCH_CPU_INDEX))

RUN := outputs/quickstart/checkpoints
TEST := src/tiny_audio/pocket/speech
HELD_BACK := 0012

.PHONY: setup quickstart test lint clean

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null 2>&1; then \
	  VIRTUAL_ENV=$(VENV) uv pip install $(if $(FIND_LINKS),--find-links "$(FIND_LINKS)") \
	    $(if $(INDEX),--index "$(INDEX)" --index-strategy unsafe-best-match) -e '.[dev]'; \
	else \
	  echo "Installing into $(VENV) (a minute or two)..."; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    $(if $(INDEX),--extra-index-url "$(INDEX)") -e '.[dev]'; \
	fi
	@touch $@

# The main job on what is bundled: train a projector, then transcribe a recording that it was never shown.
quickstart: setup
	$(BIN)/ta train experiment=quickstart
	@wrote=$$($(BIN)/ta infer checkpoint=$(RUN)/final.pt audio=$(TEST)/audio/test/$(HELD_BACK).flac) && \
	  printf '\n%s\n  said:   ' 'A recording that was held back ($(TEST)/audio/test/$(HELD_BACK).flac)' && \
	  sed -n 's/.*$(HELD_BACK)\.flac.*"text": "\([^"]*\)".*/\1/p' $(TEST)/test.jsonl && \
	  printf '  wrote:  %s\n' "$$wrote"

# A file at a time on two cores: what a file's tests share is made once. tests/conftest.py says which come first.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) outputs build dist
