/* Reading decimal numbers. See decimal.cc. Any thread. Does not wait. */
#ifndef DECIMAL_H
#define DECIMAL_H

/* The number that the text between `from` and `to` means: digits, then perhaps a point and digits, then perhaps an
 * exponent; a minus may come first. Rounded correctly. -ERANGE: it is too large. What is too small is 0. */
int decimal_read(const char *from, const char *to, double *value);

#endif
