/* Counts what a process writes below a folder, and lets the n-th operation fail or kill the process.
 *
 * It is loaded by LD_PRELOAD, so that Python, torch's C++ and safetensors' Rust all go through it, and
 * is told what to do by `faults_set`, which a forked process calls by ctypes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, COUNT, KILL, TEAR, FULL, FULL_ONCE };

static char folder[PATH_MAX];
static int mode = OFF, record = -1;
static long at = -1, done = 0;

void faults_set(const char *path, int what, long number, const char *log) {
    record = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    snprintf(folder, sizeof folder, "%s", path);
    at = number, done = 0, mode = what;
}

static int is_below(const char *path) {
    char real[PATH_MAX], parent[PATH_MAX];
    if (mode == OFF || path == NULL) return 0;
    snprintf(parent, sizeof parent, "%s", path);
    if (realpath(path, real) == NULL) { /* it is yet to be made */
        char *slash = strrchr(parent, '/');
        if (slash == NULL) snprintf(parent, sizeof parent, ".");
        else *slash = 0;
        if (realpath(parent[0] ? parent : "/", real) == NULL) return 0;
    }
    return strncmp(real, folder, strlen(folder)) == 0;
}

/* 1 if the operation is to fail for lack of room; `grows` says whether it could. */
static int fails(const char *name, const char *path, int grows, int fd, const void *bytes, size_t count) {
    long number = done++;
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s %s\n", name, path);
    ssize_t (*plain)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    if (plain(record, line, length) < 0) abort();
    if (number == at && mode == TEAR && bytes != NULL && count > 1) {
        if (plain(fd, bytes, count / 2) < 0) abort();
        kill(getpid(), SIGKILL);
    }
    if (number == at && (mode == KILL || mode == TEAR)) kill(getpid(), SIGKILL);
    int is_due = (mode == FULL && number >= at) || (mode == FULL_ONCE && number == at);
    if (grows && is_due) {
        errno = ENOSPC;
        return 1;
    }
    return 0;
}

static int fd_fails(const char *name, int fd, int grows, const void *bytes, size_t count) {
    char link[64], path[PATH_MAX];
    if (mode == OFF || fd == record) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (strncmp(path, folder, strlen(folder)) != 0) return 0;
    return fails(name, path, grows, fd, bytes, count);
}

static int path_fails(const char *name, const char *path, int grows) {
    return is_below(path) && fails(name, path, grows, -1, NULL, 0);
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    return fd_fails("write", fd, 1, bytes, count) ? -1 : real(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    return fd_fails("writev", fd, 1, NULL, 0) ? -1 : real(fd, parts, count);
}

#define PWRITE(name)                                                                  \
    ssize_t name(int fd, const void *bytes, size_t count, off_t offset) {             \
        REAL(ssize_t, name, int, const void *, size_t, off_t);                        \
        return fd_fails(#name, fd, 1, NULL, 0) ? -1 : real(fd, bytes, count, offset); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t sendfile(int out, int in, off_t *offset, size_t count) {
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    return fd_fails("sendfile", out, 1, NULL, 0) ? -1 : real(out, in, offset, count);
}

ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t count, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off_t *, int, off_t *, size_t, unsigned);
    return fd_fails("copy_file_range", out, 1, NULL, 0) ? -1 : real(in, from, out, to, count, flags);
}

#define FALLOCATE(name)                                                        \
    int name(int fd, off_t offset, off_t count) {                              \
        REAL(int, name, int, off_t, off_t);                                    \
        return fd_fails(#name, fd, 1, NULL, 0) ? ENOSPC : real(fd, offset, count); \
    }
FALLOCATE(posix_fallocate)
FALLOCATE(posix_fallocate64)

#define FTRUNCATE(name)                                                  \
    int name(int fd, off_t length) {                                     \
        REAL(int, name, int, off_t);                                     \
        return fd_fails(#name, fd, 1, NULL, 0) ? -1 : real(fd, length);  \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

int fsync(int fd) {
    REAL(int, fsync, int);
    return fd_fails("fsync", fd, 1, NULL, 0) ? -1 : real(fd);
}

#define IS_WRITING(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define OPEN(name)                                                          \
    int name(const char *path, int flags, ...) {                            \
        REAL(int, name, const char *, int, ...);                            \
        va_list rest;                                                       \
        va_start(rest, flags);                                              \
        mode_t access = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                       \
        if (IS_WRITING(flags) && path_fails(#name, path, flags & O_CREAT)) return -1; \
        return real(path, flags, access);                                   \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                        \
    int name(int at_fd, const char *path, int flags, ...) {                 \
        REAL(int, name, int, const char *, int, ...);                       \
        va_list rest;                                                       \
        va_start(rest, flags);                                              \
        mode_t access = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                       \
        if (at_fd == AT_FDCWD && IS_WRITING(flags) && path_fails(#name, path, flags & O_CREAT)) return -1; \
        return real(at_fd, path, flags, access);                            \
    }
OPENAT(openat)
OPENAT(openat64)

int mkdir(const char *path, mode_t access) {
    REAL(int, mkdir, const char *, mode_t);
    return path_fails("mkdir", path, 1) ? -1 : real(path, access);
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return path_fails("rename", to, 1) ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    return path_fails("unlink", path, 0) ? -1 : real(path);
}

int unlinkat(int at_fd, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    if (at_fd == AT_FDCWD && path_fails("unlinkat", path, 0)) return -1;
    return real(at_fd, path, flags);
}

int rmdir(const char *path) {
    REAL(int, rmdir, const char *);
    return path_fails("rmdir", path, 0) ? -1 : real(path);
}

int chmod(const char *path, mode_t access) {
    REAL(int, chmod, const char *, mode_t);
    return path_fails("chmod", path, 0) ? -1 : real(path, access);
}
