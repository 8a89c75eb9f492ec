/* Preloaded into `clove serve` by tests: a host whose clock is set, and whose disk fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* CLOVE_TEST_CLOCK names a file with the seconds by which the time of day is wrong. */
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, t);
    const char *file = getenv("CLOVE_TEST_CLOCK");
    if (result == 0 && id == CLOCK_REALTIME && file) {
        char text[32] = {0};
        int fd = open(file, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            if (read(fd, text, sizeof text - 1) > 0)
                t->tv_sec += atol(text);
            close(fd);
        }
    }
    return result;
}

/* As long as the file that CLOVE_TEST_BAD_DISK names is there, nothing reaches the disk. */
int fdatasync(int fd) {
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    const char *file = getenv("CLOVE_TEST_BAD_DISK");
    if (file && access(file, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}
