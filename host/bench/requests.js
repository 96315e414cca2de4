// What requests.sh asks for, by Bun: PORT is printed.
const large = "0123456789abcdef".repeat(4096);
const routes = {
  "/": () => new Response("Hello, World!"),
  "/query": (req) => {
    const args = new URL(req.url).searchParams;
    return new Response(args.get("name") + args.get("page") + req.headers.get("x-id"));
  },
  "/json": () => Response.json({ message: "Hello, World!", id: 42, list: [1, 2, 3] }),
  "/echo": { POST: async (req) => new Response(await req.text()) },
  "/large": () => new Response(large),
};
for (let i = 1; i <= 100; i++)
  routes[`/r${i}/:user/posts/:post`] = (req) => new Response(req.params.user + "/" + req.params.post);
const server = Bun.serve({ hostname: "127.0.0.1", port: 0, routes, fetch: () => new Response("", { status: 404 }) });
console.log(server.port);
