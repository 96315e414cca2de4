--- HTML as an answer: `return http.html("<h1>Hello, " .. http.escape(name) .. "</h1>")`.
--
-- The type of an answer is never guessed from its bytes. Otherwise an answer that repeats the words of a client would
-- be a page as soon as a client says "<script>", with the rights of the site. So a string is text, and a handler says
-- which answer is a page. Browsers guess too: the host adds `X-Content-Type-Options: nosniff` wherever it says the
-- type.
--
-- The value of `http.html` stands for a string wherever a handler returns a body. Joined with text it stays HTML, so
-- that middleware may do `return next() .. footer`; `tostring` gives the text.

local escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local html = {}

---@class lunapark.Html
---@field text string
local mt = { __name = "lunapark.Html" }
html.mt = mt

function mt.__tostring(page) return page.text end

function mt.__concat(a, b)
  return (setmetatable({ text = tostring(a) .. tostring(b) }, mt))
end

--- A body that is HTML.
---@param text string
---@return lunapark.Html
function html.new(text)
  if type(text) ~= "string" then error("html: text must be a string, got " .. type(text), 2) end
  return (setmetatable({ text = text }, mt))
end

--- Text as it stands in HTML, between tags and in quoted attributes.
---@param text any  a value that is no string is shown by tostring
---@return string
function html.escape(text)
  return (tostring(text):gsub("[&<>\"']", escapes))
end

return html
