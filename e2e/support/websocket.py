"""A WebSocket server of the `websockets` package."""

import contextlib
import queue
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve as serve_websockets

from .process import PATIENCE


class WebSocketServer:
    """A WebSocket server, each of whose connections is given to `handler`."""

    def __init__(self, handler, **options):
        self.requests = queue.Queue()

        def handle(websocket):
            self.requests.put(websocket.request)
            # What a handler finds wrong, a closed connection apart, is for the test to see.
            with contextlib.suppress(ConnectionClosed):
                handler(websocket)

        self.server = serve_websockets(handle, "127.0.0.1", 0, max_size=None, **options)
        self.port = self.server.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
