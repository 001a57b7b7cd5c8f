/* cpu_device.h: the machine's cores as a device: a granule is one core. "cpu:0-1,4" lists the cores; "cpu" alone
 * is all this process may use. */
#ifndef LET_DEVICE_CPU_CPU_DEVICE_H
#define LET_DEVICE_CPU_CPU_DEVICE_H

#include "device/device.h"

/* |cores|: "0-1,4", or "" for all. */
LET_CHECKED let_err let_cpu_device_open(const char *cores, let_device **ret, let_error *e);
LET_CHECKED let_err let_cpu_device_type(const char *cores, let_device_type *ret, let_error *e);

#endif
