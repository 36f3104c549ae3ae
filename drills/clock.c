/* A wall clock that is wrong: CLOCK_OFFSET seconds off, and after CLOCK_AFTER seconds of the process CLOCK_JUMP more.
   Only the time of day: the monotonic clock stays, as it does on a machine whose clock is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static int (*real)(clockid_t, struct timespec *);
static long offset, after, jump;
static struct timespec begun;

__attribute__((constructor)) static void begin(void) {
    const char *a = getenv("CLOCK_OFFSET"), *b = getenv("CLOCK_AFTER"), *c = getenv("CLOCK_JUMP");
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    offset = a ? atol(a) : 0, after = b ? atol(b) : 0, jump = c ? atol(c) : 0;
    real(CLOCK_MONOTONIC, &begun);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    if (!real) begin();
    int failed = real(id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        struct timespec passed;
        real(CLOCK_MONOTONIC, &passed);
        now->tv_sec += offset + (passed.tv_sec - begun.tv_sec >= after ? jump : 0);
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec, now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
