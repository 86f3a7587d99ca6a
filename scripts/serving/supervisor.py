"""TorchServe kept running: started, restarted when it ends or hangs, announced once it serves, stopped after the door."""

import signal
import time
import traceback

from scripts.backend.torchserve.management import ManagementError
from scripts.backend.torchserve.process import ServeError, TorchServe
from scripts.paths import ROOT
from scripts.serving.desired import Problem
from scripts.serving.door import Door
from scripts.serving.instance import UNEXPECTED, Instance
from scripts.serving.repair import HangsError

# how soon a signal, an ended TorchServe or readiness is noticed
TICK_S = 0.1


class Supervisor:
    """Runs TorchServe for an instance, and has the instance reconciled at every poll."""

    def __init__(self, instance: Instance, torchserve: TorchServe, door: Door) -> None:
        """`torchserve` is starting."""
        self.instance, self.door = instance, door
        self.settings, self.steps, self.health = instance.settings, instance.steps, instance.health
        self.torchserve = torchserve
        self.started, self.announced = torchserve.started, False
        self.restarts = 0  # of TorchServe

    def run(self) -> None:
        """Serve until a signal comes. ServeError if TorchServe does not start, or nothing can be served, at first."""
        wait_s = self.settings.restart_wait_s
        while True:
            began = time.monotonic()
            try:
                self._start()
                self._reconcile_until_it_ends()
                log_lines = self.torchserve.last_log_lines()
            except HangsError as error:
                log_lines = self.torchserve.last_log_lines()
                self.steps("repair", what="TorchServe restarted", why=error, last_log_lines="\n" + log_lines)
                self._clear()
                continue
            except (ServeError, OSError) as error:  # there may be room on the disk, or for a process, the next time
                if not self.announced:
                    raise
                log_lines = str(error)
            self._clear()
            # it ran for a while: not one of a series of failures, each of which doubles the wait
            if time.monotonic() - began > self.settings.restart_wait_max_s:
                wait_s = self.settings.restart_wait_s
            self.steps("TorchServe ended by itself", restart_in_s=wait_s, last_log_lines="\n" + log_lines)
            self._sleep(wait_s)
            wait_s = min(2 * wait_s, self.settings.restart_wait_max_s)

    def _clear(self) -> None:
        """End what is left of TorchServe: it may hang instead of having ended."""
        self.instance.detach()
        self.torchserve.stop(now=True)

    def _start(self) -> None:
        if self.torchserve.is_over:
            self.restarts += 1
            self.torchserve = TorchServe(self.torchserve.run_dir, self.torchserve.addresses, self.settings)
        self.torchserve.wait_until_up()
        self.instance.attach(self.torchserve)
        self.steps("TorchServe is up", after_s=time.monotonic() - self.started)

    def _reconcile_until_it_ends(self) -> None:
        """Return when TorchServe has ended. HangsError if it has not answered for so long that it hangs."""
        instance, answered = self.instance, time.monotonic()
        while not self.torchserve.ended:
            try:
                instance.poll()
                instance.reconcile()
                answered = time.monotonic()
            except ManagementError as error:
                self.steps("TorchServe does not answer", why=error)
                if (silent_s := time.monotonic() - answered) > self.settings.start_timeout_s:
                    raise HangsError(f"its management API has not answered for {silent_s:.0f} s") from error
            except HangsError:
                raise
            except Exception as error:
                # an error that no code foresaw must not end what is served: it goes on, and the status gives the error
                instance.problems[UNEXPECTED] = Problem(f"{type(error).__name__}: {error}", True)
                self.steps("unexpected", why=instance.problems[UNEXPECTED].why, traceback="\n" + traceback.format_exc())
            else:
                instance.problems.pop(UNEXPECTED, None)
            if not self.announced:
                self.door.wait_until_up()
                self._announce()
            self._sleep(TICK_S if instance.loaded and not self.announced else self.settings.poll_s)

    def _announce(self) -> None:
        """Announce that it is ready, if it is. ServeError if no version can be served, which ends the start."""
        instance = self.instance
        served = [model for model in instance.released if model.default]
        if not served and instance.state == "failed":
            problems = [*instance.problems.values(), *(one for model in instance.released for one in model.problems.values())]
            why = "\n".join(problem.why for problem in problems)
            raise ServeError(f"nothing can be served: {why}\n{self.torchserve.last_log_lines()}")
        # loaded is not enough: it is announced once it has answered a golden photo as it answers clients
        if not self.health.ready or not served:
            return
        self.announced = True
        self.torchserve.keep_classes()
        took_s, logs = time.monotonic() - self.started, self.torchserve.run_dir / "logs"
        # nobody else vouches for the certificate that the server made itself
        trust = f"--cacert {self.settings.cert} " if self.settings.tls else ""
        programs = {model: model.loaded[str(model.default)].program for model in served}
        what = ", ".join(f"{model.name} {model.default} in {program}" for model, program in programs.items())
        curls = "".join(f"    curl {trust}{self.door.address}/predictions/{model.name} -T photo.jpg\n" for model in served)
        self.steps.say(
            f"ready after {took_s:.1f} s: {what}, golden photos answered.\n"
            f"Open {self.door.address} in a browser, or send a photo:\n\n"
            f"{curls}\n"
            f"Ctrl-C stops it. Logs: {logs.relative_to(ROOT) if logs.is_relative_to(ROOT) else logs}",
            "serving",
            model=" ".join(model.name for model in served),
            version=" ".join(str(model.default) for model in served),
            program=" ".join(programs.values()),
            took_s=took_s,
        )

    def _sleep(self, seconds: float) -> None:
        """Wait so long, or until TorchServe has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not (self.instance.torchserve and self.instance.torchserve.ended):
            self.health.beat()
            time.sleep(min(TICK_S, seconds))

    def stop(self, why: str) -> None:
        """Have the door answer what it has, and stop TorchServe; a second SIGINT or SIGTERM stops both at once."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that is closed sends several
        self.health.drain()
        now = True
        try:
            self.steps("draining", why=why, grace_s=self.settings.grace_s)
            time.sleep(self.settings.grace_s)
            idle = self.door.drain(self.settings.drain_s)
            self.steps("drained", idle=idle)
            now = False
        except KeyboardInterrupt:
            self.steps("stopping at once")
        finally:
            # a third signal must not leave TorchServe behind
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            self.torchserve.stop(now)
