"""The server's process: the port, the model, and graceful shutdown."""

import errno
import signal
import socket
import sys
from pathlib import Path

from mbkd.errors import UserError
from mbkd.serve.requests import Limits

# Maximum tokens of a batch, with padding. Larger batches have more padding, which costs time on a CPU
# (docs/measurements.md).
BATCH_TOKENS = {"cpu": 1024, "accelerator": 8192}
ENGINES = {"torch": None, "onnx": "fp32", "onnx-int8": "int8"}  # engine -> precision of the ONNX graph
LAST_SECONDS = 25  # for pending requests at shutdown; Kubernetes kills the process after 30


def serve(model: Path, host: str, port: int, batch_tokens: int | None, limits: Limits, engine: str = "torch") -> None:
    """Print the address, then serve a model until SIGTERM or Ctrl-C. Raises UserError.

    engine: a key of ENGINES; ONNX graphs run on the CPU.
    """
    if engine not in ENGINES:
        raise UserError(f"--engine {engine}: use one of {', '.join(ENGINES)}")
    if limits.texts > limits.queue:
        raise UserError(f"--max-texts {limits.texts}: must be at most --queue {limits.queue}; change one of them")
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise UserError(f"mbkd serve needs {error.name}, which is not installed; pip install 'mbkd[serve]'") from None

    with listen(host, port) as listener:  # before loading the model, to report errors of the port at once
        from transformers import logging

        from mbkd.model import saved
        from mbkd.predict.classifier import Classifier, GraphClassifier
        from mbkd.serve.app import make_app

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        dtype = ENGINES[engine]
        classifier = Classifier(model) if dtype is None else GraphClassifier(model, dtype)
        print(classifier.calibration(), file=sys.stderr)
        classifier.probabilities(classifier.encode([("the first call is the slowest", None)]))
        kind = "cpu" if dtype is not None or saved.device().type == "cpu" else "accelerator"
        app = make_app(classifier, model.resolve().name, limits, batch_tokens or BATCH_TOKENS[kind])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=LAST_SECONDS, server_header=False)
        server = uvicorn.Server(config)

        def stop(*_: object) -> None:
            server.should_exit = True

        # uvicorn restores these handlers after its graceful shutdown and raises the signal again. With `stop`, this
        # second signal does not end the process with an error.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        place = f"[{host}]" if ":" in host else host
        print(f"http://{place}:{listener.getsockname()[1]}", flush=True)
        server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 selects a free port. Raises UserError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"--port {port}: in use on {host}; choose another with --port, or a free one with --port 0"
            ) from None
        raise UserError(f"--host {host} --port {port}: cannot listen ({error.strerror or error})") from None
