/* The module imagedist.unpack._ordinary: its functions' arguments. ordinary.h says what it is about. */
#include "ordinary.h"

PyDoc_STRVAR(entry_doc, "entry(header, position, total_bytes, number, blank)\n--\n\n"
                        "The entry of a plain header; None: it is not plain, or not good.");

static PyObject *
entry(PyObject *module, PyObject *arguments)
{
    Py_buffer block;
    long long position, total_bytes, number;
    PyObject *blank, *result = NULL;
    Header header;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*LLLO", &block, &position, &total_bytes, &number, &blank)) {
        return NULL;
    }
    if (is_entry(blank)) {
        if (block.len == BLOCK_BYTES && read_header(block.buf, position, total_bytes, &header)) {
            result = make_entry(&header, number, blank);
        }
        else {
            result = Py_NewRef(Py_None);
        }
    }
    PyBuffer_Release(&block);
    return result;
}

PyDoc_STRVAR(create_doc, "create(parent, name, content, mode, owner, mtime_ns)\n--\n\n"
                         "Makes a new file below the descriptor of its directory.\n\n"
                         "Args:\n    owner: uid and gid to give it to; None: it stays whose it is.\n\n"
                         "Raises:\n    OSError: as from os.open, os.write and the others.");

static PyObject *
create(PyObject *module, PyObject *arguments)
{
    int parent;
    unsigned int mode;
    long long uid = 0, gid = 0, mtime_ns;
    PyObject *name, *owner, *result = NULL;
    Py_buffer content;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "iO&y*IOL", &parent, PyUnicode_FSConverter, &name, &content, &mode, &owner,
                          &mtime_ns)) {
        return NULL;
    }
    if (owner != Py_None) {
        if (!PyTuple_Check(owner)) {
            PyErr_SetString(PyExc_TypeError, "owner is no pair of ids");
            goto done;
        }
        if (!PyArg_ParseTuple(owner, "LL", &uid, &gid)) {
            goto done;
        }
        if (uid < 0 || uid > UINT32_MAX || gid < 0 || gid > UINT32_MAX) {
            PyErr_SetString(PyExc_OverflowError, "owner is beyond 32 bits");
            goto done;
        }
    }
    Description description = {
        .mode = mode & 07777,
        .is_given_away = owner != Py_None,
        .uid = (uid_t)uid,
        .gid = (gid_t)gid,
        .mtime = {.tv_sec = mtime_ns / NANOSECONDS, .tv_nsec = mtime_ns % NANOSECONDS},
    };
    if (description.mtime.tv_nsec < 0) {
        description.mtime.tv_sec--;
        description.mtime.tv_nsec += NANOSECONDS;
    }
    if (create_file(parent, PyBytes_AS_STRING(name), content.buf, (size_t)content.len, &description) == 0) {
        result = Py_NewRef(Py_None);
    }
done:
    PyBuffer_Release(&content);
    Py_DECREF(name);
    return result;
}

static PyMethodDef methods[] = {
    {"create", create, METH_VARARGS, create_doc},
    {"entry", entry, METH_VARARGS, entry_doc},
    {"files", files, METH_VARARGS, files_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_ordinary",
    .m_doc = "The ordinary case of unpacking, in C.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__ordinary(void)
{
    return PyModuleDef_Init(&definition);
}
