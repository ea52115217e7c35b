#!/usr/bin/env python3
"""A real server for the tests of fallback storage, on a free port of this machine. Usage: fallback-server.py s3|webdav FOLDER

Prints one line of JSON when it answers (port, and what to log in with), and ends when its standard input does: so it never
outlives the test that started it.
"""
import json
import os
import sys
import threading


def s3():
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
    return {"port": port, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}


def webdav(folder):
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
    server = wsgi.Server(("127.0.0.1", 0), app)
    server.prepare()
    threading.Thread(target=server.serve, daemon=True).start()
    return {"port": server.bind_addr[1], "key": "owner", "secret": "hunter2"}


def main():
    kind, folder = sys.argv[1], sys.argv[2]
    started = s3() if kind == "s3" else webdav(folder)
    print(json.dumps(started), flush=True)
    sys.stdin.read()
    os._exit(0)


main()
