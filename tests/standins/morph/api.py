"""MorphCloud's HTTP interface, as far as its SDK uses it for instances and snapshots, and an admin route for tests."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from standins.morph.cloud import Cloud, Conflict, Instance, Missing, Snapshot
from standins.morph.faults import Fault, Faults

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The routes. ``cut`` ends every SSH connection of an instance, and some to come."""

    def __init__(self, cloud: Cloud, faults: Faults, api_key: str, cut: Callable[[str, int], int]) -> None:
        self._cloud = cloud
        self._faults = faults
        self._api_key = api_key
        self._cut = cut
        self._running: set[asyncio.Task[Any]] = set()

    def app(self) -> web.Application:
        """The application, to be served."""
        app = web.Application(middlewares=[self._faults.middleware(), self._guard()], client_max_size=256 * 1024**2)
        app.add_routes(
            [
                web.post("/api/instance", self._start),
                web.get("/api/instance", self._list),
                web.get("/api/instance/list", self._list_page),
                web.get("/api/instance/{id}", self._get),
                web.delete("/api/instance/{id}", self._stop),
                web.post("/api/instance/{id}/{verb:pause|resume}", self._pause_or_resume),
                web.post("/api/instance/{id}/ttl", self._ttl),
                web.post("/api/instance/{id}/metadata", self._metadata),
                web.post("/api/instance/{id}/wake-on", self._wake_on),
                web.post("/api/instance/{id}/snapshot", self._save),
                web.post("/api/instance/{id}/branch", self._branch),
                web.get("/api/instance/{id}/ssh/key", self._ssh_key),
                web.post("/api/instance/{id}/exec", self._exec),
                web.post("/api/instance/{id}/exec/sse", self._exec_sse),
                web.post("/api/snapshot/{id}/boot", self._boot),
                web.get("/api/snapshot", self._snapshots),
                web.get("/api/snapshot/{id}", self._snapshot),
                web.delete("/api/snapshot/{id}", self._delete_snapshot),
                web.post("/api/snapshot/{id}/ttl", self._snapshot_ttl),
                web.post("/api/snapshot/{id}/metadata", self._snapshot_metadata),
                web.post("/admin/faults", self._add_fault),
                web.delete("/admin/faults", self._clear_faults),
                web.get("/admin/requests", self._requests),
                web.post("/admin/lose/{id}", self._lose),
                web.post("/admin/cut/{id}", self._cut_ssh),
            ]
        )
        return app

    def _guard(self) -> Any:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.headers.get("Authorization") != f"Bearer {self._api_key}":
                return web.json_response({"detail": "Invalid API key"}, status=401)
            try:
                return await handler(request)
            except Missing as error:
                return web.json_response({"detail": str(error)}, status=404)
            except Conflict as error:
                return web.json_response({"detail": str(error)}, status=409)

        return guard

    # -- instances ------------------------------------------------------------------------------------------------

    async def _start(self, request: web.Request) -> web.Response:
        return _json(self._cloud.start(request.query["snapshot_id"], await request.json()))

    async def _boot(self, request: web.Request) -> web.Response:
        return _json(self._cloud.start(request.match_info["id"], await request.json()))

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [instance.json() for instance in self._matching(request)]})

    async def _list_page(self, request: web.Request) -> web.Response:
        found = self._matching(request)
        page, limit = int(request.query["page"]), int(request.query["limit"])
        pages = max(1, -(-len(found) // limit))
        part = found[(page - 1) * limit : page * limit]
        about = {"total": len(found), "page": page, "size": len(part), "total_pages": pages}
        neighbours = {"has_next": page < pages, "has_prev": page > 1}
        return web.json_response({"instances": [instance.json() for instance in part], **about, **neighbours})

    def _matching(self, request: web.Request) -> list[Instance]:
        wanted = _metadata(request)
        return [found for found in self._cloud.instances.values() if wanted.items() <= found.metadata.items()]

    async def _get(self, request: web.Request) -> web.Response:
        return _json(self._instance(request))

    async def _stop(self, request: web.Request) -> web.Response:
        await self._cloud.stop(self._instance(request))
        return web.Response(status=204)

    async def _pause_or_resume(self, request: web.Request) -> web.Response:
        instance = self._instance(request)
        await (self._cloud.pause if request.match_info["verb"] == "pause" else self._cloud.resume)(instance)
        return web.Response(status=204)

    async def _ttl(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._cloud.set_ttl(self._instance(request), body["ttl_seconds"], body.get("ttl_action"))
        return _json(self._instance(request))

    async def _metadata(self, request: web.Request) -> web.Response:
        self._instance(request).metadata = await request.json()
        return _json(self._instance(request))

    async def _wake_on(self, request: web.Request) -> web.Response:
        self._instance(request).wake_on.update(await request.json())
        return _json(self._instance(request))

    async def _save(self, request: web.Request) -> web.Response:
        return _json(self._cloud.save(self._instance(request), request.query.get("digest"), await request.json()))

    async def _branch(self, request: web.Request) -> web.Response:
        snapshot = self._cloud.save(self._instance(request), None, {})
        count = int(request.query["count"])
        instances = [self._cloud.start(snapshot.id, {}).json() for _ in range(count)]
        return web.json_response({"snapshot": snapshot.json(), "instances": instances})

    async def _ssh_key(self, request: web.Request) -> web.Response:
        key = self._instance(request).key
        public, private = key.export_public_key().decode(), key.export_private_key().decode()
        about = {"private_key": private, "public_key": public, "password": "unused"}
        return web.json_response({"object": "instance_ssh_key", **about})

    def _instance(self, request: web.Request) -> Instance:
        return self._cloud.instance(request.match_info["id"])

    # -- exec -----------------------------------------------------------------------------------------------------

    async def _exec(self, request: web.Request) -> web.Response:
        """Runs to its end whatever becomes of the request."""
        instance = self._cloud.ready(request.match_info["id"])
        process = await instance.machine.spawn(await _argv(request), stdin=asyncio.subprocess.DEVNULL)
        task = asyncio.ensure_future(process.communicate())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        stdout, stderr = await asyncio.shield(task)
        about = {"stdout": stdout.decode(errors="replace"), "stderr": stderr.decode(errors="replace")}
        return web.json_response({"exit_code": process.returncode, **about})

    async def _exec_sse(self, request: web.Request) -> web.StreamResponse:
        instance = self._cloud.ready(request.match_info["id"])
        process = await instance.machine.spawn(await _argv(request), stdin=asyncio.subprocess.DEVNULL)
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def pump(kind: str, stream: asyncio.StreamReader) -> None:
            while data := await stream.read(65536):
                events.put_nowait({"type": kind, "content": data.decode(errors="replace")})

        async def watch() -> None:
            assert process.stdout is not None
            assert process.stderr is not None
            await asyncio.gather(pump("stdout", process.stdout), pump("stderr", process.stderr))
            events.put_nowait({"type": "exit_code", "content": await process.wait()})

        task = asyncio.ensure_future(watch())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        left = request.get("events", -1)
        while left != 0:
            event = await events.get()
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            left -= 1
            if event["type"] == "exit_code":
                await response.write(b"data: [DONE]\n\n")
                break
        return response

    # -- snapshots ------------------------------------------------------------------------------------------------

    async def _snapshots(self, request: web.Request) -> web.Response:
        wanted, digest = _metadata(request), request.query.get("digest")
        found = [
            snapshot.json()
            for snapshot in self._cloud.snapshots.values()
            if wanted.items() <= snapshot.metadata.items() and digest in (None, snapshot.digest)
        ]
        return web.json_response({"data": found})

    async def _snapshot(self, request: web.Request) -> web.Response:
        return _json(self._cloud.snapshot(request.match_info["id"]))

    async def _delete_snapshot(self, request: web.Request) -> web.Response:
        await self._cloud.delete(self._cloud.snapshot(request.match_info["id"]))
        return web.Response(status=204)

    async def _snapshot_ttl(self, request: web.Request) -> web.Response:
        snapshot = self._cloud.snapshot(request.match_info["id"])
        self._cloud.set_retention(snapshot, (await request.json())["ttl_seconds"])
        return _json(snapshot)

    async def _snapshot_metadata(self, request: web.Request) -> web.Response:
        snapshot = self._cloud.snapshot(request.match_info["id"])
        snapshot.metadata = await request.json()
        return _json(snapshot)

    # -- for tests ------------------------------------------------------------------------------------------------

    async def _add_fault(self, request: web.Request) -> web.Response:
        self._faults.add(Fault.model_validate_json(await request.text()))
        return web.Response(status=204)

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._faults.clear()
        return web.Response(status=204)

    async def _requests(self, _: web.Request) -> web.Response:
        return web.json_response(self._faults.requests)

    async def _lose(self, request: web.Request) -> web.Response:
        """The instance is gone as if its host had died."""
        await self._cloud.stop(self._instance(request))
        return web.Response(status=204)

    async def _cut_ssh(self, request: web.Request) -> web.Response:
        return web.json_response({"cut": self._cut(request.match_info["id"], int(request.query["refuse"]))})


def _json(thing: Instance | Snapshot) -> web.Response:
    return web.json_response(thing.json())


def _metadata(request: web.Request) -> dict[str, str]:
    return {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.query.items()
        if name.startswith("metadata[")
    }


async def _argv(request: web.Request) -> list[str]:
    command: list[str] = (await request.json())["command"]
    return ["/bin/sh", "-c", command[0]] if len(command) == 1 else command
