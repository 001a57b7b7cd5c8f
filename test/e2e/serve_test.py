"""The protocol through the whole path, with null models on CPU gpu-lets."""
import json
import os
import signal
import socket
import tempfile
import threading
import unittest

from harness import Load, SANITIZED, Server, main, null_model, repository, until


class Protocol(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        repository(
            cls.dir.name,
            null=null_model(),
            slow=null_model("slow", max_batch=1, null_us=50000, slo_ms=70),
            big=null_model("big", max_batch=4, dims=100000),
            fixed='backend: "null" max_batch_size: 0 input { name: "A" data_type: TYPE_INT64 dims: [2, 2] } '
            'input { name: "B" data_type: TYPE_BOOL dims: [3] } '
            'output { name: "A_OUT" data_type: TYPE_INT64 dims: [2, 2] } '
            'parameters { key: "slo_ms" value { string_value: "5000" } }',
        )
        cls.s = Server(cls.dir.name)

    @classmethod
    def tearDownClass(cls):
        try:
            cls.s.stop()
        finally:
            cls.s.kill()
            cls.dir.cleanup()

    def test_health_and_metadata(self):
        self.assertEqual(self.s.request("GET", "/v2/health/live")[0], 200)
        self.assertEqual(self.s.request("GET", "/v2/health/ready")[0], 200)
        status, doc = self.s.json("GET", "/v2")
        self.assertEqual((status, doc["name"]), (200, "gpulet"))
        self.assertIn("binary_tensor_data", doc["extensions"])
        status, doc = self.s.json("GET", "/v2/models/null")
        self.assertEqual(doc["inputs"], [{"name": "IN", "datatype": "FP32", "shape": [-1, 16]}])
        self.assertEqual(doc["versions"], ["1"])
        self.assertEqual(self.s.request("GET", "/v2/models/null/versions/1/ready")[0], 200)
        self.assertEqual(self.s.json("GET", "/v2/models/null/config")[1]["max_batch_size"], 8)
        self.assertEqual(self.s.json("GET", "/v2/models/null/stats")[1]["model_stats"][0]["version"], "1")

    def test_infer_binary_and_json(self):
        row = [float(i) for i in range(16)]
        self.assertEqual(self.s.infer_floats("null", [row, row[::-1]]), (200, [row, row[::-1]]))
        status, doc = self.s.json(
            "POST",
            "/v2/models/null/infer",
            {"id": "x1", "inputs": [{"name": "IN", "datatype": "FP32", "shape": [1, 16], "data": [row]}]},
        )
        self.assertEqual(status, 200)
        self.assertEqual(doc["id"], "x1")
        self.assertEqual(doc["outputs"][0]["data"], row)
        status, doc = self.s.json("POST", "/v2/models/fixed/versions/1/infer", {"inputs": [
            {"name": "B", "datatype": "BOOL", "shape": [3], "data": [True, False, True]},
            {"name": "A", "datatype": "INT64", "shape": [2, 2], "data": [1, -2, 3, 9007199254740993]}]})
        self.assertEqual(doc["outputs"][0]["data"], [1, -2, 3, 9007199254740993])

    def test_large_bodies(self):
        row = [float(i % 977) for i in range(100000)]
        for _ in range(3):
            self.assertEqual(self.s.infer_floats("big", [row, row]), (200, [row, row]))

    def test_errors_say_what_to_change(self):
        def bad(body, model="null"):
            status, doc = self.s.json("POST", f"/v2/models/{model}/infer", body)
            return status, doc["error"]
        good = {"name": "IN", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}
        for change, word in [
            ({"name": "X"}, "IN"),
            ({"datatype": "FP64"}, "FP32"),
            ({"shape": [1, 15]}, "16"),
            ({"data": [1.0] * 3}, "16"),
            ({"shape": [99, 16], "data": [0.0] * 99 * 16}, "8"),
            ({"datatype": "NOPE"}, "NOPE"),
            ({"shape": "1"}, "shape"),
            ({"data": ["a"] * 16}, "IN"),
        ]:
            status, text = bad({"inputs": [{**good, **change}]})
            self.assertEqual(status, 400, (change, text))
            self.assertIn(word, text)
        self.assertEqual(bad({"inputs": []})[0], 400)
        self.assertEqual(bad("{\"inputs\": [")[0], 400)
        self.assertEqual(bad({"inputs": [good]}, "nope")[0], 404)
        self.assertEqual(self.s.json("POST", "/v2/models/null/versions/7/infer", {"inputs": [good]})[0], 404)
        self.assertEqual(self.s.request("GET", "/nowhere")[0], 404)
        self.assertEqual(self.s.request("DELETE", "/v2/models/null/infer")[0], 405)

    def test_deadlines_are_kept_or_refused(self):
        status, text = self.s.infer_floats("slow", [[1.0] * 16], parameters={"timeout": 1000})
        self.assertEqual(status, 503, text)
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(self.s.infer_floats("slow", [[1.0] * 16])[0]))
            for _ in range(8)
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertGreaterEqual(results.count(503), 4)  # 50 ms each, SLO 70 ms: at most a few can make it
        self.assertEqual(results.count(200) + results.count(503), 8)

    def test_malformed_http(self):
        def raw(data):
            c = socket.create_connection(("127.0.0.1", self.s.port), timeout=30)
            c.sendall(data)
            c.shutdown(socket.SHUT_WR)
            out = b""
            while chunk := c.recv(65536):
                out += chunk
            c.close()
            return out
        for data, code in [
            (b"GARBAGE\r\n\r\n", b"400"),
            (b"GET / HTTP/9.9\r\n\r\n", b"505"),
            (b"GET /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"400"),
            (b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 100000 + b"\r\n\r\n", b"431"),
            (
                b"POST /v2/models/null/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                b"400",
            ),
            (b"POST /v2/models/null/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        ]:
            answer = raw(data).split(b"\r\n")[0]
            self.assertTrue(answer.startswith(b"HTTP/1.1 "), (data[:40], answer))
            self.assertIn(answer.split()[1], (code, b"400"), (data[:40], answer))

    def test_metrics(self):
        self.s.infer_floats("null", [[1.0] * 16])
        m = self.s.metrics()
        self.assertGreaterEqual(m['nv_inference_request_success{model="null",version="1"}'], 1)
        self.assertEqual(m['nv_inference_pending_request_count{model="null",version="1"}'], 0)
        self.assertTrue(any(k.startswith("gpulet_busy_fraction{") for k in m))
        self.assertGreater(m['gpulet_slo_attainment{model="null",version="1"}'], 0.5)

    def test_thousand_connections(self):
        n = 1000
        conns = [self.s.connect() for _ in range(n)]
        body = json.dumps(
            {
                "inputs": [{"name": "IN", "datatype": "FP32", "shape": [1, 16], "data": [1.0] * 16}],
                "parameters": {"timeout": 60000000},
            }
        )
        for c in conns:
            c.request("POST", "/v2/models/null/infer", body)
        statuses = [c.getresponse().status for c in conns]
        for c in conns:
            c.close()
        self.assertEqual(statuses.count(200), n, set(statuses))


class Lifecycle(unittest.TestCase):
    def test_slow_clients_are_cut(self):
        with tempfile.TemporaryDirectory() as d:
            with Server(repository(d, null=null_model()), "--head-timeout", "300ms", "--body-timeout", "300ms") as s:
                for start in (
                    b"GET /v2/health/",
                    b"POST /v2/models/null/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{",
                ):
                    c = socket.create_connection(("127.0.0.1", s.port), timeout=30)
                    c.sendall(start)
                    while c.recv(4096):
                        pass  # an answer (408) may come first; then the end
                    c.close()
                self.assertEqual(s.infer_floats("null", [[1.0] * 16])[0], 200)

    def test_sigterm_answers_what_is_in_flight(self):
        with tempfile.TemporaryDirectory() as d:
            with Server(repository(d, null=null_model(null_us=20000, slo_ms=20000))) as s:
                load = Load(s, clients=6)
                until(lambda: load.count() > 10, "load runs")
                s.proc.send_signal(signal.SIGTERM)
                code = s.proc.wait(60)
                outcomes = load.stop()
                self.assertEqual(code, 0)
                bad = [o for o in outcomes if o[2] not in (200, 503, -1)]
                self.assertEqual(bad, [])
                # a connection that was accepted and had a request in flight got its answer: refused connects only
                lost = [o for o in outcomes if o[2] == -1 and "refused" not in o[3].lower()]
                self.assertLessEqual(
                    len(lost), 6, lost[:5]
                )  # at most one idle keep-alive connection per client closes under it

    def test_sigusr1_shows_core_and_fleet(self):
        with tempfile.TemporaryDirectory() as d:
            with Server(repository(d, null=null_model())) as s:
                status, fleet = s.json("GET", "/debug/fleet")
                self.assertEqual((status, fleet["change"], fleet["groups"][0]["state"]), (200, "idle", "serving"))
                os.kill(s.proc.pid, signal.SIGUSR1)
                def shown():
                    whole = s.log().split("\n")[:-1]  # other lines may follow
                    lines = [line for line in whole if line.startswith("{")]
                    return len(lines) == 2 and [json.loads(line) for line in lines]
                core, said = until(shown, "both dumps are written")
                self.assertIn("models", core)
                self.assertEqual([g["state"] for g in said["groups"]], ["serving"] * len(fleet["groups"]))

    def test_start_failures_are_explained(self):
        with tempfile.TemporaryDirectory() as d:
            s = Server(os.path.join(d, "nothing"), wait=False)
            self.assertEqual(s.proc.wait(60), 1)
            self.assertIn("nothing", s.log())
            s.kill()
            repository(
                d,
                broken='backend: "pytorch" max_batch_size: 1 input { name: "a" data_type: TYPE_FP32 dims: [1] } '
                'output { name: "b" data_type: TYPE_FP32 dims: [1] }',
            )
            s = Server(d, wait=False)
            self.assertEqual(s.proc.wait(60), 1)
            self.assertIn("broken", s.log())
            s.kill()


if __name__ == "__main__":
    main()
