"""HTTP/2 frame by frame, on the `h2` package: a client and a handler for a raw server."""

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import hyperframe.frame

from .wire import connect


class H2:
    """One end of an HTTP/2 connection with prior knowledge; it reads only when it is asked to."""

    def __init__(self, conn, *, is_client, window=None):
        self.conn = conn
        config = h2.config.H2Configuration(client_side=is_client, header_encoding=None)
        self.state = h2.connection.H2Connection(config)
        if window:
            window_setting = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            self.state.local_settings = h2.settings.Settings(is_client, window_setting)
        self.events = []
        self.state.initiate_connection()
        self.flush()

    def flush(self):
        self.conn.send(self.state.data_to_send())

    def wait(self, kind, stream=None):
        """The next event of this kind, and of this stream; others stay for later."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    self.events.remove(event)
                    return event
            data = self.conn.sock.recv(65536)
            if not data:
                raise EOFError(f"the end came before {kind}")
            self.conn.received += len(data)
            self.events += self.state.receive_data(data)
            self.flush()

    def headers(self, stream, fields, *, end=False):
        self.state.send_headers(stream, fields, end_stream=end)
        self.flush()

    def send(self, stream, data, *, end=False):
        """Sends data that fits into the window."""
        self.state.send_data(stream, data, end_stream=end)
        self.flush()

    def header_block(self, stream, fields, *, end=False, last=True):
        """Sends a HEADERS frame past the state machine, which would refuse what is wrong with it."""
        self._frame(1, (1 if end else 0) | (4 if last else 0), stream, fields)

    def continuation(self, stream, fields):
        """Sends a CONTINUATION frame that is not the last one."""
        self._frame(9, 0, stream, fields)

    def _frame(self, kind, flags, stream, fields):
        block = self.state.encoder.encode(fields)
        head = len(block).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
        self.conn.send(head, block)

    def reset(self, stream, code=8):
        self.state.reset_stream(stream, code)
        self.flush()

    def take(self, event):
        """Says that data was read, so that more may come."""
        self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        return event.data


class H2Client(H2):
    def __init__(self, way, **options):
        super().__init__(connect(way.port), is_client=True, **options)
        self.fields = list(way.fields.items())

    def request(self, *fields, method="GET", path="/", end=True):
        stream = self.state.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "foo.qa"), (":path", path)]
        self.headers(stream, [*pseudo, *fields, *self.fields], end=end)
        return stream

    def answer(self, stream):
        """The head, body and trailers of an answer."""
        head = self.wait(h2.events.ResponseReceived, stream).headers
        body, trailers = b"", None
        while True:
            event = self.wait(
                (h2.events.DataReceived, h2.events.TrailersReceived, h2.events.StreamEnded), stream
            )
            if isinstance(event, h2.events.DataReceived):
                body += self.take(event)
            elif isinstance(event, h2.events.TrailersReceived):
                trailers = event.headers
            else:
                return dict(head), body, trailers

    def is_reset(self, stream):
        """Waits for the end of a stream, which must be a reset."""
        ended = self.wait((h2.events.StreamReset, h2.events.StreamEnded), stream)
        assert isinstance(ended, h2.events.StreamReset), ended

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.conn.close()


def h2_peer(handler):
    """A handler for a raw server: gives each request to `handler(h2, stream, fields)` in turn."""

    def serve(conn):
        peer = H2(conn, is_client=False)
        while True:
            event = peer.wait(h2.events.RequestReceived)
            handler(peer, event.stream_id, event.headers)

    return serve


class RawClient:
    """A client that sends what no state machine would, and says what became of a stream."""

    def __init__(self, port):
        self.conn = connect(port)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.heads = {}
        self.ended = set()
        #: What was answered: the names and values of fields, and bodies.
        self.taken = bytearray()
        self.conn.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", hyperframe.frame.SettingsFrame().serialize())

    def request(self, stream, fields, body=None, trailers=None):
        self._headers(stream, fields, end=body is None and trailers is None)
        if body is not None:
            data = hyperframe.frame.DataFrame(stream, body)
            if trailers is None:
                data.flags.add("END_STREAM")
            self.conn.send(data.serialize())
        if trailers is not None:
            self._headers(stream, trailers, end=True)

    def _headers(self, stream, fields, *, end):
        headers = hyperframe.frame.HeadersFrame(stream, self.encoder.encode(fields))
        headers.flags.add("END_HEADERS")
        if end:
            headers.flags.add("END_STREAM")
        self.conn.send(headers.serialize())

    def outcome(self, stream):
        """The status of its answer, once that is whole; `None` where it was reset, or the connection ended."""
        try:
            while stream not in self.ended:
                self._frame()
        except (EOFError, ConnectionError):
            return None
        return self.heads.get(stream)

    def _frame(self):
        frame, length = hyperframe.frame.Frame.parse_frame_header(memoryview(self.conn.exactly(9)))
        frame.parse_body(memoryview(self.conn.exactly(length)))
        match frame:
            case hyperframe.frame.SettingsFrame() if "ACK" not in frame.flags:
                self.conn.send(hyperframe.frame.SettingsFrame(flags=["ACK"]).serialize())
            case hyperframe.frame.HeadersFrame():
                fields = self.decoder.decode(frame.data, raw=True)
                self.taken += b"".join(name + b": " + value + b"\n" for name, value in fields)
                if status := dict(fields).get(b":status"):
                    self.heads.setdefault(frame.stream_id, int(status))
            case hyperframe.frame.DataFrame():
                self.taken += frame.data
            case hyperframe.frame.RstStreamFrame():
                # What was answered before it may still count; what was not is no answer.
                self.ended.add(frame.stream_id)
            case hyperframe.frame.GoAwayFrame() if frame.error_code:
                raise EOFError
        if "END_STREAM" in frame.flags:
            self.ended.add(frame.stream_id)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.conn.close()
