"""No allocation per request once warm, in the whole server process and in its workers; and little memory besides the
arena. Counted by a preloaded malloc, so not under sanitizers, which bring their own."""
import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest

from harness import SANITIZED, Server, main, null_model, repository

COUNTER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
static _Atomic unsigned long unseen, *count = &unseen;
void *malloc(size_t n) { atomic_fetch_add(count, 1); return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { atomic_fetch_add(count, 1); return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { atomic_fetch_add(count, 1); return __libc_realloc(p, n); }
__attribute__((constructor)) static void begin(void) {
  char path[512];
  snprintf(path, sizeof path, "%s/count.%d", getenv("ALLOC_COUNTS"), (int)getpid());
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, sizeof *count)) abort();
  void *p = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) abort();
  close(fd);
  count = p;
}
"""


def resident_anonymous(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("RssAnon")) * 1024


@unittest.skipIf(SANITIZED, "sanitizers replace malloc")
@unittest.skipUnless(shutil.which("cc"), "needs a C compiler")
class Allocations(unittest.TestCase):
    WARM, COUNTED, PIECE = 800, 5000, 80

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        source, self.library = os.path.join(self.dir.name, "counter.c"), os.path.join(self.dir.name, "counter.so")
        with open(source, "w") as f:
            f.write(COUNTER)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", self.library, source], check=True)

    def count(self, pid):
        with open(os.path.join(self.dir.name, f"count.{pid}"), "rb") as f:
            return struct.unpack("L", f.read(struct.calcsize("L")))[0]

    def bodies(self):
        row = [float(i) for i in range(16)]
        raw = struct.pack("<16f", *row)
        head = json.dumps(
            {
                "inputs": [
                    {"name": "IN", "datatype": "FP32", "shape": [1, 16], "parameters": {"binary_data_size": len(raw)}}
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        text = json.dumps(
            {"id": "a", "inputs": [{"name": "IN", "datatype": "FP32", "shape": [1, 16], "data": row}]}
        ).encode()
        return [
            (head + raw, {"Inference-Header-Content-Length": str(len(head))}),
            (text, {"Content-Type": "application/json"}),
        ]

    def drive(self, s, conns, n):
        """Keep-alive connections, all with a request in flight, so that batches of many sizes form."""
        bodies = self.bodies()
        for k in range(0, n, len(conns)):
            for i, c in enumerate(conns):
                body, headers = bodies[(k // len(conns) + i) % 2]
                c.request("POST", "/v2/models/null/infer", body, headers)
            for c in conns:
                r = c.getresponse()
                self.assertEqual(r.status, 200, r.read())
                r.read()

    def test_none_per_request(self):
        repository(os.path.join(self.dir.name, "models"), null=null_model(slo_ms=30000))
        env = {"LD_PRELOAD": self.library, "ALLOC_COUNTS": self.dir.name}
        with Server(os.path.join(self.dir.name, "models"), env=env) as s:
            conns = [s.connect() for _ in range(8)]
            self.drive(s, conns, self.WARM)
            pids = {"server": s.proc.pid, **{f"worker {i}": w for i, w in enumerate(s.workers())}}
            for k, p in pids.items():
                before = self.count(p)
                if k == "server":
                    s.metrics()
                    self.assertGreater(self.count(p), before, "the counter counts")
                self.assertGreater(before, 0, "the counter counts")
            # Once a second each worker says how it is, in JSON, and the server reads it. That is not per request, and
            # falls into one piece of many; what a request allocates would show in every piece.
            pieces = []
            for _ in range(self.COUNTED // self.PIECE):
                before = {k: self.count(p) for k, p in pids.items()}
                self.drive(s, conns, self.PIECE)
                pieces.append({k: self.count(p) - before[k] for k, p in pids.items()})
            for k in pids:
                counts = sorted(p[k] for p in pieces)
                self.assertEqual(
                    counts[len(counts) // 2], 0, f"allocations of the {k} in pieces of {self.PIECE} requests: {counts}"
                )
            for c in conns:
                c.close()

    def test_server_stays_small(self):
        repository(os.path.join(self.dir.name, "models"), null=null_model(slo_ms=30000))
        with Server(os.path.join(self.dir.name, "models")) as s:
            conns = [s.connect() for _ in range(500)]
            self.drive(s, conns, 3000)
            size = resident_anonymous(s.proc.pid)  # the arena is shared memory and does not count here
            self.assertLess(size, 64 << 20)
            for c in conns:
                c.close()


if __name__ == "__main__":
    main()
