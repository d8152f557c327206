/* Plans, tells to the tar-split and makes plain files, one after another, until something else comes. */
#include "ordinary.h"

#include <limits.h>
#include <string.h>

#define MAX_NAME_BYTES 255              /* limits.py: of one part of a path */
#define MAX_DEPTH 256                   /* limits.py */
#define MAX_RAW_BYTES (2 * BLOCK_BYTES) /* the padding of the content before, and a header */

const char files_doc[] =
    "files(view, told, position, stop, number, last_number, record, blank, node_class, known, directory, jobs, crc,\n"
    "      uids, gids, owner, may_give_away)\n--\n\n"
    "Plans, tells and makes plain files, one after another, until something else comes.\n\n"
    "Args:\n"
    "    view: bytes of the tar, from told on, up to where the tar-split tells it.\n"
    "    position: of the next header.\n"
    "    stop: of told; once there, no other file is begun.\n"
    "    number / last_number: of the next entry, and the first that is not read here.\n"
    "    record: the number of the tar-split's next record.\n"
    "    blank / node_class: an Entry with no device, xattrs and sparse map; Node of plan.py.\n"
    "    known: of Planner. directory: of Files.\n"
    "    jobs: is given what others shall make; None: it is made here.\n"
    "    crc: CRC-64 of some bytes.\n"
    "    uids / gids: sets of the files' owners.\n"
    "    owner / may_give_away: the ids that new files have, and whether they may get others.\n\n"
    "Returns:\n"
    "    told, position, the bytes of text in the entries, the tar-split's records (two in each), and whether the view\n"
    "    ended too early for the next file.";

typedef struct {
    PyObject *view;
    Py_buffer tar; /* the same bytes */
    long long start;
    long long told, position, stop;
    long long number, last_number, record, text_bytes;
    PyObject *blank, *node_class, *known, *directory, *jobs, *crc, *uids, *gids;
    unsigned int uid, gid;
    int may_give_away;
    PyObject *records;
    bool is_short;
} Run;

/* Where a file goes: the parts of its directory's path, the names there, the directory's descriptor, its own name. */
typedef struct {
    PyObject *parts, *names, *text;
    const char *name;
    int parent;
} Place;

/* The next header, when it and the file are here and as plain as can be. */
static bool
read_file(Run *run, Header *header)
{
    const long long end = run->start + (long long)run->tar.len;

    if (run->told >= run->stop || run->number >= run->last_number) {
        return false;
    }
    if (end - run->position < BLOCK_BYTES) {
        run->is_short = true;
        return false;
    }
    if (!read_header((const unsigned char *)run->tar.buf + (run->position - run->start), run->position, INT64_MAX,
                     header)) {
        return false;
    }
    if (header->kind != '0' || header->size_bytes == 0 || header->offset - run->told > MAX_RAW_BYTES ||
        (!run->may_give_away && (header->uid != run->uid || header->gid != run->gid))) {
        return false;
    }
    run->is_short = header->offset + header->size_bytes > end;
    return !run->is_short;
}

/* As the quick way of add() of plan.py. 1: found, 0: not so plain, -1: error.
 *
 * The dictionaries are the planner's own, but the interpreter's lock is released on the way: the place owns what it
 * refers to. */
static int
find_place(const Run *run, const Header *header, Place *place)
{
    const char *slash = strrchr(header->name, '/');
    const Py_ssize_t head_bytes = slash == NULL ? 0 : slash - header->name;

    place->name = slash == NULL ? header->name : slash + 1;
    if (place->name[0] == '\0' || strcmp(place->name, ".") == 0 || strcmp(place->name, "..") == 0 ||
        strncmp(place->name, ".wh.", 4) == 0 || strlen(place->name) > MAX_NAME_BYTES) {
        return 0;
    }
    PyObject *head = PyUnicode_DecodeASCII(header->name, head_bytes, NULL);
    if (head == NULL) {
        return -1;
    }
    PyObject *known = PyDict_GetItemWithError(run->known, head);
    Py_DECREF(head);
    if (known == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (!PyTuple_Check(known) || PyTuple_GET_SIZE(known) != 3 || !PyTuple_Check(PyTuple_GET_ITEM(known, 0)) ||
        !PyDict_Check(PyTuple_GET_ITEM(known, 1))) {
        PyErr_SetString(PyExc_TypeError, "known has something else than paths, names and truths");
        return -1;
    }
    if (PyTuple_GET_ITEM(known, 2) != Py_True || PyTuple_GET_SIZE(PyTuple_GET_ITEM(known, 0)) >= MAX_DEPTH) {
        return 0;
    }
    place->text = PyUnicode_FromString(place->name);
    if (place->text == NULL) {
        return -1;
    }
    const int present = PyDict_Contains(PyTuple_GET_ITEM(known, 1), place->text);
    if (present != 0) {
        Py_CLEAR(place->text);
        return present < 0 ? -1 : 0;
    }
    place->parts = Py_NewRef(PyTuple_GET_ITEM(known, 0));
    place->names = Py_NewRef(PyTuple_GET_ITEM(known, 1));
    return 1;
}

/* CRC-64 of a part of the view, by the library that the Python uses. */
static bool
checksum(const Run *run, Py_ssize_t from, Py_ssize_t to, uint64_t *crc)
{
    PyObject *content = NULL, *value = NULL;
    PyObject *first = PyLong_FromSsize_t(from), *last = PyLong_FromSsize_t(to);
    PyObject *span = first != NULL && last != NULL ? PySlice_New(first, last, NULL) : NULL;

    if (span != NULL) {
        content = PyObject_GetItem(run->view, span);
    }
    if (content != NULL) {
        value = PyObject_CallOneArg(run->crc, content);
    }
    if (value != NULL) {
        *crc = PyLong_AsUnsignedLongLong(value);
    }
    Py_XDECREF(first);
    Py_XDECREF(last);
    Py_XDECREF(span);
    Py_XDECREF(content);
    Py_XDECREF(value);
    return value != NULL && !PyErr_Occurred();
}

static bool
tell(const Run *run, const Header *header)
{
    const Py_ssize_t raw = (Py_ssize_t)(run->told - run->start), content = (Py_ssize_t)(header->offset - run->start);
    uint64_t crc;

    if (!checksum(run, content, content + (Py_ssize_t)header->size_bytes, &crc)) {
        return false;
    }
    PyObject *record = make_record((const unsigned char *)run->tar.buf + raw, (size_t)(content - raw), header, crc,
                                   run->record);
    if (record == NULL) {
        return false;
    }
    const int failed = PyList_Append(run->records, record);
    Py_DECREF(record);
    return !failed;
}

static bool
make_here(const Run *run, const Header *header, const Place *place)
{
    const Description description = {
        .mode = header->mode,
        .is_given_away = header->uid != run->uid || header->gid != run->gid,
        .uid = header->uid,
        .gid = header->gid,
        .mtime = {.tv_sec = header->mtime_seconds},
    };
    const char *content = (const char *)run->tar.buf + (header->offset - run->start);

    return create_file(place->parent, place->name, content, (size_t)header->size_bytes, &description) == 0;
}

/* A job is a pair of the path and the entry. */
static bool
leave_to_others(const Run *run, const Place *place, PyObject *entry)
{
    const Py_ssize_t depth = PyTuple_GET_SIZE(place->parts);
    PyObject *path = PyTuple_New(depth + 1);

    if (path == NULL) {
        return false;
    }
    for (Py_ssize_t at = 0; at < depth; at++) {
        PyTuple_SET_ITEM(path, at, Py_NewRef(PyTuple_GET_ITEM(place->parts, at)));
    }
    PyTuple_SET_ITEM(path, depth, Py_NewRef(place->text));
    PyObject *job = PyTuple_Pack(2, path, entry);
    Py_DECREF(path);
    if (job == NULL) {
        return false;
    }
    const int failed = PyList_Append(run->jobs, job);
    Py_DECREF(job);
    return !failed;
}

/* Opens the directory, and makes it if it is missing. */
static bool
open_parent(const Run *run, Place *place)
{
    PyObject *directory = PyObject_CallOneArg(run->directory, place->parts);
    if (directory == NULL) {
        return false;
    }
    const long parent = PyLong_AsLong(directory);
    Py_DECREF(directory);
    if ((parent < 0 || parent > INT_MAX) && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "directory gives something else than descriptors");
    }
    place->parent = (int)parent;
    return !PyErr_Occurred();
}

static bool
plan(const Run *run, const Place *place, PyObject *entry)
{
    PyObject *fields[] = {entry, Py_None, Py_None, Py_False, Py_False, Py_True}; /* the last: is_made */
    PyObject *node = PyObject_Vectorcall(run->node_class, fields, sizeof fields / sizeof *fields, NULL);

    if (node == NULL) {
        return false;
    }
    const bool is_done = PyDict_SetItem(place->names, place->text, node) == 0 &&
                         PySet_Add(run->uids, PyTuple_GET_ITEM(entry, UID)) == 0 &&
                         PySet_Add(run->gids, PyTuple_GET_ITEM(entry, GID)) == 0;
    Py_DECREF(node);
    return is_done;
}

/* 1: done, 0: nothing was done, it is left to Python, -1: error. */
static int
next_file(Run *run)
{
    Header header;
    Place place = {0};

    if (!read_file(run, &header)) {
        return 0;
    }
    const int found = find_place(run, &header, &place);
    if (found <= 0) {
        return found;
    }
    PyObject *entry = make_entry(&header, run->number, run->blank);
    const bool is_done = entry != NULL && plan(run, &place, entry) && tell(run, &header) &&
                         open_parent(run, &place) &&
                         (run->jobs == Py_None ? make_here(run, &header, &place) : leave_to_others(run, &place, entry));
    Py_XDECREF(entry);
    Py_DECREF(place.parts);
    Py_DECREF(place.names);
    Py_DECREF(place.text);
    if (!is_done) {
        return -1;
    }
    run->told = header.offset + header.size_bytes;
    run->position = header.end;
    run->number++;
    run->record += 2;
    run->text_bytes += header.name_bytes + header.link_bytes;
    return 1;
}

PyObject *
files(PyObject *module, PyObject *arguments)
{
    PyObject *result = NULL;
    Run run = {0};
    int state;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "OLLLLLLOOO!OOOO!O!(II)p", &run.view, &run.told, &run.position, &run.stop,
                          &run.number, &run.last_number, &run.record, &run.blank, &run.node_class, &PyDict_Type,
                          &run.known, &run.directory, &run.jobs, &run.crc, &PySet_Type, &run.uids,
                          &PySet_Type, &run.gids, &run.uid, &run.gid, &run.may_give_away)) {
        return NULL;
    }
    if (!is_entry(run.blank)) {
        return NULL;
    }
    if (run.jobs != Py_None && !PyList_Check(run.jobs)) {
        PyErr_SetString(PyExc_TypeError, "jobs is neither a list nor None");
        return NULL;
    }
    if (run.told < 0 || run.told > run.position || run.position > MAX_POSITION) {
        PyErr_SetString(PyExc_ValueError, "told and position are no places in a tar");
        return NULL;
    }
    run.start = run.told;
    if (PyObject_GetBuffer(run.view, &run.tar, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    run.records = PyList_New(0);
    if (run.records != NULL) {
        do {
            state = next_file(&run);
        } while (state == 1);
        if (state == 0) {
            result = Py_BuildValue("LLLOO", run.told, run.position, run.text_bytes, run.records,
                                   run.is_short ? Py_True : Py_False);
        }
    }
    Py_XDECREF(run.records);
    PyBuffer_Release(&run.tar);
    return result;
}
