# Every target makes the virtual environment where there is none.
PYTHON ?= python3
VENV := .venv
# Python bindings alone of the TensorRT versions that the engine code is held to; its libraries stand on no public index.
TENSORRT := 10.16.1.11 11.4.0.106
# Checkers of packages whose own pins exclude ours: bioimage.io's, and Triton's client and server.
CHECKERS := bioimageio.core==0.11.0 tritonclient==2.73.0 nvidia-pytriton==0.7.0
READY := $(VENV)/.ready
BIN := $(VENV)/bin
DEMO := demo
# Threads that spin while they wait slow every neighbour on a shared machine down.
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test lint benchmark soak gpu-check web format clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version)'
	@echo "installing into $(VENV), about 7 GB: PyTorch with its CUDA libraries is most of it"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	for version in $(TENSORRT); do $(BIN)/python -m pip install --no-deps --upgrade --target $(VENV)/tensorrt-$$version \
		tensorrt-cu13-bindings==$$version || echo "no bindings of TensorRT $$version: their test is skipped"; done
	for checker in $(CHECKERS); do $(BIN)/python -m pip install --no-deps $$checker || echo "no $$checker: its test is skipped"; done
	@touch $(READY)

# The main job end to end: export the demo checkpoint, verify the bundle, segment frames with it.
# FRAMES=DIR takes real frames (PNG, TIFF or JPEG, 512 x 512) in place of the phantoms.
demo: $(READY)
	$(BIN)/breastseg-export demo --output $(DEMO)/bundle --force $(if $(FRAMES),--frames '$(FRAMES)')
	$(BIN)/breastseg verify $(DEMO)/bundle $(if $(FRAMES),--frames '$(FRAMES)')
	$(if $(FRAMES),,$(BIN)/breastseg phantoms --output $(DEMO)/phantoms --force)
	rm -rf $(DEMO)/masks
	$(BIN)/breastseg segment $(DEMO)/bundle '$(if $(FRAMES),$(FRAMES),$(DEMO)/phantoms)' --output $(DEMO)/masks --overlay
	@echo "parity report: $(DEMO)/bundle/report.html"
	@echo "masks and overlays: $(DEMO)/masks"

# Two processes, whole files each: fixtures are shared inside a file.
test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Against the paper's pipeline and the peers, in turn, in one run; options of ours go into BENCHMARK.
benchmark: $(READY)
	$(BIN)/python -m pytest --benchmark $(BENCHMARK)

# Streams, threads and openings for long, on a bundle for small frames so that it takes minutes.
soak: $(READY)
	test -d $(DEMO)/small || $(BIN)/breastseg-export demo --output $(DEMO)/small --size 64 --precision fp32
	$(BIN)/python -m breastseg_benchmark.soak $(DEMO)/small $(SOAK)

# The first ten minutes on a machine with a GPU. BREASTSEG_DEMO_BUNDLE names a bundle made elsewhere; without it, the demo's.
gpu-check: $(READY)
	test -n "$$BREASTSEG_DEMO_BUNDLE" || test -d $(DEMO)/bundle || $(BIN)/breastseg-export demo --output $(DEMO)/bundle
	$(BIN)/breastseg gpu-check $(if $(BREASTSEG_DEMO_BUNDLE),'$(BREASTSEG_DEMO_BUNDLE)',$(DEMO)/bundle)

# The web page of the demo, on the loopback alone.
web: $(READY)
	test -d $(DEMO)/bundle || $(BIN)/breastseg-export demo --output $(DEMO)/bundle
	$(BIN)/breastseg package $(DEMO)/bundle --for web --output $(DEMO)/web --force
	@echo "open http://127.0.0.1:8000"
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(DEMO)/web 8000

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO)
