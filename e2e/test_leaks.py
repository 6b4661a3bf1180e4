"""What must not get out: contracts, cookies and credentials into what the processes say, and internal
addresses into answers where they are switched off (rule 12).
"""

import json

import pytest

from support import faults, ways
from support.http2 import RawClient
from support.process import Devroute
from support.wire import answering, connect

#: Values that nothing may repeat, by where they are sent. Each is told apart by its place.
SECRETS = {
    place: f"sEcReT{number:02}{place.replace('-', '')}"
    for number, place in enumerate(
        [
            "authorization",
            "cookie",
            "proxy-authorization",
            "set-cookie",
            "body",
            "query",
            "trailer",
            "baggage",
            "another-service",
            "another-target",
            "member",
            "signature",
            "malformed",
        ]
    )
}

FIELDS = (
    f"authorization: Bearer {SECRETS['authorization']}\r\n"
    f"cookie: session={SECRETS['cookie']}\r\n"
    f"proxy-authorization: Basic {SECRETS['proxy-authorization']}\r\n"
    f"baggage: user={SECRETS['baggage']}\r\n"
)


def contract(target, **more):
    """A contract that leads `checkout` to `target`, and holds what is nobody's business here."""
    return json.dumps(
        {
            "checkout": target,
            SECRETS["another-service"]: f"{SECRETS['another-target']}.example:1",
            "$later": SECRETS["member"],
            "$sig": SECRETS["signature"],
            **more,
        }
    )


def malformed(target):
    """Contracts that are none, with something in them that is."""
    secret = SECRETS["malformed"]
    good = contract(target)
    return [
        good[:-1],
        good + secret,
        f'{{"checkout":"{target}","a":"{secret}"',
        f'{{"checkout":"{target}","{secret}":1}}',
        f'{{"checkout":"{target}","{secret} x":"{target}"}}',
        f'{{"checkout":"{target}","a":"{secret}:99999999"}}',
        f'{{"checkout":"{secret}://x"}}',
        f'{{"checkout":"{target}","checkout":"{secret}:1"}}',
        f'{{"{secret}":"{target}","{secret}":"{target}"}}',
        f'{{"checkout":"{target}","a":"\\u12{secret}"}}',
        f'{{"checkout":"{target}","$id":"{secret} x"}}',
        f"{secret}={target}",
        f'["{secret}"]',
        f'{{"checkout":"{target}","a":"{secret * 800}"}}',
    ]


def heads(port, lines):
    """Requests in and out of order, with every secret in them."""
    query = f"/?token={SECRETS['query']}"
    body = SECRETS["body"]
    good = f"{FIELDS}{lines}"
    host = f"host: 127.0.0.1:{port}\r\n"
    return [
        f"GET {query} HTTP/1.1\r\n{host}{good}\r\n",
        f"POST {query} HTTP/1.1\r\n{host}content-length: {len(body)}\r\n{good}\r\n{body}",
        f"POST {query} HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n{good}\r\n"
        f"{len(body):x}\r\n{body}\r\n0\r\nx-t: {SECRETS['trailer']}\r\n\r\n",
        f"GET {query} HTTP/1.1\r\n{host}connection: upgrade\r\nupgrade: websocket\r\n{good}\r\n",
        f"CONNECT nowhere.invalid:443 HTTP/1.1\r\n{host}{good}\r\n",
        # What is refused before anybody reads it.
        f"GET {query} HTTP/1.1\r\n{good}\r\n",
        f"GET {query} HTTP/1.1\r\n{host}{host}{good}\r\n",
        f"GET {query} HTTP/1.1\r\nhost: {SECRETS['query']} x\r\n{good}\r\n",
        f"GET {SECRETS['query']} HTTP/1.1\r\n{host}{good}\r\n",
        f"GET {query} HTTP/1.1\r\n{host}authorization: {SECRETS['authorization']}\0\r\n{good}\r\n",
        f"GET {query} HTTP/1.1\r\n{host}cookie{SECRETS['cookie']}\r\n{good}\r\n",
        f"GET {query} HTTP/9.9\r\n{host}{good}\r\n",
        f"POST {query} HTTP/1.1\r\n{host}{good}transfer-encoding: {body}\r\n\r\n",
        f"POST {query} HTTP/1.1\r\n{host}{good}content-length: {body}\r\n\r\n",
        f"POST {query} HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n{good}\r\n{body}\r\n\r\n",
        f"GET {query} HTTP/1.1\r\n{host}{good}{'x: y' * 20000}\r\n\r\n",
        f"GET /{SECRETS['query'] * 5000} HTTP/1.1\r\n{host}{good}\r\n",
        f"{body}\r\n\r\n",
    ]


def ask(port, head):
    """Sends a request, and reads all that is answered, until nothing more comes."""
    answered = b""
    with connect(port) as client:
        try:
            client.send(head.replace("HTTP/1.1\r\n", "HTTP/1.1\r\nconnection: close\r\n", 1))
            while data := client.sock.recv(65536):
                answered += data
        except ConnectionError:
            pass
    return answered


def ask_h2(port, fields, body=None):
    with RawClient(port) as client:
        own = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", f"127.0.0.1:{port}"),
            (":path", f"/?token={SECRETS['query']}"),
            *(line.split(": ", 1) for line in FIELDS.strip().split("\r\n")),
            *fields,
        ]
        client.request(1, own, body)
        client.outcome(1)
        return bytes(client.taken)


def setting_cookies(conn):
    secret = SECRETS["set-cookie"]
    while head := conn.head():
        conn.body(head)
        conn.send(f"HTTP/1.1 200 OK\r\nset-cookie: a={secret}\r\ncontent-length: 0\r\n\r\n")


def bad_answer(conn):
    conn.body(conn.head())
    conn.send(f"HTTP/1.1 200 OK\r\nset-cookie: {SECRETS['set-cookie']}\0\r\n\r\n")
    conn.ends()


def cut_answer(conn):
    conn.body(conn.head())
    secret = SECRETS["set-cookie"]
    conn.send(f"HTTP/1.1 200 OK\r\nset-cookie: {secret}\r\ncontent-length: 99\r\n\r\n{secret}")


def no_http(conn):
    conn.body(conn.head())
    conn.send(f"{SECRETS['set-cookie']}\r\n\r\n")
    conn.ends()


def repeated(said, *, but=()):
    """The secrets that `said` repeats."""
    said = said if isinstance(said, bytes) else said.encode()
    return {place for place, secret in SECRETS.items() if secret.encode() in said} - set(but)


@pytest.mark.parametrize("mode", ["sidecar", "router"])
def test_no_secret_is_in_what_the_process_says(mode, started, serve, nobody):
    peers = [
        serve(handler).port
        for handler in (
            setting_cookies,
            bad_answer,
            cut_answer,
            no_http,
            faults.reset_before_the_head,
            faults.close_at_once,
        )
    ]
    targets = [*(f"127.0.0.1:{port}" for port in peers), f"127.0.0.1:{nobody}", "203.0.113.9:80"]
    targets.append(f"h2c://127.0.0.1:{peers[3]}")
    targets.append(f"https://127.0.0.1:{peers[0]}")
    flags = ["--allow=loopback", "--log-level=trace", "--max-body=100KiB"]
    if mode == "sidecar":
        flags += ["--service=checkout", "--upstream", f"http://127.0.0.1:{peers[0]}"]
        flags += ["--outbound=127.0.0.1:0", "--outbound-reroute=true"]
    proxy = Devroute(mode, *flags)
    started.append(proxy)
    ports = [proxy.port]
    if mode == "sidecar":
        ports.append(int(proxy.started["outbound"].rpartition(":")[2]))
    matched = "x-devroute-matched: checkout\r\n" if mode == "router" else ""
    answers = b""
    for port in ports:
        for target in targets:
            lines = f"x-devroute: {contract(target)}\r\n{matched}"
            answers += ask(port, heads(port, lines)[0])
            fields = [("x-devroute", contract(target))]
            if matched:
                fields.append(("x-devroute-matched", "checkout"))
            answers += ask_h2(port, fields, SECRETS["body"].encode())
            answers += ask_h2(port, [*fields, ("content-type", "application/grpc")])
        lines = f"x-devroute: {contract(targets[0])}\r\n{matched}"
        for head in heads(port, lines):
            answers += ask(port, head)
            answers += ask(port, head.replace(lines, ""))
        loop = "via: 1.1 devroute\r\n" * 16
        answers += ask(port, heads(port, lines + loop)[0])
        for text in malformed(targets[0]):
            lines = f"x-devroute: {text}\r\n{matched}"
            answers += ask(port, heads(port, lines)[0])
            answers += ask_h2(port, [("x-devroute", text), ("content-type", "application/grpc")])
            lines = f"baggage: devroute={text.replace(' ', '')}\r\n{matched}"
            answers += ask(port, heads(port, lines)[0])
    pages = [proxy.ask_admin(path) for path in ("/metrics", "/reroutes", "/", "/_readyz")]
    proxy.stop()
    log = "\n".join(proxy.lines.all())
    # It has been said what happened, and in the words of all levels.
    assert '"level":"DEBUG"' in log and "TRACE" in log
    assert "devroute_requests_total" in pages[0] and targets[0] in pages[1]
    assert repeated(log) == set(), [line for line in proxy.lines.all() if repeated(line)][:5]
    assert repeated("\n".join(pages)) == set()
    # What a target answers is the client's, and what is wrong with a contract is told to who sent it.
    assert repeated(answers, but={"set-cookie", "malformed"}) == set()


#: What a target may be like that is asked. A flood says the same as garbage, and takes longer.
FAULTS = [
    handler
    for handler, _fault in faults.AFTER_CONNECT.mark.args[1]
    if handler not in (faults.flood_of_1xx, faults.endless_head)
]


def no_address(answer):
    """Asserts that an answer came, and no address with it."""
    assert answer, "no answer came"
    for text in (b"127.0.0.1", b"10.1.2.3", b"203.0.113.9", b"fd00::1", b"169.254", b"secret.example"):
        assert text not in answer, answer


@pytest.mark.parametrize("kind", [ways.BASELINE, ways.REROUTED, ways.VIA_ROUTER, ways.ROUTER])
def test_no_address_is_in_an_answer_where_they_are_switched_off(kind, way_of, serve, nobody):
    peers = [serve(answering("peer")).port, nobody]
    peers += [serve(handler).port for handler in FAULTS]
    off = "--reveal-addresses=false"
    if kind == ways.BASELINE:
        for peer in peers:
            way = way_of(kind, peer, flags=[off])
            lines = "x-devroute: {\"other\":\"10.1.2.3:80\"}\r\n"
            no_address(ask(way.port, f"GET / HTTP/1.1\r\nhost: foo\r\n{lines}\r\n"))
            no_address(ask_h2(way.port, [], b"x"))
        return
    own = {"flags": [off], "judge": [off]} if kind == ways.VIA_ROUTER else {"flags": [off]}
    way = way_of(kind, peers[0], **own)
    targets = [f"127.0.0.1:{peer}" for peer in peers]
    targets += [f"h2c://127.0.0.1:{nobody}", f"https://{targets[0]}"]
    # Refused: by the policy, by its own listener, by a name, by its form.
    targets += ["203.0.113.9:80", "[fd00::1]:6443", "169.254.169.254:80", "secret.example:80"]
    targets += [f"127.0.0.1:{way.proxies[-1].port}", f"127.0.0.1:{way.proxies[-1].admin}"]
    targets += ["10.1.2.3:99999", "10.1.2.3", "10.1.2.3:80/x", "ftp://10.1.2.3:80"]
    for target in targets:
        way.fields["x-devroute"] = json.dumps({ways.SERVICE: target})
        no_address(ask(way.port, f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n"))
        no_address(ask_h2(way.port, way.fields.items(), b"x"))
        if target.endswith(tuple(f":{peer}" for peer in peers if peer != nobody)):
            # Peers of HTTP/1, which wait for what gRPC does not send.
            continue
        grpc = ("content-type", "application/grpc")
        no_address(ask_h2(way.port, [*way.fields.items(), grpc], b"x"))
