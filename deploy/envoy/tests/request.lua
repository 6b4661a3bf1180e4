-- What Envoy gives a Lua filter, as far as devroute.lua asks for it.

local Headers = {}
Headers.__index = Headers

function Headers:getNumValues(name)
  return #self:all(name)
end

function Headers:getAtIndex(name, index)
  return self:all(name)[index + 1]
end

function Headers:get(name)
  local values = self:all(name)
  return #values > 0 and table.concat(values, ",") or nil
end

function Headers:add(name, value)
  self.lines[#self.lines + 1] = { name, value }
end

function Headers:remove(name)
  local kept = {}
  for _, line in ipairs(self.lines) do
    if line[1] ~= name then
      kept[#kept + 1] = line
    end
  end
  self.lines = kept
end

-- The values of a field, in their order.
function Headers:all(name)
  local values = {}
  for _, line in ipairs(self.lines) do
    if line[1] == name then
      values[#values + 1] = line[2]
    end
  end
  return values
end

local function settings(table)
  return { get = function(_, name) return table and table[name] end }
end

local Handle = {}
Handle.__index = Handle

function Handle:headers() return self.fields end
function Handle:clearRouteCache() self.cleared = true end
function Handle:filterContext() return settings(self.context) end
function Handle:metadata() return settings(self.route) end
function Handle:logErr(message) self.logged[#self.logged + 1] = message end

function Handle:streamInfo()
  local info = {}
  function info.downstreamDirectRemoteAddress() return self.connection end
  function info.downstreamRemoteAddress() return self.client end
  function info.dynamicMetadata()
    local metadata = {}
    function metadata.get(_, filter) return self.dynamic[filter] end
    function metadata.set(_, filter, key, value)
      self.dynamic[filter] = self.dynamic[filter] or {}
      self.dynamic[filter][key] = value
    end
    return metadata
  end
  return info
end

local request = {}

-- A handle with these lines and settings; `route` is the metadata of the route.
function request.new(lines, context, route)
  local fields = setmetatable({ lines = {} }, Headers)
  for _, line in ipairs(lines) do
    fields:add(line[1], line[2])
  end
  local handle = { fields = fields, context = context, route = route, dynamic = {}, cleared = false }
  handle.connection, handle.client, handle.logged = "192.0.2.1:5", "10.0.0.1:0", {}
  return setmetatable(handle, Handle)
end

return request
