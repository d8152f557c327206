/* What the tar-split says of a file, as tarsplit.py would write it. */
#include "ordinary.h"

static char *
put_text(char *to, const char *text, size_t size_bytes)
{
    memcpy(to, text, size_bytes);
    return to + size_bytes;
}

/* RFC 4648, 4 characters for each 3 bytes begun. */
static char *
put_base64(char *to, const unsigned char *from, size_t size_bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (; size_bytes >= 3; from += 3, size_bytes -= 3) {
        *to++ = digits[from[0] >> 2];
        *to++ = digits[(from[0] & 3) << 4 | from[1] >> 4];
        *to++ = digits[(from[1] & 15) << 2 | from[2] >> 6];
        *to++ = digits[from[2] & 63];
    }
    if (size_bytes > 0) {
        const unsigned second = size_bytes == 2 ? from[1] : 0;
        *to++ = digits[from[0] >> 2];
        *to++ = digits[(from[0] & 3) << 4 | second >> 4];
        *to++ = size_bytes == 2 ? digits[(second & 15) << 2] : '=';
        *to++ = '=';
    }
    return to;
}

/* As header_and_kept() of tarsplit.py: the raw bytes before a file's content, then the file itself. */
PyObject *
make_record(const unsigned char *raw, size_t raw_bytes, const Header *header, uint64_t crc, long long number)
{
    static const char start[] = "{\"type\":2,\"payload\":\"", name[] = "{\"type\":1,\"name\":\"";
    char first_end[64], size[64], last_end[64];
    unsigned char crc_bytes[8];

    for (int at = 0; at < 8; at++) {
        crc_bytes[at] = (unsigned char)(crc >> (56 - 8 * at));
    }
    const int first_end_bytes = snprintf(first_end, sizeof first_end, "\",\"position\":%lld}\n", number);
    const int size_bytes = snprintf(size, sizeof size, "\",\"size\":%lld,\"payload\":\"", (long long)header->size_bytes);
    const int last_end_bytes = snprintf(last_end, sizeof last_end, "\",\"position\":%lld}\n", number + 1);
    const size_t total_bytes = sizeof start - 1 + (raw_bytes + 2) / 3 * 4 + (size_t)first_end_bytes + sizeof name - 1 +
                               (size_t)header->name_bytes + (size_t)size_bytes + 12 + (size_t)last_end_bytes;
    PyObject *record = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total_bytes);
    if (record == NULL) {
        return NULL;
    }
    char *to = PyBytes_AS_STRING(record);
    to = put_text(to, start, sizeof start - 1);
    to = put_base64(to, raw, raw_bytes);
    to = put_text(to, first_end, (size_t)first_end_bytes);
    to = put_text(to, name, sizeof name - 1);
    to = put_text(to, header->name, (size_t)header->name_bytes);
    to = put_text(to, size, (size_t)size_bytes);
    to = put_base64(to, crc_bytes, sizeof crc_bytes);
    to = put_text(to, last_end, (size_t)last_end_bytes);
    assert(to == PyBytes_AS_STRING(record) + total_bytes);
    return record;
}

