-- A reader of JSON for the vectors: well-formed files only, `null` becomes `json.null`.

local json = { null = setmetatable({}, { __tostring = function() return "null" end }) }

local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function utf8(code)
  if code < 0x80 then
    return string.char(code)
  elseif code < 0x800 then
    return string.char(0xc0 + math.floor(code / 64), 0x80 + code % 64)
  end
  assert(code < 0xd800 or code > 0xdfff, "a surrogate: write the character itself")
  local high = 0xe0 + math.floor(code / 4096)
  return string.char(high, 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
end

local function string_at(text, at)
  local pieces = {}
  while true do
    local stop = assert(text:find('["\\]', at), "an open string")
    pieces[#pieces + 1] = text:sub(at, stop - 1)
    if text:sub(stop, stop) == '"' then
      return table.concat(pieces), stop + 1
    end
    local kind = text:sub(stop + 1, stop + 1)
    if kind == "u" then
      pieces[#pieces + 1] = utf8(tonumber(text:sub(stop + 2, stop + 5), 16))
      at = stop + 6
    else
      pieces[#pieces + 1] = ESCAPES[kind] or kind
      at = stop + 2
    end
  end
end

local function value_at(text, at)
  at = text:find("%S", at)
  local first = text:sub(at, at)
  if first == '"' then
    return string_at(text, at + 1)
  elseif first == "{" or first == "[" then
    local close, value = first == "{" and "}" or "]", {}
    at = text:find("%S", at + 1)
    while text:sub(at, at) ~= close do
      local item
      item, at = value_at(text, at)
      at = text:find("%S", at)
      if close == "}" then
        assert(text:sub(at, at) == ":", "a colon")
        value[item], at = value_at(text, at + 1)
      else
        value[#value + 1] = item
      end
      at = text:match("^%s*,?%s*()", at)
    end
    return value, at + 1
  end
  local word, after = text:match("^([%w.+-]+)()", at)
  assert(word, "a value")
  local words = { null = json.null, ["true"] = true, ["false"] = false }
  if words[word] == nil then
    return assert(tonumber(word), word), after
  end
  return words[word], after
end

function json.decode(text)
  return (value_at(text, 1))
end

return json
