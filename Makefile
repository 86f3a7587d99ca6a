# Every task of the project; `make` alone lists them. Needs Python 3.11+ and make; the rest is installed into .venv.

PORT ?= 8080
PARAMS ?= params.yaml
GPUS ?= 1
RUN ?= runs/latest
# the first Python that is new enough, else python3, about which scripts/install.py then says what is wrong
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; print("$(p)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)) python3)

BIN := .venv/bin
STARTER_VERSION := 0.2.0
STARTER := model_store/seefood-$(STARTER_VERSION).mar
PINS := pyproject.toml constraints.txt scripts/install.py

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup data ingest train profile bench-train sweep evaluate report promote track mlflow pipeline remote push pull \
	export compare archive inspect serve stop rollout rollback status releases predict bench tune \
	image tools-image run-image compose sbom preflight deploy doctor destroy smoke test test-all container-test lint format clean

help: ## List every target (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed-serve: $(PINS)
	@$(PYTHON) scripts/install.py serve
.venv/installed-train: $(PINS)
	@$(PYTHON) scripts/install.py serve train
.venv/installed-cloud: $(PINS)
	@$(PYTHON) scripts/install.py serve cloud
.venv/installed-dev: $(PINS)
	@$(PYTHON) scripts/install.py serve train cloud dev

setup: .venv/installed-dev ## Install everything into .venv (serve alone needs far less)

data: .venv/installed-train ## Download and verify the real Food-101 into DATA (default: data), about 5 GB
	@$(BIN)/python -m training.data.sets $(or $(DATA),data)

ingest: .venv/installed-train ## New labelled photos become a new data version: FROM=folder|list.csv [DATA=data/food NEW_CLASSES=1]
	@$(if $(FROM),,echo "error: which photos? make ingest FROM=folder" >&2; exit 1)
	@$(BIN)/python -m training.data.ingest $(FROM) --data $(or $(DATA),data/food) --params $(PARAMS) $(if $(NEW_CLASSES),--new-classes)

# a store of its own for each start of the ranks: torchrun would else keep the addresses of ranks that are no more
TRAIN = $(if $(filter-out 1,$(GPUS)),TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 $(BIN)/torchrun --standalone --nproc-per-node=$(GPUS) \
	--max-restarts=3,$(BIN)/python) -m training.train

train: .venv/installed-train ## Train: DATA=photos [PARAMS=file WEIGHTS=file GPUS=4 RESUME=runs/X]; no DATA: generated pictures
	@out=$(or $(RESUME),runs/$$(date -u +%Y%m%d-%H%M%S)) && \
	$(TRAIN) --out $$out $(if $(RESUME),--resume,$(if $(DATA),--data $(DATA)) --params $(PARAMS) $(if $(WEIGHTS),--weights $(WEIGHTS))) && \
	ln -sfn $$(basename $$out) runs/latest && echo "$$out/checkpoint.pt is written. Next: make evaluate, make export VERSION=1.0.0"

profile: .venv/installed-train ## Where a training step's time goes: a trace and the top costs [DATA=photos PARAMS=file WEIGHTS=file]
	@$(BIN)/python -m training.speed.profiling $(if $(DATA),--data $(DATA)) --params $(PARAMS) $(if $(WEIGHTS),--weights $(WEIGHTS))

bench-train: .venv/installed-train ## The training loop's speed beside a bare loop over timm's loader: [DATA=photos]
	@$(BIN)/python -m training.speed.bench $(if $(DATA),--data $(DATA)) --params $(PARAMS)

sweep: .venv/installed-train ## Search hyper-parameters: DATA=photos [TRIALS=20 PARAMS=params.yaml NAME=sweep SPACE=file]
	@$(BIN)/python -m training.sweep.sweep $(if $(DATA),--data $(DATA)) --params $(PARAMS) $(if $(SPACE),--space $(SPACE)) \
		--out runs/$(or $(NAME),sweep) --trials $(or $(TRIALS),20)

evaluate: .venv/installed-train ## Metrics, tables and plots on photos never trained on: [RUN=runs/latest DATA=photos UNKNOWN=folder]
	@$(BIN)/python -m training.evaluation.evaluate --checkpoint $(RUN)/checkpoint.pt $(if $(DATA),--data $(DATA)) --out $(RUN) \
		$(if $(UNKNOWN),--unknown $(UNKNOWN))

report: .venv/installed-train ## One page of all that make evaluate wrote: [RUN=runs/latest]
	@$(BIN)/python -m training.evaluation.report $(RUN)

promote: .venv/installed-train ## Make a run's model the champion if it is better on the same photos: [RUN=runs/latest DATA=photos]
	@$(BIN)/python -m training.tracking.promote --run $(RUN) $(if $(DATA),--data $(DATA)) $(if $(ALPHA),--alpha $(ALPHA))

DATA_OF_PIPELINE = $(shell sed -n 's/^ *- data: *\([^ ]*\).*/\1/p' dvc.yaml)

pipeline: .venv/installed-train ## Photos to archive by DVC: runs the stages of dvc.yaml whose inputs have changed, and no other
	@test -e "$(DATA_OF_PIPELINE)" || { if test -e "$(DATA_OF_PIPELINE).dvc"; then \
		echo "error: the photos of $(DATA_OF_PIPELINE) are not here: make pull fetches them"; else \
		echo "error: there are no photos in $(DATA_OF_PIPELINE): make ingest FROM=folder puts them there" \
			"(or name another folder in dvc.yaml)"; fi >&2; exit 1; }
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

remote: .venv/installed-train ## Keep data and models in a versioned S3 bucket: BUCKET=s3://bucket/prefix [ENDPOINT=url MOVE=1]
	@$(if $(BUCKET),,echo "error: which bucket? make remote BUCKET=s3://bucket/prefix" >&2; exit 1)
	@$(BIN)/python -m training.data.remote set $(BUCKET) $(if $(ENDPOINT),--endpoint $(ENDPOINT)) $(if $(MOVE),--move)

push: .venv/installed-train ## Upload data and models to the bucket, checked first
	@$(BIN)/python -m training.data.remote push

pull: .venv/installed-train ## Fetch the data and models of this commit from the bucket
	@$(BIN)/python -m training.data.remote pull

track: .venv/installed-train ## Send what a tracking server has not got of a run's records: [RUN=runs/latest]
	@$(BIN)/python -m training.tracking.journal $(RUN)

mlflow: .venv/installed-train ## Look at all runs and models in MLflow's UI until Ctrl-C
	@exec $(BIN)/python -m training.tracking.journal --ui

ifneq ($(filter export archive,$(MAKECMDGOALS)),)
ifndef VERSION
$(error which version? make $(filter export archive,$(MAKECMDGOALS)) VERSION=1.0.0)
endif
endif

ifeq ($(RUN),champion)
override RUN := runs/champion
CHECKPOINT := runs/champion/checkpoint.pt
else
CHECKPOINT := $(wildcard $(RUN)/checkpoint.pt)
endif

# the registry is asked each time, and the file written only if it is another one
runs/champion/checkpoint.pt: FORCE
	@$(MAKE) -s .venv/installed-train
	@$(BIN)/python -m training.tracking.promote --fetch champion --out $(@D)
FORCE:

# exported anew when the run has changed since; the training packages are needed for nothing else here
EXPORTED := build/$(VERSION)$(addprefix -,$(FORMAT))
$(EXPORTED)/program.json: $(CHECKPOINT)
	@$(MAKE) -s .venv/installed-train
	@$(BIN)/python -m training.export.export --checkpoint $(RUN)/checkpoint.pt --out $(@D) $(if $(FORMAT),--format $(FORMAT)) \
		$(if $(DATA),--data $(DATA))

compare: .venv/installed-train ## Every export format of a run side by side, size, speed and accuracy: [RUN=runs/latest DATA=photos]
	@$(BIN)/python -m training.export.compare --checkpoint $(RUN)/checkpoint.pt $(if $(DATA),--data $(DATA))

export: $(EXPORTED)/program.json ## Export a run for serving into build/VERSION: VERSION=1.0.0 [RUN=runs/latest FORMAT=openvino]

archive: .venv/installed-serve $(EXPORTED)/program.json ## Pack the export into model_store/seefood-VERSION.mar: VERSION=1.0.0 [RUN=champion FORMAT=openvino]
	@$(BIN)/python -m scripts.archive.build $(EXPORTED) --version $(VERSION)

$(STARTER): $(wildcard handler/* model_store/starter/*) scripts/archive/build.py | .venv/installed-serve
	@$(BIN)/python -m scripts.archive.build model_store/starter --version $(STARTER_VERSION) --force

inspect: .venv/installed-serve ## Check an archive's parts, and show where it comes from: MAR=model_store/seefood-1.0.0.mar
	@$(if $(MAR),,echo "error: which archive? make inspect MAR=model_store/seefood-1.0.0.mar" >&2; exit 1)
	@$(BIN)/python -m scripts.archive.build --inspect $(MAR)

serve: .venv/installed-serve $(STARTER) ## Serve what is released until Ctrl-C: [PORT=8080 HOST=0.0.0.0 VERSION=1.0.0 RELEASE=s3://...]
	@exec $(BIN)/python -m scripts.serving.serve --port $(PORT) $(if $(HOST),--host $(HOST)) $(if $(VERSION),--version $(VERSION)) \
		$(if $(RELEASE),--release $(RELEASE)) $(if $(INSTANCE),--instance $(INSTANCE))

stop: .venv/installed-serve ## End a `make serve` that runs elsewhere: [PORT=8080]
	@$(BIN)/python -m scripts.serving.serve --stop --port $(PORT)

ROLLOUT = $(BIN)/python -m scripts.rollout.rollout $(if $(RELEASE),--release $(RELEASE))

rollout: .venv/installed-serve ## Release a version, watched: VERSION=1.1.0 [CANARY=10 SHADOW=200 BAKE=60 KEEP=1 RELEASE=s3://... URL=http://...:8081]
	@$(if $(VERSION),,echo "error: which version? make rollout VERSION=1.1.0" >&2; exit 1)
	@$(ROLLOUT) start $(VERSION) $(if $(CANARY),--canary $(CANARY)) $(if $(SHADOW),--shadow $(SHADOW)) $(if $(BAKE),--bake $(BAKE)) \
		$(if $(KEEP),--keep) $(if $(UNWATCHED),--unwatched) $(if $(URL),--url $(URL)) \
		$(if $(INFERENCE_URL),--inference-url $(INFERENCE_URL)) $(if $(MAR),--mar $(MAR))

rollback: .venv/installed-serve ## Release again what was released before: [RELEASE=s3://...]
	@$(ROLLOUT) back

status: .venv/installed-serve ## The instances, what each serves, and why not: [RELEASE=s3://...]
	@$(ROLLOUT) status

releases: .venv/installed-serve ## All releases, newest first: [RELEASE=s3://...]
	@$(ROLLOUT) history

predict: .venv/installed-serve $(STARTER) ## Name the dishes in a folder without a server: PHOTOS=folder [OUT=dishes.csv]
	@$(if $(PHOTOS),,echo "error: which photos? make predict PHOTOS=folder" >&2; exit 1)
	@$(BIN)/python -m scripts.archive.predict $(PHOTOS) $(if $(OUT),--out $(OUT)) $(if $(VERSION),--version $(VERSION))

bench: .venv/installed-serve $(if $(URL),,$(STARTER)) ## Load a server beside the in-process ceiling: [URL=http://... PHOTOS=folder CONCURRENCY="1 16" RATE=100]
	@$(BIN)/python -m scripts.bench.bench $(if $(URL),--url '$(URL)') $(if $(PHOTOS),--photos '$(PHOTOS)') $(if $(FIELD),--field $(FIELD)) \
		$(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) $(if $(RATE),--rate $(RATE)) $(if $(SECONDS),--seconds $(SECONDS)) \
		$(if $(VERSION),--version $(VERSION)) --out $(or $(OUT),build/bench)

tune: $(if $(GOAL),.venv/installed-serve $(STARTER)) ## Find the fastest settings that keep a latency goal: GOAL=p99_ms=50 [CONCURRENCY=16 PHOTOS=folder]
	@$(if $(GOAL),,echo "error: which goal? make tune GOAL=p99_ms=50" >&2; exit 1)
	@$(BIN)/python -m scripts.bench.tune '$(GOAL)' $(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) $(if $(SECONDS),--seconds $(SECONDS)) \
		$(if $(PHOTOS),--photos '$(PHOTOS)') $(if $(VERSION),--version $(VERSION))

TAG ?= latest
DOCKER ?= docker
STACK ?= seefood
BUILD_ARGS = $(foreach name,BASE_IMAGE TORCH TORCH_VERSION TORCH_INDEX,$(if $($(name)),--build-arg $(name)=$($(name))))
BUILD = DOCKER_BUILDKIT=1 $(DOCKER) build $(DOCKER_FLAGS) $(BUILD_ARGS)
HARDENED = --read-only --tmpfs /tmp:size=1g,mode=1777 --cap-drop ALL --security-opt no-new-privileges --memory 3g --pids-limit 512

image: ## Build the server's image: [TAG=latest TORCH=cpu|cu130|none TORCH_VERSION= TORCH_INDEX= BASE_IMAGE= DOCKER_FLAGS=]
	@$(BUILD) --build-arg VERSION=$(TAG) --build-arg COMMIT=$$(git rev-parse HEAD) --tag seefood:$(TAG) .

run-image: $(STARTER) ## Serve model_store, or RELEASE=s3://..., in the image, hardened as on ECS: [PORT=8080 TAG=latest]
	@$(DOCKER) run --rm $(HARDENED) --user $$(id -u):$$(id -g) --stop-timeout 90 \
		--publish 127.0.0.1:$(PORT):8080 --publish 127.0.0.1:$$(($(PORT) + 6)):8086 \
		--volume '$(CURDIR)/model_store:/opt/seefood/model_store' $(if $(RELEASE),--env RELEASE=$(RELEASE)) \
		$(foreach name,AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION AWS_ENDPOINT_URL_S3,--env $(name)) \
		seefood:$(TAG)

tools-image: ## Build the image of the MLflow and the S3 of docker-compose.yml: [as make image]
	@$(BUILD) --target tools --tag seefood-tools:$(TAG) .

compose: image tools-image ## The server, MLflow and an S3 on this machine, all from the Dockerfile: docker-compose.yml [TAG=latest COMPOSE="docker compose"]
	@TAG=$(TAG) $(or $(COMPOSE),$(DOCKER)-compose) up --no-build

sbom: .venv/installed-cloud ## What the image is made of, into build/sbom: CycloneDX of the Python packages, Debian's list, known vulnerabilities
	@$(BUILD) --target sbom --output build/sbom .
	@$(BIN)/uv tool run pip-audit --strict --no-deps --disable-pip --requirement build/sbom/python-packages.txt \
		--output build/sbom/vulnerabilities.txt; status=$$?; ls build/sbom; exit $$status

preflight: .venv/installed-cloud ## Check the templates, and the account if there are credentials, before a deploy: [STACK=seefood]
	@$(BIN)/python -m scripts.ecs.preflight.preflight $(STACK)

deploy: .venv/installed-cloud $(STARTER) ## Create or update a deployment on ECS, watched: [STACK=seefood IMAGE=tag ONLY=service YES=1]
	@$(BIN)/python -m scripts.ecs.deploy.deploy $(STACK) $(if $(IMAGE),--image $(IMAGE)) $(if $(ONLY),--only $(ONLY)) $(if $(YES),--yes) \
		$(if $(REPLACE),--replace $(REPLACE)) $(if $(LIMIT_S),--limit-s $(LIMIT_S))

doctor: .venv/installed-cloud ## Why a deployment is not well, and what to do: [STACK=seefood]
	@$(BIN)/python -m scripts.ecs.doctor.doctor $(STACK)

destroy: .venv/installed-cloud ## Take a deployment away; asks first, and says what stays: [STACK=seefood]
	@$(BIN)/python -m scripts.ecs.deploy.destroy $(STACK) $(if $(YES),--yes)

smoke: .venv/installed-serve ## Ask a deployed server for an archive's golden photos: URL=https://... [RELEASE=s3://...]
	@$(if $(URL),,echo "error: which server? make smoke URL=https://..." >&2; exit 1)
	@$(BIN)/python -m scripts.rollout.smoke $(URL) $(if $(RELEASE),--release $(RELEASE))

test: lint $(STARTER) ## Lint, type check and tests
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-all: lint $(STARTER) ## The same with the tests that take long
	@$(BIN)/python -m pytest -n 2 --dist loadfile

container-test: .venv/installed-dev $(STARTER) ## The image built and run for real: needs Docker, or root and Debian's docker.io and mmdebstrap
	@$(BIN)/python -m pytest -m container -rs

lint: .venv/installed-dev ## Ruff (style and format), mypy (types), and what checks GitHub workflows
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/python scripts/lint_workflows.py

format: .venv/installed-dev ## Let ruff rewrite the style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean: ## Remove .venv, caches and everything that can be built again; runs/ and data/ stay
	@rm -rf .venv .venv-checkov build *.egg-info .pytest_cache .mypy_cache .ruff_cache $(STARTER) $(STARTER:.mar=.json)
