/* An intrusive list: its members carry their links, so to join and to leave take no memory and no search.
 *
 * The list is doubly linked and ends on either side with NULL, not with itself: a zeroed list is empty, and a copied
 * list is moved. A list has no lock; the comment at the list says what guards it. A link is in one list at a time, and
 * does not know in which, or whether.
 */
#ifndef LIST_H
#define LIST_H

#include <stddef.h>

typedef struct list_link {
    struct list_link *prev, *next; /* NULL: it is the first, the last */
} list_link;

typedef struct list_head {
    list_link *first, *last; /* NULL: it is empty */
} list_head;

/* The object of this type whose member l is. */
#define list_of(l, type, member) ((type *)(void *)((char *)(l)-offsetof(type, member)))

/* Adds l, which is in no list: as the last, or as the first. */
static inline void list_append(list_head *to, list_link *l) {
    *l = (list_link){.prev = to->last};
    *(to->last ? &to->last->next : &to->first) = l;
    to->last = l;
}

static inline void list_prepend(list_head *to, list_link *l) {
    *l = (list_link){.next = to->first};
    *(to->first ? &to->first->prev : &to->last) = l;
    to->first = l;
}

/* Removes l, which is in this list. l keeps its links, so a walk along the list can go on. */
static inline void list_remove(list_head *from, list_link *l) {
    *(l->prev ? &l->prev->next : &from->first) = l->next;
    *(l->next ? &l->next->prev : &from->last) = l->prev;
}

/* Removes the first. NULL: the list is empty. */
static inline list_link *list_take_first(list_head *from) {
    list_link *l = from->first;
    if (l) list_remove(from, l);
    return l;
}

/* Empties the list. Returns all its members. */
static inline list_head list_take_all(list_head *from) {
    list_head all = *from;
    *from = (list_head){NULL, NULL};
    return all;
}

#endif
