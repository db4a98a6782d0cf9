"""The server behind nginx and Caddy with TLS and a path prefix, with the configurations of docs/proxy.md."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from tests.serving.conftest import serving, until
from timechat.serving.http import ServerSettings

PAGE = Path(__file__).parents[2] / "docs" / "proxy.md"
HOST = "videos.example.org"
KEY = "a-key-for-the-tests-of-the-proxy"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def block_of(language, port, address, certificate, key):
    """The configuration in docs/proxy.md, with the port, the server and the certificate of the test."""
    text = re.search(rf"~~~~{language}\n(.*?)~~~~", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    text = text.replace("listen 443", f"listen 127.0.0.1:{port}").replace("http://127.0.0.1:8000", address)
    text = text.replace(f"/etc/ssl/{HOST}.pem", str(certificate)).replace(f"/etc/ssl/{HOST}.key", str(key))
    site = f"{HOST}:{port} {{\n    bind 127.0.0.1\n    tls {certificate} {key}\n"
    return text.replace(f"{HOST} {{\n", site).replace("reverse_proxy 127.0.0.1:8000", f"reverse_proxy {address}")


def nginx_command(folder, block):
    temporary = "".join(
        f"{name}_temp_path {folder / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    types = "types { text/html html; text/javascript js; }"
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder / 'nginx.pid'}; error_log {folder / 'error.log'}; events {{}}\n"
        f"http {{ {types} access_log off; {temporary}\n{block} }}\n"
    )
    return ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]


def caddy_command(folder, block):
    options = "{\n    admin off\n    auto_https disable_redirects\n}\n"
    (folder / "Caddyfile").write_text(options + block)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


PROXIES = {"nginx": ("nginx", nginx_command), "caddy": ("caddyfile", caddy_command)}


@pytest.fixture(scope="module", params=PROXIES)
def proxied(nano, films, tmp_path_factory, request):
    """An HTTPS client of a proxy, and its base address."""
    if not (shutil.which(request.param) and shutil.which("openssl")):
        pytest.skip(f"{request.param} or openssl is not installed")
    language, command = PROXIES[request.param]
    folder, port = tmp_path_factory.mktemp(request.param), free_port()
    certificate, key = folder / "cert.pem", folder / "key.pem"
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST},IP:127.0.0.1"]
    subprocess.run([*openssl, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    settings = ServerSettings(data=folder / "data", folders=(films,), names=(HOST,), api_keys=(KEY,))
    with serving(nano, settings) as running, (folder / "output.log").open("wb") as output:
        started = command(folder, block_of(language, port, running.url, certificate, key))
        environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        process = subprocess.Popen(started, stdout=output, stderr=output, env=environment)
        try:
            until(lambda: process.poll() is not None or answers(port))
            assert process.poll() is None, (folder / "output.log").read_text()
            base = f"https://{HOST}:{port}/timechat/"
            trusted = ssl.create_default_context(cafile=str(certificate))
            headers = {"Host": f"{HOST}:{port}", "Authorization": f"Bearer {KEY}"}
            transport = LocalTransport(verify=trusted)
            with httpx.Client(base_url=base, transport=transport, headers=headers, timeout=60) as client:
                yield client
        finally:
            process.terminate()
            process.wait(timeout=30)


class LocalTransport(httpx.HTTPTransport):
    """Connects to the loopback address with the name of the host in the TLS handshake."""

    def handle_request(self, request):
        request.extensions["sni_hostname"] = HOST
        request.url = request.url.copy_with(host="127.0.0.1")
        return super().handle_request(request)


def test_the_page_and_its_modules_are_served_below_the_prefix(proxied):
    page = proxied.get("")
    modules = re.findall(r'(?:src|href)="([^"#:]+\.(?:js|css))"', page.text)
    assert page.status_code == 200
    assert modules
    assert {proxied.get(name).status_code for name in modules} == {200}


def test_the_address_without_a_slash_redirects_to_the_page(proxied):
    answer = proxied.get(str(proxied.base_url).rstrip("/"))
    assert answer.status_code == 308
    assert urljoin(str(proxied.base_url), answer.headers["location"]) == str(proxied.base_url)


def test_the_cookie_is_secure_behind_tls(proxied):
    answer = proxied.post("v1/session", headers={"Origin": f"https://{proxied.headers['host']}"})
    assert answer.status_code < 300
    assert "secure" in answer.headers["set-cookie"].lower()


def test_requests_of_pages_from_elsewhere_are_refused(proxied):
    answer = proxied.get("v1/models", headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == 403
    assert "pages of other servers" in answer.text


def test_an_upload_is_asked_about_and_its_job_is_followed(proxied, films):
    uploaded = proxied.post("v1/files", files={"file": ("a.mp4", (films / "film.mp4").read_bytes())})
    assert uploaded.status_code in (200, 201)
    job = proxied.post("v1/jobs", json={"task": "dense_caption", "video": uploaded.json()["id"]}).json()
    events = []
    with proxied.stream("GET", f"v1/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
    assert events[-1]["status"] == "succeeded"
    assert proxied.get(f"v1/jobs/{job['id']}").json()["result"]["events"]


def test_comments_pass_the_proxy_while_the_work_waits(proxied, films, held_requests):
    with proxied.stream("POST", "v1/chat/completions", json=chat_about(films) | {"max_tokens": 4}) as stream:
        lines = stream.iter_lines()
        assert next(lines) == ": still at work"  # before the answer: nothing is held back
        held_requests.set()
        rest = [line for line in lines if line.startswith("data:")]
    assert rest[-1] == "data: [DONE]"


def chat_about(films):
    content = [
        {"type": "video_url", "video_url": {"url": (films / "film.mp4").as_uri()}},
        {"type": "text", "text": "What happens?"},
    ]
    return {"model": "nano", "stream": True, "messages": [{"role": "user", "content": content}]}


def test_a_chat_answer_is_streamed_through_the_proxy(proxied, films):
    with proxied.stream("POST", "v1/chat/completions", json=chat_about(films)) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data:")]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 3
