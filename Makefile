# Every task of the project; `make` alone lists them. Needs Python 3.11+ and make; the rest is installed into .venv.

ifeq ($(filter undefine,$(.FEATURES)),)
$(error GNU make 3.82 or newer is needed, this is $(MAKE_VERSION))
endif

# The caches of bytecode lie in .venv and in the folders of the code: a task that may write none compiles torch at each start.
unexport PYTHONDONTWRITEBYTECODE

# --- values ---

# All that the command line may set, and nothing else: an exported DATA or URL changes nothing. What the environment may set is
# named SEEFOOD_..., or has another program's prefix: AWS_, MLFLOW_, PIP_, REDDIT_, UV_.
VALUES := ALPHA ANSWERS BAKE BASE_IMAGE BATCH BUCKET CACHE CANARY CERT COMPOSE CONCURRENCY CROP_PCT DATA DOCKER DOCKER_FLAGS ENDPOINT EXPORT EXPORTED \
	FIELD FORMAT FROM GOAL GPUS GRAFANA_IMAGE HOST HTML IMAGE IMPORT INSTANCE KEEP KEY LIMIT LIMIT_S MANAGEMENT_URL MAR MEAN MEGAPIXELS MODEL MOVE \
	NAME NEW_CLASSES ONLY OUT PARAMS PHOTOS PLATFORM PORT PROMETHEUS_IMAGE PYTHON RATE RECIPE RELEASE REPLACE RESUME REVIEWED ROUTE RUN \
	SECONDS SET SHADOW SIZE SOURCE SPACE STACK STD TAG TIMM_TRAIN TLS TORCH TORCH_INDEX TORCH_VERSION TRIALS TTA UNKNOWN UNTIL UNVERIFIED UNWATCHED URL VERSION WEIGHTS YES

define newline


endef
# A value is taken as it was typed: without $(value) make would run a $(shell ...) in it. Line breaks are refused: make ends a
# recipe's line there, in quotes or not.
define from_command_line
ifneq ($(and $(filter command,$(origin $(1))),$(if $(value $(1)),given)),)
override $(1) := $$(value $(1))
unexport $(1)
$$(if $$(findstring $$(newline),$$($(1))),$$(error $(1) holds a line break))
else
override undefine $(1)
endif
endef
$(foreach name,$(VALUES),$(eval $(call from_command_line,$(name))))

# the value of a name as one word for the shell, whatever is in it; $(2) if there is none
quoted = '$(subst ','\'',$(or $($(1)),$(2)))'
# the option $(1) with the value of the name $(2), if there is one; with =, as the value may begin with a dash
option = $(if $($(2)),$(1)=$(call quoted,$(2)))
# the option alone; the option with each word of a value that is a list; those words alone
flag = $(if $($(2)),$(1))
list = $(if $($(2)),$(1) $(call each,$(2)))
each = $(foreach one,$($(1)),$(call quoted,one))

# training needs a model's name; what reads it from an archive is given one only if the command line has it
named_model := $(call option,--model,MODEL)
# MLflow and the page to review have ports of their own, 5000 and 8090, unless the command line has one
own_port := $(call option,--port,PORT)
MODEL ?= seefood
PORT ?= 8080
PARAMS ?= params.yaml
GPUS ?= 1
RUN ?= runs/latest
NAME ?= sweep
TRIALS ?= 20
EXPORTED ?= build/$(VERSION)$(if $(FORMAT),-$(FORMAT))
TAG ?= latest
DOCKER ?= docker
COMPOSE ?= $(DOCKER)-compose
STACK ?= seefood
# the first Python that is new enough, else python3, which scripts/install.py refuses with the reason
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; print("$(p)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)) python3)

override BIN := .venv/bin
python = $(BIN)/python -m
STARTER_VERSION := 0.5.0
STARTER := model_store/seefood-$(STARTER_VERSION).mar
PINS := pyproject.toml uv.lock scripts/install.py

# where traces go, by OpenTelemetry's own variables: all that scripts/door/tracing/start.py reads
otel_endpoints := OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_TRACES_ENDPOINT

# what a target cannot do without, asked before anything is installed for it
which_BATCH := which batch? make review BATCH=folder
which_BUCKET := which bucket? make remote BUCKET=s3://bucket/prefix
which_FROM := which photos? make ingest FROM=folder
which_GOAL := which goal? make tune GOAL=p99_ms=50
which_MAR := which archive? make inspect MAR=model_store/seefood-1.0.0.mar
which_PHOTOS := which photos? make predict PHOTOS=folder
which_SIZE := which size? make resize SIZE=192
which_SOURCE := which photos? make collect SOURCE=folder
which_URL := which server? make smoke URL=https://...
which_VERSION = which version? make $(firstword $(filter export archive rollout,$(MAKECMDGOALS)) archive) VERSION=1.1.0
ASKED := BATCH BUCKET FROM GOAL MAR PHOTOS SIZE SOURCE URL VERSION

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup test test-all container-test lint format dashboards clean \
	data check-data collect review ingest pipeline remote push pull \
	train profile bench-train bench-gpu sweep evaluate resize report promote track mlflow retrain \
	compare export archive inspect \
	serve key stop rollout rollback withdraw status releases drift predict smoke bench bench-start bench-door bench-models bench-attacks bench-decode photo-costs tune \
	image tools-image run-image compose sbom audit preflight deploy doctor destroy
.PHONY: champion exported $(ASKED:%=given-%)

help: ## List every target (this)
	@awk -F ':.*## ' '/^##@ / {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(ASKED:%=given-%): given-%:
	@$(if $($*),,echo 'error: $(which_$*)' >&2; exit 1)

.venv/installed-serve: $(PINS)
	@$(call quoted,PYTHON) scripts/install.py serve
.venv/installed-parquet: $(PINS)
	@$(call quoted,PYTHON) scripts/install.py serve parquet
.venv/installed-tracing: $(PINS)
	@$(call quoted,PYTHON) scripts/install.py serve tracing
.venv/installed-train: $(PINS)
	@$(call quoted,PYTHON) scripts/install.py serve train
.venv/installed-cloud: $(PINS)
	@$(call quoted,PYTHON) scripts/install.py serve cloud
.venv/installed-dev: $(PINS)
	@$(call quoted,PYTHON) scripts/install.py serve train cloud tracing dev

##@ Data

data: .venv/installed-train ## Download and verify a published data set, or convert and check one of yours: SET=food101|cifar10|flowers102|pets|eurosat|folder|list.csv [DATA=data MEAN=0.485,0.456,0.406 STD=0.229,0.224,0.225]
	@$(python) training.data.obtain --data=$(call quoted,DATA,data) --params=$(call quoted,PARAMS) $(call option,--mean,MEAN) \
		$(call option,--std,STD) -- $(call quoted,SET,food101)

check-data: .venv/installed-train ## What may be wrong in a data set: labels, near-duplicates, outliers, bad photos, small classes: DATA=photos [OUT=build/check-data PARAMS=file WEIGHTS=file]
	@$(python) training.check.check --data=$(call quoted,DATA,data/food) --params=$(call quoted,PARAMS) $(call option,--weights,WEIGHTS) \
		$(call option,--out,OUT)

collect: given-SOURCE .venv/installed-serve ## New photos of a source, for review: SOURCE=folder|s3://...|addresses.csv|captured:folder|reddit:name [OUT=collected LIMIT=100 REVIEWED=1 MODEL=name]
	@$(python) scripts.collection.collect $(call option,--out,OUT) $(call option,--limit,LIMIT) $(call flag,--reviewed,REVIEWED) $(named_model) \
		-- $(call quoted,SOURCE)

review: given-BATCH .venv/installed-serve ## Label a batch's photos on a local page: BATCH=folder [MAR="a.mar b.mar" OUT=labels.csv EXPORT=tasks.json IMPORT=annotations.json NEW_CLASSES=1 PORT=8090]
	@$(python) scripts.review.review $(call list,--mar,MAR) $(call option,--out,OUT) \
		$(call option,--export,EXPORT) $(call option,--import,IMPORT) $(call flag,--new-classes,NEW_CLASSES) \
		$(own_port) -- $(call quoted,BATCH)

ingest: given-FROM .venv/installed-train ## New labelled photos become a new data version: FROM=folder|list.csv [DATA=data/food NEW_CLASSES=1]; REVIEWED=1: corrected labels, too
	@$(python) training.data.ingest --data=$(call quoted,DATA,data/food) --params=$(call quoted,PARAMS) \
		$(call flag,--new-classes,NEW_CLASSES) $(call flag,--reviewed,REVIEWED) -- $(call quoted,FROM)

data_of_pipeline = $(shell sed -n 's/^ *- data: *\([^ ]*\).*/\1/p' dvc.yaml)

pipeline: .venv/installed-train ## Run the stages of dvc.yaml whose inputs have changed, from photos to archive (dvc repro)
	@test -e "$(data_of_pipeline)" || { if test -e "$(data_of_pipeline).dvc"; then \
		echo "error: the photos of $(data_of_pipeline) are not here: make pull fetches them"; else \
		echo "error: there are no photos in $(data_of_pipeline): make ingest FROM=folder puts them there" \
			"(or name another folder in dvc.yaml)"; fi >&2; exit 1; }
	@PATH="$$PWD/$(BIN):$$PATH" $(BIN)/dvc repro

remote: given-BUCKET .venv/installed-train ## Keep data and models in a versioned S3 bucket: BUCKET=s3://bucket/prefix [ENDPOINT=url MOVE=1]
	@$(python) training.data.remote set $(call option,--endpoint,ENDPOINT) $(call flag,--move,MOVE) -- $(call quoted,BUCKET)

push: .venv/installed-train ## Upload data and models to the bucket, checked first
	@$(python) training.data.remote push

pull: .venv/installed-train ## Fetch the data and models of this commit from the bucket
	@$(python) training.data.remote pull

##@ Train

# what the command line has given, and the file does not
given = $(filter override,$(origin $(1)))
# a recipe brings its parameters, its name and its data set; PARAMS beside it is refused by the commands
params = $(call option,--recipe,RECIPE) $(if $(or $(call given,PARAMS),$(if $(RECIPE),,none)),--params=$(call quoted,PARAMS))
model = $(if $(RECIPE),$(named_model),--model=$(call quoted,MODEL))
new_run = $(model) $(call option,--data,DATA) $(params) $(call option,--weights,WEIGHTS) \
	$(if $(call given,RUN),--out=$(call quoted,RUN))
resumed_run = --resume --out=$(call quoted,RESUME) $(named_model) $(if $(or $(RECIPE),$(call given,PARAMS)),$(params))

train: .venv/installed-train ## Train: DATA=photos [MODEL=seefood RECIPE=cifar10 PARAMS=file WEIGHTS=file GPUS=4 RUN=folder RESUME=runs/X]; no DATA: generated pictures
	@$(python) training.train --processes=$(call quoted,GPUS) $(if $(RESUME),$(resumed_run),$(new_run)) \
		--make $(foreach name,DATA MODEL RECIPE PARAMS WEIGHTS GPUS RUN RESUME,$(if $(call given,$(name)),$(name)=$(call quoted,$(name))))

profile: .venv/installed-train ## Measure where a training step's time goes: a trace and the costliest operations [DATA=photos RECIPE=cifar10 PARAMS=file WEIGHTS=file]
	@$(python) training.speed.profiling $(call option,--data,DATA) $(params) $(call option,--weights,WEIGHTS)

bench-train: .venv/installed-train ## Measure the training loop beside timm's own script: TIMM_TRAIN=train.py [DATA=photos CACHE=1 RECIPE=cifar10 PARAMS=file]
	@$(python) training.speed.bench $(call option,--timm-train,TIMM_TRAIN) $(call flag,--cache,CACHE) $(call option,--data,DATA) $(params)

bench-gpu: .venv/installed-train ## Measure a GPU in 10 minutes: the exported program, CUDA graphs, nvJPEG, training beside timm's train.py: [DATA=photos TIMM_TRAIN=train.py SECONDS=600 RECIPE=food101 PARAMS=params.yaml OUT=file]
	@$(python) training.speed.gpu $(call option,--data,DATA) $(call option,--timm-train,TIMM_TRAIN) $(call option,--seconds,SECONDS) \
		$(call option,--out,OUT) $(params)

sweep: .venv/installed-train ## Search hyper-parameters: DATA=photos [MODEL=seefood TRIALS=20 RECIPE=cifar10 PARAMS=params.yaml NAME=sweep SPACE=file]
	@$(python) training.sweep.sweep $(model) $(call option,--data,DATA) $(params) \
		$(call option,--space,SPACE) --out=runs/$(call quoted,NAME) --trials=$(call quoted,TRIALS)

evaluate: .venv/installed-train ## Measure a run on photos never trained on: metrics, tables, plots: [RUN=runs/latest DATA=photos UNKNOWN=folder TTA=1]
	@$(python) training.evaluation.evaluate --checkpoint=$(call quoted,RUN)/checkpoint.pt $(call option,--data,DATA) \
		--out=$(call quoted,RUN) $(call option,--unknown,UNKNOWN) $(call flag,--tta,TTA)

resize: given-SIZE .venv/installed-train ## A run's network at another size, as a run of its own: SIZE=192 [RUN=runs/latest CROP_PCT=0.875 DATA=photos OUT=folder]
	@$(python) training.resize --run=$(call quoted,RUN) --size=$(call quoted,SIZE) $(call option,--crop-pct,CROP_PCT) \
		$(call option,--data,DATA) $(call option,--out,OUT)

report: .venv/installed-train ## Write one page with everything that make evaluate wrote: [RUN=runs/latest]
	@$(python) training.evaluation.report -- $(call quoted,RUN)

promote: .venv/installed-train ## Make a run's model the champion if it is better on the same photos: [RUN=runs/latest DATA=photos MODEL=seefood]
	@$(python) training.tracking.promote --model=$(call quoted,MODEL) --run=$(call quoted,RUN) $(call option,--data,DATA) \
		$(call option,--alpha,ALPHA)

track: .venv/installed-train ## Send the records of a run that a tracking server does not have yet: [RUN=runs/latest]
	@$(python) training.tracking.track -- $(call quoted,RUN)

mlflow: .venv/installed-train ## Show all runs and models in MLflow's UI until Ctrl-C: [PORT=5000]
	@exec $(python) training.tracking.ui $(own_port)

retrain: .venv/installed-train ## Retrain on reviewed photos, in steps that go on; a version only if it is better: [FROM="labels.csv ..." PHOTOS=captured VERSION=1.1.0 ALPHA=0.05 UNTIL=step NEW_CLASSES=1]
	@$(python) scripts.retrain.retrain $(call list,--from,FROM) $(call option,--photos,PHOTOS) $(call option,--version,VERSION) \
		$(call option,--alpha,ALPHA) $(call option,--until,UNTIL) $(call flag,--new-classes,NEW_CLASSES)

##@ Package

# RUN=champion: the registry is asked each time, and the file written only if it is another one
ifeq ($(RUN),champion)
override RUN := runs/champion
exported: champion
endif
champion: .venv/installed-train
	@$(python) training.tracking.promote --model=$(call quoted,MODEL) --fetch champion --out=$(call quoted,RUN)

# The recipe compares the times, as the folder's name may hold spaces and make's targets may not. Exported again when the run has
# changed since, and when another run was exported there; nothing else here needs the training packages.
is_old = $(shell run=$$(cd -- $(call quoted,RUN) 2>/dev/null && pwd -P); cd -- $(call quoted,EXPORTED) 2>/dev/null || { echo yes; exit; }; \
	test -e program.json && ! test "$$run/checkpoint.pt" -nt program.json \
	&& { ! test -e exported-from || test "$$run" = "$$(cat exported-from)"; } || echo yes)
exported:
	@$(if $(is_old),$(MAKE) -s .venv/installed-train)
	@$(if $(is_old),$(python) training.export.export --checkpoint=$(call quoted,RUN)/checkpoint.pt --out=$(call quoted,EXPORTED) \
		$(call option,--format,FORMAT) $(call option,--data,DATA) $(named_model) && \
		{ test ! -d $(call quoted,EXPORTED) || (cd -- $(call quoted,RUN) && pwd -P) > $(call quoted,EXPORTED)/exported-from; })

compare: .venv/installed-train ## Compare all export formats of a run: size, speed, accuracy: [RUN=runs/latest DATA=photos]
	@$(python) training.export.compare --checkpoint=$(call quoted,RUN)/checkpoint.pt $(call option,--data,DATA)

export: given-VERSION exported ## Export a run for serving into build/VERSION: VERSION=1.0.0 [RUN=runs/latest FORMAT=openvino DATA=photos]

archive: given-VERSION .venv/installed-serve exported ## Pack the export into model_store/MODEL-VERSION.mar: VERSION=1.0.0 [RUN=champion FORMAT=openvino MODEL=name]
	@$(python) scripts.archive.build --version=$(call quoted,VERSION) $(named_model) -- $(call quoted,EXPORTED)

$(STARTER): $(wildcard handler/* model_store/starter/* scripts/archive/*.py) | .venv/installed-serve
	@$(python) scripts.archive.build model_store/starter --version $(STARTER_VERSION) --force

inspect: given-MAR .venv/installed-serve ## Check an archive's parts, and show where it comes from: MAR=model_store/seefood-1.0.0.mar
	@$(python) scripts.archive.inspect -- $(call quoted,MAR)

##@ Serve and roll out

serve: .venv/installed-serve $(if $(filter environment,$(foreach name,$(otel_endpoints),$(origin $(name)))),.venv/installed-tracing) $(STARTER) ## Serve what is released until Ctrl-C: [PORT=8080 HOST=0.0.0.0 MODEL=name VERSION=1.0.0 RELEASE=s3://... FORMAT=openvino-int8 TLS=1 CERT=file KEY=file]
	@exec $(python) scripts.serving.serve --port=$(call quoted,PORT) $(call option,--host,HOST) $(named_model) \
		$(call option,--version,VERSION) $(call option,--release,RELEASE) $(call option,--instance,INSTANCE) \
		$(call option,--format,FORMAT) $(call flag,--tls,TLS) $(call option,--cert,CERT) $(call option,--key,KEY)

key: .venv/installed-serve ## Make an API key, shown once, and its line for the file of keys: NAME=kitchen [RATE=5]
	@$(python) scripts.door.access.new_key $(call option,--rate,RATE) -- $(if $(call given,NAME),$(call quoted,NAME))

stop: .venv/installed-serve ## Stop a server that runs in another terminal: [PORT=8080]
	@$(python) scripts.serving.serve --stop --port=$(call quoted,PORT)

rollout = $(python) scripts.rollout.rollout $(call option,--release,RELEASE)

rollout: given-VERSION .venv/installed-serve ## Release a version, watched: VERSION=1.1.0 [CANARY=10 SHADOW=200 BAKE=60 KEEP=1 ANSWERS=differ|unjudged RELEASE=s3://... MODEL=name UNVERIFIED=1 URL=http://...:8080]
	@$(rollout) start $(named_model) $(call option,--canary,CANARY) $(call option,--shadow,SHADOW) \
		$(call option,--bake,BAKE) $(call option,--answers,ANSWERS) $(call flag,--keep,KEEP) $(call flag,--unwatched,UNWATCHED) $(call flag,--unverified,UNVERIFIED) $(call option,--url,URL) \
		$(call option,--management-url,MANAGEMENT_URL) $(call option,--mar,MAR) -- $(call quoted,VERSION)

rollback: .venv/installed-serve ## Go back to the release before: [RELEASE=s3://... MODEL=name]
	@$(rollout) back $(named_model)

withdraw: .venv/installed-serve ## Release a model no more, where others are: MODEL=name [RELEASE=s3://...]
	@$(rollout) withdraw $(named_model)

status: .venv/installed-serve ## Show each instance's versions, default version, state and errors: [RELEASE=s3://...]
	@$(rollout) status

releases: .venv/installed-serve ## List all releases, newest first: [RELEASE=s3://...]
	@$(rollout) history

predict: given-PHOTOS .venv/installed-serve $(if $(filter %.parquet,$(OUT)),.venv/installed-parquet) $(if $(URL),,$(STARTER)) ## Label any number of photos, without a server or by one: PHOTOS=folder|list.txt|s3://... [OUT=labels.csv|.jsonl|.parquet HTML=1 TTA=1 MODEL=name VERSION=1.0.0 URL=https://...]
	@$(python) scripts.predict.predict $(call option,--out,OUT) $(call flag,--html,HTML) $(call flag,--tta,TTA) $(call option,--url,URL) $(named_model) \
		$(call option,--version,VERSION) -- $(call quoted,PHOTOS)

drift: .venv/installed-serve $(if $(PHOTOS),$(STARTER)) ## Compare recent photos and answers with the reference profile: [RELEASE=s3://... | PHOTOS=folder MODEL=name VERSION=1.0.0] [OUT=build/drift.html]
	@$(python) scripts.monitoring.drift $(call option,--release,RELEASE) $(call option,--photos,PHOTOS) $(named_model) \
		$(call option,--version,VERSION) $(call option,--out,OUT)

smoke: given-URL .venv/installed-serve ## Send golden photos to a deployed server and check its answers: URL=https://... [RELEASE=s3://...]
	@$(python) scripts.rollout.smoke $(call option,--release,RELEASE) -- $(call quoted,URL)

bench: .venv/installed-serve $(if $(URL),,$(STARTER)) ## Load a server beside the in-process ceiling: [URL=http://host:8080 ROUTE=/predict PHOTOS=folder MEGAPIXELS=12 CONCURRENCY="1 16" RATE=100]
	@$(python) scripts.bench.bench $(call option,--url,URL) $(call option,--route,ROUTE) $(call option,--photos,PHOTOS) \
		$(call option,--megapixels,MEGAPIXELS) $(call option,--field,FIELD) $(call list,--concurrency,CONCURRENCY) $(call list,--rate,RATE) \
		$(call option,--seconds,SECONDS) $(named_model) $(call option,--version,VERSION) $(call option,--out,OUT)

bench-start: .venv/installed-serve $(STARTER) ## Measure how long a server takes from make serve to its first right answer, and the CPU of each part
	@$(python) scripts.bench.start $(named_model)

bench-door: .venv/installed-serve $(STARTER) ## Measure what the door costs, beside TorchServe's own socket: [PHOTOS=folder CONCURRENCY="1 16" SECONDS=5]
	@$(python) scripts.bench.door_cost $(call option,--photos,PHOTOS) $(call list,--concurrency,CONCURRENCY) \
		$(call option,--seconds,SECONDS) $(named_model)

bench-models: .venv/installed-serve ## Measure what several models on one server cost each other: [PHOTOS=folder SECONDS=10]
	@$(python) scripts.bench.several_models $(call option,--photos,PHOTOS) $(call option,--seconds,SECONDS)

bench-attacks: .venv/installed-serve $(STARTER) ## Measure what ordinary clients get while the door is attacked: [PHOTOS=folder SECONDS=10]
	@$(python) scripts.bench.under_attack $(call option,--photos,PHOTOS) $(call option,--seconds,SECONDS) $(named_model)

bench-decode: .venv/installed-serve $(STARTER) ## Compare ways to decode and resize: CPU a photo of 512 px, 3 and 12 megapixels, other crops: [PHOTOS=folder SECONDS=5]
	@$(python) scripts.bench.decode $(call option,--photos,PHOTOS) $(call option,--seconds,SECONDS) $(named_model)

photo-costs: .venv/installed-serve ## Measure what decoding the costliest photos of each format takes, beside the estimates
	@$(python) scripts.bench.photo_costs

tune: given-GOAL .venv/installed-serve $(STARTER) ## Find the fastest settings that meet a latency goal: GOAL=p99_ms=50 [CONCURRENCY=16 PHOTOS=folder]
	@$(python) scripts.bench.tune $(call option,--concurrency,CONCURRENCY) $(call option,--seconds,SECONDS) \
		$(call option,--photos,PHOTOS) $(named_model) $(call option,--version,VERSION) -- $(call quoted,GOAL)

##@ Deploy

docker = $(call each,DOCKER)
build = DOCKER_BUILDKIT=1 $(docker) build $(call option,--platform,PLATFORM) $(call each,DOCKER_FLAGS) \
	$(foreach name,BASE_IMAGE TORCH TORCH_VERSION TORCH_INDEX,$(if $($(name)),--build-arg $(name)=$(call quoted,$(name))))
hardened := --read-only --tmpfs /tmp:size=512m,mode=1777 --cap-drop ALL --security-opt no-new-privileges --memory 3328m --pids-limit 512

# what the base image's tag stands for on this machine: its digest, or that of its content where it comes from no registry
base = -- $(call quoted,BASE_IMAGE,debian:bookworm-slim)
inspect_base = $(docker) image inspect --format '{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}' $(base) 2>/dev/null
base_digest = --build-arg BASE_DIGEST="$$({ $(inspect_base) || { $(docker) pull --quiet $(base) >/dev/null 2>&1 && $(inspect_base); } \
	|| echo unknown; } | sed 's/.*@//')"

image: ## Build the server's image: [TAG=latest TORCH=cpu|cu130|none PLATFORM=linux/arm64 TORCH_VERSION= TORCH_INDEX= BASE_IMAGE= DOCKER_FLAGS=]
	@$(build) $(base_digest) --build-arg VERSION=$(call quoted,TAG) --build-arg COMMIT="$$(git rev-parse HEAD)" \
		--tag seefood:$(call quoted,TAG) .

run-image: $(STARTER) ## Serve model_store, or RELEASE=s3://..., in the image, hardened as on ECS: [PORT=8080 TAG=latest]
	@$(docker) run --rm $(hardened) --user "$$(id -u):$$(id -g)" --stop-timeout 90 \
		--publish 127.0.0.1:$(call quoted,PORT):8080 \
		--volume "$$PWD/model_store:/opt/seefood/model_store" $(if $(RELEASE),--env SEEFOOD_RELEASE=$(call quoted,RELEASE)) \
		$(foreach name,AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION AWS_ENDPOINT_URL_S3,--env $(name)) \
		seefood:$(call quoted,TAG)

tools-image: ## Build the image of the MLflow and the S3 of docker-compose.yml: [as make image]
	@$(build) --target tools --tag seefood-tools:$(call quoted,TAG) .

# a service whose image is given is started, too
watching = $(if $(PROMETHEUS_IMAGE),--profile prometheus) $(if $(GRAFANA_IMAGE),--profile grafana)
compose: image tools-image ## Start the server, MLflow and an S3 on this machine: docker-compose.yml [TAG=latest PROMETHEUS_IMAGE=name GRAFANA_IMAGE=name COMPOSE="docker compose"]
	@SEEFOOD_TAG=$(call quoted,TAG) $(foreach name,PROMETHEUS_IMAGE GRAFANA_IMAGE,$(if $($(name)),$(name)=$(call quoted,$(name)))) \
		$(call each,COMPOSE) $(watching) up --no-build

sbom: ## Write the image's SBOM, build/sbom/sbom.cdx.json: packages of Python and Debian, what is in wheels and jars: [as make image]
	@$(build) $(base_digest) --target sbom --output build/sbom .

audit: .venv/installed-serve ## Ask for known vulnerabilities of uv.lock, and of the SBOM if make sbom has written it
	@$(python) scripts.audit.vulnerabilities uv.lock $(wildcard build/sbom/sbom.cdx.json)

preflight: .venv/installed-cloud ## Check the templates, and the account if there are credentials, before a deploy: [STACK=seefood]
	@$(python) scripts.ecs.preflight.preflight -- $(call quoted,STACK)

deploy: .venv/installed-cloud $(STARTER) ## Create or update a deployment on ECS, watched: [STACK=seefood IMAGE=tag ONLY=service YES=1 MODEL=name]
	@$(python) scripts.ecs.deploy.deploy $(named_model) $(call option,--image,IMAGE) \
		$(call option,--only,ONLY) $(call flag,--yes,YES) $(call option,--replace,REPLACE) $(call option,--limit-s,LIMIT_S) -- $(call quoted,STACK)

doctor: .venv/installed-cloud ## Explain why a deployment is unhealthy, and what to do: [STACK=seefood]
	@$(python) scripts.ecs.doctor.doctor -- $(call quoted,STACK)

destroy: .venv/installed-cloud ## Delete a deployment; asks first, and lists what stays: [STACK=seefood]
	@$(python) scripts.ecs.deploy.destroy $(call flag,--yes,YES) -- $(call quoted,STACK)

##@ Develop

setup: .venv/installed-dev ## Install everything into .venv (serve alone needs far less)

test: lint $(STARTER) ## Lint, check types and run the tests
	@$(python) pytest -m "not slow" -n 4 --dist loadfile --no-loadscope-reorder

test-all: lint $(STARTER) ## The same with the slow tests
	@$(python) pytest -n 2 --dist loadfile

container-test: .venv/installed-dev $(STARTER) ## Build and run the image for real: needs Docker, or root and Debian's docker.io and mmdebstrap
	@$(python) pytest -m container -rs

lint: .venv/installed-dev ## Check style and format (ruff), types (mypy) and workflows (schema, zizmor)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(BIN)/zizmor --offline --quiet --no-progress --strict-collection .github

format: .venv/installed-dev ## Let ruff rewrite the style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

dashboards: .venv/installed-serve ## Write Grafana's dashboards again, after a change of scripts/monitoring
	@$(python) scripts.monitoring.dashboards

clean: ## Remove .venv, caches and everything that can be built again; runs/ and data/ stay
	@rm -rf .venv .venv-checkov build *.egg-info .pytest_cache .mypy_cache .ruff_cache $(STARTER) $(STARTER:.mar=.json)
