"""The server behind nginx with TLS and a path prefix, with the configuration of docs/proxy.md."""

import json
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import serving, until
from timechat.serving.http import ServerSettings

PAGE = Path(__file__).parents[2] / "docs" / "proxy.md"
HOST = "videos.example.org"
KEY = "a-key-for-the-tests-of-the-proxy"

pytestmark = pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("openssl")), reason="nginx or openssl is not installed"
)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def proxied(nano, films, tmp_path_factory):
    """An HTTPS client of nginx, and its base address."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    certificate, key = folder / "cert.pem", folder / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST},IP:127.0.0.1"]
    subprocess.run([*request, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    settings = ServerSettings(data=folder / "data", folders=(films,), names=(HOST,), api_keys=(KEY,))
    with serving(nano, settings) as running:
        block = re.search(r"~~~~nginx\n(.*?)~~~~", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
        block = block.replace("listen 443", f"listen 127.0.0.1:{port}")
        block = block.replace("http://127.0.0.1:8000", running.url)
        block = block.replace(f"/etc/ssl/{HOST}.pem", str(certificate)).replace(f"/etc/ssl/{HOST}.key", str(key))
        temporary = "".join(
            f"{name}_temp_path {folder / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        types = "types { text/html html; text/javascript js; }"
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder / 'nginx.pid'}; error_log {folder / 'error.log'}; events {{}}\n"
            f"http {{ {types} access_log off; {temporary}\n{block} }}\n"
        )
        command = ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: process.poll() is not None or answers(port))
            assert process.poll() is None, (folder / "error.log").read_text()
            base = f"https://127.0.0.1:{port}/timechat/"
            trusted = ssl.create_default_context(cafile=str(certificate))
            headers = {"Host": f"{HOST}:{port}", "Authorization": f"Bearer {KEY}"}
            with httpx.Client(base_url=base, verify=trusted, headers=headers, timeout=60) as client:
                yield client
        finally:
            process.terminate()
            process.wait(timeout=30)


def test_the_page_and_its_modules_are_served_below_the_prefix(proxied):
    page = proxied.get("")
    modules = re.findall(r'(?:src|href)="([^"#:]+\.(?:js|css))"', page.text)
    assert page.status_code == 200
    assert modules
    assert {proxied.get(name).status_code for name in modules} == {200}


def test_the_address_without_a_slash_redirects_to_the_page(proxied):
    answer = proxied.get(str(proxied.base_url).rstrip("/"))
    assert answer.status_code == 308
    assert answer.headers["location"] == f"https://{proxied.headers['host']}/timechat/"


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


def test_a_chat_answer_is_streamed_through_the_proxy(proxied, films):
    content = [
        {"type": "video_url", "video_url": {"url": (films / "film.mp4").as_uri()}},
        {"type": "text", "text": "What happens?"},
    ]
    body = {"model": "nano", "stream": True, "messages": [{"role": "user", "content": content}]}
    with proxied.stream("POST", "v1/chat/completions", json=body) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data:")]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 3
