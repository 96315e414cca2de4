--- The style of the pages of --dev, and the script that loads pages anew.
--
-- The script asks whether the page's state (host/generation/dev.c) is still the app's. The answer comes when it is
-- not, or after a
-- while. The script asks only as long as the page is visible: a browser has six connections to a server, for all its
-- tabs. A page that did not come by GET is not loaded again, since that would send the request's body twice.

local assets = {}

assets.script = [[
(function () {
  "use strict";
  var me = document.currentScript, state = me.dataset.state, method = me.dataset.method;
  var asking = null;

  // A page out of some cache is of an old state each time: it is loaded anew once.
  try {
    if (sessionStorage.getItem("lunapark") === state) state = "";
    sessionStorage.removeItem("lunapark");
  } catch (e) { /* no storage */ }

  function tell(text) {
    var at = document.getElementById("lunapark-changed");
    if (!at) {
      at = document.createElement("p");
      at.style.cssText = "position:fixed;inset:auto 0 0 0;margin:0;padding:.7em 1em;background:#223;color:#fff;" +
        "font:14px system-ui,sans-serif;z-index:2147483647";
      document.body.appendChild(at);
    }
    at.textContent = text;
  }

  function changed(now) {
    if (method !== "GET") {
      tell("The app has changed. This page is the answer to a " + method +
        ", which is not sent again by itself: reload the page to send it.");
      return;
    }
    try { sessionStorage.setItem("lunapark", state); } catch (e) { /* no storage */ }
    location.reload();
  }

  function ask() {
    if (asking || document.hidden) return;
    var stop = asking = new AbortController();
    function again(ms) {
      if (asking !== stop) return;
      setTimeout(function () {
        if (asking !== stop) return;
        asking = null;
        ask();
      }, ms);
    }
    fetch("/.lunapark/changed?since=" + encodeURIComponent(state), { cache: "no-store", signal: stop.signal })
      .then(function (r) {
        if (r.status === 404) return null; // no --dev any more
        if (!r.ok) throw new Error(r.status);
        return r.text().then(function (now) {
          if (state === "") state = now;
          if (now === state) again(0);
          else changed(now);
        });
      })
      .catch(function () { again(500); }); // the server starts anew, perhaps
  }

  document.addEventListener("visibilitychange", function () {
    if (document.hidden && asking) {
      asking.abort();
      asking = null;
    }
    ask();
  });
  ask();
})();
]]

assets.style = [[
:root { color-scheme: light dark; --bg: #fff; --fg: #1c2024; --dim: #6b7280; --line: #e3e6ea; --box: #f6f7f9;
  --red: #b3261e; --hit: #fde9e7; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #16181c; --fg: #e6e8eb; --dim: #939aa4; --line: #2d3138; --box: #1e2126; --red: #ff8a80;
    --hit: #47211f; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 3rem; background: var(--bg); color: var(--fg);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
header { border-left: 4px solid var(--red); padding-left: 1rem; margin-bottom: 1.75rem; }
header p { margin: 0; color: var(--dim); overflow-wrap: anywhere; }
h1 { margin: .2rem 0 .3rem; font-size: 1.4rem; line-height: 1.35; color: var(--red); white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 24rem; overflow-y: auto; }
h2 { margin: 2rem 0 .6rem; font-size: 1rem; }
.src, .frame, td, header .at { font-size: .875rem;
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
header .at { color: var(--fg); }
.src { display: grid; grid-template-columns: minmax(100%, max-content); overflow-x: auto; padding: .5rem 0;
  background: var(--box); border: 1px solid var(--line); border-radius: 6px; }
.src div { display: flex; padding-right: 1rem; }
.src i { flex: none; width: 4.5em; padding-right: 1em; text-align: right; font-style: normal; color: var(--dim);
  user-select: none; }
.src span { white-space: pre; tab-size: 4; }
.src .hit { background: var(--hit); box-shadow: inset 3px 0 var(--red); }
.src .hit i { color: var(--red); font-weight: 700; }
.frame { padding: .15rem 0 .15rem .95rem; overflow-wrap: anywhere; }
.own { color: var(--dim); opacity: .75; }
details > summary { cursor: pointer; padding: .15rem 0; overflow-wrap: anywhere; }
details > summary.frame { text-indent: -.95rem; }
details > .src { margin: .35rem 0 .7rem .95rem; }
table { width: 100%; border-collapse: collapse; }
td { border-top: 1px solid var(--line); padding: .3rem .75rem .3rem 0; vertical-align: top; overflow-wrap: anywhere; }
td:first-child { width: 13rem; color: var(--dim); }
th { text-align: left; padding: .9rem 0 .3rem; font-size: .875rem; }
footer { margin-top: 2.5rem; padding-top: .8rem; border-top: 1px solid var(--line); color: var(--dim);
  font-size: .875rem; }
@media (max-width: 40rem) { td:first-child { width: 8rem; } body { padding-top: 1.25rem; } }
]]

return assets
