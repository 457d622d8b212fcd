# The steps of CI and of a new user. `make demo` and `make test` install what they need; a second call installs nothing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PYTHON

.PHONY: install demo test test-long test-fast check format clean slurm-up slurm-down torture-privacy torture-tracking docs-images image image-test image-save
.PHONY: bench-cohort bench-evaluate bench-preprocess bench-tracking bench-train bench-loader fuzz
.DEFAULT_GOAL := install

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt CMakeLists.txt .ci/packages.sh $(wildcard csrc/*.cpp csrc/*.hpp)
	@test ! -L $(VENV) || { echo "$(VENV) is a link to another checkout's environment, which would then be this one's: remove the link"; exit 1; }
	@.ci/packages.sh
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "import sys; assert sys.version_info >= (3, 11), 'dpdt needs Python 3.11 or newer; set PYTHON=python3.11'"
	@echo "Installing dpdt and its pinned dependencies into $(VENV) (one to three minutes)"
	@$(BIN)/pip install --disable-pip-version-check -c constraints.txt scikit-build-core pybind11 cmake ninja torch > $(VENV)/pip.log 2>&1 || { tail -n 30 $(VENV)/pip.log; exit 1; }
	@$(BIN)/pip install --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]" >> $(VENV)/pip.log 2>&1 || { tail -n 30 $(VENV)/pip.log; exit 1; }
	@touch $@

demo: install
	@$(BIN)/dpdt demo --folder build/demo

# All but what repeats something many times or takes a rehearsal's minutes: that is `make test-long`. CI runs both.
test: install
	$(BIN)/pytest -n 2 --dist loadfile --durations 20 -m "not long"

test-long: install
	$(BIN)/pytest -n 2 --dist loadfile --durations 20 -m long

# Every room in seven minutes on two cores, without servers, Slurm, browsers and containers: while one is writing.
test-fast: install
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not slurm"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(wildcard csrc/*.cpp csrc/*.hpp tests/csrc/*.cpp)
	$(BIN)/mypy

# The documentation with the references generated from the code, into build/docs/site; warnings are errors.
.PHONY: docs
docs: install
	@rm -rf build/docs/src && mkdir -p build/docs && cp -r docs build/docs/src && rm build/docs/src/reference.py
	@$(BIN)/python docs/reference.py build/docs
	$(BIN)/zensical build --strict --clean --config-file build/docs/mkdocs.yml

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard csrc/*.cpp csrc/*.hpp tests/csrc/*.cpp)

# The cohort stage on 592,000 rows in the form of three institutions: time and peak memory.
bench-cohort: install
	@$(BIN)/python benchmarks/cohort.py

# Shards against opencv-python and scipy, one thread: a table, and build/bench/preprocess.json.
bench-preprocess: install
	@$(BIN)/python benchmarks/preprocess.py

# The bootstrap against a loop over scikit-learn, one core: a table, and build/bench/evaluate.json.
bench-evaluate: install
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/evaluate.py

# A whole study's evaluation and report, all but the network: two processes; time and peak memory.
.PHONY: bench-evaluate-study
bench-evaluate-study: install
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/evaluate_study.py

# The report of 200 runs x 5 domains x 28 labels: seconds, size of the page, seconds until it is open.
.PHONY: bench-report
bench-report: install
	@PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python benchmarks/report.py

# A training step of three networks, with each way to clip: a table, and build/bench/train.json. Half an hour of a quiet machine.
bench-train: install
	@$(BIN)/python benchmarks/train.py

# A head on features of 10,000 images, with DP at epsilon 1: a table, and build/bench/head.json.
.PHONY: bench-head
bench-head: install
	@PYTHONPATH=. $(BIN)/python benchmarks/head.py

# What each setting of a recipe brings at the same epsilon, on synthetic hospitals: a table, and build/bench/utility.json.
# Hours, which can be stopped and go on; SHORT=1: one seed, epsilon 8, minutes.
.PHONY: bench-utility
bench-utility: install
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/utility.py $(if $(SHORT),--short)

# The whole way with the paper's 968,792 images, made up and small: time, memory, files, growth a stage. FRACTION=0.01: a hundredth.
.PHONY: rehearsal
FRACTION ?= 1
rehearsal: install
	@$(BIN)/python benchmarks/rehearsal.py --fraction $(FRACTION)

# The loader against memory copies and the disk: a table, and build/bench/loader.json.
bench-loader: install
	@$(BIN)/python benchmarks/loader.py

# Is what this machine's GPUs compute right, and how fast are they? A table, and build/bench/gpu_check.json; under eight minutes, no
# network. With the venv of `make install` if there is one, else with $(PYTHON)'s torch and what `make gpu-carry` put into
# build/gpu-carry on another machine, for the Python of GPU_PYTHON. GPU_CHECK="--device cpu --small" tries the script itself.
.PHONY: gpu-check gpu-carry
GPU_CHECK  ?=
GPU_PYTHON ?= 3.12
GPU_VENV   := $(if $(wildcard $(VENV)/.installed),$(VENV),build/gpu-venv)
gpu-check:
	@test -x $(GPU_VENV)/bin/python || benchmarks/gpu_install.sh $(GPU_VENV)
	@PYTHONPATH=. $(GPU_VENV)/bin/python benchmarks/gpu_check.py $(GPU_CHECK)

gpu-carry:
	@$(PYTHON) -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) \
		--implementation cp $(foreach old,_2_28 _2_27 _2_26 _2_24 _2_17 2014 _2_12 2010 _2_5 1,--platform manylinux$(old)_x86_64) \
		-c constraints.txt -r benchmarks/gpu_needs.txt -d build/gpu-carry
	@du -sh build/gpu-carry

# Trainings killed at 200 random places: does the ledger count every noisy step? About two minutes.
torture-privacy: install
	$(BIN)/python -m tests.torture_privacy --kills 200 --output build/torture/privacy.json

# Trainings of two to four processes: 100 stops in good order, 100 times one is killed. Ten minutes of a quiet machine.
.PHONY: torture-ranks
torture-ranks: install
	$(BIN)/python -m tests.torture_ranks --output build/torture/ranks.json

# Sync of 100 runs, and what feeding a server costs a training: a table, and build/bench/tracking.json. Six minutes;
# PART=syncs or PART=trainings for one of the two.
PART ?=
bench-tracking: install
	@PYTHONPATH=. $(BIN)/python benchmarks/tracking.py $(PART)

# PROCESSES that sync at once, each with MLflow loaded, into one new SQLite file or STORE; needs `make demo` before.
PROCESSES ?= 50
STORE ?=
torture-tracking: install
	@$(BIN)/python -m tests.torture_tracking build/demo --processes $(PROCESSES) $(if $(STORE),--uri $(STORE))

# The pictures of the documentation, from `make demo`'s study. Needs Debian's chromium.
docs-images: install
	@$(BIN)/dpdt sync build/demo
	@$(BIN)/python -m tests.browser.pages build/demo

# A throw-away Slurm of four nodes on this machine, below build/slurm; `make slurm-up SLURM=--accounting` has sacct.
SLURM ?=
slurm-up:
	@slurm/dev/start.sh $(SLURM)

slurm-down:
	@slurm/dev/stop.sh

# libFuzzer over every codec path and the reader of shards, FUZZ_SECONDS each. Needs clang and its sanitizers' libraries.
FUZZ_SECONDS ?= 60
fuzz: install
	@clang++ --version >/dev/null 2>&1 || { echo "make fuzz needs clang: sudo apt-get install clang libclang-rt-14-dev"; exit 1; }
	$(BIN)/cmake -S . -B build/fuzz/programs -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DDPDT_PYTHON=OFF -DDPDT_FUZZ=ON > build/fuzz-cmake.log
	$(BIN)/cmake --build build/fuzz/programs -j 2
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt atheris
	$(BIN)/python tests/csrc/fuzz.py --seconds $(FUZZ_SECONDS)

# 100,000 damaged model bundles in one process: each is refused in one line, or whole. Minutes.
.PHONY: fuzz-bundle
fuzz-bundle: install
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz_bundle

# Five hospitals that do not pool: five folders that the others cannot read; only bundles and results are carried. Minutes.
.PHONY: demo-apart
demo-apart: install
	@$(BIN)/python -m tests.rehearsal build/demo-apart

# The container image with podman or docker, and the checks of it; docs/containers.md.
image:
	@docker/build.sh cpu

image-test: install
	@docker/test.sh
	@docker/compose-test.sh build/image-test/image/demo

# An archive for a machine without a network, and for Apptainer. IMAGE=cuda: after `docker/build.sh cuda`.
IMAGE ?= cpu
image-save:
	@docker/save.sh $(IMAGE)

clean:
	rm -rf build $(VENV)
