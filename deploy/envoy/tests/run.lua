-- Holds devroute.lua to devroute-core's vectors, under luajit, from the root of the repository:
--
--   luajit deploy/envoy/tests/run.lua

local FOLDER = arg[0]:match("^(.*)/tests/") or "."
package.path = FOLDER .. "/tests/?.lua;" .. package.path
local json, request = require("json"), require("request")
dofile(FOLDER .. "/devroute.lua")

local VECTORS = FOLDER .. "/../../devroute-core/tests/vectors/"
-- A service that no vector names: its hop reads and writes, and marks only what is malformed.
local NOBODY = "nobody-is-called-so"

local checks = 0

local function check(condition, ...)
  checks = checks + 1
  if not condition then
    local said = {}
    for index = 1, select("#", ...) do
      said[index] = tostring((select(index, ...)))
    end
    error(table.concat(said, " | "), 0)
  end
end

local function vectors_of(name, least)
  local file = assert(io.open(VECTORS .. name, "rb"))
  local vectors = json.decode(file:read("*a"))
  file:close()
  local lists = vectors.vectors or vectors.read
  check(#lists >= least, name .. " was read to its end")
  return vectors
end

-- A text that stands there as it is, in hexadecimal digits, or is to be built.
local function text_of(value)
  if type(value) == "string" then
    return value
  elseif value.text then
    return value.text
  elseif value.hex then
    return (value.hex:gsub("..", function(digits) return string.char(tonumber(digits, 16)) end))
  elseif not value.part:find("#", 1, true) then
    return value.head .. value.part:rep(value["repeat"]) .. value.tail
  end
  local parts = {}
  for number = 0, value["repeat"] - 1 do
    parts[#parts + 1] = (value.part:gsub("#", tostring(number)))
  end
  return value.head .. table.concat(parts) .. value.tail
end

local function lines_of(fields)
  local lines = {}
  for _, line in ipairs(fields) do
    lines[#lines + 1] = { line[1], text_of(line[2]) }
  end
  return lines
end

local function hop(lines, service)
  local handle = request.new(lines, { service = service })
  envoy_on_request(handle)
  return handle
end

local function is_same(fields, expected, names, what)
  for _, name in ipairs(names) do
    local got, wanted = fields:all(name), request.new(expected).fields:all(name)
    check(#got == #wanted, what, name, #got, #wanted)
    for index = 1, #wanted do
      check(got[index] == wanted[index], what, name, got[index], wanted[index])
    end
  end
end

local CARRIERS = { "x-devroute", "baggage" }

-- Rules 1 to 3 and 15: what is malformed, and which services a contract names.
for _, vector in ipairs(vectors_of("contract.json", 80).vectors) do
  local lines = { { "x-devroute", text_of(vector) } }
  local handle = hop(lines, NOBODY)
  local is_malformed = handle.fields:get("x-devroute-matched") == NOBODY
  check(is_malformed == (vector.malformed ~= nil), vector.name, vector.malformed)
  for service in pairs(vector.entries or {}) do
    check(hop(lines, service).fields:get("x-devroute-matched") == service, vector.name, service)
  end
end

-- Rule 1: what is JSON, and what is not.
for _, vector in ipairs(vectors_of("json_test_suite.json", 500).vectors) do
  local handle = hop({ { "x-devroute", text_of(vector) } }, NOBODY)
  local is_malformed = handle.fields:get("x-devroute-matched") == NOBODY
  check(is_malformed == (vector.malformed ~= nil), vector.name, vector.malformed)
end

-- A string of JSON, with an escape for what cannot stand there as it is.
local function quoted(text)
  return '"' .. text:gsub('[%z\1-\31"\\]', function(byte) return ("\\u%04x"):format(byte:byte()) end) .. '"'
end

-- Rule 3: spellings of targets. Whether one is allowed the router says.
for _, vector in ipairs(vectors_of("target.json", 600).vectors) do
  local contract = '{"foo":' .. quoted(vector.target) .. "}"
  local handle = hop({ { "x-devroute", contract } }, NOBODY)
  local is_malformed = handle.fields:get("x-devroute-matched") == NOBODY
  check(is_malformed == (vector.malformed ~= nil), vector.what, vector.target)
  check(hop({ { "x-devroute", contract } }, "foo").fields:get("x-devroute-matched") == "foo", vector.target)
end

-- The members of an object as one text, in one order.
local function members_of(text)
  local members = {}
  for name, value in pairs(json.decode(text)) do
    members[#members + 1] = name .. "\0" .. value
  end
  table.sort(members)
  return table.concat(members, "\0\0")
end

local carrier = vectors_of("carrier.json", 25)

-- Rule 9: reading.
for _, vector in ipairs(carrier.read) do
  local fields = hop(vector.fields, NOBODY).fields
  local is_malformed = fields:get("x-devroute-matched") == NOBODY
  check(is_malformed == (vector.malformed ~= nil), vector.name, vector.malformed)
  if is_malformed or vector.contract == json.null then
    is_same(fields, vector.fields, CARRIERS, vector.name)
  else
    check(members_of(fields:get("x-devroute")) == members_of(vector.contract), vector.name)
  end
end

-- Rule 10: writing what the field says into the member.
for _, vector in ipairs(carrier.write) do
  local lines = { { "x-devroute", vector.write } }
  for _, line in ipairs(vector.fields) do
    if line[1] ~= "x-devroute" then
      lines[#lines + 1] = line
    end
  end
  local fields = hop(lines, NOBODY).fields
  is_same(fields, vector.written, CARRIERS, vector.name)
  is_same(hop(fields.lines, NOBODY).fields, vector.written, CARRIERS, vector.name .. ", twice")
end

-- Rules 4, 6, 7, 9 and 10: what a hop makes of a request.
for _, vector in ipairs(vectors_of("hop.json", 50).vectors) do
  local handle = hop(lines_of(vector.fields), vector.service)
  local goes_to_router = vector.decision == "reroute" or vector.decision == "malformed"
  local matched = handle.fields:all("x-devroute-matched")
  check(#matched == (goes_to_router and 1 or 0), vector.name, #matched)
  check(not goes_to_router or matched[1] == vector.service, vector.name)
  is_same(handle.fields, lines_of(vector.forwarded or vector.fields), CARRIERS, vector.name)
  check(handle.cleared or #matched == 0, vector.name, "the route cache")

  local answer = hop(lines_of(vector.fields), vector.service)
  answer.fields = request.new({ { ":status", "200" } }).fields
  envoy_on_response(answer)
  local expected = ({
    already_rerouted = vector.service .. "=baseline; reason=already_rerouted",
    reroute = vector.service .. "=none; reason=router_unreachable",
    malformed = vector.service .. "=none; reason=router_unreachable",
  })[vector.decision]
  check(answer.fields:get("x-devroute-routed") == expected, vector.name, "the answer")
end

-- What a router has said stays.
for _, said in ipairs({ { "x-devroute-routed", "foo=10.0.0.1:80" }, { "proxy-status", "devroute; error=x" } }) do
  local answer = hop({ { "x-devroute", '{"foo":"10.0.0.1:80"}' } }, "foo")
  answer.fields = request.new({ { ":status", "503" }, said }).fields
  envoy_on_response(answer)
  check(#answer.fields.lines == 2, said[1])
end

-- However long a run of blanks is, and wherever, it is passed over once.
local began, blanks = os.clock(), (" "):rep(60000)
for _, value in ipairs({
  "devroute=x" .. blanks .. "y",
  "devroute=" .. blanks .. ",a",
  "a," .. blanks .. "b" .. blanks .. ";",
}) do
  hop({ { "baggage", value } }, "foo")
  hop({ { "x-devroute", value } }, "foo")
end
check(os.clock() - began < 0.5, "blanks", os.clock() - began)

-- Settings: from the route's metadata, from nowhere, and none.
local FOO = { { "x-devroute", '{"foo":"10.0.0.1:80"}' } }

local function matched_with(context, route)
  local handle = request.new(FOO, context, route)
  envoy_on_request(handle)
  return handle.fields:get("x-devroute-matched")
end

local from_environment = os.getenv("DEVROUTE_SERVICE") or os.getenv("ISTIO_META_WORKLOAD_NAME")
check(matched_with({ service = "foo" }, { service = "bar" }) == "foo", "the filter context first")
check(matched_with(nil, { service = "foo" }) == "foo", "the route's metadata")
check(matched_with({ service = "" }, { service = "foo" }) == nil, "an empty name is none")
check(matched_with() == (from_environment == "foo" and "foo" or nil), "the environment")

-- An Envoy without filter contexts.
local old = request.new(FOO, nil, { service = "foo" })
local methods = getmetatable(old).__index
setmetatable(old, { __index = function(_, name) return name ~= "filterContext" and methods[name] or nil end })
envoy_on_request(old)
check(old.fields:get("x-devroute-matched") == "foo", "without a filter context")

-- Rules 11 and 20: both carriers and the mark come off, whatever they hold, and other members stay.
for _, vector in ipairs(vectors_of("hop.json", 50).vectors) do
  local handle = request.new(lines_of(vector.fields), { service = vector.service, strip = true })
  envoy_on_request(handle)
  check(handle.fields:get("x-devroute") == nil, vector.name, "stripped of the field")
  check(handle.fields:get("x-devroute-matched") == nil, vector.name, "stripped of the mark")
  local left = handle.fields:get("baggage") or ""
  check(not ("," .. left):find(",%s*devroute%s*[=;,]"), vector.name, "stripped of the member", left)
end

-- Rules 9 and 20: the cookie, where it is read.
for _, vector in ipairs(vectors_of("cookie.json", 30).vectors) do
  local name, is_malformed = vector.name, vector.malformed ~= nil
  local handle = request.new(vector.fields, { service = NOBODY, cookie = true })
  envoy_on_request(handle)
  local left, cookies = request.new(vector.left).fields, table.concat(handle.fields:all("cookie"), "; ")
  check(cookies == table.concat(left:all("cookie"), "; "), name, cookies)
  check((handle.fields:get("x-devroute-matched") == NOBODY) == is_malformed, name)
  if vector.contract and vector.contract ~= json.null then
    check(members_of(handle.fields:get("x-devroute")) == members_of(vector.contract), name)
    local service = vector.contract:match('^{"(%a+)"')
    local named = request.new(vector.fields, { service = service, cookie = true })
    envoy_on_request(named)
    check(named.fields:get("x-devroute-matched") == service, name, service)
    check(named.cleared, name, "the route cache")
  elseif is_malformed then
    -- What the router gets is malformed as well.
    local again = hop(handle.fields.lines, NOBODY)
    check(again.fields:get("x-devroute-matched") == NOBODY, name, "for the router")
  end
  -- Where it is not read, it is nobody's business.
  local off = hop(vector.fields, NOBODY)
  is_same(off.fields, vector.fields, { "cookie" }, name)
  local stripped = request.new(vector.fields, { strip = true })
  envoy_on_request(stripped)
  check(table.concat(stripped.fields:all("cookie"), "; ") == cookies, name, "stripped of the cookie")
  check(not stripped.fields:get("x-devroute"), name, "stripped of the field")
end

-- Rule 20: what is signed stays; a signature's name in a value, or a cookie that is not read, is none.
local function unsigned(lines, settings)
  settings.strip, settings.service = "unsigned", "foo"
  local handle = request.new(lines, settings)
  envoy_on_request(handle)
  return handle.fields
end

local SIGNED = '{"foo":"10.0.0.1:80","$exp":"1","$key":"k","$sig":"s"}'
local COOKIE = { "cookie", "a=1; devroute=" .. SIGNED:gsub("[^%w]", function(it) return ("%%%02X"):format(it:byte()) end) }
check(unsigned({ { "x-devroute", SIGNED } }, {}):get("x-devroute-matched") == "foo", "signed")
check(unsigned({ COOKIE }, { cookie = true }):get("x-devroute") == SIGNED, "signed in the cookie")
for _, lines in ipairs({
  { { "x-devroute", '{"foo":"10.0.0.1:80"}' } },
  { { "x-devroute", '{"foo":"10.0.0.1:80","$note":"\\"$sig\\":\\"s\\""}' } },
  { { "x-devroute", SIGNED .. "x" } },
  { { "x-devroute", SIGNED }, { "x-devroute", SIGNED } },
  { { "baggage", "devroute=%7B%22foo%22%3A%2210.0.0.1%3A80%22%7D" }, { "x-devroute-matched", "foo" } },
  { COOKIE },
}) do
  local fields = unsigned(lines, {})
  check(not fields:get("x-devroute") and not fields:get("x-devroute-matched"), lines[1][2])
  check(not fields:get("baggage"), lines[1][2])
  check((fields:get("cookie") or "a=1") == "a=1", lines[1][2])
end
local beside = unsigned({ { "x-devroute", SIGNED }, { "baggage", "devroute=%7B%7D" }, COOKIE }, {})
check(beside:get("x-devroute") == SIGNED and beside:get("cookie") == "a=1", "beside one that is signed")

-- Rule 20: nothing is stripped of what comes from a listed network.
local function is_trusted(connection, trust, settings)
  settings = settings or {}
  settings.strip, settings.trust = true, trust
  local handle = request.new(FOO, settings)
  handle.connection = connection
  envoy_on_request(handle)
  return handle.fields:get("x-devroute") ~= nil, #handle.logged
end

for _, case in ipairs({
  { "10.1.2.3:9", "10.0.0.0/8", true },
  { "11.1.2.3:9", "10.0.0.0/8", false },
  { "10.1.2.3:9", "192.168.0.0/16, 10.1.2.0/23 ,fd00::/8", true },
  { "10.1.4.3:9", "10.1.2.0/23", false },
  { "10.1.2.3:9", "10.1.2.3", true },
  { "10.1.2.4:9", "10.1.2.3", false },
  { "10.1.2.4:9", "0.0.0.0/0", true },
  { "[fd00::7]:9", "fd00::/8", true },
  { "[fe00::7]:9", "fd00::/8", false },
  { "[fd00:0:0:1::7]:9", "fd00::/64", false },
  { "[fd00::1:0:0:0:7]:9", "fd00::/60", true },
  { "[::1]:9", "::1", true },
  { "[::ffff:10.1.2.3]:9", "10.0.0.0/8", true },
  { "[::ffff:a01:203]:9", "10.0.0.0/8", true },
  { "10.1.2.3:9", "::/0", false },
  { "[fd00::7]:9", "::/0", true },
  { "10.1.2.3:9", "::ffff:0:0/96", true },
  { "@/run/envoy.sock", "0.0.0.0/0", false },
  { "10.1.2.3:9", "", false },
}) do
  local trusted, logged = is_trusted(case[1], case[2])
  check(trusted == case[3] and logged == 0, case[1], case[2], logged)
end
-- What is no network trusts nobody, and says so; the others of the list hold.
for _, wrong in ipairs({ "10.0.0.0/33", "10.0.0.5/8", "fd00::/129", "10.0.0/8", "10.0.0.0/", "office", "10.0.0.0/-1" }) do
  local trusted, logged = is_trusted("10.0.0.5:9", wrong)
  check(not trusted and logged == 1, wrong, logged)
  check(is_trusted("10.0.0.5:9", wrong .. ",10.0.0.0/8"), wrong)
end
check(not is_trusted("10.1.2.3:9", 10), "no text")
-- Whom a request is forwarded for counts only where that is said.
check(not is_trusted("192.0.2.1:5", "10.0.0.0/8"), "the connection counts")
check(is_trusted("192.0.2.1:5", "10.0.0.0/8", { trust_forwarded = true }), "the client counts")
check(not is_trusted("10.0.0.1:5", "192.0.2.0/24", { trust_forwarded = true }), "the client counts")

print(checks .. " checks passed")
