-- devroute for Envoy's Lua filter (envoy.filters.http.lua): which requests a developer's laptop answers.
--
-- For every request it
--   1. reads the contract, from `x-devroute` or from the member `devroute` of `baggage` (rule 9), and at an
--      entry that is told so from the cookie `devroute`, which it takes off;
--   2. writes it into both, so that a service which propagates either of them carries it on (rule 10);
--   3. sets `x-devroute-matched: SERVICE` if the contract names this service, or is malformed, and clears
--      the route cache: a route that matches the field leads to the router (rules 7 and 19). A field that
--      a client has set is removed, and one that names this service selects the baseline;
--   4. marks an answer that no router gave (rule 14), and keeps Envoys in front from asking again.
--
-- It answers nothing itself: what is malformed is the router's to refuse, in words. It makes no call, looks
-- at no body, and waits for nothing, so it sets no limit to a stream or a breakpoint. It judges no target and
-- counts no loops, and verifies no signature; the router does. Without a contract a request costs four lookups.
--
-- A setting is the first that is there of
--   - the filter context of the route or virtual host (LuaPerRoute):   filter_context: { service: foo }
--   - the route's metadata under the filter's name
--   - for `service` the environment: DEVROUTE_SERVICE, else ISTIO_META_WORKLOAD_NAME, which Istio sets
--
--   service: foo                     an empty one reroutes nothing and still carries the contract
--   strip: true                      takes all carriers and the mark off: at an entry (rule 20), and on routes
--                                    that leave the cluster (rule 11)
--   strip: unsigned                  but for contracts with a `$sig`, which a router with --authorized-keys verifies
--   trust: "10.0.0.0/8,fd00::/8"     strips nothing of connections from these networks
--   trust_forwarded: true            means the address that Envoy takes for the client's, by X-Forwarded-For too
--   cookie: true                     reads the cookie
--
--   x-devroute: {"foo":"192.168.1.12:8001"}        at foo, what the filter makes of this is
--
--   x-devroute: {"foo":"192.168.1.12:8001"}
--   x-devroute-matched: foo
--   baggage: devroute=%7B%22foo%22%3A%22192.168.1.12%3A8001%22%7D
--
-- The rules are those of docs/contract.md, and devroute-core's vectors hold this file to them. Lua 5.1.

local CONTRACT = "x-devroute"
local MATCHED = "x-devroute-matched"
local BAGGAGE = "baggage"
local COOKIE = "cookie"
local MEMBER = "devroute"
local ROUTED = "x-devroute-routed"
local PROXY_STATUS = "proxy-status"
-- An Envoy that sees this field in an answer does not retry, whatever the answer is.
local NO_RETRY = "x-envoy-ratelimited"

local MAX_CONTRACT_BYTES = 8192
local MAX_CONTRACT_MEMBERS = 64
local MAX_NAME = 253
local MAX_ID = 64
local MAX_LAYERS = 8
local MAX_MEMBER_BYTES = 3072
local MAX_BAGGAGE_BYTES = 8192
local MAX_BAGGAGE_MEMBERS = 64

local byte, char, find, format = string.byte, string.char, string.find, string.format
local gmatch, gsub, match, sub = string.gmatch, string.gsub, string.match, string.sub
local concat, floor = table.concat, math.floor

-- Targets (rule 3) ----------------------------------------------------------------------------------

local SCHEMES = { http = true, h2c = true, https = true }

local function is_ipv4(text)
  local parts = { match(text, "^(%d+)%.(%d+)%.(%d+)%.(%d+)$") }
  for _, part in ipairs(parts) do
    if #part > 3 or tonumber(part) > 255 or match(part, "^0.") then
      return false
    end
  end
  return #parts == 4
end

-- How many of the eight groups a part of an IPv6 address has; nil if it is none.
local function ipv6_groups(part, may_end_in_ipv4)
  if part == "" then
    return 0
  end
  local count = 0
  local groups, last = match(part, "^(.*:)([^:]*)$")
  if not groups then
    groups, last = "", part
  end
  for group in gmatch(groups, "([^:]*):") do
    if not match(group, "^%x%x?%x?%x?$") then
      return nil
    end
    count = count + 1
  end
  if match(last, "^%x%x?%x?%x?$") then
    return count + 1
  end
  return may_end_in_ipv4 and is_ipv4(last) and count + 2 or nil
end

local function is_ipv6(text)
  local head, tail = match(text, "^(.-)::(.*)$")
  if not head then
    return ipv6_groups(text, true) == 8
  end
  local before, after = ipv6_groups(head, false), ipv6_groups(tail, true)
  -- The two colons stand for at least one group.
  return before ~= nil and after ~= nil and before + after <= 7
end

local function is_host_name(text)
  if #text > 253 then
    return false
  end
  local last
  for label in gmatch(text .. ".", "([^.]*)%.") do
    if #label > 63 or not match(label, "^[%w_-]+$") then
      return false
    end
    last = label
  end
  -- Names like these are read as IPv4 addresses by some.
  return not match(last, "^%d+$") and not match(last, "^0[xX]")
end

local function is_port(text)
  return #text <= 5 and match(text, "^[1-9]%d*$") ~= nil and tonumber(text) <= 65535
end

local function is_target(text)
  local scheme, rest = match(text, "^([^:]*)://(.*)$")
  if scheme then
    if not SCHEMES[scheme] then
      return false
    end
    text = rest
  end
  local ipv6, ipv6_port = match(text, "^%[([^%]]*)%]:(.*)$")
  if ipv6 then
    return is_port(ipv6_port) and is_ipv6(ipv6)
  end
  local host, port = match(text, "^([^:]*):(.*)$")
  return host ~= nil and is_port(port) and (is_ipv4(host) or is_host_name(host))
end

-- UTF-8 ---------------------------------------------------------------------------------------------

-- One character outside ASCII, at the beginning of a text (RFC 3629 section 4).
local CHARACTERS = {
  "^[\194-\223][\128-\191]",
  "^\224[\160-\191][\128-\191]",
  "^[\225-\236\238\239][\128-\191][\128-\191]",
  "^\237[\128-\159][\128-\191]",
  "^\240[\144-\191][\128-\191][\128-\191]",
  "^[\241-\243][\128-\191][\128-\191][\128-\191]",
  "^\244[\128-\143][\128-\191][\128-\191]",
}

local function is_utf8(text)
  local at = find(text, "[\128-\255]")
  while at do
    local last
    for _, pattern in ipairs(CHARACTERS) do
      -- An anchor in `find` is where it is told to begin.
      _, last = find(text, pattern, at)
      if last then
        break
      end
    end
    if not last then
      return false
    end
    at = find(text, "[\128-\255]", last + 1)
  end
  return true
end

local function encode_utf8(code)
  if code < 0x80 then
    return char(code)
  elseif code < 0x800 then
    return char(0xc0 + floor(code / 0x40), 0x80 + code % 0x40)
  elseif code < 0x10000 then
    return char(0xe0 + floor(code / 0x1000), 0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
  end
  return char(
    0xf0 + floor(code / 0x40000),
    0x80 + floor(code / 0x1000) % 0x40,
    0x80 + floor(code / 0x40) % 0x40,
    0x80 + code % 0x40
  )
end

local function decode_utf8(character)
  local first, second, third, fourth = byte(character, 1, 4)
  if fourth then
    return (first % 0x08) * 0x40000 + (second % 0x40) * 0x1000 + (third % 0x40) * 0x40 + fourth % 0x40
  elseif third then
    return (first % 0x10) * 0x1000 + (second % 0x40) * 0x40 + third % 0x40
  end
  return (first % 0x20) * 0x40 + second % 0x40
end

-- Contracts (rules 1 to 3, and 15) -------------------------------------------------------------------

local ESCAPES = {
  ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}

-- The character of the `\uXXXX` at `at`, or of two that are surrogates, and where they end.
local function unicode_escape(text, at)
  local unit = match(text, "^\\u(%x%x%x%x)", at)
  unit = unit and tonumber(unit, 16)
  if not unit or (unit >= 0xdc00 and unit <= 0xdfff) then
    return nil
  elseif unit < 0xd800 or unit > 0xdfff then
    return encode_utf8(unit), at + 6
  end
  local low = match(text, "^\\u([dD][c-fC-F]%x%x)", at + 6)
  if not low then
    return nil
  end
  return encode_utf8(0x10000 + (unit - 0xd800) * 0x400 + tonumber(low, 16) - 0xdc00), at + 12
end

-- The string whose opening quote is at `at`: what it means, how it is spelled, and what comes after it.
local function read_string(text, at)
  if byte(text, at) ~= 0x22 then
    return nil
  end
  local start, from, pieces = at + 1, at + 1, nil
  while true do
    -- A quote, a backslash, or a control character.
    local stop = find(text, '["\\%z\1-\31]', from)
    local what = stop and byte(text, stop)
    if what == 0x22 then
      local spelled = sub(text, start, stop - 1)
      if not pieces then
        return spelled, spelled, stop + 1
      end
      pieces[#pieces + 1] = sub(text, from, stop - 1)
      return concat(pieces), spelled, stop + 1
    elseif what ~= 0x5c then
      return nil
    end
    local character, after = ESCAPES[sub(text, stop + 1, stop + 1)], stop + 2
    if not character then
      character, after = unicode_escape(text, stop)
      if not character then
        return nil
      end
    end
    pieces = pieces or {}
    pieces[#pieces + 1] = sub(text, from, stop - 1)
    pieces[#pieces + 1] = character
    from = after
  end
end

local function is_name(text)
  return #text <= MAX_NAME and match(text, "^[%w._-]+$") ~= nil
end

local function is_member(name, value)
  if byte(name) ~= 0x24 then
    return is_name(name) and is_target(value)
  elseif name == "$id" then
    return #value <= MAX_ID and is_name(value)
  end
  return is_name(sub(name, 2))
end

-- What is legal in a string but gets lost on the way: `%`, decoded once too often; `+` and the blank, turned
-- into each other; and everything outside printable ASCII. The text that comes in is well-formed.
local function escape(spelled)
  spelled = gsub(spelled, "[%%+%z\1-\32\127]", function(character)
    return format("\\u%04x", byte(character))
  end)
  return (gsub(spelled, "[\194-\244][\128-\191]+", function(character)
    local code = decode_utf8(character)
    if code < 0x10000 then
      return format("\\u%04x", code)
    end
    code = code - 0x10000
    return format("\\u%04x\\u%04x", 0xd800 + floor(code / 0x400), 0xdc00 + code % 0x400)
  end))
end

-- Where the next token begins.
local function skip_blanks(text, at)
  local _, last = find(text, "^[ \t\r\n]*", at)
  return last + 1
end

-- Reads a contract: its members, and how it is spelled without blanks and in ASCII. Nil if it is malformed.
local function parse(text)
  if #text > MAX_CONTRACT_BYTES or not is_utf8(text) then
    return nil
  end
  local members, spelled = {}, {}
  local at = skip_blanks(text, 1)
  if sub(text, at, at) ~= "{" then
    return nil
  end
  at = skip_blanks(text, at + 1)
  if sub(text, at, at) ~= "}" then
    while true do
      local name, spelled_name, value, spelled_value, token
      name, spelled_name, at = read_string(text, at)
      if not name then
        return nil
      end
      at = skip_blanks(text, at)
      if sub(text, at, at) ~= ":" then
        return nil
      end
      value, spelled_value, at = read_string(text, skip_blanks(text, at + 1))
      if not value or members[name] or #spelled == MAX_CONTRACT_MEMBERS
        or not is_member(name, value) then
        return nil
      end
      members[name] = value
      spelled[#spelled + 1] = format('"%s":"%s"', escape(spelled_name), escape(spelled_value))
      at = skip_blanks(text, at)
      token = sub(text, at, at)
      if token == "}" then
        break
      elseif token ~= "," then
        return nil
      end
      at = skip_blanks(text, at + 1)
    end
  end
  if skip_blanks(text, at + 1) <= #text then
    return nil
  end
  return { text = text, members = members, compact = "{" .. concat(spelled, ",") .. "}" }
end

local function is_equal(one, other)
  for name, value in pairs(one.members) do
    if other.members[name] ~= value then
      return false
    end
  end
  for name in pairs(other.members) do
    if one.members[name] == nil then
      return false
    end
  end
  return true
end

-- The member of baggage (rules 9 and 10) -------------------------------------------------------------

-- In one pass: anybody may send tens of thousands of blanks.
local function trim(text)
  local first = find(text, "%S")
  return first and match(text, "^.*%S", first) or ""
end

-- All lines of a field, in their order.
local function lines_of(headers, name)
  local lines = {}
  for index = 0, headers:getNumValues(name) - 1 do
    lines[#lines + 1] = headers:getAtIndex(name, index)
  end
  return lines
end

-- The members of all lines, with the blanks around them: a comma always ends one, and empty ones are none.
local function members_of(lines)
  local members = {}
  for _, line in ipairs(lines) do
    for member in gmatch(line, "[^,]+") do
      if find(member, "%S") then
        members[#members + 1] = member
      end
    end
  end
  return members
end

-- The value of our member without its properties, nil for other members; one without `=` has an empty one.
local function our_value(member)
  local rest = match(member, "^%s*" .. MEMBER .. "%s*(.*)$")
  if not rest then
    return nil
  elseif rest == "" or byte(rest) == 0x3b then
    return ""
  end
  local value = match(rest, "^=([^;]*)")
  return value and trim(value)
end

-- A brace is not enough: some SDKs leave it as it is and encode only quotes and commas.
local function is_object(text)
  return find(text, '^[ \t\r\n]*{[ \t\r\n]*["}]') ~= nil
end

-- Reads a contract from a member's value, which SDKs may have encoded several times over.
local function decode(value)
  for _ = 1, MAX_LAYERS do
    if is_object(value) then
      break
    end
    local decoded
    value, decoded = gsub(value, "%%(%x%x)", function(digits)
      return char(tonumber(digits, 16))
    end)
    if decoded == 0 then
      return nil
    end
  end
  local contract = is_object(value) and parse(value) or nil
  if contract then
    contract.text = trim(value)
    -- What cannot be a field value is spelled anew (rule 1).
    if find(contract.text, "[%z\1-\8\10-\31\127]") then
      contract = parse(contract.compact)
    end
  end
  return contract
end

local function encode(contract)
  return (gsub(contract.compact, "[^%w._~-]", function(character)
    return format("%%%02X", byte(character))
  end))
end

-- The contract of the members, or nil; and whether that is because it is malformed.
local function read_baggage(members)
  local first, contract
  for _, member in ipairs(members) do
    local value = our_value(member)
    if value and not first then
      first, contract = value, decode(value)
      if not contract then
        return nil, true
      end
    elseif value and value ~= first then
      local other = decode(value)
      if not other or not is_equal(contract, other) then
        return nil, true
      end
    end
  end
  return contract, false
end

-- The members as one line, with `ours` where our first one stood, or at the end; nil puts none there.
local function join(members, ours)
  local joined = {}
  for _, member in ipairs(members) do
    if not our_value(member) then
      joined[#joined + 1] = member
    elseif ours then
      joined[#joined + 1], ours = ours, nil
    end
  end
  joined[#joined + 1] = ours
  return trim(concat(joined, ",")), #joined
end

-- Whether the one line there is has our member once, spelled as we spell it.
local function is_written(lines, members, ours)
  local found = 0
  for _, member in ipairs(members) do
    if our_value(member) then
      found = found + (member == ours and 1 or 2)
    end
  end
  return #lines == 1 and found == 1
end

-- Sets a field, however many lines of it there are.
local function set(headers, name, value)
  headers:remove(name)
  headers:add(name, value)
end

local function remove_member(headers, lines)
  headers:remove(BAGGAGE)
  for _, line in ipairs(lines) do
    local members = members_of({ line })
    local rest, count = join(members)
    if count == #members then
      headers:add(BAGGAGE, line)
    elseif count > 0 then
      headers:add(BAGGAGE, rest)
    end
  end
end

local function write_baggage(headers, lines, members, contract)
  local ours = MEMBER .. "=" .. encode(contract)
  if is_written(lines, members, ours) then
    return
  end
  local line, count = join(members, ours)
  if #ours <= MAX_MEMBER_BYTES and count <= MAX_BAGGAGE_MEMBERS and #line <= MAX_BAGGAGE_BYTES then
    set(headers, BAGGAGE, line)
    return
  end
  -- There is no room. The same contract in another spelling is as good; another one would speak where the
  -- field gets lost.
  local found = read_baggage(members)
  if not found or not is_equal(found, contract) then
    remove_member(headers, lines)
  end
end

-- The entry (rule 20) --------------------------------------------------------------------------------

-- Whether there can be a cookie of ours.
local function may_have_cookie(lines)
  for _, line in ipairs(lines) do
    if find(line, MEMBER, 1, true) then
      return true
    end
  end
  return false
end

-- Takes our cookie off all lines, where others keep their bytes, and returns its values.
local function take_cookie(headers, lines)
  local values, kept = {}, {}
  for _, line in ipairs(lines) do
    local others, before = {}, #values
    for cookie in gmatch(line .. ";", "([^;]*);") do
      local value = match(cookie, "^%s*" .. MEMBER .. "%s*=(.*)$")
      if value then
        values[#values + 1] = trim(value)
      else
        others[#others + 1] = cookie
      end
    end
    local rest = #values > before and trim(concat(others, ";")) or line
    if #values == before or rest ~= "" then
      kept[#kept + 1] = rest
    end
  end
  if #values > 0 then
    headers:remove(COOKIE)
    for _, line in ipairs(kept) do
      headers:add(COOKIE, line)
    end
  end
  return values
end

-- The eight groups of an address; one of IPv4 is in ::ffff:0:0/96.
local function groups_of(address)
  local function as_groups(a, b, c, d)
    return format("%x:%x", a * 256 + b, c * 256 + d)
  end
  if is_ipv4(address) then
    address = "::ffff:" .. address
  elseif not is_ipv6(address) then
    return nil
  end
  address = gsub(address, "(%d+)%.(%d+)%.(%d+)%.(%d+)$", as_groups)
  local head, tail = match(address, "^(.-)::(.*)$")
  local groups, behind = {}, {}
  for group in gmatch(head or address, "%x+") do
    groups[#groups + 1] = tonumber(group, 16)
  end
  for group in gmatch(tail or "", "%x+") do
    behind[#behind + 1] = tonumber(group, 16)
  end
  for index = #groups + 1, 8 do
    groups[index] = behind[index - 8 + #behind] or 0
  end
  return groups
end

-- Whether the address is in the network; nil if that is none: bits behind its prefix are zero.
local function is_within(groups, network)
  local base, length = match(network, "^%s*([^/%s]+)/(%d+)%s*$")
  base = base or trim(network)
  local wanted, hidden = groups_of(base), find(base, ":", 1, true) and 0 or 96
  length = hidden + (tonumber(length) or 128 - hidden)
  if not wanted or length > 128 then
    return nil
  end
  -- A network of IPv6 contains no address of IPv4.
  local is_equal_so_far = length >= 96 or not find(concat(groups, " "), "^0 0 0 0 0 65535")
  for index = 1, 8 do
    local unit = 2 ^ (16 - math.max(0, math.min(16, length - 16 * (index - 1))))
    if wanted[index] % unit ~= 0 then
      return nil
    end
    is_equal_so_far = is_equal_so_far and floor(groups[index] / unit) == wanted[index] / unit
  end
  return is_equal_so_far
end

-- Whether what comes from this client is not stripped. What cannot be told is no.
local function is_trusted(handle, trust, is_forwarded)
  local info = handle:streamInfo()
  local address = is_forwarded and info:downstreamRemoteAddress() or info:downstreamDirectRemoteAddress()
  local groups = groups_of(match(address, "^%[(.*)%]:%d+$") or match(address, "^(.*):%d+$") or "")
  for network in gmatch(groups and trust or "", "[^,]+") do
    local is_here = is_within(groups, network)
    if is_here == nil then
      handle:logErr("devroute: trust: " .. network .. " is not a network such as 10.0.0.0/8")
    elseif is_here then
      return true
    end
  end
  return false
end

-- Requests and answers (rules 6, 7, 9, 12 and 14) ----------------------------------------------------

-- What reads a setting.
local function settings_of(handle)
  -- Older Envoys have no filter context.
  local context = handle.filterContext and handle:filterContext()
  local metadata = handle:metadata()
  return function(name)
    local value = context and context:get(name)
    if value == nil then
      value = metadata:get(name)
    end
    return value
  end
end

local function service_of(setting)
  local service = setting("service")
  if service == nil then
    service = os.getenv("DEVROUTE_SERVICE") or os.getenv("ISTIO_META_WORKLOAD_NAME") or ""
  end
  return service ~= "" and service or nil
end

-- What is stripped of this request: nothing (false), what is not signed ("unsigned"), or everything.
local function strip_of(handle, setting)
  local strip, trust = setting("strip"), setting("trust")
  if not strip or (type(trust) == "string" and is_trusted(handle, trust, setting("trust_forwarded") == true)) then
    return false
  end
  return strip
end

local function is_in(lines, value)
  for _, line in ipairs(lines) do
    if trim(line) == value then
      return true
    end
  end
  return false
end

-- The contract of a request, or nil; and whether that is because it is malformed.
local function read(fields, members)
  if #fields == 0 then
    return read_baggage(members)
  end
  local contract = #fields == 1 and parse(trim(fields[1])) or nil
  return contract, contract == nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local fields, matched = lines_of(headers, CONTRACT), lines_of(headers, MATCHED)
  local baggage, cookies = lines_of(headers, BAGGAGE), lines_of(headers, COOKIE)
  local has_cookie = may_have_cookie(cookies)
  if #fields == 0 and #matched == 0 and #baggage == 0 and not has_cookie then
    return
  end
  local members = members_of(baggage)
  local contract, is_malformed = read(fields, members)
  if not contract and not is_malformed and #matched == 0 and not has_cookie then
    return
  end
  local setting = settings_of(handle)
  local strip, reads_cookie = strip_of(handle, setting), setting("cookie") == true
  if has_cookie and (strip or reads_cookie) then
    local values = take_cookie(headers, cookies)
    if reads_cookie and not contract and not is_malformed and #values > 0 then
      contract = #values == 1 and decode(values[1]) or nil
      is_malformed = contract == nil
      -- As it is, for the router to say what is wrong with it.
      fields = is_malformed and values or fields
      for _, value in ipairs(fields) do
        headers:add(CONTRACT, value)
      end
    end
  end
  if not contract and not is_malformed and #matched == 0 then
    return
  end

  -- Routes can match what is set and removed from here on.
  handle:clearRouteCache()
  headers:remove(MATCHED)
  if strip and not (strip == "unsigned" and contract and contract.members["$sig"]) then
    headers:remove(CONTRACT)
    remove_member(headers, baggage)
    return
  end

  if contract then
    if #fields == 0 or fields[1] ~= contract.text then
      set(headers, CONTRACT, contract.text)
    end
    write_baggage(headers, baggage, members, contract)
  end
  local service = service_of(setting)
  local is_named = service and contract and contract.members[service] ~= nil
  if is_named and is_in(matched, service) then
    handle:streamInfo():dynamicMetadata():set(ROUTED, "baseline", service)
  elseif service and (is_named or is_malformed) then
    headers:add(MATCHED, service)
    handle:streamInfo():dynamicMetadata():set(ROUTED, "router", service)
  end
end

function envoy_on_response(handle)
  local routed = handle:streamInfo():dynamicMetadata():get(ROUTED)
  if not routed then
    return
  end
  local headers = handle:headers()
  if routed.baseline then
    set(headers, ROUTED, routed.baseline .. "=baseline; reason=already_rerouted")
    return
  end
  -- A router says what happened, or that it is the one who refuses (rule 12); else this answer is Envoy's.
  if not headers:get(ROUTED) and not find(headers:get(PROXY_STATUS) or "", "devroute;", 1, true) then
    set(headers, ROUTED, routed.router .. "=none; reason=router_unreachable")
    set(headers, NO_RETRY, "true")
  end
end
