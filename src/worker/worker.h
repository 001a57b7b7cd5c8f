/* worker.h: the process that owns gpu-lets and runs batches. The server starts it and talks to it over a control
 * socket (ipc/socket.h) and lanes (ring/ring.h); it is never started by hand.
 *
 * Threads: the control thread (the caller of let_worker_run) opens devices, loads and prepares; each lane has one
 * thread that takes batches off its ring and runs them on its gpu-let. A lane thread never allocates while it
 * serves models of fixed shape.
 *
 * What ends it: `stop`, or the control socket's end of file (exit 0 both); a gpu-let or device failure, or a batch
 * that outlives the watchdog (ten times its predicted time, at least 5 s): the batch is reported, an error event
 * says why, and the process exits with 1 at once, because only a new process surely gets a sane device.
 *
 * GPULET_WATCHDOG_MS sets another least time than 5 s.
 *
 * Fault injection, for tests: GPULET_FAULT="stage:n" raises SIGKILL at the n-th passage (from 1) of a stage:
 *   init         before `ready` is sent             prepare     before a (model, size) is prepared
 *   take         a batch was taken off the ring     copied      its inputs were copied
 *   launched     it was launched                    before_done it finished, not yet reported
 *   after_done   it was reported
 * and at the n-th passage of "lie" PREPARED is sent a second time, which is out of turn. */
#ifndef LET_WORKER_WORKER_H
#define LET_WORKER_WORKER_H

/* Serves until told to stop. Takes |control_fd| and closes it. Returns the process's exit code. */
int let_worker_run(int control_fd);

#endif
