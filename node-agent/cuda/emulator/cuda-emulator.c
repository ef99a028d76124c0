/*
 * A CUDA driver without a card: the driver API functions that kvtier calls, under the names and with the calling rules of libcuda.so.1, and
 * with what a card would do to who misuses them. For tests and for trying kvtier on a laptop; its speed says nothing about a card.
 * Signatures after NVIDIA's CUDA Driver API reference (Initialization, Device, Primary Context, Memory, Stream, Event management).
 *
 * What lives where
 *   shared file   One "machine": options, devices, allocations, the bytes of device memory, counters, injected errors. Every process (and
 *                 every copy of this library in one process) that opens the same file sees the same devices. Path: kvtierEmuStart, else
 *                 the environment variable KVTIER_CUDA_EMULATOR, else one a user. Offsets below 2^63 are handed out once and never again;
 *                 freed ranges become holes, so that the file holds no more than what is allocated and written.
 *   this process  Contexts, streams, events, registrations, and its view of device addresses: a PROT_NONE reservation, so that the host
 *                 faults when it dereferences one. Addresses are never handed out twice and differ from process to process. The bytes are
 *                 mapped nowhere: the copy thread moves them with pread and pwrite, which also survive host memory that is gone.
 *   this thread   The current context.
 *
 * Calling rules
 *   CUdeviceptr is 64 bits wide; handles are pointers in C, here tagged numbers below 2^47 that are never dereferenced.
 *   cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned flags) takes its 64 bytes by value.
 *     x86-64, System V: a struct of more than 16 bytes goes to the stack as eight 8-byte words, in order, and uses up no register. So pdptr
 *       is in rdi and flags, though behind it in the declaration, in rsi. A caller without structs passes (pdptr, flags, four dummies for
 *       rdx, rcx, r8 and r9, then the eight words).
 *     aarch64, AAPCS64: a struct of more than 16 bytes goes by reference to a copy. So (pdptr, address of the 64 bytes, flags).
 *
 * Copies
 *   End late, on the copy thread, in order within one stream and in seeded random order across streams. Source and target are touched twice:
 *   when a copy begins its target is overwritten with rubbish (option poison), when it ends the bytes are moved. Host memory is watched by
 *   checksum (option check) between submission and end. With option manual=1 a copy ends when kvtierEmuStep says so and not before.
 *   A call that waits in a driver (synchronize, free, unregister) waits here as well, and is counted.
 *
 * What is punished
 *   "violations": what a driver answers with an error or with ruin. Counted by kind and kept as text, whatever the answer was.
 *   "lint": legal, but slow or risky. Counted by kind.
 *   "leaks": what was alive when its context was destroyed in good health; the report also says what is alive now, by process.
 *
 * Invariants
 *   - A lock is held by nobody while bytes move; `local_lock` is taken before the lock of the shared file.
 *   - Only the copy thread begins and ends copies, and an operation leaves its stream only when it is done.
 *   - Bytes used on a device = contexts + allocations that are alive or still open elsewhere, each rounded up.
 *   - An allocation's range in the file is a hole once nobody has it; a dead process' allocations are taken back by the next who looks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define KIB 1024ull
#define MIB (1024ull * KIB)

/* ---- Results, and the words for them ---------------------------------------------------------------------------------------------- */

#define RESULTS(X)                                                                                                                       \
  X(0, CUDA_SUCCESS, "no error")                                                                                                         \
  X(1, CUDA_ERROR_INVALID_VALUE, "invalid argument")                                                                                     \
  X(2, CUDA_ERROR_OUT_OF_MEMORY, "out of memory")                                                                                        \
  X(3, CUDA_ERROR_NOT_INITIALIZED, "initialization error")                                                                               \
  X(4, CUDA_ERROR_DEINITIALIZED, "driver shutting down")                                                                                 \
  X(34, CUDA_ERROR_STUB_LIBRARY, "CUDA driver is a stub library")                                                                        \
  X(46, CUDA_ERROR_DEVICE_UNAVAILABLE, "device is busy or unavailable")                                                                  \
  X(100, CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")                                                                     \
  X(101, CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal")                                                                            \
  X(201, CUDA_ERROR_INVALID_CONTEXT, "invalid device context")                                                                           \
  X(205, CUDA_ERROR_MAP_FAILED, "mapping of buffer object failed")                                                                       \
  X(208, CUDA_ERROR_ALREADY_MAPPED, "resource already mapped")                                                                           \
  X(214, CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered")                                                            \
  X(217, CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "peer access is not supported between these two devices")                                   \
  X(400, CUDA_ERROR_INVALID_HANDLE, "invalid resource handle")                                                                           \
  X(401, CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state")                                             \
  X(500, CUDA_ERROR_NOT_FOUND, "named symbol not found")                                                                                 \
  X(600, CUDA_ERROR_NOT_READY, "device not ready")                                                                                       \
  X(700, CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")                                                         \
  X(702, CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated")                                                           \
  X(709, CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed")                                                                        \
  X(710, CUDA_ERROR_ASSERT, "device-side assert triggered")                                                                              \
  X(712, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "part or all of the requested memory range is already mapped")                       \
  X(713, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region")                             \
  X(714, CUDA_ERROR_HARDWARE_STACK_ERROR, "hardware stack error")                                                                        \
  X(715, CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered")                                                       \
  X(716, CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address")                                                                            \
  X(717, CUDA_ERROR_INVALID_ADDRESS_SPACE, "operation not supported on global or shared address space")                                  \
  X(718, CUDA_ERROR_INVALID_PC, "invalid program counter")                                                                               \
  X(719, CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure")                                                                         \
  X(800, CUDA_ERROR_NOT_PERMITTED, "operation not permitted")                                                                            \
  X(801, CUDA_ERROR_NOT_SUPPORTED, "operation not supported")                                                                            \
  X(802, CUDA_ERROR_SYSTEM_NOT_READY, "system not yet initialized")                                                                      \
  X(803, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "system has unsupported display driver and CUDA driver combination")                         \
  X(804, CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, "forward compatibility was attempted on non supported hardware")                     \
  X(999, CUDA_ERROR_UNKNOWN, "unknown error")

enum {
#define X(code, name, text) name = code,
  RESULTS(X)
#undef X
};

static const struct {
  int code;
  const char *name, *text;
} results[] = {
#define X(code, name, text) {code, #name, text},
    RESULTS(X)
#undef X
};

/** After one of these a context answers every call with it, until it is released by all. */
static int is_sticky(int code) { return code == 214 || code == 700 || code == 702 || code == 710 || (code >= 714 && code <= 719); }

/* ---- What is counted -------------------------------------------------------------------------------------------------------------- */

#define FUNCTIONS(X)                                                                                                                     \
  X(cuInit) X(cuDriverGetVersion) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceGetUuid) X(cuDeviceGetUuid_v2)         \
  X(cuDeviceGetPCIBusId) X(cuDeviceTotalMem_v2) X(cuDeviceGetAttribute) X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease_v2)      \
  X(cuDevicePrimaryCtxGetState) X(cuCtxSetCurrent) X(cuCtxGetCurrent) X(cuCtxSynchronize) X(cuMemGetInfo_v2) X(cuMemAlloc_v2)            \
  X(cuMemFree_v2) X(cuMemHostRegister_v2) X(cuMemHostUnregister) X(cuStreamCreate) X(cuStreamDestroy_v2) X(cuStreamQuery)                \
  X(cuStreamWaitEvent) X(cuEventCreate) X(cuEventDestroy_v2) X(cuEventRecord) X(cuEventQuery) X(cuEventElapsedTime)                      \
  X(cuMemcpyHtoDAsync_v2) X(cuMemcpyDtoHAsync_v2) X(cuMemcpyDtoDAsync_v2) X(cuMemcpyBatchAsync) X(cuMemsetD8Async) X(cuIpcGetMemHandle)   \
  X(cuIpcOpenMemHandle_v2) X(cuIpcCloseMemHandle) X(cuGetErrorName) X(cuGetErrorString)

enum {
#define X(name) F_##name,
  FUNCTIONS(X)
#undef X
  FUNCTION_COUNT
};
static const char *const function_names[] = {
#define X(name) #name,
    FUNCTIONS(X)
#undef X
};

#define VIOLATIONS(X)                                                                                                                    \
  X(NO_CONTEXT, "no-context")                      /* a call without a current context */                                              \
  X(DESTROYED_CONTEXT, "destroyed-context")        /* the current context is no more */                                                \
  X(BAD_HANDLE, "bad-handle")                      /* a stream or event that is not, or is of another context */                       \
  X(USE_AFTER_FREE, "use-after-free")              /* a copy to or from memory that was freed */                                       \
  X(DOUBLE_FREE, "double-free")                    /* memory freed or closed twice */                                                  \
  X(BAD_POINTER, "bad-pointer")                    /* a host address where a device address belongs, or the other way round */         \
  X(OUT_OF_BOUNDS, "out-of-bounds")                /* a copy over the end of an allocation */                                          \
  X(SOURCE_CHANGED, "source-changed")              /* host source written between submission and end */                                \
  X(TARGET_CHANGED, "target-changed")              /* host target written between begin and end */                                     \
  X(HOST_UNMAPPED, "host-unmapped")                /* host memory unmapped before the copy ended */                                    \
  X(UNREGISTERED_IN_FLIGHT, "unregistered-in-flight")                                                                                  \
  X(FREED_IN_FLIGHT, "freed-in-flight")            /* device memory freed while a copy on it was in flight: waits, but why take it */  \
  X(OWN_HANDLE, "own-handle")                      /* a handle opened in the process that exported it */                               \
  X(WRONG_FREE, "wrong-free")                      /* cuMemFree of imported memory, or close of memory of one's own */                 \
  X(FREED_WHILE_OPEN, "freed-while-open")          /* exported memory freed while another process has it open */                       \
  X(OVER_RELEASE, "over-release")                  /* a context released more often than retained */                                   \
  X(RACE, "race")                                  /* two copies at work on the same bytes, one of them writing */                     \
  X(NOT_INITIALIZED, "not-initialized")

#define LINTS(X)                                                                                                                         \
  X(PAGEABLE_COPY, "pageable-copy")                /* an async copy of host memory that is not registered */                           \
  X(SYNC_IN_FLIGHT, "sync-in-flight")              /* a call that waits for the device while copies are in flight */                   \
  X(ALLOC_IN_FLIGHT, "alloc-in-flight")            /* cuMemAlloc while copies are in flight: may wait */                               \
  X(SECOND_THREAD_CONTEXT, "second-thread-context") /* a context made or retained by another thread than the first that made one */    \
  X(DEFAULT_STREAM, "default-stream")              /* work on the default stream, which waits for all others */                        \
  X(UNALIGNED_REGISTRATION, "unaligned-registration")                                                                                  \
  X(OTHER_DEVICE, "other-device")                  /* a copy to memory of another device than the current context's */

#define THINGS(X) X(CONTEXTS, "contexts") X(ALLOCATIONS, "allocations") X(IMPORTS, "imports") X(STREAMS, "streams") X(EVENTS, "events")   \
  X(REGISTRATIONS, "registrations")

enum {
#define X(id, name) V_##id,
  VIOLATIONS(X)
#undef X
  VIOLATION_COUNT
};
enum {
#define X(id, name) L_##id,
  LINTS(X)
#undef X
  LINT_COUNT
};
enum {
#define X(id, name) T_##id,
  THINGS(X)
#undef X
  THING_COUNT
};
#define X(id, name) name,
static const char *const violation_names[] = {VIOLATIONS(X)};
static const char *const lint_names[] = {LINTS(X)};
static const char *const thing_names[] = {THINGS(X)};
#undef X

/* ---- The shared file -------------------------------------------------------------------------------------------------------------- */

#define MAX_DEVICES 16
#define MAX_PROCESSES 64 /* `opened_by` is a mask of them */
#define MAX_ALLOCATIONS 4096
#define MAX_INJECTIONS 32
#define MAX_TEXTS 64
#define TEXT_BYTES 240
#define MAGIC 0x6b76746965724355ull
#define LAYOUT 1u
/** Device memory starts here; what is before is `struct Shared`. */
#define DATA_OFFSET (4 * MIB)
/** Byte LOCK_OFFSET + slot of the file is locked while the process in that slot lives; process ids mean nothing across containers. */
#define LOCK_OFFSET (1ll << 62)

enum { CHECK_OFF, CHECK_SAMPLE, CHECK_FULL };

struct Options {
  uint64_t devices, capacity, context; /* bytes of a device, and of it what a context takes */
  uint64_t latency_us, jitter_us, bandwidth_mib; /* of one copy; MiB/s of one direction, 0: unlimited */
  uint64_t seed, driver, mig, manual, check, poison, register_us_per_mib, compute; /* compute: 90 is 9.0 */
};

struct Allocation {
  uint64_t id, nonce, bytes, charged, offset; /* id 0: the row is free */
  uint64_t opened_by;                         /* mask of process slots that imported it */
  uint32_t device, owner, freed, reserved;    /* freed: by its owner, kept for those who have it open */
};

struct Process {
  uint32_t used;
  int32_t pid;
  uint64_t live[THING_COUNT];
  uint64_t context_bytes[MAX_DEVICES];
};

struct Injection {
  char name[40]; /* "*": any */
  int32_t code;
  uint32_t times;
  int64_t countdown; /* fires at the call that takes it to 0 */
};

struct Shared {
  uint64_t magic;
  uint32_t layout, bytes;
  pthread_mutex_t lock; /* robust, shared between processes; guards everything that is not a counter */
  struct Options options;
  uint64_t used[MAX_DEVICES];
  int32_t lost[MAX_DEVICES];           /* the sticky code, 0: well */
  int64_t lose_countdown[MAX_DEVICES]; /* copies until the device is lost with lose_code; 0: never */
  int32_t lose_code[MAX_DEVICES];
  uint64_t next_id, file_end;
  struct Process processes[MAX_PROCESSES];
  struct Allocation allocations[MAX_ALLOCATIONS];
  struct Injection injections[MAX_INJECTIONS];
  uint32_t injection_count;
  uint64_t calls[FUNCTION_COUNT], violations[VIOLATION_COUNT], lint[LINT_COUNT];
  uint64_t leaks[THING_COUNT];  /* alive when their context was destroyed */
  uint64_t reaped[THING_COUNT]; /* alive when their process died */
  uint64_t copies, copied_bytes;
  uint64_t text_count; /* the last MAX_TEXTS of them are kept */
  char texts[MAX_TEXTS][TEXT_BYTES];
};

_Static_assert(sizeof(struct Shared) <= DATA_OFFSET, "the head of the shared file has outgrown its place");

/* ---- This process ----------------------------------------------------------------------------------------------------------------- */

#define MAX_STREAMS 1024
#define MAX_EVENTS 65536
#define MAX_REGISTRATIONS 4096
#define MAX_RANGES 16384
#define CHUNK (256 * KIB)

enum { KIND_CONTEXT = 1, KIND_STREAM = 2, KIND_EVENT = 3 };
enum { OP_HTOD, OP_DTOH, OP_DTOD, OP_MEMSET, OP_RECORD, OP_WAIT };

/** One recording of an event: an event points to its last one, operations to the one they were made for. */
struct Record {
  int refs, done;
  uint64_t at_ns;
};

struct Operation {
  struct Operation *next;
  int kind, running, hashed, pinned, device, fault; /* fault: code that it ends with instead of bytes */
  uint8_t value;
  uint64_t sequence, bytes;
  uint64_t from, to; /* addresses as the caller gave them */
  uint64_t from_offset, to_offset; /* in the file, of the sides on a device */
  uint64_t hash, finish_ns;
  struct Record *record;
};

struct Stream {
  uint32_t generation;
  int used, dying, blocking, device;
  struct Operation *head, *tail;
};

struct Event {
  uint32_t generation;
  int used, timing, device;
  struct Record *last;
};

struct Context {
  uint32_t generation, retained;
  int sticky, creator;
  uint64_t in_flight; /* copies and memsets */
  struct Stream legacy;
};

struct Registration {
  uint64_t address, bytes;
  int device, portable, pinned; /* pinned: the call that registers it has returned */
};

/** A range of device addresses. Freed ones stay, so that who uses them again is told so. Sorted, since addresses only grow. */
struct Range {
  uint64_t address, bytes, id, offset;
  int device, imported, alive;
  uint32_t row, opens;
};

static struct {
  int started, stopped, initialized, fd, scratch_fd, slot;
  char path[256], failure[512];
  uint8_t *scratch; /* CHUNK bytes of rubbish, then CHUNK bytes to look at host memory safely */
  uint8_t *bounce;
  uint64_t reserved_at, reserved_bytes, reserved_used;
  uint32_t generation;
  uint64_t sequence, random, step_random, engine_free_ns[MAX_DEVICES][3];
  int first_context_thread;
  struct Context contexts[MAX_DEVICES];
  struct Stream streams[MAX_STREAMS];
  int stream_end;
  struct Event *events;
  int event_end, event_hint;
  struct Registration registrations[MAX_REGISTRATIONS];
  int registration_count;
  struct Range *ranges;
  int range_count;
  pthread_t thread;
  int thread_runs, thread_stops, draining, settled; /* settled: nothing to do since the last step */
  int64_t steps, stepped;
} local;

static struct Shared *shared;
static pthread_mutex_t local_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER; /* for the copy thread */
static pthread_cond_t done = PTHREAD_COND_INITIALIZER; /* for those who wait for it */
static __thread uint64_t current;                      /* handle of this thread's context, 0: none */

static void count(uint64_t *counter) { __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

static uint64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

/** splitmix64 */
static uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15ull;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

static uint64_t random_below(uint64_t limit) {
  local.random = mix(local.random);
  return limit == 0 ? 0 : local.random % limit;
}

static void lock_shared(void) {
  // Its holder died: every change under the lock is a few words, and the worst it leaves is an allocation that nobody owns.
  if (pthread_mutex_lock(&shared->lock) == EOWNERDEAD) pthread_mutex_consistent(&shared->lock);
}
static void unlock_shared(void) { pthread_mutex_unlock(&shared->lock); }

__attribute__((format(printf, 2, 3))) static void violation(int kind, const char *format, ...) {
  char text[TEXT_BYTES];
  int head = snprintf(text, sizeof text, "%s: ", violation_names[kind]);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text + head, sizeof text - (size_t)head, format, arguments);
  va_end(arguments);
  count(&shared->violations[kind]);
  uint64_t at = __atomic_fetch_add(&shared->text_count, 1, __ATOMIC_RELAXED) % MAX_TEXTS;
  memcpy(shared->texts[at], text, TEXT_BYTES);
}

static void lint(int kind) { count(&shared->lint[kind]); }
static void alive(int thing, int64_t change) { __atomic_fetch_add(&shared->processes[local.slot].live[thing], (uint64_t)change, __ATOMIC_RELAXED); }

/* ---- Options ---------------------------------------------------------------------------------------------------------------------- */

static const struct Options default_options = {
    .devices = 1, .capacity = 1024 * MIB, .context = 16 * MIB, .latency_us = 20, .jitter_us = 30, .bandwidth_mib = 0, .seed = 1,
    .driver = 12080, .check = CHECK_FULL, .poison = 1, .compute = 90,
};

/** `devices=2,capacity=64M,check=full`: names of struct Options, numbers with K, M or G, separated by comma or space. 0, or -1 at nonsense. */
static int parse_options(struct Options *options, const char *text) {
  const struct {
    const char *name;
    uint64_t *value, limit;
  } known[] = {
      {"devices", &options->devices, MAX_DEVICES}, {"capacity", &options->capacity, 1ull << 42}, {"context", &options->context, 1ull << 40},
      {"latency_us", &options->latency_us, 60000000}, {"jitter_us", &options->jitter_us, 60000000},
      {"bandwidth_mib", &options->bandwidth_mib, 1ull << 30}, {"seed", &options->seed, UINT64_MAX}, {"driver", &options->driver, 1000000},
      {"mig", &options->mig, 1}, {"manual", &options->manual, 1}, {"check", &options->check, CHECK_FULL}, {"poison", &options->poison, 1},
      {"register_us_per_mib", &options->register_us_per_mib, 60000000}, {"compute", &options->compute, 999},
  };
  const int known_count = sizeof known / sizeof known[0];
  while (*text != 0) {
    size_t length = strcspn(text, ", \n");
    const char *equals = memchr(text, '=', length);
    if (length > 0 && equals == NULL) return -1;
    if (length > 0) {
      int at = 0;
      while (at < known_count && (strlen(known[at].name) != (size_t)(equals - text) || strncmp(known[at].name, text, (size_t)(equals - text)) != 0)) at++;
      if (at == known_count) return -1;
      const char *word = equals + 1, *end = text + length;
      if (known[at].value == &options->check && end - word >= 3 && *word > '9') {
        *known[at].value = *word == 'f' ? CHECK_FULL : *word == 's' ? CHECK_SAMPLE : CHECK_OFF;
      } else {
        char *after;
        if (*word < '0' || *word > '9') return -1;
        uint64_t value = strtoull(word, &after, 10);
        if (after < end && *after == 'K') value *= KIB, after++;
        else if (after < end && *after == 'M') value *= MIB, after++;
        else if (after < end && *after == 'G') value *= 1024 * MIB, after++;
        if (after != end || value > known[at].limit) return -1;
        *known[at].value = value;
      }
    }
    text += length;
    if (*text != 0) text++;
  }
  return 0;
}

/* ---- Joining and leaving the shared file ------------------------------------------------------------------------------------------ */

static int slot_lives(int slot) {
  if (slot == local.slot) return 1;
  struct flock query = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_OFFSET + slot, .l_len = 1};
  return fcntl(local.fd, F_OFD_GETLK, &query) == 0 && query.l_type != F_UNLCK;
}

/** Under the lock. The last one who had it gives its bytes back. */
static void drop_if_unused(struct Allocation *row) {
  if (row->id == 0 || !row->freed || row->opened_by != 0) return;
  fallocate(local.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)row->offset, (off_t)((row->bytes + 4095) & ~4095ull));
  shared->used[row->device] -= row->charged;
  row->id = 0;
}

/** Under the lock. What a process that died held, as a driver takes it back. */
static void reap_dead(void) {
  for (int slot = 0; slot < MAX_PROCESSES; slot++) {
    struct Process *process = &shared->processes[slot];
    if (!process->used || slot_lives(slot)) continue;
    for (int thing = 0; thing < THING_COUNT; thing++) shared->reaped[thing] += process->live[thing];
    for (int device = 0; device < MAX_DEVICES; device++) shared->used[device] -= process->context_bytes[device];
    for (int row = 0; row < MAX_ALLOCATIONS; row++) {
      struct Allocation *allocation = &shared->allocations[row];
      if (allocation->id == 0) continue;
      allocation->opened_by &= ~(1ull << slot);
      if (allocation->owner == (uint32_t)slot) allocation->freed = 1;
      drop_if_unused(allocation);
    }
    memset(process, 0, sizeof *process);
  }
}

static void initialize_shared(const struct Options *options) {
  memset(shared, 0, sizeof *shared);
  pthread_mutexattr_t kind;
  pthread_mutexattr_init(&kind);
  pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&shared->lock, &kind);
  pthread_mutexattr_destroy(&kind);
  shared->options = *options;
  shared->layout = LAYOUT;
  shared->bytes = sizeof *shared;
  shared->next_id = 1;
  shared->file_end = DATA_OFFSET;
  shared->magic = MAGIC;
}

static int fail(const char *what) {
  snprintf(local.failure, sizeof local.failure, "%s %s: %s", what, local.path, strerror(errno));
  if (shared != NULL) munmap(shared, DATA_OFFSET);
  if (local.fd > 0) close(local.fd);
  if (local.scratch_fd > 0) close(local.scratch_fd);
  shared = NULL;
  local.fd = local.scratch_fd = 0;
  return -1;
}

static void choose_path(const char *path) {
  if (path == NULL || *path == 0) path = getenv("KVTIER_CUDA_EMULATOR");
  if (path != NULL && *path != 0) snprintf(local.path, sizeof local.path, "%s", path);
  else snprintf(local.path, sizeof local.path, "%s/kvtier-cuda-emulator-%u", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", getuid());
}

/** Reservation and scratch memory of this process, which stay until it ends. */
static int reserve(void) {
  if (local.bounce != NULL) return 0;
  uint64_t wanted = 16ull << 40;
  void *at = MAP_FAILED;
  while (wanted >= (64ull << 30) && at == MAP_FAILED) {
    at = mmap(NULL, wanted, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) wanted /= 2;
  }
  if (at == MAP_FAILED) return -1;
  madvise(at, wanted, MADV_DONTDUMP);
  local.reserved_at = (uint64_t)at;
  local.reserved_bytes = wanted;
  local.events = calloc(MAX_EVENTS, sizeof *local.events);
  local.ranges = calloc(MAX_RANGES, sizeof *local.ranges);
  local.bounce = malloc(CHUNK);
  return local.events != NULL && local.ranges != NULL && local.bounce != NULL ? 0 : -1;
}

/** Opens the file, makes or cleans the machine in it, takes a process slot. With options: only a machine that nobody else is in. */
static int start(const char *path, const char *option_text) {
  struct Options options = default_options;
  choose_path(path);
  const char *from_environment = getenv("KVTIER_CUDA_EMULATOR_OPTIONS");
  errno = EINVAL;
  if (from_environment != NULL && parse_options(&options, from_environment) != 0) return fail("KVTIER_CUDA_EMULATOR_OPTIONS is not understood, for");
  if (option_text != NULL && parse_options(&options, option_text) != 0) return fail("options are not understood, for");
  if (reserve() != 0) return fail("cannot reserve addresses for");
  local.fd = open(local.path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  struct stat facts;
  if (local.fd < 0 || fstat(local.fd, &facts) != 0) return fail("cannot open");
  errno = EPERM;
  if (facts.st_uid != getuid()) return fail("belongs to another user:");
  if (flock(local.fd, LOCK_EX) != 0) return fail("cannot lock");
  if (facts.st_size < (off_t)DATA_OFFSET && ftruncate(local.fd, DATA_OFFSET) != 0) return fail("cannot size");
  void *at = mmap(NULL, DATA_OFFSET, PROT_READ | PROT_WRITE, MAP_SHARED, local.fd, 0);
  if (at == MAP_FAILED) return fail("cannot map");
  shared = at;
  local.slot = -1;
  int known = shared->magic == MAGIC && shared->layout == LAYOUT && shared->bytes == sizeof *shared, others = 0;
  for (int slot = 0; slot < MAX_PROCESSES; slot++) others += slot_lives(slot);
  errno = EBUSY;
  if (others > 0 && (option_text != NULL || !known)) return fail("in use by another process:");
  if (others == 0) {
    if (ftruncate(local.fd, DATA_OFFSET) != 0) return fail("cannot size");
    initialize_shared(&options);
  }
  lock_shared();
  reap_dead();
  for (int slot = 0; slot < MAX_PROCESSES && local.slot < 0; slot++) {
    struct flock mine = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_OFFSET + slot, .l_len = 1};
    if (shared->processes[slot].used || fcntl(local.fd, F_OFD_SETLK, &mine) != 0) continue;
    local.slot = slot;
    shared->processes[slot] = (struct Process){.used = 1, .pid = getpid()};
  }
  unlock_shared();
  errno = EBUSY;
  if (local.slot < 0) return fail("too many processes in");
  local.scratch_fd = memfd_create("kvtier-cuda-emulator-scratch", MFD_CLOEXEC);
  if (local.scratch_fd < 0 || ftruncate(local.scratch_fd, 2 * CHUNK) != 0) return fail("no scratch memory for");
  local.scratch = mmap(NULL, 2 * CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED, local.scratch_fd, 0);
  if (local.scratch == MAP_FAILED) return fail("no scratch memory for");
  for (uint64_t at_byte = 0; at_byte < CHUNK; at_byte += 8) *(uint64_t *)(local.scratch + at_byte) = mix(at_byte ^ 0xdeadbeef);
  flock(local.fd, LOCK_UN);
  local.random = local.step_random = mix(shared->options.seed ^ ((uint64_t)local.slot << 32));
  local.started = 1;
  local.stopped = 0;
  return 0;
}

/* ---- Handles and addresses -------------------------------------------------------------------------------------------------------- */

static uint64_t handle_of(int kind, uint32_t generation, int index) {
  return (uint64_t)kind << 44 | (uint64_t)(generation & 0xffffff) << 20 | (uint64_t)(index + 1);
}
/** The index in its table, or -1 where the handle is of another kind. */
static int index_of(uint64_t handle, int kind, int limit) {
  int index = (int)(handle & 0xfffff) - 1;
  return handle >> 44 == (uint64_t)kind && index < limit ? index : -1;
}
static int same_generation(uint64_t handle, uint32_t generation) { return (handle >> 20 & 0xffffff) == (generation & 0xffffff); }

static struct Context *context_of(uint64_t handle) {
  int index = index_of(handle, KIND_CONTEXT, MAX_DEVICES);
  if (index < 0) return NULL;
  struct Context *context = &local.contexts[index];
  return context->retained > 0 && same_generation(handle, context->generation) ? context : NULL;
}
static int device_of(const struct Context *context) { return (int)(context - local.contexts); }

static struct Stream *stream_of(uint64_t handle, struct Context *context, const char *function) {
  if (handle <= 2) { // NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD
    lint(L_DEFAULT_STREAM);
    return &context->legacy;
  }
  int index = index_of(handle, KIND_STREAM, MAX_STREAMS);
  if (index >= 0 && local.streams[index].used && !local.streams[index].dying && same_generation(handle, local.streams[index].generation))
    return &local.streams[index];
  violation(V_BAD_HANDLE, "%s: stream 0x%llx is not alive", function, (unsigned long long)handle);
  return NULL;
}

static struct Event *event_of(uint64_t handle, const char *function) {
  int index = index_of(handle, KIND_EVENT, MAX_EVENTS);
  if (index >= 0 && local.events[index].used && same_generation(handle, local.events[index].generation)) return &local.events[index];
  violation(V_BAD_HANDLE, "%s: event 0x%llx is not alive", function, (unsigned long long)handle);
  return NULL;
}

static int is_device_address(uint64_t address) { return address - local.reserved_at < local.reserved_bytes; }

/** The range that has an address, alive or freed; NULL where no range ever had it. */
static struct Range *range_of(uint64_t address) {
  int low = 0, high = local.range_count;
  while (low < high) {
    int middle = (low + high) / 2;
    if (local.ranges[middle].address <= address) low = middle + 1;
    else high = middle;
  }
  if (low == 0) return NULL;
  struct Range *range = &local.ranges[low - 1];
  return address - range->address < range->bytes ? range : NULL;
}

/** A new range behind the others, with a gap, so that an overrun meets nobody. Small ones are aligned to 512 bytes only, as a driver's are. */
static struct Range *add_range(uint64_t bytes) {
  uint64_t start = local.reserved_used + (bytes < MIB ? 512 : 0), end = start + bytes;
  uint64_t next = (end + 2 * MIB) & ~(2 * MIB - 1);
  if (next - end < 4096) next += 2 * MIB;
  if (next > local.reserved_bytes) return NULL;
  if (local.range_count == MAX_RANGES) { // forgets the oldest half of those that were freed
    int kept = 0;
    for (int at = 0; at < local.range_count; at++)
      if (local.ranges[at].alive || at >= MAX_RANGES / 2) local.ranges[kept++] = local.ranges[at];
    if (kept == MAX_RANGES) return NULL;
    local.range_count = kept;
  }
  struct Range *range = &local.ranges[local.range_count++];
  *range = (struct Range){.address = local.reserved_at + start, .bytes = bytes, .alive = 1};
  local.reserved_used = next;
  return range;
}

/** Whether every page of a range of this process is mapped. */
static int is_mapped(uint64_t address, uint64_t bytes) {
  const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  uint64_t first = address & ~(page - 1), end = (address + bytes + page - 1) & ~(page - 1);
  return end > first && msync((void *)first, end - first, MS_ASYNC) == 0;
}

static int is_registered(uint64_t address, uint64_t bytes, int device) {
  uint64_t end = address + bytes;
  for (int at = 0; address < end && at < local.registration_count; at++) {
    const struct Registration *row = &local.registrations[at];
    if (!row->pinned || address < row->address || address >= row->address + row->bytes || (!row->portable && row->device != device)) continue;
    address = row->address + row->bytes;
    at = -1; // the next one may lie anywhere in the table
  }
  return address >= end;
}

/* ---- Bytes ------------------------------------------------------------------------------------------------------------------------ */

/** Pieces of a copy that are looked at: all of it, or 64 pieces of 64 bytes with both ends among them. */
static uint64_t piece_count(uint64_t bytes) {
  if (shared->options.check == CHECK_OFF) return 0;
  if (shared->options.check == CHECK_SAMPLE && bytes > 64 * KIB) return 64;
  return (bytes + CHUNK - 1) / CHUNK;
}
static void piece(uint64_t index, uint64_t bytes, uint64_t *offset, uint64_t *length) {
  if (shared->options.check == CHECK_SAMPLE && bytes > 64 * KIB) {
    *length = 64;
    *offset = (bytes - 64) * index / 63;
    return;
  }
  *offset = index * CHUNK;
  *length = bytes - *offset < CHUNK ? bytes - *offset : CHUNK;
}

static uint64_t hash_bytes(uint64_t hash, const uint8_t *bytes, uint64_t length) {
  uint64_t lanes[4] = {hash, hash ^ 1, hash ^ 2, hash ^ 3}, at = 0;
  for (; at + 32 <= length; at += 32) {
    for (int lane = 0; lane < 4; lane++) {
      uint64_t word;
      memcpy(&word, bytes + at + 8 * (uint64_t)lane, 8);
      lanes[lane] = (lanes[lane] ^ word) * 0x9e3779b97f4a7c15ull;
      lanes[lane] ^= lanes[lane] >> 29;
    }
  }
  for (; at < length; at++) lanes[at & 3] = (lanes[at & 3] ^ bytes[at]) * 0x100000001b3ull;
  return mix(lanes[0] + mix(lanes[1] + mix(lanes[2] + mix(lanes[3] + length))));
}

/** Of host memory that is known to be mapped. */
static uint64_t hash_host(uint64_t address, uint64_t bytes) {
  uint64_t hash = 0, offset, length;
  for (uint64_t index = 0; index < piece_count(bytes); index++) {
    piece(index, bytes, &offset, &length);
    hash = hash_bytes(hash, (const uint8_t *)(address + offset), length);
  }
  return hash;
}

/** 0, or the errno: EFAULT where the host side is not mapped. What was never written to the file reads as zeros. */
static int read_device(int fd, uint64_t offset, uint64_t host, uint64_t bytes) {
  while (bytes > 0) {
    ssize_t moved = pread(fd, (void *)host, bytes, (off_t)offset);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return errno;
    if (moved == 0) return EIO;
    offset += (uint64_t)moved, host += (uint64_t)moved, bytes -= (uint64_t)moved;
  }
  return 0;
}
static int write_device(int fd, uint64_t offset, uint64_t host, uint64_t bytes) {
  while (bytes > 0) {
    ssize_t moved = pwrite(fd, (const void *)host, bytes, (off_t)offset);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return errno;
    offset += (uint64_t)moved, host += (uint64_t)moved, bytes -= (uint64_t)moved;
  }
  return 0;
}
static int fill_device(uint64_t offset, const uint8_t *pattern, uint64_t bytes) {
  int error = 0;
  for (uint64_t at = 0; at < bytes && error == 0; at += CHUNK)
    error = write_device(local.fd, offset + at, (uint64_t)pattern, bytes - at < CHUNK ? bytes - at : CHUNK);
  return error;
}

static uint64_t hash_device(uint64_t device_offset, uint64_t bytes) {
  uint64_t hash = 0, offset, length;
  for (uint64_t index = 0; index < piece_count(bytes); index++) {
    piece(index, bytes, &offset, &length);
    read_device(local.fd, device_offset + offset, (uint64_t)local.bounce, length);
    hash = hash_bytes(hash, local.bounce, length);
  }
  return hash;
}

/* ---- The copy thread -------------------------------------------------------------------------------------------------------------- */

static int is_copy(const struct Operation *operation) { return operation->kind <= OP_MEMSET; }
static int host_is_source(const struct Operation *operation) { return operation->kind == OP_HTOD; }
static int host_is_target(const struct Operation *operation) { return operation->kind == OP_DTOH; }

static void release_record(struct Record *record) {
  if (record != NULL && --record->refs == 0) free(record);
}

/** Streams of the process, then the default streams of its contexts. */
static struct Stream *stream_at(int index) {
  if (index < local.stream_end) return local.streams[index].used ? &local.streams[index] : NULL;
  return &local.contexts[index - local.stream_end].legacy;
}
static int stream_limit(void) { return local.stream_end + MAX_DEVICES; }
static int is_legacy(const struct Stream *stream) { return stream < local.streams || stream >= local.streams + MAX_STREAMS; }

/** The default stream and the blocking streams of its context wait for each other in the order of submission. */
static int is_ready(const struct Stream *stream) {
  const struct Operation *head = stream->head;
  if (head == NULL) return 0;
  if (head->kind == OP_WAIT && !head->record->done) return 0;
  if (is_legacy(stream)) {
    for (int at = 0; at < local.stream_end; at++) {
      const struct Stream *other = &local.streams[at];
      if (other->used && other->blocking && other->device == stream->device && other->head != NULL && other->head->sequence < head->sequence) return 0;
    }
  } else if (stream->blocking) {
    const struct Stream *legacy = &local.contexts[stream->device].legacy;
    if (legacy->head != NULL && legacy->head->sequence < head->sequence) return 0;
  }
  return 1;
}

static void pop(struct Stream *stream) {
  struct Operation *operation = stream->head;
  stream->head = operation->next;
  if (stream->head == NULL) stream->tail = NULL;
  if (operation->record != NULL) {
    if (operation->kind == OP_RECORD) {
      operation->record->done = 1;
      operation->record->at_ns = now_ns();
    }
    release_record(operation->record);
  }
  if (is_copy(operation)) local.contexts[stream->device].in_flight--;
  free(operation);
  if (stream->dying && stream->head == NULL) {
    stream->used = 0;
    alive(T_STREAMS, -1);
  }
  pthread_cond_broadcast(&done);
}

static int overlap(uint64_t left, uint64_t left_bytes, uint64_t right, uint64_t right_bytes) {
  return left < right + right_bytes && right < left + left_bytes;
}

/** Two copies that are at work at once are ordered by nothing, or one would not have begun. */
static void find_races(const struct Operation *mine) {
  for (int at = 0; at < stream_limit(); at++) {
    const struct Stream *stream = stream_at(at);
    const struct Operation *other = stream == NULL ? NULL : stream->head;
    if (other == NULL || other == mine || !other->running || !is_copy(other) || other->fault || mine->fault) continue;
    int writes_device = mine->kind != OP_DTOH, other_writes = other->kind != OP_DTOH;
    int reads_device = mine->kind == OP_DTOH || mine->kind == OP_DTOD, other_reads = other->kind == OP_DTOH || other->kind == OP_DTOD;
    int races = (writes_device && other_writes && overlap(mine->to_offset, mine->bytes, other->to_offset, other->bytes)) ||
                (writes_device && other_reads && overlap(mine->to_offset, mine->bytes, other->from_offset, other->bytes)) ||
                (reads_device && other_writes && overlap(mine->from_offset, mine->bytes, other->to_offset, other->bytes)) ||
                (host_is_target(mine) && host_is_target(other) && overlap(mine->to, mine->bytes, other->to, other->bytes)) ||
                (host_is_target(mine) && host_is_source(other) && overlap(mine->to, mine->bytes, other->from, other->bytes)) ||
                (host_is_source(mine) && host_is_target(other) && overlap(mine->from, mine->bytes, other->to, other->bytes));
    if (races)
      violation(V_RACE, "copies 0x%llx to 0x%llx and 0x%llx to 0x%llx, in two streams that do not wait for each other",
                (unsigned long long)mine->from, (unsigned long long)mine->to, (unsigned long long)other->from, (unsigned long long)other->to);
  }
}

/** The lock is given up while bytes move; the operation stays the head of its stream. */
static void begin_copy(struct Operation *operation) {
  uint64_t now = now_ns(), *engine = &local.engine_free_ns[operation->device][operation->kind == OP_HTOD ? 0 : operation->kind == OP_DTOH ? 1 : 2];
  uint64_t begin = *engine > now ? *engine : now;
  uint64_t transfer = shared->options.bandwidth_mib == 0 ? 0 : operation->bytes * 1000 / MIB * 1000000 / shared->options.bandwidth_mib;
  *engine = begin + transfer;
  operation->finish_ns = *engine + (shared->options.latency_us + random_below(shared->options.jitter_us + 1)) * 1000;
  operation->running = 1;
  find_races(operation);
  if (operation->fault) return;
  pthread_mutex_unlock(&local_lock);
  if (host_is_source(operation) && !operation->hashed && is_mapped(operation->from, operation->bytes)) operation->hash = hash_host(operation->from, operation->bytes);
  int error = 0;
  if (shared->options.poison && operation->kind == OP_DTOH) {
    for (uint64_t at = 0; at < operation->bytes && error == 0; at += CHUNK)
      error = read_device(local.scratch_fd, 0, operation->to + at, operation->bytes - at < CHUNK ? operation->bytes - at : CHUNK);
  } else if (shared->options.poison && operation->kind != OP_DTOD) {
    error = fill_device(operation->to_offset, local.scratch, operation->bytes);
  } else if (shared->options.poison && !overlap(operation->from_offset, operation->bytes, operation->to_offset, operation->bytes)) {
    error = fill_device(operation->to_offset, local.scratch, operation->bytes);
  }
  pthread_mutex_lock(&local_lock);
  if (error == EFAULT) operation->fault = -EFAULT;
  else if (error != 0) operation->fault = CUDA_ERROR_UNKNOWN;
}

/** Whether somebody wrote into the target since the copy began. */
static int target_changed(const struct Operation *operation) {
  uint64_t offset, length;
  for (uint64_t index = 0; index < piece_count(operation->bytes); index++) {
    piece(index, operation->bytes, &offset, &length);
    if (write_device(local.scratch_fd, CHUNK, operation->to + offset, length) != 0) return 0; // found unmapped by the copy itself
    uint64_t phase = offset % CHUNK, head = CHUNK - phase < length ? CHUNK - phase : length;
    if (memcmp(local.scratch + CHUNK, local.scratch + phase, head) != 0 || memcmp(local.scratch + CHUNK + head, local.scratch, length - head) != 0) return 1;
  }
  return 0;
}

/** Moves `bytes` of an operation. Returns an errno. */
static int move_bytes(const struct Operation *operation, uint64_t bytes) {
  if (operation->kind == OP_HTOD) return write_device(local.fd, operation->to_offset, operation->from, bytes);
  if (operation->kind == OP_DTOH) return read_device(local.fd, operation->from_offset, operation->to, bytes);
  if (operation->kind == OP_MEMSET) memset(local.bounce, operation->value, bytes < CHUNK ? bytes : CHUNK);
  int error = 0;
  for (uint64_t at = 0; at < bytes && error == 0; at += CHUNK) {
    uint64_t length = bytes - at < CHUNK ? bytes - at : CHUNK;
    if (operation->kind == OP_DTOD) error = read_device(local.fd, operation->from_offset + at, (uint64_t)local.bounce, length);
    if (error == 0) error = write_device(local.fd, operation->to_offset + at, (uint64_t)local.bounce, length);
  }
  return error;
}

/** Ends what every stream of a context has waiting, without bytes. */
static void abandon(struct Context *context) {
  for (int at = 0; at < stream_limit(); at++) {
    struct Stream *stream = stream_at(at);
    while (stream != NULL && stream->device == device_of(context) && stream->head != NULL) pop(stream);
  }
}

static void kill_context(struct Context *context, int code) {
  if (context->sticky == 0) context->sticky = code;
  pthread_cond_broadcast(&done);
  pthread_cond_signal(&work);
}

static void end_copy(struct Stream *stream) {
  struct Operation *operation = stream->head;
  struct Context *context = &local.contexts[stream->device];
  uint64_t bytes = operation->bytes;
  int device = operation->device, loses = 0, error = 0;
  if (__atomic_load_n(&shared->lose_countdown[device], __ATOMIC_RELAXED) > 0) loses = __atomic_sub_fetch(&shared->lose_countdown[device], 1, __ATOMIC_RELAXED) == 0;
  if (loses) bytes /= 2;
  if (operation->fault == 0) {
    pthread_mutex_unlock(&local_lock);
    if (host_is_target(operation) && shared->options.poison && target_changed(operation))
      violation(V_TARGET_CHANGED, "cuMemcpyDtoHAsync_v2: the host wrote to 0x%llx while the copy was at work", (unsigned long long)operation->to);
    error = move_bytes(operation, bytes);
    if (error == 0 && !loses && host_is_source(operation) && operation->hash != hash_device(operation->to_offset, bytes))
      violation(V_SOURCE_CHANGED, "cuMemcpyHtoDAsync_v2: source 0x%llx (%llu bytes) changed between submission and completion",
                (unsigned long long)operation->from, (unsigned long long)bytes);
    pthread_mutex_lock(&local_lock);
    count(&shared->copies);
    __atomic_fetch_add(&shared->copied_bytes, bytes, __ATOMIC_RELAXED);
  }
  if (error == EFAULT || operation->fault == -EFAULT) {
    violation(V_HOST_UNMAPPED, "host memory 0x%llx was unmapped before its copy ended",
              (unsigned long long)(host_is_source(operation) ? operation->from : operation->to));
    kill_context(context, CUDA_ERROR_ILLEGAL_ADDRESS);
  } else if (error != 0) {
    kill_context(context, CUDA_ERROR_UNKNOWN); // the shared file is full: nothing that a card would know
  } else if (operation->fault > 0) {
    kill_context(context, operation->fault);
  }
  if (loses) {
    __atomic_store_n(&shared->lost[device], shared->lose_code[device], __ATOMIC_RELEASE);
    kill_context(context, shared->lose_code[device]);
  }
  pop(stream);
}

/** One round: contexts that died, then marks, then copies that can begin, then one that can end. 0: nothing to do before `*wake_ns`. */
static int one_round(uint64_t *wake_ns) {
  struct Stream *ready[MAX_STREAMS + MAX_DEVICES];
  int progress = 0, ready_count = 0;
  for (int device = 0; device < MAX_DEVICES; device++) {
    struct Context *context = &local.contexts[device];
    int lost = __atomic_load_n(&shared->lost[device], __ATOMIC_ACQUIRE);
    if (context->retained > 0 && lost != 0 && context->sticky == 0) context->sticky = lost;
    if (context->sticky != 0) abandon(context);
  }
  for (int passed = 1; passed;) { // a mark that is passed lets marks of other streams pass
    passed = 0;
    for (int at = 0; at < stream_limit(); at++) {
      struct Stream *stream = stream_at(at);
      while (stream != NULL && stream->head != NULL && !is_copy(stream->head) && is_ready(stream)) pop(stream), passed = progress = 1;
    }
  }
  for (int at = 0; at < stream_limit(); at++) {
    struct Stream *stream = stream_at(at);
    if (stream != NULL && stream->head != NULL && is_copy(stream->head) && !stream->head->running && is_ready(stream)) ready[ready_count++] = stream;
  }
  for (; ready_count > 0; progress = 1) {
    int chosen = (int)random_below((uint64_t)ready_count);
    struct Stream *stream = ready[chosen];
    ready[chosen] = ready[--ready_count];
    // Others may have been abandoned while the lock was free.
    if (stream->head != NULL && is_copy(stream->head) && !stream->head->running && is_ready(stream)) begin_copy(stream->head);
  }
  if (progress) return 1; // more may have come meanwhile; what ends next is drawn from all that are at work
  int held = shared->options.manual && local.draining == 0;
  if (held && local.steps <= 0) return 0;
  uint64_t now = now_ns(), earliest = UINT64_MAX;
  struct Stream *next = NULL;
  for (int at = 0; at < stream_limit(); at++) {
    struct Stream *stream = stream_at(at);
    if (stream == NULL || stream->head == NULL || !stream->head->running) continue;
    if (shared->options.manual) ready[ready_count++] = stream;
    if (stream->head->finish_ns < earliest) earliest = stream->head->finish_ns, next = stream;
  }
  if (next == NULL) {
    if (held) local.steps = 0; // nothing in flight to step
    return 0;
  }
  // Drawn from numbers of its own, so that the same submissions and steps give the same order whatever the threads' timing.
  if (shared->options.manual) next = ready[(local.step_random = mix(local.step_random)) % (uint64_t)ready_count];
  else if (earliest > now) {
    if (earliest < *wake_ns) *wake_ns = earliest;
    return 0;
  }
  end_copy(next);
  if (held) local.steps--, local.stepped++;
  return 1;
}

static void *copy_thread(void *unused) {
  pthread_mutex_lock(&local_lock);
  while (!local.thread_stops) {
    uint64_t wake_ns = now_ns() + 50000000; // looks up for a device that another process lost
    if (one_round(&wake_ns)) continue;
    if (local.steps <= 0 && !local.settled) {
      local.settled = 1;
      pthread_cond_broadcast(&done);
    }
    struct timespec until = {(time_t)(wake_ns / 1000000000ull), (long)(wake_ns % 1000000000ull)};
    pthread_cond_timedwait(&work, &local_lock, &until);
  }
  pthread_mutex_unlock(&local_lock);
  return unused;
}

static int start_thread(void) {
  if (local.thread_runs) return 0;
  pthread_condattr_t clock;
  pthread_condattr_init(&clock);
  pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
  pthread_cond_init(&work, &clock);
  pthread_condattr_destroy(&clock);
  sigset_t all, before;
  sigfillset(&all); // the program's signals are the program's
  pthread_sigmask(SIG_SETMASK, &all, &before);
  local.thread_stops = 0;
  local.thread_runs = pthread_create(&local.thread, NULL, copy_thread, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return local.thread_runs ? 0 : -1;
}

static int has_work(const struct Context *context) {
  for (int at = 0; at < stream_limit(); at++) {
    const struct Stream *stream = stream_at(at);
    if (stream != NULL && stream->head != NULL && stream->device == device_of(context)) return 1;
  }
  return 0;
}

/** Waits, as a driver does in calls that synchronize, until a context has nothing in flight. */
static void drain(struct Context *context) {
  local.draining++;
  pthread_cond_signal(&work);
  while (has_work(context)) pthread_cond_wait(&done, &local_lock);
  local.draining--;
}

/* ---- Entering a call -------------------------------------------------------------------------------------------------------------- */

/** Calls that give something back do so whatever they answer: what they report may stem from work before them, and nobody can ask again. */
static int gives_back(int function) {
  return function == F_cuMemFree_v2 || function == F_cuMemHostUnregister || function == F_cuStreamDestroy_v2 || function == F_cuEventDestroy_v2 ||
         function == F_cuDevicePrimaryCtxRelease_v2 || function == F_cuIpcCloseMemHandle;
}
static __thread int answer_anyway;

/** The code of an injected error whose turn has come, or 0. */
static int injected(int function) {
  if (__atomic_load_n(&shared->injection_count, __ATOMIC_RELAXED) == 0) return 0;
  int code = 0;
  lock_shared();
  for (int at = 0; at < MAX_INJECTIONS && code == 0; at++) {
    struct Injection *row = &shared->injections[at];
    if (row->times == 0 || (strcmp(row->name, "*") != 0 && strcmp(row->name, function_names[function]) != 0)) continue;
    if (--row->countdown > 0) continue;
    code = row->code;
    if (--row->times == 0) shared->injection_count--;
    row->countdown = 1;
  }
  unlock_shared();
  return code;
}

enum { NEEDS_NOTHING, NEEDS_INIT, NEEDS_CONTEXT };

/** Counts a call and says whether it may go on. The lock of this process is held afterwards in any case. */
static int enter(int function, int needs, struct Context **context) {
  pthread_mutex_lock(&local_lock);
  if (local.stopped) return CUDA_ERROR_DEINITIALIZED;
  if (!local.started && start(NULL, NULL) != 0) return CUDA_ERROR_UNKNOWN;
  count(&shared->calls[function]);
  int code = injected(function);
  if (gives_back(function) && !is_sticky(code)) answer_anyway = code, code = 0;
  if (needs >= NEEDS_INIT && !local.initialized) {
    violation(V_NOT_INITIALIZED, "%s before cuInit", function_names[function]);
    return code != 0 ? code : CUDA_ERROR_NOT_INITIALIZED;
  }
  if (needs == NEEDS_CONTEXT) {
    struct Context *mine = context_of(current);
    if (mine == NULL) {
      violation(current == 0 ? V_NO_CONTEXT : V_DESTROYED_CONTEXT, "%s on thread %d", function_names[function], (int)gettid());
      return current == 0 ? CUDA_ERROR_INVALID_CONTEXT : CUDA_ERROR_CONTEXT_IS_DESTROYED;
    }
    int lost = __atomic_load_n(&shared->lost[device_of(mine)], __ATOMIC_ACQUIRE);
    if (lost != 0 && mine->sticky == 0) kill_context(mine, lost);
    if (is_sticky(code)) kill_context(mine, code);
    if (context != NULL) *context = mine;
    if (mine->sticky != 0) return mine->sticky;
  }
  return code;
}

static int leave(int code) {
  pthread_mutex_unlock(&local_lock);
  if (code == 0) code = answer_anyway;
  answer_anyway = 0;
  return code;
}

#define ENTER(function, needs, context)                                                                                                  \
  int code = enter(F_##function, needs, context);                                                                                        \
  if (code != 0) return leave(code)

/* ---- Initialization and devices --------------------------------------------------------------------------------------------------- */

static int is_device(int device) { return device >= 0 && (uint64_t)device < shared->options.devices; }

API int cuInit(unsigned flags) {
  ENTER(cuInit, NEEDS_NOTHING, NULL);
  if (flags != 0) return leave(CUDA_ERROR_INVALID_VALUE);
  if (shared->options.devices == 0) return leave(CUDA_ERROR_NO_DEVICE);
  local.initialized = 1;
  return leave(CUDA_SUCCESS);
}

API int cuDriverGetVersion(int *version) {
  ENTER(cuDriverGetVersion, NEEDS_NOTHING, NULL);
  if (version == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  *version = (int)shared->options.driver;
  return leave(CUDA_SUCCESS);
}

API int cuDeviceGetCount(int *device_count) {
  ENTER(cuDeviceGetCount, NEEDS_INIT, NULL);
  if (device_count == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  *device_count = (int)shared->options.devices;
  return leave(CUDA_SUCCESS);
}

API int cuDeviceGet(int *device, int ordinal) {
  ENTER(cuDeviceGet, NEEDS_INIT, NULL);
  if (device == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  if (!is_device(ordinal)) return leave(CUDA_ERROR_INVALID_DEVICE);
  *device = ordinal;
  return leave(CUDA_SUCCESS);
}

API int cuDeviceGetName(char *name, int length, int device) {
  ENTER(cuDeviceGetName, NEEDS_INIT, NULL);
  if (name == NULL || length <= 0) return leave(CUDA_ERROR_INVALID_VALUE);
  if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
  snprintf(name, (size_t)length, "kvtier emulated device %d%s", device, shared->options.mig ? " MIG 1g.10gb" : "");
  return leave(CUDA_SUCCESS);
}

/** 16 bytes. Of a MIG instance the first version names the whole card, the second the instance. */
static int uuid_of(uint8_t *uuid, int device, int part) {
  if (uuid == NULL) return CUDA_ERROR_INVALID_VALUE;
  if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  uint64_t words[2] = {mix(0x656d75ull + (uint64_t)device), mix(0x6c6174ull + (uint64_t)device + (shared->options.mig && part ? 1000 : 0))};
  memcpy(uuid, words, 16);
  return CUDA_SUCCESS;
}

API int cuDeviceGetUuid(uint8_t *uuid, int device) {
  ENTER(cuDeviceGetUuid, NEEDS_INIT, NULL);
  return leave(uuid_of(uuid, device, 0));
}

API int cuDeviceGetUuid_v2(uint8_t *uuid, int device) {
  ENTER(cuDeviceGetUuid_v2, NEEDS_INIT, NULL);
  return leave(uuid_of(uuid, device, 1));
}

API int cuDeviceGetPCIBusId(char *text, int length, int device) {
  ENTER(cuDeviceGetPCIBusId, NEEDS_INIT, NULL);
  if (text == NULL || length < 13) return leave(CUDA_ERROR_INVALID_VALUE);
  if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
  snprintf(text, (size_t)length, "0000:%02X:00.0", device + 1);
  return leave(CUDA_SUCCESS);
}

API int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  ENTER(cuDeviceTotalMem_v2, NEEDS_INIT, NULL);
  if (bytes == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
  *bytes = shared->options.capacity;
  return leave(CUDA_SUCCESS);
}

/** Numbers of CUdevice_attribute. */
API int cuDeviceGetAttribute(int *value, int attribute, int device) {
  ENTER(cuDeviceGetAttribute, NEEDS_INIT, NULL);
  if (value == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
  switch (attribute) {
    case 75: *value = (int)shared->options.compute / 10; break; // COMPUTE_CAPABILITY_MAJOR
    case 76: *value = (int)shared->options.compute % 10; break; // COMPUTE_CAPABILITY_MINOR
    case 33: *value = device + 1; break;                        // PCI_BUS_ID
    case 19: case 31: case 41: case 99: *value = 1; break;      // CAN_MAP_HOST_MEMORY, CONCURRENT_KERNELS, UNIFIED_ADDRESSING, HOST_REGISTER_SUPPORTED
    case 40: *value = 3; break;                                 // ASYNC_ENGINE_COUNT
    default:
      if (attribute < 1 || attribute > 200) return leave(CUDA_ERROR_INVALID_VALUE);
      *value = 0; // INTEGRATED, ECC_ENABLED, COMPUTE_MODE, PCI_DEVICE_ID, PCI_DOMAIN_ID and what nobody asks for
  }
  return leave(CUDA_SUCCESS);
}

/* ---- Contexts --------------------------------------------------------------------------------------------------------------------- */

API int cuDevicePrimaryCtxRetain(uint64_t *out, int device) {
  ENTER(cuDevicePrimaryCtxRetain, NEEDS_INIT, NULL);
  if (out == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
  int lost = __atomic_load_n(&shared->lost[device], __ATOMIC_ACQUIRE);
  if (lost != 0) return leave(lost);
  struct Context *context = &local.contexts[device];
  int thread = (int)gettid();
  if (local.first_context_thread == 0) local.first_context_thread = thread;
  if (local.first_context_thread != thread) lint(L_SECOND_THREAD_CONTEXT);
  if (context->retained == 0) {
    if (start_thread() != 0) return leave(CUDA_ERROR_UNKNOWN);
    uint64_t bytes = shared->options.context;
    lock_shared();
    if (shared->used[device] + bytes > shared->options.capacity) reap_dead();
    int fits = shared->used[device] + bytes <= shared->options.capacity;
    if (fits) {
      shared->used[device] += bytes;
      shared->processes[local.slot].context_bytes[device] = bytes;
    }
    unlock_shared();
    if (!fits) return leave(CUDA_ERROR_OUT_OF_MEMORY);
    *context = (struct Context){.generation = ++local.generation, .creator = thread};
    context->legacy.device = device;
    alive(T_CONTEXTS, 1);
  } else if (context->sticky != 0) {
    return leave(context->sticky);
  }
  context->retained++;
  *out = handle_of(KIND_CONTEXT, context->generation, device);
  return leave(CUDA_SUCCESS);
}

/** What was in a context that died could not be given back, and is no leak. */
static void leak(const struct Context *context, int thing) {
  if (context->sticky == 0) count(&shared->leaks[thing]);
  alive(thing, -1);
}

/** Frees a row of the shared table that this process owns, or notes that it has closed it. Under both locks. */
static void let_go(struct Range *range) {
  struct Allocation *row = &shared->allocations[range->row];
  range->alive = 0;
  if (row->id != range->id) return;
  if (range->imported) row->opened_by &= ~(1ull << local.slot);
  else row->freed = 1;
  drop_if_unused(row);
}

static void destroy_context(struct Context *context) {
  int device = device_of(context);
  if (context->in_flight > 0) lint(L_SYNC_IN_FLIGHT);
  drain(context);
  lock_shared();
  for (int at = 0; at < local.range_count; at++) {
    struct Range *range = &local.ranges[at];
    if (!range->alive || range->device != device) continue;
    leak(context, range->imported ? T_IMPORTS : T_ALLOCATIONS);
    let_go(range);
  }
  shared->used[device] -= shared->processes[local.slot].context_bytes[device];
  shared->processes[local.slot].context_bytes[device] = 0;
  unlock_shared();
  for (int at = 0; at < local.stream_end; at++)
    if (local.streams[at].used && local.streams[at].device == device) leak(context, T_STREAMS), local.streams[at].used = 0;
  for (int at = 0; at < local.event_end; at++) {
    struct Event *event = &local.events[at];
    if (!event->used || event->device != device) continue;
    release_record(event->last);
    event->last = NULL;
    event->used = 0;
    leak(context, T_EVENTS);
  }
  for (int at = local.registration_count - 1; at >= 0; at--) {
    if (local.registrations[at].device != device) continue;
    local.registrations[at] = local.registrations[--local.registration_count];
    leak(context, T_REGISTRATIONS);
  }
  context->retained = 0;
  alive(T_CONTEXTS, -1);
}

API int cuDevicePrimaryCtxRelease_v2(int device) {
  ENTER(cuDevicePrimaryCtxRelease_v2, NEEDS_INIT, NULL);
  if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
  struct Context *context = &local.contexts[device];
  if (context->retained == 0) {
    violation(V_OVER_RELEASE, "cuDevicePrimaryCtxRelease_v2: device %d has no context", device);
    return leave(CUDA_ERROR_INVALID_CONTEXT);
  }
  if (context->retained == 1) destroy_context(context);
  else context->retained--;
  return leave(CUDA_SUCCESS);
}

API int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
  ENTER(cuDevicePrimaryCtxGetState, NEEDS_INIT, NULL);
  if (flags == NULL || active == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  if (!is_device(device)) return leave(CUDA_ERROR_INVALID_DEVICE);
  *flags = 0;
  *active = local.contexts[device].retained > 0;
  return leave(CUDA_SUCCESS);
}

API int cuCtxSetCurrent(uint64_t context) {
  ENTER(cuCtxSetCurrent, NEEDS_INIT, NULL);
  if (context != 0 && context_of(context) == NULL) {
    violation(V_BAD_HANDLE, "cuCtxSetCurrent: context 0x%llx is not alive", (unsigned long long)context);
    return leave(CUDA_ERROR_INVALID_CONTEXT);
  }
  current = context;
  return leave(CUDA_SUCCESS);
}

API int cuCtxGetCurrent(uint64_t *context) {
  ENTER(cuCtxGetCurrent, NEEDS_INIT, NULL);
  if (context == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  *context = current;
  return leave(CUDA_SUCCESS);
}

API int cuCtxSynchronize(void) {
  struct Context *context;
  ENTER(cuCtxSynchronize, NEEDS_CONTEXT, &context);
  if (context->in_flight > 0) lint(L_SYNC_IN_FLIGHT);
  drain(context);
  return leave(context->sticky);
}

/* ---- Device memory ---------------------------------------------------------------------------------------------------------------- */

API int cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
  struct Context *context;
  ENTER(cuMemGetInfo_v2, NEEDS_CONTEXT, &context);
  if (free_bytes == NULL || total_bytes == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  lock_shared();
  *total_bytes = shared->options.capacity;
  *free_bytes = shared->options.capacity - shared->used[device_of(context)];
  unlock_shared();
  return leave(CUDA_SUCCESS);
}

API int cuMemAlloc_v2(uint64_t *out, size_t bytes) {
  struct Context *context;
  ENTER(cuMemAlloc_v2, NEEDS_CONTEXT, &context);
  if (out == NULL || bytes == 0) return leave(CUDA_ERROR_INVALID_VALUE);
  if (context->in_flight > 0) lint(L_ALLOC_IN_FLIGHT);
  const int device = device_of(context);
  const uint64_t grain = bytes < MIB ? 512 : 2 * MIB, charged = (bytes + grain - 1) / grain * grain;
  if (charged < bytes || charged > shared->options.capacity) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  lock_shared();
  if (shared->used[device] + charged > shared->options.capacity) reap_dead();
  int row = 0;
  while (row < MAX_ALLOCATIONS && shared->allocations[row].id != 0) row++;
  const uint64_t span = (bytes + 4095) & ~4095ull;
  struct Range *range = NULL;
  if (shared->used[device] + charged <= shared->options.capacity && row < MAX_ALLOCATIONS && ftruncate(local.fd, (off_t)(shared->file_end + span)) == 0)
    range = add_range(bytes);
  if (range != NULL) {
    const uint64_t id = shared->next_id++;
    shared->allocations[row] = (struct Allocation){.id = id, .nonce = mix(id ^ now_ns()), .bytes = bytes, .charged = charged,
                                                   .offset = shared->file_end, .device = (uint32_t)device, .owner = (uint32_t)local.slot};
    shared->used[device] += charged;
    range->id = id, range->row = (uint32_t)row, range->offset = shared->file_end, range->device = device;
    shared->file_end += span;
  }
  unlock_shared();
  if (range == NULL) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  alive(T_ALLOCATIONS, 1);
  *out = range->address;
  return leave(CUDA_SUCCESS);
}

/** Whether a copy in flight touches a range. */
static int in_flight_on(const struct Range *range) {
  for (int at = 0; at < stream_limit(); at++) {
    const struct Stream *stream = stream_at(at);
    for (const struct Operation *operation = stream == NULL ? NULL : stream->head; operation != NULL; operation = operation->next)
      if (is_copy(operation) && (operation->from - range->address < range->bytes || operation->to - range->address < range->bytes)) return 1;
  }
  return 0;
}

/** Of cuMemFree_v2 and cuIpcCloseMemHandle: the range that a pointer is the base of, alive and of the right sort; or an error. */
static int base_of(uint64_t pointer, int imported, const char *function, struct Range **out) {
  struct Range *range = range_of(pointer);
  if (range == NULL || range->address != pointer) {
    violation(V_BAD_POINTER, "%s: 0x%llx is the base of no allocation", function, (unsigned long long)pointer);
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!range->alive) {
    violation(V_DOUBLE_FREE, "%s: 0x%llx was freed before", function, (unsigned long long)pointer);
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (range->imported != imported) {
    violation(V_WRONG_FREE, "%s: 0x%llx was %s", function, (unsigned long long)pointer, imported ? "allocated here" : "opened from a handle");
    return CUDA_ERROR_INVALID_VALUE;
  }
  *out = range;
  return CUDA_SUCCESS;
}

API int cuMemFree_v2(uint64_t pointer) {
  struct Context *context;
  ENTER(cuMemFree_v2, NEEDS_CONTEXT, &context);
  if (pointer == 0) return leave(CUDA_SUCCESS);
  struct Range *range;
  code = base_of(pointer, 0, "cuMemFree_v2", &range);
  if (code != 0) return leave(code);
  if (in_flight_on(range)) violation(V_FREED_IN_FLIGHT, "cuMemFree_v2: a copy on 0x%llx is in flight", (unsigned long long)pointer);
  struct Context *owner = &local.contexts[range->device];
  if (owner->in_flight > 0) lint(L_SYNC_IN_FLIGHT);
  range->alive = 0; // so that nobody frees it or copies to it while this waits
  drain(owner);
  range = range_of(pointer); // the table may have moved
  lock_shared();
  if (shared->allocations[range->row].id == range->id && shared->allocations[range->row].opened_by != 0)
    violation(V_FREED_WHILE_OPEN, "cuMemFree_v2: another process has 0x%llx open", (unsigned long long)pointer);
  let_go(range);
  unlock_shared();
  alive(T_ALLOCATIONS, -1);
  return leave(CUDA_SUCCESS);
}

/* ---- Host memory ------------------------------------------------------------------------------------------------------------------ */

API int cuMemHostRegister_v2(uint64_t address, size_t bytes, unsigned flags) {
  struct Context *context;
  ENTER(cuMemHostRegister_v2, NEEDS_CONTEXT, &context);
  if (address == 0 || bytes == 0 || flags > 15 || is_device_address(address) || !is_mapped(address, bytes)) return leave(CUDA_ERROR_INVALID_VALUE);
  if (((address | bytes) & 4095) != 0) lint(L_UNALIGNED_REGISTRATION);
  for (int at = 0; at < local.registration_count; at++)
    if (overlap(address, bytes, local.registrations[at].address, local.registrations[at].bytes)) return leave(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  if (local.registration_count == MAX_REGISTRATIONS) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  local.registrations[local.registration_count++] =
      (struct Registration){.address = address, .bytes = bytes, .device = device_of(context), .portable = (flags & 1) != 0};
  alive(T_REGISTRATIONS, 1);
  const uint64_t pause_us = shared->options.register_us_per_mib * (bytes + MIB - 1) / MIB;
  if (pause_us > 0) { // pinning takes as long as touching the pages does
    pthread_mutex_unlock(&local_lock);
    struct timespec pause = {(time_t)(pause_us / 1000000), (long)(pause_us % 1000000) * 1000};
    nanosleep(&pause, NULL);
    pthread_mutex_lock(&local_lock);
  }
  for (int at = 0; at < local.registration_count; at++)
    if (local.registrations[at].address == address) local.registrations[at].pinned = 1;
  return leave(CUDA_SUCCESS);
}

API int cuMemHostUnregister(uint64_t address) {
  struct Context *context;
  ENTER(cuMemHostUnregister, NEEDS_CONTEXT, &context);
  int at = 0;
  while (at < local.registration_count && local.registrations[at].address != address) at++;
  if (at == local.registration_count) return leave(address == 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  const struct Registration row = local.registrations[at];
  if (!is_mapped(row.address, row.bytes)) violation(V_HOST_UNMAPPED, "cuMemHostUnregister: 0x%llx was unmapped while it was registered", (unsigned long long)address);
  int used = 0;
  for (int index = 0; index < stream_limit(); index++) {
    const struct Stream *stream = stream_at(index);
    for (const struct Operation *operation = stream == NULL ? NULL : stream->head; operation != NULL; operation = operation->next)
      used |= (host_is_source(operation) && overlap(operation->from, operation->bytes, row.address, row.bytes)) ||
              (host_is_target(operation) && overlap(operation->to, operation->bytes, row.address, row.bytes));
  }
  if (used) violation(V_UNREGISTERED_IN_FLIGHT, "cuMemHostUnregister: a copy on 0x%llx is in flight", (unsigned long long)address);
  local.registrations[at] = local.registrations[--local.registration_count];
  alive(T_REGISTRATIONS, -1);
  for (int device = 0; used && device < MAX_DEVICES; device++)
    if (local.contexts[device].retained > 0) drain(&local.contexts[device]);
  if (context->in_flight > 0) lint(L_SYNC_IN_FLIGHT);
  return leave(CUDA_SUCCESS);
}

/* ---- Streams and events ----------------------------------------------------------------------------------------------------------- */

static void push(struct Stream *stream, struct Operation *operation) {
  operation->sequence = ++local.sequence;
  operation->next = NULL;
  if (stream->tail == NULL) stream->head = operation;
  else stream->tail->next = operation;
  stream->tail = operation;
  if (is_copy(operation)) local.contexts[stream->device].in_flight++;
  pthread_cond_signal(&work);
}

API int cuStreamCreate(uint64_t *out, unsigned flags) {
  struct Context *context;
  ENTER(cuStreamCreate, NEEDS_CONTEXT, &context);
  if (out == NULL || flags > 1) return leave(CUDA_ERROR_INVALID_VALUE);
  int at = 0;
  while (at < MAX_STREAMS && local.streams[at].used) at++;
  if (at == MAX_STREAMS) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  if (at >= local.stream_end) local.stream_end = at + 1;
  local.streams[at] = (struct Stream){.generation = ++local.generation, .used = 1, .blocking = flags == 0, .device = device_of(context)};
  alive(T_STREAMS, 1);
  *out = handle_of(KIND_STREAM, local.streams[at].generation, at);
  return leave(CUDA_SUCCESS);
}

/** Returns at once; what the stream has waiting is still done. */
API int cuStreamDestroy_v2(uint64_t handle) {
  struct Context *context;
  ENTER(cuStreamDestroy_v2, NEEDS_CONTEXT, &context);
  if (handle <= 2) return leave(CUDA_ERROR_INVALID_HANDLE);
  struct Stream *stream = stream_of(handle, context, "cuStreamDestroy_v2");
  if (stream == NULL) return leave(CUDA_ERROR_INVALID_HANDLE);
  stream->dying = 1;
  if (stream->head == NULL) {
    stream->used = 0;
    alive(T_STREAMS, -1);
  }
  return leave(CUDA_SUCCESS);
}

API int cuStreamQuery(uint64_t handle) {
  struct Context *context;
  ENTER(cuStreamQuery, NEEDS_CONTEXT, &context);
  struct Stream *stream = stream_of(handle, context, "cuStreamQuery");
  if (stream == NULL) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (local.contexts[stream->device].sticky != 0) return leave(local.contexts[stream->device].sticky);
  return leave(stream->head == NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}

/** Flags: 1 blocking sync, 2 disable timing, 4 interprocess (which this driver has not got). */
API int cuEventCreate(uint64_t *out, unsigned flags) {
  struct Context *context;
  ENTER(cuEventCreate, NEEDS_CONTEXT, &context);
  if (out == NULL || flags > 7) return leave(CUDA_ERROR_INVALID_VALUE);
  if ((flags & 4) != 0) return leave(CUDA_ERROR_NOT_SUPPORTED);
  int tried = 0;
  while (tried < MAX_EVENTS && local.events[local.event_hint].used) local.event_hint = (local.event_hint + 1) % MAX_EVENTS, tried++;
  if (tried == MAX_EVENTS) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  const int at = local.event_hint;
  if (at >= local.event_end) local.event_end = at + 1;
  local.events[at] = (struct Event){.generation = ++local.generation, .used = 1, .timing = (flags & 2) == 0, .device = device_of(context)};
  alive(T_EVENTS, 1);
  *out = handle_of(KIND_EVENT, local.events[at].generation, at);
  return leave(CUDA_SUCCESS);
}

API int cuEventDestroy_v2(uint64_t handle) {
  ENTER(cuEventDestroy_v2, NEEDS_CONTEXT, NULL);
  struct Event *event = event_of(handle, "cuEventDestroy_v2");
  if (event == NULL) return leave(CUDA_ERROR_INVALID_HANDLE);
  release_record(event->last);
  event->last = NULL;
  event->used = 0;
  local.event_hint = (int)(event - local.events);
  alive(T_EVENTS, -1);
  return leave(CUDA_SUCCESS);
}

API int cuEventRecord(uint64_t event_handle, uint64_t stream_handle) {
  struct Context *context;
  ENTER(cuEventRecord, NEEDS_CONTEXT, &context);
  struct Event *event = event_of(event_handle, "cuEventRecord");
  struct Stream *stream = event == NULL ? NULL : stream_of(stream_handle, context, "cuEventRecord");
  if (stream == NULL) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (stream->device != event->device) {
    violation(V_BAD_HANDLE, "cuEventRecord: event of device %d, stream of device %d", event->device, stream->device);
    return leave(CUDA_ERROR_INVALID_HANDLE);
  }
  struct Record *record = calloc(1, sizeof *record);
  struct Operation *operation = calloc(1, sizeof *operation);
  if (record == NULL || operation == NULL) abort();
  release_record(event->last);
  record->refs = 2;
  event->last = record;
  operation->kind = OP_RECORD;
  operation->record = record;
  push(stream, operation);
  return leave(CUDA_SUCCESS);
}

API int cuStreamWaitEvent(uint64_t stream_handle, uint64_t event_handle, unsigned flags) {
  struct Context *context;
  ENTER(cuStreamWaitEvent, NEEDS_CONTEXT, &context);
  if (flags > 1) return leave(CUDA_ERROR_INVALID_VALUE);
  struct Event *event = event_of(event_handle, "cuStreamWaitEvent");
  struct Stream *stream = event == NULL ? NULL : stream_of(stream_handle, context, "cuStreamWaitEvent");
  if (stream == NULL) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (event->last == NULL) return leave(CUDA_SUCCESS); // never recorded: nothing to wait for
  struct Operation *operation = calloc(1, sizeof *operation);
  if (operation == NULL) abort();
  operation->kind = OP_WAIT;
  operation->record = event->last;
  event->last->refs++;
  push(stream, operation);
  return leave(CUDA_SUCCESS);
}

API int cuEventQuery(uint64_t handle) {
  ENTER(cuEventQuery, NEEDS_CONTEXT, NULL);
  struct Event *event = event_of(handle, "cuEventQuery");
  if (event == NULL) return leave(CUDA_ERROR_INVALID_HANDLE);
  // An event of a context that died says so, whichever context asks.
  if (local.contexts[event->device].sticky != 0) return leave(local.contexts[event->device].sticky);
  return leave(event->last == NULL || event->last->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}

API int cuEventElapsedTime(float *milliseconds, uint64_t start_handle, uint64_t end_handle) {
  ENTER(cuEventElapsedTime, NEEDS_CONTEXT, NULL);
  if (milliseconds == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  struct Event *from = event_of(start_handle, "cuEventElapsedTime");
  struct Event *to = from == NULL ? NULL : event_of(end_handle, "cuEventElapsedTime");
  if (to == NULL || !from->timing || !to->timing || from->last == NULL || to->last == NULL || from->device != to->device)
    return leave(CUDA_ERROR_INVALID_HANDLE);
  if (!from->last->done || !to->last->done) return leave(CUDA_ERROR_NOT_READY);
  *milliseconds = (float)((double)(int64_t)(to->last->at_ns - from->last->at_ns) / 1e6);
  return leave(CUDA_SUCCESS);
}

/* ---- Copies ----------------------------------------------------------------------------------------------------------------------- */

/**
 * The place in the file of a device range. What a driver sees at once is an error (1); what only the engine would notice is a fault that ends
 * the copy, and with it the context.
 */
static int resolve(uint64_t address, uint64_t bytes, struct Context *context, const char *function, int *fault, uint64_t *offset) {
  const struct Range *range = range_of(address);
  if (!is_device_address(address)) {
    violation(V_BAD_POINTER, "%s: 0x%llx is no device address", function, (unsigned long long)address);
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (range == NULL || !range->alive) {
    violation(range == NULL ? V_OUT_OF_BOUNDS : V_USE_AFTER_FREE, "%s: 0x%llx (%llu bytes) %s", function, (unsigned long long)address,
              (unsigned long long)bytes, range == NULL ? "lies in no allocation" : "was freed");
    *fault = CUDA_ERROR_ILLEGAL_ADDRESS;
  } else if (bytes > range->bytes - (address - range->address)) {
    violation(V_OUT_OF_BOUNDS, "%s: 0x%llx and %llu bytes ends behind the allocation 0x%llx of %llu bytes", function, (unsigned long long)address,
              (unsigned long long)bytes, (unsigned long long)range->address, (unsigned long long)range->bytes);
    *fault = CUDA_ERROR_ILLEGAL_ADDRESS;
  } else {
    if (range->device != device_of(context)) lint(L_OTHER_DEVICE);
    *offset = range->offset + (address - range->address);
  }
  return CUDA_SUCCESS;
}

/** Host memory that a copy is to use, as a driver checks it. */
static int check_host(uint64_t address, uint64_t bytes, struct Context *context, const char *function) {
  if (is_device_address(address)) {
    violation(V_BAD_POINTER, "%s: 0x%llx is a device address, not the host's", function, (unsigned long long)address);
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (address == 0 || !is_mapped(address, bytes)) {
    violation(V_HOST_UNMAPPED, "%s: host memory 0x%llx (%llu bytes) is not mapped", function, (unsigned long long)address, (unsigned long long)bytes);
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!is_registered(address, bytes, device_of(context))) lint(L_PAGEABLE_COPY);
  return CUDA_SUCCESS;
}

/** Whether a copy that is waiting will itself write to a host range: then what is there now is not what is to be copied. */
static int will_be_written(uint64_t address, uint64_t bytes) {
  for (int at = 0; at < stream_limit(); at++) {
    const struct Stream *stream = stream_at(at);
    for (const struct Operation *operation = stream == NULL ? NULL : stream->head; operation != NULL; operation = operation->next)
      if (host_is_target(operation) && overlap(operation->to, operation->bytes, address, bytes)) return 1;
  }
  return 0;
}

/** Checks a copy and makes the operation for it. Nothing is queued. `*out` stays NULL for a copy of nothing. */
static int prepare(int kind, uint64_t to, uint64_t from, uint64_t bytes, struct Context *context, const char *function, struct Operation **out) {
  struct Operation wanted = {.kind = kind, .device = device_of(context), .from = from, .to = to, .bytes = bytes};
  *out = NULL;
  if (bytes == 0) return CUDA_SUCCESS;
  int code = CUDA_SUCCESS;
  if (kind == OP_HTOD) code = check_host(from, bytes, context, function);
  else if (kind != OP_MEMSET) code = resolve(from, bytes, context, function, &wanted.fault, &wanted.from_offset);
  if (code == CUDA_SUCCESS) {
    if (kind == OP_DTOH) code = check_host(to, bytes, context, function);
    else code = resolve(to, bytes, context, function, &wanted.fault, &wanted.to_offset);
  }
  if (code != CUDA_SUCCESS) return code;
  if (kind == OP_HTOD && !will_be_written(from, bytes)) {
    wanted.hash = hash_host(from, bytes);
    wanted.hashed = 1;
  }
  if ((*out = malloc(sizeof wanted)) == NULL) abort();
  **out = wanted;
  return CUDA_SUCCESS;
}

static int submit(int kind, uint64_t to, uint64_t from, uint64_t bytes, uint64_t stream_handle, struct Context *context, int function) {
  struct Stream *stream = stream_of(stream_handle, context, function_names[function]);
  if (stream == NULL) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->device != device_of(context)) {
    violation(V_BAD_HANDLE, "%s: stream of device %d, current context of device %d", function_names[function], stream->device, device_of(context));
    return CUDA_ERROR_INVALID_HANDLE;
  }
  struct Operation *operation;
  int code = prepare(kind, to, from, bytes, context, function_names[function], &operation);
  if (operation != NULL) push(stream, operation);
  return code;
}

API int cuMemcpyHtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, uint64_t stream) {
  struct Context *context;
  ENTER(cuMemcpyHtoDAsync_v2, NEEDS_CONTEXT, &context);
  return leave(submit(OP_HTOD, to, from, bytes, stream, context, F_cuMemcpyHtoDAsync_v2));
}

API int cuMemcpyDtoHAsync_v2(uint64_t to, uint64_t from, size_t bytes, uint64_t stream) {
  struct Context *context;
  ENTER(cuMemcpyDtoHAsync_v2, NEEDS_CONTEXT, &context);
  return leave(submit(OP_DTOH, to, from, bytes, stream, context, F_cuMemcpyDtoHAsync_v2));
}

API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, uint64_t stream) {
  struct Context *context;
  ENTER(cuMemcpyDtoDAsync_v2, NEEDS_CONTEXT, &context);
  return leave(submit(OP_DTOD, to, from, bytes, stream, context, F_cuMemcpyDtoDAsync_v2));
}

API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, uint64_t stream_handle) {
  struct Context *context;
  ENTER(cuMemsetD8Async, NEEDS_CONTEXT, &context);
  code = submit(OP_MEMSET, to, 0, bytes, stream_handle, context, F_cuMemsetD8Async);
  if (code == CUDA_SUCCESS && bytes > 0) stream_of(stream_handle, context, "cuMemsetD8Async")->tail->value = value;
  return leave(code);
}

#ifndef KVTIER_EMULATOR_WITHOUT_BATCH
/** CUmemcpyAttributes: order in which the source is read (1 stream, 2 during the call, 3 any), two hints of a place, flags. */
struct CopyAttributes {
  int access_order, source_kind, source_id, target_kind, target_id;
  unsigned flags;
};

/** The direction follows from the addresses. Rows are checked before any is queued: the whole batch or nothing. */
API int cuMemcpyBatchAsync(const uint64_t *to, const uint64_t *from, const size_t *bytes, size_t rows, const struct CopyAttributes *attributes,
                           const size_t *attribute_starts, size_t attribute_count, size_t *fail_index, uint64_t stream_handle) {
  struct Context *context;
  ENTER(cuMemcpyBatchAsync, NEEDS_CONTEXT, &context);
  if (fail_index != NULL) *fail_index = SIZE_MAX; // not about one row
  if (to == NULL || from == NULL || bytes == NULL || rows == 0 || attributes == NULL || attribute_starts == NULL || attribute_count == 0 ||
      attribute_count > rows || attribute_starts[0] != 0 || stream_handle <= 2)
    return leave(CUDA_ERROR_INVALID_VALUE);
  for (size_t at = 0; at < attribute_count; at++) {
    const int ordered = at == 0 || (attribute_starts[at] > attribute_starts[at - 1] && attribute_starts[at] < rows);
    if (!ordered || attributes[at].access_order < 1 || attributes[at].access_order > 3) return leave(CUDA_ERROR_INVALID_VALUE);
  }
  struct Stream *stream = stream_of(stream_handle, context, "cuMemcpyBatchAsync");
  if (stream == NULL || stream->device != device_of(context)) return leave(CUDA_ERROR_INVALID_HANDLE);
  struct Operation *first = NULL, **last = &first;
  for (size_t at = 0; at < rows && code == CUDA_SUCCESS; at++) {
    const int from_device = is_device_address(from[at]), to_device = is_device_address(to[at]);
    struct Operation *operation = NULL;
    if (bytes[at] == 0 || (!from_device && !to_device)) code = CUDA_ERROR_INVALID_VALUE; // host to host is not this engine's
    else code = prepare(from_device ? (to_device ? OP_DTOD : OP_DTOH) : OP_HTOD, to[at], from[at], bytes[at], context, "cuMemcpyBatchAsync", &operation);
    if (code != CUDA_SUCCESS && fail_index != NULL) *fail_index = at;
    if (operation != NULL) *last = operation, last = &operation->next;
  }
  while (first != NULL) {
    struct Operation *operation = first;
    first = first->next;
    if (code == CUDA_SUCCESS) push(stream, operation);
    else free(operation);
  }
  return leave(code);
}
#endif

/* ---- Memory of other processes ---------------------------------------------------------------------------------------------------- */

/** What a handle's 64 bytes say; the rest are zeros. */
struct Handle {
  uint64_t magic, id, nonce, row, check, zeros[3];
};
_Static_assert(sizeof(struct Handle) == 64, "CUipcMemHandle has 64 bytes");

static uint64_t handle_check(const struct Handle *handle) { return mix(handle->id ^ mix(handle->nonce ^ mix(handle->row))); }

API int cuIpcGetMemHandle(struct Handle *handle, uint64_t pointer) {
  ENTER(cuIpcGetMemHandle, NEEDS_CONTEXT, NULL);
  if (handle == NULL) return leave(CUDA_ERROR_INVALID_VALUE);
  struct Range *range = range_of(pointer);
  if (range == NULL || range->address != pointer || !range->alive || range->imported) {
    violation(V_BAD_POINTER, "cuIpcGetMemHandle: 0x%llx is the base of no allocation of this process", (unsigned long long)pointer);
    return leave(CUDA_ERROR_INVALID_VALUE);
  }
  *handle = (struct Handle){.magic = MAGIC, .id = range->id, .nonce = shared->allocations[range->row].nonce, .row = range->row};
  handle->check = handle_check(handle);
  return leave(CUDA_SUCCESS);
}

API int cuIpcOpenMemHandle_v2(uint64_t *out, struct Handle handle, unsigned flags) {
  struct Context *context;
  ENTER(cuIpcOpenMemHandle_v2, NEEDS_CONTEXT, &context);
  if (out == NULL || flags != 1) return leave(CUDA_ERROR_INVALID_VALUE); // CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS is the only flag, and it is required
  if (handle.magic != MAGIC || handle.row >= MAX_ALLOCATIONS || handle.check != handle_check(&handle)) return leave(CUDA_ERROR_INVALID_HANDLE);
  lock_shared();
  struct Allocation *row = &shared->allocations[handle.row];
  const uint64_t mine = 1ull << local.slot;
  struct Range *range = NULL;
  if (row->id != handle.id || row->nonce != handle.nonce || (row->freed && !(row->opened_by & mine))) code = CUDA_ERROR_INVALID_HANDLE;
  else if (row->owner == (uint32_t)local.slot) code = CUDA_ERROR_INVALID_CONTEXT;
  else if (row->device != (uint32_t)device_of(context)) code = CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
  for (int at = 0; code == CUDA_SUCCESS && at < local.range_count && range == NULL; at++)
    if (local.ranges[at].alive && local.ranges[at].imported && local.ranges[at].id == handle.id) range = &local.ranges[at];
  if (code == CUDA_SUCCESS && range != NULL) {
    range->opens++; // opened again: the same pointer
  } else if (code == CUDA_SUCCESS) {
    range = add_range(row->bytes);
    if (range == NULL) {
      code = CUDA_ERROR_MAP_FAILED;
    } else {
      row->opened_by |= mine;
      range->id = row->id, range->row = (uint32_t)handle.row, range->offset = row->offset, range->device = (int)row->device;
      range->imported = 1, range->opens = 1;
      alive(T_IMPORTS, 1);
    }
  }
  unlock_shared();
  if (code == CUDA_ERROR_INVALID_CONTEXT) violation(V_OWN_HANDLE, "cuIpcOpenMemHandle_v2: this process exported the handle");
  if (code == CUDA_SUCCESS) *out = range->address;
  return leave(code);
}

API int cuIpcCloseMemHandle(uint64_t pointer) {
  struct Context *context;
  ENTER(cuIpcCloseMemHandle, NEEDS_CONTEXT, &context);
  struct Range *range;
  code = base_of(pointer, 1, "cuIpcCloseMemHandle", &range);
  if (code != 0) return leave(code);
  if (--range->opens > 0) return leave(CUDA_SUCCESS);
  if (in_flight_on(range)) violation(V_FREED_IN_FLIGHT, "cuIpcCloseMemHandle: a copy on 0x%llx is in flight", (unsigned long long)pointer);
  if (context->in_flight > 0) lint(L_SYNC_IN_FLIGHT);
  range->alive = 0;
  drain(&local.contexts[range->device]);
  range = range_of(pointer);
  lock_shared();
  let_go(range);
  unlock_shared();
  alive(T_IMPORTS, -1);
  return leave(CUDA_SUCCESS);
}

/* ---- Errors ----------------------------------------------------------------------------------------------------------------------- */

static int word_for(int code, int text, const char **out) {
  if (out == NULL) return CUDA_ERROR_INVALID_VALUE;
  *out = NULL;
  for (size_t at = 0; at < sizeof results / sizeof results[0]; at++)
    if (results[at].code == code) *out = text ? results[at].text : results[at].name;
  return *out == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

API int cuGetErrorName(int error, const char **out) {
  ENTER(cuGetErrorName, NEEDS_NOTHING, NULL);
  return leave(word_for(error, 0, out));
}

API int cuGetErrorString(int error, const char **out) {
  ENTER(cuGetErrorString, NEEDS_NOTHING, NULL);
  return leave(word_for(error, 1, out));
}

/* ---- The other side of the counter: what tests and demos do to the machine ----------------------------------------------------------
 * None of these is counted as a call or needs cuInit. They return 0, or -1 with the reason in kvtierEmuFailure().
 */

API const char *kvtierEmuFailure(void) { return local.failure; }

/**
 * Joins the machine at a path (NULL: the environment's or the user's) before any other call does. With options (see parse_options) the
 * machine is made anew, which nobody else may be in. Ends a former stay first.
 */
API int kvtierEmuStop(void);
API int kvtierEmuStart(const char *path, const char *options) {
  if (local.started) kvtierEmuStop();
  pthread_mutex_lock(&local_lock);
  return leave(start(path, options));
}

/** Leaves the machine as a process that ends does: whatever is alive counts as leaked. Removes the file where nobody else is in it. */
API int kvtierEmuStop(void) {
  pthread_mutex_lock(&local_lock);
  if (!local.started) return leave(0);
  local.thread_stops = 1;
  pthread_cond_signal(&work);
  pthread_mutex_unlock(&local_lock);
  if (local.thread_runs) pthread_join(local.thread, NULL);
  pthread_mutex_lock(&local_lock);
  for (int device = 0; device < MAX_DEVICES; device++) {
    if (local.contexts[device].retained == 0) continue;
    abandon(&local.contexts[device]);
    destroy_context(&local.contexts[device]);
    count(&shared->leaks[T_CONTEXTS]);
  }
  flock(local.fd, LOCK_EX);
  lock_shared();
  shared->processes[local.slot].used = 0;
  unlock_shared();
  int others = 0;
  for (int slot = 0; slot < MAX_PROCESSES; slot++) others += slot != local.slot && slot_lives(slot);
  if (others == 0) unlink(local.path);
  munmap(shared, DATA_OFFSET);
  munmap(local.scratch, 2 * CHUNK);
  close(local.scratch_fd);
  close(local.fd);
  shared = NULL;
  local.fd = local.scratch_fd = 0;
  local.started = local.initialized = local.thread_runs = local.first_context_thread = local.stream_end = local.event_end = local.event_hint = 0;
  local.draining = 0;
  local.steps = local.stepped = 0;
  memset(local.engine_free_ns, 0, sizeof local.engine_free_ns);
  local.stopped = 1;
  return leave(0);
}

static int begin_command(void) {
  pthread_mutex_lock(&local_lock);
  return local.started ? 0 : start(NULL, NULL);
}

/** Changes options of the running machine, for all processes. */
API int kvtierEmuOptions(const char *text) {
  if (begin_command() != 0) return leave(-1);
  lock_shared();
  struct Options options = shared->options;
  int result = parse_options(&options, text);
  if (result == 0) shared->options = options;
  unlock_shared();
  if (result != 0) snprintf(local.failure, sizeof local.failure, "options are not understood");
  pthread_cond_signal(&work);
  pthread_cond_broadcast(&done);
  return leave(result);
}

/**
 * Ends up to `copies` copies that are in flight in this process, each in a stream drawn by lot (option manual). Returns how many ended, when
 * all marks behind them are passed and all that can begin has begun.
 */
API int kvtierEmuStep(int copies) {
  if (begin_command() != 0) return leave(-1);
  if (!local.thread_runs || copies <= 0 || !shared->options.manual) return leave(0);
  local.stepped = 0;
  local.steps = copies;
  local.settled = 0;
  pthread_cond_signal(&work);
  while (!local.settled) pthread_cond_wait(&done, &local_lock);
  return leave((int)local.stepped);
}

/** The calls number `nth`, nth + 1, ... nth + times - 1 from now of a function ("*": any), in any process, answer `code` and do nothing, or what they do where they give something back. */
API int kvtierEmuInject(const char *function, int nth, int code, int times) {
  if (begin_command() != 0) return leave(-1);
  int known = strcmp(function, "*") == 0, result = -1;
  for (int at = 0; at < FUNCTION_COUNT; at++) known |= strcmp(function, function_names[at]) == 0;
  lock_shared();
  for (int at = 0; known && nth > 0 && times > 0 && at < MAX_INJECTIONS && result != 0; at++) {
    struct Injection *row = &shared->injections[at];
    if (row->times != 0) continue;
    *row = (struct Injection){.code = code, .times = (uint32_t)times, .countdown = nth};
    snprintf(row->name, sizeof row->name, "%s", function);
    shared->injection_count++;
    result = 0;
  }
  unlock_shared();
  if (result != 0) snprintf(local.failure, sizeof local.failure, "no such function, or too many injections");
  return leave(result);
}

API int kvtierEmuClearInjections(void) {
  if (begin_command() != 0) return leave(-1);
  lock_shared();
  memset(shared->injections, 0, sizeof shared->injections);
  shared->injection_count = 0;
  unlock_shared();
  return leave(0);
}

/**
 * Loses a device for all processes: contexts on it answer `code` for good, and it cannot be opened. With after_copies at the end of that many
 * copies from now, of which the last one is cut in half. Code 0 heals it; contexts that were on it stay dead.
 */
API int kvtierEmuLoseDevice(int device, int code, int after_copies) {
  if (begin_command() != 0) return leave(-1);
  if (device < 0 || device >= MAX_DEVICES) return leave(-1);
  shared->lose_code[device] = code;
  __atomic_store_n(&shared->lose_countdown[device], after_copies > 0 && code != 0 ? after_copies : 0, __ATOMIC_RELEASE);
  if (after_copies <= 0 || code == 0) __atomic_store_n(&shared->lost[device], code, __ATOMIC_RELEASE);
  pthread_cond_signal(&work);
  return leave(0);
}

/** Flips one bit in every 4 KiB of what is allocated on a device, in all processes: memory that went bad without saying so. Bytes hit. */
API int kvtierEmuCorrupt(int device) {
  if (begin_command() != 0) return leave(-1);
  int hit = 0;
  lock_shared();
  for (int at = 0; at < MAX_ALLOCATIONS; at++) {
    const struct Allocation *row = &shared->allocations[at];
    for (uint64_t offset = 0; row->id != 0 && row->device == (uint32_t)device && offset < row->bytes; offset += 4096) {
      uint8_t byte;
      if (read_device(local.fd, row->offset + offset, (uint64_t)&byte, 1) != 0) continue;
      byte ^= 1;
      hit += write_device(local.fd, row->offset + offset, (uint64_t)&byte, 1) == 0;
    }
  }
  unlock_shared();
  return leave(hit);
}

struct Text {
  char *at;
  uint64_t room, length;
};

__attribute__((format(printf, 2, 3))) static void say(struct Text *text, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  uint64_t left = text->length < text->room ? text->room - text->length : 0;
  int wanted = vsnprintf(left > 0 ? text->at + text->length : NULL, left, format, arguments);
  va_end(arguments);
  text->length += (uint64_t)wanted;
}

static void say_counts(struct Text *text, const char *name, const char *const *names, const uint64_t *counts, int rows) {
  const char *comma = "";
  say(text, "\"%s\":{", name);
  for (int at = 0; at < rows; at++) {
    if (counts[at] == 0) continue;
    say(text, "%s\"%s\":%llu", comma, names[at], (unsigned long long)counts[at]);
    comma = ",";
  }
  say(text, "},");
}

/**
 * Everything that was counted, as JSON and a zero byte: calls, violations, lint, leaks, reaped (what dead processes held), copies, copiedBytes,
 * usedBytes (a device each), alive (of this process, then of all), texts (of the last violations). Counts of 0 are left out. Returns the
 * length of the text; where that is not below `room` the text is cut and the caller asks again with more.
 */
API int kvtierEmuReport(char *out, int room) {
  if (begin_command() != 0) return leave(-1);
  struct Text text = {.at = out, .room = (uint64_t)room};
  uint64_t all[THING_COUNT] = {0};
  lock_shared();
  reap_dead();
  for (int slot = 0; slot < MAX_PROCESSES; slot++)
    for (int thing = 0; shared->processes[slot].used && thing < THING_COUNT; thing++) all[thing] += shared->processes[slot].live[thing];
  say(&text, "{");
  say_counts(&text, "calls", function_names, shared->calls, FUNCTION_COUNT);
  say_counts(&text, "violations", violation_names, shared->violations, VIOLATION_COUNT);
  say_counts(&text, "lint", lint_names, shared->lint, LINT_COUNT);
  say_counts(&text, "leaks", thing_names, shared->leaks, THING_COUNT);
  say_counts(&text, "reaped", thing_names, shared->reaped, THING_COUNT);
  say_counts(&text, "alive", thing_names, shared->processes[local.slot].live, THING_COUNT);
  say_counts(&text, "aliveInAll", thing_names, all, THING_COUNT);
  say(&text, "\"copies\":%llu,\"copiedBytes\":%llu,\"usedBytes\":[", (unsigned long long)shared->copies, (unsigned long long)shared->copied_bytes);
  for (uint64_t device = 0; device < shared->options.devices; device++) say(&text, "%s%llu", device == 0 ? "" : ",", (unsigned long long)shared->used[device]);
  say(&text, "],\"texts\":[");
  const uint64_t end = shared->text_count, first = end > MAX_TEXTS ? end - MAX_TEXTS : 0;
  for (uint64_t at = first; at < end; at++) say(&text, "%s\"%s\"", at == first ? "" : ",", shared->texts[at % MAX_TEXTS]);
  say(&text, "]}");
  unlock_shared();
  return leave((int)text.length);
}
