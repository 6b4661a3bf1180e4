"""HTTP/1 byte by byte: a connection to be read and written at will, a client, and a server.

For what no client library lets through: when exactly something is sent, and what is malformed.
"""

import contextlib
import dataclasses
import socket
import struct
import threading
import time

from .process import PATIENCE


@dataclasses.dataclass
class Head:
    """A request's or an answer's first line, split, and its fields as they came."""

    start: list[bytes]
    fields: list[tuple[str, bytes]]

    @property
    def method(self):
        return self.start[0].decode()

    @property
    def target(self):
        return self.start[1].decode("latin-1")

    @property
    def status(self):
        return int(self.start[1])

    def all(self, name):
        return [value for field, value in self.fields if field == name]

    def get(self, name):
        """The value of a field that must not come twice."""
        values = self.all(name)
        assert len(values) < 2, f"{name}: {values}"
        return values[0].decode("latin-1") if values else None

    def names(self):
        return {name for name, _ in self.fields}


class Conn:
    """A connection; every wait on it ends."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.received = 0

    def send(self, *parts):
        for part in parts:
            self.sock.sendall(part.encode("latin-1") if isinstance(part, str) else part)

    def _more(self):
        data = self.sock.recv(65536)
        self.received += len(data)
        self.buffer += data
        return bool(data)

    def until(self, end):
        """Everything up to and with `end`."""
        while end not in self.buffer:
            if not self._more():
                raise EOFError(f"the end came after {self.buffer!r}")
        found, _, self.buffer = self.buffer.partition(end)
        return found + end

    def exactly(self, length):
        while len(self.buffer) < length:
            if not self._more():
                raise EOFError(f"the end came after {len(self.buffer)} of {length} bytes")
        found, self.buffer = self.buffer[:length], self.buffer[length:]
        return found

    def head(self):
        """The next head, or None at the end of the connection."""
        try:
            lines = self.until(b"\r\n\r\n").split(b"\r\n")[:-2]
        except (EOFError, ConnectionError):
            if self.buffer:
                raise
            return None
        fields = []
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            fields.append((name.decode().lower(), value.strip()))
        return Head(lines[0].split(b" ", 2), fields)

    def chunk(self):
        """The next chunk, empty at the last one, whose trailers are still to be read."""
        length = int(self.until(b"\r\n").split(b";")[0], 16)
        data = self.exactly(length)
        if length:
            assert self.exactly(2) == b"\r\n"
        return data

    def trailers(self):
        fields = []
        while (line := self.until(b"\r\n")) != b"\r\n":
            name, _, value = line.partition(b":")
            fields.append((name.decode().lower(), value.strip()))
        return fields

    def body(self, head, *, of_answer=False):
        """The body that belongs to `head`; an answer without a length goes on to the end."""
        if head.get("transfer-encoding") == "chunked":
            body = b""
            while data := self.chunk():
                body += data
            self.trailers()
            return body
        length = head.get("content-length")
        if length is not None:
            return self.exactly(int(length))
        return self.rest() if of_answer else b""

    def answer(self, *, to="GET"):
        """The next final answer: its head and body."""
        while True:
            head = self.head()
            assert head is not None, "closed without an answer"
            if head.status >= 200:
                break
        bodiless = to == "HEAD" or head.status in (204, 304)
        return head, b"" if bodiless else self.body(head, of_answer=True)

    def rest(self):
        while self._more():
            pass
        found, self.buffer = self.buffer, b""
        return found

    def ends(self):
        """Waits until the other side has closed or reset it, and throws away what comes before."""
        with contextlib.suppress(ConnectionError):
            while self._more():
                self.buffer = b""
        return time.monotonic()

    def is_silent(self, seconds):
        """Whether nothing comes for so long."""
        assert not self.buffer, self.buffer
        self.sock.settimeout(seconds)
        try:
            self._more()
            return False
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(PATIENCE)

    def close(self):
        self.sock.close()

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def connect(port, *, receive_buffer=None):
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(PATIENCE)
    try:
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return Conn(sock)


class Server:
    """Gives each connection to `handler(conn)` in a thread of its own.

    What a handler raises, a vanished peer apart, fails the test when the server is stopped.
    """

    def __init__(self, handler, sock=None):
        self.handler = handler
        self.sock = sock or socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.connections = []
        self.errors = []
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    @property
    def received(self):
        """The bytes that came in, over all connections."""
        return sum(conn.received for conn in self.connections)

    def _accept(self):
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:
                return
            conn = Conn(sock)
            self.connections.append(conn)
            thread = threading.Thread(target=self._serve, args=(conn,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, conn):
        try:
            self.handler(conn)
        except (ConnectionError, EOFError):
            pass
        except Exception as error:
            self.errors.append(error)
        finally:
            conn.close()

    def stop(self):
        # A blocked accept does not notice that its socket is closed.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        for conn in list(self.connections):
            with contextlib.suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a peer hangs"
        if self.errors:
            raise self.errors[0]


def answering(text, *, fields=""):
    """A handler that answers each request with `text`, and what it got."""

    def handler(conn):
        while head := conn.head():
            body = conn.body(head)
            said = f"{text} {head.method} {head.target} ".encode() + body
            conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(said)}\r\n{fields}\r\n", said)

    return handler
