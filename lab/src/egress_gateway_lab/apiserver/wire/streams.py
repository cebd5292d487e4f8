"""Logs, exec and attach: bytes between a client and a container.

exec and attach speak ``v5.channel.k8s.io`` and ``v4.channel.k8s.io`` over WebSocket
(https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets):
every message begins with the number of its stream; the exit status comes on the error stream. SPDY
is not spoken, so kubectl older than 1.31 is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from aiohttp import WSMsgType, web

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.objects import Object
from egress_gateway_lab.apiserver.requests import Request, flag
from egress_gateway_lab.apiserver.storage.store import Store
from egress_gateway_lab.protocols import ContainerRef, ExecSession, LogOptions, PodRuntime

STREAMS = frozenset({"log", "exec", "attach"})
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _ERROR, _RESIZE, _CLOSE = 0, 3, 4, 255


def _pod(store: Store, request: Request) -> Object:
    target = request.target
    pod = store.get("pods", (target.namespace, target.name))
    if pod is None:
        raise errors.not_found("pods", "", target.name)
    return pod


def _container(pod: Object, request: Request) -> str:
    """The container that is meant; kubectl's words for what is missing."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    known = [c["name"] for group in ("containers", "initContainers") for c in spec.get(group) or []]
    asked = request.query.get("container", "")
    if asked:
        if asked not in known:
            raise errors.bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    default = (pod["metadata"].get("annotations") or {}).get(
        "kubectl.kubernetes.io/default-container"
    )
    if default in known:
        return str(default)
    if len(spec["containers"]) > 1 and request.target.subresource == "log":
        listed = " ".join(c["name"] for c in spec["containers"])
        raise errors.bad_request(
            f"a container name must be specified for pod {name}, choose one of: [{listed}]"
        )
    return str(spec["containers"][0]["name"])


def _not_started(pod: Object, container: str, error: LookupError) -> errors.StatusError:
    name = pod["metadata"]["name"]
    if not pod["spec"].get("nodeName"):
        return errors.bad_request(f"pod {name} does not have a host assigned")
    for entry in (pod.get("status") or {}).get("containerStatuses") or []:
        waiting = (entry.get("state") or {}).get("waiting")
        if entry["name"] == container and waiting:
            reason = waiting.get("reason", "ContainerCreating")
            return errors.bad_request(
                f'container "{container}" in pod "{name}" is waiting to start: {reason}'
            )
    text = str(error) or f'container not found ("{container}")'
    return errors.StatusError(404, "NotFound", text)


def open_logs(store: Store, runtime: PodRuntime, request: Request) -> AsyncIterator[bytes]:
    """The log of a container. Raises ``StatusError`` for what can be known beforehand."""
    pod = _pod(store, request)
    container = _container(pod, request)
    query = request.query
    tail = query.get("tailLines")
    options = LogOptions(
        follow=flag(query, "follow"),
        tail_lines=int(tail) if tail else None,
        previous=flag(query, "previous"),
        timestamps=flag(query, "timestamps"),
    )
    at = ContainerRef(request.target.namespace, request.target.name, container)
    chunks = runtime.logs(at, options)
    return _translated(pod, container, chunks)


async def _translated(
    pod: Object, container: str, chunks: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except LookupError as error:
        raise _not_started(pod, container, error) from error


async def open_session(
    store: Store, runtime: PodRuntime, request: Request, command: list[str]
) -> ExecSession:
    """The process of an exec, or the streams of an attach; raises ``StatusError``."""
    pod = _pod(store, request)
    container = _container(pod, request)
    at = ContainerRef(request.target.namespace, request.target.name, container)
    stdin, tty = flag(request.query, "stdin"), flag(request.query, "tty")
    try:
        if request.target.subresource == "attach":
            return await runtime.attach(at, stdin=stdin, tty=tty)
        if not command:
            raise errors.bad_request("you must specify at least one command for the container")
        return await runtime.exec(at, command, stdin=stdin, tty=tty)
    except LookupError as error:
        raise _not_started(pod, container, error) from error


def check_upgrade(headers: web.BaseRequest) -> None:
    if headers.headers.get("Upgrade", "").lower() != "websocket":
        raise errors.bad_request(
            "the embedded API server streams over WebSocket only, not SPDY: use kubectl 1.31 or "
            "later"
        )
    accepted = headers.headers.get("Accept", "*/*")
    if not any(one.partition(";")[0].strip() == "*/*" for one in accepted.split(",")):
        # As kube-apiserver: a connection is of no media type.
        raise errors.StatusError(
            406, "NotAcceptable", "only the following media types are accepted: */*"
        )


async def serve(
    http: web.BaseRequest, session: ExecSession, *, attached: bool = False
) -> web.WebSocketResponse:
    """Joins a WebSocket and a session until the process ends or the client goes. An attachment
    ends well however its process ended: the exit code is the pod's, not the stream's."""
    socket = web.WebSocketResponse(protocols=_PROTOCOLS, max_msg_size=0, autoping=True)
    await socket.prepare(http)
    reader = asyncio.create_task(_from_client(socket, session))
    try:
        await _to_client(socket, session, reader, attached=attached)
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await reader
    await socket.close()
    return socket


async def _to_client(
    socket: web.WebSocketResponse,
    session: ExecSession,
    reader: asyncio.Task[None],
    *,
    attached: bool,
) -> None:
    pump = asyncio.create_task(_pump(socket, session))
    try:
        await asyncio.wait({pump, reader}, return_when=asyncio.FIRST_COMPLETED)
        if not pump.done():
            # The client has gone: nobody will read, and its process must not stay.
            await session.kill()
            return
        pump.result()
        code = 0 if attached else await session.wait()
        await socket.send_bytes(bytes([_ERROR]) + json.dumps(_exit_status(code)).encode())
    except ConnectionError:
        await session.kill()
    except asyncio.CancelledError:
        await session.kill()
        raise
    finally:
        pump.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await pump


async def _pump(socket: web.WebSocketResponse, session: ExecSession) -> None:
    while (piece := await session.read()) is not None:
        stream, chunk = piece
        await socket.send_bytes(bytes([stream]) + chunk)


async def _from_client(socket: web.WebSocketResponse, session: ExecSession) -> None:
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data:
            continue
        channel, payload = message.data[0], message.data[1:]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if channel == _STDIN and payload:
                await session.write(payload)
            elif channel == _CLOSE and payload[:1] == bytes([_STDIN]):
                await session.close_stdin()
            elif channel == _RESIZE:
                size = json.loads(payload)
                await session.resize(int(size["Width"]), int(size["Height"]))


def _exit_status(code: int) -> Object:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
