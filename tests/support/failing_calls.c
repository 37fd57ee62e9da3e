/* Makes the Nth system call of one kind fail, for files below one folder. For LD_PRELOAD; see failing_calls.py.
 *
 * Until fault_arm() is called every call goes through. Calls that take a descriptor belong to the file that it is
 * open on. The call that fails does nothing.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPEN = 1, STAT = 2, READ = 4, LIST = 8, RENAME = 16, LINK = 32, UNLINK = 64, FSYNC = 128, WRITE = 256 };

static char folder[PATH_MAX];
static char victim[PATH_MAX];
static volatile int wanted, failure, armed;
static atomic_long left, seen;

/* kinds: which calls count. nth: the call that fails, from 1; 0 counts only. */
void fault_arm(const char *below, int kinds, long nth, int code) {
    snprintf(folder, sizeof folder, "%s", below);
    victim[0] = 0;
    wanted = kinds;
    failure = code;
    atomic_store(&left, nth);
    atomic_store(&seen, 0);
    armed = 1;
}

/* Lets every call through for a while, and does not count it. */
void fault_pause(int paused) { armed = !paused; }
long fault_seen(void) { return atomic_load(&seen); }
const char *fault_victim(void) { return victim; }

static int hit(int kind, const char *path) {
    if (!armed || !(wanted & kind) || !path || strncmp(path, folder, strlen(folder)) != 0) return 0;
    atomic_fetch_add(&seen, 1);
    if (atomic_fetch_sub(&left, 1) != 1) return 0;
    snprintf(victim, sizeof victim, "%s", path);
    errno = failure;
    return 1;
}

static int hit_open(int kind, int descriptor) {
    char link[64], path[PATH_MAX];
    if (!armed || !(wanted & kind)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    int saved = errno;
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    return hit(kind, path);
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); \
    mode = va_arg(rest, mode_t); va_end(rest); }

#define OPENING(name) int name(const char *path, int flags, ...) { MODE(flags) \
    return hit(OPEN, path) ? -1 : REAL(name)(path, flags, mode); }
OPENING(open)
OPENING(open64)
#define OPENING_AT(name) int name(int at, const char *path, int flags, ...) { MODE(flags) \
    return hit(OPEN, path) ? -1 : REAL(name)(at, path, flags, mode); }
OPENING_AT(openat)
OPENING_AT(openat64)

#define LOOKING(name, type) int name(const char *path, struct type *found) { \
    return hit(STAT, path) ? -1 : REAL(name)(path, found); }
LOOKING(stat, stat)
LOOKING(stat64, stat64)
LOOKING(lstat, stat)
LOOKING(lstat64, stat64)
#define LOOKING_AT(name, type) int name(int at, const char *path, struct type *found, int flags) { \
    return hit(STAT, path) ? -1 : REAL(name)(at, path, found, flags); }
LOOKING_AT(fstatat, stat)
LOOKING_AT(fstatat64, stat64)
#define LOOKING_OPEN(name, type) int name(int descriptor, struct type *found) { \
    return hit_open(STAT, descriptor) ? -1 : REAL(name)(descriptor, found); }
LOOKING_OPEN(fstat, stat)
LOOKING_OPEN(fstat64, stat64)
int statx(int at, const char *restrict path, int flags, unsigned mask, struct statx *restrict found) {
    return hit(STAT, path) ? -1 : REAL(statx)(at, path, flags, mask, found);
}

ssize_t read(int descriptor, void *data, size_t size) {
    return hit_open(READ, descriptor) ? -1 : REAL(read)(descriptor, data, size);
}
ssize_t pread(int descriptor, void *data, size_t size, off_t offset) {
    return hit_open(READ, descriptor) ? -1 : REAL(pread)(descriptor, data, size, offset);
}
ssize_t pread64(int descriptor, void *data, size_t size, off64_t offset) {
    return hit_open(READ, descriptor) ? -1 : REAL(pread64)(descriptor, data, size, offset);
}
ssize_t write(int descriptor, const void *data, size_t size) {
    return hit_open(WRITE, descriptor) ? -1 : REAL(write)(descriptor, data, size);
}

DIR *opendir(const char *path) { return hit(LIST, path) ? NULL : REAL(opendir)(path); }
struct dirent *readdir(DIR *listing) {
    return hit_open(LIST, dirfd(listing)) ? NULL : REAL(readdir)(listing);
}
struct dirent64 *readdir64(DIR *listing) {
    return hit_open(LIST, dirfd(listing)) ? NULL : REAL(readdir64)(listing);
}

int rename(const char *old, const char *new) { return hit(RENAME, old) ? -1 : REAL(rename)(old, new); }
int renameat(int from, const char *old, int to, const char *new) {
    return hit(RENAME, old) ? -1 : REAL(renameat)(from, old, to, new);
}
int link(const char *old, const char *new) { return hit(LINK, old) ? -1 : REAL(link)(old, new); }
int linkat(int from, const char *old, int to, const char *new, int flags) {
    return hit(LINK, old) ? -1 : REAL(linkat)(from, old, to, new, flags);
}
int unlink(const char *path) { return hit(UNLINK, path) ? -1 : REAL(unlink)(path); }
int unlinkat(int at, const char *path, int flags) { return hit(UNLINK, path) ? -1 : REAL(unlinkat)(at, path, flags); }
int fsync(int descriptor) { return hit_open(FSYNC, descriptor) ? -1 : REAL(fsync)(descriptor); }
