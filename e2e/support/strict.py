"""HTTP/1.1 by the letter of RFC 9112: which requests a stream of bytes holds, for whoever takes nothing on trust."""

import re

TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")


class Short(Exception):
    """More may come."""


class Bad(Exception):
    """It is no request."""


class Reader:
    """Reads what comes, in whatever pieces: `requests` are those that came whole."""

    def __init__(self):
        self.bytes = b""
        self.requests = []

    def read(self, data):
        """Takes more; the number of requests that are whole now. What is none is a `Bad`."""
        self.bytes += data
        before = len(self.requests)
        while self._one():
            pass
        return len(self.requests) - before

    def _one(self):
        while self.bytes.startswith(b"\r\n"):
            self.bytes = self.bytes[2:]
        if not self.bytes:
            return False
        self.at = 0
        try:
            self.requests.append(self._request())
        except Short:
            return False
        self.bytes = self.bytes[self.at :]
        return True

    def _line(self):
        end = re.compile(rb"[\r\n\0]").search(self.bytes, self.at)
        if not end or self.bytes[end.start() :] == b"\r":
            raise Short
        if self.bytes[end.start() : end.start() + 2] != b"\r\n":
            raise Bad(f"the end of a line in {self.bytes[self.at :]!r}")
        line, self.at = self.bytes[self.at : end.start()], end.start() + 2
        return line

    def _exactly(self, length):
        if len(self.bytes) < self.at + length:
            raise Short
        self.at += length
        return self.bytes[self.at - length : self.at]

    def _field(self, line):
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not TOKEN.fullmatch(name) or not VALUE.fullmatch(value):
            raise Bad(f"the field {line!r}")
        return name.lower(), value

    def _request(self):
        line = self._line()
        method, target, version = (line.split(b" ") + [b"", b""])[:3]
        if line.count(b" ") != 2 or not TOKEN.fullmatch(method) or not target:
            raise Bad(f"the request line {line!r}")
        if version not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise Bad(f"the version of {line!r}")
        fields = []
        while line := self._line():
            fields.append(self._field(line))
        lengths = [value for name, value in fields if name == b"content-length"]
        codings = [value for name, value in fields if name == b"transfer-encoding"]
        if lengths and (codings or len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,19}", lengths[0])):
            raise Bad(f"the lengths {lengths}, {codings}")
        if codings and (len(codings) > 1 or codings[0].lower() != b"chunked"):
            raise Bad(f"the codings {codings}")
        hosts = [value for name, value in fields if name == b"host"]
        if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
            raise Bad(f"the hosts {hosts}")
        body = self._chunks() if codings else self._exactly(int(lengths[0]) if lengths else 0)
        return method, target, body

    def _chunks(self):
        body = b""
        while True:
            size = CHUNK.fullmatch(self._line())
            if not size:
                raise Bad(f"a chunk in {self.bytes[self.at :]!r}")
            size = int(size[1], 16)
            if not size:
                break
            body += self._exactly(size)
            if self._exactly(2) != b"\r\n":
                raise Bad("the end of a chunk")
        while line := self._line():
            self._field(line)
        return body
