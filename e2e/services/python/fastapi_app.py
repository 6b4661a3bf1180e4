"""An ordinary FastAPI service: asks the service at `next`, and hands on what it said."""

import contextlib

import fastapi
import httpx


@contextlib.asynccontextmanager
async def lifespan(app):
    async with httpx.AsyncClient(timeout=10) as app.state.client:
        yield


app = fastapi.FastAPI(lifespan=lifespan)


@app.get("/")
async def index(request: fastapi.Request, next: str):
    answer = await request.app.state.client.get(next)
    return fastapi.Response(answer.text, answer.status_code)
