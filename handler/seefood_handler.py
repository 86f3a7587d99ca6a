"""TorchServe's entry into the archive: a photo in, or a text beside it, the most probable classes out.

Reads nothing but the archive: program.json and the programs, spec.json, index_to_name.json, golden.json and model-config.yaml.
"""

import gc
import json
import logging
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from handler.capture import Capture
from handler.choice import Choosing
from handler.decoders import Budget, Decoded, Decoders
from handler.explain import HEAT_MAP_BATCH, HEAT_MAP_CROPS, MAX_WORDS, explanation, heat_map, overlay, word_falls
from handler.golden import GoldenPhotos
from handler.handed import Photo, takes_files
from handler.metrics import Metrics
from handler.parts import check_parts
from handler.preprocess import PhotoError, Spec, blank, ids_of
from handler.program import Answers, import_library, inputs, programs_of
from handler.recent import Recent
from handler.request import Request, RequestError, is_probe, read_request, read_text
from handler.signals import PROFILE, Profile
from handler.watch import Watch

PHRASES = {
    400: "Bad Request",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    503: "Service Unavailable",
}
ALONE = 3  # crops alone, of whose times the lowest counts
RETRY_AFTER_S = "2"  # after a 503: what was too much at a time has been answered by then


def to_json(answer: dict[str, Any]) -> bytes:
    """An answer's body, with a line for each prediction. TorchServe would write it, too, but by json's slow encoder."""
    # in a string a quotation mark has a backslash before it, so this can only be the beginning of a prediction
    return (json.dumps(answer).replace('{"label"', '\n  {"label"').lstrip() + "\n").encode()


def unsureness(probabilities: np.ndarray) -> float:
    """One minus the margin between the two best of (num_classes,): 0 to 1."""
    best = np.sort(probabilities)[-2:]
    return float(1 - (best[-1] - best[0])) if len(best) > 1 else 0.0


def timing(name: str, started: float, seconds: float) -> str:
    """A metric of Server-Timing (https://www.w3.org/TR/server-timing): milliseconds, and when it began for the door's traces.

    That is by the monotonic clock, which the door shares.
    """
    return f"{name};dur={seconds * 1000:.1f};start={started:.6f}"


def drop_traceback(error: Exception) -> None:
    """Leave the message alone: a traceback would hold the photo, and all that was read of it, for as long as the answer."""
    error.__cause__ = error.__context__ = error.__traceback__ = None


class SeefoodHandler:
    """One worker's model: `initialize` once, then `handle` for each batch."""

    def initialize(self, context: Any) -> None:
        """Load the archive's content and answer its golden photos. ValueError if anything is missing, changed or differs."""
        model_dir = Path(context.system_properties["model_dir"])
        check_parts(model_dir)
        # TorchServe's worker prints lines for every batch, which the front end then reads and takes apart
        logging.getLogger().setLevel(logging.WARNING)

        def content(name: str) -> Any:
            return json.loads((model_dir / name).read_text(encoding="utf-8"))

        self.spec = Spec.from_folder(model_dir)
        self.description: dict[str, Any] = content("program.json")
        names = content("index_to_name.json")
        self.labels = [names[str(index)] for index in range(len(names))]
        # Pillow's warnings of broken tags differ in their text, and Python keeps each text for good
        warnings.filterwarnings("ignore", module=r"PIL\.")
        settings = context.model_yaml_config["handler"]
        self.top_k = settings["top_k"]
        batch_size = context.model_yaml_config["batchSize"]
        self.budget = Budget.from_config(context.model_yaml_config)
        # the usual sizes at low and at high load
        batch_sizes = sorted({1, batch_size})
        self.model, self.version = context.model_name, context.manifest["model"]["modelVersion"]
        self.metrics = Metrics(self.version, self.labels)
        programs = programs_of(self.description)
        with ThreadPoolExecutor(1) as pool:  # the decoders' processes start while the network's library is imported
            starting = pool.submit(Decoders, self.spec, self.budget, self.metrics)
            import_library(programs)
            self.decoders = starting.result()
        self.capture = Capture()
        golden = GoldenPhotos(content("golden.json"), self.spec, len(self.labels), self.preprocess)
        self.choice = Choosing(model_dir, programs, golden, settings["num_threads"], batch_sizes)()
        self.program, name = self.choice.program, self.choice.name
        self.format, self.threshold = programs[name]["format"], programs[name]["confidence_threshold"]
        # an archive without a profile is served, but its drift is not measured
        self.profile = Profile.load(model_dir / PROFILE, name)
        recent = Recent.of(self.model, self.version, model_dir / PROFILE, name) if self.profile else None
        self.watch = Watch(self.profile, recent) if self.profile and recent else None
        self._warm_up(batch_size)
        # all of this stays: frozen, it costs the collector no time in the middle of a request
        gc.collect()
        gc.freeze()

    def _warm_up(self, batch_size: int) -> None:
        """A batch of each size that is answered in its own way, as the first may take longer. Measures what batches cost."""
        crops = np.stack([blank(self.spec)] * batch_size)
        cpu_s: dict[int, float] = {}
        given = inputs(crops, ids_of([""] * batch_size, self.spec))
        others = [] if self.program.singly else range(2, batch_size)
        of_map = min(batch_size, HEAT_MAP_BATCH)
        for size in [*others, *[1] * ALONE, *{of_map, batch_size}]:
            before = time.process_time()  # of all threads
            self.program(*(one[:size] for one in given))
            cpu_s[size] = min(cpu_s.get(size, float("inf")), time.process_time() - before)
        if self.profile is not None:  # one that does not fit would fail clients' photos, and no golden one
            self.profile.measure([crops[0]], [(crops.shape[2], crops.shape[1])], self.program(*(one[:1] for one in given)))
        self.inference_cpu_s = cpu_s[1]
        self.heat_map_cpu_s = cpu_s[of_map] / of_map * (HEAT_MAP_CROPS + (MAX_WORDS if self.spec.text else 0))

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[Any]:
        """One body a request, in their order: JSON, or a heat map's PNG. A request with a bad photo gets its own error."""
        batch: list[Request] = []
        try:
            batch += [Request(fields, context.get_all_request_header(i)) for i, fields in enumerate(requests)]
            return self._answer(batch, context)
        except Exception:
            # TorchServe answers the whole batch with 503
            for _ in requests:
                self.metrics.refused(500)
            raise
        finally:
            for request in batch:
                request.close()

    def _answer(self, requests: Sequence[Request], context: Any) -> list[Any]:
        started = time.perf_counter()
        # GET /models/MODEL?customized=true comes alone; all others bear "explain", True or False, set by the front end
        if requests and requests[0].headers.get("describe") and "explain" not in requests[0].headers:
            return [self.describe()]
        self.metrics.batch(len(requests))
        for request in requests:
            self._read(request)
        cropped = self._decode([request for request in requests if request.error is None])
        inference = ""
        if cropped:
            before = time.monotonic()
            texts = [[request.text for request in cropped]] if self.spec.text else []
            inferred = self.inference([request.crop for request in cropped], *texts)
            inference = timing("inference", before, time.monotonic() - before) + f";batch={len(cropped)}"
            answers = self.postprocess(inferred, [request.top_k for request in cropped])
            for request, answer, row in zip(cropped, answers, inferred.probabilities, strict=True):
                request.answer, request.unsure = answer, unsureness(row)
        bodies = []
        for i, request in enumerate(requests):
            bodies.append(self._respond(request))
            if request.error is not None:
                context.set_response_status(request.error.status, PHRASES[request.error.status], i)
                if request.error.status == 503:
                    context.set_response_header(i, "retry-after", RETRY_AFTER_S)
            else:
                decode = timing("decode", request.decode_started, request.decode_s)
                context.set_response_header(i, "server-timing", f"{decode}, {inference}{request.explain_timing}")
                if request.captured:
                    context.set_response_header(i, "seefood-captured", "1")
            context.set_response_content_type(i, request.content_type)
        if cropped:
            self._keep_signals(cropped, inferred)
        self.metrics.handled(time.perf_counter() - started)
        return bodies

    def _keep_signals(self, requests: Sequence[Request], inferred: Answers) -> None:
        """Have the signals of clients' photos kept, for drift."""
        chosen = [i for i, request in enumerate(requests) if not is_probe(request) and not request.is_text_alone]
        if self.watch is not None and chosen:
            answers = Answers(*(output[chosen] for output in inferred))
            self.watch.add([requests[i].crop for i in chosen], [requests[i].size for i in chosen], answers)

    def _read(self, request: Request) -> None:
        """Fill in the request's photo, top_k and text, or its error."""
        try:
            request.photo, request.top_k = read_request(request, len(self.labels), self.top_k)
            request.text = read_text(request, self.spec.text is not None)
        except RequestError as error:
            drop_traceback(error)
            request.error = error

    def _respond(self, request: Request) -> bytes:
        """The body of the request's response, counted; sets its content type."""
        if request.error is not None:
            self.metrics.refused(request.error.status)
            return to_json({"code": request.error.status, "type": type(request.error).__name__, "message": str(request.error)})
        if request.headers.get("explain") == "True":
            before = time.monotonic()
            body, request.content_type = self.explain(request)
            request.explain_timing = ", " + timing("explain", before, time.monotonic() - before)
            self.metrics.explained()
            return body
        if not is_probe(request):
            best = request.answer["predictions"][0]
            self.metrics.answered(best["label"], best["probability"], request.answer["sure"])
            # with the labels: when somebody corrects the answer, this version may be gone
            request.captured = self.capture(
                request.photo, request.id, request.answer | {"labels": self.labels, "unsure": request.unsure}
            )
        return to_json(request.answer)

    def _decode(self, requests: Sequence[Request]) -> list[Request]:
        """The requests that now have a crop, and may go on; the others have their error."""
        # golden photos first: whatever the others cost, some of the budget is left for these
        ordered = sorted(requests, key=lambda request: not is_probe(request))
        photos = [request.photo for request in ordered if not request.is_text_alone]
        decoded, cpu_s = self.decoders.decode(photos, self.watch.use_pause if self.watch else None)
        outcomes, without_photo = iter(decoded), Decoded(blank(self.spec), self.spec.input_size[1:], time.monotonic(), 0.0)
        cpu_left, maps = self.budget.batch_cpu_s - cpu_s, 0
        for request in ordered:
            outcome = without_photo if request.is_text_alone else next(outcomes)
            if isinstance(outcome, PhotoError):
                request.error = outcome
                continue
            request.crop, request.size = outcome.crop, outcome.size
            request.decode_started, request.decode_s = outcome.started, outcome.seconds
            if request.headers.get("explain") == "True":
                maps += 1
                if maps > max(1, cpu_left / self.heat_map_cpu_s):  # one goes through, whatever it costs
                    request.error = RequestError("too many heat maps at a time: send this request again in a few seconds", 503)
        return [request for request in requests if request.error is None]

    def preprocess(self, photos: Sequence[Photo]) -> list[np.ndarray | PhotoError]:
        """The crop of each photo, uint8 (H, W, 3), or why there is none."""
        return [outcome if isinstance(outcome, PhotoError) else outcome.crop for outcome in self.decoders.decode(photos)[0]]

    def inference(self, crops: Sequence[np.ndarray], texts: Sequence[str] = ()) -> Answers:
        """The program's answers to B crops uint8 (H, W, 3), and to their texts, if there are any, where the model reads them."""
        started = time.perf_counter()
        answers = self.program(*inputs(np.stack(crops), ids_of(texts or [""] * len(crops), self.spec)))
        self.metrics.inferred(time.perf_counter() - started)
        return answers

    def postprocess(self, inferred: Answers, top_ks: Sequence[int]) -> list[dict[str, Any]]:
        """The answer for each row of (B, num_classes): its top_k classes, best first, and whether it is sure."""
        answers = []
        for row, confidence, top_k in zip(inferred.probabilities, inferred.confidence, top_ks, strict=True):
            best = np.argsort(-row, kind="stable")[:top_k]
            predictions = [{"label": self.labels[i], "index": int(i), "probability": float(row[i])} for i in best]
            sure = bool(confidence >= self.threshold)
            answers.append({"predictions": predictions, "sure": sure, "model": self.model, "version": self.version})
        return answers

    def explain(self, request: Request) -> tuple[bytes, str]:
        """(heat map of the most probable class, its content type): a PNG over the photo if that is accepted, else JSON."""
        best = request.answer["predictions"][0]

        def answer(crops: np.ndarray, texts: Sequence[str] = ()) -> Answers:
            return self.program(*inputs(crops, ids_of(texts or [request.text] * len(crops), self.spec)))

        heat = heat_map(answer, request.crop, best["index"])
        if "image/png" in request.headers.get("accept", ""):
            return overlay(request.crop, heat), "image/png"
        explained = explanation(best["label"], best["index"], best["probability"], heat, request.size, self.spec)
        if request.text:
            explained["words"] = word_falls(answer, request.crop, request.text, best["index"])
        return to_json(explained | {name: request.answer[name] for name in ("sure", "model", "version")}), "application/json"

    def describe(self) -> dict[str, Any]:
        """What is served, for GET /models/MODEL?customized=true."""
        described = {
            "format": self.format,
            "precision": self.program.precision,
            "program": self.choice.name,
            "choice": self.choice.describe(),
            "labels": self.labels,
            "spec": self.spec.to_dict(),
            "model": self.model,
            "version": self.version,
            # of one photo alone, and of one heat map, as this machine took for them at the start
            "inference_cpu_s": self.inference_cpu_s,
            "heat_map_cpu_s": self.heat_map_cpu_s,
            "photo_files": takes_files(),
        }
        return self.description | described
