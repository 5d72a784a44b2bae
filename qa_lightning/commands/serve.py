"""python -m qa_lightning serve: answer over HTTP, with a page for the browser."""

import logging
import os
import socket
from contextlib import suppress
from importlib.util import find_spec

from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt, restricted_number_type

from qa_lightning.commands.parser import CommandParser, add_model_options, load_answerer
from qa_lightning.data.window_settings import EVAL_BATCH_SIZE
from qa_lightning.errors import UserError
from qa_lightning.inference.defaults import MAX_BATCH, MAX_WAIT, MAX_WAITING, Limits

EXAMPLES = """\
examples:
  python -m qa_lightning serve lightning_logs/version_0
  python -m qa_lightning serve MODEL --port 8080 --max_context 20000
  curl http://127.0.0.1:8000/answer -H 'Content-Type: application/json' \\
      -d '{"question": "Who wrote it?", "context": "It was Ada Lovelace."}'
"""

Port = restricted_number_type("Port", int, [(">=", 0), ("<=", 65535)])
Milliseconds = restricted_number_type("Milliseconds", float, [(">=", 0), ("<=", 1000)])


def run(arguments: list[str]) -> int:
    """Run the command until it is interrupted; returns the exit status."""
    options = _parser().parse_args(arguments)
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(f"serve needs {' and '.join(missing)}: pip install 'qa-lightning[serve]'")
    # Taken before the model is loaded: a port in use is reported at once. getaddrinfo takes no
    # subclass of int, such as Port.
    with _listen(options.host, int(options.port)) as listener:
        _serve(listener, options)
    return 0


def _serve(listener: socket.socket, options: Namespace) -> None:
    from qa_lightning.inference.batcher import Batcher
    from qa_lightning.inference.server import Server
    from qa_lightning.inference.service import create_app
    from qa_lightning.model.hardware import best_device

    # On a CPU, windows answered together take half the time in small batches, sorted by length,
    # that they take padded to the longest.
    on_cpu = (options.device or best_device()).startswith("cpu")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("qa_lightning.model").setLevel(logging.INFO)  # the precision chosen
    answerer = load_answerer(options, batch_size=8 if on_cpu else EVAL_BATCH_SIZE)
    limits = Limits(body=options.max_body, context=options.max_context)
    with Batcher(
        answerer,
        max_batch=options.max_batch,
        max_wait=options.max_wait_ms / 1000,
        max_waiting=options.max_waiting,
    ) as batcher:
        app = create_app(batcher, limits, [options.host, *options.allow_host])
        print(f"Answering at {_address(listener)} (Ctrl-C ends)", flush=True)
        with suppress(KeyboardInterrupt):  # uvicorn passes it on once all is closed
            Server(app, batcher.stop).run(sockets=[listener])


def _parser() -> CommandParser:
    parser = CommandParser(
        "serve",
        "Answer questions over HTTP, with a page for the browser. Only this machine can reach it, "
        "unless --host says otherwise; whoever can reach it may ask.",
        EXAMPLES,
    )
    parser.add_argument(
        "--allow_host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which clients call this machine, besides localhost and IP addresses; may "
        "be given several times",
    )
    for name, kind, default, metavar, meaning in (
        ("host", str, "127.0.0.1", "HOST", "where to listen; 0.0.0.0 lets the whole network ask"),
        ("port", Port, 8000, "N", "0 takes one that is free"),
        ("max_body", PositiveInt, Limits.body, "BYTES", "longest body of a request"),
        ("max_context", PositiveInt, Limits.context, "CHARACTERS", "longest context"),
        ("max_batch", PositiveInt, MAX_BATCH, "N", "questions together at most; 1: one at a time"),
        ("max_waiting", PositiveInt, MAX_WAITING, "N", "how many may wait; others get status 503"),
        ("max_wait_ms", Milliseconds, 1000 * MAX_WAIT, "MS", "time to wait for other questions"),
    ):
        option = f"--{name}"
        parser.add_argument(option, type=kind, default=default, metavar=metavar, help=meaning)
    add_model_options(parser)
    return parser


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens; clients that come before the model is loaded wait in its queue."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: there is no such address ({error})") from error
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}, port {port}: {os.strerror(error.errno or 0)}. "
            "Choose another --port; 0 takes one that is free"
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
