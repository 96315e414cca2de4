/* Routes: from a method and a path to the number of the route that was added for them.
 *
 * Patterns form a tree by segment. A node has children by literal text, children by *shape*, at most one child for ":name"
 * (names belong to the patterns, so "/:a/x" and "/:b/y" share it), and at most one "*rest". A lookup goes down the
 * literal child first, then those whose shape the segment has, then the named one, then takes the rest; when a way ends
 * without a route for the method it comes back and tries the next, so "/a/:x/c" is found although "/a/b" exists. Each
 * node is reached by one way only, hence a lookup visits no node twice, whatever the path; and a node knows its parent,
 * hence a lookup needs no stack.
 *
 * A shape is a name with literal text around it, as in ":id.json" and "v:major", or a name of a kind, as in ":id<int>",
 * or both. The shapes of a node are tried in an order that does not depend on who added them: more text first, then the
 * narrower kind. Of shapes that are alike in both, and in where the text is, a segment has one at most.
 *
 * ":name" stands for one segment that is not empty, "*rest" for one or more segments, joined by slashes, and may be
 * empty: "/files/" fits the pattern "/files/" and "*rest", "/files" does not. Patterns are decoded and compared with
 * decoded segments (path.c). router.lua reads what users write, and marks the segments that stand for others by a NUL,
 * which no segment has. Nothing here knows HTTP's rules beyond that GET answers HEAD.
 *
 * C walks (handler.c for each request; Lua asks where it has not told C of its routes), since a walk through a tree
 * branches by data: compiled code, which is one straight line per outcome, would leave its line at each other route.
 * Nodes, routes and texts are arrays that grow, and name each other by index; literal children of all nodes are in one
 * hash table, by parent and text. A tree belongs to one VM.
 *
 * A pattern without names stands in the same table as a whole, too. Most requests ask for such a path as it is written,
 * which one look finds without taking the path apart. It is the literal way, which a walk tries first, so no other route
 * comes before it. */
#include "routes.h"

#include "../base/chars.h"
#include "../base/hash.h"
#include "method.h"
#include "path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What the byte behind a NUL says. The kinds stand in order, the narrowest first; ANY: no kind. */
enum { ANY = ':', REST = '*' };
static const char kinds[] = {'i', 'u', 'h', 'a', 's', ANY};

#define WHOLE UINT32_MAX /* the parent of literals that are whole paths */

struct node {
    uint32_t parent, name; /* nodes; 0, the root: none */
    uint32_t shapes;       /* the first shape of its children; 0: there are none */
    uint32_t shape;        /* its own; 0: it has no text around its name, and no kind; or no name */
    uint32_t leaf,
        rest;       /* the first route that ends here, that takes the rest from here on; 0: none */
    uint16_t names; /* how many nodes of the way to this one stand for names, itself included */
    bool is_name;
};

struct shape {
    uint32_t next; /* of the same parent; 0: the last */
    uint32_t node; /* whose shape it is */
    uint32_t text, before,
        behind; /* text[0 .. before) precedes the name, as many bytes as behind says follow it */
    char kind;
};

struct route {
    uint32_t next; /* of the same node */
    int method;
};

struct literal {
    uint32_t node; /* 0: this place is free */
    uint32_t parent, text, len;
};

struct host_routes {
    struct node *nodes;
    struct route *routes; /* from 1 on */
    struct shape *shapes; /* shapes[0] has no text */
    struct literal *literals;
    char *texts;
    uint32_t n_nodes, nodes_cap, n_routes, routes_cap, n_shapes, shapes_cap;
    uint32_t n_literals, mask, texts_len, texts_cap;
};

/* Makes room for `more` elements of `size` bytes behind n. */
static bool grow(void *array, uint32_t n, uint32_t more, uint32_t *cap, size_t size) {
    if (n + more <= *cap) return true;
    uint32_t want = 2 * (n + more) > 16 ? 2 * (n + more) : 16;
    void *old, *fresh;
    memcpy(&old, array, sizeof old);
    if (!(fresh = realloc(old, want * size))) return false;
    memcpy(array, &fresh, sizeof fresh);
    *cap = want;
    return true;
}

host_routes *host_routes_new(void) {
    host_routes *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->mask = 7;
    t->literals = calloc(t->mask + 1, sizeof *t->literals);
    if (!t->literals || !grow(&t->nodes, 0, 1, &t->nodes_cap, sizeof *t->nodes) ||
        !grow(&t->shapes, 0, 1, &t->shapes_cap, sizeof *t->shapes) ||
        !grow(&t->texts, 0, 1, &t->texts_cap, 1)) {
        host_routes_free(t);
        return NULL;
    }
    hash_begin();
    t->nodes[0] = (struct node){0};
    t->shapes[0] = (struct shape){0};
    t->n_nodes = t->n_routes = t->n_shapes = 1;
    return t;
}

void host_routes_free(host_routes *t) {
    if (!t) return;
    free(t->nodes);
    free(t->routes);
    free(t->shapes);
    free(t->literals);
    free(t->texts);
    free(t);
}

/* The place of a node's literal child: the child's, or the free one where it belongs. */
static struct literal *place_of(const host_routes *t, uint32_t parent, const char *s, size_t n) {
    uint64_t h = hash_bytes(s, n) + parent * 0x9e3779b97f4a7c15u;
    for (uint32_t i = (uint32_t)(h ^ h >> 32);; i++) {
        struct literal *l = &t->literals[i & t->mask];
        if (!l->node ||
            (l->parent == parent && l->len == n && memcmp(t->texts + l->text, s, n) == 0))
            return l;
    }
}

/* ---- adding ---- */

/* At most half of the places are taken. */
static bool grow_literals(host_routes *t) {
    if (2 * (t->n_literals + 1) <= t->mask + 1) return true;
    struct literal *old = t->literals, *fresh = calloc(2 * ((size_t)t->mask + 1), sizeof *fresh);
    if (!fresh) return false;
    uint32_t n = t->mask + 1;
    t->literals = fresh;
    t->mask = 2 * n - 1;
    for (uint32_t i = 0; i < n; i++)
        if (old[i].node) *place_of(t, old[i].parent, t->texts + old[i].text, old[i].len) = old[i];
    free(old);
    return true;
}

/* A new node below `parent`. 0: no memory. */
static uint32_t add_node(host_routes *t, uint32_t parent, bool is_name) {
    if (!grow(&t->nodes, t->n_nodes, 1, &t->nodes_cap, sizeof *t->nodes)) return 0;
    t->nodes[t->n_nodes] = (struct node){
        .parent = parent,
        .names = (uint16_t)(t->nodes[parent].names + is_name),
        .is_name = is_name,
    };
    return t->n_nodes++;
}

static int rank(char kind) {
    const char *at = memchr(kinds, kind, sizeof kinds);
    return at ? (int)(at - kinds) : (int)sizeof kinds;
}

/* Is a segment tried with shape a before it is tried with b? */
static bool precedes(const struct shape *a, const struct shape *b) {
    uint32_t text_a = a->before + a->behind, text_b = b->before + b->behind;
    if (text_a != text_b) return text_a > text_b;
    if (a->kind != b->kind) return rank(a->kind) < rank(b->kind);
    return a->before > b->before;
}

/* The child of a node for a piece s[0 .. n) whose NUL is at `mark`, made if need be. 0: no memory. */
static uint32_t shaped_child(host_routes *t, uint32_t node, const char *s, size_t n,
                             const char *mark) {
    struct shape own = {.before = (uint32_t)(mark - s), .kind = mark[1], .text = t->texts_len};
    own.behind = (uint32_t)n - own.before - 2;
    uint32_t len = own.before + own.behind;
    if (!grow(&t->texts, t->texts_len, len, &t->texts_cap, 1) ||
        !grow(&t->shapes, t->n_shapes, 1, &t->shapes_cap, sizeof *t->shapes))
        return 0;
    memcpy(t->texts + own.text, s, own.before);
    memcpy(t->texts + own.text + own.before, mark + 2, own.behind);
    uint32_t last = 0; /* the last shape that precedes it */
    for (uint32_t i = t->nodes[node].shapes; i; i = t->shapes[i].next) {
        const struct shape *h = &t->shapes[i];
        if (h->kind == own.kind && h->before == own.before && h->behind == own.behind &&
            memcmp(t->texts + h->text, t->texts + own.text, len) == 0)
            return h->node;
        if (!precedes(&own, h)) last = i;
    }
    if (!(own.node = add_node(t, node, true))) return 0;
    uint32_t *link = last ? &t->shapes[last].next : &t->nodes[node].shapes;
    own.next = *link;
    *link = t->nodes[own.node].shape = t->n_shapes;
    t->shapes[t->n_shapes++] = own;
    t->texts_len += len;
    return own.node;
}

/* The NUL of a piece of a pattern, with a byte behind it; NULL: the piece is literal. */
static const char *mark_of(const char *s, size_t n) {
    return n > 1 ? memchr(s, 0, n - 1) : NULL;
}

/* From now on the text s[0 .. n) below `parent` leads to `node`; to none before. False: no memory. */
static bool add_literal(host_routes *t, uint32_t parent, const char *s, size_t n, uint32_t node) {
    if (!grow_literals(t) || !grow(&t->texts, t->texts_len, (uint32_t)n, &t->texts_cap, 1))
        return false;
    memcpy(t->texts + t->texts_len, s, n);
    *place_of(t, parent, s, n) = (struct literal){node, parent, t->texts_len, (uint32_t)n};
    t->texts_len += (uint32_t)n;
    t->n_literals++;
    return true;
}

/* The child of a node for a piece of a pattern, made if need be. 0: no memory. */
static uint32_t child_for(host_routes *t, uint32_t node, const char *s, size_t n) {
    const char *mark = mark_of(s, n);
    if (mark && (n > 2 || mark[1] != ANY)) return shaped_child(t, node, s, n, mark);
    if (mark) {
        uint32_t child = t->nodes[node].name;
        if (!child) child = add_node(t, node, true);
        return t->nodes[node].name = child;
    }
    struct literal *l = place_of(t, node, s, n);
    if (l->node) return l->node;
    uint32_t child = add_node(t, node, false);
    return child && add_literal(t, node, s, n, child) ? child : 0;
}

/* Is the pattern a raw path that is like itself when it is decoded and resolved? Then this path fits the pattern, and no
 * other pattern fits it better. */
static bool is_path(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        bool begins = i > 0 && s[i - 1] == '/';
        if (s[i] == 0 || s[i] == '%' || s[i] == '\\') return false;
        if (begins && (s[i] == '/' || s[i] == '.')) return false;
    }
    return true;
}

int host_route_add(host_routes *t, int method, const char *pattern, size_t len) {
    const char *s = pattern, *end = pattern + len;
    uint32_t node = 0;
    bool rest = false;
    if (!grow(&t->routes, t->n_routes, 1, &t->routes_cap, sizeof *t->routes)) return -ENOMEM;
    while (s < end && !rest) {
        s++;
        const char *slash = memchr(s, '/', (size_t)(end - s));
        size_t n = (size_t)((slash ? slash : end) - s);
        const char *mark = mark_of(s, n);
        rest = mark && mark[1] == REST;
        if (!rest && !(node = child_for(t, node, s, n))) return -ENOMEM;
        if (!slash) break;
        s = slash;
    }
    if (is_path(pattern, len) && !place_of(t, WHOLE, pattern, len)->node &&
        !add_literal(t, WHOLE, pattern, len, node))
        return -ENOMEM;
    uint32_t *first = rest ? &t->nodes[node].rest : &t->nodes[node].leaf;
    for (uint32_t i = *first; i; i = t->routes[i].next)
        if (t->routes[i].method == method) return 0;
    t->routes[t->n_routes] = (struct route){.next = *first, .method = method};
    *first = t->n_routes;
    return (int)t->n_routes++;
}

/* ---- finding ---- */

/* What a walk looks for: the route of a method; or the methods of all routes, for `set`. */
struct wanted {
    int method;
    uint8_t *set; /* by method; NULL: a route is looked for */
};

/* The route among those of a node, or 0. */
static uint32_t pick(const host_routes *t, uint32_t first, const struct wanted *w) {
    uint32_t get = 0, any = 0;
    for (uint32_t i = first; i; i = t->routes[i].next) {
        int method = t->routes[i].method;
        if (w->set)
            w->set[method] = 1;
        else if (method == w->method)
            return i;
        else if (method == METHOD_GET && w->method == METHOD_HEAD)
            get = i;
        else if (method == METHOD_NONE)
            any = i;
    }
    return get ? get : any;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_hex(char c) {
    return char_hex(c) >= 0;
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_of_slug(char c) {
    return is_letter(c) || is_digit(c) || c == '-' || c == '_';
}

/* Are the bytes s[0 .. n) such, and one at least? */
static bool are_all(const char *s, size_t n, bool (*is)(char)) {
    for (size_t i = 0; i < n; i++)
        if (!is(s[i])) return false;
    return n > 0;
}

static bool is_uuid(const char *s, size_t n) {
    if (n != 36) return false;
    for (size_t i = 0; i < n; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? s[i] != '-' : !is_hex(s[i])) return false;
    }
    return true;
}

/* Is s[0 .. n) of a kind? */
static bool is_of_kind(char kind, const char *s, size_t n) {
    switch (kind) {
    case 'i':
        return n > 0 && *s == '-' ? are_all(s + 1, n - 1, is_digit) : are_all(s, n, is_digit);
    case 'u':
        return is_uuid(s, n);
    case 'h':
        return are_all(s, n, is_hex);
    case 'a':
        return are_all(s, n, is_letter);
    case 's':
        return are_all(s, n, is_of_slug);
    default:
        return n > 0;
    }
}

/* Has the segment s[0 .. n) this shape? */
static bool has_shape(const host_routes *t, const struct shape *h, const char *s, size_t n) {
    const char *text = t->texts + h->text;
    return n > h->before + h->behind && memcmp(s, text, h->before) == 0 &&
           memcmp(s + n - h->behind, text + h->before, h->behind) == 0 &&
           is_of_kind(h->kind, s + h->before, n - h->before - h->behind);
}

/* The child of a node that stands for segment i of the path, or 0. `tried`: the child that was the last to be tried, 0: no
 * child was. */
static uint32_t below(const host_routes *t, uint32_t node, const host_path *p, uint32_t i,
                      uint32_t tried) {
    const char *s = p->text + p->at[i];
    size_t n = p->at[i + 1] - 1 - p->at[i];
    const struct node *at = &t->nodes[node];
    if (!tried) {
        uint32_t child = place_of(t, node, s, n)->node;
        if (child) return child;
    }
    if (n == 0 || (tried && tried == at->name)) return 0;
    uint32_t last = tried ? t->nodes[tried].shape : 0;
    for (uint32_t h = last ? t->shapes[last].next : at->shapes; h; h = t->shapes[h].next)
        if (has_shape(t, &t->shapes[h], s, n)) return t->shapes[h].node;
    return at->name;
}

/* The route, or 0. *end: the node where it ends; *depth: the segments on the way there. */
static uint32_t walk(const host_routes *t, const host_path *p, const struct wanted *w,
                     uint32_t *end, uint32_t *depth) {
    uint32_t node = 0, i = 0, found = 0, tried = 0;
    for (;;) {
        uint32_t child = i < p->n ? below(t, node, p, i, tried) : 0;
        const struct node *at = &t->nodes[node];
        if (child) {
            node = child;
            i++;
            tried = 0;
            continue;
        }
        found = pick(t, i < p->n ? at->rest : at->leaf, w);
        if (found || node == 0) break;
        tried = node;
        node = at->parent;
        i--;
    }
    *end = node;
    *depth = i;
    return found;
}

int host_route_find(const host_routes *t, int method, const char *raw, size_t len, host_match *m) {
    host_path p;
    const struct wanted w = {.method = method};
    uint32_t depth, node = place_of(t, WHOLE, raw, len)->node;
    uint32_t found = node ? pick(t, t->nodes[node].leaf, &w) : 0;
    m->text = found ? raw : "";
    m->len = found ? (uint32_t)len : 0;
    if (found) return (int)found;
    int err = path_split(raw, len, &p);
    if (err) return err;
    found = walk(t, &p, &w, &node, &depth);
    m->text = p.text;
    m->len = p.len;
    if (!found) return 0;
    uint32_t names = t->nodes[node].names;
    if (depth < p.n && names < HOST_PARAMS_MAX)
        m->params[names] = (host_span){p.at[depth], p.len - p.at[depth]};
    for (uint32_t k = names; k > 0; node = t->nodes[node].parent, depth--) {
        if (!t->nodes[node].is_name || --k >= HOST_PARAMS_MAX) continue;
        const struct shape *h = &t->shapes[t->nodes[node].shape];
        uint32_t from = p.at[depth - 1] + h->before, to = p.at[depth] - 1 - h->behind;
        m->params[k] = (host_span){from, to - from};
    }
    return (int)found;
}

int host_route_methods(const host_routes *t, const char *raw, size_t len, uint8_t *set) {
    host_path p;
    uint32_t node, depth;
    int err = path_split(raw, len, &p);
    if (err) return err;
    memset(set, 0, METHODS_MAX);
    walk(t, &p, &(struct wanted){.set = set}, &node, &depth);
    return 0;
}
