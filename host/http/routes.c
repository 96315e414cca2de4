/* Routes: from a method and a path to the number of the route that was added for them.
 *
 * Patterns form a tree by segment. A node has children by literal text, at most one child for ":name" (names belong to
 * the patterns, so "/:a/x" and "/:b/y" share it), and at most one "*rest". A lookup goes down the literal child first,
 * then the named one, then takes the rest; when a way ends without a route for the method it comes back and tries the
 * next, so "/a/:x/c" is found although "/a/b" exists. Each node is reached by one way only, hence a lookup visits no
 * node twice, whatever the path; and a node knows its parent, hence a lookup needs no stack.
 *
 * ":name" stands for one segment that is not empty, "*rest" for one or more segments, joined by slashes, and may be
 * empty: "/files/" fits the pattern "/files/" and "*rest", "/files" does not. Patterns are written decoded and compared with
 * decoded segments (path.c). Nothing here knows HTTP's rules beyond that GET answers HEAD.
 *
 * Lua asks for each request, and C answers, since a walk through a tree branches by data: compiled code, which is one
 * straight line per outcome, would leave its line at each other route. Nodes, routes and texts are arrays that grow, and
 * name each other by index; literal children of all nodes are in one hash table, by parent and text. A tree belongs to
 * one VM. */
#include "../base/hash.h"
#include "method.h"
#include "path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = ':', REST = '*' }; /* what a piece begins with that is not literal */

struct node {
    uint32_t parent, name; /* nodes; 0, the root: none */
    uint32_t leaf,
        rest;       /* the first route that ends here, that takes the rest from here on; 0: none */
    uint16_t names; /* how many nodes of the way to this one stand for names, itself included */
    bool is_name;
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
    struct literal *literals;
    char *texts;
    uint32_t n_nodes, nodes_cap, n_routes, routes_cap, n_literals, mask, texts_len, texts_cap;
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
        !grow(&t->texts, 0, 1, &t->texts_cap, 1)) {
        host_routes_free(t);
        return NULL;
    }
    hash_begin();
    t->nodes[0] = (struct node){0};
    t->n_nodes = t->n_routes = 1;
    return t;
}

void host_routes_free(host_routes *t) {
    if (!t) return;
    free(t->nodes);
    free(t->routes);
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

/* The child of a node for a piece of a pattern, made if need be. 0: no memory. */
static uint32_t child_for(host_routes *t, uint32_t node, const char *s, size_t n) {
    if (n && *s == NAME) {
        uint32_t child = t->nodes[node].name;
        if (!child) child = add_node(t, node, true);
        return t->nodes[node].name = child;
    }
    struct literal *l = place_of(t, node, s, n);
    if (l->node) return l->node;
    if (!grow_literals(t) || !grow(&t->texts, t->texts_len, (uint32_t)n, &t->texts_cap, 1))
        return 0;
    uint32_t child = add_node(t, node, false);
    if (!child) return 0;
    memcpy(t->texts + t->texts_len, s, n);
    *place_of(t, node, s, n) = (struct literal){child, node, t->texts_len, (uint32_t)n};
    t->texts_len += (uint32_t)n;
    t->n_literals++;
    return child;
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
        rest = n && *s == REST;
        if (!rest && !(node = child_for(t, node, s, n))) return -ENOMEM;
        if (!slash) break;
        s = slash;
    }
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

enum { DOWN, BY_NAME, BY_REST }; /* where a walk goes on in a node: what was not tried there */

/* The child of a node that stands for segment i of the path, or 0. */
static uint32_t below(const host_routes *t, uint32_t node, const host_path *p, uint32_t i,
                      int next) {
    const char *s = p->text + p->at[i];
    size_t n = p->at[i + 1] - 1 - p->at[i];
    uint32_t child = next == DOWN ? place_of(t, node, s, n)->node : 0;
    return child || next == BY_REST || n == 0 ? child : t->nodes[node].name;
}

/* The route, or 0. *end: the node where it ends; *depth: the segments on the way there. */
static uint32_t walk(const host_routes *t, const host_path *p, const struct wanted *w,
                     uint32_t *end, uint32_t *depth) {
    uint32_t node = 0, i = 0, found = 0;
    for (int next = DOWN;;) {
        uint32_t child = i < p->n ? below(t, node, p, i, next) : 0;
        const struct node *at = &t->nodes[node];
        if (child) {
            node = child;
            i++;
            next = DOWN;
            continue;
        }
        found = pick(t, i < p->n ? at->rest : at->leaf, w);
        if (found || node == 0) break;
        next = at->is_name ? BY_REST : BY_NAME;
        node = at->parent;
        i--;
    }
    *end = node;
    *depth = i;
    return found;
}

int host_route_find(const host_routes *t, int method, const char *raw, size_t len, host_match *m) {
    host_path p;
    uint32_t node, depth;
    m->text = "";
    m->len = 0;
    int err = path_split(raw, len, &p);
    if (err) return err;
    uint32_t found = walk(t, &p, &(struct wanted){.method = method}, &node, &depth);
    m->text = p.text;
    m->len = p.len;
    if (!found) return 0;
    uint32_t names = t->nodes[node].names;
    if (depth < p.n && names < HOST_PARAMS_MAX)
        m->params[names] = (host_span){p.at[depth], p.len - p.at[depth]};
    for (uint32_t k = names; k > 0; node = t->nodes[node].parent, depth--) {
        if (!t->nodes[node].is_name || --k >= HOST_PARAMS_MAX) continue;
        m->params[k] = (host_span){p.at[depth - 1], p.at[depth] - 1 - p.at[depth - 1]};
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
