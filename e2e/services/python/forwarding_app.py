"""An ordinary Flask service, without an SDK: it hands on some fields, as teams write that by hand."""

import os

import flask
import requests

app = flask.Flask(__name__)
FORWARDED = os.environ.get("FORWARDED", "").split()


@app.get("/")
def index():
    fields = flask.request.headers
    forwarded = {name: fields[name] for name in FORWARDED if name in fields}
    answer = requests.get(flask.request.args["next"], headers=forwarded, timeout=10)
    return answer.text, answer.status_code
