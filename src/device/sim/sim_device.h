/* sim_device.h: a device that takes the time a profile says and computes nothing: many-GPU behaviour on any
 * machine, in real time, through the same workers and rings. "sim:h200#3" is the fourth of them; `--devices
 * sim:h200x4` is all four.
 *
 * A batch of a model takes what the profile measured for (model, batch, granules): the median, give or take half a
 * percent, and once in fifty the p99; times the interference that the profile's fitted model predicts for the
 * batches that run on the device's other gpu-lets when it starts (those are not slowed in turn: each batch's time
 * is fixed when it starts). Gpu-lets with |shared| divide the device: n at once take n times as long. Bytes come
 * from the null engine. Noise is seeded by the device's name and the gpu-let: a run repeats as far as its arrivals do.
 *
 * The profile directory is as `gpulet profile` writes it, or holds only a raw latency.csv (model,batch,sms,ms) of
 * an H200. Without a directory the device exists (an H200) but has no latencies: every model is refused. */
#ifndef LET_DEVICE_SIM_SIM_DEVICE_H
#define LET_DEVICE_SIM_SIM_DEVICE_H

#include "device/device.h"

/* |name|: "h200#3"; |profile_dir| may be "". */
LET_CHECKED let_err let_sim_device_open(const char *name, const char *profile_dir, let_device **ret, let_error *e);
/* |spec|: "h200x4", "h200", "h200#3". */
LET_CHECKED let_err let_sim_device_list(const char *spec, const char *profile_dir, let_device_name *ret, uint32_t cap,
                                        uint32_t *ret_n, let_error *e);

#endif
