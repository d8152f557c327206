/* Makes a new file with its content, owner, mode and time, as files.py would. */
#include "ordinary.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Writes, describes and closes a new file. Returns 0 or an errno. Without the interpreter's lock. */
static int
fill_file(int descriptor, const char *content, size_t size_bytes, const Description *description)
{
    const struct timespec times[2] = {description->mtime, description->mtime};
    int error = 0;

    while (size_bytes > 0 && error == 0) {
        const ssize_t written = write(descriptor, content, size_bytes);
        if (written > 0) {
            content += written;
            size_bytes -= (size_t)written;
        }
        else if (written == 0) {
            error = EIO;
        }
        else if (errno != EINTR) {
            error = errno;
        }
    }
    if (error == 0 && description->is_given_away && fchown(descriptor, description->uid, description->gid) < 0) {
        error = errno;
    }
    /* After chown, which drops set-id bits; the others it has had from the start. */
    if (error == 0 && (description->mode & 07000) && fchmod(descriptor, description->mode) < 0) {
        error = errno;
    }
    if (error == 0 && futimens(descriptor, times) < 0) {
        error = errno;
    }
    if (close(descriptor) < 0 && error == 0 && errno != EINTR) {
        error = errno;
    }
    return error;
}

/* As create_file() of files.py. Returns -1 with an OSError set that is as os.open's, os.write's and the others'. */
int
create_file(int parent, const char *name, const char *content, size_t size_bytes, const Description *description)
{
    int descriptor, error;

    Py_BEGIN_ALLOW_THREADS
    do {
        descriptor = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, description->mode);
    } while (descriptor < 0 && errno == EINTR);
    error = descriptor < 0 ? errno : fill_file(descriptor, content, size_bytes, description);
    Py_END_ALLOW_THREADS
    if (error == 0) {
        return 0;
    }
    errno = error;
    if (descriptor < 0) {
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, name);
    }
    else {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return -1;
}

