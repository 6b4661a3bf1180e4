"use strict";
// An ordinary express service: asks the service at `next`, and hands on what it said.
const express = require("express");

const app = express();

app.get("/", async (request, response) => {
  const answer = await fetch(request.query.next);
  response.status(answer.status).send(await answer.text());
});

const server = app.listen(0, "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
