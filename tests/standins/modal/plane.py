"""The control plane: service ``ModalClient``, as far as sandboxes need it."""

import base64
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2
from standins.modal.cloud import Cloud
from standins.modal.faults import Faults, invalid
from standins.modal.rpc import Call, Service, Streaming, Unary
from standins.modal.sandbox import Sandbox

#: Sandboxes on one page of a list: few, so that clients have to turn pages.
_PAGE = 10


class ControlPlane:
    """Answers by the name of an RPC. V1 and V2 of an operation share an answer; ``url`` is where both services are."""

    def __init__(self, cloud: Cloud, url: str, blob_url: str) -> None:
        self._cloud = cloud
        self._url = url
        self._blob_url = blob_url

    def service(self, faults: Faults) -> Service:
        """The service to serve."""
        unary: dict[str, Unary] = {
            "AppGetOrCreate": self._app,
            "AuthTokenGet": self._auth_token,
            "BlobCreate": self._create_blob,
            "ClientHello": self._hello,
            "EnvironmentGetOrCreate": self._environment,
            "ImageDelete": self._delete_image,
            "ImageFromId": self._image_from_id,
            "ImageGetOrCreate": self._image,
            "MountBatchedCheckExistence": self._missing_files,
            "MountGetOrCreate": self._mount,
            "MountPutFile": self._put_file,
            "SandboxCreate": self._create,
            "SandboxCreateV2": self._create,
            "SandboxGetCommandRouterAccess": self._access,
            "SandboxStdinWrite": self._write_stdin,
            "SecretGetOrCreate": self._secret,
            "TaskGetCommandRouterAccess": self._access_v1,
            "VolumeGetOrCreate": self._volume,
        }
        for version in ("", "V2"):
            unary |= {
                f"SandboxGetFromName{version}": self._from_name,
                f"SandboxGetTaskId{version}": self._task_id,
                f"SandboxList{version}": self._list,
                f"SandboxTagsGet{version}": self._tags,
                f"SandboxTagsSet{version}": self._set_tags,
                f"SandboxTerminate{version}": self._terminate,
                f"SandboxWait{version}": self._wait,
            }
        streaming: dict[str, Streaming] = {"SandboxGetLogs": self._logs}
        descriptor = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
        return Service(descriptor, faults, unary, streaming, self._check)

    def blobs(self) -> web.Application:
        """Takes content that is too large for a message."""

        async def put(request: web.Request) -> web.Response:
            content = await request.read()
            self._cloud.blobs[request.match_info["id"]] = content
            return web.Response(headers={"ETag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'})

        application = web.Application(client_max_size=1 << 30)
        application.router.add_put("/{id}", put)
        return application

    def _check(self, call: Call) -> None:
        if not (call.metadata.get("x-modal-token-id") and call.metadata.get("x-modal-token-secret")):
            raise GRPCError(Status.UNAUTHENTICATED, "a token is missing")

    # -- the surroundings of a sandbox

    async def _hello(self, _: Empty, __: Call) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse()

    async def _app(self, request: api_pb2.AppGetOrCreateRequest, _: Call) -> api_pb2.AppGetOrCreateResponse:
        digest = hashlib.sha256(request.app_name.encode()).hexdigest()
        return api_pb2.AppGetOrCreateResponse(app_id=f"ap-{digest[:22]}")

    async def _auth_token(self, _: api_pb2.AuthTokenGetRequest, __: Call) -> api_pb2.AuthTokenGetResponse:
        claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 3600}).encode()).decode().rstrip("=")
        return api_pb2.AuthTokenGetResponse(token=f"e30.{claims}.e30")

    async def _environment(self, _: Any, __: Call) -> api_pb2.EnvironmentGetOrCreateResponse:
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06")
        metadata = api_pb2.EnvironmentMetadata(name="main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-main", metadata=metadata)

    async def _secret(self, request: api_pb2.SecretGetOrCreateRequest, _: Call) -> api_pb2.SecretGetOrCreateResponse:
        if request.env_dict:
            secret_id = f"st-{uuid.uuid4().hex[:22]}"
            self._cloud.secrets[secret_id] = dict(request.env_dict)
        else:
            with invalid("secret"):
                secret_id = self._cloud.secret_names[request.deployment_name]
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id)

    async def _volume(self, request: api_pb2.VolumeGetOrCreateRequest, _: Call) -> api_pb2.VolumeGetOrCreateResponse:
        volumes, name = self._cloud.volumes, request.deployment_name
        if name not in volumes:
            if request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
                raise GRPCError(Status.NOT_FOUND, f"there is no volume {name!r}")
            volumes[name] = f"vo-{uuid.uuid4().hex[:22]}"
        return api_pb2.VolumeGetOrCreateResponse(volume_id=volumes[name])

    # -- images and mounts

    async def _image(self, request: api_pb2.ImageGetOrCreateRequest, _: Call) -> api_pb2.ImageGetOrCreateResponse:
        built = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        return api_pb2.ImageGetOrCreateResponse(image_id=self._cloud.image(request.image), result=built)

    async def _image_from_id(self, request: api_pb2.ImageFromIdRequest, _: Call) -> api_pb2.ImageFromIdResponse:
        with invalid("image"):
            self._cloud.images[request.image_id]
        return api_pb2.ImageFromIdResponse(image_id=request.image_id)

    async def _delete_image(self, request: api_pb2.ImageDeleteRequest, _: Call) -> Empty:
        await self._cloud.delete_image(request.image_id)
        return Empty()

    async def _missing_files(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, _: Call
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [sha256 for sha256 in request.sha256_hex_hashes if not self._cloud.content(sha256).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def _create_blob(self, request: api_pb2.BlobCreateRequest, _: Call) -> api_pb2.BlobCreateResponse:
        blob_id = f"bl-{uuid.uuid4().hex}"
        urls = api_pb2.UploadUrlList(items=[f"{self._blob_url}/{blob_id}"])
        return api_pb2.BlobCreateResponse(blob_ids=[blob_id], upload_urls=urls)

    async def _put_file(self, request: api_pb2.MountPutFileRequest, _: Call) -> api_pb2.MountPutFileResponse:
        data = self._cloud.blobs.pop(request.data_blob_id) if request.data_blob_id else request.data
        if hashlib.sha256(data).hexdigest() != request.sha256_hex:
            raise GRPCError(Status.INVALID_ARGUMENT, "the content has another hash")
        self._cloud.content(request.sha256_hex).write_bytes(data)
        return api_pb2.MountPutFileResponse(exists=True)

    async def _mount(self, request: api_pb2.MountGetOrCreateRequest, _: Call) -> api_pb2.MountGetOrCreateResponse:
        return api_pb2.MountGetOrCreateResponse(mount_id=self._cloud.mount(request.files))

    # -- sandboxes

    async def _create(
        self, request: api_pb2.SandboxCreateV2Request | api_pb2.SandboxCreateRequest, call: Call
    ) -> api_pb2.SandboxCreateV2Response | api_pb2.SandboxCreateResponse:
        async def create() -> api_pb2.SandboxCreateV2Response | api_pb2.SandboxCreateResponse:
            if isinstance(request, api_pb2.SandboxCreateRequest):
                sandbox = await self._cloud.create(request, {}, v1=True)
                return api_pb2.SandboxCreateResponse(sandbox_id=sandbox.id)
            sandbox = await self._cloud.create(request, self._cloud.env(request.secret_sources), v1=False)
            return api_pb2.SandboxCreateV2Response(
                sandbox_id=sandbox.id,
                task_id=sandbox.task_id,
                command_router_access=api_pb2.CommandRouterAccess(url=self._url, jwt=sandbox.jwt),
            )

        return await self._cloud.once(call.metadata.get("x-idempotency-key"), create)

    async def _access(
        self, request: api_pb2.SandboxGetCommandRouterAccessRequest, _: Call
    ) -> api_pb2.SandboxGetCommandRouterAccessResponse:
        sandbox = self._running(self._cloud.sandbox(request.sandbox_id))
        return api_pb2.SandboxGetCommandRouterAccessResponse(url=self._url, jwt=sandbox.jwt)

    async def _access_v1(
        self, request: api_pb2.TaskGetCommandRouterAccessRequest, _: Call
    ) -> api_pb2.TaskGetCommandRouterAccessResponse:
        found = [sandbox for sandbox in self._cloud.sandboxes.values() if sandbox.task_id == request.task_id]
        if not found:
            raise GRPCError(Status.NOT_FOUND, f"there is no task {request.task_id}")
        return api_pb2.TaskGetCommandRouterAccessResponse(url=self._url, jwt=self._running(found[0]).jwt)

    @staticmethod
    def _running(sandbox: Sandbox) -> Sandbox:
        if sandbox.over.is_set():
            raise GRPCError(Status.FAILED_PRECONDITION, "the sandbox has ended")
        return sandbox

    async def _task_id(self, request: api_pb2.SandboxGetTaskIdRequest, _: Call) -> api_pb2.SandboxGetTaskIdResponse:
        sandbox = self._cloud.sandbox(request.sandbox_id)
        if sandbox.over.is_set():
            return api_pb2.SandboxGetTaskIdResponse(task_result=sandbox.result)
        return api_pb2.SandboxGetTaskIdResponse(task_id=sandbox.task_id)

    async def _wait(self, request: api_pb2.SandboxWaitRequest, _: Call) -> api_pb2.SandboxWaitResponse:
        sandbox = self._cloud.sandbox(request.sandbox_id)
        return api_pb2.SandboxWaitResponse(result=await sandbox.wait(request.timeout))

    async def _terminate(self, request: api_pb2.SandboxTerminateRequest, _: Call) -> api_pb2.SandboxTerminateResponse:
        sandbox = self._cloud.sandbox(request.sandbox_id)
        before = sandbox.result
        sandbox.end(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED)
        return api_pb2.SandboxTerminateResponse(existing_result=before)

    async def _tags(self, request: api_pb2.SandboxTagsGetRequest, _: Call) -> api_pb2.SandboxTagsGetResponse:
        return api_pb2.SandboxTagsGetResponse(tags=_protos(self._cloud.sandbox(request.sandbox_id)))

    async def _set_tags(self, request: api_pb2.SandboxTagsSetRequest, _: Call) -> Empty:
        sandbox = self._cloud.sandbox(request.sandbox_id)
        sandbox.tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        return Empty()

    async def _list(self, request: api_pb2.SandboxListRequest, _: Call) -> api_pb2.SandboxListResponse:
        wanted = {(tag.tag_name, tag.tag_value) for tag in request.tags}
        found = [
            sandbox
            for sandbox in self._cloud.sandboxes.values()
            if request.app_id in ("", sandbox.order.app_id)
            and wanted <= set(sandbox.tags.items())
            and (request.include_finished or not sandbox.over.is_set())
            and (not request.before_timestamp or sandbox.created < request.before_timestamp)
        ]
        found.sort(key=lambda sandbox: -sandbox.created)
        infos = [api_pb2.SandboxInfo(id=one.id, created_at=one.created, tags=_protos(one)) for one in found[:_PAGE]]
        return api_pb2.SandboxListResponse(sandboxes=infos)

    async def _from_name(
        self, request: api_pb2.SandboxGetFromNameRequest, _: Call
    ) -> api_pb2.SandboxGetFromNameResponse:
        for sandbox in self._cloud.sandboxes.values():
            if sandbox.order.definition.name == request.sandbox_name and not sandbox.over.is_set():
                return api_pb2.SandboxGetFromNameResponse(sandbox_id=sandbox.id)
        raise GRPCError(Status.NOT_FOUND, f"there is no sandbox {request.sandbox_name!r}")

    # -- the entrypoint's streams, of V1

    async def _write_stdin(
        self, request: api_pb2.SandboxStdinWriteRequest, _: Call
    ) -> api_pb2.SandboxStdinWriteResponse:
        sandbox = self._cloud.sandbox(request.sandbox_id)
        sandbox.touch()
        await sandbox.entrypoint.append(request.index, request.input, eof=request.eof)
        return api_pb2.SandboxStdinWriteResponse()

    async def _logs(self, request: api_pb2.SandboxGetLogsRequest, _: Call) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        entrypoint = self._cloud.sandbox(request.sandbox_id).entrypoint
        errors = request.file_descriptor == api_pb2.FILE_DESCRIPTOR_STDERR
        offset = int(request.last_entry_id.partition("-")[0] or 0)
        async for data in (entrypoint.stderr if errors else entrypoint.stdout).read(offset):
            offset += len(data)
            log = api_pb2.TaskLogs(data=data.decode(errors="replace"), file_descriptor=request.file_descriptor)
            yield api_pb2.TaskLogsBatch(items=[log], entry_id=str(offset))
        yield api_pb2.TaskLogsBatch(eof=True, entry_id=str(offset))


def _protos(sandbox: Sandbox) -> list[api_pb2.SandboxTag]:
    return [api_pb2.SandboxTag(tag_name=name, tag_value=value) for name, value in sandbox.tags.items()]
