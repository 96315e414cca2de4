--- Numbers of one's own (minimal standard): math.random is one for all Gs, so its order would be the clock's.

--- A function that draws from 1 to n.
---@param state integer  the seed
---@return fun(n: integer): integer
return function(state)
  state = state % 2147483646 + 1
  return function(n)
    state = state * 16807 % 2147483647
    return state % n + 1
  end
end
