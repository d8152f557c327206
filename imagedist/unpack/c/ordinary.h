/* The ordinary case of unpacking in C: plain headers, and files that lie in the buffer as a whole, one after another.
 *
 * It only ever does what the Python beside it would do, and leaves to that whatever is not plain: entries.py, plan.py,
 * files.py and tarsplit.py are the definition of the rules, tests/unpack/test_ordinary.py compares the two.
 *
 * What is read here is hostile. Every access to a header is below BLOCK_BYTES of a block that was checked to be there,
 * every number of it fits 36 bits, and its text has no byte but printable ASCII.
 */
#ifndef ORDINARY_H
#define ORDINARY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#define BLOCK_BYTES 512
#define NANOSECONDS 1000000000
#define MAX_POSITION (INT64_MAX / 2) /* to which the largest size that a header can say may still be added */

/* The fields of an Entry of entries.py. */
enum { NUMBER, NAME, KIND, MODE, UID, GID, MTIME, OFFSET, SIZE, END, LINK, DEVICE, XATTRS, SPARSE, ENTRY_FIELDS };

typedef struct {
    char name[155 + 1 + 100 + 1]; /* prefix, slash, name, NUL */
    Py_ssize_t name_bytes;
    char link[100 + 1];
    Py_ssize_t link_bytes;
    char kind;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    int64_t mtime_seconds;
    int64_t offset, size_bytes; /* of the content */
    int64_t end;                /* of the padded content */
} Header;

typedef struct {
    mode_t mode;
    bool is_given_away; /* to uid and gid, who are not who makes it */
    uid_t uid;
    gid_t gid;
    struct timespec mtime;
} Description;

/* header.c */
bool read_header(const unsigned char *block, int64_t position, int64_t total_bytes, Header *header);
PyObject *make_entry(const Header *header, long long number, PyObject *blank);
bool is_entry(PyObject *object);

/* file.c */
int create_file(int parent, const char *name, const char *content, size_t size_bytes, const Description *description);

/* record.c */
PyObject *make_record(const unsigned char *raw, size_t raw_bytes, const Header *header, uint64_t crc, long long number);

/* files.c */
PyObject *files(PyObject *module, PyObject *arguments);
extern const char files_doc[];

#endif
