#!/usr/bin/env bash
# A real S3 service on loopback: OpenStack Swift with its s3api, from Debian's packages, one replica in a folder of its
# own. Prints what the tests marked `swift` want to know; ends with `tests/swift.sh stop FOLDER`.
#
# Swift 2.30 does not know the uploads that AWS's SDK makes by default since 2025; the last line turns them off.
#
#   eval "$(tests/swift.sh)"                     # root, on Debian; exports RAY_UNLEARN_SWIFT_ENDPOINT and the keys
#   uv run pytest -m swift
#   tests/swift.sh stop "$RAY_UNLEARN_SWIFT_FOLDER"
set -euo pipefail

if [ "${1:-}" = stop ]; then
  for file in "$2"/*.pid; do kill "$(cat "$file")" 2>/dev/null || true; done
  sleep 1
  rm -rf -- "$2"
  exit 0
fi

if ! command -v swift-proxy-server >/dev/null; then
  { apt-get update -qq
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends \
      swift-proxy swift-account swift-container swift-object; } >&2
fi

folder=$(mktemp -d /tmp/ray-unlearn-swift.XXXXXX)
user=$(id -un)
port=${RAY_UNLEARN_SWIFT_PORT:-18080}
mkdir -p "$folder/devices/disk" "$folder/recon"

cat >"$folder/swift.conf" <<CONF
[swift-hash]
swift_hash_path_suffix = tests
swift_hash_path_prefix = tests
[storage-policy:0]
name = default
default = yes
CONF

cat >"$folder/proxy.conf" <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
workers = 0
user = $user
swift_dir = $folder
log_level = WARNING
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin .reseller_admin
[filter:s3api]
use = egg:swift#s3api
allow_no_owner = true
s3_acl = false
location = us-east-1
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
CONF

start() { # name, arguments
  local name=$1
  shift
  SWIFT_DIR="$folder" nohup "$@" >"$folder/$name.log" 2>&1 </dev/null &
  echo $! >"$folder/$name.pid"
}

offset=1
for service in account container object; do
  there=$((port + offset))
  cat >"$folder/$service.conf" <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $there
workers = 0
user = $user
swift_dir = $folder
devices = $folder/devices
mount_check = false
fallocate_reserve = 0
log_level = WARNING
[pipeline:main]
pipeline = $service-server
[app:$service-server]
use = egg:swift#$service
recon_cache_path = $folder/recon
CONF
  ring="$folder/$service.builder"
  { swift-ring-builder "$ring" create 4 1 1
    swift-ring-builder "$ring" add "r1z1-127.0.0.1:$there/disk" 1
    swift-ring-builder "$ring" rebalance; } >&2
  start "$service" "swift-$service-server" "$folder/$service.conf"
  offset=$((offset + 1))
done
start proxy swift-proxy-server "$folder/proxy.conf"

for _ in $(seq 60); do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
  sleep 0.5
done
cat <<SAY
export RAY_UNLEARN_SWIFT_ENDPOINT=127.0.0.1:$port
export RAY_UNLEARN_SWIFT_KEY=test:tester
export RAY_UNLEARN_SWIFT_SECRET=testing
export RAY_UNLEARN_SWIFT_FOLDER=$folder
export AWS_REQUEST_CHECKSUM_CALCULATION=when_required
SAY
