"""A name server that says what a test wants, and a machine whose only name server it is.

It speaks enough of DNS (RFC 1035) for the resolver of the C library: A, AAAA and CNAME, over UDP and, for answers that
UDP does not hold, TCP.
"""

import contextlib
import ipaddress
import socket
import struct
import threading

from .process import PATIENCE

A, CNAME, AAAA = 1, 5, 28
#: Response codes (RFC 1035 section 4.1.1).
SERVFAIL, NXDOMAIN, REFUSED = 2, 3, 5
#: In place of an answer: none comes.
SILENCE = "silence"


class Names:
    """Answers at 127.0.0.1:53 of the namespace that it is made in.

    `answers` has, by name, the addresses and other names of each answer in turn, the last of them for good; or a
    response code, `SILENCE`, or a function that is asked for one of these.
    """

    def __init__(self):
        self.answers = {}
        #: The names that were asked for, with the kind of record.
        self.asked = []
        self._udp = socket.socket(type=socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 53))
        # Nothing wakes whoever waits for a datagram.
        self._udp.settimeout(0.05)
        self._is_over = threading.Event()
        self._tcp = socket.create_server(("127.0.0.1", 53))
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._serve, self._accept)]
        for thread in self._threads:
            thread.start()

    def _serve(self):
        while not self._is_over.is_set():
            try:
                question, client = self._udp.recvfrom(512)
            except TimeoutError:
                continue
            threading.Thread(target=self._answer_by_udp, args=(question, client), daemon=True).start()

    def _answer_by_udp(self, question, client):
        answer = self._answer(question)
        if answer and len(answer) > 512:
            # Truncated, and nothing in it.
            answer = question[:2] + b"\x83\x80" + answer[4:6] + bytes(6) + question[12:]
        if answer:
            with contextlib.suppress(OSError):
                self._udp.sendto(answer, client)

    def _accept(self):
        while True:
            try:
                conn, _ = self._tcp.accept()
            except OSError:
                return
            with conn, contextlib.suppress(OSError):
                conn.settimeout(5)
                # The resolver asks for both kinds of address on one connection.
                while length := conn.recv(2, socket.MSG_WAITALL):
                    (length,) = struct.unpack("!H", length)
                    answer = self._answer(conn.recv(length, socket.MSG_WAITALL)) or b""
                    conn.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, question):
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode().lower())
            at += 1 + question[at]
        name, (kind,) = ".".join(labels), struct.unpack("!H", question[at + 1 : at + 3])
        question = question[: at + 5]
        before = self.asked.count((name, kind))
        self.asked.append((name, kind))
        said = self.answers.get(name, [NXDOMAIN])
        if callable(said):
            said = said()
        elif isinstance(said, list):
            said = said[min(before, len(said) - 1)]
        if said == SILENCE:
            return None
        if isinstance(said, int):
            return question[:2] + struct.pack("!HHHHH", 0x8180 | said, 1, 0, 0, 0) + question[12:]
        records = [record for each in said for record in records_of(name, each, kind)]
        head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0)
        return head + question[12:] + b"".join(records)

    def lookups(self, name):
        return self.asked.count((name, A))

    def stop(self):
        self._is_over.set()
        with contextlib.suppress(OSError):
            self._tcp.shutdown(socket.SHUT_RDWR)
        self._tcp.close()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the name server hangs"
        self._udp.close()


def records_of(name, said, kind):
    """The records that `said` stands for: an address, or the way from one name to the next, `a.lab>b.lab`."""
    if ">" in said:
        owner, alias = said.split(">")
        yield record(owner, CNAME, spelled(alias))
        return
    owner, _, address = said.rpartition("=")
    address = ipaddress.ip_address(address)
    if (A if address.version == 4 else AAAA) == kind:
        yield record(owner or name, kind, address.packed)


def record(owner, kind, data):
    # Good for no time at all.
    return spelled(owner) + struct.pack("!HHIH", kind, 1, 0, len(data)) + data


def spelled(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
