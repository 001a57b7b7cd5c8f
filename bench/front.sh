#!/bin/sh
# bench/front.sh BUILD: the whole path (HTTP, queue, batch, ring, worker process, back) with a null model, 1 KiB in and
# 1 KiB out, 64 keep-alive connections, side by side with nginx serving a 1 KiB static file with as many processes
# (gpulet: server + worker = 2; nginx: 2 workers). Interleaved rounds; medians and ratios. Then the added latency at
# 30 % of the throughput just measured.
set -eu
build=$1; shift
rounds=${ROUNDS:-5} seconds=${SECONDS_PER_ROUND:-4}
gpulet=$build/bin/gpulet
for tool in nginx wrk; do
  command -v $tool >/dev/null && continue
  echo "bench front: $tool is missing (Debian: apt-get install nginx-light wrk)" >&2
  exit 1
done
tmp=$(mktemp -d)
server="" web=""
finish() {
  code=$?
  trap - EXIT INT TERM
  [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" || true; }
  [ -z "$web" ] || { kill "$web" 2>/dev/null && wait "$web" || true; }
  rm -rf "$tmp"
  exit $code
}
trap finish EXIT INT TERM

mkdir -p "$tmp/models/null/1" "$tmp/www"
cat >"$tmp/models/null/config.pbtxt" <<'PB'
backend: "null"
max_batch_size: 64
input  [ { name: "IN"  data_type: TYPE_UINT8 dims: [ 1024 ] } ]
output [ { name: "OUT" data_type: TYPE_UINT8 dims: [ 1024 ] } ]
parameters { key: "slo_ms" value { string_value: "1000" } }
dynamic_batching { max_queue_delay_microseconds: 0 }
PB
"$gpulet" serve --model-repository "$tmp/models" --devices cpu:0 --host 127.0.0.1 --http-port 0 \
  --metrics-port 0 --batching eager \
  --ready-file "$tmp/ready" ${SERVE_FLAGS:-} >"$tmp/log" 2>&1 &
server=$!
while [ ! -f "$tmp/ready" ]; do kill -0 $server 2>/dev/null || { cat "$tmp/log" >&2; exit 1; }; sleep 0.05; done
port=$(sed -n 's/^http //p' "$tmp/ready")

head -c 1024 /dev/urandom >"$tmp/www/file"
web_port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# Started by root, nginx gives its workers to another user, who may not read our directory.
user=""
[ "$(id -u)" != 0 ] || user="user root;"
cat >"$tmp/nginx.conf" <<NGINX
$user worker_processes 2; daemon off; pid $tmp/nginx.pid; error_log $tmp/nginx.log;
events { worker_connections 1024; }
http { access_log off; sendfile on; keepalive_requests 100000000;
  client_body_temp_path $tmp; proxy_temp_path $tmp; fastcgi_temp_path $tmp; uwsgi_temp_path $tmp; scgi_temp_path $tmp;
  server {
    listen 127.0.0.1:$web_port; root $tmp/www;
    location / { types { } default_type application/octet-stream; }
  } }
NGINX
nginx -c "$tmp/nginx.conf" 2>/dev/null &
web=$!
no_file() {
  cat "$tmp/nginx.log" >&2
  echo "bench front: nginx does not serve the file" >&2
  exit 1
}
python3 - "http://127.0.0.1:$web_port/file" <<'PY' || no_file
import sys, time, urllib.request
for _ in range(100):
    try:
        sys.exit(len(urllib.request.urlopen(sys.argv[1]).read()) != 1024)
    except urllib.error.HTTPError as e:
        sys.exit(str(e))
    except OSError:
        time.sleep(0.05)
sys.exit("it is not up after 5 s")
PY

cat >"$tmp/post.lua" <<'LUA'
local head = '{"inputs":[{"name":"IN","datatype":"UINT8","shape":[1,1024],"parameters":{"binary_data_size":1024}}],' ..
  '"parameters":{"binary_data_output":true}}'
wrk.method = "POST"
wrk.path = "/v2/models/null/infer"
wrk.body = head .. string.rep("x", 1024)
wrk.headers["Inference-Header-Content-Length"] = tostring(#head)
function done(summary, latency, requests)
  local e = summary.errors
  io.stderr:write(string.format("  errors: connect %d read %d write %d status %d timeout %d\n",
    e.connect, e.read, e.write, e.status, e.timeout))
end
LUA
rate() { sed -n 's/^Requests\/sec: *//p' "$1"; }
median() { sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
wrk -t1 -c64 -d2s -s "$tmp/post.lua" "http://127.0.0.1:$port" >/dev/null 2>&1
: >"$tmp/ours"; : >"$tmp/theirs"
i=0
while [ $i -lt "$rounds" ]; do
  wrk -t1 -c64 -d"${seconds}s" -s "$tmp/post.lua" "http://127.0.0.1:$port" >"$tmp/o" 2>"$tmp/e"
  rate "$tmp/o" >>"$tmp/ours"
  grep -q 'status 0 timeout 0' "$tmp/e" || { cat "$tmp/e" >&2; echo "bench front: errors under load" >&2; exit 1; }
  wrk -t1 -c64 -d"${seconds}s" "http://127.0.0.1:$web_port/file" >"$tmp/o" 2>&1; rate "$tmp/o" >>"$tmp/theirs"
  ! grep -q 'Non-2xx' "$tmp/o" || { cat "$tmp/o" >&2; echo "bench front: nginx answers with errors" >&2; exit 1; }
  i=$((i + 1))
done
ours=$(median <"$tmp/ours"); theirs=$(median <"$tmp/theirs")
echo "64 connections, 1 KiB in and out, $rounds interleaved rounds of $seconds s, $(nproc) cores, medians:"
printf '  %-34s %10.0f requests/s\n' "gpulet (server + worker process)" "$ours" \
  "nginx (2 processes, static file)" "$theirs"
printf '  %-34s %10.2f   (target >= 0.5)\n' "ratio" "$(echo "$ours $theirs" | awk '{print $1/$2}')"
cat >"$tmp/w.yaml" <<YAML
models: [{name: "null", rate: $(echo "$ours" | awk '{printf "%d", $1*0.3}')/s, slo: 1s}]
YAML
echo "latency at 30 % of that rate, Poisson arrivals, from the intended send time:"
"$gpulet" load --url "http://127.0.0.1:$port" --workload "$tmp/w.yaml" --duration 8s --seed 1 --json --quiet \
  --bottleneck warn >"$tmp/load.json"
python3 - "$tmp/load.json" <<'PY'
import json, sys
m = json.load(open(sys.argv[1]))["models"][0]
text = "  p50 %.0f us (target <= 150), p90 %.0f us, p99 %.0f us (target <= 600), max %.1f ms, errors %d"
print(text % (m["p50_ms"] * 1e3, m["p90_ms"] * 1e3, m["p99_ms"] * 1e3, m["max_ms"], m["sent"] - m["ok"]))
PY
awk '/^VmRSS|^RssAnon|^RssShmem/ {printf "  server %s %.1f MiB\n", $1, $2/1024}' "/proc/$server/status"
