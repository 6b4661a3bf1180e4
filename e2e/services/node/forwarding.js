"use strict";
// An ordinary express service with axios, without an SDK: it hands on some fields.
const axios = require("axios");
const express = require("express");

const forwarded = (process.env.FORWARDED || "").split(" ");
const app = express();

app.get("/", async (request, response) => {
  const names = forwarded.filter((name) => name in request.headers);
  const headers = Object.fromEntries(names.map((name) => [name, request.headers[name]]));
  const answer = await axios.get(request.query.next, { headers, validateStatus: null });
  response.status(answer.status).send(String(answer.data));
});

const server = app.listen(0, "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
