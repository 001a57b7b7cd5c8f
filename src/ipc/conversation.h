/* conversation.h: the commands sent to one worker, and so the events that it may send. Pure: no socket, no clock.
 *
 * A lane set's states, as the server sees them:
 *
 *     PREPARE sent            all LANE_UP, PREPARED          RETIRE sent              RETIRED
 *   -----------------> preparing -----------------> serving -----------------> retiring ----------> forgotten
 *                          |  RETIRE sent: retiring, and the answers that cross it may still come       ^
 *                          +------------------------------- FAILED ------------------------------------+
 *
 * An event that may not come now, or that names lanes, models or sizes that were not asked for, is an error: the
 * server believes nothing of it and kills the worker. */
#ifndef LET_IPC_CONVERSATION_H
#define LET_IPC_CONVERSATION_H

#include "ipc/ipc.h"

typedef struct let_ipc_conversation let_ipc_conversation;

let_ipc_conversation *let_ipc_conversation_new(const let_mem *mem); /* NULL: out of memory */
void let_ipc_conversation_free(let_ipc_conversation *c);            /* NULL is fine */

/* Notes what the server is about to send. Errors: those of let_ipc_command_check; INVALID: the server may not say
 * this now (INIT twice, a set not newer than all before, the retirement of a set that is not there or FAILED); NOMEM.
 * Nothing changes then. */
LET_CHECKED let_err let_ipc_conversation_send(let_ipc_conversation *c, const let_ipc_command *m, let_error *e);

/* May |m| come now? OK: it is noted. INVALID: a sentence says what was wrong; nothing changes. */
LET_CHECKED let_err let_ipc_conversation_hear(let_ipc_conversation *c, const let_ipc_event *m, let_error *e);

/* For the server's own decisions. */
bool let_ipc_conversation_ready(const let_ipc_conversation *c);                    /* READY came */
bool let_ipc_conversation_has(const let_ipc_conversation *c, let_lane_set_id set); /* asked for and not forgotten */
bool let_ipc_conversation_warming(const let_ipc_conversation *c);                  /* a SIZE is to come */
uint32_t let_ipc_conversation_sets(const let_ipc_conversation *c);                 /* how many there are */

/* Every rule that holds between calls; false: a bug in this file. For tests. */
bool let_ipc_conversation_validate(const let_ipc_conversation *c);

#endif
