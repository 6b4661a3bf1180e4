"""A gRPC server and stub from `echo.proto`, on grpcio."""

import importlib
import sys
import threading
from concurrent import futures

import grpc
import grpc_tools
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

from .process import PATIENCE

#: Messages are as large as the test makes them.
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def compile_protocol(source, into):
    """Compiles `echo.proto` below `into`; the modules of its messages and of its services."""
    into.mkdir(parents=True, exist_ok=True)
    well_known = f"{grpc_tools.__path__[0]}/_proto"
    arguments = [f"-I{source}", f"-I{well_known}", f"--python_out={into}", f"--grpc_python_out={into}"]
    assert protoc.main(["protoc", *arguments, "echo.proto"]) == 0
    sys.path.insert(0, str(into))
    return importlib.import_module("echo_pb2"), importlib.import_module("echo_pb2_grpc")


class Peer:
    """An `Echo` server that tells the test what it sees."""

    def __init__(self, messages, services, name="peer"):
        self.messages, self.name = messages, name
        self.next_letter = threading.Event()
        self.hanging, self.cancelled = threading.Event(), threading.Event()
        self.seen = []
        self.server = grpc.server(futures.ThreadPoolExecutor(32), options=UNLIMITED)
        services.add_EchoServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def stop(self):
        assert self.server.stop(0).wait(PATIENCE)

    def _text(self, text, payload=b""):
        return self.messages.Text(text=text, payload=payload)

    def Unary(self, request, context):
        sent = dict(context.invocation_metadata())
        self.seen.append(sent)
        if "x-hang" in sent:
            context.add_callback(self.cancelled.set)
            self.cancelled.wait(PATIENCE)
        if request.text.lower() == "gzip":
            context.set_compression(grpc.Compression.Gzip)
        context.send_initial_metadata([("x-peer", self.name), ("x-back", sent.get("x-ask", ""))])
        context.set_trailing_metadata(
            [("x-end", "1"), ("x-end", "2"), ("x-back-bin", sent.get("x-ask-bin", b""))]
        )
        return self._text(request.text.upper(), request.payload)

    def Collect(self, requests, context):
        parts = list(requests)
        return self._text("".join(it.text for it in parts), b"".join(it.payload for it in parts))

    def Spell(self, request, context):
        for number, letter in enumerate(request.text):
            if number:
                assert self.next_letter.wait(PATIENCE)
                self.next_letter.clear()
            yield self._text(letter)

    def Chat(self, requests, context):
        for number, request in enumerate(requests):
            yield self._text(f"{number}: {request.text}", request.payload)

    def Fail(self, request, context):
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason="TESTED", domain="e2e"))
        status = status_pb2.Status(
            code=grpc.StatusCode.FAILED_PRECONDITION.value[0],
            message="süß & 100%: no\nsecond line",
            details=[detail],
        )
        context.abort_with_status(rpc_status.to_status(status))

    def Hang(self, request, context):
        context.add_callback(self.cancelled.set)
        self.hanging.set()
        yield self._text("hanging")
        self.cancelled.wait(PATIENCE)


class Client:
    """A client on a way; its calls carry what sends them to the peer."""

    def __init__(self, messages, services, way, credentials=None, options=()):
        always = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        options = [*UNLIMITED, *always, *options]
        if credentials:
            self.channel = grpc.secure_channel(way.address, credentials, options)
        else:
            self.channel = grpc.insecure_channel(way.address, options)
        self.text = messages.Text
        self.stub = services.EchoStub(self.channel)
        self.metadata = list(way.fields.items())

    def call(self, method, request, *, metadata=(), timeout=PATIENCE, **options):
        """A call that can be waited for, read or cancelled."""
        rpc = getattr(self.stub, method)
        rpc = getattr(rpc, "future", rpc)
        return rpc(request, metadata=[*self.metadata, *metadata], timeout=timeout, **options)
