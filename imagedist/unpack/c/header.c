/* Reads a plain header, as entries.py and numbers.py would. */
#include "ordinary.h"

#define MAX_SECONDS 9223372036 /* of INT64_MAX nanoseconds */

/* As number() of numbers.py; false: not octal, or not so simple. */
static bool
read_number(const unsigned char *field, size_t width, int64_t *value)
{
    size_t at = 0;
    int64_t number = 0;

    while (at < width && (field[at] == ' ' || field[at] == '\0')) {
        at++;
    }
    if (at == width) {
        *value = 0;
        return true;
    }
    const size_t digits = at;
    while (at < width && field[at] >= '0' && field[at] <= '7') {
        number = number << 3 | (field[at++] - '0'); /* at most 12 digits */
    }
    if (at == digits) {
        return false;
    }
    while (at < width && field[at] == ' ') {
        at++;
    }
    *value = number;
    return at == width || field[at] == '\0';
}

/* Appends a NUL-terminated field; -1: something else than printable ASCII without the two characters JSON escapes. */
static Py_ssize_t
read_text(const unsigned char *field, size_t width, char *text)
{
    size_t at = 0;

    for (; at < width && field[at] != '\0'; at++) {
        if (field[at] < ' ' || field[at] > '~' || field[at] == '"' || field[at] == '\\') {
            return -1;
        }
        text[at] = (char)field[at];
    }
    text[at] = '\0';
    return (Py_ssize_t)at;
}

/* As Entries of entries.py; false: not plain, which may mean unacceptable as well.
 *
 * block: BLOCK_BYTES of the tar from position on. total_bytes: the tar's length, or the largest number. */
bool
read_header(const unsigned char *block, int64_t position, int64_t total_bytes, Header *header)
{
    int64_t sum = 8 * ' ', checksum, mode, uid, gid;
    Py_ssize_t prefix_bytes = 0;

    for (size_t at = 0; at < BLOCK_BYTES; at++) {
        sum += block[at];
    }
    for (size_t at = 148; at < 156; at++) {
        sum -= block[at];
    }
    header->kind = (char)block[156];
    if (header->kind != '0' && header->kind != '1' && header->kind != '2' && header->kind != '5') {
        return false;
    }
    if (!read_number(block + 148, 8, &checksum) || checksum != sum || !read_number(block + 100, 8, &mode) ||
        !read_number(block + 108, 8, &uid) || !read_number(block + 116, 8, &gid) ||
        !read_number(block + 124, 12, &header->size_bytes) || !read_number(block + 136, 12, &header->mtime_seconds)) {
        return false;
    }
    if (memcmp(block + 257, "ustar\0", 6) == 0 && block[345] != '\0') {
        prefix_bytes = read_text(block + 345, 155, header->name);
        if (prefix_bytes < 0) {
            return false;
        }
        header->name[prefix_bytes++] = '/';
    }
    header->name_bytes = read_text(block, 100, header->name + prefix_bytes);
    header->link_bytes = read_text(block + 157, 100, header->link);
    if (header->name_bytes < 0 || header->link_bytes < 0) {
        return false;
    }
    header->name_bytes += prefix_bytes;
    header->mode = (mode_t)(mode & 07777);
    header->uid = (uid_t)uid;
    header->gid = (gid_t)gid;
    if (header->kind != '0') {
        header->size_bytes = 0;
    }
    if (position < 0 || position > MAX_POSITION || header->mtime_seconds > MAX_SECONDS) {
        return false;
    }
    header->offset = position + BLOCK_BYTES;
    header->end = (header->offset + header->size_bytes + BLOCK_BYTES - 1) & -(int64_t)BLOCK_BYTES;
    return header->offset + header->size_bytes <= total_bytes;
}

/* An Entry of entries.py; blank: one that says what its class is, and what a plain one has no more of. */
PyObject *
make_entry(const Header *header, long long number, PyObject *blank)
{
    PyObject *fields = PyTuple_New(ENTRY_FIELDS);

    if (fields == NULL) {
        return NULL;
    }
    PyTuple_SET_ITEM(fields, NUMBER, PyLong_FromLongLong(number));
    PyTuple_SET_ITEM(fields, NAME, PyUnicode_DecodeASCII(header->name, header->name_bytes, NULL));
    PyTuple_SET_ITEM(fields, KIND, PyBytes_FromStringAndSize(&header->kind, 1));
    PyTuple_SET_ITEM(fields, MODE, PyLong_FromUnsignedLong(header->mode));
    PyTuple_SET_ITEM(fields, UID, PyLong_FromUnsignedLong(header->uid));
    PyTuple_SET_ITEM(fields, GID, PyLong_FromUnsignedLong(header->gid));
    PyTuple_SET_ITEM(fields, MTIME, PyLong_FromLongLong(header->mtime_seconds * NANOSECONDS));
    PyTuple_SET_ITEM(fields, OFFSET, PyLong_FromLongLong(header->offset));
    PyTuple_SET_ITEM(fields, SIZE, PyLong_FromLongLong(header->size_bytes));
    PyTuple_SET_ITEM(fields, END, PyLong_FromLongLong(header->end));
    PyTuple_SET_ITEM(fields, LINK, PyUnicode_DecodeASCII(header->link, header->link_bytes, NULL));
    for (Py_ssize_t field = 0; field < DEVICE; field++) {
        if (PyTuple_GET_ITEM(fields, field) == NULL) {
            Py_DECREF(fields);
            return NULL;
        }
    }
    for (Py_ssize_t field = DEVICE; field < ENTRY_FIELDS; field++) {
        PyTuple_SET_ITEM(fields, field, Py_NewRef(PyTuple_GET_ITEM(blank, field)));
    }
    PyObject *arguments = PyTuple_Pack(1, fields);
    Py_DECREF(fields);
    if (arguments == NULL) {
        return NULL;
    }
    PyObject *entry = PyTuple_Type.tp_new(Py_TYPE(blank), arguments, NULL);
    Py_DECREF(arguments);
    return entry;
}

/* Whether it has the fields of an Entry; sets a TypeError if not. */
bool
is_entry(PyObject *object)
{
    if (PyTuple_Check(object) && PyTuple_GET_SIZE(object) == ENTRY_FIELDS) {
        return true;
    }
    PyErr_SetString(PyExc_TypeError, "blank is no Entry");
    return false;
}

