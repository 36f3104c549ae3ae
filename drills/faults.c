/* LD_PRELOAD shim: the file system of a bad day, for the folders in EVAR_FAULT_FOLDERS (absolute, separated by ':').
 *
 * EVAR_FAULTS names a file of int64 that is mapped and shared by all processes of a command, so that the counters can be
 * read afterwards; its slots are in drills/faults.py. A call "needs the disk" when a full disk may refuse it: data, names,
 * sizes, time stamps, flushing. Linux, glibc. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CALLS, BYTES, INJECTED, DELAYED, SHORTENED, MAPPED, STALE,         /* counted here */
       AT_CALL, AFTER_BYTES, ERRNO, SPAN, REMOVING, DELAY_US, SHORT_EVERY, FLOCK_ERRNO, STALE_MS, SLOTS };

static _Atomic int64_t *slot;
static char folders[16][PATH_MAX];
static int n_folders;

__attribute__((constructor)) static void begin(void) {
    const char *control = getenv("EVAR_FAULTS"), *list = getenv("EVAR_FAULT_FOLDERS");
    if (!control || !list) return;
    int fd = syscall(SYS_openat, AT_FDCWD, control, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *page = (void *)syscall(SYS_mmap, NULL, SLOTS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (page == MAP_FAILED) return;
    for (const char *p = list; *p && n_folders < 16;) {
        size_t n = strcspn(p, ":");
        if (n && n < PATH_MAX) { memcpy(folders[n_folders], p, n); folders[n_folders++][n] = 0; }
        p += n + (p[n] == ':');
    }
    slot = page;
}

static int is_ours(const char *path) {
    for (int i = 0; i < n_folders; i++) {
        size_t n = strlen(folders[i]);
        if (!strncmp(path, folders[i], n) && (path[n] == '/' || !path[n])) return 1;
    }
    return 0;
}

static int of_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!slot || fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return is_ours(path);
}

static int of_path(int dir, const char *name) {
    char link[64], path[2 * PATH_MAX];
    if (!slot || !name) return 0;
    if (name[0] == '/') return is_ours(name);
    ssize_t n;
    if (dir == AT_FDCWD) n = syscall(SYS_getcwd, path, PATH_MAX) - 1;
    else { snprintf(link, sizeof link, "/proc/self/fd/%d", dir); n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX); }
    if (n <= 0) return 0;
    snprintf(path + n, sizeof path - n, "/%s", name);
    return is_ours(path);
}

static void forget(void);

static void wait_a_little(void) {
    int64_t most = slot[DELAY_US];
    if (most <= 0) return;
    static _Atomic uint64_t seed = 88172645463325252ull; /* xorshift: reproducible for one thread, random enough for more */
    uint64_t x = seed;
    x ^= x << 13; x ^= x >> 7; x ^= x << 17; seed = x;
    int64_t us = x % most;
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
    slot[DELAYED]++;
}

static int failed(void) { slot[INJECTED]++; errno = slot[ERRNO]; return 1; }

/* One call that needs the disk; 1 with errno set when it is to fail. */
static int fails(void) {
    forget();
    int64_t n = ++slot[CALLS], at = slot[AT_CALL], span = slot[SPAN];
    if (at > 0 && n >= at && (span <= 0 || n < at + span)) return failed();
    if (slot[AFTER_BYTES] >= 0 && slot[BYTES] >= slot[AFTER_BYTES]) return failed();
    return 0;
}

/* How many of `n` bytes are let through: fewer where the disk ends, or on a slow day; -1 with errno when none. */
static ssize_t let_through(size_t n) {
    if (fails()) return -1;
    int64_t every = slot[SHORT_EVERY], room = slot[AFTER_BYTES] >= 0 ? slot[AFTER_BYTES] - slot[BYTES] : INT64_MAX;
    if (every > 0 && n > 1 && slot[CALLS] % every == 0) { n = n / 2; slot[SHORTENED]++; }
    if ((int64_t)n > room) n = room;
    slot[BYTES] += n;
    return n;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define BY_FD(fd) do { if (of_fd(fd)) { wait_a_little(); if (fails()) return -1; } } while (0)
#define BY_PATH(dir, path) do { if (of_path(dir, path)) { wait_a_little(); if (fails()) return -1; } } while (0)
#define REMOVES(dir, path) do { if (of_path(dir, path)) { wait_a_little(); forget(); if (slot[REMOVING] && fails()) return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(write);
    if (of_fd(fd)) { ssize_t m = let_through(n); if (m < 0) return -1; n = m; }
    return real(fd, data, n);
}
#define PWRITE(name, off) ssize_t name(int fd, const void *data, size_t n, off at) { REAL(name); \
    if (of_fd(fd)) { ssize_t m = let_through(n); if (m < 0) return -1; n = m; } return real(fd, data, n, at); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (!of_fd(fd)) return real(fd, parts, count);
    for (int i = 0; i < count; i++) if (parts[i].iov_len) return write(fd, parts[i].iov_base, parts[i].iov_len); /* short */
    return 0;
}
#define SENDFILE(name, off) ssize_t name(int out, int in, off *at, size_t n) { REAL(name); \
    if (of_fd(out)) { ssize_t m = let_through(n); if (m < 0) return -1; n = m; } return real(out, in, at, n); }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags) {
    REAL(copy_file_range);
    if (of_fd(out)) { ssize_t m = let_through(n); if (m < 0) return -1; n = m; }
    return real(in, from, out, to, n, flags);
}

#define OPENS(dir, path, flags) do { if (of_path(dir, path)) { wait_a_little(); forget(); \
    int makes = (flags & O_CREAT) && syscall(SYS_faccessat, dir, path, F_OK) != 0; \
    int writes = (flags & O_ACCMODE) != O_RDONLY || makes; \
    if ((makes || (slot[REMOVING] && writes)) && fails()) return -1; } } while (0)
#define MODE mode_t mode = 0; if (flags & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); }
int open(const char *path, int flags, ...) { REAL(open); MODE OPENS(AT_FDCWD, path, flags); return real(path, flags, mode); }
int open64(const char *path, int flags, ...) { REAL(open64); MODE OPENS(AT_FDCWD, path, flags); return real(path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { REAL(openat); MODE OPENS(dir, path, flags); return real(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { REAL(openat64); MODE OPENS(dir, path, flags); return real(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
static int fopen_flags(const char *mode) {
    return mode[0] == 'r' ? (strchr(mode, '+') ? O_RDWR : O_RDONLY) : O_WRONLY | O_CREAT;
}
static int refuses(const char *path, int flags) { OPENS(AT_FDCWD, path, flags); return 0; }
FILE *fopen(const char *path, const char *mode) { REAL(fopen); return refuses(path, fopen_flags(mode)) ? NULL : real(path, mode); }
FILE *fopen64(const char *path, const char *mode) { REAL(fopen64); return refuses(path, fopen_flags(mode)) ? NULL : real(path, mode); }

/* A sparse file may grow on a full disk, and shrink on any; only with REMOVING (read-only) are these refused. */
#define GROWS(name, off) int name(int fd, off n) { REAL(name); if (of_fd(fd)) { wait_a_little(); if (slot[REMOVING] && fails()) return -1; } return real(fd, n); }
GROWS(ftruncate, off_t)
GROWS(ftruncate64, off64_t)
int truncate(const char *path, off_t n) { REAL(truncate); REMOVES(AT_FDCWD, path); return real(path, n); }
int truncate64(const char *path, off64_t n) { REAL(truncate64); REMOVES(AT_FDCWD, path); return real(path, n); }
#define ALLOCATES(name, off) int name(int fd, off at, off n) { REAL(name); \
    if (of_fd(fd)) { wait_a_little(); if (fails()) return errno; } return real(fd, at, n); }
ALLOCATES(posix_fallocate, off_t)
ALLOCATES(posix_fallocate64, off64_t)
int fallocate(int fd, int mode, off_t at, off_t n) { REAL(fallocate); BY_FD(fd); return real(fd, mode, at, n); }
int fallocate64(int fd, int mode, off64_t at, off64_t n) { REAL(fallocate64); BY_FD(fd); return real(fd, mode, at, n); }
int access(const char *path, int how) {
    REAL(access);
    if ((how & W_OK) && of_path(AT_FDCWD, path) && slot[REMOVING] && fails()) return -1;
    return real(path, how);
}
int fsync(int fd) { REAL(fsync); BY_FD(fd); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); BY_FD(fd); return real(fd); }

int rename(const char *from, const char *to) { REAL(rename); BY_PATH(AT_FDCWD, to); return real(from, to); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); BY_PATH(b, to); return real(a, from, b, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned f) { REAL(renameat2); BY_PATH(b, to); return real(a, from, b, to, f); }
int link(const char *from, const char *to) { REAL(link); BY_PATH(AT_FDCWD, to); return real(from, to); }
int linkat(int a, const char *from, int b, const char *to, int f) { REAL(linkat); BY_PATH(b, to); return real(a, from, b, to, f); }
int symlink(const char *from, const char *to) { REAL(symlink); BY_PATH(AT_FDCWD, to); return real(from, to); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); if (syscall(SYS_faccessat, AT_FDCWD, path, F_OK)) BY_PATH(AT_FDCWD, path); return real(path, mode); }
int mkdirat(int dir, const char *path, mode_t mode) { REAL(mkdirat); if (syscall(SYS_faccessat, dir, path, F_OK)) BY_PATH(dir, path); return real(dir, path, mode); }
int utimensat(int dir, const char *path, const struct timespec t[2], int f) { REAL(utimensat); BY_PATH(dir, path); return real(dir, path, t, f); }
int futimens(int fd, const struct timespec t[2]) { REAL(futimens); BY_FD(fd); return real(fd, t); }
int unlink(const char *path) { REAL(unlink); REMOVES(AT_FDCWD, path); return real(path); }
int unlinkat(int dir, const char *path, int f) { REAL(unlinkat); REMOVES(dir, path); return real(dir, path, f); }
int rmdir(const char *path) { REAL(rmdir); REMOVES(AT_FDCWD, path); return real(path); }

/* What a network client remembers of a file for STALE_MS: stat by name answers from there, until this process opens the
 * file, changes anything, or takes a lock (close-to-open consistency of NFS). */
static struct { char path[256]; struct timespec at; int answer, error; struct stat s; } known[512];
static _Atomic int busy;
static void enter(void) { while (atomic_exchange(&busy, 1)) {} }
static void forget(void) { if (slot && slot[STALE_MS]) { enter(); memset(known, 0, sizeof known); busy = 0; } }
static int remembered(const char *path, struct stat *s, int *answer) {
    struct timespec now; clock_gettime(CLOCK_MONOTONIC, &now);
    uint32_t h = 5381; for (const char *p = path; *p; p++) h = h * 33 + *p;
    enter();
    __typeof__(&known[0]) k = &known[h % 512];
    double age = (now.tv_sec - k->at.tv_sec) * 1e3 + (now.tv_nsec - k->at.tv_nsec) / 1e6;
    int hit = !strncmp(k->path, path, sizeof k->path) && age < slot[STALE_MS];
    if (hit) { *s = k->s; *answer = k->answer; errno = k->error; slot[STALE]++; }
    busy = 0;
    return hit;
}
static void remember(const char *path, const struct stat *s, int answer) {
    uint32_t h = 5381; for (const char *p = path; *p; p++) h = h * 33 + *p;
    if (strlen(path) >= sizeof known[0].path) return;
    int error = errno;
    enter();
    __typeof__(&known[0]) k = &known[h % 512];
    strcpy(k->path, path); clock_gettime(CLOCK_MONOTONIC, &k->at); k->answer = answer; k->error = error; k->s = *s;
    busy = 0;
    errno = error;
}
#define STATS(name, type) int name(const char *restrict path, struct type *restrict s) { REAL(name); \
    if (!of_path(AT_FDCWD, path)) return real(path, s); \
    wait_a_little(); \
    int answer; \
    if (!slot[STALE_MS]) return real(path, s); \
    if (remembered(path, (struct stat *)s, &answer)) return answer; \
    answer = real(path, s); remember(path, (struct stat *)s, answer); return answer; }
STATS(stat, stat)
STATS(stat64, stat64)
STATS(lstat, stat)
STATS(lstat64, stat64)

int flock(int fd, int how) {
    REAL(flock);
    if (of_fd(fd)) {
        wait_a_little();
        forget();
        if (slot[FLOCK_ERRNO]) { slot[INJECTED]++; errno = slot[FLOCK_ERRNO]; return -1; }
    }
    return real(fd, how);
}

/* Writing through a map dies of SIGBUS where the disk is full: it is counted, and must not happen. */
#define MAPS(name, off) void *name(void *at, size_t n, int prot, int flags, int fd, off from) { REAL(name); \
    if ((prot & PROT_WRITE) && (flags & MAP_SHARED) && of_fd(fd)) slot[MAPPED]++; \
    return real(at, n, prot, flags, fd, from); }
MAPS(mmap, off_t)
MAPS(mmap64, off64_t)
