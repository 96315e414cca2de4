-- lp.cdef: functions by their declarations, and the marks of those that block. What a VM has declared first stays, so
-- functions get other types here only by names of their own.

local ffi = require "ffi"
local lp = require "lunapark"
local waits = require "spec.support.waits"
local helper = require "spec.helper"

local LONG, raised = waits.LONG, helper.raised
local C = ffi.C

ffi.cdef "int pipe(int *fds);"

-- The names of a table, sorted, in one string; those of functions that are called on another thread in capitals.
local function names_of(functions)
  local names = {}
  for name, fn in pairs(functions) do
    names[#names + 1] = type(fn) == "function" and name:upper() or name
  end
  table.sort(names)
  return table.concat(names, " ")
end

describe("lunapark.cdef", function()
  it("calls the marked functions on another thread, the others directly", function()
    local c = lp.cdef [[
      /* blocks */ int64_t read(int fd, void *buf, size_t n);
      int64_t write(int fd, const char *data, size_t n); int close(int fd);
    ]]
    assert.equal("READ close write", names_of(c))
    local fds, buf = ffi.new "int[2]", ffi.new "char[16]"
    assert.equal(0, C.pipe(fds))
    -- Called directly, it would hold up the G that is to write.
    local reader = lp.go(function() return tonumber(c.read(fds[0], buf, 16)), ffi.string(buf) end)
    lp.sleep(0.005)
    assert.equal(5, tonumber(c.write(fds[1], "hello", 5)))
    assert.same({ 5, "hello" }, { reader:join(LONG) })
    -- Its wait ends as those of lp.offload do, and the call keeps its memory to its end.
    local kept = setmetatable({ ffi.new "char[16]" }, { __mode = "v" })
    assert.same({ nil, "timeout" }, { lp.deadline(0.01, function() return c.read(fds[0], kept[1], 16) end) })
    for _ = 1, 3 do collectgarbage() end
    assert.is_true(kept[1] ~= nil)
    assert.equal(2, tonumber(c.write(fds[1], "hi", 2)))
    helper.eventually(function()
      collectgarbage()
      return kept[1] == nil
    end)
    assert.same({ 0, 0 }, { c.close(fds[0]), c.close(fds[1]) })
  end)

  it("errno is the call's, on this thread and on another", function()
    local c = lp.cdef [[
      /* blocks */ int close(int fd);
      int dup(int fd);
    ]]
    ffi.errno(0)
    assert.equal(-1, c.close(-1))
    assert.equal(9, ffi.errno()) -- EBADF
    ffi.errno(0)
    assert.equal(-1, c.dup(-1))
    assert.equal(9, ffi.errno())
  end)

  it("takes functions from a library, which stays", function()
    for _, library in ipairs { "m", "libm.so.6", ffi.load "m" } do
      local pow = lp.cdef("double pow(double, double);", library).pow
      collectgarbage()
      collectgarbage()
      assert.equal(1024, pow(2, 10))
      assert.equal(8, lp.cdef("/* blocks */ double fma(double, double, double);", library).fma(2, 3, 2))
    end
  end)

  describe("reads", function()
    -- declarations, and what is in the table
    local texts = {
      { "int getpid(void)", "getpid" },
      { "/*blocks*/ int getpid(void);", "GETPID" },
      { "// blocks\nint getpid(void);\n// more\nint getppid(void);", "GETPID getppid" },
      { "int /* blocks */ getpid(void);", "GETPID" },
      { "int getpid(void) /* blocks */;", "GETPID" },
      { "/* blocks */ int getpid(void), getppid(void); int abs(int);", "GETPID GETPPID abs" },
      { "int getpid(void); /* blocks */ int getppid(void);", "GETPPID getpid" },
      { "int getpid(void /* blocks */);", "getpid" },
      { "; ; int getpid(void);;", "getpid" },
      { "/* int abs(int); */ // int getppid(void);\nint getpid(void);", "getpid" },
      { "int getpid(void); /* blocks: a comment */ int getppid(void); /* it blocks */ int abs(int);",
        "abs getpid getppid" },
      -- what is returned
      { "const char *strerror(int); char *getenv(const char *name); unsigned long strtoul(const char *, char **,"
        .. " int);", "getenv strerror strtoul" },
      { 'struct lp_t1 { int a, (*b)(int); /* blocks */ }; struct lp_t1 *lp_f1(void) __asm__("abort");', "lp_f1" },
      { 'struct { int q; } *lp_f2(struct lp_t2 { int (*f)(int); } *, const void *) __asm__("abort");', "lp_f2" },
      { 'enum lp_e1 { LP_E1, LP_E2 = (1 << 3) }; enum lp_e1 lp_f3(int) asm("abort"); '
        .. 'union lp_u1 { int i; } *lp_f4(void *, int) asm("abort");', "lp_f3 lp_f4" },
      { "/* blocks */ void (*signal(int signo, void (*handler)(int)))(int);", "SIGNAL" },
      { "int (abs)(int); char *(getenv)(const char *); size_t (strlen)(const char *s);", "abs getenv strlen" },
      -- what is declared beside
      { "typedef int lp_number; typedef lp_number lp_fn(lp_number), *lp_ptr; lp_number getpid(void);", "getpid" },
      { "typedef int (*lp_callback)(const void *, const void *); "
        .. 'void lp_sort(void *base, size_t n, size_t size, lp_callback compare) asm("qsort");', "lp_sort" },
      { "void qsort(void *base, size_t n, size_t size, int (*compare)(const void *, const void *));", "qsort" },
      { "extern int opterr; int (*lp_v1)(int), *lp_v2, lp_v3[2]; extern int optind, abs(int);", "abs" },
      { "static const int LP_K = 3; enum { LP_E3 };", "" },
      { 'int lp_f5(int abs) asm("abort"); int lp_f6(int getpid(int)) asm("abort");', "lp_f5 lp_f6" },
      -- attributes, other names
      { "extern inline __attribute__((const, aligned(4))) int abs(int) __attribute__((pure));", "abs" },
      { 'int lp_a1(int fd) __asm__("close"); /* blocks */ int lp_a2(int, int (*)(void)) asm("dup");', "LP_A2 lp_a1" },
      { "__extension__ long long labs(long long); void exit(int) __attribute__((noreturn));", "exit labs" },
      { "#pragma pack(push, 1)\nstruct lp_t3 { char c; int i; };\n#pragma pack(pop)\nint getpid(void);", "getpid" },
      { "double pow(double, double); float powf(float, float); long double powl(long double, long double); "
        .. "bool isatty(int); _Bool islower(int);", "isatty islower pow powf powl" },
      { "int printf(const char *, ...);", "printf" },
    }

    for _, case in ipairs(texts) do
      it(case[1], function()
        assert.equal(case[2], names_of(lp.cdef(case[1])))
        assert.equal(case[2], names_of(lp.cdef(case[1]))) -- a struct that is there is no error
      end)
    end

    it("what LuaJIT reads: the names of all functions of Lunapark's own declarations", function()
      local text, want = require "lunapark.cdef", {}
      for name in text:gmatch "([%a_][%w_]*)%([^()]*%);" do
        want[#want + 1] = name
      end
      assert.is_true(#want > 100)
      table.sort(want)
      -- The text was declared: only its functions are wanted here.
      local functions = {}
      for declaration in text:gsub("typedef struct [%w_]+ %b{} [%w_]+;", ""):gsub("enum %b{};", "")
        :gmatch "[^;]+;" do
        for name in pairs(lp.cdef(declaration)) do functions[#functions + 1] = name end
      end
      table.sort(functions)
      assert.same(want, functions)
    end)
  end)

  it("the types are there", function()
    local c = lp.cdef [[
      #pragma pack(push, 1)
      struct lp_packed { char c; int i; };
      #pragma pack(pop)
      int lp_strlen(const char *) __asm__("strlen");
      enum { LP_SEVEN = 7 };
    ]]
    assert.equal(5, ffi.sizeof "struct lp_packed")
    assert.equal(3, c.lp_strlen "abc")
    assert.equal(7, C.LP_SEVEN)
    assert.is_nil(c.LP_SEVEN)
  end)

  it("refuses what it cannot do, where it stands", function()
    -- n: the line of the text, line: that line
    local function refused(want, n, line, text)
      local at = (', at line %d of the declarations, "%s"'):format(n, line)
      assert.equal("spec/declared_spec.lua:0: cdef: " .. want .. at, (raised(function()
        lp.cdef(text)
      end):gsub("^(spec/declared_spec.lua:)%d+", "%10")))
    end
    refused("')' expected near 'int'", 3, "int foo(int int);",
      "int abs(int);\n\n  int foo(int int);  \nint getpid(void);")
    refused("')' expected near 'int'", 1, "int foo(int int);", "int foo(int int);")
    refused("a comment without an end", 2, "/* int getppid(void);", "int getpid(void);\n/* int getppid(void);")
    refused("attempt to redefine 'lp_r1'", 2, "struct lp_r1 { int a; };",
      "struct lp_r1 { long a; };\nstruct lp_r1 { int a; };")
    -- marks
    for _, line in ipairs { "int getpid(void); /* blocks */", "int getpid(void); // blocks" } do
      refused("a mark behind a declaration: it stands before the function that blocks", 1, line,
        line .. "\nint getppid(void);")
      refused("a mark with no declaration after it", 1, line, line)
    end
    for _, text in ipairs {
      "struct lp_r2 { int a; };", "typedef int lp_r3(int);", "int (*lp_r4)(int);", "enum { LP_R5 };",
      "extern int optopt;",
    } do
      refused("a mark that marks no function", 2, "/* blocks */", "\n/* blocks */\n" .. text)
    end
    for _, word in ipairs { "block", "Blocks", "blocking", "BLOCKS", "blocked" } do
      local line = ("/* %s */ int abs(int);"):format(word)
      refused(('a comment that says "%s": the mark is /* blocks */'):format(word), 1, line, line)
    end
    -- functions
    assert.matches("cdef: .*surely_not_there.*, at line 2 of the declarations, \"int surely_not_there%(int%);\"$",
      raised(lp.cdef, "int abs(int);\nint surely_not_there(int);"))
    local line = "/* blocks */ int printf(const char *, ...);"
    refused("printf cannot be called on another thread: fn has variable arguments", 1, line, line)
    -- arguments
    assert.matches("declared_spec.lua:%d+: cdef: text must be a string, got nil", raised(function() lp.cdef() end))
    assert.matches("cdef: text must not contain a NUL byte", raised(lp.cdef, "int abs(int);\0"))
    assert.matches("cdef: library must be a name or what ffi.load returned, got number", raised(lp.cdef, "", 1))
    assert.matches("declared_spec.lua:%d+: cdef: .*surely_not_there.*: cannot open shared object file",
      raised(function() lp.cdef("int abs(int);", "surely_not_there") end))
  end)

  it("calls of marked functions name what is wrong with them", function()
    local c = lp.cdef "/* blocks */ int flock(int fd, int operation);"
    assert.matches("declared_spec.lua:%d+: flock: fn has 2 parameters, got 1 arguments",
      raised(function() c.flock(1) end))
    assert.matches("declared_spec.lua:%d+: flock: argument 2 %(operation%): cannot convert 'string' to 'int'",
      raised(function() c.flock(1, "x") end))
  end)
end)
