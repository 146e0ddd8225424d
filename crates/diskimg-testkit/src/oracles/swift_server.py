"""Runs Swift and Keystone on the loopback interface: swift_server.py DIRECTORY

Prints a line of names and values when they answer, and stops them at the end of its input. There are
two kinds of accounts: AUTH_test with Swift's own authentication, and KEY_* with Keystone.
"""

import base64
import json
import os
import pathlib
import pwd
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from swift.common.ring import RingBuilder

ROOT = pathlib.Path(sys.argv[1])
ETC = ROOT / "etc"
BIN = pathlib.Path(sys.executable).parent
CHILDREN = []


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def spawn(name, *command, **environment):
    log = open(ROOT / (name + ".log"), "wb")
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    null = subprocess.DEVNULL
    child = subprocess.Popen(command, stdin=null, stdout=log, stderr=log, env=env)
    CHILDREN.append(child)


def wait(what, is_ready):
    started = time.monotonic()
    while not is_ready():
        for child in CHILDREN:
            if child.poll() is not None:
                fail(what)
        if time.monotonic() - started > 240:
            fail(what)
        time.sleep(0.1)


def fail(what):
    for log in sorted(ROOT.glob("*.log")):
        print(log.name, log.read_text(errors="replace")[-3000:], file=sys.stderr)
    raise SystemExit(what + " does not start")


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def storage(memcached, proxy, keystone):
    ETC.mkdir()
    (ROOT / "dev" / "d1").mkdir(parents=True)
    conf = "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n"
    conf += "[storage-policy:0]\nname = gold\ndefault = yes\n"
    (ETC / "swift.conf").write_text(conf)
    user = pwd.getpwuid(os.getuid()).pw_name
    common = f"""[DEFAULT]
bind_ip = 127.0.0.1
user = {user}
swift_dir = {ETC}
devices = {ROOT}/dev
mount_check = false
disable_fallocate = true
workers = 0
bind_port = %d
"""
    kinds = dict(zip(["account", "container", "object"], free_ports(3)))
    for kind, port in kinds.items():
        builder = RingBuilder(4, 1, 0)
        device = {"id": 0, "region": 1, "zone": 1, "weight": 100.0, "ip": "127.0.0.1"}
        builder.add_dev({**device, "port": port, "device": "d1"})
        builder.rebalance()
        builder.get_ring().save(str(ETC / (kind + ".ring.gz")))
        text = common % port + f"[pipeline:main]\npipeline = {kind}-server\n"
        text += f"[app:{kind}-server]\nuse = egg:swift#{kind}\n"
        (ETC / (kind + ".conf")).write_text(text)
        spawn(kind, str(BIN / f"swift-{kind}-server"), str(ETC / (kind + ".conf")))
    (ETC / "proxy.conf").write_text(
        common % proxy
        + f"""
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk tempurl authtoken keystoneauth tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:tempauth]
use = egg:swift#tempauth
reseller_prefix = AUTH
user_test_tester = testing .admin
user_test_guest = guest
storage_url_scheme = http
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = http://127.0.0.1:{keystone}
auth_url = http://127.0.0.1:{keystone}
auth_type = password
username = admin
password = admin-pw
project_name = admin
user_domain_id = default
project_domain_id = default
delay_auth_decision = true
token_cache_time = -1
include_service_catalog = false
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member
reseller_prefix = KEY
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:tempurl]
use = egg:swift#tempurl
[filter:copy]
use = egg:swift#copy
"""
    )
    spawn("memcached", "memcached", "-l", "127.0.0.1", "-p", str(memcached), "-u", user)
    wait("memcached", lambda: listens(memcached))
    for kind, port in kinds.items():
        wait(kind, lambda: listens(port))
    spawn("proxy", str(BIN / "swift-proxy-server"), str(ETC / "proxy.conf"))


def new_keys():
    """Makes all tokens invalid."""
    for name in ["0", "1"]:
        key = base64.urlsafe_b64encode(os.urandom(32))
        (ROOT / "keystone" / "fernet" / name).write_bytes(key)


def identity(port):
    folder = ROOT / "keystone"
    for name in ["fernet", "credential", "etc"]:
        (folder / name).mkdir(parents=True, mode=0o700)
    conf = folder / "etc" / "keystone.conf"
    conf.write_text(
        f"""[database]
connection = sqlite:///{folder}/db
[token]
provider = fernet
[fernet_tokens]
key_repository = {folder}/fernet
[fernet_receipts]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/credential
[cache]
enabled = false
[identity]
password_hash_rounds = 4
"""
    )
    new_keys()
    for name in ["0", "1"]:
        (folder / "credential" / name).write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
    manage = [str(BIN / "keystone-manage"), "--config-file", str(conf)]
    url = f"http://127.0.0.1:{port}/v3"
    start = ["bootstrap", "--bootstrap-password", "admin-pw", "--bootstrap-region-id", "R1"]
    for kind in ["admin", "public", "internal"]:
        start += [f"--bootstrap-{kind}-url", url]
    for command in [["db_sync"], start]:
        with open(ROOT / "manage.log", "ab") as log:
            done = subprocess.run(manage + command, stdout=log, stderr=log)
        if done.returncode != 0:
            fail("Keystone")
    # Its module parses the arguments of the process.
    module = "import sys\nsys.argv = sys.argv[:1]\n"
    module += "from keystone.wsgi.api import application\n"
    (folder / "kapp.py").write_text(module)
    serve = ["-w", "1", "--threads", "4", "-b", f"127.0.0.1:{port}", "kapp:application"]
    spawn(
        "keystone",
        str(BIN / "gunicorn"),
        *serve,
        OS_KEYSTONE_CONFIG_DIR=str(folder / "etc"),
        PYTHONPATH=str(folder),
    )
    wait("Keystone", lambda: answers(url))


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=5).close()
        return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def call(url, body, token=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["X-Auth-Token"] = token
    data = json.dumps(body).encode() if body is not None else None
    method = "PUT" if body is None else "POST"
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as reply:
        text = reply.read()
        return reply.headers.get("X-Subject-Token"), json.loads(text) if text else {}


def token(url, user, password, project):
    domain = {"id": "default"}
    who = {"user": {"name": user, "password": password, "domain": domain}}
    scope = {"project": {"name": project, "domain": domain}}
    body = {"identity": {"methods": ["password"], "password": who}, "scope": scope}
    return call(url + "/auth/tokens", {"auth": body})


def users(url, proxy):
    """Creates a user, its project and its application credential, and the catalogue."""
    admin, _ = token(url, "admin", "admin-pw", "admin")
    add = lambda path, body: call(url + path, body, admin)[1]
    project = add("/projects", {"project": {"name": "demo", "domain_id": "default"}})["project"]
    user = {"name": "demo", "password": "demo/pw", "domain_id": "default"}
    user = add("/users", {"user": user})["user"]
    roles = json.load(
        urllib.request.urlopen(
            urllib.request.Request(url + "/roles?name=member", headers={"X-Auth-Token": admin})
        )
    )["roles"]
    add(f"/projects/{project['id']}/users/{user['id']}/roles/{roles[0]['id']}", None)
    service = add("/services", {"service": {"type": "object-store", "name": "swift"}})["service"]
    add("/regions", {"region": {"id": "R2"}})
    for region, interface, port in [
        ("R1", "public", proxy),
        ("R1", "internal", proxy),
        ("R2", "public", 1),
    ]:
        endpoint = f"http://127.0.0.1:{port}/v1/KEY_%(tenant_id)s"
        body = {"service_id": service["id"], "interface": interface, "region_id": region}
        add("/endpoints", {"endpoint": {**body, "url": endpoint}})
    own, _ = token(url, "demo", "demo/pw", "demo")
    body = {"application_credential": {"name": "app", "secret": "app-secret"}}
    path = f"/users/{user['id']}/application_credentials"
    application = call(url + path, body, own)[1]["application_credential"]
    return {"application": application["id"], "project": project["id"]}


def main():
    has_keystone = "keystone" in sys.argv[2:]
    memcached, proxy, keystone = free_ports(3)
    storage(memcached, proxy, keystone)
    found = {"auth": f"http://127.0.0.1:{proxy}/auth/v1.0", "memcached": memcached}
    if has_keystone:
        url = f"http://127.0.0.1:{keystone}/v3"
        identity(keystone)
        found = {**found, **users(url, proxy), "keystone": url}
    wait("Swift", lambda: answers(f"http://127.0.0.1:{proxy}/healthcheck"))
    print(" ".join(f"{name}={value}" for name, value in found.items()), flush=True)
    for line in sys.stdin:
        if line.strip() == "new-keys":
            new_keys()
        print("done", flush=True)


try:
    main()
finally:
    for child in reversed(CHILDREN):
        child.terminate()
    for child in CHILDREN:
        child.wait()
