# Every task of the project; `make` alone lists them. Needs Python 3.11+ and make; the rest is installed into .venv.

PORT ?= 8080
PARAMS ?= params.yaml
GPUS ?= 1
RUN ?= runs/latest
# the first Python that is new enough, else python3, about which scripts/install.py then says what is wrong
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; print("$(p)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)) python3)

BIN := .venv/bin
STARTER_VERSION := 0.1.0
STARTER := model_store/seefood-$(STARTER_VERSION).mar
PINS := pyproject.toml constraints.txt scripts/install.py

.DELETE_ON_ERROR:
.PHONY: help setup data train evaluate export archive serve stop predict test lint format clean

help: ## List every target (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed-serve: $(PINS)
	@$(PYTHON) scripts/install.py serve
.venv/installed-train: $(PINS) | .venv/installed-serve
	@$(PYTHON) scripts/install.py serve train
.venv/installed-dev: $(PINS) | .venv/installed-serve
	@$(PYTHON) scripts/install.py serve train dev

setup: .venv/installed-serve .venv/installed-train .venv/installed-dev ## Install everything into .venv (serve alone needs far less)

data: .venv/installed-train ## Download and verify the real Food-101 into DATA (default: data), about 5 GB
	@$(BIN)/python training/data.py $(or $(DATA),data)

train: .venv/installed-train ## Train: DATA=photos [PARAMS=file WEIGHTS=file GPUS=4]; no DATA: generated pictures
	@out=runs/$$(date -u +%Y%m%d-%H%M%S) && \
	$(if $(filter-out 1,$(GPUS)),$(BIN)/torchrun --nproc-per-node=$(GPUS),$(BIN)/python) training/train.py \
		$(if $(DATA),--data $(DATA)) --params $(PARAMS) $(if $(WEIGHTS),--weights $(WEIGHTS)) --out $$out && \
	ln -sfn $$(basename $$out) runs/latest && echo "$$out/checkpoint.pt is written. Next: make evaluate, make export VERSION=1.0.0"

evaluate: .venv/installed-train ## Top-1, top-5, F1, confusion matrix on photos never trained on: [RUN=runs/latest DATA=photos]
	@$(BIN)/python training/evaluate.py --checkpoint $(RUN)/checkpoint.pt $(if $(DATA),--data $(DATA)) --out $(RUN)

ifneq ($(filter export archive,$(MAKECMDGOALS)),)
ifndef VERSION
$(error which version? make $(filter export archive,$(MAKECMDGOALS)) VERSION=1.0.0)
endif
endif

# exported anew when the run has changed since; the training packages are needed for nothing else here
build/%/model.onnx: $(wildcard $(RUN)/checkpoint.pt)
	@$(MAKE) -s .venv/installed-train
	@$(BIN)/python training/export.py --checkpoint $(RUN)/checkpoint.pt --out build/$*

export: build/$(VERSION)/model.onnx ## Export a run for serving into build/VERSION: VERSION=1.0.0 [RUN=runs/latest]

archive: .venv/installed-serve build/$(VERSION)/model.onnx ## Pack build/VERSION into model_store/seefood-VERSION.mar: VERSION=1.0.0
	@$(BIN)/python scripts/archive.py build/$(VERSION) --version $(VERSION)

$(STARTER): $(wildcard handler/* model_store/starter/*) scripts/archive.py | .venv/installed-serve
	@$(BIN)/python scripts/archive.py model_store/starter --version $(STARTER_VERSION) --force

serve: .venv/installed-serve $(STARTER) ## Serve the newest archive until Ctrl-C: [PORT=8080 VERSION=1.0.0 HOST=0.0.0.0]
	@exec $(BIN)/python scripts/serve.py --port $(PORT) $(if $(HOST),--host $(HOST)) $(if $(VERSION),--version $(VERSION))

stop: .venv/installed-serve ## End a `make serve` that runs elsewhere: [PORT=8080]
	@$(BIN)/python scripts/serve.py --stop --port $(PORT)

predict: .venv/installed-serve $(STARTER) ## Name the dishes in a folder without a server: PHOTOS=folder [OUT=dishes.csv]
	@$(if $(PHOTOS),,echo "error: which photos? make predict PHOTOS=folder" >&2; exit 1)
	@$(BIN)/python scripts/predict.py $(PHOTOS) $(if $(OUT),--out $(OUT)) $(if $(VERSION),--version $(VERSION))

test: lint $(STARTER) ## Lint, type check and all tests
	@$(BIN)/python -m pytest

lint: .venv/installed-dev ## Ruff (style and format) and mypy (types)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: .venv/installed-dev ## Let ruff rewrite the style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean: ## Remove .venv, caches and everything that can be built again; runs/ and data/ stay
	@rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache $(STARTER)
