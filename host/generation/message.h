/* Texts that say what is wrong, also when there is no memory for one. Any thread. The functions do not wait. */
#ifndef MESSAGE_H
#define MESSAGE_H

/* "not enough memory": message_free leaves it alone. */
extern char message_no_memory[];

/* A text that the caller frees by message_free; without memory, message_no_memory. */
char *message_copy(const char *text);
char *message_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Frees a text of these functions. NULL: does nothing. */
void message_free(char *text);

#endif
