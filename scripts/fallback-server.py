#!/usr/bin/env python3
"""A real server for the tests of fallback storage, on a free port of this machine. Usage: fallback-server.py s3|webdav FOLDER [ROOM]

ROOM: bytes that it has room for; what comes beyond is refused as full servers refuse it.

Prints one line of JSON when it answers (port, and what to log in with), and ends when its standard input does: so it never
outlives the test that started it.
"""
import json
import os
import sys
import threading


def with_room(app, room, status, body):
    """The same, until so many bytes were stored."""
    stored = {}

    def limited(environ, start_response):
        if environ["REQUEST_METHOD"] != "PUT":
            return app(environ, start_response)
        place, length = environ["PATH_INFO"], int(environ.get("CONTENT_LENGTH") or 0)
        if length + sum(size for other, size in stored.items() if other != place) > room:
            environ["wsgi.input"].read(length)
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        stored[place] = length
        return app(environ, start_response)

    return limited


def s3(room):
    """moto's server with one bucket, and from then on only for who has the right key."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[name] = "setup"
    import boto3
    import requests
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    url = f"http://127.0.0.1:{port}"
    boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket="backups")
    iam = boto3.client("iam", endpoint_url=url, region_name="us-east-1")
    iam.create_user(UserName="owner")
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="owner", PolicyName="s3", PolicyDocument=json.dumps(allow))
    key = iam.create_access_key(UserName="owner")["AccessKey"]
    requests.post(f"{url}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()
    if room is not None:
        # As Ceph says it; others say 507.
        full = b"<?xml version='1.0'?><Error><Code>QuotaExceeded</Code></Error>"
        server._server.app = with_room(server._server.app, room, "403 Forbidden", full)
    return {"port": port, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}


def webdav(folder, room):
    """wsgidav over a folder, with a user and a password."""
    from cheroot import wsgi
    from wsgidav.wsgidav_app import WsgiDAVApp

    app = WsgiDAVApp(
        {
            "provider_mapping": {"/": folder},
            "simple_dc": {"user_mapping": {"*": {"owner": {"password": "hunter2"}}}},
            "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
            "verbose": 0,
            "logging": {"enable": False},
        }
    )
    if room is not None:
        app = with_room(app, room, "507 Insufficient Storage", b"")
    server = wsgi.Server(("127.0.0.1", 0), app)
    server.prepare()
    threading.Thread(target=server.serve, daemon=True).start()
    return {"port": server.bind_addr[1], "key": "owner", "secret": "hunter2"}


def main():
    kind, folder = sys.argv[1], sys.argv[2]
    room = int(sys.argv[3]) if len(sys.argv) > 3 else None
    started = s3(room) if kind == "s3" else webdav(folder, room)
    print(json.dumps(started), flush=True)
    sys.stdin.read()
    os._exit(0)


main()
