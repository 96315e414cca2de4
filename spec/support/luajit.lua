--- Scripts that a LuaJIT without host/build/luajit.sh would break.
---
---   local holds = require "spec.support.luajit"(pending)
---   holds [[... print "holds"]]

local assert = require "luassert"
local child = require "spec.support.child"

---@param pending function  busted's
---@return fun(text: string, ...: string)  runs the script, compiled and interpreted, with these options of `run`; it
---prints "holds" in the end
return function(pending)
  return function(text, ...)
    local _, version = child.run { "version" }
    if version:find("as packaged", 1, true) then return pending "LuaJIT is as packaged" end
    for _, jit in ipairs { "jit.on()\n", "jit.off()\n" } do
      local args = { "run", child.script(jit .. text) }
      for i, option in ipairs { ... } do table.insert(args, i + 1, option) end
      local code, out, err = child.run(args)
      assert.equal("", err)
      assert.equal("holds\n", out)
      assert.equal(0, code)
    end
  end
end
