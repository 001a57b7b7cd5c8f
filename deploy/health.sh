#!/bin/bash
# gpulet-health [PORT]: exits 0 when the server is ready. Bash alone, so that the image needs no HTTP client.
set -eu
port=${1:-${GPULET_HTTP_PORT:-8000}}
exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r -t 2 _ status _ <&3
[ "$status" = 200 ]
