/* list: after any order of joining and leaving it holds what it should, in order, both ways. */
#include "../base/list.h"

#include "../../runtime/test/harness.h"

/* ---- list ---- */

enum { ITEMS = 12 };

typedef struct item {
    int before; /* so that a link is not where its item is */
    list_link link;
    bool in;
} item;

static item items[ITEMS];

/* What the list should hold. */
static struct {
    item *v[ITEMS];
    int n;
} model;

static void model_insert(int at, item *i) {
    memmove(&model.v[at + 1], &model.v[at], (size_t)(model.n - at) * sizeof(item *));
    model.v[at] = i;
    model.n++;
    i->in = true;
}

static void model_remove(item *i) {
    int at = 0;
    while (model.v[at] != i)
        at++;
    model.n--;
    memmove(&model.v[at], &model.v[at + 1], (size_t)(model.n - at) * sizeof(item *));
    i->in = false;
}

static bool is_as_the_model(const list_head *l) {
    int n = 0;
    const list_link *last = NULL;
    for (list_link *k = l->first; k; k = k->next) {
        if (n == model.n || list_of(k, item, link) != model.v[n++] || k->prev != last) return false;
        last = k;
    }
    return n == model.n && l->last == last;
}

static void step(list_head *l, uint64_t *random) {
    item *i = &items[random_below(random, ITEMS)];
    switch (i->in ? 3 : random_below(random, 3)) {
    case 0:
        list_append(l, &i->link);
        model_insert(model.n, i);
        break;
    case 1:
        list_prepend(l, &i->link);
        model_insert(0, i);
        break;
    case 2: {
        list_link *k = list_take_first(l);
        assert_true(k == (model.n ? &model.v[0]->link : NULL));
        if (k) model_remove(model.v[0]);
        break;
    }
    default:
        list_remove(l, &i->link);
        model_remove(i);
    }
}

static void any_order_of_steps(void **state) {
    (void)state;
    uint64_t random = 1;
    list_head l = {NULL, NULL};
    for (int i = 0; i < 100000; i++) {
        step(&l, &random);
        if (!is_as_the_model(&l)) fail_msg("step %d", i);
        if (i % 16) continue;
        list_head moved = list_take_all(&l);
        assert_true(!l.first && !l.last && is_as_the_model(&moved));
        l = moved;
    }
}

static void who_walks_may_take_out(void **state) {
    (void)state;
    list_head l = {NULL, NULL};
    for (int i = 0; i < ITEMS; i++)
        list_append(&l, &items[i].link);
    int n = 0;
    for (list_link *k = l.first; k; k = k->next, n++)
        list_remove(&l, k);
    assert_int_equal(n, ITEMS);
    assert_true(!l.first && !l.last);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_order_of_steps),
        cmocka_unit_test(who_walks_may_take_out),
    };
    RUN_TESTS("list", tests);
}
