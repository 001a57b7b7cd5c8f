"""What the test clients share: tensors over HTTP in the binary tensor extension, and reference files. numpy only."""
import http.client
import json
import os
import urllib.parse

import numpy

DTYPE = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


class Failed(Exception):
    pass


class Client:
    """One keep-alive connection."""

    def __init__(self, url, timeout=60):
        u = urllib.parse.urlparse(url if "//" in url else "http://" + url)
        self.connection = http.client.HTTPConnection(u.hostname, u.port or 8000, timeout=timeout)

    def close(self):
        self.connection.close()

    def infer(self, model, inputs, parameters=None):
        """inputs: {name: (datatype, array)} -> {name: array}"""
        header = {
            "inputs": [
                {"name": n, "datatype": t, "shape": list(a.shape), "parameters": {"binary_data_size": a.nbytes}}
                for n, (t, a) in inputs.items()
            ],
            "parameters": {"binary_data_output": True, **(parameters or {})},
        }
        head = json.dumps(header).encode()
        body = head + b"".join(a.tobytes() for _, a in inputs.values())
        self.connection.request(
            "POST", f"/v2/models/{model}/infer", body,
            {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))},
        )  # fmt: skip
        r = self.connection.getresponse()
        data = r.read()
        if r.status != 200:
            raise Failed(f"{model}: HTTP {r.status}: {data[:300].decode(errors='replace')}")
        size = r.getheader("Inference-Header-Content-Length")
        doc = json.loads(data[: int(size)] if size else data)
        at, ret = int(size or 0), {}
        for t in doc["outputs"]:
            if "data" in t:
                ret[t["name"]] = numpy.array(t["data"], DTYPE[t["datatype"]]).reshape(t["shape"])
                continue
            n = t["parameters"]["binary_data_size"]
            ret[t["name"]] = numpy.frombuffer(data[at : at + n], DTYPE[t["datatype"]]).reshape(t["shape"])
            at += n
        if size and at != len(data):
            raise Failed(f"{model}: {len(data) - at} bytes are left after the last output")
        return ret


def reference(directory, batch):
    """({name: (datatype, array)}, {name: array}) of reference/batch<N>.txt"""
    inputs, outputs = {}, {}
    with open(os.path.join(directory, f"batch{batch}.txt")) as f:
        for line in f:
            kind, name, datatype, file, *shape = line.split()
            a = numpy.fromfile(os.path.join(directory, file), DTYPE[datatype]).reshape([int(x) for x in shape])
            if kind == "input":
                inputs[name] = (datatype, a)
            else:
                outputs[name] = a
    return inputs, outputs


def references(directory):
    return sorted(int(f[5:-4]) for f in os.listdir(directory) if f.startswith("batch") and f.endswith(".txt"))
