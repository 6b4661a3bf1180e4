"""An ordinary Flask service: asks the service at `next`, and hands on what it said."""

import flask
import requests

app = flask.Flask(__name__)


@app.get("/")
def index():
    answer = requests.get(flask.request.args["next"], timeout=10)
    return answer.text, answer.status_code
