"""Trainings on a Ray cluster: each is a process that an actor of Ray starts on some machine.

Ray decides when and where: an actor waits until the cores and GPUs that it asks for are free.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrellis.errors import UsageError
from vitrellis.experiments.slots import LocalTraining, environment_of_training, with_threads
from vitrellis.recipe import Recipe

_KNOCK_SECONDS = 5.0
_LOST = -9  # of SIGKILL, which Windows has no name for
"""The exit code of a training whose machine has left the cluster."""
_DROPPED = -signal.SIGTERM
"""The exit code of a training that had not begun when it was asked to stop."""


class _Starter:
    """What runs on a machine of the cluster: starts a training there, and passes requests on."""

    def start(
        self, command: Sequence[str], folder: str, log: str, environment: Mapping[str, str]
    ) -> None:
        os.chdir(folder)
        for name, value in environment.items():
            os.environ.setdefault(name, value)  # what Ray sets here, such as the GPUs, stays
        self._training = LocalTraining(command, Path(log), {})

    def exit_code(self) -> int | None:
        return self._training.exit_code()

    def ask_to_stop(self) -> None:
        self._training.ask_to_stop()

    def kill(self) -> None:
        self._training.kill()

    def wait(self) -> int | None:
        self._training.wait()
        return self._training.exit_code()


class RayTraining:
    """A training that an actor has started, or will start when it has its cores and GPUs.

    Args:
        actor: The actor.
        started: The reference of its start.
    """

    def __init__(self, actor: Any, started: Any) -> None:
        self._actor = actor
        self._asked: Any = started
        self._is_started = False
        self._code: int | None = None

    def exit_code(self) -> int | None:
        """The exit code, minus the number of the signal that ended it; None before its end."""
        import ray

        if self._code is None and ray.wait([self._asked], timeout=0)[0]:
            try:
                answer = ray.get(self._asked)
            except ray.exceptions.RayActorError:
                answer = _LOST
            except ray.exceptions.RayTaskError as error:  # such as no such folder on that machine
                self._release()
                raise UsageError(f"--ray: a training cannot be started: {error.cause}") from None
            if answer is None:
                self._is_started = True
                self._asked = self._actor.exit_code.remote()
            else:
                self._code = answer
                self._release()
        return self._code

    def ask_to_stop(self) -> None:
        """Lets it save and end; one that waits for its turn is dropped."""
        if self._has_begun():
            self._actor.ask_to_stop.remote()
        else:
            self._drop()

    def wait(self) -> None:
        """Returns when it has ended."""
        import ray

        if self._code is None and self._is_started:
            try:
                self._code = ray.get(self._actor.wait.remote())
            except ray.exceptions.RayActorError:
                self._code = _LOST
            self._release()

    def kill(self) -> None:
        """Ends it at once, with the processes that it began."""
        if self._code is not None:
            return
        if self._has_begun():
            self._actor.kill.remote()
            self.wait()
        else:
            self._drop()

    def _has_begun(self) -> bool:
        """Whether the actor has its cores and GPUs."""
        import ray

        if not self._is_started:
            self._is_started = bool(ray.wait([self._asked], timeout=0)[0])
        return self._is_started

    def _drop(self) -> None:
        self._code = _DROPPED
        self._release()

    def _release(self) -> None:
        import ray

        ray.kill(self._actor)


class RaySlot:
    """A slot of a Ray cluster: each training asks for cores, and for GPUs if there are any.

    Args:
        address: The address of the cluster, or "auto" for the one that runs on this machine.
        cpus: The number of cores of each training.
        devices: The number of devices of each training.

    Raises:
        UsageError: If Ray is missing, there is no cluster at the address, or none of its machines
            has so many cores or GPUs.
    """

    def __init__(self, address: str, cpus: int, devices: int) -> None:
        ray = _connected(address)
        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        self._cpus = cpus
        self._gpus = devices if any("GPU" in machine for machine in machines) else 0
        wanted = {"CPU": self._cpus, "GPU": self._gpus}
        if not any(all(m.get(k, 0) >= n for k, n in wanted.items()) for m in machines):
            raise UsageError(
                f"--ray {address}: no machine of the cluster has {cpus} cores (machine.threads) "
                f"and {self._gpus} GPUs (machine.devices), as each training asks for"
            )

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with as many threads as the training has cores, unless it says how many."""
        return with_threads(recipe, self._cpus)

    def start(self, command: Sequence[str], log: Path) -> RayTraining:
        """Asks Ray for an actor, which starts the training when there is room."""
        import ray

        starter: Any = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(_Starter)
        actor = starter.remote()
        folder, file = str(Path.cwd()), str(log.resolve())
        return RayTraining(
            actor, actor.start.remote(list(command), folder, file, environment_of_training())
        )


def _connected(address: str) -> Any:
    """The module ray, connected to the cluster."""
    try:
        import ray
    except ImportError:
        raise UsageError(
            "--ray: needs Ray. Install it with: pip install 'vitrellis[ray]'"
        ) from None
    if not ray.is_initialized():
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"--ray {address}: no Ray cluster is there ({reason}). Start one with "
                "`ray start --head`, and give its address, or auto on its own machine"
            ) from None
    return ray


def _knock(address: str) -> None:
    """Connects to the port of an address, as Ray itself would try for minutes.

    Raises:
        OSError: If nobody answers.
        ValueError: If it is no address.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError("an address is HOST:PORT, or auto")
    with socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS):
        pass
