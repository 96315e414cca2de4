/* An intrusive list: its members carry their links, so to join and to leave take no memory and no search.
 *
 * Doubly linked, with an end on either side: NULL, not the list itself, so that a zeroed list is empty, and one that is
 * copied is moved. A list has no lock; what guards it stands where it is. A link is in one list at a time, and does not
 * know in which, or whether.
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

/* l, which is in no list, becomes the last, or the first. */
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

/* l, which is in that list, leaves it. Its own links stay as they were: who walks may go on. */
static inline void list_remove(list_head *from, list_link *l) {
    *(l->prev ? &l->prev->next : &from->first) = l->next;
    *(l->next ? &l->next->prev : &from->last) = l->prev;
}

/* The first leaves the list. NULL: it is empty. */
static inline list_link *list_take_first(list_head *from) {
    list_link *l = from->first;
    if (l) list_remove(from, l);
    return l;
}

/* All leave the list. They are what is returned. */
static inline list_head list_take_all(list_head *from) {
    list_head all = *from;
    *from = (list_head){NULL, NULL};
    return all;
}

#endif
