"""Runs commands inside an ECS task for whoever holds its token: a program of the standard library alone.

ECS's own remote commands know neither exit codes nor binary output, so the task's main process is this server. One
request is one command: ``POST /run``, a JSON line ``{"command": [...], "timeout": seconds}``, then standard input; the
answer is a JSON line ``{"exit_code": int, "timed_out": bool, "stdout": bytes}``, then standard output and error.
It ends once the file LIVERL_AGENT_UNTIL is there.
"""

import hmac
import http.server
import json
import os
import signal
import subprocess
import tempfile
import threading

MAX_BODY = 64 << 20


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    token = ""
    until = ""

    def do_POST(self) -> None:
        given = self.headers.get("Authorization") or ""
        size = int(self.headers.get("Content-Length") or -1)
        if not hmac.compare_digest(given.encode(), b"Bearer " + self.token.encode()) or not 0 <= size <= MAX_BODY:
            self.close_connection = True
            self.send_error(403 if 0 <= size <= MAX_BODY else 413)
            return
        body = self.rfile.read(size)
        line, _, stdin = body.partition(b"\n")
        order = json.loads(line)
        answer, output = run(order["command"], stdin, float(order["timeout"]))
        data = json.dumps(answer).encode() + b"\n" + output
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()
        if self.until and os.access(self.until, os.F_OK):
            threading.Timer(0.2, os._exit, (0,)).start()

    def log_message(self, format: str, *args: object) -> None:
        pass


def run(command: "list[str]", stdin: bytes, timeout: float) -> "tuple[dict[str, object], bytes]":
    """The command has ended when its process has; its session is killed after ``timeout``."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        timed_out = False
        try:
            process = subprocess.Popen(command, stdin=given, stdout=out, stderr=err, start_new_session=True, cwd="/")
        except OSError as error:
            return {"exit_code": 127, "timed_out": False, "stdout": 0}, str(error).encode()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        streams = []
        for stream in (out, err):
            stream.seek(0)
            streams.append(stream.read(MAX_BODY))
    code = 128 - code if code < 0 else code
    return {"exit_code": code, "timed_out": timed_out, "stdout": len(streams[0])}, b"".join(streams)


def main() -> None:
    Handler.token = os.environ.pop("LIVERL_AGENT_TOKEN")
    Handler.until = os.environ.pop("LIVERL_AGENT_UNTIL", "")
    life = threading.Timer(float(os.environ.pop("LIVERL_AGENT_TTL")), os._exit, (0,))
    life.daemon = True
    life.start()
    address = (os.environ.pop("LIVERL_AGENT_HOST", "0.0.0.0"), int(os.environ.pop("LIVERL_AGENT_PORT")))
    server = http.server.ThreadingHTTPServer(address, Handler)
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    server.serve_forever()


if __name__ == "__main__":
    main()
