"""Claims about `mbkd serve`: over HTTP, in a browser, and at shutdown."""

import gzip
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import ENVIRONMENT, ROOT, mbkd, run

EVIL = "<img src=x onerror='window.hacked = 1'>"
JSON = {"Content-Type": "application/json"}
UNCALIBRATED = "the probabilities are not calibrated and do not tell how often a label is correct\n"
GZIP = JSON | {"Content-Encoding": "gzip"}


def start(model, *options):
    """Return a server's process and address once the server listens."""
    command = [sys.executable, "-m", "mbkd", "serve", str(model), "--port", "0", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **pipes)
    address = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address), process.stderr.read()
    return process, address


def stop(process):
    """Send SIGTERM; return the exit code and the output."""
    process.send_signal(signal.SIGTERM)
    _, output = process.communicate(timeout=60)
    return process.returncode, output


@pytest.fixture(scope="module")
def model(student):
    """The random student with one hostile label."""
    config = json.loads((student / "config.json").read_text())
    copy = student.with_name("evil")
    copy.mkdir(exist_ok=True)
    for file in student.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config["id2label"]["1"] = EVIL
    config["text_pairs"] = True
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.fixture(scope="module")
def address(model):
    process, address = start(model, "--queue", "8", "--max-texts", "8", "--max-body", "5000", "--batch-tokens", "64")
    yield address
    code, output = stop(process)
    assert (code, output) == (0, UNCALIBRATED)


def send(address, method, path, body=None, headers=JSON):
    """Return status, headers and content of an answer; JSON is parsed."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body), headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    found = (
        json.loads(content) if content and reply.headers.get_content_type() == "application/json" else content.decode()
    )
    return reply.status, reply.headers, found


def test_one_text_lists_and_pairs_get_the_answers_of_predict(address, model, tmp_path):
    rows = [{"text": "gut", "text_pair": "kitchen"}, {"text": "质量很好。", "text_pair": "x " * 300}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = mbkd("predict", model, tmp_path / "rows.jsonl", "--text-pair", "text_pair")
    expected = [json.loads(line)["probabilities"] for line in done.stdout.splitlines()]
    status, _, together = send(address, "POST", "/classify", rows)
    assert status == 200
    for row, answer, probabilities in zip(rows, together, expected, strict=True):
        assert answer["probabilities"] == pytest.approx(probabilities, abs=3e-6)
        status, _, alone = send(address, "POST", "/classify?branches=true", row)
        assert status == 200 and alone["label"] == max(probabilities, key=probabilities.get)
        assert alone["probabilities"] == pytest.approx(probabilities, abs=3e-6)
        assert set(alone["branches"]["outer"]) == {"en", "fr"} and "branches" not in answer


def test_a_pair_model_notes_rows_without_a_second_text(address):
    _, _, (lone, pair) = send(address, "POST", "/classify", [{"text": "gut"}, {"text": "gut", "text_pair": ""}])
    assert "no text_pair" in lone["note"] and "note" not in pair
    assert send(address, "GET", "/model")[2]["pairs"] is True


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/classify", b"{broken", JSON, 400),
        ("POST", "/classify", {"text": " "}, JSON, 422),
        ("POST", "/classify", [{"text": "a"}] * 9, JSON, 413),
        ("POST", "/classify", {"text": "a" * 6000}, JSON, 413),
        ("POST", "/classify", {"text": "a"}, {}, 415),
        ("POST", "/classify?branches=maybe", {"text": "a"}, JSON, 422),
        ("POST", "/classify", b"\x1f\x8bno gzip", GZIP, 400),
        ("POST", "/classify", gzip.compress(b'{"text": "a"}', mtime=0)[:-9], GZIP, 400),
        ("POST", "/classify", gzip.compress(b'{"text": "' + b"a" * 10**7 + b'"}', mtime=0), GZIP, 413),
        ("POST", "/classify", b"x", JSON | {"Content-Encoding": "br"}, 415),
        ("GET", "/classify", None, {}, 405),
        ("GET", "/docs", None, {}, 404),
    ],
)
def test_every_refusal_is_json_with_the_problem_the_place_and_the_fix(address, method, path, body, headers, status):
    got, _, problem = send(address, method, path, body, headers)
    assert got == status
    assert set(problem) == {"error", "where", "do"} and all(problem.values())


def test_a_gzip_body_is_read_like_a_plain_body(address):
    row = {"text": "das ist gut", "text_pair": "kitchen"}
    assert (
        send(address, "POST", "/classify", gzip.compress(json.dumps(row).encode()), GZIP)[::2]
        == (send(address, "POST", "/classify", row)[::2])
    )


def test_head_returns_the_headers_of_get_without_a_body(address):
    for path in ("/healthz", "/"):
        status, headers, content = send(address, "HEAD", path)
        expected = send(address, "GET", path)[1]
        assert status == 200 and not content
        assert headers["Content-Length"] == expected["Content-Length"]


def test_a_body_without_a_size_is_cut_off_at_the_limit(address):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/classify")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders(b"1388\r\n" + b"x" * 5000 + b"\r\n10\r\n" + b"x" * 16 + b"\r\n")
    assert connection.getresponse().status == 413  # the last chunk is missing
    connection.close()


def test_a_client_that_disconnects_while_sending_its_body_has_no_effect(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Content-Length: 100\r\n\r\n{")
    # The fixture `address` also checks that the server's log is empty.
    assert send(address, "GET", "/healthz")[0] == 200


def test_a_full_queue_states_when_to_retry_and_the_server_continues(address):
    replies = []
    rows = [{"text": "good " * 60}] * 8

    def many():
        replies.extend(send(address, "POST", "/classify", rows) for _ in range(4))

    threads = [threading.Thread(target=many) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 64 and {status for status, _, _ in replies} == {200, 503}
    for status, headers, found in replies:
        if status == 503:
            assert 1 <= int(headers["Retry-After"]) <= 60
            assert set(found) == {"error", "where", "do"}
        else:
            assert len(found) == 8
    assert send(address, "POST", "/classify", rows)[0] == 200


def test_health_metrics_and_schema_exist_and_need_no_network(address):
    from prometheus_client.parser import text_string_to_metric_families

    assert send(address, "GET", "/healthz")[::2] == (200, {"status": "ok"})
    status, _, before = send(address, "GET", "/metrics")
    send(address, "POST", "/classify", [{"text": "a"}, {"text": "b"}])
    after = send(address, "GET", "/metrics")[2]

    def value(text, name, **labels):
        samples = (x for family in text_string_to_metric_families(text) for x in family.samples)
        return sum(x.value for x in samples if x.name == name and labels.items() <= x.labels.items())

    assert status == 200
    for name, more, labels in (("mbkd_rows_total", 2, {}), ("mbkd_requests_total", 1, {"status": "200"})):
        assert value(after, name, **labels) - value(before, name, **labels) == more
    assert value(after, "mbkd_waiting_rows") == 0
    schema = send(address, "GET", "/openapi.json")[2]
    assert {"/classify", "/healthz", "/metrics", "/model"} == set(schema["paths"])
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema))
    assert references and set(references) <= set(schema["components"]["schemas"])
    for path in ("/", "/page.js", "/page.css"):
        status, headers, text = send(address, "GET", path)
        assert status == 200 and "://" not in text
        assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_the_page_shows_labels_and_branches_as_text_and_fits_a_phone(browser, address, tmp_path, width, scheme):
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("browser")  # discards the log of earlier pages
    browser.get(address)
    browser.find_element("id", "text").send_keys(EVIL)
    browser.find_element("id", "send").click()
    WebDriverWait(browser, 30).until(lambda page: page.find_element("id", "answer").is_displayed())
    shown = browser.find_element("id", "answer").text
    for word in ("bad", "good", EVIL, "outer", "en", "fr", "%"):
        assert word in shown
    script = "return [window.hacked, document.images.length, document.documentElement.scrollWidth > innerWidth]"
    assert browser.execute_script(script) == [None, 0, False]
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 384) == (scheme == "dark")
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    (folder / f"serve-{width}-{scheme}.png").write_bytes(browser.get_screenshot_as_png())
    assert browser.get_log("browser") == []
    browser.find_element("id", "text").clear()
    browser.find_element("id", "send").click()
    WebDriverWait(browser, 30).until(lambda page: page.find_element("id", "problem").is_displayed())
    assert "the text is empty" in browser.find_element("id", "problem").text
    assert not browser.find_element("id", "answer").is_displayed()


def test_after_sigterm_old_requests_are_answered_new_ones_refused_and_the_exit_code_is_0(student):
    process, address = start(student, "--batch-tokens", "16")
    host = address.removeprefix("http://")
    connections = [http.client.HTTPConnection(host, timeout=60) for _ in range(20)]
    body = json.dumps([{"text": "good " * 100}] * 40)
    for connection in connections:
        connection.request("POST", "/classify", body, JSON)
    send(address, "GET", "/healthz")  # an answer means that the server has read the requests before
    process.send_signal(signal.SIGTERM)
    replies = [connection.getresponse() for connection in connections]
    assert [reply.status for reply in replies] == [200] * 20
    assert all(len(json.loads(reply.read())) == 40 for reply in replies)
    assert process.wait(60) == 0
    assert process.stderr.read() == UNCALIBRATED
    with pytest.raises(ConnectionRefusedError):
        send(address, "GET", "/healthz")


def test_a_port_in_use_and_a_missing_model_give_one_message(student, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = mbkd("serve", student, "--port", str(taken.getsockname()[1]))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "in use on 127.0.0.1; choose another with --port" in done.stderr
    done = mbkd("serve", tmp_path, "--port", "0")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "neither a run directory nor a model's folder" in done.stderr


def test_without_its_packages_serve_names_the_packages_to_install(student):
    code = "import sys; sys.modules['fastapi'] = None; from mbkd.cli import main; main()"
    done = run(sys.executable, "-c", code, "serve", student)
    assert done.returncode == 2
    assert done.stderr == "error: mbkd serve needs fastapi, which is not installed; pip install 'mbkd[serve]'\n"
