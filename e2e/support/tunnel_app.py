"""A service that answers with what it got, and on /call asks another one; run as a program.

    tunnel_app.py NAME PORT [PROXY OTHER]
"""

import http.server
import json
import socketserver
import sys
import urllib.request

NAME, PORT = sys.argv[1], int(sys.argv[2])
PROXY, OTHER = (sys.argv[3:5] + [None, None])[:2]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        fields = {name.lower(): value for name, value in self.headers.items()}
        answer = {"name": NAME, "path": self.path, "fields": fields}
        if self.path == "/call":
            # It passes on the id, as services that are traced do, and knows nothing of contracts.
            kept = {name: fields[name] for name in ("traceparent",) if name in fields}
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": PROXY}))
            request = urllib.request.Request(f"http://{OTHER}/called", headers=kept)
            with opener.open(request, timeout=10) as other:
                answer["other"] = json.load(other)
        self.answer(json.dumps(answer).encode())

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["content-length"])))

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("0.0.0.0", PORT), Handler)
print(f"{NAME} listens on {PORT}", flush=True)
server.serve_forever()
