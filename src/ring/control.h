/* control.h: the control conversation between the server and one worker: JSON documents with file descriptors
 * over a SOCK_SEQPACKET pair. Slow path only: start, prepare, retire, stop, health. One document per packet,
 * field "op" from the server, "event" from the worker. Both sides check every field; an unknown op is answered
 * with an error event, so versions can meet.
 *
 * server -> worker
 *   init     {device, arena_bytes, records, profile, plugin_dir, spin_us} + [arena fd]
 *            device: "cpu:0-1" (cores), "cuda:0", "sim:h200#0"; profile: directory for sim's latencies, or ""
 *   prepare  {generation, beside, lanes:[{gpulet, first, granules, shared, cost_us, models:[{spec, sizes:[4,1,8],
 * needed, slo_us, planned}]}]}
 *            + [lanes fd, done eventfd, submit eventfd of each lane...]
 *            The worker loads what it does not have and prepares the sizes in the order given, lane by lane (cheap ones
 * first, by |cost_us|: how long they took before; 0: not known). A lane serves as soon as the first |needed| sizes of
 * each of its models are prepared and measured (left out: all); |slo_us| above 0: with the second one too, where the
 * first alone cannot keep that. The other sizes are added while it serves. |beside|: other workers serve on this
 * device, or prepare to. |planned|: the server has a latency from the plan, so that nothing need be run to measure it
 * beside gpu-lets that serve. retire   {generation}            finish what is on its rings; what only it used is freed
 * later, bit by bit stop     {}                      finish everything, exit 0 worker -> server ready    {pid, device,
 * type, sms, granules, granule_sms, memory_bytes} progress {generation, text, done, total} lane     {generation,
 * lanes:[{gpulet, models:[{name, memory_bytes, output_row_bytes, eager: <why, or "">, took_us, sizes:[{size, p50_us,
 * p99_us, beside}]}]}]}   one lane, which serves from now on. 0 us: not measured (shapes vary, or others serve);
 * beside: measured beside traffic, the least of a few runs stands for both prepared {generation, lanes:[...]}   all
 * lanes serve size     {generation, gpulet, model: index, memory_bytes, size: {size, p50_us, p99_us, beside} or {size,
 * failed: why}} one more size can be run by that lane, or could not be prepared: the others serve on failed
 * {generation, gpulet, model, code, text}   before it was prepared. Nothing of that generation is kept, nothing of it
 * runs any more (lanes of it may have served); code: let_err, a number retired  {generation}                nothing of
 * it runs any more health   {lanes:[{generation, gpulet, busy_ns, batches}], memory_bytes, gpu: {utilization, power_w,
 * memory_used, memory_total, uuid}} error    {text} The death of either side is the socket's end of file. */
#ifndef LET_RING_CONTROL_H
#define LET_RING_CONTROL_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "model/model.h"

enum { LET_CONTROL_FDS_MAX = 250, LET_CONTROL_BYTES_MAX = 16 << 20 };

LET_CHECKED let_err let_control_pair(int ret_fds[2], let_error *e); /* close-on-exec, non-blocking */

/* Sends |doc| (borrowed) with |n_fds| descriptors. Errors: AGAIN when the socket is full, IO when the peer is
 * gone. Documents larger than a packet are carried in a memfd; the receiver does not notice. */
LET_CHECKED let_err let_control_send(int fd, json_t *doc, const int *fds, int n_fds, let_error *e);

/* Receives one document. Errors: AGAIN when there is none, IO on end of file, INVALID for a malformed packet.
 * On OK the caller owns *ret_doc (json_decref) and the descriptors (close). */
LET_CHECKED let_err let_control_recv(int fd, json_t **ret_doc, int ret_fds[LET_CONTROL_FDS_MAX], int *ret_n_fds,
                                     let_error *e);

/* A model's configuration as a document and back. get checks every field. */
json_t *let_control_model_put(const let_model *m); /* new reference; NULL: out of memory */
LET_CHECKED let_err let_control_model_get(const json_t *doc, let_model *ret, let_error *e);

#endif
