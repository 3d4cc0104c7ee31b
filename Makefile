# Everything runs in .venv, which `make` owns, fills as far as the target needs and rebuilds when it is broken.
# With a ROS distribution sourced, its rclpy and messages are used; without one, the wheels of ROS 2 Jazzy.

VENV := .venv
BIN := $(VENV)/bin
OUT := demo_output
MINUTES := 30
WORKERS := 3

ifneq ($(words $(CURDIR)),1)
$(error $(CURDIR) has a space in its path, which make cannot handle: move the checkout elsewhere)
endif

# The wheels' marker for "library path is set" is inherited from any environment that holds them.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONHOME VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK := 1

ifdef ROS_DISTRO
PYTHONS := $(or $(PYTHON),python3)
VENV_FLAGS := --system-site-packages
CONSTRAINTS := constraints-ros.txt
DEMO_EXTRAS := demo,bags
else
PYTHONS := $(or $(PYTHON),python3 python3.12 python3.11 python3.10)
CONSTRAINTS := constraints.txt
DEMO_EXTRAS := demo,bags,ros
INTERFACES := ,interfaces
endif
TEST_EXTRAS := $(DEMO_EXTRAS)$(INTERFACES),ray,onnxruntime,train,test,dev,docs

PYTEST = $(BIN)/python -m pytest
IN_WORKERS = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Without the notice that mkdocs-material prints of other versions of MkDocs.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# An environment is good for one folder and one ROS distribution.
IDENTITY := $(CURDIR) $(ROS_DISTRO)

.NOTPARALLEL:
.PHONY: help demo test test-slow test-nightly soak check docs environment hooks clean FORCE

help:
	@echo 'make demo         segment a drive through real ROS 2 topics; results in $(OUT)/'
	@echo 'make test         run the tests (installs PyTorch too)'
	@echo 'make test-slow    run the exhaustive tests that make test leaves out; make test-nightly for hours of them'
	@echo 'make soak         run the node under overload and faults for MINUTES=$(MINUTES); figures in build/soak.json'
	@echo 'make check        lint, format, type checks and the documentation, as pre-commit and CI do'
	@echo 'make docs         build the documentation into site/; broken links fail'
	@echo 'make environment  only install what the tests need into $(VENV)/'
	@echo 'make hooks        run the checks before every git commit'
	@echo 'make clean        remove $(VENV)/ and everything built'
	@echo
	@echo 'PYTHON=/path/to/python3 chooses the interpreter (3.10, 3.11 or 3.12); OUT=folder the demo output.'

demo: $(VENV)/demo.installed
	$(BIN)/lwseg demo --out $(OUT)

# In three workers, as tests of processes wait, then alone what measures time or memory. A worker
# computes with one thread: two that spin for each other's cores are slower than one.
test: $(VENV)/test.installed
	@failed=0; \
	OMP_NUM_THREADS=1 $(PYTEST) -m 'not slow and not nightly and not alone' $(IN_WORKERS) test || failed=1; \
	$(PYTEST) -m 'alone and not slow and not nightly' $$(grep -rl --include='*.py' 'mark\.alone' test) || failed=1; \
	exit $$failed

test-slow: $(VENV)/test.installed
	OMP_NUM_THREADS=1 $(PYTEST) -m slow $(IN_WORKERS) test

test-nightly: $(VENV)/test.installed
	OMP_NUM_THREADS=1 $(PYTEST) -m 'slow or nightly' $(IN_WORKERS) test

soak: $(VENV)/test.installed
	$(BIN)/python test/soak.py --minutes $(MINUTES) --out build/soak.json

check: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MKDOCS)

docs: $(VENV)/docs.installed
	$(MKDOCS)

environment: $(VENV)/test.installed

hooks: $(VENV)/test.installed
	$(BIN)/pre-commit install

clean:
	rm -rf $(VENV) build install log dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/demo.installed: EXTRAS = $(DEMO_EXTRAS)
$(VENV)/test.installed: EXTRAS = $(TEST_EXTRAS)
$(VENV)/test.installed: AFTERWARDS = $(if $(INTERFACES),$(BIN)/python test/interfaces/build_interfaces.py)
$(VENV)/docs.installed: EXTRAS = docs
$(VENV)/%.installed: AFTERWARDS = true
$(VENV)/%.installed: $(VENV)/identity setup.py constraints.txt constraints-ros.txt Makefile
	@echo 'Installing lwseg_ros[$(EXTRAS)] into $(VENV): some minutes, once'
	@mv $< $(VENV)/installing
	@$(BIN)/python -m pip install -qq --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	@$(AFTERWARDS)
	@mv $(VENV)/installing $< && touch $@

# Left as it is, time stamp included, while it fits and works; it is away during an installation, so that
# an interrupted one starts afresh (from pip's cache).
$(VENV)/identity: FORCE
	@if [ "$$(cat $@ 2>/dev/null)" = '$(IDENTITY)' ] && $(BIN)/python -m pip --version >/dev/null 2>&1; \
	then exit 0; fi; \
	rm -rf $(VENV); \
	problem='no Python 3.10, 3.11 or 3.12 found among: $(PYTHONS). Install one, or run make PYTHON=/path/to/python3'; \
	for python in $(PYTHONS); do \
	    $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || continue; \
	    if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	        problem="$$python cannot create environments: install its venv module (Debian, Ubuntu: apt install python3-venv)"; \
	        continue; \
	    fi; \
	    echo "Creating $(VENV) with $$($$python --version)"; \
	    $$python -m venv $(VENV_FLAGS) $(VENV) && $(BIN)/python -m pip install -qq --upgrade pip || exit 1; \
	    echo '$(IDENTITY)' > $@; \
	    exit 0; \
	done; \
	echo "$$problem." >&2; exit 1
