"""Errors whose message is for the person at the terminal: what is wrong, what was expected, what to do.

scripts/command.py prints them as one line, `error: ...`; any other exception is a fault of ours and ends in a traceback.
ValueError (a bad value given from outside) and OSError (the machine) are printed the same way. The handler's PhotoError and
RequestError, and the door's DoorError, are for a client, who gets them with a status. The tree, kept true by
tests/project/test_errors.py:

    SeeFoodError
      AccuracyGateError - training.export.gate
      AnswerError - scripts.ecs.progress
      AuditError - scripts.audit.vulnerabilities
      AwsError - scripts.ecs.aws
      BackendDownError - scripts.backend.answer
        PredictionFailedError - scripts.backend.answer
      BatchError - scripts.collection.batch
      BenchError - scripts.bench.server
      ChampionError - scripts.retrain.pipeline
      DeployError - scripts.ecs.deploy.watch
      DeploymentError - scripts.ecs.stacks
      DownloadError - training.data.published
      HangsError - scripts.serving.repair
      ImageError - scripts.ecs.deploy.image
      IngestError - training.data.ingest
      ManagementError - scripts.backend.torchserve.management
      OtherRunError - training.resume
      OtherSearchError - training.sweep.study
      PortError - scripts.serving.ports
      PredictError - scripts.predict.photo
        AgainError - scripts.predict.answer
        BrokenOffError - scripts.predict.bucket
        UnreadError - scripts.predict.photo
      RejectedRecordError - training.tracking.sender
      ReleaseError - scripts.release.document
      RemoteError - training.data.remote
      RetrainError - scripts.retrain.run
      ReviewError - scripts.review.answers
      RolloutError - scripts.rollout.guarded
      ServeError - scripts.backend.torchserve.sockets
      SmokeError - scripts.rollout.smoke
      StackError - scripts.ecs.stack
        LimitError - scripts.ecs.stack
        StackFailedError - scripts.ecs.stack
      StoreError - scripts.release.store
        ChangedError - scripts.release.store
        DeniedError - scripts.release.store
      TimmError - training.speed.bench
      TrackingError - training.tracking.store
      UnsupportedError - training.export.formats
        OnnxError - training.export.formats
      VersionError - scripts.backend.torchserve.versions
        UnansweredError - scripts.backend.torchserve.versions
      WeightError - training.data.extras
"""

import errno
from pathlib import Path


class SeeFoodError(Exception):
    """Something that a person can act on."""


class FullDiskError(OSError):
    """A disk that has no room: `what` of it fails, and what to do."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.ENOSPC, f"the disk is full: {what}: make room there")

    @classmethod
    def lacking(cls, folder: Path, needed: float, free: float) -> "FullDiskError":
        """One that names what is free in `folder` and what is needed, both in bytes."""
        return cls(f"{free / 1e6:.0f} MB are free in {folder}, {needed / 1e6:.0f} MB are needed")


def is_full(error: OSError) -> bool:
    """Whether a disk or a quota has no room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
