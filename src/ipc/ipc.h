/* ipc.h: the messages between the server and one worker: a struct for each, and their bytes. Slow path only: start,
 * prepare, retire, stop, and what the worker says about it. Batches travel on the lanes (ring/ring.h).
 *
 * On the wire a message is a header and the fields of its struct, one after the other, little-endian, without padding:
 *   u32 magic, u16 version, u16 type, u32 length of what follows.
 * Texts and lists carry their length first. One function per message (command.c, event.c) names every field with its
 * range; it encodes, decodes and checks, so that the three cannot differ. Nothing is encoded that would not be decoded.
 *
 * Why not JSON: both ends come from one build and no other program reads these bytes, so names in every message gain
 * nothing; every field would still need its type, range and count checked by hand after the parser; and the parser
 * allocates what the peer asks for. Here a message that is refused costs no more than the arena's bounded total.
 * The same binary is both ends, so a header of another version is refused and not translated.
 *
 * What may come when is conversation.h's part; sockets and descriptors are socket.h's. */
#ifndef LET_IPC_IPC_H
#define LET_IPC_IPC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "model/ids.h"
#include "model/model.h"

enum {
  LET_IPC_VERSION = 1,
  LET_IPC_HEADER = 12,          /* bytes */
  LET_IPC_BYTES_MAX = 16 << 20, /* one message, header included */
  LET_IPC_LANES_MAX = 64,       /* lanes of one set; a device has numbers for as many gpu-lets */
  LET_IPC_MODELS_MAX = 1024,    /* models of one message, all lanes together */
  LET_IPC_HEALTH_MAX = 1024,    /* lanes of one HEALTH: all sets that the worker holds */
  LET_IPC_TEXT_MAX = 512,       /* bytes of a sentence for a person, terminator included */
  LET_IPC_PATH_MAX = 4096,      /* bytes of a path, terminator included */
  LET_IPC_UUID_MAX = 64,        /* bytes of a device's identity, terminator included */
  LET_IPC_FDS_MAX = 2 + LET_IPC_LANES_MAX
};
#define LET_IPC_MAGIC      UINT32_C(0x3154454c) /* "LET1" */
#define LET_IPC_MEMORY_MAX (UINT64_C(1) << 50)  /* bytes: less than this */
#define LET_IPC_TIME_MAX   (INT64_C(1) << 55)   /* ns, a little more than a year: at most this */

/* ---- server -> worker -------------------------------------------------------------------------------------------- */

/* The first message, with one descriptor: the arena's. Answered by READY, or by ERROR and the end of the process. */
typedef struct let_ipc_init {
  const char *device;      /* "cpu:0-1" (cores), "cuda:0", "sim:h200#0"; never empty */
  const char *profile_dir; /* for sim's latencies; "": none */
  const char *plugin_dir;  /* where engines' libraries are looked for; "": the default */
  uint64_t arena_bytes;
  uint32_t records; /* request records in the arena */
  let_dur spin;     /* how long an idle lane polls before it sleeps */
} let_ipc_init;

/* One model of one lane, with the batch sizes to prepare, in this order. The sizes are different from each other. */
typedef struct let_ipc_variant {
  const let_model *model;
  uint8_t n_sizes; /* 1..LET_SIZES_MAX */
  uint32_t size[LET_SIZES_MAX];
  uint8_t needed; /* 1..n_sizes: the lane serves once the first |needed| sizes are prepared */
  let_dur slo;    /* above 0: and the second one too, where the first alone cannot keep this */
  bool planned;   /* the plan says how long the first size takes: it need not be measured beside traffic */
} let_ipc_variant;

/* One gpu-let. In every other message its position in the list names it. */
typedef struct let_ipc_lane {
  let_gpulet_id gpulet; /* for sentences only */
  uint32_t first, granules;
  bool shared;
  let_dur cost; /* how long bringing it up took before; 0: unknown. Cheap lanes come up first */
  uint32_t n_models;
  const let_ipc_variant *model;
} let_ipc_lane;

/* Make these lanes, with 2 + n_lanes descriptors: the lanes' memory, the done event, each lane's submit event.
 * Answered by one LANE for each lane in any order, then PREPARED, then one SIZE for each size that was not needed; or
 * at any point before PREPARED by FAILED. PROGRESS comes in between. */
typedef struct let_ipc_prepare {
  let_lane_set_id set;
  bool beside; /* other workers serve on this device, or prepare to */
  uint32_t n_lanes;
  const let_ipc_lane *lane;
} let_ipc_prepare;

/* Finish what is on its rings, then let go of it. Answered by RETIRED; by ERROR when FAILED crossed it. */
typedef struct let_ipc_retire {
  let_lane_set_id set;
} let_ipc_retire;

/* 1.. on the wire. STOP has no fields: finish everything, exit 0. */
typedef enum let_ipc_command_type {
  LET_IPC_INIT = 1,
  LET_IPC_PREPARE,
  LET_IPC_RETIRE,
  LET_IPC_STOP,
  LET_IPC_COMMANDS_END
} let_ipc_command_type;

typedef struct let_ipc_command {
  let_ipc_command_type type;
  union {
    let_ipc_init init;
    let_ipc_prepare prepare;
    let_ipc_retire retire;
  };
} let_ipc_command;

/* ---- worker -> server -------------------------------------------------------------------------------------------- */

/* The device is open. Once, and before anything but ERROR. */
typedef struct let_ipc_ready {
  uint32_t pid;
  const char *device, *device_type;
  uint32_t sms, granules, granule_sms;
  uint64_t memory_bytes;
} let_ipc_ready;

/* For people: |model| is being prepared; |done| of the |total| sizes that are needed are ready. */
typedef struct let_ipc_progress {
  let_lane_set_id set;
  const char *model;
  uint32_t done, total;
} let_ipc_progress;

/* How long a batch of |size| rows takes. 0: not measured. */
typedef struct let_ipc_size_time {
  uint32_t size;
  let_dur p50, p99;
  bool beside; /* measured beside traffic: the least of a few runs stands for both */
} let_ipc_size_time;

typedef struct let_ipc_model_report {
  const char *name;
  uint64_t memory_bytes;     /* weights and all sizes that are prepared */
  uint64_t output_row_bytes; /* 0: unknown, or it varies */
  const char *eager;         /* why it runs without a graph; "": it has one */
  let_dur took;              /* to load it and to prepare what was needed */
  uint8_t n_sizes;
  let_ipc_size_time size[LET_SIZES_MAX];
} let_ipc_model_report;

/* One lane serves from now on. Its models are those that were asked for, in that order. */
typedef struct let_ipc_lane_up {
  let_lane_set_id set;
  uint32_t lane;
  uint32_t n_models;
  const let_ipc_model_report *model;
} let_ipc_lane_up;

/* All lanes serve; each was reported. */
typedef struct let_ipc_prepared {
  let_lane_set_id set;
} let_ipc_prepared;

/* One more size can be run, or could not be prepared: |failed| says why, and the others serve on. */
typedef struct let_ipc_size {
  let_lane_set_id set;
  uint32_t lane, model; /* positions in PREPARE */
  uint64_t memory_bytes;
  let_ipc_size_time time; /* its p50, p99 and beside are 0 when it failed */
  const char *failed;     /* "": it is ready */
} let_ipc_size;

/* Before PREPARED. Nothing of this set is kept and nothing of it runs any more; lanes of it may have served. */
typedef struct let_ipc_failed {
  let_lane_set_id set;
  uint32_t lane;     /* that was being brought up */
  const char *model; /* "": no model's fault */
  let_err code;      /* never OK */
  const char *text;
} let_ipc_failed;

/* Nothing of this set runs any more. */
typedef struct let_ipc_retired {
  let_lane_set_id set;
} let_ipc_retired;

typedef struct let_ipc_lane_health {
  let_lane_set_id set;
  uint32_t lane;
  let_dur busy;     /* spent in batches since it serves */
  uint64_t batches; /* run since then */
} let_ipc_lane_health;

/* Every second once it is ready, between steps. */
typedef struct let_ipc_health {
  uint32_t n_lanes;
  const let_ipc_lane_health *lane;
  uint64_t memory_bytes;              /* of all models */
  double utilization;                 /* of the device, 0 to 1; -1: unknown */
  double power_w;                     /* -1: unknown */
  uint64_t memory_used, memory_total; /* of the device */
  const char *uuid;
} let_ipc_health;

/* Something is wrong, in a sentence. May come at any time; often the last words of a process. */
typedef struct let_ipc_error {
  const char *text;
} let_ipc_error;

/* 65.. on the wire, so that a command is never taken for an event. */
typedef enum let_ipc_event_type {
  LET_IPC_READY = 65,
  LET_IPC_PROGRESS,
  LET_IPC_LANE_UP,
  LET_IPC_PREPARED,
  LET_IPC_SIZE,
  LET_IPC_FAILED,
  LET_IPC_RETIRED,
  LET_IPC_HEALTH,
  LET_IPC_ERROR,
  LET_IPC_EVENTS_END
} let_ipc_event_type;

typedef struct let_ipc_event {
  let_ipc_event_type type;
  union {
    let_ipc_ready ready;
    let_ipc_progress progress;
    let_ipc_lane_up lane_up;
    let_ipc_prepared prepared;
    let_ipc_size size;
    let_ipc_failed failed;
    let_ipc_retired retired;
    let_ipc_health health;
    let_ipc_error error;
  };
} let_ipc_event;

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

const char *let_ipc_command_name(let_ipc_command_type t); /* "PREPARE"; "unknown" for a number out of range */
const char *let_ipc_event_name(let_ipc_event_type t);

/* Would |m| be encoded? Errors: INVALID and a sentence with message and field, TOO_LARGE. */
LET_CHECKED let_err let_ipc_command_check(const let_ipc_command *m, let_error *e);
LET_CHECKED let_err let_ipc_event_check(const let_ipc_event *m, let_error *e);

/* Appends |m| to |out|. Sentences for people that are too long or no UTF-8 are made to fit. Errors: those of
 * check, NOMEM; |out| is then as it was. */
LET_CHECKED let_err let_ipc_command_encode(const let_ipc_command *m, let_buf *out, let_error *e);
LET_CHECKED let_err let_ipc_event_encode(const let_ipc_event *m, let_buf *out, let_error *e);

/* Reads one whole message, which must be private memory. What *ret points to lives in |a|; it takes at most
 * LET_IPC_DECODED_MAX bytes there. Errors: INVALID with a sentence that names message and field, NOMEM. */
LET_CHECKED let_err let_ipc_command_decode(let_str bytes, let_arena *a, let_ipc_command *ret, let_error *e);
LET_CHECKED let_err let_ipc_event_decode(let_str bytes, let_arena *a, let_ipc_event *ret, let_error *e);
enum { LET_IPC_DECODED_MAX = 48 << 20 };

/* Length of the message that begins with these LET_IPC_HEADER bytes, header included. INVALID: no such header. */
LET_CHECKED let_err let_ipc_length(const unsigned char header[LET_IPC_HEADER], uint32_t *ret, let_error *e);

/* How many descriptors come with |m|. Events bring none. */
uint32_t let_ipc_command_fds(const let_ipc_command *m);

#endif
