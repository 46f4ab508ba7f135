/* Makes file operations fail or stall, for soak.py: gcc -shared -fPIC -O2 -o faults.so faults.c, then LD_PRELOAD.

   Only paths below FAULTS_FOLDER are affected. FAULTS_KIND is one of
     eio    each operation fails with EIO, with probability FAULTS_CHANCE
     lost   every operation fails with EIO, from operation FAULTS_AFTER on
     full   what needs space fails with ENOSPC, from operation FAULTS_AFTER on; before the first failure, half is written
     short  a write of several bytes writes only half, with probability FAULTS_CHANCE, which POSIX permits
     slow   each operation takes up to 100 ms longer, with probability FAULTS_CHANCE
   FAULTS_SEED seeds the choice. Each fault appends a line "KIND OPERATION PATH" to FAULTS_LOG.

   Not covered: memory-mapped files, and calls that libc makes to itself (buffered writes of stdio). */

#define _GNU_SOURCE
#include <dirent.h>
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { NONE, EIO_, LOST, FULL, SHORT, SLOW };
static const char *const KINDS[] = {"", "eio", "lost", "full", "short", "slow"};

static struct {
  enum kind kind;
  char folder[PATH_MAX], log[PATH_MAX];
  double chance;
  uint64_t seed, after;
} options;
static atomic_uint_fast64_t operations;
static atomic_int filled;

static const char *option(const char *name) {
  const char *value = getenv(name);
  return value ? value : "";
}

__attribute__((constructor)) static void start(void) {
  for (int i = 1; i <= SLOW; i++)
    if (!strcmp(option("FAULTS_KIND"), KINDS[i])) options.kind = i;
  snprintf(options.folder, PATH_MAX, "%s/", option("FAULTS_FOLDER"));
  snprintf(options.log, PATH_MAX, "%s", option("FAULTS_LOG"));
  options.chance = atof(option("FAULTS_CHANCE"));
  options.seed = strtoull(option("FAULTS_SEED"), NULL, 10);
  options.after = strtoull(option("FAULTS_AFTER"), NULL, 10);
}

static double draw(uint64_t number) { /* splitmix64, in [0, 1) */
  uint64_t z = options.seed * 0xD1342543DE82EF95ull + number * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

/* The log must survive a SIGKILL right after, and must not pass through the functions below. */
static void record(const char *operation, const char *path) {
  char line[PATH_MAX + 64];
  int size = snprintf(line, sizeof line, "%s %s %s\n", KINDS[options.kind], operation, path);
  int file = syscall(SYS_openat, AT_FDCWD, options.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) return;
  syscall(SYS_write, file, line, (size_t)size);
  syscall(SYS_close, file);
}

static int below(const char *path) { return !strncmp(path, options.folder, strlen(options.folder)); }

/* Whether `path`, relative to the folder `at`, is affected; `full` receives it as an absolute path. */
static int affected(int at, const char *path, char *full) {
  if (options.kind == NONE || !path) return 0;
  if (path[0] == '/') {
    snprintf(full, PATH_MAX, "%s", path);
  } else {
    char link[64], base[PATH_MAX];
    if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
    if (size < 0) return 0;
    base[size] = 0;
    if (snprintf(full, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
  }
  return below(full);
}

static int affected_file(int file, char *full) {
  if (options.kind == NONE) return 0;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  long size = syscall(SYS_readlinkat, AT_FDCWD, link, full, PATH_MAX - 1);
  if (size < 0) return 0;
  full[size] = 0;
  return below(full);
}

/* 0, or the errno of a fault in this operation. `space`: whether it needs free space. */
static int fault(const char *operation, const char *path, int space) {
  uint64_t number = atomic_fetch_add(&operations, 1);
  int error = 0;
  switch (options.kind) {
    case EIO_: error = draw(number) < options.chance ? EIO : 0; break;
    case LOST: error = number >= options.after ? EIO : 0; break;
    case FULL: error = space && number >= options.after ? ENOSPC : 0; break;
    case SLOW:
      if (draw(number) < options.chance) {
        struct timespec pause = {0, (long)(1e8 * draw(~number))};
        record(operation, path);
        nanosleep(&pause, NULL);
      }
      break;
    default: break;
  }
  if (error) record(operation, path);
  return error;
}

/* Bytes to write instead of `size`: half, in a write that is cut short. */
static size_t shortened(const char *path, size_t size) {
  if (size < 2) return size;
  int half = options.kind == SHORT && draw(atomic_fetch_add(&operations, 1)) < options.chance;
  if (options.kind == FULL && atomic_load(&operations) >= options.after) half = !atomic_exchange(&filled, 1);
  if (half) record("half a write", path);
  return half ? size / 2 : size;
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAIL(operation, space, failed) \
  do { \
    int error = fault(operation, path_, space); \
    if (error) { \
      errno = error; \
      return failed; \
    } \
  } while (0)

/* Calls by path. */
#define BY_PATH(result, name, parameters, arguments, at, path, operation, space, failed) \
  result name parameters { \
    REAL(name); \
    char path_[PATH_MAX]; \
    if (affected(at, path, path_)) FAIL(operation, space, failed); \
    return real arguments; \
  }
BY_PATH(int, rename, (const char *a, const char *b), (a, b), AT_FDCWD, b, "rename", 0, -1)
BY_PATH(int, renameat, (int i, const char *a, int j, const char *b), (i, a, j, b), j, b, "rename", 0, -1)
BY_PATH(int, link, (const char *a, const char *b), (a, b), AT_FDCWD, b, "link", 1, -1)
BY_PATH(int, linkat, (int i, const char *a, int j, const char *b, int f), (i, a, j, b, f), j, b, "link", 1, -1)
BY_PATH(int, mkdir, (const char *a, mode_t m), (a, m), AT_FDCWD, a, "mkdir", 1, -1)
BY_PATH(int, mkdirat, (int i, const char *a, mode_t m), (i, a, m), i, a, "mkdir", 1, -1)
BY_PATH(int, unlink, (const char *a), (a), AT_FDCWD, a, "unlink", 0, -1)
BY_PATH(int, unlinkat, (int i, const char *a, int f), (i, a, f), i, a, "unlink", 0, -1)
BY_PATH(int, rmdir, (const char *a), (a), AT_FDCWD, a, "rmdir", 0, -1)
BY_PATH(DIR *, opendir, (const char *a), (a), AT_FDCWD, a, "list", 0, NULL)
BY_PATH(int, stat, (const char *a, struct stat *s), (a, s), AT_FDCWD, a, "stat", 0, -1)
BY_PATH(int, stat64, (const char *a, struct stat64 *s), (a, s), AT_FDCWD, a, "stat", 0, -1)
BY_PATH(int, lstat, (const char *a, struct stat *s), (a, s), AT_FDCWD, a, "stat", 0, -1)
BY_PATH(int, lstat64, (const char *a, struct stat64 *s), (a, s), AT_FDCWD, a, "stat", 0, -1)

#define OPEN(name, parameters, at, call) \
  int name parameters { \
    REAL(name); \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
      va_list list; \
      va_start(list, flags); \
      mode = va_arg(list, mode_t); \
      va_end(list); \
    } \
    char path_[PATH_MAX]; \
    if (affected(at, path, path_)) FAIL("open", (flags & O_CREAT) != 0, -1); \
    return real call; \
  }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), at, (at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), at, (at, path, flags, mode))

/* Calls by descriptor. */
#define BY_FILE(result, name, parameters, arguments, operation, space) \
  result name parameters { \
    REAL(name); \
    char path_[PATH_MAX]; \
    if (affected_file(file, path_)) FAIL(operation, space, -1); \
    return real arguments; \
  }
BY_FILE(ssize_t, read, (int file, void *b, size_t n), (file, b, n), "read", 0)
BY_FILE(ssize_t, readv, (int file, const struct iovec *v, int n), (file, v, n), "read", 0)
BY_FILE(ssize_t, pread, (int file, void *b, size_t n, off_t o), (file, b, n, o), "read", 0)
BY_FILE(ssize_t, pread64, (int file, void *b, size_t n, off64_t o), (file, b, n, o), "read", 0)
BY_FILE(ssize_t, writev, (int file, const struct iovec *v, int n), (file, v, n), "write", 1)
BY_FILE(int, fsync, (int file), (file), "fsync", 1)
BY_FILE(int, fdatasync, (int file), (file), "fsync", 1)
BY_FILE(int, ftruncate, (int file, off_t n), (file, n), "truncate", 0)
BY_FILE(int, ftruncate64, (int file, off64_t n), (file, n), "truncate", 0)

#define WRITE(name, parameters, arguments) \
  ssize_t name parameters { \
    REAL(name); \
    char path_[PATH_MAX]; \
    if (affected_file(file, path_)) { \
      size_t whole = n; \
      n = shortened(path_, n); \
      if (n == whole) FAIL("write", 1, -1); \
    } \
    return real arguments; \
  }
WRITE(write, (int file, const void *b, size_t n), (file, b, n))
WRITE(pwrite, (int file, const void *b, size_t n, off_t o), (file, b, n, o))
WRITE(pwrite64, (int file, const void *b, size_t n, off64_t o), (file, b, n, o))
