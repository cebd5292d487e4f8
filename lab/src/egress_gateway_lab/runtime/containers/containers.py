"""One container of a pod: started, watched, probed, started again, stopped.

Its ``state`` is exactly what ``status.containerStatuses`` shows. Output goes to the log on the
machine and to whoever is attached. Backoff between restarts doubles and starts anew after a good
run, as the kubelet's does, only quicker.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from egress_gateway_lab.runtime.containers.logs import LogFile
from egress_gateway_lab.runtime.containers.streams import Stdio, open_stdio
from egress_gateway_lab.runtime.kubelet import environment, images, security
from egress_gateway_lab.runtime.kubelet.api import ApiError
from egress_gateway_lab.runtime.kubelet.probes import Prober
from egress_gateway_lab.runtime.kubelet.surroundings import Surroundings
from egress_gateway_lab.runtime.kubelet.volumes import VolumeError
from egress_gateway_lab.runtime.nodes.node import ContainerSpec, MachineError, Mount, Process

Object = dict[str, Any]

_FIRST_BACKOFF = 1.0
_LAST_BACKOFF = 30.0
_GOOD_RUN = 60.0
_UNKNOWN_CODE = 255
"""Exit code of a container whose end containerd did not see (``unknownExitCode`` in its CRI)."""
_LAST_WORDS = 4096
_LAST_WORDS_FILE = "/dev/termination-log"
"""The API server's default."""
"""Bytes of a termination message (kubelet's MaxContainerTerminationMessageLength)."""
_LOG_LINES, _LOG_BYTES = 80, 2048
"""Of a log in place of a message (kubelet's MaxContainerTerminationMessageLogLines, …LogLength)."""


class CannotStart(Exception):
    """The container waits, with a reason of Kubernetes' own and a message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    """A container of a pod and its runs."""

    def __init__(self, pod: Surroundings, spec: Object, *, init: bool = False) -> None:
        self._pod = pod
        self.spec = spec
        self.name: str = spec["name"]
        self._init = init
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: Object = {}
        self.restarts = 0
        self.ready = False
        self.started = False
        self.process: Process | None = None
        self.stdio: Stdio | None = None
        self.log: LogFile | None = None
        self.previous_log: LogFile | None = None
        self.attached: set[asyncio.Queue[tuple[int, bytes] | None]] = set()
        self.container_id = ""
        self.env: dict[str, str] = {}
        self.hurry = asyncio.Event()
        """Set when its pod is gone by force: what is left of the grace period is void."""
        self._stopping = False

    @property
    def restart_policy(self) -> str:
        policy: str = self._pod.pod["spec"].get("restartPolicy", "Always")
        if self._init and policy == "Always":
            return "OnFailure"
        return policy

    @property
    def exit_code(self) -> int | None:
        """Of the run that ended, None while it is to run or running."""
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    @property
    def finished(self) -> bool:
        """It has ended and will not be started again."""
        code = self.exit_code
        if code is None:
            return False
        policy = self.restart_policy
        return policy == "Never" or (policy == "OnFailure" and code == 0)

    async def supervise(self) -> None:
        """Runs the container as its restart policy wants; returns when it has finished."""
        backoff = 0.0
        while not self._stopping:
            began = asyncio.get_running_loop().time()
            try:
                await self._run_once()
            except CannotStart as error:
                backoff = await self._wait_to_start(error, backoff)
                continue
            if self.finished or self._stopping:
                return
            lasted = asyncio.get_running_loop().time() - began
            backoff = 0.0 if lasted > _GOOD_RUN else backoff
            await self._back_off(backoff)
            backoff = min(max(backoff * 2, _FIRST_BACKOFF), _LAST_BACKOFF)

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after ``grace`` seconds. Returns when it is gone."""
        self._stopping = True
        process = self.process
        if process is None or not process.running:
            return
        self._pod.event("Normal", "Killing", f"Stopping container {self.name}")
        if grace > 0:
            await self._pre_stop(grace)
            await process.send_signal(signal.SIGTERM)
            ends = [
                asyncio.create_task(_finish(process)),
                asyncio.create_task(_happen(self.hurry)),
            ]
            await asyncio.wait(ends, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
        await process.send_signal(signal.SIGKILL)
        await process.wait()

    def begin_anew(self) -> None:
        """After ``settle``: it is to run once more, in another sandbox."""
        self.close_output()  # of a start or an end that the loss of the sandbox cut short
        self.last_state = self.state
        self.state = {"waiting": {"reason": "ContainerCreating"}}
        self.restarts += bool(self.container_id)
        self.process = None
        self._stopping = False

    def lost(self, before: Object) -> None:
        """It was there when its machine went dark, as ``before``, of the pod's status, says: what
        containerd knows of such a container after the boot. It is to run once more."""
        self.container_id, self.restarts = before["containerID"], before["restartCount"]
        waited = "waiting" in before["state"]
        self.state = before.get("lastState") or {} if waited else before["state"]
        if started := self.state.get("running"):
            self._ended(_UNKNOWN_CODE, "Unknown", started["startedAt"])
        self.begin_anew()

    async def settle(self) -> None:
        """After ``stop``: the state says how it ended, also when nobody supervised it."""
        if self.process is None or "running" not in self.state:
            return
        started = self.state["running"]["startedAt"]
        self._terminated(await self.process.wait(), started)
        self.close_output()

    async def _pre_stop(self, grace: float) -> None:
        hook = ((self.spec.get("lifecycle") or {}).get("preStop") or {}).get("exec")
        if hook and self.process is not None:
            with contextlib.suppress(MachineError):
                await self._pod.node.run(
                    hook["command"], env=self._pod.base_env, within=self.process, limit=grace
                )

    async def _wait_to_start(self, error: CannotStart, backoff: float) -> float:
        self.state = {"waiting": {"reason": error.reason, "message": str(error)}}
        self._pod.changed()
        backoff = min(max(backoff * 2, _FIRST_BACKOFF), _LAST_BACKOFF)
        await asyncio.sleep(backoff)
        if error.reason == "ErrImagePull":
            waiting = {"reason": "ImagePullBackOff", "message": f"Back-off pulling image: {error}"}
            self.state = {"waiting": waiting}
        return backoff

    async def _back_off(self, seconds: float) -> None:
        self.last_state = self.state
        if seconds:
            message = f"back-off {seconds:g}s restarting failed container={self.name}"
            self.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
            self._pod.event("Warning", "BackOff", message)
            self._pod.changed()
            await asyncio.sleep(seconds)
        self.restarts += 1

    async def _run_once(self) -> None:
        image = self._image()
        process = await self._start(image)
        self.state = {"running": {"startedAt": now()}}
        self.container_id = f"lab://{self._pod.pod['metadata']['uid']}-{self.name}-{self.restarts}"
        self._pod.event("Normal", "Started", f"Started container {self.name}")
        prober = Prober(self, self._pod)
        prober.start()
        self._pod.changed()
        pumps = self._pump()
        try:
            code = await process.wait()
        finally:
            prober.stop()
        self._terminated(code, self.state["running"]["startedAt"])
        # Output that a process wrote just before its end is still in the pipe.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.shield(pumps)
        self._speak_by_log(code)
        self.close_output()

    def _image(self) -> images.Image:
        reference: str = self.spec["image"]
        try:
            image = images.find(reference)
        except images.UnknownImage as error:
            self._pod.event("Warning", "Failed", str(error))
            raise CannotStart("ErrImagePull", str(error)) from error
        if self.restarts == 0:
            self._pod.event(
                "Normal", "Pulled", f'Container image "{reference}" already present on machine'
            )
        return image

    async def _start(self, image: images.Image) -> Process:
        pod = self._pod.pod
        terminal = bool(self.spec.get("tty"))
        try:
            env = environment.build(
                pod,
                self.spec,
                base={**self._pod.base_env, **image.env, "HOSTNAME": self._pod.hostname},
                found=await self._pod.sources(self.spec),
                host_ip=self._pod.host_ip,
                pod_ips=self._pod.pod_ips,
            )
            self.env = env
            spec = self._container_spec()
        except (environment.MissingSource, VolumeError, ApiError) as error:
            self._pod.event("Warning", "Failed", f"Error: {error}")
            raise CannotStart("CreateContainerConfigError", str(error)) from error
        argv = [
            environment.expand(word, env)
            for word in images.argv(image, self.spec.get("command") or [], self._args())
        ]
        self._open_output(terminal)
        assert self.stdio is not None
        try:
            self.process = await self._pod.node.spawn(
                argv, self.stdio, env=env, cwd=self.spec.get("workingDir") or "/",
                container=spec, terminal=terminal,
            )  # fmt: skip
        except MachineError as error:
            self.close_output()
            self._pod.event("Warning", "Failed", f"Error: failed to start container: {error}")
            raise CannotStart("RunContainerError", str(error)) from error
        self._pod.event("Normal", "Created", f"Created container: {self.name}")
        return self.process

    def _args(self) -> Sequence[str]:
        args: list[str] = self.spec.get("args") or []
        return args

    def _container_spec(self) -> ContainerSpec:
        pod_spec: Object = self._pod.pod["spec"]
        rights = security.rights(pod_spec, self.spec)
        return ContainerSpec(
            netns=self._pod.netns,
            hostname=self._pod.hostname,
            host_pid=bool(pod_spec.get("hostPID")),
            mounts=(*self._pod.mounts(self.spec), self._last_words()),
            files=self._pod.files,
            privileged=rights.privileged,
            capabilities=rights.capabilities,
            user=rights.user,
            group=rights.group,
            no_new_privileges=rights.no_new_privileges,
            read_only_root=rights.read_only_root,
            working_directory=self.spec.get("workingDir") or "",
        )

    def _last_words(self) -> Mount:
        """The file that this run may write its termination message to, empty."""
        file = self._pod.node.path(self._words)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
        file.chmod(0o666)
        return Mount(
            source=self._words, target=self.spec.get("terminationMessagePath", _LAST_WORDS_FILE)
        )

    @property
    def _words(self) -> str:
        uid = self._pod.pod["metadata"]["uid"]
        return f"/var/lib/kubelet/pods/{uid}/containers/{self.name}/{self.restarts}"

    def _message(self) -> str:
        with contextlib.suppress(OSError):  # the machine is off
            said = self._pod.node.path(self._words).read_bytes()
            return said[-_LAST_WORDS:].decode(errors="replace")
        return ""

    def _speak_by_log(self, code: int) -> None:
        """What a container that failed leaves in place of a message, if its spec says so."""
        asked = self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        ended = self.state.get("terminated")
        if asked and code and ended and self.log is not None and not ended.get("message"):
            said = self.log.last(_LOG_LINES, _LOG_BYTES)
            self.state = {"terminated": {**ended, "message": said}}
            self._pod.changed()

    def _terminated(self, code: int, started: str) -> None:
        self.ready = self.started = False
        self._ended(code, "Completed" if code == 0 else "Error", started)
        self._pod.changed()

    def _ended(self, code: int, reason: str, started: str) -> None:
        self.state = {
            "terminated": {
                "exitCode": code,
                "reason": reason,
                "startedAt": started,
                "finishedAt": now(),
                "containerID": self.container_id,
                **({"message": message} if (message := self._message()) else {}),
            }
        }

    def _open_output(self, terminal: bool) -> None:
        meta = self._pod.pod["metadata"]
        folder = f"/var/log/pods/{meta['namespace']}_{meta['name']}_{meta['uid']}/{self.name}"
        self.previous_log = self.log
        self.log = LogFile(self._pod.node.path(f"{folder}/{self.restarts}.log"))
        self.stdio = open_stdio(stdin=bool(self.spec.get("stdin")), terminal=terminal)

    def close_output(self) -> None:
        """Lets go of streams and log. Idempotent."""
        if self.stdio is not None:
            self.stdio.close()
        if self.log is not None:
            self.log.end()
        for queue in self.attached:
            queue.put_nowait(None)

    def _pump(self) -> asyncio.Future[Any]:
        stdio, log = self.stdio, self.log
        assert stdio is not None
        assert log is not None

        async def pump(number: int) -> None:
            stream = stdio.stdout if number == 1 else stdio.stderr
            while stream is not None and (chunk := await stream.read()):
                log.append(number, chunk)
                for queue in self.attached:
                    queue.put_nowait((number, chunk))

        return asyncio.gather(pump(1), pump(2))

    def status(self) -> Object:
        """Its entry of ``containerStatuses``."""
        image: str = self.spec["image"]
        return {
            "name": self.name,
            "image": image,
            "imageID": f"lab.invalid/{image}" if self.container_id else "",
            "containerID": self.container_id,
            "state": self.state,
            "lastState": self.last_state,
            "ready": self.finished and self.exit_code == 0 if self._init else self.ready,
            "started": self.started,
            "restartCount": self.restarts,
        }


async def _finish(process: Process) -> None:
    await process.wait()


async def _happen(event: asyncio.Event) -> None:
    await event.wait()
